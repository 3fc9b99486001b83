//! The table of plugins: one file each, in kube-scheduler's default order, which is the order in which they run and in
//! which the first rejection is reported; with the weights of the default profile.

mod default_binder;
mod default_preemption;
mod dynamic_resources;
mod gang_scheduling;
mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod node_declared_features;
mod node_name;
mod node_ports;
mod node_resources_balanced_allocation;
mod node_resources_fit;
mod node_unschedulable;
mod node_volume_limits;
mod pod_topology_spread;
mod priority_sort;
mod scheduling_gates;
mod taint_toleration;
mod volume_binding;
mod volume_restrictions;
mod volume_zone;

use std::sync::Arc;

use coracle_meta::{Gate, Gates};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::framework::Plugin;

pub(crate) use node_affinity::matches_node;

/// Makes a plugin from its arguments in `pluginConfig`; without, from the defaults.
pub type Make = fn(Option<&Value>) -> Result<Arc<dyn Plugin>, String>;

pub struct Entry {
    pub name: &'static str,
    /// How much its scores count.
    pub weight: i64,
    pub make: Make,
    /// There is no such plugin where it is off.
    pub gate: Option<Gate>,
}

impl Entry {
    pub fn is_on(&self, gates: Gates) -> bool {
        self.gate.is_none_or(|gate| gates.has(gate))
    }

    const fn gated(self, gate: Gate) -> Entry {
        Entry { gate: Some(gate), ..self }
    }
}

const fn entry(name: &'static str, weight: i64, make: Make) -> Entry {
    Entry { name, weight, make, gate: None }
}

pub static PLUGINS: [Entry; 21] = [
    entry("SchedulingGates", 0, |args| plain(args, scheduling_gates::SchedulingGates)),
    entry("PrioritySort", 0, |args| plain(args, priority_sort::PrioritySort)),
    entry("NodeUnschedulable", 0, |args| plain(args, node_unschedulable::NodeUnschedulable)),
    entry("NodeName", 0, |args| plain(args, node_name::NodeName)),
    entry("TaintToleration", 3, |args| plain(args, taint_toleration::TaintToleration)),
    entry("NodeAffinity", 2, node_affinity::NodeAffinity::make),
    entry("NodePorts", 0, |args| plain(args, node_ports::NodePorts)),
    entry("NodeResourcesFit", 1, node_resources_fit::NodeResourcesFit::make),
    entry("VolumeRestrictions", 0, |args| plain(args, volume_restrictions::VolumeRestrictions)),
    entry("NodeVolumeLimits", 0, |args| plain(args, node_volume_limits::NodeVolumeLimits)),
    entry("VolumeBinding", 0, volume_binding::VolumeBinding::make),
    entry("VolumeZone", 0, |args| plain(args, volume_zone::VolumeZone)),
    entry("PodTopologySpread", 2, pod_topology_spread::PodTopologySpread::make),
    entry("InterPodAffinity", 2, inter_pod_affinity::InterPodAffinity::make),
    entry("DynamicResources", 2, dynamic_resources::DynamicResources::make),
    entry("DefaultPreemption", 0, default_preemption::DefaultPreemption::make),
    entry(
        "NodeResourcesBalancedAllocation",
        1,
        node_resources_balanced_allocation::NodeResourcesBalancedAllocation::make,
    ),
    entry("ImageLocality", 1, |args| plain(args, image_locality::ImageLocality)),
    entry("DefaultBinder", 0, |args| plain(args, default_binder::DefaultBinder)),
    entry("NodeDeclaredFeatures", 0, |args| plain(args, node_declared_features::NodeDeclaredFeatures)),
    entry("GangScheduling", 0, |args| plain(args, gang_scheduling::GangScheduling)).gated(Gate::GangScheduling),
];

pub fn by_name(name: &str, gates: Gates) -> Option<&'static Entry> {
    PLUGINS.iter().find(|entry| entry.name == name && entry.is_on(gates))
}

/// A plugin without arguments.
fn plain(args: Option<&Value>, plugin: impl Plugin + 'static) -> Result<Arc<dyn Plugin>, String> {
    match args {
        None => Ok(Arc::new(plugin)),
        Some(_) => Err("takes no arguments".into()),
    }
}

/// Reads arguments strictly; `apiVersion` and `kind` may stand among them.
fn read<T: DeserializeOwned + Default>(args: Option<&Value>) -> Result<T, String> {
    let Some(args) = args else { return Ok(T::default()) };
    let mut args = args.clone();
    if let Some(map) = args.as_object_mut() {
        map.remove("apiVersion");
        map.remove("kind");
    }
    serde_json::from_value(args).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_and_table_agree() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/plugins");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut files: Vec<_> =
            files.filter(|name| name != "mod.rs").map(|name| name.trim_end_matches(".rs").replace('_', "")).collect();
        let mut table: Vec<_> = PLUGINS.iter().map(|entry| entry.name.to_lowercase()).collect();
        files.sort();
        table.sort();
        assert_eq!(files, table);
    }

    #[test]
    fn every_plugin_is_made_under_its_name() {
        for entry in &PLUGINS {
            assert_eq!((entry.make)(None).unwrap().name(), entry.name);
            assert!((entry.make)(Some(&serde_json::json!({"unknown": 1}))).is_err(), "{}", entry.name);
        }
    }
}
