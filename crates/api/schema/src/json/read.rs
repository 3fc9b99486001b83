//! The walk over the text, led by the type of what stands there.

use std::borrow::Cow;
use std::fmt::Write;

use compact_str::CompactString;
use coracle_meta::{Map, Value};

use super::scalar;
use super::scan::{Scanner, Start, SyntaxError};
use super::{Empty, ReadError, Reading, Unknown};
use crate::model::{AnyForm, Field, Presence, Schema, Shape, Type, TypeId, UnknownMembers};

/// How many unknown and duplicate fields are told of.
const NOTES_MAX: usize = 100;

pub struct Reader<'s, 'a> {
    schema: &'s Schema,
    scanner: Scanner<'a>,
    how: Reading,
    notes: Vec<String>,
    /// The first wrong type. Reading goes on behind it, because an error of syntax counts for more.
    failed: Option<String>,
}

/// The way from the body to a value, kept on the stack.
#[derive(Clone, Copy)]
struct Path<'p> {
    parent: Option<&'p Path<'p>>,
    step: Step<'p>,
}

#[derive(Clone, Copy)]
enum Step<'p> {
    Root,
    Field(&'p Type, &'p str),
    Key(&'p str),
    Index(usize),
}

type Scan<T> = Result<T, SyntaxError>;

impl<'s, 'a> Reader<'s, 'a> {
    pub fn new(schema: &'s Schema, text: &'a str, how: Reading) -> Reader<'s, 'a> {
        Reader { schema, scanner: Scanner::new(text), how, notes: Vec::new(), failed: None }
    }

    /// The body's value and the notes on unknown and duplicate fields.
    pub fn read(mut self, id: TypeId) -> Result<(Value, Vec<String>), ReadError> {
        let root = Path { parent: None, step: Step::Root };
        let value = self.value(&Shape::Message(id), &root)?;
        self.scanner.end()?;
        match self.failed {
            Some(text) => Err(ReadError::Type(text)),
            None => Ok((value.unwrap_or_else(Value::map), self.notes)),
        }
    }

    /// A value of this shape; `None` where null stands or, with the failure noted, something of another type.
    fn value(&mut self, shape: &Shape, at: &Path<'_>) -> Scan<Option<Value>> {
        let start = self.scanner.start()?;
        if start == Start::Null {
            self.scanner.literal("null")?;
            return Ok(None);
        }
        match (shape, start) {
            (Shape::Message(id), Start::Map) => self.message(*id, at).map(Some),
            (Shape::List(element), Start::List) => self.list(element, at).map(Some),
            (Shape::Map(element), Start::Map) => self.map(element, at).map(Some),
            (Shape::Any(form), _) => self.form(*form, start, at),
            (Shape::Bool, Start::True | Start::False) => self.any(start).map(Some),
            (Shape::String | Shape::Duration, Start::String) => {
                Ok(Some(Value::String(CompactString::from(self.scanner.string()?))))
            }
            (Shape::Int32 | Shape::Int64 | Shape::Float, Start::Number) => self.number(shape, at),
            (Shape::IntOrString, Start::Number | Start::String) => self.int_or_string(start),
            (Shape::Quantity, Start::Number | Start::String) => {
                let text = if start == Start::String { self.scanner.string()? } else { self.scanner.number()?.into() };
                Ok(self.checked(scalar::quantity(&text)))
            }
            (Shape::Time | Shape::MicroTime | Shape::Bytes, Start::String) => {
                let text = self.scanner.string()?;
                Ok(self.checked(match shape {
                    Shape::Time => scalar::time(text),
                    Shape::MicroTime => scalar::micro_time(text),
                    _ => scalar::bytes(text),
                }))
            }
            _ => self.mismatch(shape, start, at),
        }
    }

    fn message(&mut self, id: TypeId, at: &Path<'_>) -> Scan<Value> {
        let made = self.schema.get(id);
        let (mut map, mut first, mut seen) = (Map::default(), true, Seen::default());
        self.scanner.open()?;
        while let Some(key) = self.scanner.next_key(&mut first)? {
            let Some(position) = made.position(&key) else {
                self.unknown(made, &mut map, &key, at)?;
                continue;
            };
            let field = &made.fields()[position];
            let path = Path { parent: Some(at), step: Step::Field(made, &field.name) };
            let value = self.value(&field.shape, &path)?;
            let twice = seen.twice(position);
            if twice {
                self.note("duplicate", &path);
                map.remove(&field.name);
            }
            if let Some(value) = self.kept(field, value) {
                map.push(field.name.clone(), value);
            }
        }
        Ok(Value::Map(map))
    }

    /// What becomes of a field's value where Go's struct could not tell it from none.
    fn kept(&self, field: &Field, value: Option<Value>) -> Option<Value> {
        match (value, field.presence) {
            (None, Presence::Nullable) => Some(Value::Null),
            (Some(value), Presence::NotEmpty) if self.how.empty == Empty::Drop && value.is_empty() => None,
            (value, _) => value,
        }
    }

    fn unknown(&mut self, made: &Type, map: &mut Map, key: &str, at: &Path<'_>) -> Scan<()> {
        if made.unknown == UnknownMembers::Prune {
            self.note("unknown", &Path { parent: Some(at), step: Step::Key(key) });
            return self.scanner.skip();
        }
        let start = self.scanner.start()?;
        let value = self.any(start)?;
        if map.insert(key, value).is_some() {
            self.note("duplicate", &Path { parent: Some(at), step: Step::Key(key) });
        }
        Ok(())
    }

    /// Null among the elements is the element's zero value.
    fn list(&mut self, element: &Shape, at: &Path<'_>) -> Scan<Value> {
        let (mut items, mut first) = (Vec::new(), true);
        self.scanner.open()?;
        while self.scanner.next_element(&mut first)? {
            let path = Path { parent: Some(at), step: Step::Index(items.len()) };
            let value = self.value(element, &path)?;
            items.push(value.unwrap_or_else(|| scalar::zero(element)));
        }
        Ok(Value::List(items))
    }

    fn map(&mut self, element: &Shape, at: &Path<'_>) -> Scan<Value> {
        let (mut map, mut first) = (Map::default(), true);
        self.scanner.open()?;
        while let Some(key) = self.scanner.next_key(&mut first)? {
            let path = Path { parent: Some(at), step: Step::Key(&key) };
            let value = self.value(element, &path)?.unwrap_or_else(|| scalar::zero(element));
            if map.insert(&key, value).is_some() {
                self.note("duplicate", &path);
            }
        }
        Ok(Value::Map(map))
    }

    /// Free JSON, or the schema that stands where a shorter form is allowed too.
    fn form(&mut self, form: AnyForm, start: Start, at: &Path<'_>) -> Scan<Option<Value>> {
        match (form, start) {
            (AnyForm::SchemaOrBool(id) | AnyForm::SchemaOrArray(id) | AnyForm::SchemaOrStrings(id), Start::Map) => {
                self.message(id, at).map(Some)
            }
            (AnyForm::SchemaOrArray(id), Start::List) => self.list(&Shape::Message(id), at).map(Some),
            (AnyForm::SchemaOrStrings(_), Start::List) => self.list(&Shape::String, at).map(Some),
            (AnyForm::Raw, _) | (AnyForm::SchemaOrBool(_), Start::True | Start::False) => self.any(start).map(Some),
            (AnyForm::SchemaOrBool(_), _) => {
                self.scanner.skip()?;
                self.fail("boolean or JSON schema expected".into());
                Ok(None)
            }
            _ => self.scanner.skip().map(|()| None),
        }
    }

    /// Any JSON; of members of one name the last counts.
    fn any(&mut self, start: Start) -> Scan<Value> {
        let mut first = true;
        Ok(match start {
            Start::Map => {
                let mut map = Map::default();
                self.scanner.open()?;
                while let Some(key) = self.scanner.next_key(&mut first)? {
                    let start = self.scanner.start()?;
                    let value = self.any(start)?;
                    map.insert(key, value);
                }
                Value::Map(map)
            }
            Start::List => {
                let mut items = Vec::new();
                self.scanner.open()?;
                while self.scanner.next_element(&mut first)? {
                    let start = self.scanner.start()?;
                    items.push(self.any(start)?);
                }
                Value::List(items)
            }
            Start::String => Value::String(CompactString::from(self.scanner.string()?)),
            Start::Number => scalar::any_number(self.scanner.number()?),
            Start::True => self.scanner.literal("true").map(|()| Value::Bool(true))?,
            Start::False => self.scanner.literal("false").map(|()| Value::Bool(false))?,
            Start::Null => self.scanner.literal("null").map(|()| Value::Null)?,
        })
    }

    fn number(&mut self, shape: &Shape, at: &Path<'_>) -> Scan<Option<Value>> {
        let text = self.scanner.number()?;
        let value = match shape {
            Shape::Int32 => text.parse::<i32>().ok().map(Value::from),
            Shape::Int64 => text.parse::<i64>().ok().map(Value::from),
            _ => Some(scalar::any_number(text)),
        };
        if value.is_none() {
            let error = self.unmarshal(&format!("number {text}"), shape, at);
            self.fail(error);
        }
        Ok(value)
    }

    fn int_or_string(&mut self, start: Start) -> Scan<Option<Value>> {
        if start == Start::String {
            return Ok(Some(Value::String(CompactString::from(self.scanner.string()?))));
        }
        let text = self.scanner.number()?;
        let whole = text.parse::<i32>().map(Value::from);
        let error = || format!("json: cannot unmarshal number {text} into Go value of type int32");
        Ok(self.checked(whole.map_err(|_| error())))
    }

    fn checked(&mut self, value: Result<Value, String>) -> Option<Value> {
        value.map_err(|error| self.fail(error)).ok()
    }

    fn mismatch(&mut self, shape: &Shape, start: Start, at: &Path<'_>) -> Scan<Option<Value>> {
        let found = match start {
            Start::Map => "object",
            Start::List => "array",
            Start::String => "string",
            Start::Number => "number",
            _ => "bool",
        };
        let error = match shape {
            Shape::Quantity => scalar::QUANTITY_ERROR.into(),
            Shape::Time | Shape::MicroTime => format!("json: cannot unmarshal {found} into Go value of type string"),
            Shape::IntOrString => format!("json: cannot unmarshal {found} into Go value of type int32"),
            _ => self.unmarshal(found, shape, at),
        };
        self.fail(error);
        self.scanner.skip().map(|()| None)
    }

    /// Go's text for a value that does not fit the field at the end of the path.
    fn unmarshal(&self, found: &str, shape: &Shape, at: &Path<'_>) -> String {
        let wanted = scalar::go_type(self.schema, shape);
        match at.struct_field() {
            Some((owner, path)) => {
                format!("json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {wanted}")
            }
            None => format!("json: cannot unmarshal {found} into Go value of type {wanted}"),
        }
    }

    fn fail(&mut self, error: String) {
        self.failed.get_or_insert(error);
    }

    fn note(&mut self, what: &str, path: &Path<'_>) {
        if self.how.unknown == Unknown::Ignore || self.notes.len() >= NOTES_MAX {
            return;
        }
        let note = format!("{what} field \"{}\"", path.shown());
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

impl Path<'_> {
    /// `spec.containers[0].image`.
    fn shown(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        if let Some(parent) = self.parent {
            parent.write(out);
        }
        match self.step {
            Step::Root => {}
            Step::Field(_, name) | Step::Key(name) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(name);
            }
            Step::Index(index) => drop(write!(out, "[{index}]")),
        }
    }

    /// The innermost struct and the names of the fields that lead to the value, as Go keeps them: without the indexes
    /// of lists and the keys of maps.
    fn struct_field(&self) -> Option<(&str, String)> {
        let mut owner = None;
        let mut names = Vec::new();
        let mut next = Some(self);
        while let Some(path) = next {
            if let Step::Field(made, name) = path.step {
                owner.get_or_insert(made.short_name());
                names.push(name);
            }
            next = path.parent;
        }
        names.reverse();
        owner.map(|owner| (owner, names.join(".")))
    }
}

/// Which of a message's fields were met; types with more than 256 fields do not exist.
#[derive(Default)]
struct Seen([u128; 2]);

impl Seen {
    /// Marks the field and tells whether it was marked before.
    fn twice(&mut self, position: usize) -> bool {
        let (word, bit) = (position / 128 % 2, 1 << (position % 128));
        let before = self.0[word] & bit != 0;
        self.0[word] |= bit;
        before
    }
}

/// What Go calls the type that it reads these two into.
const TYPE_META: &str =
    r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;

/// See [`super::read_type_meta`].
pub fn type_meta(text: &str) -> Result<(String, String), ReadError> {
    let mut scanner = Scanner::new(text);
    let mut found = (String::new(), String::new());
    let shown = |start| match start {
        Start::List => "array",
        Start::String => "string",
        Start::Number => "number",
        _ => "bool",
    };
    match scanner.start()? {
        Start::Map => scanner.open()?,
        other => {
            scanner.skip()?;
            let text = format!("json: cannot unmarshal {} into Go value of type {TYPE_META}", shown(other));
            return Err(ReadError::Type(format!("couldn't get version/kind; json parse error: {text}")));
        }
    }
    let mut first = true;
    while let Some(key) = scanner.next_key(&mut first)? {
        let place = match key.as_ref() {
            "apiVersion" => &mut found.0,
            "kind" => &mut found.1,
            _ => {
                scanner.skip()?;
                continue;
            }
        };
        match scanner.start()? {
            Start::String => *place = scanner.string().map(Cow::into_owned)?,
            _ => scanner.skip()?,
        }
    }
    scanner.end()?;
    Ok(found)
}
