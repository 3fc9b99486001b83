//! What pods use of a resource, and which pods it can be told of. Source: Kubernetes
//! `pkg/controller/podautoscaler/replica_calculator.go`.

use std::collections::BTreeMap;

use coracle_meta::{LabelSelector, Resource};
use coracle_reconcile::{Answer, View};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::pods::{PODS, phase, pod_condition};
use crate::pv_binder::quantity;
use crate::shape::{Item, later, time};

pub const METRICS: Resource = Resource::new("metrics.k8s.io", "pods");
/// A pod's first usage of processors says little about what is to come.
const CPU_INITIALIZATION: SignedDuration = SignedDuration::from_secs(300);
const INITIAL_READINESS: SignedDuration = SignedDuration::from_secs(30);

/// What a decision about one metric looks at.
pub struct Look<'a> {
    pub pods: &'a [Item],
    pub answer: Option<&'a Answer>,
    pub now: Timestamp,
}

/// Thousandths of a resource by pod.
pub type Usage = BTreeMap<String, i64>;

/// Pods by what can be said of them.
pub struct Groups {
    pub usage: Usage,
    pub ready: i64,
    pub unready: Vec<String>,
    pub missing: Vec<String>,
}

/// The pods that a selector in text form chooses.
pub fn select(view: &dyn View, namespace: &str, selector: &str) -> Vec<Item> {
    let Ok(selector) = LabelSelector::parse(selector) else { return Vec::new() };
    let chosen = view.list(&PODS, Some(namespace)).into_iter().filter(|pod| selector.matches(&pod.meta.labels));
    Item::all(chosen.collect())
}

struct Sample {
    amount: i64,
    at: Option<Timestamp>,
    window: SignedDuration,
}

fn samples(objects: &[Value], resource: &str, container: Option<&str>) -> BTreeMap<String, Sample> {
    let mut found = BTreeMap::new();
    for object in objects {
        let Some(name) = object["metadata"]["name"].as_str() else { continue };
        let containers = object["containers"].as_array().into_iter().flatten();
        let mut chosen = containers.filter(|one| container.is_none_or(|name| one["name"] == name)).peekable();
        if chosen.peek().is_none() {
            continue;
        }
        let mut amount = Some(0);
        for one in chosen {
            let used = &one["usage"][resource];
            amount = amount.filter(|_| !used.is_null()).map(|sum: i64| sum.saturating_add(thousandths(used)));
        }
        let window = object["window"].as_str().and_then(|window| window.parse::<SignedDuration>().ok());
        if let Some(amount) = amount {
            let window = window.unwrap_or(SignedDuration::from_secs(60));
            found.insert(name.to_owned(), Sample { amount, at: time(&object["timestamp"]), window });
        }
    }
    found
}

pub fn thousandths(value: &Value) -> i64 {
    let nanos = quantity(value).nanos();
    i64::try_from((nanos + 999_999).div_euclid(1_000_000)).unwrap_or(i64::MAX)
}

/// Of all, as far as a number holds it.
pub fn total<'a>(amounts: impl Iterator<Item = &'a i64>) -> i64 {
    amounts.fold(0, |sum, amount| sum.saturating_add(*amount))
}

/// Sorts pods by whether their usage counts.
pub fn group(look: &Look<'_>, resource: &str, container: Option<&str>) -> Result<Groups, String> {
    let objects = match look.answer {
        Some(Answer::Objects(objects)) => objects.as_slice(),
        Some(Answer::Failed(status)) => {
            let why = &status.message;
            return Err(format!(
                "unable to get metrics for resource {resource}: unable to fetch metrics from resource metrics API: {why}"
            ));
        }
        _ => &[],
    };
    if objects.is_empty() {
        return Err(format!(
            "unable to get metrics for resource {resource}: no metrics returned from resource metrics API"
        ));
    }
    if look.pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".into());
    }
    let mut samples = samples(objects, resource, container);
    let mut groups = Groups { usage: Usage::new(), ready: 0, unready: Vec::new(), missing: Vec::new() };
    for pod in look.pods {
        if pod.meta().is_deleting() || phase(pod) == "Failed" {
            continue;
        }
        let name = pod.name().to_owned();
        if phase(pod) == "Pending" {
            groups.unready.push(name);
            continue;
        }
        let Some(sample) = samples.remove(&name) else {
            groups.missing.push(name);
            continue;
        };
        if resource == "cpu" && is_starting(pod, &sample, look.now) {
            groups.unready.push(name);
        } else {
            groups.ready += 1;
            groups.usage.insert(name, sample.amount);
        }
    }
    if groups.usage.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".into());
    }
    Ok(groups)
}

fn is_starting(pod: &Item, sample: &Sample, now: Timestamp) -> bool {
    let start = time(pod.at("/status/startTime"));
    let (Some(ready), Some(start)) = (pod_condition(pod, "Ready"), start) else { return true };
    let unready = ready["status"] == "False";
    let since = time(&ready["lastTransitionTime"]).unwrap_or(start);
    if now < later(start, CPU_INITIALIZATION) {
        return unready || sample.at.is_some_and(|at| at < later(since, sample.window));
    }
    unready && later(start, INITIAL_READINESS) > since
}

/// What pods ask for of a resource, in thousandths; an error where one does not tell.
pub fn requests(pods: &[Item], resource: &str, container: Option<&str>) -> Result<Usage, String> {
    let request = |pod: &Item| match container {
        None if is_set_as_a_whole(pod) => request_as_a_whole(pod, resource),
        _ => request_of_containers(pod, resource, container),
    };
    pods.iter().map(|pod| Ok((pod.name().to_owned(), request(pod)?))).collect()
}

/// Whether the pod itself requests anything, beside its containers.
fn is_set_as_a_whole(pod: &Item) -> bool {
    let requests = pod.at("/spec/resources/requests").as_object();
    requests.is_some_and(|requests| requests.keys().any(|name| is_of_pods(name)))
}

fn is_of_pods(resource: &str) -> bool {
    ["cpu", "memory"].contains(&resource) || resource.starts_with("hugepages-")
}

/// What the pod itself does not request is what its containers do.
fn request_as_a_whole(pod: &Item, resource: &str) -> Result<i64, String> {
    let whole = &pod.at("/spec/resources/requests")[resource];
    if is_of_pods(resource) && !whole.is_null() {
        return Ok(thousandths(whole));
    }
    let sidecars: Vec<&Value> = sidecars(pod).collect();
    let of = |one: &Value| one["resources"]["requests"].get(resource).map(thousandths);
    let all = pod.list("/spec/containers").iter().chain(sidecars).filter_map(of);
    all.reduce(i64::saturating_add)
        .ok_or_else(|| format!("missing pod-level request for {resource} in Pod {}", pod.name()))
}

fn sidecars(pod: &Item) -> impl Iterator<Item = &Value> {
    pod.list("/spec/initContainers").iter().filter(|one| one["restartPolicy"] == "Always")
}

fn request_of_containers(pod: &Item, resource: &str, container: Option<&str>) -> Result<i64, String> {
    let all = pod.list("/spec/containers").iter().chain(sidecars(pod));
    let mut chosen = all.filter(|one| container.is_none_or(|name| one["name"] == name)).peekable();
    if let (Some(container), None) = (container, chosen.peek()) {
        return Err(format!("container {container} not found in Pod {}", pod.name()));
    }
    let mut sum = 0_i64;
    for one in chosen {
        let request = &one["resources"]["requests"][resource];
        if request.is_null() {
            let container = one["name"].as_str().unwrap_or_default();
            return Err(format!("missing request for {resource} in container {container} of Pod {}", pod.name()));
        }
        sum = sum.saturating_add(thousandths(request));
    }
    Ok(sum)
}
