//! What a table says of a pod: how many containers are ready, one word of state, restarts.

use coracle_meta::{Value, time};
use jiff::Timestamp;

pub struct Summary {
    pub ready: String,
    pub status: String,
    pub restarts: String,
}

/// Restarts counted, and when the last one was.
#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &Value) {
        self.count += container.int_at(&["restartCount"]).unwrap_or_default();
        let finished = time::parse(container.str_at(&["lastState", "terminated", "finishedAt"]));
        self.last = self.last.max(finished);
    }

    fn text(&self, now: Timestamp) -> String {
        match self.last {
            Some(last) if self.count != 0 => {
                let ago = time::human_duration(now.as_second() - last.as_second());
                format!("{} ({ago} ago)", self.count)
            }
            _ => self.count.to_string(),
        }
    }
}

/// What the init containers say: the state while they run, and what counts afterwards.
struct Initialization {
    reason: Option<String>,
    all: Restarts,
    sidecars: Restarts,
    ready: usize,
}

pub fn of(pod: &Value, now: Timestamp) -> Summary {
    let init = initialization(pod);
    let sidecar_count = pod.list_at(&["spec", "initContainers"]).iter().filter(|one| is_sidecar(one)).count();
    let total = pod.list_at(&["spec", "containers"]).len() + sidecar_count;
    let mut ready = init.ready;
    let mut restarts = init.all;
    let is_initialized = condition(pod, "Initialized").is_some_and(|status| status == "True");
    let mut status = phase(pod);
    if let Some(reason) = &init.reason {
        status.clone_from(reason);
    }
    if init.reason.is_none() || is_initialized {
        restarts = init.sidecars;
        let (word, count) = running(pod, status, &mut restarts);
        status = word;
        ready += count;
    }
    let is_deleting = !pod.at(&["metadata", "deletionTimestamp"]).is_null();
    let is_over = ["Succeeded", "Failed"].contains(&pod.str_at(&["status", "phase"]));
    if is_deleting && pod.str_at(&["status", "reason"]) == "NodeLost" {
        status = "Unknown".into();
    } else if is_deleting && !is_over {
        status = "Terminating".into();
    }
    Summary { ready: format!("{ready}/{total}"), status, restarts: restarts.text(now) }
}

fn phase(pod: &Value) -> String {
    let conditions = pod.list_at(&["status", "conditions"]);
    let is_gated = conditions.iter().any(|condition| {
        condition.str_at(&["type"]) == "PodScheduled" && condition.str_at(&["reason"]) == "SchedulingGated"
    });
    match (is_gated, pod.str_at(&["status", "reason"])) {
        (true, _) => "SchedulingGated".into(),
        (false, "") => pod.str_at(&["status", "phase"]).into(),
        (false, reason) => reason.into(),
    }
}

fn is_sidecar(container: &Value) -> bool {
    container.str_at(&["restartPolicy"]) == "Always"
}

fn initialization(pod: &Value) -> Initialization {
    let specs = pod.list_at(&["spec", "initContainers"]);
    let mut found = Initialization { reason: None, all: Restarts::default(), sidecars: Restarts::default(), ready: 0 };
    for (index, container) in pod.list_at(&["status", "initContainerStatuses"]).iter().enumerate() {
        let name = container.str_at(&["name"]);
        let is_sidecar = specs.iter().any(|spec| spec.str_at(&["name"]) == name && is_sidecar(spec));
        found.all.add(container);
        if is_sidecar {
            found.sidecars.add(container);
        }
        let ended = container.at(&["state", "terminated"]);
        if !ended.is_null() && ended.int_at(&["exitCode"]).unwrap_or_default() == 0 {
            continue;
        }
        if is_sidecar && container.bool_at(&["started"]) {
            found.ready += usize::from(container.bool_at(&["ready"]));
            continue;
        }
        let waiting = container.str_at(&["state", "waiting", "reason"]);
        found.reason = Some(match waiting {
            _ if !ended.is_null() => format!("Init:{}", end_reason(ended)),
            "" | "PodInitializing" => format!("Init:{index}/{}", specs.len()),
            reason => format!("Init:{reason}"),
        });
        break;
    }
    found
}

/// The word for the main containers, and how many of them are ready.
fn running(pod: &Value, status: String, restarts: &mut Restarts) -> (String, usize) {
    let (mut status, mut error, mut ready) = (status, None, 0);
    for container in pod.list_at(&["status", "containerStatuses"]).iter().rev() {
        restarts.add(container);
        let waiting = container.str_at(&["state", "waiting", "reason"]);
        let ended = container.at(&["state", "terminated"]);
        if !waiting.is_empty() {
            status = waiting.into();
        } else if !ended.is_null() {
            status = end_reason(ended);
            if ended.int_at(&["exitCode"]).unwrap_or_default() != 0 {
                error = Some(status.clone());
            }
        } else if container.bool_at(&["ready"]) && !container.at(&["state", "running"]).is_null() {
            ready += 1;
        }
    }
    if status == "Completed" {
        let is_ready = condition(pod, "Ready").is_some_and(|status| status == "True");
        status = match (ready > 0, error) {
            (true, _) if is_ready => "Running".into(),
            (_, Some(error)) => error,
            (true, None) => "NotReady".into(),
            (false, None) => status,
        };
    }
    (status, ready)
}

fn end_reason(ended: &Value) -> String {
    match (ended.str_at(&["reason"]), ended.int_at(&["signal"]).unwrap_or_default()) {
        ("", 0) => format!("ExitCode:{}", ended.int_at(&["exitCode"]).unwrap_or_default()),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.into(),
    }
}

fn condition<'p>(pod: &'p Value, kind: &str) -> Option<&'p str> {
    let conditions = pod.list_at(&["status", "conditions"]);
    let found = conditions.iter().find(|condition| condition.str_at(&["type"]) == kind)?;
    Some(found.str_at(&["status"]))
}

pub fn readiness_gates(pod: &Value) -> String {
    let gates = pod.list_at(&["spec", "readinessGates"]);
    if gates.is_empty() {
        return "<none>".into();
    }
    let is_open = |gate: &&Value| condition(pod, gate.str_at(&["conditionType"])) == Some("True");
    format!("{}/{}", gates.iter().filter(is_open).count(), gates.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::tree;

    #[test]
    fn pods_are_summed_up_as_kubectl_shows_them() {
        let now = time::parse("2026-01-01T01:00:00Z").unwrap();
        let cases = [
            (r#"{"spec":{"containers":[{}]},"status":{"phase":"Pending"}}"#, "0/1 Pending 0"),
            (
                r#"{"spec":{"containers":[{}]},"status":{"phase":"Running","containerStatuses":[{"ready":true,"restartCount":2,
                    "state":{"running":{}},"lastState":{"terminated":{"finishedAt":"2026-01-01T00:55:00Z"}}}]}}"#,
                "1/1 Running 2 (5m ago)",
            ),
            (
                r#"{"spec":{"containers":[{}]},"status":{"phase":"Running","containerStatuses":[{"state":{"waiting":{"reason":"CrashLoopBackOff"}}}]}}"#,
                "0/1 CrashLoopBackOff 0",
            ),
            (
                r#"{"spec":{"containers":[{}],"initContainers":[{"name":"i"},{"name":"j"}]},"status":{"phase":"Pending",
                    "initContainerStatuses":[{"name":"i","state":{"terminated":{"exitCode":0}}},{"name":"j","state":{"running":{}}}]}}"#,
                "0/1 Init:1/2 0",
            ),
            (
                r#"{"metadata":{"deletionTimestamp":"x"},"spec":{"containers":[{}]},"status":{"phase":"Running"}}"#,
                "0/1 Terminating 0",
            ),
            (
                r#"{"spec":{"containers":[{}]},"status":{"phase":"Succeeded","containerStatuses":[{"state":{"terminated":{"reason":"Completed","exitCode":0}}}]}}"#,
                "0/1 Completed 0",
            ),
        ];
        for (pod, shown) in cases {
            let summary = of(&tree(pod), now);
            assert_eq!(format!("{} {} {}", summary.ready, summary.status, summary.restarts), shown, "{pod}");
        }
    }
}
