//! `coracle sim`: simulated nodes for any cluster.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use coracle_node::standalone::hollow::{self, Leave};
use coracle_node::{Capacity, Fleet, Range, Taint, kubeconfig};

use crate::standalone::{say, serve};

#[derive(Args)]
pub struct Sim {
    /// How many nodes there are to be
    #[arg(long, value_name = "N", required_unless_present = "remove")]
    nodes: Option<u32>,
    /// Remove the nodes at the end; without --nodes, remove what is left of earlier runs
    #[arg(long)]
    remove: bool,
    /// How the API server is reached, and as whom [default: $KUBECONFIG or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Begins the nodes' names; their numbers follow
    #[arg(long, value_name = "TEXT", default_value = "hollow-")]
    prefix: String,
    /// CPUs of a node
    #[arg(long, value_name = "QUANTITY", default_value = "64")]
    cpu: String,
    /// Memory of a node
    #[arg(long, value_name = "QUANTITY", default_value = "256Gi")]
    memory: String,
    /// Pods that a node takes
    #[arg(long, value_name = "N", default_value_t = 250)]
    pods: u32,
    /// Zones that the nodes are spread over
    #[arg(long, value_name = "N", default_value_t = 1)]
    zones: u32,
    /// A taint of every node, as key=value:Effect; may be given again
    #[arg(long, value_name = "TAINT")]
    taint: Vec<String>,
    /// Addresses of the nodes
    #[arg(long, value_name = "CIDR", default_value = "198.18.0.0/15")]
    node_cidr: String,
    /// Addresses of their pods
    #[arg(long, value_name = "CIDR", default_value = "100.64.0.0/10")]
    pod_cidr: String,
    /// Duration of the nodes' leases, which are renewed four times as often
    #[arg(long, value_name = "N", default_value_t = 40)]
    lease_seconds: u32,
    /// How long containers run that are to end, where no annotation says it
    #[arg(long, value_name = "N", default_value_t = 1)]
    job_seconds: u32,
}

/// Simulates until a signal, or removes what was left.
pub fn run(sim: Sim) -> Result<()> {
    let kubeconfig = sim.kubeconfig.clone().unwrap_or_else(kubeconfig::of_caller);
    let Some(nodes) = sim.nodes else {
        return serve(|| hollow::remove(&kubeconfig, &sim.prefix, say));
    };
    let leave = if sim.remove { Leave::Nothing } else { Leave::Nodes };
    let fleet = sim.fleet(nodes)?;
    serve(|| hollow::run(&kubeconfig, fleet, leave, say))
}

impl Sim {
    fn fleet(self, nodes: u32) -> Result<Fleet> {
        let mut taints = Vec::new();
        for text in &self.taint {
            match Taint::parse(text) {
                Some(taint) => taints.push(taint),
                None => bail!("--taint: {text:?} is not key=value:Effect"),
            }
        }
        Ok(Fleet {
            nodes,
            prefix: self.prefix,
            zones: self.zones,
            capacity: Capacity { cpu: self.cpu, memory: self.memory, pods: self.pods },
            taints,
            node_range: range("--node-cidr", &self.node_cidr)?,
            pod_range: range("--pod-cidr", &self.pod_cidr)?,
            lease_seconds: self.lease_seconds,
            job_seconds: self.job_seconds,
        })
    }
}

fn range(flag: &str, text: &str) -> Result<Range> {
    Range::parse(text).with_context(|| format!("{flag}: {text:?} is not a range such as 10.42.0.0/16"))
}
