//! ResourceQuotas: how much a namespace may hold.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Quantity, Value};

use crate::column::{AGE, Column, NAME, text};
use crate::object_meta::immutable;
use crate::rules::Rules;
use crate::shapes::{quantities, within};

const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

const COLUMNS: &[Column] = &[
    NAME,
    text("Request", |quota, _| usage(quota, |name| !name.starts_with("limits.")).into()),
    text("Limit", |quota, _| usage(quota, |name| name.starts_with("limits.")).into()),
    AGE,
];

pub const RULES: Rules = Rules { default, validate, validate_update, columns: COLUMNS, ..Rules::STANDARD };

fn default(quota: &mut Value, _: &str) {
    for path in [["spec", "hard"], ["status", "hard"], ["status", "used"]] {
        within(quota, &path, quantities::canonical);
    }
}

fn validate(quota: &Value, errors: &mut ErrorList) {
    let path = Path::new("spec.hard");
    for (name, amount) in quota.entries_at(&["spec", "hard"]) {
        let path = path.key(name);
        if !name.starts_with("count/") {
            let bare = name.strip_prefix("requests.").filter(|bare| bare.contains('/')).unwrap_or(name);
            if !bare.contains(".storageclass.storage.k8s.io/") {
                quantities::validate_resource_name(bare, &path, errors);
            }
        }
        quantities::validate_amount(name, amount, &path, errors);
    }
    let path = Path::new("spec.scopes");
    for scope in quota.list_at(&["spec", "scopes"]) {
        if !SCOPES.contains(&scope.as_str().unwrap_or_default()) {
            errors.invalid(&path, quota.at(&["spec", "scopes"]), "unsupported scope");
        }
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    immutable(new.at(&["spec", "scopes"]), old.at(&["spec", "scopes"]), &Path::new("spec.scopes"), errors);
}

fn usage(quota: &Value, is_meant: impl Fn(&str) -> bool) -> String {
    let mut names: Vec<&str> =
        quota.entries_at(&["status", "hard"]).map(|(name, _)| name).filter(|name| is_meant(name)).collect();
    names.sort_unstable();
    let amount = |part: &str, name: &str| Quantity::from_value(quota.at(&["status", part, name])).unwrap_or_default();
    let texts: Vec<String> =
        names.iter().map(|name| format!("{name}: {}/{}", amount("used", name), amount("hard", name))).collect();
    texts.join(", ")
}
