//! What an applier no longer names goes, unless somebody else does. Source: structured-merge-diff's `merge/update.go`.

use std::collections::BTreeMap;

use coracle_meta::Value;

use super::managers::{Managers, Owned};
use super::set::Set;
use super::{Form, Subject};

impl Subject<'_> {
    /// `merged` without the fields that were in the applier's last configuration, are not in this one, and that no other
    /// manager names. `managers` already holds this configuration's set.
    pub(super) fn pruned(&self, merged: Value, managers: &Managers, last: &Owned) -> Value {
        let version = last.api_version.as_str();
        let (Some(form), Some(object)) = (self.form(version), self.in_version(&merged, self.api_version, version))
        else {
            return merged;
        };
        let types = self.types();
        let gone = types.with_named_fields(Some(form), &last.set);
        let bare = or_map(types.removed(form, &object, &gone));
        let bare = self.with_owned(&object, bare, managers, version);
        // Only what the applier itself had set may go.
        let named = |set: Set| types.with_named_fields(Some(form), &set);
        let left = named(types.fields(form, &bare));
        let lost = named(types.fields(form, &object)).difference(&left).intersection(&gone);
        let result = or_map(types.removed(form, &object, &lost));
        self.in_version(&result, version, self.api_version).unwrap_or(merged)
    }

    /// Adds back what managers of whatever version own. `version` is that of both objects, and of the result.
    fn with_owned(&self, object: &Value, bare: Value, managers: &Managers, version: &str) -> Value {
        let mut owned: BTreeMap<&str, Set> = BTreeMap::new();
        for one in managers.values() {
            let set = owned.remove(one.api_version.as_str()).unwrap_or_default();
            owned.insert(&one.api_version, set.union(&one.set));
        }
        let first = owned.remove_entry(version);
        let mut bare = bare;
        for (of, set) in first.into_iter().chain(owned) {
            let pair = (self.in_version(object, version, of), self.in_version(&bare, version, of));
            let (Some(form), (Some(whole), Some(part))) = (self.form(of), pair) else { continue };
            let back = self.added_back(form, (&whole, &part), &set);
            if let Some(back) = self.in_version(&back, of, version) {
                bare = back;
            }
        }
        bare
    }

    fn added_back(&self, form: Form<'_>, (whole, part): (&Value, &Value), owned: &Set) -> Value {
        let types = self.types();
        let named = |set: &Set| types.with_named_fields(Some(form), set);
        let kept = named(&types.fields(form, part)).union(&named(owned));
        or_map(types.removed(form, whole, &named(&types.fields(form, whole)).difference(&kept)))
    }
}

fn or_map(value: Value) -> Value {
    if value.is_null() { Value::map() } else { value }
}
