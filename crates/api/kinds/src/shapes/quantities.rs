//! Lists of resources: their canonical form, their defaults and what names and amounts may be.

use coracle_meta::field::Path;
use coracle_meta::quantity::Format;
use coracle_meta::{ErrorList, Map, Quantity, Value, names};

/// Writes every amount of a resource list in its canonical form, rounded up to thousandths.
pub fn canonical(list: &mut Value) {
    let Some(map) = list.as_map_mut() else { return };
    for (_, amount) in map.iter_mut() {
        canonical_amount(amount);
    }
}

/// Writes an amount in its canonical form; what is no quantity stays for validation to tell.
pub fn canonical_amount(amount: &mut Value) {
    if amount.is_null() {
        return;
    }
    let Ok(quantity) = Quantity::from_value(amount) else { return };
    let is_finer = quantity.nanos() % 1_000_000 != 0;
    let rounded = if is_finer { Quantity::from_milli(quantity.milli()) } else { quantity };
    let text = rounded.to_string();
    if amount.as_str() != Some(&text) {
        *amount = Value::from(text);
    }
}

/// What a limit sets, a missing request takes.
pub fn requests_from_limits(resources: &mut Value) {
    let Some(limits) = resources.get("limits").as_map().cloned() else { return };
    let requests = resources.ensure(&["requests"]);
    if !matches!(requests, Value::Map(_)) {
        *requests = Value::map();
    }
    add_missing(requests, &limits);
}

/// Adds the entries that `list` has not.
pub fn add_missing(list: &mut Value, from: &Map) {
    for (name, amount) in from.iter() {
        list.set_default(&[name], amount.clone());
    }
}

/// The amount of one resource; zero where there is none.
pub fn amount(list: &Value, name: &str) -> Quantity {
    Quantity::from_value(list.get(name)).unwrap_or(Quantity::ZERO)
}

/// `requests` and `limits` of a container.
pub fn validate_requirements(resources: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let (limits, limits_path) = (resources.get("limits"), path.child("limits"));
    for (name, quantity) in limits.entries_at(&[]) {
        validate_container_resource(name, quantity, &limits_path.key(name), errors);
    }
    let requests_path = path.child("requests");
    for (name, requested) in resources.entries_at(&["requests"]) {
        validate_container_resource(name, requested, &requests_path.key(name), errors);
        let Ok(request) = Quantity::from_value(requested) else { continue };
        let has_limit = !limits.get(name).is_null();
        let limit = amount(limits, name);
        let shown = request.to_string();
        if has_limit && request != limit && !may_overcommit(name) {
            errors.invalid(&requests_path, shown, format!("must be equal to {name} limit of {limit}"));
        } else if has_limit && request > limit {
            errors.invalid(&requests_path, shown, format!("must be less than or equal to {name} limit of {limit}"));
        } else if !has_limit && !may_overcommit(name) {
            errors.required(&limits_path, "Limit must be set for non overcommitable resources");
        }
    }
    let names = |member: &str| resources.entries_at(&[member]).map(|(name, _)| name).collect::<Vec<_>>();
    let all = [names("limits"), names("requests")].concat();
    let has_huge_pages = all.iter().any(|name| name.starts_with("hugepages-"));
    if has_huge_pages && !all.contains(&"cpu") && !all.contains(&"memory") {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
}

fn validate_container_resource(name: &str, quantity: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    validate_resource_name(name, path, errors);
    let is_plain = !name.contains('/');
    let is_container = ["cpu", "memory", "ephemeral-storage"].contains(&name) || name.starts_with("hugepages-");
    if is_plain && !is_container {
        errors.invalid(path, name, "must be a standard resource for containers");
    } else if !is_plain && !is_native(name) && !is_extended(name) {
        errors.invalid(path, name, "doesn't follow extended resource name standard");
    }
    validate_amount(name, quantity, path, errors);
}

/// A resource's name: qualified, or one of the standard ones.
pub fn validate_resource_name(name: &str, path: &Path<'_>, errors: &mut ErrorList) {
    let messages = names::qualified_name(name);
    if !messages.is_empty() {
        errors.invalid_each(path, name, messages);
    } else if !name.contains('/') && !is_standard(name) {
        errors.invalid(path, name, "must be a standard resource type or fully qualified");
    }
}

/// An amount: a quantity, not negative, whole where the resource counts things.
pub fn validate_amount(name: &str, amount: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    match Quantity::from_value(amount) {
        Err(error) => errors.invalid(path, amount, error.to_string()),
        Ok(quantity) => {
            if quantity.is_negative() {
                errors.invalid(path, quantity.to_string(), crate::object_meta::NOT_NEGATIVE);
            }
            let counts = COUNTED.contains(&name) || is_extended(name);
            if counts && quantity.milli() % 1000 != 0 {
                errors.invalid(path, quantity.to_string(), "must be an integer");
            }
        }
    }
}

const COUNTED: &[&str] = &[
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

fn is_standard(name: &str) -> bool {
    let of_pods = ["cpu", "memory", "ephemeral-storage"];
    let bare = name.strip_prefix("requests.").or(name.strip_prefix("limits.")).unwrap_or(name);
    of_pods.contains(&bare)
        || name == "storage"
        || name == "requests.storage"
        || COUNTED.contains(&name)
        || bare.starts_with("hugepages-")
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A device or another resource that someone outside Kubernetes counts.
pub fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether more may be asked for than the limit... of these resources, requests may differ from limits.
fn may_overcommit(name: &str) -> bool {
    is_native(name) && !name.starts_with("hugepages-")
}

/// The class by which the node chooses whom to evict first.
pub fn qos_class(spec: &Value) -> &'static str {
    let members = ["containers", "initContainers"];
    let containers = members.iter().flat_map(|member| spec.list_at(&[member]));
    let (mut is_guaranteed, mut is_bound) = (true, false);
    for container in containers {
        for name in ["cpu", "memory"] {
            let request = amount(container.at(&["resources", "requests"]), name);
            let limit = amount(container.at(&["resources", "limits"]), name);
            is_bound |= !request.is_zero() || !limit.is_zero();
            is_guaranteed &= !limit.is_zero() && (request == limit || request.is_zero());
        }
    }
    match (is_bound, is_guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Whole units as an amount.
pub fn units(count: i64) -> Value {
    Quantity::from_units(count, Format::DecimalSi).to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::tree;

    #[test]
    fn classes_follow_requests_and_limits() {
        let cases = [
            (r#"{"containers":[{}]}"#, "BestEffort"),
            (r#"{"containers":[{"resources":{"requests":{"cpu":"1"}}}]}"#, "Burstable"),
            (
                r#"{"containers":[{"resources":{"requests":{"cpu":"1","memory":"1Gi"},"limits":{"cpu":"1000m","memory":"1Gi"}}}]}"#,
                "Guaranteed",
            ),
            (r#"{"containers":[{"resources":{"limits":{"cpu":"1"}}}]}"#, "Burstable"),
        ];
        for (spec, class) in cases {
            assert_eq!(qos_class(&tree(spec)), class, "{spec}");
        }
    }

    #[test]
    fn amounts_are_checked_as_upstream_does() {
        let resources = tree(r#"{"limits":{"cpu":"1","foo":"1"},"requests":{"cpu":"2","a.com/x":"1"}}"#);
        let mut errors = ErrorList::default();
        validate_requirements(&resources, &Path::new("resources"), &mut errors);
        let texts: Vec<String> = errors.errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "resources.limits[foo]: Invalid value: \"foo\": must be a standard resource type or fully qualified",
                "resources.limits[foo]: Invalid value: \"foo\": must be a standard resource for containers",
                "resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
                "resources.limits: Required value: Limit must be set for non overcommitable resources",
            ]
        );
    }

    #[test]
    fn amounts_are_written_in_canonical_form() {
        let mut list = tree(r#"{"cpu":0.5,"memory":"1024Mi","x":"?"}"#);
        canonical(&mut list);
        assert_eq!(list, tree(r#"{"cpu":"500m","memory":"1Gi","x":"?"}"#));
    }
}
