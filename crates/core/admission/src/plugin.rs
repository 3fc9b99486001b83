//! The frame of a plugin: the write it sees, what it may look at, and what it says.

use std::sync::Arc;

use coracle_meta::{Gates, Object, Resource, Status, User, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// A write on its way, without the object it is about: that is shown beside it, to be changed or only read.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub operation: Operation,
    pub resource: &'a Resource,
    pub subresource: &'a str,
    pub namespace: &'a str,
    /// Empty while a name is still to be generated.
    pub name: &'a str,
    pub user: &'a User,
    /// The object as it was; `None` on create, and where no plugin looks into a deletion of this user's.
    pub old: Option<&'a Value>,
}

impl Request<'_> {
    /// Whether this is a whole object of this resource of the core group, not a part of it.
    pub fn is_core(&self, plural: &str) -> bool {
        self.resource.group.is_empty() && self.resource.plural == plural && self.subresource.is_empty()
    }

    /// The same of any group.
    pub fn is_of(&self, group: &str, plural: &str) -> bool {
        self.resource.group == group && self.resource.plural == plural && self.subresource.is_empty()
    }

    pub fn creates(&self) -> bool {
        self.operation == Operation::Create
    }
}

/// What a plugin may look at without asking: the cluster as the watch cache has it.
pub trait Facts: Send + Sync {
    fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Object>>;
    fn list(&self, resource: &Resource, namespace: Option<&str>) -> Vec<Arc<Object>>;
}

/// A cluster without objects.
#[cfg(test)]
pub(crate) struct Nothing;

#[cfg(test)]
impl Facts for Nothing {
    fn get(&self, _: &Resource, _: &str, _: &str) -> Option<Arc<Object>> {
        None
    }

    fn list(&self, _: &Resource, _: Option<&str>) -> Vec<Arc<Object>> {
        Vec::new()
    }
}

pub struct Context<'a> {
    pub facts: &'a dyn Facts,
    /// Answers to what this plugin has asked about this write so far, in their order.
    pub answers: &'a [Answer],
    /// Five random characters, the same for the whole of a write.
    pub suffix: &'a str,
    /// Feature gates that are on.
    pub gates: Gates,
}

#[derive(Debug)]
pub enum Verdict {
    Admit,
    /// Admitted, and the object was changed.
    Mutate,
    Deny(Status),
    /// The driver carries this out and calls again with the answer.
    Ask(Ask),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// The object as the store has it, past the cache.
    Read { resource: Resource, namespace: String, name: String },
    /// Whether the writer may also do this.
    Permit { verb: &'static str, resource: Resource, name: String },
    /// Adds to what a quota counts as used, all of it or nothing.
    Charge(Charge),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Charge {
    pub namespace: String,
    pub quota: String,
    /// Resource, as `requests.cpu`, and how much more of it.
    pub amounts: Vec<(String, coracle_meta::Quantity)>,
}

#[derive(Clone, Debug)]
pub enum Answer {
    Object(Option<Arc<Object>>),
    Permitted(bool),
    /// What was refused: the message of an exceeded quota.
    Charged(Result<(), String>),
}

/// One rule of the cluster. Both phases are called for every write; most plugins know one of them.
pub trait Plugin: Sync {
    /// As `--enable-admission-plugins` names it.
    fn name(&self) -> &'static str;

    /// May change the object.
    fn mutate(&self, _: &Request<'_>, _object: &mut Value, _: &Context<'_>) -> Verdict {
        Verdict::Admit
    }

    /// Sees the object as it would be stored. On delete and connect it is what stands, or null.
    fn validate(&self, _: &Request<'_>, _object: &Value, _: &Context<'_>) -> Verdict {
        Verdict::Admit
    }

    /// Whether it judges what this user deletes by what that holds.
    fn looks_into_deletions(&self, _: &User) -> bool {
        false
    }
}

/// The refusal of a write, about its object.
pub fn forbidden(request: &Request<'_>, why: impl AsRef<str>) -> Verdict {
    Verdict::Deny(Status::forbidden(request.resource, request.name, why.as_ref()))
}
