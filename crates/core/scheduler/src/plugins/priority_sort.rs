//! The more important pod is tried first.

use crate::framework::{Plugin, Point};
use crate::pod::PodInfo;

pub struct PrioritySort;

impl Plugin for PrioritySort {
    fn name(&self) -> &'static str {
        "PrioritySort"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::QueueSort]
    }

    fn queue_rank(&self, pod: &PodInfo) -> i64 {
        pod.priority.into()
    }
}
