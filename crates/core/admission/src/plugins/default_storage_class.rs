//! Claims that name no class get the default one: of several the newest, then the first by name.

use coracle_meta::{Resource, Value};

use crate::plugin::{Context, Plugin, Request, Verdict};

pub struct DefaultStorageClass;

const CLASSES: Resource = Resource::new("storage.k8s.io", "storageclasses");
const MARKS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn mutate(&self, request: &Request<'_>, claim: &mut Value, context: &Context<'_>) -> Verdict {
        let named = |claim: &Value| {
            let annotation = claim.at(&["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]);
            !claim.at(&["spec", "storageClassName"]).is_null() || !annotation.is_null()
        };
        if !request.is_core("persistentvolumeclaims") || !request.creates() || named(claim) {
            return Verdict::Admit;
        }
        match default_of(context, &CLASSES, &MARKS) {
            Some(name) => {
                claim.set(&["spec", "storageClassName"], name);
                Verdict::Mutate
            }
            None => Verdict::Admit,
        }
    }
}

/// The name of the newest object that an annotation marks as the default.
pub fn default_of(context: &Context<'_>, resource: &Resource, marks: &[&str]) -> Option<String> {
    let all = context.facts.list(resource, None);
    let all = all.iter().filter_map(|object| Value::from_json(&object.bytes).ok());
    let marked =
        all.filter(|class| marks.iter().any(|mark| class.str_at(&["metadata", "annotations", mark]) == "true"));
    let mut found: Vec<(String, String)> = marked
        .map(|class| {
            let text = |key| class.str_at(&["metadata", key]).to_owned();
            (text("creationTimestamp"), text("name"))
        })
        .collect();
    found.sort_by(|left, right| right.0.cmp(&left.0).then_with(|| left.1.cmp(&right.1)));
    found.into_iter().next().map(|(_, name)| name)
}
