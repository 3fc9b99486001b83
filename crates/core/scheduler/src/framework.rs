//! What a plugin is: the extension points of kube-scheduler's framework. A plugin looks at a pod's shape once and hands
//! back checks that judge nodes; the checks are kept as long as the cluster's change log keeps them good.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::SignedDuration;

use crate::node::{NodeFacts, NodeInfo};
use crate::pod::{PodInfo, PodKey};
use crate::preemption::{Attempt, Candidate};
use crate::snapshot::Snapshot;

/// The best score a node can get from one plugin.
pub const SCORE_MAX: i64 = 100;

/// Why a pod cannot be scheduled: at all, or on a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Status {
    /// As the FailedScheduling message counts them.
    pub reasons: Vec<Cow<'static, str>>,
    /// Whether removing pods could change the answer.
    pub resolvable: bool,
}

impl Status {
    /// `Unschedulable`.
    pub fn new(reason: impl Into<Cow<'static, str>>) -> Status {
        Status { reasons: vec![reason.into()], resolvable: true }
    }

    /// `UnschedulableAndUnresolvable`: no preemption can lift it.
    pub fn lasting(reason: impl Into<Cow<'static, str>>) -> Status {
        Status { reasons: vec![reason.into()], resolvable: false }
    }
}

/// The extension points, as configuration names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    PreEnqueue,
    QueueSort,
    PreFilter,
    Filter,
    PostFilter,
    PreScore,
    Score,
    Reserve,
    Permit,
    PreBind,
    Bind,
    PostBind,
}

/// Changes of the cluster that may make a rejected pod schedulable.
#[derive(Clone, Debug)]
pub enum Change {
    NodeAdded(Arc<NodeFacts>),
    NodeUpdated {
        old: Arc<NodeFacts>,
        new: Arc<NodeFacts>,
    },
    NodeGone(Arc<NodeFacts>),
    PodPlaced(Arc<PodInfo>),
    /// A placed pod, or the waiting pod itself.
    PodUpdated {
        old: Arc<PodInfo>,
        new: Arc<PodInfo>,
    },
    PodGone(Arc<PodInfo>),
    Claim {
        namespace: String,
        name: String,
        kind: Difference,
    },
    Volume(Difference),
    Class(Difference),
    CsiNode(Difference),
    Capacity(Difference),
    Driver(Difference),
    AttachmentGone,
    ResourceClaim {
        namespace: String,
        name: String,
        kind: Difference,
    },
    /// A pod that has no node came to a group.
    MemberAdded(Arc<PodInfo>),
    /// A PodGroup, by namespace and name.
    GroupAdded(PodKey),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    Added,
    Updated,
}

impl Difference {
    /// Between what was known of an object and what is known of it now; `None` where both are the same.
    pub fn between<T: PartialEq>(was: Option<&T>, is: &T) -> Option<Difference> {
        match was {
            None => Some(Difference::Added),
            Some(was) if was == is => None,
            Some(_) => Some(Difference::Updated),
        }
    }
}

/// The kind of a change, to find the plugins that want to hear of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    NodeAdded,
    NodeUpdated,
    NodeGone,
    PodPlaced,
    PodUpdated,
    PodGone,
    Claim,
    Volume,
    Class,
    CsiNode,
    Capacity,
    Driver,
    AttachmentGone,
    ResourceClaim,
    MemberAdded,
    GroupAdded,
}

impl Change {
    pub fn kind(&self) -> Kind {
        match self {
            Change::NodeAdded(_) => Kind::NodeAdded,
            Change::NodeUpdated { .. } => Kind::NodeUpdated,
            Change::NodeGone(_) => Kind::NodeGone,
            Change::PodPlaced(_) => Kind::PodPlaced,
            Change::PodUpdated { .. } => Kind::PodUpdated,
            Change::PodGone(_) => Kind::PodGone,
            Change::Claim { .. } => Kind::Claim,
            Change::Volume(_) => Kind::Volume,
            Change::Class(_) => Kind::Class,
            Change::CsiNode(_) => Kind::CsiNode,
            Change::Capacity(_) => Kind::Capacity,
            Change::Driver(_) => Kind::Driver,
            Change::AttachmentGone => Kind::AttachmentGone,
            Change::ResourceClaim { .. } => Kind::ResourceClaim,
            Change::MemberAdded(_) => Kind::MemberAdded,
            Change::GroupAdded(_) => Kind::GroupAdded,
        }
    }

    /// The event's name in metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Change::NodeAdded(_) => "NodeAdd",
            Change::NodeUpdated { old, new } if old.allocatable != new.allocatable => "NodeUpdateNodeAllocatable",
            Change::NodeUpdated { old, new } if old.labels != new.labels => "NodeUpdateNodeLabel",
            Change::NodeUpdated { old, new } if old.taints != new.taints || old.unschedulable != new.unschedulable => {
                "NodeUpdateNodeTaint"
            }
            Change::NodeUpdated { .. } => "NodeUpdate",
            Change::NodeGone(_) => "NodeDelete",
            Change::PodPlaced(_) => "AssignedPodAdd",
            Change::PodUpdated { old, new } => pod_update(old, new),
            Change::PodGone(_) => "AssignedPodDelete",
            Change::Claim { kind: Difference::Added, .. } => "PersistentVolumeClaimAdd",
            Change::Claim { kind: Difference::Updated, .. } => "PersistentVolumeClaimUpdate",
            Change::Volume(Difference::Added) => "PersistentVolumeAdd",
            Change::Volume(Difference::Updated) => "PersistentVolumeUpdate",
            Change::Class(Difference::Added) => "StorageClassAdd",
            Change::Class(Difference::Updated) => "StorageClassUpdate",
            Change::CsiNode(Difference::Added) => "CSINodeAdd",
            Change::CsiNode(Difference::Updated) => "CSINodeUpdate",
            Change::Capacity(Difference::Added) => "CSIStorageCapacityAdd",
            Change::Capacity(Difference::Updated) => "CSIStorageCapacityUpdate",
            Change::Driver(Difference::Added) => "CSIDriverAdd",
            Change::Driver(Difference::Updated) => "CSIDriverUpdate",
            Change::AttachmentGone => "VolumeAttachmentDelete",
            Change::ResourceClaim { kind: Difference::Added, .. } => "ResourceClaimAdd",
            Change::ResourceClaim { kind: Difference::Updated, .. } => "ResourceClaimUpdate",
            Change::MemberAdded(_) => "UnschedulablePodAdd",
            Change::GroupAdded(_) => "scheduling.k8s.io/PodGroupAdd",
        }
    }
}

fn pod_update(old: &PodInfo, new: &PodInfo) -> &'static str {
    let part = if old.labels != new.labels {
        0
    } else if old.requests.shrinks_to(&new.requests) {
        1
    } else if old.tolerations.len() != new.tolerations.len() {
        2
    } else {
        3
    };
    let names = match new.node_name.is_empty() {
        true => [
            "UnschedulablePodUpdatePodLabel",
            "UnschedulablePodUpdatePodScaleDown",
            "UnschedulablePodUpdatePodToleration",
            "UnschedulablePodUpdate",
        ],
        false => [
            "AssignedPodUpdatePodLabel",
            "AssignedPodUpdatePodScaleDown",
            "AssignedPodUpdatePodToleration",
            "AssignedPodUpdate",
        ],
    };
    names[part]
}

/// What PreFilter finds.
pub enum PreFilter {
    /// Nothing of the plugin applies.
    Skip,
    Check(Box<dyn Filter>),
    /// As `Check`, by a rule that looks at more than the node.
    Wide(Box<dyn Wide>),
    /// Only nodes of these names come into question.
    Among(BTreeSet<String>, Box<dyn Filter>),
    /// No node will do.
    Reject(Status),
}

/// What PostFilter did for a pod that no node can take.
#[derive(Clone, Debug)]
pub enum PostFilter {
    /// Pods are to go; then the pod has a chance on the node.
    Made { node: String, victims: Vec<Arc<PodInfo>> },
    /// The same, for each node where it is possible.
    Candidates(Vec<Candidate>),
    /// The plugin cannot help, in the words of the message. Whether the pod keeps its nominated node.
    Helpless { message: String, nomination: Nomination },
    /// Nothing more is tried.
    Stuck { message: String },
}

/// Whoever wants it cleared is heeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nomination {
    Keep,
    Clear,
}

/// What Permit says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permit {
    Allow,
    /// Not before others of its group have nodes too. Asked of members of groups alone.
    Wait(&'static str),
    Reject(Status),
    /// It cannot be told.
    Fail(String),
}

/// A write that has to be done before a pod can be bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Point a volume to a claim.
    PromiseVolume { volume: String, namespace: String, claim: String, claim_uid: String },
    /// Tell the provisioner for which node a claim's volume is wanted.
    SelectNode { namespace: String, claim: String, node: String },
}

pub trait Plugin: Send + Sync {
    fn name(&self) -> &'static str;

    /// The points it implements, beside those that come with them.
    fn points(&self) -> &'static [Point];

    /// Labels of nodes by whose values it counts whatever pods ask.
    fn topologies(&self) -> Vec<&str> {
        Vec::new()
    }

    /// Why the pod may not enter the queue yet.
    fn pre_enqueue(&self, _pod: &PodInfo, _cluster: &Snapshot) -> Option<Status> {
        None
    }

    /// The pod with the greater rank goes first; of equals, the one that has waited longer.
    fn queue_rank(&self, _pod: &PodInfo) -> i64 {
        0
    }

    fn pre_filter(&self, _pod: &PodInfo, _cluster: &Snapshot) -> PreFilter {
        PreFilter::Skip
    }

    fn post_filter(&self, _attempt: &mut Attempt<'_>) -> Option<PostFilter> {
        None
    }

    /// What to score nodes by; `None` where nothing of the plugin applies.
    fn pre_score(&self, _pod: &PodInfo, _cluster: &Snapshot) -> Option<Box<dyn Score>> {
        None
    }

    /// Sets aside what the pod will use on the node.
    fn reserve(&self, _pod: &PodInfo, _node: &str, _cluster: &mut Snapshot) -> Result<(), Status> {
        Ok(())
    }

    fn unreserve(&self, _pod: &PodInfo, _cluster: &mut Snapshot) {}

    /// The last word before binding, when the pod counts on its node.
    fn permit(&self, _pod: &PodInfo, _node: &str, _cluster: &Snapshot) -> Permit {
        Permit::Allow
    }

    /// What has to be written first, and then shown by the cluster.
    fn pre_bind(&self, _pod: &PodInfo, _cluster: &Snapshot) -> Vec<Deed> {
        Vec::new()
    }

    /// Whether what `pre_bind` asked for has come true.
    fn is_bound(&self, _pod: &PodInfo, _cluster: &Snapshot) -> bool {
        true
    }

    /// How long that may take before the pod is tried anew.
    fn bound_within(&self) -> Option<SignedDuration> {
        None
    }

    /// Whether the pod is bound by writing a Binding.
    fn binds(&self) -> bool {
        false
    }

    fn post_bind(&self, _pod: &PodInfo, _node: &str) {}

    /// The kinds of change that may lift its rejections.
    fn wakes(&self) -> &'static [Kind] {
        &[]
    }

    /// Whether the change may lift its rejection of the pod.
    fn hint(&self, _pod: &PodInfo, _change: &Change) -> bool {
        true
    }
}

/// A plugin's rule for pods. The verdict depends on the node and on what is `bare` of the pod's shape alone, and stays good until
/// the node changes.
pub trait Filter: Send {
    /// Why the node cannot take the pod.
    fn filter(&self, at: usize, node: &NodeInfo) -> Option<Status>;
}

/// One of the few answers of a `Wide` rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub reason: &'static str,
    pub resolvable: bool,
}

impl Answer {
    pub const fn new(reason: &'static str) -> Answer {
        Answer { reason, resolvable: true }
    }

    pub const fn lasting(reason: &'static str) -> Answer {
        Answer { reason, resolvable: false }
    }

    pub fn status(self) -> Status {
        Status { reasons: vec![self.reason.into()], resolvable: self.resolvable }
    }
}

/// A plugin's rule for pods of one shape whose verdict on a node depends on other nodes too. It is asked about every
/// node in every round, so it keeps sums that make the answer cheap.
pub trait Wide: Send {
    fn answers(&self) -> &'static [Answer];

    /// Takes in the cluster, before anything is asked.
    fn observe_all(&mut self, cluster: &Snapshot) {
        for (at, node) in cluster.nodes().iter().enumerate() {
            self.observe(at, node, cluster);
        }
    }

    /// Takes in how the nodes at these places are now, some maybe named more than once.
    fn follow(&mut self, places: &[u32], cluster: &Snapshot) {
        for at in places.iter().map(|at| *at as usize) {
            self.observe(at, &cluster.nodes()[at], cluster);
        }
    }

    /// Takes in how the node at a place is now.
    fn observe(&mut self, at: usize, node: &NodeInfo, cluster: &Snapshot);

    /// Whether it has nothing to say about any node now.
    fn is_idle(&self) -> bool {
        false
    }

    /// Why the node cannot take the pod: the place of the reason among the answers.
    fn filter(&self, at: usize, node: &NodeInfo) -> Option<usize>;
}

/// A plugin's preference for pods of one shape.
pub trait Score: Send {
    /// Whether raw scores depend on the node and on what is `bare` of the pod's shape alone.
    fn is_local(&self) -> bool {
        true
    }

    /// Takes in the cluster, before anything is asked. Only scores that are not local are told.
    fn observe_all(&mut self, cluster: &Snapshot) {
        for (at, node) in cluster.nodes().iter().enumerate() {
            self.observe(at, node, cluster);
        }
    }

    /// Takes in how the nodes at these places are now, some maybe named more than once.
    fn follow(&mut self, places: &[u32], cluster: &Snapshot) {
        for at in places.iter().map(|at| *at as usize) {
            self.observe(at, &cluster.nodes()[at], cluster);
        }
    }

    /// Takes in how the node at a place is now.
    fn observe(&mut self, _at: usize, _node: &NodeInfo, _cluster: &Snapshot) {}

    fn is_idle(&self) -> bool {
        false
    }

    /// Told before each round which nodes are left to choose from.
    fn begin(&mut self, _feasible: &[u32]) {}

    /// Larger is better.
    fn score(&self, at: usize, node: &NodeInfo) -> i64;

    /// Whether `score` is final, 0 to 100, for every node by itself.
    fn is_final(&self) -> bool {
        true
    }

    /// Brings the scores of all feasible nodes to 0..=100. Where all are 0, all become the same, however many they are.
    fn normalise(&self, _scores: &mut [i64]) {}
}

/// Scales scores so that the largest becomes 100; `reverse` makes the smallest raw score the best.
pub fn scale(scores: &mut [i64], reverse: bool) {
    let most = scores.iter().copied().max().unwrap_or(0);
    if most == 0 {
        if reverse {
            scores.fill(SCORE_MAX);
        }
        return;
    }
    for score in scores {
        let scaled = *score * SCORE_MAX / most;
        *score = if reverse { SCORE_MAX - scaled } else { scaled };
    }
}
