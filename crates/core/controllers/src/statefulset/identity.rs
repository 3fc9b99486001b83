//! Who a pod of a set is: its ordinal in its name, its labels, host name and claims.

use serde_json::{Value, json};

use super::{Decision, Revision, start_of};
use crate::pods;
use crate::shape::Item;

pub const REVISION_LABEL: &str = "controller-revision-hash";
const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

fn split(pod: &Item) -> Option<(&str, i64)> {
    let (parent, ordinal) = pod.name().rsplit_once('-')?;
    let digits = !ordinal.is_empty() && ordinal.bytes().all(|byte| byte.is_ascii_digit());
    Some((parent, ordinal.parse::<i32>().ok().filter(|_| digits)?.into()))
}

/// The name of the set that a pod's name speaks of.
pub fn parent_of(pod: &Item) -> &str {
    split(pod).map_or("", |(parent, _)| parent)
}

pub fn ordinal_of(pod: &Item) -> Option<i64> {
    split(pod).map(|(_, ordinal)| ordinal)
}

pub fn claim_name(template: &Value, set: &Item, ordinal: i64) -> String {
    format!("{}-{}-{ordinal}", template["metadata"]["name"].as_str().unwrap_or_default(), set.name())
}

impl Decision<'_> {
    pub(super) fn pod_name(&self, ordinal: i64) -> String {
        format!("{}-{ordinal}", self.set.name())
    }

    /// The revision a new pod is made of: the former one below the partition.
    pub(super) fn revision_for(&self, ordinal: i64) -> &Revision {
        let rolling = self.set.at("/spec/updateStrategy/rollingUpdate");
        let partition = match rolling.is_null() {
            true if self.set.at("/spec/updateStrategy/type") == "RollingUpdate" => {
                self.set.int("/status/currentReplicas")
            }
            true => 0,
            false => rolling["partition"].as_i64().unwrap_or(0),
        };
        if ordinal < start_of(&self.set) + partition { &self.current } else { &self.update }
    }

    pub(super) fn pod(&self, ordinal: i64) -> Value {
        let revision = self.revision_for(ordinal);
        let owner = self.set.controller_reference("apps/v1", "StatefulSet");
        let mut pod = pods::from_template(&revision.template, &self.set, owner);
        let name = self.pod_name(ordinal);
        if let Some(metadata) = pod["metadata"].as_object_mut() {
            metadata.shift_remove("generateName");
        }
        pod["metadata"]["name"] = json!(name);
        pod["metadata"]["labels"][NAME_LABEL] = json!(name);
        pod["metadata"]["labels"][INDEX_LABEL] = json!(ordinal.to_string());
        pod["metadata"]["labels"][REVISION_LABEL] = json!(revision.name);
        pod["spec"]["hostname"] = json!(name);
        let service = self.set.text("/spec/serviceName");
        if !service.is_empty() {
            pod["spec"]["subdomain"] = json!(service);
        }
        self.mount(&mut pod["spec"], ordinal);
        pod
    }

    /// Volumes of claim templates take the place of volumes of the same name.
    fn mount(&self, spec: &mut Value, ordinal: i64) {
        let templates = self.set.list("/spec/volumeClaimTemplates");
        if templates.is_empty() {
            return;
        }
        let mut volumes: Vec<Value> = templates
            .iter()
            .map(|template| {
                let claim = claim_name(template, &self.set, ordinal);
                json!({"name": template["metadata"]["name"], "persistentVolumeClaim": {"claimName": claim}})
            })
            .collect();
        let taken = |volume: &&Value| templates.iter().any(|template| template["metadata"]["name"] == volume["name"]);
        let own: Vec<Value> =
            spec["volumes"].as_array().into_iter().flatten().filter(|volume| !taken(volume)).cloned().collect();
        volumes.extend(own);
        spec["volumes"] = json!(volumes);
    }

    /// The labels by which services find a pod, where a pod lost them.
    pub(super) fn identity_patch(&self, pod: &Item, ordinal: i64) -> Option<Value> {
        let is_named = pod.meta().label(NAME_LABEL) == Some(pod.name());
        let labels = json!({NAME_LABEL: pod.name(), INDEX_LABEL: ordinal.to_string()});
        (!is_named).then(|| json!({"metadata": {"labels": labels}}))
    }
}
