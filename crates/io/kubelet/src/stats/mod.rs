//! What the node, its pods and their containers use, measured when somebody asks and never otherwise. The runtime tells
//! of pods and containers, the kernel of the machine.

mod machine;
mod rates;

use std::collections::BTreeMap;

use coracle_proto::cri;
use jiff::Timestamp;

use crate::node_context::NodeContext;
use crate::observe::{CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID};
use crate::runtime::RuntimeError;

pub(crate) use machine::{Machine, Room};
pub(crate) use rates::Rates;

/// The machine's key among rates.
pub(crate) const NODE: &str = "/";

/// One look at everything.
pub(crate) struct Measured {
    pub machine: Machine,
    /// In the order of their namespaces and names.
    pub pods: Vec<PodUsage>,
}

pub(crate) struct PodUsage {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub sandbox_id: String,
    pub created_at: Timestamp,
    pub usage: cri::LinuxPodSandboxStats,
    /// Those that run, in the order of their names.
    pub containers: Vec<ContainerUsage>,
}

pub(crate) struct ContainerUsage {
    pub name: String,
    pub id: String,
    pub created_at: Timestamp,
    pub usage: cri::ContainerStats,
}

/// Looks once. Pods without a running sandbox and containers that do not run use nothing and are left out.
pub(crate) async fn measure(node: &NodeContext) -> Result<Measured, RuntimeError> {
    let runtime = node.runtime.as_ref();
    let running = cri::ContainerStateValue { state: cri::ContainerState::ContainerRunning as i32 };
    let filter = cri::ContainerFilter { state: Some(running), ..Default::default() };
    let started = runtime.list_containers(filter).await?.into_iter().map(|one| (one.id, one.created_at)).collect();
    let ready = cri::PodSandboxStateValue { state: cri::PodSandboxState::SandboxReady as i32 };
    let filter = cri::PodSandboxFilter { state: Some(ready), ..Default::default() };
    let sandboxes = runtime.list_pod_sandbox(filter).await?;
    let mut usage: BTreeMap<String, cri::LinuxPodSandboxStats> = BTreeMap::new();
    for stats in runtime.list_pod_sandbox_stats().await? {
        if let (Some(attributes), Some(linux)) = (stats.attributes, stats.linux) {
            usage.insert(attributes.id, linux);
        }
    }
    let mut pods: Vec<PodUsage> =
        sandboxes.into_iter().filter_map(|sandbox| Some(pod(usage.remove(&sandbox.id)?, sandbox, &started))).collect();
    pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    Ok(Measured { machine: Machine::read(node.clock.now()), pods })
}

/// Measures and brings the rates up to date. Where there is no earlier look to compare with, a second one follows.
pub(crate) async fn measure_rates(node: &NodeContext) -> Result<Measured, RuntimeError> {
    if !node.rates.is_warm(node.clock.now()) {
        node.rates.advance(&totals(&measure(node).await?));
        tokio::time::sleep(rates::APART).await;
    }
    let measured = measure(node).await?;
    node.rates.advance(&totals(&measured));
    Ok(measured)
}

/// Processor time used so far, by what used it.
fn totals(measured: &Measured) -> Vec<(String, cri::CpuUsage)> {
    let mut all = vec![(NODE.to_owned(), measured.machine.cpu)];
    for pod in &measured.pods {
        all.extend(pod.usage.cpu.map(|cpu| (pod.sandbox_id.clone(), cpu)));
        all.extend(pod.containers.iter().filter_map(|one| Some((one.id.clone(), one.usage.cpu?))));
    }
    all
}

fn pod(mut usage: cri::LinuxPodSandboxStats, sandbox: cri::PodSandbox, started: &BTreeMap<String, i64>) -> PodUsage {
    let label = |key: &str| sandbox.labels.get(key).cloned().unwrap_or_default();
    let stats = std::mem::take(&mut usage.containers).into_iter();
    let mut containers: Vec<ContainerUsage> = stats.filter_map(|stats| container(stats, started)).collect();
    containers.sort_by(|a, b| a.name.cmp(&b.name));
    PodUsage {
        namespace: label(POD_NAMESPACE),
        name: label(POD_NAME),
        uid: label(POD_UID),
        created_at: at(sandbox.created_at),
        sandbox_id: sandbox.id,
        usage,
        containers,
    }
}

fn container(stats: cri::ContainerStats, started: &BTreeMap<String, i64>) -> Option<ContainerUsage> {
    let attributes = stats.attributes.as_ref()?;
    let (id, created_at) = started.get_key_value(&attributes.id)?;
    let named = attributes.labels.get(CONTAINER_NAME).cloned();
    let name = named.or_else(|| attributes.metadata.as_ref().map(|metadata| metadata.name.clone()))?;
    Some(ContainerUsage { name, id: id.clone(), created_at: at(*created_at), usage: stats })
}

/// A time of the runtime's.
pub(crate) fn at(nanos: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or_default()
}

pub(crate) fn number(value: Option<&cri::UInt64Value>) -> Option<u64> {
    value.map(|value| value.value)
}
