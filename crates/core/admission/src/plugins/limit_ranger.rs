//! A namespace's LimitRanges: defaults for containers without requests or limits, and the least and most that
//! containers, pods and claims may ask for. Source: Kubernetes `plugin/pkg/admission/limitranger`.

use coracle_meta::{Resource, Value};

use crate::plugin::{Context, Plugin, Request, Verdict, forbidden};
use crate::pods::{self, quantity};

pub struct LimitRanger;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";
const RANGES: Resource = Resource::new("", "limitranges");

impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn mutate(&self, request: &Request<'_>, pod: &mut Value, context: &Context<'_>) -> Verdict {
        if !request.is_core("pods") || !request.creates() {
            return Verdict::Admit;
        }
        let mut set = Vec::new();
        for range in limits(context, request.namespace) {
            if range.str_at(&["type"]) != "Container" {
                continue;
            }
            for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
                for container in pod.list_at_mut(&["spec", list]) {
                    let name = container.str_at(&["name"]).to_owned();
                    for (kind, word, defaults) in
                        [("requests", "request", "defaultRequest"), ("limits", "limit", "default")]
                    {
                        let mut filled = fill(container, kind, range.get(defaults));
                        filled.sort();
                        set.extend(filled.into_iter().map(|key| format!("{key} {word} for {what} {name}")));
                    }
                }
            }
        }
        if set.is_empty() {
            return Verdict::Admit;
        }
        let told = format!("LimitRanger plugin set: {}", set.join("; "));
        pod.set(&["metadata", "annotations", ANNOTATION], told);
        Verdict::Mutate
    }

    fn validate(&self, request: &Request<'_>, object: &Value, context: &Context<'_>) -> Verdict {
        let is_pod = request.is_core("pods") && request.creates();
        let is_claim = request.is_core("persistentvolumeclaims");
        if !is_pod && !is_claim || request.namespace.is_empty() {
            return Verdict::Admit;
        }
        let mut wrong = Vec::new();
        for range in limits(context, request.namespace) {
            match (range.str_at(&["type"]), is_pod) {
                ("Container", true) => {
                    let containers = pods::containers(object);
                    containers.for_each(|one| check(&range, &one.get("resources").clone(), &mut wrong));
                }
                ("Pod", true) => check(&range, &totals(object, &range), &mut wrong),
                ("PersistentVolumeClaim", false) => check(&range, object.at(&["spec", "resources"]), &mut wrong),
                _ => {}
            }
        }
        match wrong.as_slice() {
            [] => Verdict::Admit,
            [one] => forbidden(request, one),
            many => forbidden(request, format!("[{}]", many.join(", "))),
        }
    }
}

fn limits(context: &Context<'_>, namespace: &str) -> Vec<Value> {
    let ranges = context.facts.list(&RANGES, Some(namespace));
    let ranges = ranges.iter().filter_map(|object| Value::from_json(&object.bytes).ok());
    ranges.flat_map(|range| range.list_at(&["spec", "limits"]).to_vec()).collect()
}

/// Fills what the container does not say, and tells the resources.
fn fill(container: &mut Value, kind: &str, defaults: &Value) -> Vec<String> {
    let mut filled = Vec::new();
    for (resource, amount) in defaults.entries_at(&[]) {
        if container.at(&["resources", kind, resource]).is_null() {
            container.set(&["resources", kind, resource], amount.clone());
            filled.push(resource.to_owned());
        }
    }
    filled
}

/// What the whole pod asks for, of each resource that the range names.
fn totals(pod: &Value, range: &Value) -> Value {
    let mut totals = Value::map();
    for bound in ["min", "max", "maxLimitRequestRatio"] {
        for (resource, _) in range.entries_at(&[bound]) {
            for kind in ["requests", "limits"] {
                if let Some(total) = pods::pod_total(pod, kind, resource) {
                    totals.set(&[kind, resource], total.to_string());
                }
            }
        }
    }
    totals
}

fn check(range: &Value, asked: &Value, wrong: &mut Vec<String>) {
    let what = range.str_at(&["type"]);
    let of = |kind: &str, resource: &str| quantity(asked.at(&[kind, resource]));
    for (resource, bound) in range.entries_at(&["min"]) {
        let Some(least) = quantity(bound) else { continue };
        let (request, limit) = (of("requests", resource), of("limits", resource));
        let start = format!("minimum {resource} usage per {what} is {least}");
        match request {
            None => wrong.push(format!("{start}.  No request is specified")),
            Some(request) if request < least => wrong.push(format!("{start}, but request is {request}")),
            _ => {}
        }
        if let Some(limit) = limit.filter(|limit| *limit < least) {
            wrong.push(format!("{start}, but limit is {limit}"));
        }
    }
    for (resource, bound) in range.entries_at(&["max"]) {
        let Some(most) = quantity(bound) else { continue };
        let (request, limit) = (of("requests", resource), of("limits", resource));
        let start = format!("maximum {resource} usage per {what} is {most}");
        let is_claim = what == "PersistentVolumeClaim";
        match limit {
            None if !is_claim => wrong.push(format!("{start}.  No limit is specified")),
            Some(limit) if limit > most => wrong.push(format!("{start}, but limit is {limit}")),
            _ => {
                if let Some(request) = request.filter(|request| *request > most) {
                    wrong.push(format!("{start}, but request is {request}"));
                }
            }
        }
    }
}
