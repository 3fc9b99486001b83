//! How a kind behaves beyond its facts: functions of trees with defaults, so that a kind names only what is its own.

use coracle_meta::field::Path;
use coracle_meta::names::{self, Check};
use coracle_meta::{ErrorList, Gates, User, Value};

use crate::column::{self, Column};
use crate::kind::Kind;
use crate::object_meta;

/// The rules of a kind. Everything here sees the whole object, in the version named or in the storage version.
#[derive(Clone, Copy)]
pub struct Rules {
    /// Fills what the writer left out; belongs to a version. Running it twice changes nothing.
    pub default: fn(&mut Value, &str),
    /// After the frame dropped the status and set the generation.
    pub prepare_create: fn(&mut Value),
    /// What the server says of a new object's writer, whatever the writer said.
    pub stamp_creator: fn(&mut Value, &User),
    /// (new, old), after the frame kept the old status and counted the generation.
    pub prepare_update: fn(&mut Value, &Value),
    /// (gates, new, old): takes members out whose gate is off and that the old object, null on creation, has not; before
    /// the preparation.
    pub drop_gated: fn(Gates, &mut Value, &Value),
    /// (new, old), after the frame put everything but status and metadata back.
    pub prepare_status_update: fn(&mut Value, &Value),
    pub name: Check,
    pub validate: fn(&Value, &mut ErrorList),
    /// (new, old), beside `validate` of the new object.
    pub validate_update: fn(&Value, &Value, &mut ErrorList),
    /// (part, new, old): a write to `status` or another part, beside the check of its metadata.
    pub validate_part_update: fn(&str, &Value, &Value, &mut ErrorList),
    /// The object (its first argument) from one apiVersion to another, its `apiVersion` left to the frame.
    pub convert: fn(&mut Value, &str, &str),
    pub columns: &'static [Column],
    /// Fields that lists and watches may select by, beside name and namespace.
    pub selectable_fields: fn(&Value) -> Vec<(&'static str, String)>,
    /// Where `selectable_fields` looks, so that nothing else of the object need be read; none stands for everywhere.
    pub selects_from: &'static [&'static [&'static str]],
    /// How long deletion waits, given what was asked for; `None` deletes at once.
    pub grace_seconds: fn(&Value, Option<i64>) -> Option<i64>,
    pub lifecycle: Lifecycle,
}

/// What the frame does around a kind's own preparation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifecycle {
    /// Whether `metadata.generation` starts at 1 and counts changes of anything but metadata and status.
    pub counts_generation: bool,
    /// Whether a creator's status stays: nodes register with theirs.
    pub creates_with_status: bool,
    /// Whether a write to the status keeps the labels as they were.
    pub status_keeps_labels: bool,
}

impl Lifecycle {
    pub const STANDARD: Lifecycle =
        Lifecycle { counts_generation: false, creates_with_status: false, status_keeps_labels: false };
    pub const COUNTED: Lifecycle = Lifecycle { counts_generation: true, ..Lifecycle::STANDARD };
    pub const WORKLOAD: Lifecycle = Lifecycle { status_keeps_labels: true, ..Lifecycle::COUNTED };
}

impl Rules {
    pub const STANDARD: Rules = Rules {
        default: |_, _| {},
        prepare_create: |_| {},
        stamp_creator: |_, _| {},
        prepare_update: |_, _| {},
        drop_gated: |_, _, _| {},
        prepare_status_update: |_, _| {},
        name: names::dns1123_subdomain,
        validate: |_, _| {},
        validate_update: |_, _, _| {},
        validate_part_update: |_, _, _, _| {},
        convert: |_, _, _| {},
        columns: column::STANDARD,
        selectable_fields: |_| Vec::new(),
        selects_from: &[],
        grace_seconds: |_, _| None,
        lifecycle: Lifecycle::STANDARD,
    };
    pub const COUNTED: Rules = Rules { lifecycle: Lifecycle::COUNTED, ..Rules::STANDARD };
}

/// A write's way through the rules, in the order the corridor calls them.
impl Kind {
    /// Defaults of `version` (`v1`). Also applied to what is read, since older writers knew fewer fields.
    pub fn default(&self, object: &mut Value, version: &str) {
        (self.rules.default)(object, version);
    }

    /// Before a new object is validated. Name, uid and times are the caller's.
    pub fn prepare_create(&self, object: &mut Value) {
        if self.has_status() && !self.rules.lifecycle.creates_with_status {
            object.remove(&["status"]);
        }
        if self.rules.lifecycle.counts_generation {
            object.set(&["metadata", "generation"], 1);
        } else {
            object.remove(&["metadata", "generation"]);
        }
        (self.rules.prepare_create)(object);
    }

    /// Before a new or changed object is prepared: only members of gates that are on, or that were there, stay. `old` is
    /// null for a new one.
    pub fn drop_gated(&self, gates: Gates, new: &mut Value, old: &Value) {
        (self.rules.drop_gated)(gates, new, old);
    }

    /// After `prepare_create`, by who is known to write.
    pub fn stamp_creator(&self, object: &mut Value, user: &User) {
        (self.rules.stamp_creator)(object, user);
    }

    /// Before a changed object is validated: the status stays, the generation counts.
    pub fn prepare_update(&self, new: &mut Value, old: &Value) {
        if self.has_status() {
            restore(new, old, "status");
        }
        restore_meta(new, old, "generation");
        (self.rules.prepare_update)(new, old);
        if self.rules.lifecycle.counts_generation && content_differs(new, old) {
            let generation = old.int_at(&["metadata", "generation"]).unwrap_or_default();
            new.set(&["metadata", "generation"], generation + 1);
        }
    }

    /// Before a write through `/status` is validated: only status and some metadata are taken.
    pub fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        let keys: Vec<String> =
            [&*new, old].into_iter().flat_map(|object| object.entries_at(&[])).map(|(key, _)| key.to_owned()).collect();
        for key in keys {
            if !["apiVersion", "kind", "metadata", "status"].contains(&key.as_str()) {
                restore(new, old, &key);
            }
        }
        restore_meta(new, old, "generation");
        if self.rules.lifecycle.status_keeps_labels {
            restore_meta(new, old, "labels");
        }
        (self.rules.prepare_status_update)(new, old);
    }

    pub fn validate(&self, object: &Value, errors: &mut ErrorList) {
        object_meta::validate(object, self.scope, self.rules.name, errors);
        (self.rules.validate)(object, errors);
    }

    pub fn validate_update(&self, new: &Value, old: &Value, errors: &mut ErrorList) {
        object_meta::validate_update(new, old, &Path::new("metadata"), errors);
        (self.rules.validate)(new, errors);
        (self.rules.validate_update)(new, old, errors);
    }

    /// A write to a part: metadata is checked, and what the kind says of that part; the rest is the controllers' own.
    pub fn validate_part_update(&self, part: &str, new: &Value, old: &Value, errors: &mut ErrorList) {
        object_meta::validate_update(new, old, &Path::new("metadata"), errors);
        (self.rules.validate_part_update)(part, new, old, errors);
    }

    /// The object in another apiVersion (`v1`, `autoscaling/v2`); defaults of the new version are the caller's.
    pub fn convert(&self, mut object: Value, from: &str, to: &str) -> Value {
        if from != to {
            (self.rules.convert)(&mut object, from, to);
            object.set(&["apiVersion"], to);
        }
        object
    }

    pub fn columns(&self) -> &'static [Column] {
        self.rules.columns
    }

    /// A row of the table, wide columns included.
    pub fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        self.rules.columns.iter().map(|column| (column.cell)(object, now)).collect()
    }

    /// Every field that a field selector may name, with its value.
    pub fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let mut fields = vec![("metadata.name", object.str_at(&["metadata", "name"]).to_owned())];
        if self.is_namespaced() {
            fields.push(("metadata.namespace", object.str_at(&["metadata", "namespace"]).to_owned()));
        }
        fields.extend((self.rules.selectable_fields)(object));
        fields
    }

    /// The same of an object's JSON in its storage version.
    pub fn selectable_fields_of(&self, json: &[u8]) -> Result<Vec<(&'static str, String)>, serde_json::Error> {
        const NAMES: [&[&str]; 2] = [&["metadata", "name"], &["metadata", "namespace"]];
        let object = match self.rules.selects_from {
            [] => Value::from_json(json)?,
            places => Value::sparse(json, &[&NAMES, places].concat())?,
        };
        Ok(self.selectable_fields(&object))
    }

    pub fn grace_seconds(&self, object: &Value, asked: Option<i64>) -> Option<i64> {
        (self.rules.grace_seconds)(object, asked)
    }
}

/// Puts a top-level member back as it was.
pub fn restore(new: &mut Value, old: &Value, key: &str) {
    restore_at(new, old, &[key]);
}

fn restore_meta(new: &mut Value, old: &Value, key: &str) {
    restore_at(new, old, &["metadata", key]);
}

/// Puts what is below `path` back as it was.
pub fn restore_at(new: &mut Value, old: &Value, path: &[&str]) {
    match old.at(path) {
        Value::Null => {
            new.remove(path);
        }
        was => new.set(path, was.clone()),
    }
}

fn content_differs(new: &Value, old: &Value) -> bool {
    let is_content = |key: &&str| !["apiVersion", "kind", "metadata", "status"].contains(key);
    let keys = |object: &Value| object.entries_at(&[]).map(|(key, _)| key.to_owned()).collect::<Vec<_>>();
    let (new_keys, old_keys) = (keys(new), keys(old));
    let differs = |key: &&str| !same(new.get(key), old.get(key));
    new_keys.iter().chain(&old_keys).map(String::as_str).filter(is_content).any(|key| differs(&key))
}

/// Equal as Kubernetes' semantic equality sees it: absent and empty collections are the same.
pub fn same(left: &Value, right: &Value) -> bool {
    let is_void = |value: &Value| matches!(value, Value::Null | Value::List(_)) && value.is_empty();
    match (left, right) {
        (Value::Map(left), Value::Map(right)) => {
            let covered = |one: &coracle_meta::Map, other: &coracle_meta::Map| {
                one.iter().all(|(key, value)| same(value, other.get(key).unwrap_or(&Value::Null)))
            };
            covered(left, right) && covered(right, left)
        }
        (Value::List(left), Value::List(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same(left, right))
        }
        _ => left == right || (is_void(left) && is_void(right)),
    }
}
