//! Server-side apply and the record of who set which field: what every write makes of `metadata.managedFields`, and how
//! a configuration is merged into what stands. Source: structured-merge-diff's `merge/update.go` and Kubernetes'
//! `apimachinery/pkg/util/managedfields`. It knows no kind: the schema, conversions and reset fields are given.

mod element;
mod managers;
mod pair;
mod place;
mod prune;
mod set;
mod walk;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use coracle_meta::{GroupVersionKind, Value};
use coracle_schema::{Schema, write_defaults};

pub use element::Element;
pub use managers::{Manager, Managers, Operation, Owned, UPDATERS_MAX};
pub use pair::Comparison;
pub use set::{Set, path_text};

use place::{Form, Types};

const MANAGED: [&str; 2] = ["metadata", "managedFields"];
const LAST_APPLIED: [&str; 3] = ["metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration"];
/// Who is taken to have set what stood before anything was recorded.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Turns an object of one `apiVersion` into another; `None` where that version is not known.
pub type Convert<'a> = &'a (dyn Fn(&Value, &str, &str) -> Option<Value> + 'a);

/// What an object is, for all that is decided here.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub schema: &'a Schema,
    /// The version that is written in.
    pub api_version: &'a str,
    pub kind: &'a str,
    pub convert: Convert<'a>,
    /// Fields that this writer cannot set, whatever it sends.
    pub reset: &'a Set,
}

/// Who writes, and when.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    pub manager: &'a str,
    pub subresource: &'a str,
    /// RFC 3339 in whole seconds.
    pub time: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    No,
    /// Conflicting fields change hands.
    Yes,
}

/// A field that the configuration changes and another manager set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub manager: Manager,
    pub path: Vec<Element>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    #[error("{}", conflict_text(.0))]
    Conflicts(Vec<Conflict>),
    /// The configuration is not one of this object.
    #[error("{0}")]
    Request(String),
    /// The configuration does not fit the schema.
    #[error("{0}")]
    Unfit(String),
}

impl Subject<'_> {
    fn types(&self) -> Types<'_> {
        Types { schema: self.schema }
    }

    fn form(&self, api_version: &str) -> Option<Form<'_>> {
        let id = self.schema.kind(&GroupVersionKind::parse(api_version, self.kind)?)?;
        Some(self.types().root(id))
    }

    fn own_form(&self) -> Form<'_> {
        self.form(self.api_version).unwrap_or(Form::Map(place::Place::Deduced))
    }

    /// Adds what Go always writes, so that it is no difference.
    fn complete(&self, api_version: &str, value: &mut Value) {
        let kind = GroupVersionKind::parse(api_version, self.kind);
        if let Some(id) = kind.and_then(|kind| self.schema.kind(&kind)) {
            write_defaults(self.schema, id, value);
        }
    }

    fn in_version(&self, value: &Value, from: &str, to: &str) -> Option<Value> {
        if from == to {
            return Some(value.clone());
        }
        self.form(to)?;
        let mut converted = (self.convert)(value, from, to)?;
        self.complete(to, &mut converted);
        Some(converted)
    }

    fn empty(&self) -> Value {
        let mut empty = Value::map();
        empty.set(&["apiVersion"], self.api_version);
        empty.set(&["kind"], self.kind);
        empty.set(&["metadata"], Value::map());
        self.complete(self.api_version, &mut empty);
        empty
    }

    /// Records what a create, update or patch changed. `live` is null for a create; both are of the subject's version.
    /// Leaves `new` with the managedFields that it is to be stored with.
    pub fn update(&self, live: &Value, new: &mut Value, writer: Writer<'_>) {
        let given = new.remove(&MANAGED).unwrap_or_default();
        let old = live.at(&MANAGED);
        let managers = if !writer.subresource.is_empty() {
            managers::decode(old).unwrap_or_default()
        } else if is_reset(&given) {
            Managers::new()
        } else {
            let given = managers::decode(&given).unwrap_or_default();
            if given.is_empty() { managers::decode(old).unwrap_or_default() } else { given }
        };
        if managers.is_empty() && !live.is_null() {
            return;
        }
        self.complete(self.api_version, new);
        // A record that cannot be brought up to date is worse than none.
        if let Ok(managers) = self.updated(live, new, managers, writer) {
            put(new, &managers);
        }
    }

    fn updated(
        &self,
        live: &Value,
        new: &Value,
        managers: Managers,
        writer: Writer<'_>,
    ) -> Result<Managers, ApplyError> {
        let empty = if live.is_null() { self.empty() } else { Value::Null };
        let live = if live.is_null() { &empty } else { live };
        let (mut managers, comparison) = self.transfer(live, new, managers, None, Force::Yes)?;
        let set = comparison.changed().without(self.reset).difference(&STRIPPED);
        if !set.is_empty() {
            let manager = Manager::new(Operation::Update, writer.manager, self.api_version, writer.subresource);
            let before = managers.remove(&manager).map(|owned| owned.set).unwrap_or_default();
            let owned =
                Owned { set: set.union(&before), api_version: self.api_version.into(), time: writer.time.into() };
            managers.insert(manager, owned);
        }
        managers::cap(&mut managers);
        Ok(managers)
    }

    /// Takes from every manager but `workflow` what differs between the objects.
    fn transfer(
        &self,
        old: &Value,
        new: &Value,
        mut managers: Managers,
        workflow: Option<&Manager>,
        force: Force,
    ) -> Result<(Managers, Comparison), ApplyError> {
        let compare = |version: &str, old: &Value, new: &Value| -> Result<Comparison, ApplyError> {
            let form = self.form(version).unwrap_or(Form::Map(place::Place::Deduced));
            let found = self.types().compare(form, old, new);
            found.map(|found| found.without(self.reset)).map_err(|why| unfit("failed to compare objects", &why))
        };
        let own = compare(self.api_version, old, new)?;
        let mut versions: BTreeMap<String, Option<Comparison>> = BTreeMap::new();
        for owned in managers.values().filter(|owned| owned.api_version != self.api_version) {
            let version = &owned.api_version;
            if !versions.contains_key(version) {
                let pair =
                    (self.in_version(old, self.api_version, version), self.in_version(new, self.api_version, version));
                let found = match pair {
                    (Some(old), Some(new)) => Some(compare(version, &old, &new)?),
                    _ => None,
                };
                versions.insert(version.clone(), found);
            }
        }
        let changed = own.changed();
        let others: BTreeMap<&str, (&Comparison, Set)> = versions
            .iter()
            .filter_map(|(version, found)| found.as_ref().map(|found| (version.as_str(), (found, found.changed()))))
            .collect();
        let of = |version: &str| match version == self.api_version {
            true => Some((&own, &changed)),
            false => others.get(version).map(|(found, changed)| (*found, changed)),
        };
        // Records of versions that are gone are dropped.
        managers.retain(|manager, owned| Some(manager) == workflow || of(&owned.api_version).is_some());
        let mut conflicts = Vec::new();
        for (manager, owned) in managers.iter_mut().filter(|(manager, _)| Some(*manager) != workflow) {
            let Some((found, changed)) = of(&owned.api_version) else { continue };
            let taken = owned.set.intersection(changed);
            if !taken.is_empty() {
                taken.each(&mut |path| conflicts.push(Conflict { manager: manager.clone(), path: path.to_vec() }));
                owned.set = owned.set.difference(&taken);
            }
            if !found.removed.is_empty() {
                owned.set = owned.set.difference(&found.removed);
            }
        }
        if force == Force::No && !conflicts.is_empty() {
            conflicts.sort_by(|left, right| {
                let by = |conflict: &Conflict| (conflict.manager.name.clone(), conflict.manager.clone());
                by(left).cmp(&by(right))
            });
            return Err(ApplyError::Conflicts(conflicts));
        }
        managers.retain(|_, owned| !owned.set.is_empty());
        Ok((managers, own))
    }

    /// Merges a configuration into what stands (null where nothing does), both of the subject's version, and returns the
    /// object with its managedFields. The result still holds what the configuration wrote, as it wrote it.
    pub fn apply(&self, live: &Value, config: &Value, writer: Writer<'_>, force: Force) -> Result<Value, ApplyError> {
        self.check(config)?;
        let mut old = if live.is_null() { self.empty() } else { live.clone() };
        let recorded = old.remove(&MANAGED).unwrap_or_default();
        let mut managers = managers::decode(&recorded)
            .map_err(|why| ApplyError::Unfit(format!("failed to decode managed fields: {why}")))?;
        if managers.is_empty() && !live.is_null() {
            let before = Writer { manager: BEFORE_FIRST_APPLY, ..writer };
            managers = self.updated(&Value::Null, &old, managers, before)?;
        }
        let applied = match self.applied(&old, config, managers.clone(), writer, force) {
            Err(ApplyError::Conflicts(conflicts)) if writer.manager == "kubectl" => {
                // What client-side apply set, and nobody changed since, is kubectl's own.
                let Some(allowed) = self.last_applied(&old) else { return Err(ApplyError::Conflicts(conflicts)) };
                let left: Vec<Conflict> =
                    conflicts.into_iter().filter(|conflict| !allowed.contains(&conflict.path)).collect();
                if !left.is_empty() {
                    return Err(ApplyError::Conflicts(left));
                }
                self.applied(&old, config, managers, writer, Force::Yes)
            }
            other => other,
        };
        let (mut object, managers) = applied?;
        if writer.manager == "kubectl" && !object.str_at(&LAST_APPLIED).is_empty() {
            object.set(&LAST_APPLIED, last_applied_text(config));
        }
        put(&mut object, &managers);
        Ok(object)
    }

    fn applied(
        &self,
        old: &Value,
        config: &Value,
        mut managers: Managers,
        writer: Writer<'_>,
        force: Force,
    ) -> Result<(Value, Managers), ApplyError> {
        let form = self.own_form();
        let merged = self.types().merged(form, Some(old), Some(config));
        let merged = merged.map_err(|why| unfit("failed to merge config", &why))?.unwrap_or_else(Value::map);
        let manager = Manager::new(Operation::Apply, writer.manager, self.api_version, writer.subresource);
        let set = self.types().fields(form, config).without(self.reset);
        let last = managers.remove(&manager);
        let time = last.as_ref().map(|last| last.time.clone()).unwrap_or_default();
        managers.insert(manager.clone(), Owned { set, api_version: self.api_version.into(), time });
        let merged = match &last {
            Some(last) if !last.set.is_empty() => self.pruned(merged, &managers, last),
            _ => merged,
        };
        let (mut managers, _) = self.transfer(old, &merged, managers, Some(&manager), force)?;
        let is_same = merged == *old;
        if let Some(owned) = managers.get_mut(&manager) {
            owned.set = owned.set.difference(&STRIPPED);
            if !is_same {
                owned.time = writer.time.to_owned();
            }
        }
        managers.retain(|_, owned| !owned.set.is_empty());
        Ok((merged, managers))
    }

    fn check(&self, config: &Value) -> Result<(), ApplyError> {
        let (version, kind) = (config.str_at(&["apiVersion"]), config.str_at(&["kind"]));
        if version != self.api_version || kind != self.kind {
            return Err(ApplyError::Request(format!("invalid object type: {}", kind_text(version, kind))));
        }
        if !config.at(&MANAGED).is_null() {
            return Err(ApplyError::Request("metadata.managedFields must be nil".into()));
        }
        let mistakes = self.types().mistakes(self.own_form(), config);
        let text = match mistakes.as_slice() {
            [] => return Ok(()),
            [one] => one.clone(),
            many => format!("errors:\n  {}", many.join("\n  ")),
        };
        let meta = config.get("metadata");
        let name = format!("{}/{}", meta.str_at(&["namespace"]), meta.str_at(&["name"]));
        let what = format!("{name}; {}", kind_text(version, kind));
        Err(unfit(&format!("failed to create typed patch object ({what})"), &text))
    }

    /// The fields of the annotation of client-side apply that are still as it says.
    fn last_applied(&self, live: &Value) -> Option<Set> {
        let last = Value::from_json(live.str_at(&LAST_APPLIED).as_bytes()).ok()?;
        if last.str_at(&["apiVersion"]) != self.api_version {
            return None;
        }
        let form = self.own_form();
        let found = self.types().compare(form, &last, live).ok()?;
        let fields = self.types().fields(form, &last);
        Some(fields.difference(&found.modified).difference(&found.added).difference(&found.removed))
    }
}

/// What nobody owns.
static STRIPPED: LazyLock<Set> = LazyLock::new(|| {
    Set::of_fields(&[
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "clusterName"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ])
});

/// Whether managedFields were sent to be forgotten: none, or one that says nothing.
fn is_reset(given: &Value) -> bool {
    match given {
        Value::List(items) => items.is_empty() || matches!(items.as_slice(), [only] if only.is_empty()),
        _ => false,
    }
}

fn put(object: &mut Value, managers: &Managers) {
    match managers::encode(managers) {
        Value::Null => drop(object.remove(&MANAGED)),
        entries => object.set(&MANAGED, entries),
    }
}

fn unfit(what: &str, why: &str) -> ApplyError {
    ApplyError::Unfit(format!("{what}: {why}"))
}

/// Go's text of a group, version and kind.
fn kind_text(api_version: &str, kind: &str) -> String {
    match api_version.contains('/') {
        true => format!("{api_version}, Kind={kind}"),
        false => format!("/{api_version}, Kind={kind}"),
    }
}

fn conflict_text(conflicts: &[Conflict]) -> String {
    if let [only] = conflicts {
        let (manager, path) = (only.manager.text(), path_text(&only.path));
        return format!("Apply failed with 1 conflict: conflict with {manager}: {path}");
    }
    let mut lines: Vec<String> = Vec::new();
    let mut last: Option<&Manager> = None;
    for conflict in conflicts {
        if last != Some(&conflict.manager) {
            lines.push(format!("conflicts with {}:", conflict.manager.text()));
            last = Some(&conflict.manager);
        }
        lines.push(format!("- {}", path_text(&conflict.path)));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// The configuration as kubectl's annotation holds it.
fn last_applied_text(config: &Value) -> String {
    let mut config = config.clone();
    config.remove(&LAST_APPLIED);
    sort(&mut config);
    let mut text = String::from_utf8(config.to_json()).expect("JSON is text");
    text.push('\n');
    text
}

fn sort(value: &mut Value) {
    match value {
        Value::Map(map) => {
            map.sort();
            map.iter_mut().for_each(|(_, member)| sort(member));
        }
        Value::List(items) => items.iter_mut().for_each(sort),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
