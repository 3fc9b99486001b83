//! What is wrong with an object, field by field: paths, the kinds of error and their wording, and the list that
//! validators fill. Source of the wording: Kubernetes `apimachinery/pkg/util/validation/field`.

use std::collections::BTreeSet;
use std::fmt;

use crate::Value;

/// Where a field is, as a chain of borrowed steps: walking down costs nothing, only an error pays for the text.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Name(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// A path at the root of an object; `name` may hold several steps joined by dots.
    pub const fn new(name: &'a str) -> Path<'a> {
        Path { parent: None, step: Step::Name(name) }
    }

    /// A member; `name` may hold several steps joined by dots.
    pub const fn child<'b>(&'b self, name: &'b str) -> Path<'b> {
        Path { parent: Some(self), step: Step::Name(name) }
    }

    /// An item of a list.
    pub const fn index(&self, index: usize) -> Path<'_> {
        Path { parent: Some(self), step: Step::Index(index) }
    }

    /// A member of a map whose keys are data.
    pub const fn key<'b>(&'b self, key: &'b str) -> Path<'b> {
        Path { parent: Some(self), step: Step::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(formatter)?;
        }
        match self.step {
            Step::Name(name) if self.parent.is_none() => formatter.write_str(name),
            Step::Name(name) => write!(formatter, ".{name}"),
            Step::Index(index) => write!(formatter, "[{index}]"),
            Step::Key(key) => write!(formatter, "[{key}]"),
        }
    }
}

/// What kind of mistake it is; `reason` is what a `Status` cause carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorType {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    TooFew,
    TooShort,
    TypeInvalid,
    Internal,
}

impl ErrorType {
    pub fn reason(self) -> &'static str {
        match self {
            ErrorType::NotFound => "FieldValueNotFound",
            ErrorType::Required => "FieldValueRequired",
            ErrorType::Duplicate => "FieldValueDuplicate",
            ErrorType::Invalid => "FieldValueInvalid",
            ErrorType::NotSupported => "FieldValueNotSupported",
            ErrorType::Forbidden => "FieldValueForbidden",
            ErrorType::TooLong => "FieldValueTooLong",
            ErrorType::TooMany => "FieldValueTooMany",
            ErrorType::TooFew => "FieldValueTooFew",
            ErrorType::TooShort => "FieldValueTooShort",
            ErrorType::TypeInvalid => "FieldValueTypeInvalid",
            ErrorType::Internal => "InternalError",
        }
    }

    fn text(self) -> &'static str {
        match self {
            ErrorType::NotFound => "Not found",
            ErrorType::Required => "Required value",
            ErrorType::Duplicate => "Duplicate value",
            ErrorType::Invalid | ErrorType::TypeInvalid => "Invalid value",
            ErrorType::NotSupported => "Unsupported value",
            ErrorType::Forbidden => "Forbidden",
            ErrorType::TooLong => "Too long",
            ErrorType::TooMany => "Too many",
            ErrorType::TooFew => "Too few",
            ErrorType::TooShort => "Too short",
            ErrorType::Internal => "Internal error",
        }
    }
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub kind: ErrorType,
    pub field: String,
    /// The offending value as it is shown; `None` where the kind of error shows none.
    pub value: Option<String>,
    pub detail: String,
}

impl FieldError {
    /// Without the field: `Invalid value: -1: must be …`.
    pub fn body(&self) -> String {
        let mut body = self.kind.text().to_owned();
        for part in self.value.iter().map(String::as_str).chain([self.detail.as_str()]) {
            if !part.is_empty() {
                body.push_str(": ");
                body.push_str(part);
            }
        }
        body
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.field, self.body())
    }
}

/// A value as an error shows it.
pub trait Shown {
    fn show(&self) -> String;
}

impl Shown for str {
    fn show(&self) -> String {
        quote(self)
    }
}

impl Shown for String {
    fn show(&self) -> String {
        quote(self)
    }
}

impl Shown for i64 {
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Shown for bool {
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Shown for Value {
    fn show(&self) -> String {
        match self {
            Value::String(text) => quote(text),
            other => String::from_utf8(other.to_json()).expect("JSON is text"),
        }
    }
}

impl<T: Shown + ?Sized> Shown for &T {
    fn show(&self) -> String {
        (**self).show()
    }
}

/// All mistakes of one object, in the order they were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorList {
    pub errors: Vec<FieldError>,
}

impl ErrorList {
    pub fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    pub fn len(&self) -> usize {
        self.errors.len()
    }

    fn add(&mut self, kind: ErrorType, path: &Path<'_>, value: Option<String>, detail: impl Into<String>) {
        self.errors.push(FieldError { kind, field: path.to_string(), value, detail: detail.into() });
    }

    pub fn not_found(&mut self, path: &Path<'_>, value: impl Shown) {
        self.add(ErrorType::NotFound, path, Some(value.show()), "");
    }

    pub fn required(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.add(ErrorType::Required, path, None, detail);
    }

    pub fn duplicate(&mut self, path: &Path<'_>, value: impl Shown) {
        self.add(ErrorType::Duplicate, path, Some(value.show()), "");
    }

    pub fn invalid(&mut self, path: &Path<'_>, value: impl Shown, detail: impl Into<String>) {
        self.add(ErrorType::Invalid, path, Some(value.show()), detail);
    }

    /// One error for each message: what the checks in `names` return.
    pub fn invalid_each(&mut self, path: &Path<'_>, value: impl Shown, messages: Vec<String>) {
        for message in messages {
            self.invalid(path, &value, message);
        }
    }

    pub fn type_invalid(&mut self, path: &Path<'_>, value: impl Shown, detail: impl Into<String>) {
        self.add(ErrorType::TypeInvalid, path, Some(value.show()), detail);
    }

    pub fn not_supported(&mut self, path: &Path<'_>, value: impl Shown, supported: &[&str]) {
        let quoted: Vec<String> = supported.iter().map(|value| quote(value)).collect();
        let detail = if quoted.is_empty() { String::new() } else { format!("supported values: {}", quoted.join(", ")) };
        self.add(ErrorType::NotSupported, path, Some(value.show()), detail);
    }

    pub fn forbidden(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.add(ErrorType::Forbidden, path, None, detail);
    }

    pub fn too_long(&mut self, path: &Path<'_>, length_max: usize) {
        let unit = if length_max == 1 { "byte" } else { "bytes" };
        self.add(ErrorType::TooLong, path, None, format!("may not be more than {length_max} {unit}"));
    }

    pub fn too_many(&mut self, path: &Path<'_>, count: usize, count_max: usize) {
        let unit = if count_max == 1 { "item" } else { "items" };
        let detail = format!("must have at most {count_max} {unit}");
        self.add(ErrorType::TooMany, path, Some(count.to_string()), detail);
    }

    pub fn internal(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.add(ErrorType::Internal, path, None, detail);
    }
}

/// As a message shows it: repeated errors once, several in brackets.
impl fmt::Display for ErrorList {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut seen = BTreeSet::new();
        let texts: Vec<String> =
            self.errors.iter().map(FieldError::to_string).filter(|text| seen.insert(text.clone())).collect();
        match texts.as_slice() {
            [one] => formatter.write_str(one),
            many => write!(formatter, "[{}]", many.join(", ")),
        }
    }
}

/// A string in double quotes, escaped as Go's `%q` does.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0b' => out.push_str("\\v"),
            '\x0c' => out.push_str("\\f"),
            control if (control as u32) < 0x20 || control as u32 == 0x7f => {
                out.push_str(&format!("\\x{:02x}", control as u32));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_upstream_words_them() {
        let mut errors = ErrorList::default();
        let spec = Path::new("spec");
        let ports = spec.child("ports");
        errors.invalid(&spec.child("replicas"), -1i64, "must be greater than or equal to 0");
        errors.required(&ports.index(0).child("name"), "");
        errors.not_supported(&ports.index(1).child("protocol"), "X", &["TCP", "UDP"]);
        errors.too_long(&spec.key("a.b"), 1);
        errors.too_many(&ports, 3, 2);
        let texts: Vec<String> = errors.errors.iter().map(FieldError::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                "spec.ports[0].name: Required value",
                "spec.ports[1].protocol: Unsupported value: \"X\": supported values: \"TCP\", \"UDP\"",
                "spec[a.b]: Too long: may not be more than 1 byte",
                "spec.ports: Too many: 3: must have at most 2 items",
            ]
        );
    }

    #[test]
    fn several_errors_stand_in_brackets_and_repetitions_once() {
        let mut errors = ErrorList::default();
        errors.required(&Path::new("a"), "");
        assert_eq!(errors.to_string(), "a: Required value");
        errors.required(&Path::new("a"), "");
        errors.required(&Path::new("b"), "why");
        assert_eq!(errors.to_string(), "[a: Required value, b: Required value: why]");
    }
}
