//! A pod waits until its scheduling gates are lifted.

use crate::framework::{Change, Kind, Plugin, Point, Status};
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

pub struct SchedulingGates;

impl Plugin for SchedulingGates {
    fn name(&self) -> &'static str {
        "SchedulingGates"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreEnqueue]
    }

    fn pre_enqueue(&self, pod: &PodInfo, _: &Snapshot) -> Option<Status> {
        let gates = pod.gates().join(" ");
        (!gates.is_empty()).then(|| Status::lasting(format!("waiting for scheduling gates: [{gates}]")))
    }

    fn wakes(&self) -> &'static [Kind] {
        &[Kind::PodUpdated]
    }

    fn hint(&self, pod: &PodInfo, change: &Change) -> bool {
        matches!(change, Change::PodUpdated { new, .. } if new.uid == pod.uid && new.gates().is_empty())
    }
}
