//! A Job whose pods are a gang keeps its parallelism: the gang's size would no longer fit.

use coracle_meta::{Gate, Resource, Value};

use crate::plugin::{Answer, Ask, Context, Operation, Plugin, Request, Verdict, forbidden};

const GROUPS: Resource = Resource::new("scheduling.k8s.io", "podgroups");

pub struct JobValidation;

impl Plugin for JobValidation {
    fn name(&self) -> &'static str {
        "JobValidation"
    }

    fn validate(&self, request: &Request<'_>, job: &Value, context: &Context<'_>) -> Verdict {
        let parallelism = ["spec", "parallelism"];
        let Some(old) = request.old.filter(|_| request.operation == Operation::Update) else { return Verdict::Admit };
        if !request.is_of("batch", "jobs")
            || !context.gates.has(Gate::GenericWorkload)
            || job.at(&parallelism) == old.at(&parallelism)
        {
            return Verdict::Admit;
        }
        match old.at(&["spec", "template", "spec", "schedulingGroup", "podGroupName"]).as_str() {
            Some(name) => by_name(request, name, context),
            None => by_owner(request, old, context),
        }
    }
}

fn by_name(request: &Request<'_>, name: &str, context: &Context<'_>) -> Verdict {
    match context.answers.first() {
        Some(Answer::Object(Some(group))) => judge(request, name, &Value::from_json(&group.bytes).unwrap_or_default()),
        Some(_) => Verdict::Admit,
        None => {
            let namespace = request.namespace.to_owned();
            Verdict::Ask(Ask::Read { resource: GROUPS, namespace, name: name.to_owned() })
        }
    }
}

/// The groups that the Job controls.
fn by_owner(request: &Request<'_>, job: &Value, context: &Context<'_>) -> Verdict {
    let uid = job.str_at(&["metadata", "uid"]);
    for group in context.facts.list(&GROUPS, Some(request.namespace)) {
        if group.meta.controller().is_some_and(|owner| owner.uid == uid) {
            let verdict = judge(request, &group.meta.name, &Value::from_json(&group.bytes).unwrap_or_default());
            if matches!(verdict, Verdict::Deny(_)) {
                return verdict;
            }
        }
    }
    Verdict::Admit
}

fn judge(request: &Request<'_>, name: &str, group: &Value) -> Verdict {
    match group.at(&["spec", "schedulingPolicy", "gang"]).is_null() {
        true => Verdict::Admit,
        false => forbidden(
            request,
            format!("cannot change parallelism for a Job referencing gang-scheduled PodGroup {name:?}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use coracle_meta::{Gates, Object, User};

    use super::*;
    use crate::plugin::Facts;

    /// Every PodGroup there is.
    struct Known(Vec<Arc<Object>>);

    impl Facts for Known {
        fn get(&self, _: &Resource, _: &str, _: &str) -> Option<Arc<Object>> {
            None
        }

        fn list(&self, _: &Resource, _: Option<&str>) -> Vec<Arc<Object>> {
            self.0.clone()
        }
    }

    fn group(policy: &str) -> Arc<Object> {
        let text = format!(
            r#"{{"apiVersion":"scheduling.k8s.io/v1alpha2","kind":"PodGroup","metadata":{{"name":"g","namespace":"n",
                "ownerReferences":[{{"apiVersion":"batch/v1","kind":"Job","name":"j","uid":"u","controller":true}}]}},
                "spec":{{"schedulingPolicy":{{"{policy}":{{}}}}}}}}"#
        );
        Arc::new(Object::new(text.into(), 1).unwrap())
    }

    fn told(template: &str, parallelism: u32, policy: &str, gates: Gates) -> bool {
        let job = |parallelism: u32| {
            let text = format!(
                r#"{{"metadata":{{"uid":"u"}},"spec":{{"parallelism":{parallelism},"template":{{"spec":{template}}}}}}}"#
            );
            Value::from_json(text.as_bytes()).unwrap()
        };
        let (resource, user, old) = (Resource::new("batch", "jobs"), User::new("eve", &[]), job(2));
        let request = Request {
            operation: Operation::Update,
            resource: &resource,
            subresource: "",
            namespace: "n",
            name: "j",
            user: &user,
            old: Some(&old),
        };
        let (known, mut answers) = (Known(vec![group(policy)]), Vec::new());
        loop {
            let context = Context { facts: &known, answers: &answers, suffix: "", gates };
            match JobValidation.validate(&request, &job(parallelism), &context) {
                Verdict::Ask(Ask::Read { name, .. }) => {
                    let found = known.0.iter().find(|group| group.meta.name == name).cloned();
                    answers.push(Answer::Object(found));
                }
                Verdict::Deny(status) => {
                    let words = "cannot change parallelism for a Job referencing gang-scheduled PodGroup \"g\"";
                    assert_eq!(status.message, format!("jobs.batch \"j\" is forbidden: {words}"));
                    return false;
                }
                _ => return true,
            }
        }
    }

    #[test]
    fn a_gang_keeps_its_size() {
        let named = |name: &str| format!(r#"{{"schedulingGroup":{{"podGroupName":"{name}"}}}}"#);
        for (template, parallelism, policy, gates, admitted) in [
            (named("g"), 3, "gang", Gates::GANGS, false),
            (named("g"), 2, "gang", Gates::GANGS, true),
            (named("g"), 3, "basic", Gates::GANGS, true),
            (named("other"), 3, "gang", Gates::GANGS, true),
            (named("g"), 3, "gang", Gates::default(), true),
            ("{}".into(), 3, "gang", Gates::GANGS, false),
            ("{}".into(), 3, "basic", Gates::GANGS, true),
        ] {
            assert_eq!(told(&template, parallelism, policy, gates), admitted, "{template} {parallelism} {policy}");
        }
    }
}
