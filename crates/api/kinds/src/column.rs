//! Columns of tables, the default `kubectl get`: a heading and the function that fills a cell. Source of headings,
//! order and wording of cells: Kubernetes `pkg/printers/internalversion`.

use coracle_meta::{LabelSelector, Value, time};
use jiff::Timestamp;

/// A column. Columns of priority 1 are shown by `-o wide` only; every row carries them.
#[derive(Clone, Copy)]
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer`, `boolean` or `date`.
    pub kind: &'static str,
    /// `name` for the column that names the object.
    pub format: &'static str,
    pub description: &'static str,
    pub priority: i32,
    pub cell: Cell,
}

/// The value of a cell, given the object and the time.
pub type Cell = fn(&Value, Timestamp) -> Value;

const fn column(name: &'static str, kind: &'static str, cell: Cell) -> Column {
    Column { name, kind, format: "", description: "", priority: 0, cell }
}

pub const fn text(name: &'static str, cell: Cell) -> Column {
    column(name, "string", cell)
}

pub const fn integer(name: &'static str, cell: Cell) -> Column {
    column(name, "integer", cell)
}

/// A number whose column is declared as text, as some of upstream's are.
pub const fn counted(name: &'static str, cell: Cell) -> Column {
    column(name, "string", cell)
}

pub const fn boolean(name: &'static str, cell: Cell) -> Column {
    column(name, "boolean", cell)
}

impl Column {
    pub const fn wide(mut self) -> Column {
        self.priority = 1;
        self
    }

    pub const fn named(mut self) -> Column {
        self.format = "name";
        self
    }

    pub const fn about(mut self, description: &'static str) -> Column {
        self.description = description;
        self
    }
}

pub const NAME: Column = text("Name", name).named().about("The name of the object, unique within its namespace.");
pub const AGE: Column = text("Age", age).about("How long ago the object was created.");

pub const CREATED: Column = Column {
    name: "Created At",
    kind: "date",
    format: "",
    description: "When the object was created.",
    priority: 0,
    cell: |object, _| Value::string(object.str_at(&["metadata", "creationTimestamp"])),
};

/// What a kind without columns of its own shows.
pub const STANDARD: &[Column] = &[NAME, CREATED];
pub const NAME_AND_AGE: &[Column] = &[NAME, AGE];

pub fn name(object: &Value, _: Timestamp) -> Value {
    Value::string(object.str_at(&["metadata", "name"]))
}

fn age(object: &Value, now: Timestamp) -> Value {
    since(object.at(&["metadata", "creationTimestamp"]), now).into()
}

/// How long ago a time was, `<unknown>` where there is none.
pub fn since(at: &Value, now: Timestamp) -> String {
    match at.as_str().and_then(time::parse) {
        Some(at) => time::human_duration(now.as_second() - at.as_second()),
        None => "<unknown>".into(),
    }
}

/// The string below `path`, or what stands for none.
pub fn string_or(object: &Value, path: &[&str], none: &str) -> Value {
    match object.str_at(path) {
        "" => Value::string(none),
        text => Value::string(text),
    }
}

/// The integer below `path`, or 0.
pub fn number(object: &Value, path: &[&str]) -> Value {
    object.int_at(path).unwrap_or_default().into()
}

/// How many items the list below `path` has.
pub fn count(object: &Value, path: &[&str]) -> Value {
    Value::Int(object.list_at(path).len() as i64)
}

/// `a=1,b=2` in order of keys, `<none>` for none.
pub fn labels(labels: &Value) -> String {
    let mut pairs: Vec<String> =
        labels.entries_at(&[]).map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    pairs.sort();
    if pairs.is_empty() { "<none>".into() } else { pairs.join(",") }
}

/// A `LabelSelector` as text, `<none>` for one that selects everything or nothing, `<error>` for one that cannot be read.
pub fn selector(selector: &Value) -> String {
    match LabelSelector::from_value(selector) {
        Ok(selector) if selector.requirements().is_empty() => "<none>".into(),
        Ok(selector) => selector.to_string(),
        Err(_) => "<error>".into(),
    }
}

/// One member of every item of a list, joined by commas: names or images of containers.
pub fn joined(items: &[Value], member: &str) -> String {
    items.iter().map(|item| item.str_at(&[member])).collect::<Vec<_>>().join(",")
}

/// The first three, and how many more; `<unset>` for none.
pub fn first_three(items: &[String]) -> String {
    match items {
        [] => "<unset>".into(),
        [a, b, c, more @ ..] if !more.is_empty() => format!("{a},{b},{c} + {} more...", more.len()),
        few => few.join(","),
    }
}
