//! How a controller describes itself. One controller is one file in `core/controllers` and one line in its table.

use coracle_meta::{Object, Resource, Status};
use jiff::Timestamp;
use serde_json::Value;

use crate::plan::{Ask, Plan, Write};
use crate::view::View;

/// What a decision is about: an object of the controller's primary kind, which may be gone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Empty for cluster-scoped kinds.
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Key {
        Key { namespace: namespace.into(), name: name.into() }
    }

    pub fn of(object: &Object) -> Key {
        Key { namespace: object.meta.namespace.clone(), name: object.meta.name.clone() }
    }
}

/// What became of the last plan for the same key.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The last plan's questions, and the answers in the same order.
    pub asked: Vec<Ask>,
    pub answers: Vec<Answer>,
    /// Why the last plan ended early.
    pub error: Option<Status>,
    /// The write at which it did.
    pub refused: Option<Write>,
    /// How many plans in a row failed for this key; the driver's back-off grows with it.
    pub failures: u32,
}

#[derive(Clone, Debug)]
pub enum Answer {
    Object(Option<Value>),
    Objects(Vec<Value>),
    Resources(Vec<Value>),
    /// Resource (as `deployments.apps`) and how many are left; finalizers and how many objects carry each.
    Remaining {
        resources: Vec<(String, usize)>,
        finalizers: Vec<(String, usize)>,
    },
    /// A certificate (PEM) or a token.
    Signed(String),
    Done,
    Failed(Status),
}

impl Outcome {
    /// Why a write of this sort was refused, where the last plan ended at one. A conflict, and an object that is gone,
    /// are no refusals: the next look settles them.
    pub fn refusal(&self, is_meant: impl Fn(&Write) -> bool) -> Option<&Status> {
        let error = self.error.as_ref().filter(|error| !error.is_conflict() && error.code != 404);
        error.filter(|_| self.refused.as_ref().is_some_and(is_meant))
    }

    /// The answer to a question, where the last plan asked it.
    pub fn answer(&self, ask: &Ask) -> Option<&Answer> {
        self.asked.iter().zip(&self.answers).find(|(asked, _)| *asked == ask).map(|(_, answer)| answer)
    }
}

/// A resource whose changes wake the controller, and which keys a changed object stands for. The function is called
/// with the object before and after the change.
pub struct Watch {
    pub resource: Resource,
    pub keys: fn(&dyn View, &Object) -> Vec<Key>,
}

impl Watch {
    /// A changed object stands for itself.
    pub fn itself(resource: Resource) -> Watch {
        Watch { resource, keys: |_, object| vec![Key::of(object)] }
    }
}

/// Wakes a controller by changes of every resource that discovery offers and that can be watched and deleted.
pub struct WatchAll {
    pub keys: fn(&dyn View, &Resource, &Object) -> Vec<Key>,
    pub ignored: &'static [Resource],
    /// Whether only a change of uid, owners, finalizers or deletion wakes anybody, whatever else an object says.
    pub only_belonging: bool,
}

/// The identity of the component itself, `system:kube-controller-manager`, and no service account.
pub const COMPONENT_IDENTITY: &str = "";

/// A controller: static facts and one decision.
pub trait Controller: Send + Sync {
    /// As kube-controller-manager names it, `deployment-controller`.
    fn name(&self) -> &'static str;

    /// The `source.component` of its events.
    fn component(&self) -> &'static str {
        self.name()
    }

    /// The service account in `kube-system` whose identity its requests carry, as upstream's default roles name it, or
    /// [`COMPONENT_IDENTITY`].
    fn identity(&self) -> &'static str {
        self.component()
    }

    fn watches(&self) -> Vec<Watch>;

    /// Resources that decisions read beside those watched.
    fn reads(&self) -> Vec<Resource> {
        Vec::new()
    }

    /// For controllers of any kind, named in discovery or not yet.
    fn watches_all(&self) -> Option<WatchAll> {
        None
    }

    /// Keys that are decided about at start without any object standing for them.
    fn standing_keys(&self) -> Vec<Key> {
        Vec::new()
    }

    /// How many plans are carried out at the same time.
    fn concurrency_max(&self) -> usize {
        5
    }

    /// Decides about one key. Running it again on a view that shows the plan carried out gives the empty plan.
    fn reconcile(&self, view: &dyn View, key: &Key, last: &Outcome, now: Timestamp) -> Plan;
}
