//! `metrics/resource`: what the node, its pods and their containers use, as Prometheus and metrics-server read it. Source
//! of names and help texts: Kubernetes `pkg/kubelet/metrics/collectors/resource_metrics.go`.

use std::fmt::Write;

use coracle_proto::cri;
use http::header::{CONTENT_TYPE, HeaderValue};

use super::{Answer, StatusCode, text};
use crate::node_context::NodeContext;
use crate::stats::{self, Measured, number};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

pub(super) async fn show(node: &NodeContext) -> Answer {
    let body = match stats::measure(node).await {
        Ok(measured) => page(&measured),
        Err(error) => {
            tracing::warn!(component = "kubelet", %error, "measuring for metrics/resource");
            let mut page = Page::default();
            page.failed(1);
            page.0
        }
    };
    let mut answer = text(StatusCode::OK, &body);
    answer.headers_mut().insert(CONTENT_TYPE, TEXT);
    answer
}

/// Who a sample is about.
enum About<'a> {
    Node,
    Pod(&'a stats::PodUsage),
    Container(&'a stats::PodUsage, &'a stats::ContainerUsage),
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// `at_nanos` is 0 where a sample has no time of its own.
    fn sample(&mut self, name: &str, about: &About<'_>, value: f64, at_nanos: i64) {
        let labels = match about {
            About::Node => String::new(),
            About::Pod(pod) => format!("{{namespace=\"{}\",pod=\"{}\"}}", pod.namespace, pod.name),
            About::Container(pod, one) => {
                format!("{{container=\"{}\",namespace=\"{}\",pod=\"{}\"}}", one.name, pod.namespace, pod.name)
            }
        };
        let _ = match at_nanos {
            0 => writeln!(self.0, "{name}{labels} {value}"),
            at => writeln!(self.0, "{name}{labels} {value} {}", at / 1_000_000),
        };
    }

    fn cpu(&mut self, name: &str, about: &About<'_>, cpu: Option<&cri::CpuUsage>) {
        if let Some((cpu, used)) = cpu.and_then(|cpu| Some((cpu, number(cpu.usage_core_nano_seconds.as_ref())?))) {
            self.sample(name, about, used as f64 / 1e9, cpu.timestamp);
        }
    }

    fn memory(&mut self, name: &str, about: &About<'_>, memory: Option<&cri::MemoryUsage>) {
        if let Some((memory, used)) = memory.and_then(|found| Some((found, number(found.working_set_bytes.as_ref())?)))
        {
            self.sample(name, about, used as f64, memory.timestamp);
        }
    }

    fn swap(&mut self, name: &str, about: &About<'_>, swap: Option<&cri::SwapUsage>) {
        if let Some((swap, used)) = swap.and_then(|swap| Some((swap, number(swap.swap_usage_bytes.as_ref())?))) {
            self.sample(name, about, used as f64, swap.timestamp);
        }
    }

    fn failed(&mut self, count: u8) {
        let help = "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise";
        self.family("resource_scrape_error", "gauge", help);
        self.sample("resource_scrape_error", &About::Node, f64::from(count), 0);
    }
}

/// The families in the order of their names.
fn page(measured: &Measured) -> String {
    let mut page = Page::default();
    containers(&mut page, measured);
    let machine = &measured.machine;
    let name = "node_cpu_usage_seconds_total";
    page.family(name, "counter", "[STABLE] Cumulative cpu time consumed by the node in core-seconds");
    page.cpu(name, &About::Node, Some(&machine.cpu));
    let name = "node_memory_working_set_bytes";
    page.family(name, "gauge", "[STABLE] Current working set of the node in bytes");
    page.memory(name, &About::Node, Some(&machine.memory));
    let name = "node_swap_usage_bytes";
    page.family(name, "gauge", "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems");
    page.swap(name, &About::Node, Some(&machine.swap));
    let name = "pod_cpu_usage_seconds_total";
    page.family(name, "counter", "[STABLE] Cumulative cpu time consumed by the pod in core-seconds");
    measured.pods.iter().for_each(|pod| page.cpu(name, &About::Pod(pod), pod.usage.cpu.as_ref()));
    let name = "pod_memory_working_set_bytes";
    page.family(name, "gauge", "[STABLE] Current working set of the pod in bytes");
    measured.pods.iter().for_each(|pod| page.memory(name, &About::Pod(pod), pod.usage.memory.as_ref()));
    page.failed(0);
    page.0
}

fn containers(page: &mut Page, measured: &Measured) {
    let all = || measured.pods.iter().flat_map(|pod| pod.containers.iter().map(move |one| (pod, one)));
    let name = "container_cpu_usage_seconds_total";
    page.family(name, "counter", "[STABLE] Cumulative cpu time consumed by the container in core-seconds");
    all().for_each(|(pod, one)| page.cpu(name, &About::Container(pod, one), one.usage.cpu.as_ref()));
    let name = "container_memory_working_set_bytes";
    page.family(name, "gauge", "[STABLE] Current working set of the container in bytes");
    all().for_each(|(pod, one)| page.memory(name, &About::Container(pod, one), one.usage.memory.as_ref()));
    let name = "container_start_time_seconds";
    page.family(name, "gauge", "[STABLE] Start time of the container since unix epoch in seconds");
    for (pod, one) in all() {
        page.sample(name, &About::Container(pod, one), one.created_at.as_nanosecond() as f64 / 1e9, 0);
    }
    let name = "container_swap_usage_bytes";
    let help = "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems";
    page.family(name, "gauge", help);
    all().for_each(|(pod, one)| page.swap(name, &About::Container(pod, one), one.usage.swap.as_ref()));
}
