//! What the runtime shows of a pod.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceRequirements;

/// All sandboxes and containers of one pod, the newest first.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    pub sandboxes: Vec<Sandbox>,
    pub instances: Vec<Instance>,
}

#[derive(Clone, Debug, Default)]
pub struct Sandbox {
    pub id: String,
    pub attempt: u32,
    pub ready: bool,
    pub ips: Vec<String>,
    pub created_at: Timestamp,
}

/// One container of the runtime: one life of a container of the pod.
#[derive(Clone, Debug)]
pub struct Instance {
    /// As the runtime names it, without a scheme.
    pub id: String,
    /// With the scheme, as `containerID` of a status has it.
    pub container_id: String,
    pub name: String,
    pub sandbox_id: String,
    pub attempt: u32,
    /// Of the container's definition it was made from; empty if it does not say.
    pub hash: String,
    pub state: RunState,
    pub image: String,
    pub image_id: String,
    /// What it was made with, if it says.
    pub resources: Option<ResourceRequirements>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum RunState {
    Created,
    Running { started_at: Timestamp },
    Exited { code: i32, reason: String, message: String, started_at: Timestamp, finished_at: Timestamp },
    Unknown,
}

impl Observation {
    /// The sandbox that containers belong into: the newest, if it is ready and no other is.
    pub fn current_sandbox(&self, needs_ip: NeedsIp) -> Option<&Sandbox> {
        let newest = self.sandboxes.first().filter(|sandbox| sandbox.ready)?;
        let only = self.sandboxes.iter().filter(|sandbox| sandbox.ready).count() == 1;
        let addressed = needs_ip == NeedsIp::No || !newest.ips.is_empty();
        (only && addressed).then_some(newest)
    }

    pub fn newest(&self, name: &str) -> Option<&Instance> {
        self.instances.iter().find(|instance| instance.name == name)
    }

    pub fn newest_in(&self, sandbox: &str, name: &str) -> Option<&Instance> {
        self.instances.iter().find(|instance| instance.name == name && instance.sandbox_id == sandbox)
    }

    pub fn alive(&self) -> impl Iterator<Item = &Instance> {
        self.instances.iter().filter(|instance| instance.may_run())
    }
}

/// Whether a sandbox must have an address; one in the host's network need not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeedsIp {
    Yes,
    No,
}

impl Instance {
    pub fn is_running(&self) -> bool {
        matches!(self.state, RunState::Running { .. })
    }

    /// Whether processes of it may be there.
    pub fn may_run(&self) -> bool {
        matches!(self.state, RunState::Running { .. } | RunState::Unknown)
    }

    pub fn exit_code(&self) -> Option<i32> {
        match self.state {
            RunState::Exited { code, .. } => Some(code),
            _ => None,
        }
    }

    pub fn finished_at(&self) -> Option<Timestamp> {
        match self.state {
            RunState::Exited { finished_at, .. } => Some(finished_at),
            _ => None,
        }
    }
}
