//! HorizontalPodAutoscalers: stored as v2; v1 knows the CPU target alone and keeps the rest in annotations.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value};

use crate::column::{AGE, Column, NAME, counted, number, text};
use crate::rules::Rules;
use crate::shapes::{fill, tree};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

const COLUMNS: &[Column] = &[
    NAME,
    text("Reference", |scaler, _| {
        let target = scaler.at(&["spec", "scaleTargetRef"]);
        format!("{}/{}", target.str_at(&["kind"]), target.str_at(&["name"])).into()
    }),
    text("Targets", |scaler, _| targets(scaler).into()),
    text("MinPods", |scaler, _| match scaler.int_at(&["spec", "minReplicas"]) {
        Some(least) => least.to_string().into(),
        None => Value::string("<unset>"),
    }),
    counted("MaxPods", |scaler, _| number(scaler, &["spec", "maxReplicas"])),
    counted("Replicas", |scaler, _| number(scaler, &["status", "currentReplicas"])),
    AGE,
];

pub const RULES: Rules = Rules { default, validate, convert, columns: COLUMNS, ..Rules::STANDARD };

fn default(scaler: &mut Value, version: &str) {
    scaler.set_default(&["spec", "minReplicas"], 1);
    if version == "v1" {
        return;
    }
    let cpu =
        r#"[{"type":"Resource","resource":{"name":"cpu","target":{"type":"Utilization","averageUtilization":80}}}]"#;
    fill(scaler, &["spec", "metrics"], tree(cpu));
    if !scaler.at(&["spec", "behavior"]).is_null() {
        let up = r#"[{"type":"Pods","value":4,"periodSeconds":15},{"type":"Percent","value":100,"periodSeconds":15}]"#;
        let down = r#"[{"type":"Percent","value":100,"periodSeconds":15}]"#;
        for (direction, policies) in [("scaleUp", up), ("scaleDown", down)] {
            let rules = scaler.ensure(&["spec", "behavior", direction]);
            rules.set_default(&["selectPolicy"], "Max");
            rules.set_default(&["policies"], tree(policies));
            if direction == "scaleUp" {
                rules.set_default(&["stabilizationWindowSeconds"], 0);
            }
        }
    }
}

fn is_cpu(metric: &Value) -> bool {
    metric.str_at(&["type"]) == "Resource" && metric.str_at(&["resource", "name"]) == "cpu"
}

/// v2's metrics are v1's CPU target and, in annotations, everything else.
fn convert(scaler: &mut Value, from: &str, to: &str) {
    match (from, to) {
        ("autoscaling/v2", "autoscaling/v1") => to_v1(scaler),
        ("autoscaling/v1", "autoscaling/v2") => to_v2(scaler),
        _ => {}
    }
}

fn to_v1(scaler: &mut Value) {
    let target = ["resource", "target", "averageUtilization"];
    let metrics = take_list(scaler, &["spec", "metrics"]);
    let (cpu, others): (Vec<Value>, Vec<Value>) =
        metrics.into_iter().partition(|metric| is_cpu(metric) && !metric.at(&target).is_null());
    if let Some(metric) = cpu.first() {
        scaler.set(&["spec", "targetCPUUtilizationPercentage"], metric.at(&target).clone());
    }
    keep(scaler, METRICS, Value::List(others));
    let current = take_list(scaler, &["status", "currentMetrics"]);
    let used = ["resource", "current", "averageUtilization"];
    if let Some(metric) = current.iter().find(|metric| is_cpu(metric) && !metric.at(&used).is_null()) {
        scaler.set(&["status", "currentCPUUtilizationPercentage"], metric.at(&used).clone());
    }
    keep(scaler, CURRENT, Value::List(current));
    let conditions = take_list(scaler, &["status", "conditions"]);
    keep(scaler, CONDITIONS, Value::List(conditions));
    let behavior = scaler.remove(&["spec", "behavior"]).unwrap_or_default();
    keep(scaler, BEHAVIOR, behavior);
}

fn to_v2(scaler: &mut Value) {
    let mut metrics = restore(scaler, METRICS).as_list().unwrap_or_default().to_vec();
    if let Some(percent) = scaler.remove(&["spec", "targetCPUUtilizationPercentage"]) {
        let mut metric = tree(r#"{"type":"Resource","resource":{"name":"cpu","target":{"type":"Utilization"}}}"#);
        metric.set(&["resource", "target", "averageUtilization"], percent);
        metrics.insert(0, metric);
    }
    if !metrics.is_empty() {
        scaler.set(&["spec", "metrics"], metrics);
    }
    let percent = scaler.remove(&["status", "currentCPUUtilizationPercentage"]);
    let mut current = restore(scaler, CURRENT).as_list().unwrap_or_default().to_vec();
    if let (Some(percent), true) = (percent, current.is_empty()) {
        let mut metric = tree(r#"{"type":"Resource","resource":{"name":"cpu","current":{}}}"#);
        metric.set(&["resource", "current", "averageUtilization"], percent);
        current.push(metric);
    }
    if !current.is_empty() {
        scaler.set(&["status", "currentMetrics"], current);
    }
    let conditions = restore(scaler, CONDITIONS);
    if !conditions.is_empty() {
        scaler.set(&["status", "conditions"], conditions);
    }
    let behavior = restore(scaler, BEHAVIOR);
    if !behavior.is_empty() {
        scaler.set(&["spec", "behavior"], behavior);
    }
}

fn take_list(scaler: &mut Value, path: &[&str]) -> Vec<Value> {
    let taken = scaler.remove(path).unwrap_or_default();
    taken.as_list().unwrap_or_default().to_vec()
}

fn keep(scaler: &mut Value, annotation: &str, value: Value) {
    if !value.is_empty() {
        let text = String::from_utf8(value.to_json()).expect("JSON is text");
        scaler.set(&["metadata", "annotations", annotation], text);
    }
}

fn restore(scaler: &mut Value, annotation: &str) -> Value {
    let kept = scaler.remove(&["metadata", "annotations", annotation]).unwrap_or_default();
    if scaler.at(&["metadata", "annotations"]).is_empty() {
        scaler.remove(&["metadata", "annotations"]);
    }
    Value::from_json(kept.as_str().unwrap_or("null").as_bytes()).unwrap_or_default()
}

fn validate(scaler: &Value, errors: &mut ErrorList) {
    let (spec, path) = (scaler.get("spec"), Path::new("spec"));
    let least = spec.int_at(&["minReplicas"]);
    let most = spec.int_at(&["maxReplicas"]).unwrap_or_default();
    if let Some(least) = least.filter(|least| *least < 1) {
        errors.invalid(&path.child("minReplicas"), least, "must be greater than or equal to 1");
    }
    if most < 1 {
        errors.invalid(&path.child("maxReplicas"), most, "must be greater than 0");
    }
    if least.is_some_and(|least| most < least) {
        errors.invalid(&path.child("maxReplicas"), most, "must be greater than or equal to `minReplicas`");
    }
    let target = path.child("scaleTargetRef");
    for member in ["kind", "name"] {
        if spec.str_at(&["scaleTargetRef", member]).is_empty() {
            errors.required(&target.child(member), "");
        }
    }
}

fn targets(scaler: &Value) -> String {
    let metrics = scaler.list_at(&["spec", "metrics"]);
    let current = scaler.list_at(&["status", "currentMetrics"]);
    let shown: Vec<String> = metrics
        .iter()
        .enumerate()
        .map(|(index, metric)| shown(metric, current.get(index).unwrap_or(&Value::Null)))
        .collect();
    match shown.as_slice() {
        [] => "<none>".into(),
        [a, b, more @ ..] if !more.is_empty() => format!("{a}, {b} + {} more...", more.len()),
        few => few.join(", "),
    }
}

fn shown(metric: &Value, status: &Value) -> String {
    let kind = metric.str_at(&["type"]);
    let member = match kind {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        "External" => "external",
        _ => return "<unknown type>".into(),
    };
    let (target, current) = (metric.at(&[member, "target"]), status.at(&[member, "current"]));
    let amount = |holder: &Value, name: &str, none: &str| holder.get(name).as_str().unwrap_or(none).to_owned();
    let percent = |value: &Value, none: &str| match value.as_int() {
        Some(percent) => format!("{percent}%"),
        None => none.to_owned(),
    };
    let is_resource = kind == "Resource" || kind == "ContainerResource";
    let has_average = !target.get("averageValue").is_null();
    let name = metric.str_at(&[member, "name"]);
    let average = (amount(current, "averageValue", "<unknown>"), amount(target, "averageValue", ""));
    match (is_resource, has_average) {
        (true, true) => format!("{name}: {}/{}", average.0, average.1),
        (true, false) => {
            let used = percent(current.get("averageUtilization"), "<unknown>");
            format!("{name}: {used}/{}", percent(target.get("averageUtilization"), "<auto>"))
        }
        (false, _) if kind == "Pods" => format!("{}/{}", average.0, average.1),
        (false, true) => format!("{}/{} (avg)", average.0, average.1),
        (false, false) => format!("{}/{}", amount(current, "value", "<unknown>"), amount(target, "value", "")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_v1_cannot_say_survives_in_annotations() {
        let v2 = tree(
            r#"{"metadata":{"name":"a"},"spec":{"maxReplicas":3,"metrics":[
                {"type":"Resource","resource":{"name":"cpu","target":{"type":"Utilization","averageUtilization":50}}},
                {"type":"Pods","pods":{"metric":{"name":"x"},"target":{"type":"AverageValue","averageValue":"5"}}}]}}"#,
        );
        let mut v1 = v2.clone();
        convert(&mut v1, "autoscaling/v2", "autoscaling/v1");
        assert_eq!(v1.int_at(&["spec", "targetCPUUtilizationPercentage"]), Some(50));
        assert!(v1.str_at(&["metadata", "annotations", METRICS]).contains("Pods"));
        convert(&mut v1, "autoscaling/v1", "autoscaling/v2");
        assert_eq!(v1, v2);
        assert_eq!(targets(&v2), "cpu: <unknown>/50%, <unknown>/5");
    }
}
