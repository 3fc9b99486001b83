//! Namespaces on their way out: pods go first, then everything else, and the namespace when nothing is left.

use std::sync::Arc;
use std::time::Duration;

use coracle_meta::{Object, Resource};
use coracle_reconcile::{Answer, Ask, Controller, Key, Outcome, Plan, View, Watch, Write};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::pods::PODS;
use crate::shape::{Item, rfc3339, set_condition, status_of};

pub const NAMESPACES: Resource = Resource::new("", "namespaces");
const FINALIZER: &str = "kubernetes";
/// Until what was asked to go is looked for again.
const NEXT_LOOK: Duration = Duration::from_secs(1);
/// The same while others hold what is left by finalizers of theirs.
const NEXT_LOOK_AT_HELD: Duration = Duration::from_secs(8);
/// The same while there are pods: the last of them to go tells it anyway.
const NEXT_LOOK_AT_PODS: Duration = Duration::from_secs(5);

pub struct Namespace;

impl Controller for Namespace {
    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch {
                resource: NAMESPACES,
                keys: |_, namespace| if namespace.meta.is_deleting() { vec![Key::of(namespace)] } else { Vec::new() },
            },
            Watch { resource: PODS, keys: namespace_without_pods },
        ]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, last: &Outcome, now: Timestamp) -> Plan {
        let namespace = Item::get(view, &NAMESPACES, key).filter(|namespace| namespace.meta().is_deleting());
        let Some(namespace) = namespace else { return Plan::default() };
        if !namespace.list("/spec/finalizers").iter().any(|finalizer| finalizer == FINALIZER) {
            return Plan::default();
        }
        match last.answers.as_slice() {
            [Answer::Resources(resources)] => empty(view, &namespace, resources),
            [Answer::Failed(error)] => undiscovered(&namespace, &error.message, now),
            [] => Plan { asks: vec![Ask::Discovery], ..Plan::default() },
            answers => conclude(&namespace, answers, now),
        }
    }
}

/// The namespace that waited for its last pod to be gone.
fn namespace_without_pods(view: &dyn View, pod: &Object) -> Vec<Key> {
    let namespace = view.get(&NAMESPACES, "", &pod.meta.namespace).filter(|namespace| namespace.meta.is_deleting());
    let is_free = |namespace: &Arc<Object>| !view.holds(&PODS, &namespace.meta.name);
    namespace.filter(is_free).map(|namespace| Key::of(&namespace)).into_iter().collect()
}

/// Everything goes, but nothing else as long as there are pods: what they use must outlive them.
fn empty(view: &dyn View, namespace: &Item, resources: &[Value]) -> Plan {
    let name = namespace.name().to_owned();
    let pods_first = view.holds(&PODS, &name);
    let namespaced = resources.iter().filter(|resource| resource["namespaced"] == true);
    let named = namespaced.map(|resource| {
        let text = |key: &str| resource[key].as_str().unwrap_or_default().to_owned();
        Resource::owned(text("group"), text("name"))
    });
    let chosen = named.filter(|resource| !pods_first || *resource == PODS);
    let mut asks: Vec<Ask> = chosen.map(|resource| Ask::DeleteAll { resource, namespace: name.clone() }).collect();
    asks.push(Ask::Remaining { namespace: name });
    Plan { asks, ..Plan::default() }
}

fn undiscovered(namespace: &Item, message: &str, now: Timestamp) -> Plan {
    let mut status = status_of(namespace);
    let failure = condition("NamespaceDeletionDiscoveryFailure", "True", ("DiscoveryFailed", message), now);
    set_condition(&mut status, failure);
    let writes = namespace.status_write(&NAMESPACES, &status).into_iter().collect();
    Plan { writes, wake_after: Some(NEXT_LOOK), ..Plan::default() }
}

/// Tells what is left; with nothing left, the finalizer goes.
fn conclude(namespace: &Item, answers: &[Answer], now: Timestamp) -> Plan {
    let failures: Vec<&str> = answers
        .iter()
        .filter_map(|answer| match answer {
            Answer::Failed(error) => Some(error.message.as_str()),
            _ => None,
        })
        .collect();
    let left = answers.iter().find_map(|answer| match answer {
        Answer::Remaining { resources, finalizers } => Some((resources, finalizers)),
        _ => None,
    });
    let Some((resources, finalizers)) = left else {
        return undeleted(namespace, &failures.join(", "), now);
    };
    if resources.is_empty() && failures.is_empty() {
        return finalize(namespace);
    }
    let mut status = status_of(namespace);
    for condition in conditions(&failures, resources, finalizers, now) {
        set_condition(&mut status, condition);
    }
    let writes = namespace.status_write(&NAMESPACES, &status).into_iter().collect();
    let has_pods = resources.iter().any(|(name, _)| name == "pods");
    let next_look = match (has_pods, finalizers.is_empty()) {
        (true, _) => NEXT_LOOK_AT_PODS,
        (_, false) => NEXT_LOOK_AT_HELD,
        _ => NEXT_LOOK,
    };
    Plan { writes, wake_after: Some(next_look), ..Plan::default() }
}

fn undeleted(namespace: &Item, message: &str, now: Timestamp) -> Plan {
    let mut status = status_of(namespace);
    let failure = condition("NamespaceDeletionContentFailure", "True", ("ContentDeletionFailed", message), now);
    set_condition(&mut status, failure);
    let writes = namespace.status_write(&NAMESPACES, &status).into_iter().collect();
    Plan { writes, wake_after: Some(NEXT_LOOK), ..Plan::default() }
}

fn finalize(namespace: &Item) -> Plan {
    let mut object: Value = namespace.tree().clone();
    object["spec"]["finalizers"] =
        namespace.list("/spec/finalizers").iter().filter(|finalizer| *finalizer != FINALIZER).cloned().collect();
    let write = Write::Replace {
        resource: NAMESPACES,
        namespace: String::new(),
        name: namespace.name().into(),
        subresource: "finalize",
        object,
    };
    Plan { writes: vec![write], ..Plan::default() }
}

type Counts = [(String, usize)];

fn conditions(failures: &[&str], resources: &Counts, finalizers: &Counts, now: Timestamp) -> Vec<Value> {
    let discovered = ("ResourcesDiscovered", "All resources successfully discovered");
    let parsed = ("ParsedGroupVersions", "All legacy kube types successfully parsed");
    let deleted = ("ContentDeleted", "All content successfully deleted, may be waiting on finalization");
    let failed = format!("Failed to delete all resource types, {} remaining: {}", failures.len(), failures.join(", "));
    let content = match failures {
        [] => condition("NamespaceDeletionContentFailure", "False", deleted, now),
        _ => condition("NamespaceDeletionContentFailure", "True", ("ContentDeletionFailed", &failed), now),
    };
    vec![
        condition("NamespaceDeletionDiscoveryFailure", "False", discovered, now),
        condition("NamespaceDeletionGroupVersionParsingFailure", "False", parsed, now),
        content,
        remaining(resources, now),
        unfinished(finalizers, now),
    ]
}

fn remaining(resources: &Counts, now: Timestamp) -> Value {
    if resources.is_empty() {
        let removed = ("ContentRemoved", "All content successfully removed");
        return condition("NamespaceContentRemaining", "False", removed, now);
    }
    let mut parts: Vec<String> = resources
        .iter()
        // Upstream writes a core resource with the dot of its empty group.
        .map(|(name, count)| {
            let dot = if name.contains('.') { "" } else { "." };
            format!("{name}{dot} has {count} resource instances")
        })
        .collect();
    parts.sort();
    let message = format!("Some resources are remaining: {}", parts.join(", "));
    condition("NamespaceContentRemaining", "True", ("SomeResourcesRemain", &message), now)
}

fn unfinished(finalizers: &Counts, now: Timestamp) -> Value {
    if finalizers.is_empty() {
        let finished = ("ContentHasNoFinalizers", "All content-preserving finalizers finished");
        return condition("NamespaceFinalizersRemaining", "False", finished, now);
    }
    let mut parts: Vec<String> =
        finalizers.iter().map(|(name, count)| format!("{name} in {count} resource instances")).collect();
    parts.sort();
    let message = format!("Some content in the namespace has finalizers remaining: {}", parts.join(", "));
    condition("NamespaceFinalizersRemaining", "True", ("SomeFinalizersRemain", &message), now)
}

fn condition(kind: &str, status: &str, (reason, message): (&str, &str), now: Timestamp) -> Value {
    json!({"type": kind, "status": status, "lastTransitionTime": rfc3339(now), "reason": reason, "message": message})
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::{FakeView, Witness};

    fn view() -> FakeView {
        FakeView::new().with(
            NAMESPACES,
            json!({"metadata": {"name": "n", "deletionTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Terminating"}}),
        )
    }

    fn decide(view: &FakeView, answers: Vec<Answer>) -> Plan {
        let last = Outcome { answers, ..Outcome::default() };
        Namespace.decide(view, &Key::new("", "n"), &last, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn the_last_pod_to_go_wakes_its_namespace() {
        let pod = json!({"metadata": {"name": "a", "namespace": "n"}});
        let view = view();
        view.put(&PODS, pod);
        let object = view.get(&PODS, "n", "a").unwrap();
        assert_eq!(namespace_without_pods(&view, &object), []);
        view.remove(&PODS, "n", "a");
        assert_eq!(namespace_without_pods(&view, &object), [Key::new("", "n")]);
        view.remove(&NAMESPACES, "", "n");
        assert_eq!(namespace_without_pods(&view, &object), []);
    }

    #[test]
    fn pods_go_before_everything_else() {
        let resources = vec![
            json!({"group": "", "name": "secrets", "namespaced": true}),
            json!({"group": "", "name": "pods", "namespaced": true}),
            json!({"group": "", "name": "nodes", "namespaced": false}),
        ];
        let view = view();
        assert_eq!(decide(&view, Vec::new()).asks, [Ask::Discovery]);
        assert_eq!(decide(&view, vec![Answer::Resources(resources.clone())]).asks.len(), 3);
        view.put(&PODS, json!({"metadata": {"name": "a", "namespace": "n"}}));
        let asks = decide(&view, vec![Answer::Resources(resources)]).asks;
        assert_eq!(asks[0], Ask::DeleteAll { resource: PODS, namespace: "n".into() });
        assert_eq!(asks.len(), 2);
    }

    #[test]
    fn what_remains_is_told_and_an_empty_namespace_is_finalized() {
        let view = view();
        let left = Answer::Remaining { resources: vec![("pods".into(), 2)], finalizers: Vec::new() };
        view.apply(&decide(&view, vec![Answer::Done, left]));
        let conditions = view.json(&NAMESPACES, "", "n")["status"]["conditions"].clone();
        assert_eq!(conditions[3]["message"], "Some resources are remaining: pods. has 2 resource instances");
        let held = [("x".to_owned(), 1)].to_vec();
        let waits = [
            (vec![("pods".into(), 2)], held.clone(), NEXT_LOOK_AT_PODS),
            (vec![("configmaps".into(), 1)], held, NEXT_LOOK_AT_HELD),
            (vec![("configmaps".into(), 1)], Vec::new(), NEXT_LOOK),
        ];
        for (resources, finalizers, wait) in waits {
            let plan = decide(&view, vec![Answer::Done, Answer::Remaining { resources, finalizers }]);
            assert_eq!(plan.wake_after, Some(wait));
        }
        let nothing = Answer::Remaining { resources: Vec::new(), finalizers: Vec::new() };
        let plan = decide(&view, vec![Answer::Done, nothing]);
        let Write::Replace { object, subresource, .. } = &plan.writes[0] else { panic!("{plan:?}") };
        assert_eq!((&object["spec"]["finalizers"], *subresource), (&json!([]), "finalize"));
    }
}
