//! The resource metrics group, which metrics-server serves elsewhere: answered by measuring, never kept.

use coracle_meta::Value;

use crate::column::{Cell, Column, name};

pub mod nodemetrics;
pub mod podmetrics;

const NAME: Column = column("Name", "name", name).about("Name of the resource");
const WINDOW: Column = column("Window", "duration", |object, _| Value::string(object.str_at(&["window"])));

const fn column(name: &'static str, format: &'static str, cell: Cell) -> Column {
    Column { name, kind: "string", format, description: "", priority: 0, cell }
}
