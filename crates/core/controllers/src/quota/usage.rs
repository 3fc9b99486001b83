//! What one object uses, by kind, and whether a quota's scopes choose it.

use std::collections::{BTreeMap, BTreeSet};

use coracle_meta::Resource;
use coracle_meta::quantity::{Format, Quantity};
use coracle_reconcile::Known;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::Amounts;
use crate::pods::{PODS, phase};
use crate::service::SERVICES;
use crate::shape::{Item, later, time};

const CLAIMS: Resource = Resource::new("", "persistentvolumeclaims");
/// Resources of the core group that a quota may count by their bare name.
const COUNTED: [&str; 5] = ["configmaps", "secrets", "replicationcontrollers", "resourcequotas", "services"];

pub fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

/// The resources whose objects the bounds are about.
pub fn counted(hard: &Amounts, known: &[Known]) -> BTreeSet<Resource> {
    let mut found = BTreeSet::new();
    for name in hard.keys() {
        if let Some(counted) = name.strip_prefix("count/") {
            let (plural, group) = counted.split_once('.').unwrap_or((counted, ""));
            let resource = Resource::owned(group, plural);
            if ["pods", "persistentvolumeclaims"].contains(&plural) && group.is_empty() || COUNTED.contains(&plural) {
                found.insert(Resource::owned(group, plural));
            } else if known.iter().any(|known| known.resource == resource) {
                found.insert(resource);
            }
        } else if COUNTED.contains(&name.as_str()) {
            found.insert(Resource::owned("", name.as_str()));
        } else if name.starts_with("services.") {
            found.insert(SERVICES);
        } else if name == "persistentvolumeclaims" || name == "requests.storage" || name.contains(".storageclass.") {
            found.insert(CLAIMS);
        } else {
            found.insert(PODS);
        }
    }
    found
}

/// What an object is charged.
pub fn of(resource: &Resource, item: &Item, now: Timestamp) -> Amounts {
    let one = Quantity::from_units(1, Format::DecimalSi);
    let mut amounts = Amounts::from([(format!("count/{resource}"), one)]);
    if *resource == PODS {
        of_pod(item, now, &mut amounts);
    } else if *resource == SERVICES {
        of_service(item, &mut amounts);
    } else if *resource == CLAIMS {
        of_claim(item, &mut amounts);
    } else if resource.group.is_empty() {
        amounts.insert(resource.plural.to_string(), one);
    }
    amounts
}

fn of_service(item: &Item, amounts: &mut Amounts) {
    let units = |count: i64| Quantity::from_units(count, Format::DecimalSi);
    let ports = item.list("/spec/ports");
    let (balancers, nodes) = match item.text("/spec/type") {
        "NodePort" => (0, ports.len() as i64),
        "LoadBalancer" if item.at("/spec/allocateLoadBalancerNodePorts") == false => {
            (1, ports.iter().filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0).count() as i64)
        }
        "LoadBalancer" => (1, ports.len() as i64),
        _ => (0, 0),
    };
    let counts = [("services", 1), ("services.loadbalancers", balancers), ("services.nodeports", nodes)];
    amounts.extend(counts.map(|(name, count)| (name.to_owned(), units(count))));
}

fn of_claim(item: &Item, amounts: &mut Amounts) {
    let one = Quantity::from_units(1, Format::DecimalSi);
    // What a driver has set about to make counts, even where it has been taken back since.
    let allocated = quantity(item.at("/status/allocatedResources/storage"));
    let storage = quantity(item.at("/spec/resources/requests/storage")).max(allocated).unwrap_or_default().whole();
    let class = match item.annotation("volume.beta.kubernetes.io/storage-class") {
        Some(class) => class,
        None => item.text("/spec/storageClassName"),
    };
    for (name, amount) in [("persistentvolumeclaims", one), ("requests.storage", storage)] {
        amounts.insert(name.into(), amount);
        if !class.is_empty() {
            amounts.insert(format!("{class}.storageclass.storage.k8s.io/{name}"), amount);
        }
    }
}

/// Finished pods count as objects only, and so do those that outlived their grace.
fn of_pod(pod: &Item, now: Timestamp, amounts: &mut Amounts) {
    if matches!(phase(pod), "Succeeded" | "Failed") || outlived(pod, now) {
        return;
    }
    amounts.insert("pods".into(), Quantity::from_units(1, Format::DecimalSi));
    for (name, amount) in peak(pod, "requests") {
        let bare = ["cpu", "memory", "ephemeral-storage"].contains(&name.as_str()) || name.starts_with("hugepages-");
        if bare {
            amounts.insert(name.clone(), amount);
        }
        amounts.insert(format!("requests.{name}"), amount);
    }
    for (name, amount) in peak(pod, "limits") {
        amounts.insert(format!("limits.{name}"), amount);
    }
}

fn outlived(pod: &Item, now: Timestamp) -> bool {
    grace_end(pod).is_some_and(|end| now > end)
}

/// When a pod on its way out has had twice the time it was given.
pub fn grace_end(pod: &Item) -> Option<Timestamp> {
    let grace = pod.at("/metadata/deletionGracePeriodSeconds").as_i64()?;
    Some(later(time(pod.at("/metadata/deletionTimestamp"))?, SignedDuration::from_secs(grace)))
}

/// The most a pod asks for at any moment: its containers with the sidecars together, or one init container with the
/// sidecars started before it, and the overhead.
fn peak(pod: &Item, what: &str) -> Amounts {
    let mut running = Amounts::new();
    for container in pod.list("/spec/containers") {
        add(&mut running, &resources(container, what));
    }
    let (mut sidecars, mut initial) = (Amounts::new(), Amounts::new());
    for container in pod.list("/spec/initContainers") {
        let own = resources(container, what);
        if container["restartPolicy"] == "Always" {
            add(&mut running, &own);
            add(&mut sidecars, &own);
            raise(&mut initial, &sidecars);
        } else {
            let mut together = own;
            add(&mut together, &sidecars);
            raise(&mut initial, &together);
        }
    }
    raise(&mut running, &initial);
    let whole = &pod.at("/spec/resources")[what];
    for (name, value) in whole.as_object().into_iter().flatten() {
        if let Some(amount) = quantity(value) {
            running.insert(name.clone(), amount);
        }
    }
    for (name, value) in pod.at("/spec/overhead").as_object().into_iter().flatten() {
        let Some(amount) = quantity(value) else { continue };
        match running.get_mut(name) {
            Some(sum) => *sum = sum.plus(amount),
            None if what == "requests" => {
                running.insert(name.clone(), amount);
            }
            None => {}
        }
    }
    running
}

fn resources(container: &Value, what: &str) -> Amounts {
    let map = container["resources"][what].as_object().into_iter().flatten();
    map.filter_map(|(name, value)| Some((name.clone(), quantity(value)?))).collect::<BTreeMap<_, _>>()
}

fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let entry = sum.entry(name.clone()).or_default();
        *entry = entry.plus(*amount);
    }
}

fn raise(to: &mut Amounts, least: &Amounts) {
    for (name, amount) in least {
        let entry = to.entry(name.clone()).or_insert(*amount);
        if amount.nanos() > entry.nanos() {
            *entry = *amount;
        }
    }
}

/// Whether every scope of the quota chooses the object; scopes choose among pods, and one of them among volume claims.
pub fn is_in_scope(quota: &Item, resource: &Resource, item: &Item) -> bool {
    let plain =
        quota.list("/spec/scopes").iter().map(|scope| (scope.as_str().unwrap_or_default(), "Exists", &Value::Null));
    let chosen = quota.list("/spec/scopeSelector/matchExpressions").iter().map(|rule| {
        let text = |key: &str| rule[key].as_str().unwrap_or_default();
        (text("scopeName"), text("operator"), &rule["values"])
    });
    plain.chain(chosen).all(|(scope, operator, values)| match scope {
        "VolumeAttributesClass" => *resource == CLAIMS && claim_in_scope(item, operator, values),
        _ => *resource == PODS && pod_in_scope(item, scope, operator, values),
    })
}

/// By any of the classes that a claim has or is to have.
fn claim_in_scope(claim: &Item, operator: &str, values: &Value) -> bool {
    let named = [
        "/spec/volumeAttributesClassName",
        "/status/currentVolumeAttributesClassName",
        "/status/modifyVolumeStatus/targetVolumeAttributesClassName",
    ];
    let classes: Vec<&str> = named.iter().map(|path| claim.text(path)).filter(|class| !class.is_empty()).collect();
    match classes.is_empty() {
        true => selects("", operator, values),
        false => classes.iter().any(|class| selects(class, operator, values)),
    }
}

/// Whether a scope's operator and values choose a class; empty is none.
fn selects(class: &str, operator: &str, values: &Value) -> bool {
    let listed = values.as_array().is_some_and(|values| values.iter().any(|value| value == class));
    match operator {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => !class.is_empty(),
        _ => class.is_empty(),
    }
}

fn pod_in_scope(pod: &Item, scope: &str, operator: &str, values: &Value) -> bool {
    let terminating = pod.at("/spec/activeDeadlineSeconds").as_i64().is_some();
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => selects(pod.text("/spec/priorityClassName"), operator, values),
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

fn is_best_effort(pod: &Item) -> bool {
    let containers = pod.list("/spec/containers").iter().chain(pod.list("/spec/initContainers"));
    let asks = |one: &Value, what: &str| {
        let own = resources(one, what);
        own.iter().any(|(name, amount)| ["cpu", "memory"].contains(&name.as_str()) && !amount.is_zero())
    };
    let mut all = containers.chain([pod.at("/spec")]);
    !all.any(|one| asks(one, "requests") || asks(one, "limits"))
}

fn crosses_namespaces(pod: &Item) -> bool {
    let terms = ["podAffinity", "podAntiAffinity"].into_iter().flat_map(|kind| {
        let affinity = &pod.at("/spec/affinity")[kind];
        let hard = affinity["requiredDuringSchedulingIgnoredDuringExecution"].as_array().into_iter().flatten();
        let soft = affinity["preferredDuringSchedulingIgnoredDuringExecution"].as_array().into_iter().flatten();
        hard.chain(soft.map(|weighted| &weighted["podAffinityTerm"])).collect::<Vec<_>>()
    });
    let named = |term: &Value| term["namespaces"].as_array().is_some_and(|list| !list.is_empty());
    terms.into_iter().any(|term| named(term) || !term["namespaceSelector"].is_null())
}
