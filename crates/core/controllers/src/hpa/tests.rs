//! Scalers over a Deployment whose pods use this or that much.

use super::*;
use coracle_meta::GroupVersionKind;
use coracle_testkit::{FakeView, Witness};

const DEPLOYMENTS: Resource = Resource::new("apps", "deployments");

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn controller() -> HorizontalPodAutoscaler {
    HorizontalPodAutoscaler::new(Duration::from_secs(15))
}

fn view(metric: Value) -> FakeView {
    let scaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "h", "namespace": "n", "generation": 1},
        "spec": {"minReplicas": 1, "maxReplicas": 10, "metrics": [metric],
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}});
    let mut view = FakeView::new().knowing(DEPLOYMENTS, GroupVersionKind::new("apps", "v1", "Deployment"), true);
    for name in ["a", "b"] {
        view = view.with(
            PODS,
            json!({"metadata": {"name": name, "namespace": "n", "labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]},
                "status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z", "conditions": [
                    {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:05Z"}]}}),
        );
    }
    view.with(SCALERS, scaler)
}

fn cpu(percent: i64) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": percent}}})
}

fn metrics(used: &[(&str, &str)]) -> Answer {
    let one = |(pod, cpu): &(&str, &str)| {
        json!({"metadata": {"name": pod}, "timestamp": "2026-01-01T01:00:00Z", "window": "30s",
            "containers": [{"name": "c", "usage": {"cpu": cpu}}]})
    };
    Answer::Objects(used.iter().map(one).collect())
}

/// Decides, answering with a scale of this size and these metrics.
fn decide(view: &FakeView, controller: &HorizontalPodAutoscaler, replicas: i64, metrics: &Answer) -> Plan {
    let scale = json!({"spec": {"replicas": replicas}, "status": {"selector": "app=web"}});
    decide_on(view, controller, "h", &scale, metrics)
}

fn decide_on(
    view: &FakeView,
    controller: &HorizontalPodAutoscaler,
    name: &str,
    scale: &Value,
    metrics: &Answer,
) -> Plan {
    let mut last = Outcome::default();
    loop {
        let plan = controller.decide(view, &Key::new("n", name), &last, now());
        if plan.asks.is_empty() {
            return plan;
        }
        let answer = |ask: &Ask| match ask {
            Ask::Scale { .. } => Answer::Object(Some(scale.clone())),
            _ => metrics.clone(),
        };
        last = Outcome { answers: plan.asks.iter().map(answer).collect(), asked: plan.asks, ..Outcome::default() };
    }
}

fn size(plan: &Plan) -> Option<i64> {
    plan.writes.iter().find_map(|write| match write {
        Write::Patch { subresource: Some("scale"), patch, .. } => patch["spec"]["replicas"].as_i64(),
        _ => None,
    })
}

fn status(plan: &Plan) -> Value {
    let written = plan.writes.iter().find_map(|write| match write {
        Write::Patch { subresource: Some("status"), patch, .. } => Some(patch["status"].clone()),
        _ => None,
    });
    written.unwrap_or_default()
}

fn conditions(plan: &Plan) -> Vec<String> {
    let status = status(plan);
    let told = |condition: &Value| {
        let text = |key: &str| condition[key].as_str().unwrap_or_default();
        format!("{}={} {}", text("type"), text("status"), text("reason"))
    };
    status["conditions"].as_array().into_iter().flatten().map(told).collect()
}

#[test]
fn usage_above_the_target_scales_up_and_is_told() {
    let view = view(cpu(50));
    let plan = decide(&view, &controller(), 2, &metrics(&[("a", "90m"), ("b", "60m")]));
    assert_eq!(size(&plan), Some(3));
    assert_eq!(plan.events[0].reason, "SuccessfulRescale");
    assert_eq!(
        plan.events[0].message,
        "New size: 3; reason: cpu resource utilization (percentage of request) above target"
    );
    let expected = [
        "AbleToScale=True SucceededRescale",
        "ScalingActive=True ValidMetricFound",
        "ScalingLimited=False DesiredWithinRange",
    ];
    assert_eq!(conditions(&plan), expected);
}

#[test]
fn usage_near_the_target_changes_nothing() {
    let view = view(cpu(50));
    let controller = controller();
    let plan = decide(&view, &controller, 2, &metrics(&[("a", "52m"), ("b", "50m")]));
    assert_eq!(size(&plan), None);
    let again = controller.decide(&view, &Key::new("n", "h"), &Outcome::default(), now());
    assert!(again.is_empty() && again.wake_after.is_some());
}

#[test]
fn a_pod_without_metrics_is_taken_cautiously() {
    let view = view(cpu(50));
    let plan = decide(&view, &controller(), 2, &metrics(&[("a", "10m")]));
    assert_eq!(size(&plan), None);
}

#[test]
fn bounds_need_no_metrics() {
    let view = view(cpu(50));
    let plan = decide(&view, &controller(), 12, &metrics(&[]));
    assert_eq!(size(&plan), Some(10));
}

#[test]
fn what_is_not_to_be_had_is_told() {
    let container = json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c",
        "target": {"type": "Utilization", "averageUtilization": 50}}});
    for (metric, reason) in [
        (cpu(50), "FailedGetResourceMetric"),
        (container, "FailedGetContainerResourceMetric"),
        (json!({"type": "Pods", "pods": {}}), "FailedGetPodsMetric"),
        (json!({"type": "Object", "object": {}}), "FailedGetObjectMetric"),
        (json!({"type": "External", "external": {}}), "FailedGetExternalMetric"),
        (json!({"type": "Odd"}), "InvalidMetricSourceType"),
    ] {
        let view = view(metric);
        let plan = decide(&view, &controller(), 2, &metrics(&[]));
        assert_eq!((size(&plan), plan.events[0].reason), (None, reason));
        assert!(conditions(&plan).contains(&format!("ScalingActive=False {reason}")));
    }
}

#[test]
fn what_failed_is_told_in_full_and_no_metric_is_made_up() {
    let view = view(cpu(50));
    let plan = decide(&view, &controller(), 2, &metrics(&[]));
    let why = "failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource \
               metrics API";
    assert_eq!((plan.events[0].reason, plan.events[0].message.as_str()), ("FailedGetResourceMetric", why));
    let all =
        format!("invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value: {why}");
    assert_eq!((plan.events[1].reason, &plan.events[1].message), ("FailedComputeMetricsReplicas", &all));
    assert_eq!(status(&plan)["currentMetrics"], json!([{"type": ""}]));
}

#[test]
fn memory_is_told_with_a_binary_suffix() {
    let memory = json!({"type": "Resource", "resource": {"name": "memory",
        "target": {"type": "AverageValue", "averageValue": "64Mi"}}});
    let used = |pod: &str| {
        json!({"metadata": {"name": pod}, "timestamp": "2026-01-01T01:00:00Z", "window": "15.2s",
            "containers": [{"name": "c", "usage": {"memory": "64Mi"}}]})
    };
    let plan = decide(&view(memory), &controller(), 2, &Answer::Objects(vec![used("a"), used("b")]));
    let told = &status(&plan)["currentMetrics"][0]["resource"];
    assert_eq!(told, &json!({"name": "memory", "current": {"averageValue": "64Mi"}}));
}

#[test]
fn two_that_scale_the_same_pods_do_nothing() {
    let controller = controller();
    let mut view = view(cpu(50));
    let used = metrics(&[("a", "90m"), ("b", "60m")]);
    assert_eq!(size(&decide(&view, &controller, 2, &used)), Some(3));
    let first = view.get(&SCALERS, "n", "h").unwrap().decode::<Value>().unwrap();
    let mut second = Value::clone(&first);
    second["metadata"]["name"] = json!("i");
    view = view.with(SCALERS, second);
    let plan =
        decide_on(&view, &controller, "i", &json!({"spec": {"replicas": 2}, "status": {"selector": "app=web"}}), &used);
    assert_eq!((size(&plan), plan.events[0].reason), (None, "AmbiguousSelector"));
    let why = "pods by selector app=web are controlled by multiple HPAs: [n/h n/i]";
    assert_eq!(plan.events[0].message, why);
    assert!(conditions(&plan).contains(&"ScalingActive=False AmbiguousSelector".to_owned()));
}

#[test]
fn a_pod_that_was_not_ready_for_a_whole_window_says_nothing_of_processors() {
    for (window, wanted) in [("1m15.2s", None), ("45s", Some(3))] {
        let mut view = view(cpu(50));
        for name in ["a", "b"] {
            let mut pod = Value::clone(&view.get(&PODS, "n", name).unwrap().decode::<Value>().unwrap());
            pod["status"]["startTime"] = json!("2026-01-01T00:58:00Z");
            pod["status"]["conditions"][0]["lastTransitionTime"] = json!("2026-01-01T00:59:00Z");
            view = view.with(PODS, pod);
        }
        let used = |pod: &str| {
            json!({"metadata": {"name": pod}, "timestamp": "2026-01-01T01:00:00Z", "window": window,
                "containers": [{"name": "c", "usage": {"cpu": "75m"}}]})
        };
        let plan = decide(&view, &controller(), 2, &Answer::Objects(vec![used("a"), used("b")]));
        assert_eq!(size(&plan), wanted, "{window}");
    }
}

#[test]
fn a_selector_that_chooses_nothing_or_too_much_is_told() {
    let used = metrics(&[("a", "90m"), ("b", "60m")]);
    for (selector, event) in [("", "SelectorRequired"), ("=,=", "InvalidSelector")] {
        let scale = json!({"spec": {"replicas": 2}, "status": {"selector": selector}});
        let plan = decide_on(&view(cpu(50)), &controller(), "h", &scale, &used);
        assert_eq!((size(&plan), plan.events[0].reason), (None, event));
        assert!(conditions(&plan).contains(&"ScalingActive=False InvalidSelector".to_owned()), "{plan:?}");
    }
}

#[test]
fn a_refused_write_is_told_and_the_size_not_taken_for_changed() {
    let view = view(cpu(50));
    let used = metrics(&[("a", "90m"), ("b", "60m")]);
    for (at, reason) in [(0, "FailedRescale"), (1, "FailedUpdateStatus")] {
        let controller = controller();
        let first = decide(&view, &controller, 2, &used);
        let error = Some(coracle_meta::Status::internal("no"));
        let last = Outcome { error, refused: first.writes.get(at).cloned(), ..Outcome::default() };
        let plan = controller.decide(&view, &Key::new("n", "h"), &last, now());
        assert_eq!((plan.events[0].reason, plan.wake_after), (reason, Some(Duration::from_secs(15))));
        if at == 0 {
            let message = "New size: 3; reason: cpu resource utilization (percentage of request) above target; error: Internal error occurred: no";
            assert_eq!(plan.events[0].message, message);
            assert_eq!(conditions(&plan)[0], "AbleToScale=False FailedUpdateScale");
            assert!(status(&plan)["lastScaleTime"].is_null() && status(&plan)["currentReplicas"] == 2);
        }
        // It is tried again, and not before its time.
        let early = controller.decide(&view, &Key::new("n", "h"), &Outcome::default(), now());
        assert!(early.is_empty());
        assert_eq!(size(&decide(view.at(Duration::from_secs(15)), &controller, 2, &used)), Some(3));
        view.at(Duration::ZERO);
    }
}

#[test]
fn a_time_of_day_that_jumps_neither_holds_up_nor_hurries() {
    let (view, controller) = (view(cpu(50)), controller());
    decide(&view, &controller, 6, &metrics(&[("a", "50m"), ("b", "50m")]));
    view.at(Duration::from_secs(16));
    let key = Key::new("n", "h");
    for hours in [-9, 9] {
        let then = now() + jiff::SignedDuration::from_hours(hours);
        assert_eq!(controller.decide(&view, &key, &Outcome::default(), then).asks.len(), 1, "{hours}");
    }
}

#[test]
fn what_pods_use_and_request_decides() {
    let two = |a: &str, b: &str| metrics(&[("a", a), ("b", b)]);
    let amount = json!({"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "AverageValue", "averageValue": "100m"}}});
    // Metric, requests of each container, replicas, usage, and what is wanted.
    let table = [
        ("exactly as wanted, one unknown", cpu(50), "100m", 2, metrics(&[("a", "50m")]), None),
        ("means are whole thousandths", amount, "100m", 2, two("150m", "151m"), Some(3)),
        ("nothing requested", cpu(50), "0", 2, two("90m", "60m"), None),
        ("nothing left to scale", cpu(50), "100m", 0, two("90m", "60m"), None),
    ];
    for (case, metric, request, replicas, used, wanted) in table {
        let mut view = view(metric);
        for name in ["a", "b"] {
            let mut pod = view.json(&PODS, "n", name);
            pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!(request);
            view = view.with(PODS, pod);
        }
        assert_eq!(size(&decide(&view, &controller(), replicas, &used)), wanted, "{case}");
    }
}

#[test]
fn requests_are_the_pods_own_where_it_makes_any() {
    let pod = |spec: Value| {
        vec![Item::of(
            FakeView::new()
                .with(
                    PODS,
                    json!({"metadata": {"name": "a", "namespace": "n"},
        "spec": spec}),
                )
                .get(&PODS, "n", "a")
                .unwrap(),
        )]
    };
    let one = |name: &str, cpu: &str| json!({"name": name, "resources": {"requests": {"cpu": cpu}}});
    let bare = json!({"name": "bare"});
    let table = [
        (json!({"containers": [one("c", "1")], "initContainers": [one("i", "5")]}), None, Ok(1000)),
        (json!({"containers": [one("c", "1"), bare]}), None, Err("missing request for cpu in container bare of Pod a")),
        (json!({"resources": {"requests": {"cpu": "4"}}, "containers": [one("c", "1"), bare]}), None, Ok(4000)),
        (json!({"resources": {"requests": {"memory": "4"}}, "containers": [one("c", "1"), bare]}), None, Ok(1000)),
        (
            json!({"resources": {"requests": {"memory": "4"}}, "containers": [bare]}),
            None,
            Err("missing pod-level request for cpu in Pod a"),
        ),
        (json!({"resources": {"requests": {"cpu": "4"}}, "containers": [one("c", "1")]}), Some("c"), Ok(1000)),
        (json!({"containers": [one("c", "1")]}), Some("d"), Err("container d not found in Pod a")),
    ];
    for (spec, container, wanted) in table {
        let found = usage::requests(&pod(spec.clone()), "cpu", container).map(|all| all["a"]);
        assert_eq!(found, wanted.map_err(str::to_owned), "{spec}");
    }
}

#[test]
fn of_metrics_that_want_the_same_the_first_is_named_and_discovery_is_waited_for() {
    let view = view(cpu(50));
    let mut scaler = view.json(&SCALERS, "n", "h");
    scaler["spec"]["metrics"] = json!([cpu(50), {"type": "ContainerResource", "containerResource": {"name": "cpu",
        "container": "c", "target": {"type": "Utilization", "averageUtilization": 50}}}]);
    let view = view.with(SCALERS, scaler.clone());
    let plan = decide(&view, &controller(), 2, &metrics(&[("a", "90m"), ("b", "60m")]));
    assert!(plan.events[0].message.ends_with("cpu resource utilization (percentage of request) above target"));
    let unknowing = FakeView::new().with(SCALERS, scaler);
    let plan = controller().decide(&unknowing, &Key::new("n", "h"), &Outcome::default(), now());
    assert_eq!((plan.asks, plan.events), (vec![Ask::Discovery], Vec::new()));
}

#[test]
fn a_target_that_is_gone_is_told() {
    let view = view(cpu(50));
    let controller = controller();
    let asked = controller.decide(&view, &Key::new("n", "h"), &Outcome::default(), now()).asks;
    let last = Outcome { asked, answers: vec![Answer::Object(None)], ..Outcome::default() };
    let plan = controller.decide(&view, &Key::new("n", "h"), &last, now());
    assert_eq!(plan.events[0].reason, "FailedGetScale");
    assert!(conditions(&plan).contains(&"AbleToScale=False FailedGetScale".to_owned()));
}
