//! A pod's runtime class gives it its overhead and its place.

use coracle_meta::{Resource, Value};

use crate::plugin::{Context, Plugin, Request, Verdict, forbidden};

pub struct RuntimeClass;

const CLASSES: Resource = Resource::new("node.k8s.io", "runtimeclasses");

impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn mutate(&self, request: &Request<'_>, pod: &mut Value, context: &Context<'_>) -> Verdict {
        let name = pod.str_at(&["spec", "runtimeClassName"]).to_owned();
        if !request.is_core("pods") || !request.creates() || name.is_empty() {
            return Verdict::Admit;
        }
        let class = context.facts.get(&CLASSES, "", &name).and_then(|object| Value::from_json(&object.bytes).ok());
        let Some(class) = class else {
            return forbidden(request, format!("pod rejected: RuntimeClass \"{name}\" not found"));
        };
        let overhead = class.at(&["overhead", "podFixed"]);
        if !overhead.is_null() {
            let given = pod.at(&["spec", "overhead"]);
            if !given.is_null() && given != overhead {
                let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
                return forbidden(request, why);
            }
            pod.set(&["spec", "overhead"], overhead.clone());
        }
        for (key, value) in class.entries_at(&["scheduling", "nodeSelector"]) {
            let given = pod.at(&["spec", "nodeSelector", key]);
            if !given.is_null() && given != value {
                let why = format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}",
                    given.as_str().unwrap_or_default()
                );
                return forbidden(request, why);
            }
            pod.set(&["spec", "nodeSelector", key], value.clone());
        }
        let mut tolerations = pod.list_at(&["spec", "tolerations"]).to_vec();
        let more = class.list_at(&["scheduling", "tolerations"]).iter().filter(|one| !tolerations.contains(one));
        let more: Vec<Value> = more.cloned().collect();
        if !more.is_empty() {
            tolerations.extend(more);
            pod.set(&["spec", "tolerations"], tolerations);
        }
        Verdict::Mutate
    }
}
