//! What all pods of a node share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use coracle_client::Client;
use coracle_reconcile::View;
use coracle_rt::{Clock, Scope};
use k8s_openapi::api::core::v1::Pod;

use crate::events::EventSink;
use crate::options::Options;
use crate::runtime::Runtime;
use crate::stats::Rates;

pub(crate) struct NodeContext {
    pub options: Options,
    pub view: Arc<dyn View>,
    pub client: Client,
    pub runtime: Arc<dyn Runtime>,
    pub clock: Clock,
    pub scope: Scope,
    pub events: EventSink,
    pub memory_bytes: u64,
    pub rates: Rates,
    /// Of the node, as its status has it.
    pub allocatable: BTreeMap<String, String>,
}

impl NodeContext {
    /// Everything of one pod that lies on the disk, logs aside.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.options.root_dir.join("pods").join(uid)
    }

    /// Where the logs of a pod's containers lie.
    pub fn log_dir(&self, pod: &Pod) -> PathBuf {
        let part = |text: &Option<String>| text.clone().unwrap_or_default();
        let metadata = &pod.metadata;
        let name = format!("{}_{}_{}", part(&metadata.namespace), part(&metadata.name), part(&metadata.uid));
        self.options.log_dir.join(name)
    }
}

pub(crate) fn uid_of(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

pub(crate) fn name_of(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

pub(crate) fn namespace_of(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}
