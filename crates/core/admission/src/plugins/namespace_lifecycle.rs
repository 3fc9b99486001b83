//! Nothing is created in a namespace that is missing or going away, and the namespaces a cluster stands on stay.

use coracle_meta::status::Cause;
use coracle_meta::{Resource, Status, Value};

use crate::plugin::{Answer, Ask, Context, Operation, Plugin, Request, Verdict, forbidden};

pub struct NamespaceLifecycle;

const NAMESPACES: Resource = Resource::new("", "namespaces");
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn validate(&self, request: &Request<'_>, _: &Value, _: &Context<'_>) -> Verdict {
        let is_namespace = request.resource == &NAMESPACES;
        if is_namespace && request.operation == Operation::Delete && IMMORTAL.contains(&request.name) {
            return forbidden(request, "this namespace may not be deleted");
        }
        Verdict::Admit
    }

    /// Changes nothing, but comes before anything else is said about the object.
    fn mutate(&self, request: &Request<'_>, _: &mut Value, context: &Context<'_>) -> Verdict {
        if request.resource == &NAMESPACES || request.namespace.is_empty() || !request.creates() {
            return Verdict::Admit;
        }
        // Reviews ask about namespaces that may not exist.
        if request.resource.group == "authorization.k8s.io" {
            return Verdict::Admit;
        }
        let found = match context.answers.first() {
            Some(Answer::Object(found)) => found.clone(),
            _ => context.facts.get(&NAMESPACES, "", request.namespace),
        };
        let Some(namespace) = found else {
            // The cache may be behind a namespace made a moment ago.
            return match context.answers {
                [] => Verdict::Ask(Ask::Read {
                    resource: NAMESPACES,
                    namespace: String::new(),
                    name: request.namespace.to_owned(),
                }),
                _ => Verdict::Deny(Status::not_found(&NAMESPACES, request.namespace)),
            };
        };
        if namespace.meta.is_deleting() { terminating(request) } else { Verdict::Admit }
    }
}

fn terminating(request: &Request<'_>) -> Verdict {
    let why = format!("unable to create new content in namespace {} because it is being terminated", request.namespace);
    let mut status = Status::forbidden(request.resource, request.name, &why);
    if let Some(details) = &mut status.details {
        details.causes.push(Cause {
            reason: "NamespaceTerminating".into(),
            message: format!("namespace {} is being terminated", request.namespace),
            field: "metadata.namespace".into(),
        });
    }
    Verdict::Deny(status)
}
