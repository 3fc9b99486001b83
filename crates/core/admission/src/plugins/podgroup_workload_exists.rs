//! A PodGroup that names a template of a Workload is made only where that is.

use coracle_meta::{Resource, Value};

use crate::plugin::{Answer, Ask, Context, Plugin, Request, Verdict, forbidden};

const WORKLOADS: Resource = Resource::new("scheduling.k8s.io", "workloads");

pub struct PodGroupWorkloadExists;

impl Plugin for PodGroupWorkloadExists {
    fn name(&self) -> &'static str {
        "PodGroupWorkloadExists"
    }

    fn validate(&self, request: &Request<'_>, group: &Value, context: &Context<'_>) -> Verdict {
        let reference = group.at(&["spec", "podGroupTemplateRef", "workload"]);
        let is_new = request.is_of("scheduling.k8s.io", "podgroups") && request.creates();
        if !is_new || reference.is_null() {
            return Verdict::Admit;
        }
        let (name, template) = (reference.str_at(&["workloadName"]), reference.str_at(&["podGroupTemplateName"]));
        let found = match (context.facts.get(&WORKLOADS, request.namespace, name), context.answers.first()) {
            (Some(known), _) => Some(known),
            (None, Some(Answer::Object(found))) => found.clone(),
            (None, _) => {
                let namespace = request.namespace.to_owned();
                return Verdict::Ask(Ask::Read { resource: WORKLOADS, namespace, name: name.to_owned() });
            }
        };
        let Some(found) = found else {
            return forbidden(request, format!("PodGroup rejected: Workload {name:?} not found"));
        };
        if found.meta.is_deleting() {
            return forbidden(request, format!("PodGroup rejected: Workload {name:?} is being deleted"));
        }
        let workload = Value::from_json(&found.bytes).unwrap_or_default();
        let mut templates = workload.list_at(&["spec", "podGroupTemplates"]).iter();
        match templates.any(|known| known.str_at(&["name"]) == template) {
            true => Verdict::Admit,
            false => forbidden(
                request,
                format!("PodGroup rejected: PodGroupTemplate {template:?} not found in Workload {name:?}"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use coracle_meta::{Gates, Object, User};

    use super::*;
    use crate::plugin::{Nothing, Operation};

    fn told(group: &str, answers: &[Answer]) -> String {
        let (resource, user) = (Resource::new("scheduling.k8s.io", "podgroups"), User::new("eve", &[]));
        let request = Request {
            operation: Operation::Create,
            resource: &resource,
            subresource: "",
            namespace: "n",
            name: "g",
            user: &user,
            old: None,
        };
        let context = Context { facts: &Nothing, answers, suffix: "", gates: Gates::GANGS };
        let group = Value::from_json(group.as_bytes()).unwrap();
        match PodGroupWorkloadExists.validate(&request, &group, &context) {
            Verdict::Deny(status) => status.message,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn the_template_must_be_there() {
        let group = r#"{"spec":{"podGroupTemplateRef":{"workload":{"workloadName":"w","podGroupTemplateName":"t"}}}}"#;
        let workload = |metadata: &str, template: &str| {
            let text = format!(
                r#"{{"apiVersion":"scheduling.k8s.io/v1alpha2","kind":"Workload","metadata":{metadata},
                    "spec":{{"podGroupTemplates":[{{"name":"{template}"}}]}}}}"#
            );
            Answer::Object(Some(Arc::new(Object::new(text.into(), 1).unwrap())))
        };
        let (lives, goes) =
            (r#"{"name":"w","namespace":"n"}"#, r#"{"name":"w","deletionTimestamp":"2026-01-01T00:00:00Z"}"#);
        let refusal = |why: &str| format!("podgroups.scheduling.k8s.io \"g\" is forbidden: PodGroup rejected: {why}");
        for (answers, expected) in [
            (vec![Answer::Object(None)], refusal("Workload \"w\" not found")),
            (vec![workload(goes, "t")], refusal("Workload \"w\" is being deleted")),
            (vec![workload(lives, "u")], refusal("PodGroupTemplate \"t\" not found in Workload \"w\"")),
            (vec![workload(lives, "t")], "Admit".into()),
        ] {
            assert_eq!(told(group, &answers), expected);
        }
        assert!(told(group, &[]).starts_with("Ask("), "the store knows best");
        assert_eq!(told(r#"{"spec":{}}"#, &[]), "Admit");
    }
}
