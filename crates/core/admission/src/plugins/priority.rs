//! Pods get the number behind their priority class. Source: Kubernetes `plugin/pkg/admission/priority`.

use coracle_meta::{Resource, Value};

use crate::plugin::{Context, Plugin, Request, Verdict, forbidden};

pub struct Priority;

const CLASSES: Resource = Resource::new("scheduling.k8s.io", "priorityclasses");

impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn mutate(&self, request: &Request<'_>, pod: &mut Value, context: &Context<'_>) -> Verdict {
        if !request.is_core("pods") || !request.creates() {
            return Verdict::Admit;
        }
        let name = pod.str_at(&["spec", "priorityClassName"]).to_owned();
        let class = match name.as_str() {
            "" => default_class(context),
            name => match read(context, name) {
                Some(class) => Some(class),
                None => return forbidden(request, format!("no PriorityClass with name {name} was found")),
            },
        };
        let value = class.as_ref().and_then(|class| class.int_at(&["value"])).unwrap_or_default();
        let policy = class.as_ref().map_or("", |class| class.str_at(&["preemptionPolicy"])).to_owned();
        let policy = if policy.is_empty() { "PreemptLowerPriority".to_owned() } else { policy };
        if let Some(given) = pod.int_at(&["spec", "priority"]).filter(|given| *given != value) {
            return forbidden(
                request,
                format!(
                    "the integer value of priority ({given}) must not be provided in pod spec; priority admission \
                     controller computed {value} from the given PriorityClass name"
                ),
            );
        }
        let given = pod.str_at(&["spec", "preemptionPolicy"]);
        if !given.is_empty() && given != policy {
            return forbidden(
                request,
                format!(
                    "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority \
                     admission controller computed {policy} from the given PriorityClass name"
                ),
            );
        }
        if let Some(class) = class.filter(|_| name.is_empty()) {
            pod.set(&["spec", "priorityClassName"], class.str_at(&["metadata", "name"]));
        }
        pod.set(&["spec", "priority"], value);
        pod.set(&["spec", "preemptionPolicy"], policy);
        Verdict::Mutate
    }

    fn validate(&self, request: &Request<'_>, object: &Value, context: &Context<'_>) -> Verdict {
        if *request.resource != CLASSES || !object.bool_at(&["globalDefault"]) {
            return Verdict::Admit;
        }
        match default_class(context) {
            Some(other) if other.str_at(&["metadata", "name"]) != object.str_at(&["metadata", "name"]) => {
                let other = other.str_at(&["metadata", "name"]);
                let why = format!("PriorityClass {other} is already marked as default. Only one default can exist");
                forbidden(request, why)
            }
            _ => Verdict::Admit,
        }
    }
}

fn read(context: &Context<'_>, name: &str) -> Option<Value> {
    Value::from_json(&context.facts.get(&CLASSES, "", name)?.bytes).ok()
}

/// Of several that call themselves the default, the one of the least value.
fn default_class(context: &Context<'_>) -> Option<Value> {
    let classes = context.facts.list(&CLASSES, None);
    let classes = classes.iter().filter_map(|object| Value::from_json(&object.bytes).ok());
    classes.filter(|class| class.bool_at(&["globalDefault"])).min_by_key(|class| class.int_at(&["value"]))
}
