//! Ingresses that name no class get the default one.

use coracle_meta::{Resource, Value};

use super::default_storage_class::default_of;
use crate::plugin::{Context, Plugin, Request, Verdict};

pub struct DefaultIngressClass;

const CLASSES: Resource = Resource::new("networking.k8s.io", "ingressclasses");
const MARK: &str = "ingressclass.kubernetes.io/is-default-class";

impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn mutate(&self, request: &Request<'_>, ingress: &mut Value, context: &Context<'_>) -> Verdict {
        let is_ingress = request.resource.group == "networking.k8s.io" && request.resource.plural == "ingresses";
        let annotation = ingress.at(&["metadata", "annotations", "kubernetes.io/ingress.class"]);
        let named = !ingress.at(&["spec", "ingressClassName"]).is_null() || !annotation.is_null();
        if !is_ingress || !request.creates() || named {
            return Verdict::Admit;
        }
        match default_of(context, &CLASSES, &[MARK]) {
            Some(name) => {
                ingress.set(&["spec", "ingressClassName"], name);
                Verdict::Mutate
            }
            None => Verdict::Admit,
        }
    }
}
