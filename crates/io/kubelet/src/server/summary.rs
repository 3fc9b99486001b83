//! `stats/summary`: the same as `metrics/resource`, as one document of JSON, with rates and what lies on disks. Source:
//! Kubernetes `kubelet/pkg/apis/stats/v1alpha1`.

use std::path::Path;

use coracle_proto::cri;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::request::Query;
use super::{Answer, json as json_answer, text};
use crate::node_context::NodeContext;
use crate::stats::{self, ContainerUsage, Machine, NODE, PodUsage, Room, number};

pub(super) async fn show(node: &NodeContext, query: &Query) -> Answer {
    let only_cpu_and_memory = query.get("only_cpu_and_memory") == Some("true");
    let measured = match stats::measure_rates(node).await {
        Ok(measured) => measured,
        Err(status) => return text(StatusCode::INTERNAL_SERVER_ERROR, status.message()),
    };
    let show = Show { node, room: Room::of(&node.options.root_dir).filter(|_| !only_cpu_and_memory) };
    let pods: Vec<Value> = measured.pods.iter().map(|pod| show.pod(pod)).collect();
    json_answer(&json!({"node": show.machine(&measured.machine), "pods": pods}))
}

/// Shows with what lies on disks where `room` is known, without elsewhere.
struct Show<'a> {
    node: &'a NodeContext,
    room: Option<Room>,
}

impl Show<'_> {
    fn machine(&self, machine: &Machine) -> Value {
        let mut told = Map::new();
        told.insert("nodeName".into(), json!(self.node.options.node_name));
        told.insert("startTime".into(), time(machine.booted_at));
        told.insert("cpu".into(), self.cpu(&machine.cpu, NODE));
        told.insert("memory".into(), memory(&machine.memory));
        told.insert("swap".into(), swap(&machine.swap));
        if let Some(room) = &self.room {
            let used = (room.used_bytes, room.inodes - room.inodes_free);
            told.insert("fs".into(), disk(machine.at, room, used));
            let rlimit =
                json!({"time": time(machine.at), "maxpid": machine.processes_max, "curproc": machine.processes});
            told.insert("rlimit".into(), rlimit);
        }
        Value::Object(told)
    }

    fn pod(&self, pod: &PodUsage) -> Value {
        let usage = &pod.usage;
        let containers: Vec<Value> = pod.containers.iter().map(|one| self.container(pod, one)).collect();
        let mut told = Map::new();
        told.insert("podRef".into(), json!({"name": pod.name, "namespace": pod.namespace, "uid": pod.uid}));
        told.insert("startTime".into(), time(pod.created_at));
        told.insert("containers".into(), json!(containers));
        told.extend(usage.cpu.as_ref().map(|cpu| ("cpu".into(), self.cpu(cpu, &pod.sandbox_id))));
        told.extend(usage.memory.as_ref().map(|used| ("memory".into(), memory(used))));
        if let Some(room) = &self.room {
            told.extend(usage.network.as_ref().map(|traffic| ("network".into(), network(traffic))));
            let own = pod.containers.iter().map(|one| add(layer(one), self.logs(pod, one)));
            let used = own.fold((0, 0), add);
            told.insert("ephemeral-storage".into(), disk(self.node.clock.now(), room, used));
        }
        let count = usage.process.as_ref().and_then(|process| number(process.process_count.as_ref()));
        told.extend(count.map(|count| ("process_stats".into(), json!({"process_count": count}))));
        Value::Object(told)
    }

    fn container(&self, pod: &PodUsage, one: &ContainerUsage) -> Value {
        let usage = &one.usage;
        let mut told = Map::new();
        told.insert("name".into(), json!(one.name));
        told.insert("startTime".into(), time(one.created_at));
        told.extend(usage.cpu.as_ref().map(|cpu| ("cpu".into(), self.cpu(cpu, &one.id))));
        told.extend(usage.memory.as_ref().map(|used| ("memory".into(), memory(used))));
        told.extend(usage.swap.as_ref().map(|used| ("swap".into(), swap(used))));
        if let Some(room) = &self.room {
            let at = usage.writable_layer.as_ref().map_or(self.node.clock.now(), |layer| stats::at(layer.timestamp));
            told.insert("rootfs".into(), disk(at, room, layer(one)));
            told.insert("logs".into(), disk(self.node.clock.now(), room, self.logs(pod, one)));
        }
        Value::Object(told)
    }

    fn cpu(&self, cpu: &cri::CpuUsage, key: &str) -> Value {
        let total = number(cpu.usage_core_nano_seconds.as_ref());
        // A runtime that counts rates itself knows best.
        let rate = number(cpu.usage_nano_cores.as_ref()).or_else(|| self.node.rates.rate(key));
        let fields = [("usageNanoCores", rate), ("usageCoreNanoSeconds", total)];
        numbers(time(stats::at(cpu.timestamp)), fields)
    }

    /// Bytes and files of a container's logs.
    fn logs(&self, pod: &PodUsage, one: &ContainerUsage) -> (u64, u64) {
        let folder = format!("{}_{}_{}", pod.namespace, pod.name, pod.uid);
        size_of(&self.node.options.log_dir.join(folder).join(&one.name))
    }
}

fn time(at: Timestamp) -> Value {
    json!(Timestamp::from_second(at.as_second()).unwrap_or(at).to_string())
}

/// What is not known is left out.
fn numbers<const N: usize>(time: Value, fields: [(&str, Option<u64>); N]) -> Value {
    let mut told = Map::from_iter([("time".to_owned(), time)]);
    told.extend(fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), json!(value?)))));
    Value::Object(told)
}

fn memory(used: &cri::MemoryUsage) -> Value {
    let fields = [
        ("availableBytes", number(used.available_bytes.as_ref())),
        ("usageBytes", number(used.usage_bytes.as_ref())),
        ("workingSetBytes", number(used.working_set_bytes.as_ref())),
        ("rssBytes", number(used.rss_bytes.as_ref())),
        ("pageFaults", number(used.page_faults.as_ref())),
        ("majorPageFaults", number(used.major_page_faults.as_ref())),
    ];
    numbers(time(stats::at(used.timestamp)), fields)
}

fn swap(used: &cri::SwapUsage) -> Value {
    let fields = [
        ("swapAvailableBytes", number(used.swap_available_bytes.as_ref())),
        ("swapUsageBytes", number(used.swap_usage_bytes.as_ref())),
    ];
    numbers(time(stats::at(used.timestamp)), fields)
}

fn network(traffic: &cri::NetworkUsage) -> Value {
    let interface = |one: &cri::NetworkInterfaceUsage| {
        let mut told = Map::from_iter([("name".to_owned(), json!(one.name))]);
        let fields = [
            ("rxBytes", &one.rx_bytes),
            ("rxErrors", &one.rx_errors),
            ("txBytes", &one.tx_bytes),
            ("txErrors", &one.tx_errors),
        ];
        told.extend(
            fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), json!(number(value.as_ref())?)))),
        );
        told
    };
    let mut told = traffic.default_interface.as_ref().map(interface).unwrap_or_default();
    told.insert("time".into(), time(stats::at(traffic.timestamp)));
    let all: Vec<Value> = traffic.interfaces.iter().map(|one| Value::Object(interface(one))).collect();
    told.insert("interfaces".into(), json!(all));
    Value::Object(told)
}

fn disk(at: Timestamp, room: &Room, (bytes, files): (u64, u64)) -> Value {
    let fields = [
        ("availableBytes", Some(room.available_bytes)),
        ("capacityBytes", Some(room.capacity_bytes)),
        ("usedBytes", Some(bytes)),
        ("inodesFree", Some(room.inodes_free)),
        ("inodes", Some(room.inodes)),
        ("inodesUsed", Some(files)),
    ];
    numbers(time(at), fields)
}

fn layer(one: &ContainerUsage) -> (u64, u64) {
    let layer = one.usage.writable_layer.as_ref();
    let of = |value: Option<&cri::UInt64Value>| number(value).unwrap_or(0);
    layer.map_or((0, 0), |layer| (of(layer.used_bytes.as_ref()), of(layer.inodes_used.as_ref())))
}

fn add(one: (u64, u64), other: (u64, u64)) -> (u64, u64) {
    (one.0 + other.0, one.1 + other.1)
}

fn size_of(folder: &Path) -> (u64, u64) {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| Some((file.metadata().ok()?.len(), 1))).fold((0, 0), add)
}
