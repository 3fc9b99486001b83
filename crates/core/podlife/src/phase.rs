//! The phase of a pod, from the statuses of its containers.

use k8s_openapi::api::core::v1::{Container, ContainerState, ContainerStateTerminated, ContainerStatus, PodSpec};

use crate::containers::{init_containers, is_sidecar};
use crate::policy::restarts_after;

#[derive(Default)]
struct Tally {
    pending_init: usize,
    pending_sidecars: usize,
    hopeless_init: usize,
    unknown: usize,
    running: usize,
    waiting: usize,
    stopped: usize,
    stopped_for_good: usize,
    succeeded: usize,
}

/// Whether the pod as a whole is over: nothing will be started again, whatever the policy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    Living,
    Ended,
}

pub(crate) fn phase(spec: &PodSpec, statuses: &[ContainerStatus], course: Course, initialized: bool) -> &'static str {
    let mut tally = Tally::default();
    for container in init_containers(spec) {
        let status = statuses.iter().find(|status| status.name == container.name);
        match is_sidecar(container) {
            true => tally.sidecar(status),
            false => tally.init(container, spec, status),
        }
    }
    for container in &spec.containers {
        tally.regular(container, spec, statuses.iter().find(|status| status.name == container.name));
    }
    tally.phase(course, initialized)
}

impl Tally {
    fn init(&mut self, container: &Container, spec: &PodSpec, status: Option<&ContainerStatus>) {
        match ended(status) {
            Some(end) if end.exit_code == 0 && state(status).is_some_and(|state| state.terminated.is_some()) => {}
            Some(end) if end.exit_code != 0 && state(status).is_some_and(|state| state.running.is_none()) => {
                match restarts_after(container, spec, end.exit_code) {
                    true => self.pending_init += 1,
                    false => self.hopeless_init += 1,
                }
            }
            _ => self.pending_init += 1,
        }
    }

    fn sidecar(&mut self, status: Option<&ContainerStatus>) {
        let Some(now) = state(status) else {
            self.unknown += 1;
            return;
        };
        if now.running.is_some() {
            self.running += 1;
            if status.and_then(|status| status.started) != Some(true) {
                self.pending_sidecars += 1;
            }
        } else if now.terminated.is_none() && ended(status).is_none() {
            self.pending_sidecars += 1;
            self.waiting += 1;
        }
    }

    fn regular(&mut self, container: &Container, spec: &PodSpec, status: Option<&ContainerStatus>) {
        let Some(now) = state(status) else {
            self.unknown += 1;
            return;
        };
        if now.running.is_some() {
            self.running += 1;
            return;
        }
        let Some(end) = ended(status) else {
            self.waiting += 1;
            return;
        };
        self.stopped += 1;
        if !restarts_after(container, spec, end.exit_code) {
            self.stopped_for_good += 1;
        }
        if now.terminated.is_some() && end.exit_code == 0 {
            self.succeeded += 1;
        }
    }

    fn phase(&self, course: Course, initialized: bool) -> &'static str {
        if self.hopeless_init > 0 {
            return "Failed";
        }
        let initializing = self.pending_init > 0 || (self.pending_sidecars > 0 && !initialized);
        if initializing || self.waiting > 0 || self.unknown > 0 {
            return "Pending";
        }
        if self.running > 0 {
            return "Running";
        }
        match () {
            () if self.stopped == 0 => "Pending",
            () if course == Course::Living && self.stopped != self.stopped_for_good => "Running",
            () if self.stopped == self.succeeded => "Succeeded",
            () => "Failed",
        }
    }
}

fn state(status: Option<&ContainerStatus>) -> Option<&ContainerState> {
    status?.state.as_ref()
}

/// The end of the container: of its present life, or of the one before while it waits.
fn ended(status: Option<&ContainerStatus>) -> Option<&ContainerStateTerminated> {
    let now = state(status)?;
    now.terminated.as_ref().or_else(|| match now.running {
        Some(_) => None,
        None => status?.last_state.as_ref()?.terminated.as_ref(),
    })
}
