//! What a namespace may hold in all. A write that adds to what a quota counts is charged to it before it is stored.
//! Source: Kubernetes `apiserver/pkg/admission/plugin/resourcequota` and `pkg/quota/v1/evaluator/core`.

use coracle_meta::quantity::Format;
use coracle_meta::{LabelSelector, Quantity, Resource, Value};

use crate::plugin::{Answer, Ask, Charge, Context, Operation, Plugin, Request, Verdict, forbidden};
use crate::pods::{self, quantity};

pub struct ResourceQuota;

const QUOTAS: Resource = Resource::new("", "resourcequotas");

impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn validate(&self, request: &Request<'_>, object: &Value, context: &Context<'_>) -> Verdict {
        if request.namespace.is_empty() || IGNORED.contains(request.resource) || !handles(request, object) {
            return Verdict::Admit;
        }
        if let Some(Answer::Charged(Err(why))) = context.answers.last() {
            return forbidden(request, why);
        }
        let quotas = context.facts.list(&QUOTAS, Some(request.namespace));
        let quotas = quotas.iter().filter_map(|quota| Value::from_json(&quota.bytes).ok());
        let mut charges = Vec::new();
        for quota in quotas.filter(|quota| is_in_scope(quota, request, object)) {
            let name = quota.str_at(&["metadata", "name"]).to_owned();
            // What the quota's controller has taken up: before that nothing is bounded.
            let hard: Vec<&str> = quota.entries_at(&["status", "hard"]).map(|(resource, _)| resource).collect();
            let hard: Vec<&str> = hard.into_iter().filter(|resource| counts(request, resource)).collect();
            let missing = unspecified(request, object, &hard);
            if !missing.is_empty() {
                return forbidden(request, format!("failed quota: {name}: must specify {}", missing.join("; ")));
            }
            if hard.iter().any(|resource| quota.at(&["status", "used", resource]).is_null()) {
                let all = hard.join(",");
                return forbidden(request, format!("status unknown for quota: {name}, resources: {all}"));
            }
            let old = request.old.filter(|old| is_in_scope(&quota, request, old));
            let mut amounts = Vec::new();
            for resource in hard {
                match added(request, object, old, resource) {
                    Added::Negative => {
                        return forbidden(request, format!("quota usage is negative for resource(s): {resource}"));
                    }
                    Added::Nothing => {}
                    Added::Amount(amount) => amounts.push((resource.to_owned(), amount)),
                }
            }
            if !amounts.is_empty() {
                charges.push(Charge { namespace: request.namespace.to_owned(), quota: name, amounts });
            }
        }
        match charges.into_iter().nth(context.answers.len()) {
            Some(charge) => Verdict::Ask(Ask::Charge(charge)),
            None => Verdict::Admit,
        }
    }
}

/// Kinds that no quota counts.
const IGNORED: [Resource; 6] = [
    Resource::new("", "events"),
    Resource::new("events.k8s.io", "events"),
    Resource::new("authentication.k8s.io", "tokenreviews"),
    Resource::new("authorization.k8s.io", "localsubjectaccessreviews"),
    Resource::new("authorization.k8s.io", "selfsubjectaccessreviews"),
    Resource::new("authorization.k8s.io", "subjectaccessreviews"),
];

/// Which writes of a kind can change what a quota counts.
fn handles(request: &Request<'_>, object: &Value) -> bool {
    let (creates, updates) = (request.creates(), request.operation == Operation::Update);
    let core = if request.resource.group.is_empty() { request.resource.plural.as_ref() } else { "" };
    match (core, request.subresource) {
        ("pods", "") if updates => request.old.is_some_and(|old| is_terminating(old) != is_terminating(object)),
        ("pods", "resize") => updates,
        ("services" | "persistentvolumeclaims", "") => creates || updates,
        ("persistentvolumeclaims", "status") => updates,
        (_, "") => creates,
        _ => false,
    }
}

/// Whether a bound is about objects of the request's kind.
fn counts(request: &Request<'_>, resource: &str) -> bool {
    if resource == format!("count/{}", request.resource) {
        return true;
    }
    if !request.resource.group.is_empty() {
        return false;
    }
    match request.resource.plural.as_ref() {
        "pods" => resource == "pods" || split(resource).is_some_and(|(_, name)| name != "storage"),
        "services" => matches!(resource, "services" | "services.loadbalancers" | "services.nodeports"),
        "persistentvolumeclaims" => {
            let bare = resource.split_once(".storageclass.storage.k8s.io/").map_or(resource, |(_, bare)| bare);
            matches!(bare, "persistentvolumeclaims" | "requests.storage")
        }
        plural @ ("configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas") => plural == resource,
        _ => false,
    }
}

enum Added {
    Nothing,
    Amount(Quantity),
    /// The object claims less than nothing.
    Negative,
}

/// How much more of a resource stands once the write is done than `old` used of it.
fn added(request: &Request<'_>, object: &Value, old: Option<&Value>, resource: &str) -> Added {
    let Some(now) = usage(request, object, resource) else { return Added::Nothing };
    let nothing = Quantity::from_units(0, now.format());
    if now < nothing {
        return Added::Negative;
    }
    let before = old.and_then(|old| usage(request, old, resource)).unwrap_or(nothing);
    if now > before { Added::Amount(now.minus(before)) } else { Added::Nothing }
}

/// What one object counts for.
pub fn usage(request: &Request<'_>, object: &Value, resource: &str) -> Option<Quantity> {
    let one = || Some(Quantity::from_units(1, Format::DecimalSi));
    let counted = format!("count/{}", request.resource);
    if resource == counted {
        return one();
    }
    if !request.resource.group.is_empty() {
        return None;
    }
    match request.resource.plural.as_ref() {
        "pods" => pod_usage(object, resource),
        "services" => service_usage(object, resource),
        "persistentvolumeclaims" => claim_usage(object, resource),
        plural @ ("configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas") if plural == resource => {
            one()
        }
        _ => None,
    }
}

fn pod_usage(pod: &Value, resource: &str) -> Option<Quantity> {
    // A pod that has ended takes nothing.
    if matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed") {
        return None;
    }
    match resource {
        "pods" => Some(Quantity::from_units(1, Format::DecimalSi)),
        _ => {
            let (kind, name) = split(resource)?;
            pods::pod_total(pod, kind, name)
        }
    }
}

/// `requests.cpu` and `cpu` are what pods request.
fn split(resource: &str) -> Option<(&'static str, &str)> {
    match resource.split_once('.') {
        Some(("requests", name)) => Some(("requests", name)),
        Some(("limits", name)) => Some(("limits", name)),
        None if ["cpu", "memory", "ephemeral-storage"].contains(&resource) => Some(("requests", resource)),
        None if resource.starts_with("hugepages-") => Some(("requests", resource)),
        _ => None,
    }
}

fn service_usage(service: &Value, resource: &str) -> Option<Quantity> {
    let kind = service.str_at(&["spec", "type"]);
    let ports = service.list_at(&["spec", "ports"]);
    let count = match resource {
        "services" => 1,
        "services.loadbalancers" if kind == "LoadBalancer" => 1,
        "services.nodeports" if kind == "NodePort" => ports.len() as i64,
        "services.nodeports" if kind == "LoadBalancer" => {
            let allocates = service.at(&["spec", "allocateLoadBalancerNodePorts"]).as_bool() != Some(false);
            let given = ports.iter().filter(|port| port.int_at(&["nodePort"]).unwrap_or_default() != 0).count();
            if allocates { ports.len() as i64 } else { given as i64 }
        }
        _ => return None,
    };
    Some(Quantity::from_units(count, Format::DecimalSi))
}

fn claim_usage(claim: &Value, resource: &str) -> Option<Quantity> {
    let old_class = claim.at(&["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]);
    let class = old_class.as_str().unwrap_or_else(|| claim.str_at(&["spec", "storageClassName"]));
    let own = resource.strip_prefix(&format!("{class}.storageclass.storage.k8s.io/")).filter(|_| !class.is_empty());
    match own.unwrap_or(resource) {
        "persistentvolumeclaims" => Some(Quantity::from_units(1, Format::DecimalSi)),
        "requests.storage" => {
            // What a driver has set about to make counts, even where it has been taken back since.
            let allocated = quantity(claim.at(&["status", "allocatedResources", "storage"]));
            let asked = quantity(claim.at(&["spec", "resources", "requests", "storage"]))?;
            Some(allocated.map_or(asked, |allocated| asked.max(allocated)).whole())
        }
        _ => None,
    }
}

/// What a quota counts and a new pod does not say, container by container.
fn unspecified(request: &Request<'_>, pod: &Value, hard: &[&str]) -> Vec<String> {
    if !request.is_core("pods") || !request.creates() || !pod.at(&["spec", "resources"]).is_null() {
        return Vec::new();
    }
    let must = hard.iter().filter(|resource| {
        let compute = split(resource).is_some_and(|(_, name)| ["cpu", "memory", "ephemeral-storage"].contains(&name));
        compute && **resource != "ephemeral-storage" && !resource.ends_with(".ephemeral-storage")
    });
    let mut missing = Vec::new();
    for resource in must {
        let Some((kind, name)) = split(resource) else { continue };
        let silent = pods::containers(pod).filter(|one| one.at(&["resources", kind, name]).is_null());
        let names: Vec<&str> = silent.map(|one| one.str_at(&["name"])).collect();
        if !names.is_empty() {
            missing.push(format!("{resource} for: {}", names.join(",")));
        }
    }
    missing.sort();
    missing
}

fn is_in_scope(quota: &Value, request: &Request<'_>, object: &Value) -> bool {
    let simple =
        quota.list_at(&["spec", "scopes"]).iter().filter_map(Value::as_str).map(|scope| (scope, "Exists", &[][..]));
    let selectors = quota.list_at(&["spec", "scopeSelector", "matchExpressions"]).iter();
    let selectors =
        selectors.map(|one| (one.str_at(&["scopeName"]), one.str_at(&["operator"]), one.list_at(&["values"])));
    let mut scopes = simple.chain(selectors).peekable();
    if scopes.peek().is_none() {
        return true;
    }
    let core = if request.resource.group.is_empty() { request.resource.plural.as_ref() } else { "" };
    match core {
        "pods" => scopes.all(|(scope, operator, values)| matches_scope(object, scope, operator, values)),
        "persistentvolumeclaims" => scopes.all(|(scope, operator, values)| {
            let named: [&[&str]; 3] = [
                &["spec", "volumeAttributesClassName"],
                &["status", "currentVolumeAttributesClassName"],
                &["status", "modifyVolumeStatus", "targetVolumeAttributesClassName"],
            ];
            let classes = named.iter().map(|path| object.str_at(path)).filter(|class| !class.is_empty());
            let classes: Vec<&str> = classes.collect();
            let chosen = classes.iter().any(|class| selects(class, operator, values));
            scope == "VolumeAttributesClass" && (chosen || (classes.is_empty() && selects("", operator, values)))
        }),
        _ => false,
    }
}

/// Whether a class is one that a scope's operator and values choose.
fn selects(class: &str, operator: &str, values: &[Value]) -> bool {
    let listed = values.iter().any(|value| value.as_str() == Some(class));
    match operator {
        "In" => listed,
        "NotIn" => !listed,
        "DoesNotExist" => class.is_empty(),
        _ => !class.is_empty(),
    }
}

fn is_terminating(pod: &Value) -> bool {
    pod.int_at(&["spec", "activeDeadlineSeconds"]).is_some_and(|seconds| seconds >= 0)
}

/// No container asks for processor or memory, as the quality of service has it.
fn is_best_effort(pod: &Value) -> bool {
    let asks = |resources: &Value, kind: &str| {
        let named = ["cpu", "memory"].iter().filter_map(|name| quantity(resources.at(&[kind, name])));
        named.into_iter().any(|amount| !amount.is_zero())
    };
    let mut all = pods::containers(pod).map(|one| one.get("resources")).chain([pod.at(&["spec", "resources"])]);
    !all.any(|resources| asks(resources, "requests") || asks(resources, "limits"))
}

fn matches_scope(pod: &Value, scope: &str, operator: &str, values: &[Value]) -> bool {
    match scope {
        "Terminating" => is_terminating(pod),
        "NotTerminating" => !is_terminating(pod),
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => selects(pod.str_at(&["spec", "priorityClassName"]), operator, values),
        "CrossNamespacePodAffinity" => crosses(pod),
        _ => false,
    }
}

fn crosses(pod: &Value) -> bool {
    let kinds = ["podAffinity", "podAntiAffinity"];
    let terms = kinds.iter().flat_map(|kind| {
        let affinity = pod.at(&["spec", "affinity", kind]);
        let required = affinity.list_at(&["requiredDuringSchedulingIgnoredDuringExecution"]).iter();
        let preferred = affinity.list_at(&["preferredDuringSchedulingIgnoredDuringExecution"]).iter();
        required.chain(preferred.map(|term| term.get("podAffinityTerm")))
    });
    let mut terms = terms;
    terms.any(|term| {
        !term.list_at(&["namespaces"]).is_empty()
            || LabelSelector::from_value(term.get("namespaceSelector"))
                .is_ok_and(|_| !term.get("namespaceSelector").is_null())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_meta::User;

    fn request<'a>(resource: &'a Resource, user: &'a User) -> Request<'a> {
        Request { operation: Operation::Create, resource, subresource: "", namespace: "a", name: "x", user, old: None }
    }

    #[test]
    fn objects_count_for_what_they_are() {
        let user = User::admin();
        let pods = Resource::new("", "pods");
        let json = br#"{"spec":{"containers":[{"resources":{"requests":{"cpu":"100m"}}},{"resources":{"requests":{"cpu":"1"}}}]}}"#;
        let pod = Value::from_json(json).unwrap();
        let of = |resource: &str| usage(&request(&pods, &user), &pod, resource).map(|amount| amount.to_string());
        assert_eq!(of("requests.cpu").as_deref(), Some("1100m"));
        assert_eq!(of("cpu").as_deref(), Some("1100m"));
        assert_eq!(of("count/pods").as_deref(), Some("1"));
        assert_eq!(of("limits.cpu"), None);
        assert_eq!(of("services"), None);
    }

    #[test]
    fn a_claim_counts_for_the_larger_of_what_it_asks_and_what_was_set_about() {
        let (user, claims) = (User::admin(), Resource::new("", "persistentvolumeclaims"));
        let update = |subresource| Request { operation: Operation::Update, subresource, ..request(&claims, &user) };
        let claim = |asked: &str, allocated: &str| {
            let json = format!(
                r#"{{"metadata":{{"annotations":{{"volume.beta.kubernetes.io/storage-class":"s"}}}},"spec":{{"resources":{{"requests":{{"storage":"{asked}"}}}}}},"status":{{"allocatedResources":{{"storage":"{allocated}"}}}}}}"#
            );
            Value::from_json(json.as_bytes()).unwrap()
        };
        for (asked, allocated, used) in [("2Gi", "5Gi", "5Gi"), ("2Gi", "1Gi", "2Gi"), ("1500m", "1", "2")] {
            for resource in ["requests.storage", "s.storageclass.storage.k8s.io/requests.storage"] {
                let counted = usage(&update(""), &claim(asked, allocated), resource).unwrap();
                assert_eq!(counted.to_string(), used, "{asked} {allocated} {resource}");
            }
        }
        assert!(handles(&update("status"), &Value::map()) && !handles(&update("other"), &Value::map()));
    }

    #[test]
    fn a_counted_resource_must_be_named_by_every_container() {
        let user = User::admin();
        let pods = Resource::new("", "pods");
        let pod = Value::from_json(br#"{"spec":{"containers":[{"name":"a"},{"name":"b"}]}}"#).unwrap();
        let missing = unspecified(&request(&pods, &user), &pod, &["limits.cpu", "pods"]);
        assert_eq!(missing, ["limits.cpu for: a,b"]);
    }

    #[test]
    fn a_bound_is_about_the_kinds_it_names() {
        let user = User::admin();
        let (pods, maps) = (Resource::new("", "pods"), Resource::new("", "configmaps"));
        let count = |resource: &Resource, bound: &str| counts(&request(resource, &user), bound);
        assert!(count(&pods, "requests.cpu") && count(&pods, "count/pods") && count(&pods, "hugepages-2Mi"));
        assert!(!count(&pods, "requests.storage") && !count(&pods, "services") && !count(&maps, "pods"));
        assert!(count(&maps, "configmaps") && count(&maps, "count/configmaps"));
    }

    #[test]
    fn asking_for_nothing_is_best_effort() {
        let pod = |resources: &str| {
            Value::from_json(format!(r#"{{"spec":{{"containers":[{{"resources":{resources}}}]}}}}"#).as_bytes())
                .unwrap()
        };
        assert!(is_best_effort(&pod(r#"{"requests":{"cpu":"0","ephemeral-storage":"1Gi"}}"#)));
        assert!(!is_best_effort(&pod(r#"{"limits":{"memory":"1Mi"}}"#)));
    }
}
