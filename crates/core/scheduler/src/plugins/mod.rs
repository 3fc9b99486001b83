//! The table of plugins: one file each. Filters run in this order, so the cheap ones that reject most come first; the
//! weights are those of kube-scheduler's default profile.

mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_balanced_allocation;
mod node_resources_fit;
mod node_unschedulable;
mod pod_topology_spread;
mod taint_toleration;

pub use node_affinity::matches_node;
pub use taint_toleration::tolerates;

use crate::framework::Plugin;

pub static PLUGINS: [&dyn Plugin; 10] = [
    &node_unschedulable::NodeUnschedulable,
    &node_name::NodeName,
    &taint_toleration::TaintToleration,
    &node_affinity::NodeAffinity,
    &node_ports::NodePorts,
    &node_resources_fit::NodeResourcesFit,
    &pod_topology_spread::PodTopologySpread,
    &inter_pod_affinity::InterPodAffinity,
    &node_resources_balanced_allocation::NodeResourcesBalancedAllocation,
    &image_locality::ImageLocality,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_and_table_agree() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/plugins");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut files: Vec<_> =
            files.filter(|name| name != "mod.rs").map(|name| name.trim_end_matches(".rs").replace('_', "")).collect();
        let mut table: Vec<_> = PLUGINS.iter().map(|plugin| plugin.name().to_lowercase()).collect();
        files.sort();
        table.sort();
        assert_eq!(files, table);
    }
}
