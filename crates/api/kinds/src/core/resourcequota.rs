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
            if !name.contains('/') && !is_standard(name) {
                errors.invalid(&path, name, "must be a standard resource for quota");
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
    validate_scopes(quota, &path, errors);
}

/// Resources that the quota system knows.
const STANDARD: [&str; 19] = [
    "configmaps",
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];
const COMPUTE: [&str; 6] = ["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];

fn is_standard(name: &str) -> bool {
    let bare = name.strip_prefix("requests.").unwrap_or(name);
    STANDARD.contains(&name) || bare.starts_with("hugepages-")
}

/// Scopes choose among the objects of one kind, and no two of them may leave nothing over.
fn validate_scopes(quota: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let shown = quota.at(&["spec", "scopes"]);
    let scopes: Vec<&str> = shown.list_at(&[]).iter().filter_map(Value::as_str).collect();
    let fits = |scope: &str, name: &str| match scope {
        "BestEffort" => name == "pods",
        "VolumeAttributesClass" => matches!(name, "persistentvolumeclaims" | "requests.storage"),
        scope if SCOPES.contains(&scope) => name == "pods" || COMPUTE.contains(&name),
        _ => true,
    };
    for scope in &scopes {
        let names = quota.entries_at(&["spec", "hard"]).map(|(name, _)| name).filter(|name| is_standard(name));
        for _ in names.filter(|name| !fits(scope, name)) {
            errors.invalid(path, shown, "unsupported scope applied to resource");
        }
    }
    for pair in [["BestEffort", "NotBestEffort"], ["NotTerminating", "Terminating"]] {
        if pair.iter().all(|scope| scopes.contains(scope)) {
            errors.invalid(path, shown, "conflicting scopes");
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::tree;

    #[test]
    fn scopes_fit_what_they_bound() {
        let wrong = |spec: &str| {
            let mut errors = ErrorList::default();
            validate(&tree(&format!(r#"{{"spec":{spec}}}"#)), &mut errors);
            !errors.is_empty()
        };
        assert!(!wrong(r#"{"hard":{"pods":"1","requests.cpu":"1"},"scopes":["NotBestEffort"]}"#));
        assert!(wrong(r#"{"hard":{"pods":"1","requests.cpu":"1"},"scopes":["BestEffort"]}"#));
        assert!(wrong(r#"{"hard":{"pods":"1"},"scopes":["Terminating","NotTerminating"]}"#));
        assert!(wrong(r#"{"hard":{"bogus":"1"}}"#) && !wrong(r#"{"hard":{"count/bogus.x":"1"}}"#));
    }
}
