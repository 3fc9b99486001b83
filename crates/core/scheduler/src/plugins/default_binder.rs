//! A pod is bound by the API's Binding.

use crate::framework::{Plugin, Point};

pub struct DefaultBinder;

impl Plugin for DefaultBinder {
    fn name(&self) -> &'static str {
        "DefaultBinder"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::Bind]
    }

    fn binds(&self) -> bool {
        true
    }
}
