//! How many replicas one metric asks for. Source: Kubernetes `pkg/controller/podautoscaler/replica_calculator.go`.

use coracle_meta::quantity::{Format, Quantity};
use serde_json::{Value, json};

use super::usage::{Groups, Look, Usage, group, requests, thousandths, total};

/// What one metric came to.
pub struct Proposal {
    pub replicas: i64,
    /// In words, `cpu resource utilization (percentage of request)`.
    pub name: String,
    /// As `status.currentMetrics` tells it.
    pub status: Value,
}

/// Why a metric is not to be had.
pub struct Failure {
    /// Of the event and of the condition.
    pub reason: &'static str,
    /// What failed, `failed to get cpu resource metric value`.
    pub what: String,
    pub why: String,
}

/// `tolerance` is for scaling down and up.
pub fn propose(metric: &Value, look: &Look<'_>, current: i64, tolerance: (f64, f64)) -> Result<Proposal, Failure> {
    let (source, container, reason) = match metric["type"].as_str().unwrap_or_default() {
        "Resource" => (&metric["resource"], None, "FailedGetResourceMetric"),
        "ContainerResource" => {
            let source = &metric["containerResource"];
            (source, source["container"].as_str(), "FailedGetContainerResourceMetric")
        }
        other => return Err(unserved(other)),
    };
    let resource = source["name"].as_str().unwrap_or_default();
    let fail = |why: String| Failure {
        reason,
        what: match container {
            Some(container) => format!("failed to get {container} container metric value"),
            None => format!("failed to get {resource} resource metric value"),
        },
        why: format!("failed to get {resource} {}: {why}", what(source)),
    };
    let groups = group(look, resource, container).map_err(fail)?;
    let target = &source["target"];
    let asked = match target["averageUtilization"].as_i64() {
        Some(percent) => {
            let requests = requests(look.pods, resource, container).map_err(fail)?;
            Asked::Share { requests, percent }
        }
        None => Asked::Amount(thousandths(&target["averageValue"])),
    };
    let replicas = replicas(&groups, &asked, current, tolerance).ok_or_else(|| fail(UNMATCHED.into()))?;
    let mean = total(groups.usage.values()) / groups.usage.len().max(1) as i64;
    let mut now = json!({"averageValue": amount(resource, mean)});
    let name = match &asked {
        Asked::Share { requests, .. } => {
            now["averageUtilization"] = json!(percent(requests, &groups.usage));
            format!("{resource} {} utilization (percentage of request)", kind(container))
        }
        Asked::Amount(_) => format!("{resource} resource"),
    };
    let mut told = json!({"name": resource, "current": now});
    let key = match container {
        Some(container) => {
            told["container"] = json!(container);
            "containerResource"
        }
        None => "resource",
    };
    Ok(Proposal { replicas, name, status: json!({"type": metric["type"], key: told}) })
}

fn kind(container: Option<&str>) -> &'static str {
    if container.is_some() { "container resource" } else { "resource" }
}

fn what(source: &Value) -> &'static str {
    if source["target"]["averageUtilization"].is_null() { "usage" } else { "utilization" }
}

fn unserved(kind: &str) -> Failure {
    let (reason, metric, api) = match kind {
        "Pods" => ("FailedGetPodsMetric", "pods metric value", "custom"),
        "Object" => ("FailedGetObjectMetric", "object metric value", "custom"),
        "External" => ("FailedGetExternalMetric", "external metric", "external"),
        _ => return unknown(kind),
    };
    let why = format!("unable to fetch metrics from {api} metrics API: no server serves {api}.metrics.k8s.io");
    Failure { reason, what: format!("failed to get {metric}"), why }
}

fn unknown(kind: &str) -> Failure {
    let why = format!("unknown metric source type {kind:?}");
    Failure { reason: "InvalidMetricSourceType", what: "failed to compute desired number of replicas".into(), why }
}

/// Thousandths as a quantity, of memory with a binary suffix.
fn amount(resource: &str, thousandths: i64) -> String {
    let quantity = match resource {
        "memory" if thousandths % 1000 == 0 => Quantity::from_units(thousandths / 1000, Format::BinarySi),
        _ => Quantity::from_milli(thousandths),
    };
    quantity.to_string()
}

enum Asked {
    /// A percentage of what each pod requests.
    Share { requests: Usage, percent: i64 },
    /// An amount for each pod.
    Amount(i64),
}

/// Where pods request nothing at all, no share of it can be told.
const UNMATCHED: &str = "no metrics returned matched known pods";

/// Usage in percent of what the same pods request.
fn percent(requests: &Usage, usage: &Usage) -> Option<i64> {
    let requested = total(usage.keys().filter_map(|pod| requests.get(pod)));
    (requested > 0).then(|| total(usage.values()).saturating_mul(100) / requested)
}

impl Asked {
    /// Usage by what was asked for; 1 is as wanted.
    fn ratio(&self, usage: &Usage) -> Option<f64> {
        let (used, wanted) = match self {
            Asked::Share { requests, percent: wanted } => (percent(requests, usage)?, *wanted),
            Asked::Amount(amount) => (total(usage.values()) / usage.len().max(1) as i64, *amount),
        };
        Some(used as f64 / wanted.max(1) as f64)
    }

    /// What a pod without metrics is taken to use while others use less than wanted.
    fn full(&self, pod: &str) -> i64 {
        match self {
            Asked::Share { requests, percent } => {
                requests.get(pod).copied().unwrap_or(0).saturating_mul((*percent).max(100)) / 100
            }
            Asked::Amount(amount) => *amount,
        }
    }
}

fn replicas(groups: &Groups, asked: &Asked, current: i64, (down, up): (f64, f64)) -> Option<i64> {
    let is_close = |ratio: f64| (1.0 - down..=1.0 + up).contains(&ratio);
    let ratio = asked.ratio(&groups.usage)?;
    let unready_counts = !groups.unready.is_empty() && ratio > 1.0;
    if !unready_counts && groups.missing.is_empty() {
        let wanted = (ratio * groups.ready as f64).ceil() as i64;
        return Some(if is_close(ratio) { current } else { wanted });
    }
    let mut usage = groups.usage.clone();
    // Whoever cannot be asked is taken to be on the cautious side; with what is wanted to the point nobody matters.
    for pod in groups.missing.iter().filter(|_| ratio != 1.0) {
        usage.insert(pod.clone(), if ratio < 1.0 { asked.full(pod) } else { 0 });
    }
    if unready_counts {
        usage.extend(groups.unready.iter().map(|pod| (pod.clone(), 0)));
    }
    let again = asked.ratio(&usage)?;
    let turned = (ratio < 1.0 && again > 1.0) || (ratio > 1.0 && again < 1.0);
    if is_close(again) || turned {
        return Some(current);
    }
    let wanted = (again * usage.len() as f64).ceil() as i64;
    let backwards = (again < 1.0 && wanted > current) || (again > 1.0 && wanted < current);
    Some(if backwards { current } else { wanted })
}
