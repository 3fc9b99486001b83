//! Jobs on a fake cluster whose pods finish when the test says so.

use std::time::Duration;

use coracle_testkit::{FakeView, Witness};

use super::indexes::INDEX;
use super::*;

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn job(spec: Value) -> FakeView {
    let mut tree = json!({"apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "work", "namespace": "n", "generation": 1},
        "spec": {"parallelism": 2, "completions": 2, "backoffLimit": 6, "completionMode": "NonIndexed",
            "podReplacementPolicy": "TerminatingOrFailed", "suspend": false,
            "selector": {"matchLabels": {"job": "work"}},
            "template": {"metadata": {"labels": {"job": "work"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}}});
    for (key, value) in spec.as_object().unwrap() {
        tree["spec"][key] = value.clone();
    }
    FakeView::new().with(JOBS, tree)
}

fn key() -> Key {
    Key::new("n", "work")
}

fn settle(view: &FakeView, at: Timestamp) -> Vec<Plan> {
    view.settle(&Job, &key(), at)
}

fn pods_of(view: &FakeView) -> Vec<Value> {
    view.names(&PODS).iter().map(|name| view.json(&PODS, "n", name)).collect()
}

/// Ends one running pod that `wanted` picks.
fn end(view: &FakeView, phase: &str, code: i64, wanted: impl Fn(&Value) -> bool) {
    let running = |pod: &&Value| pod["status"]["phase"].is_null() && pod["metadata"]["deletionTimestamp"].is_null();
    let pods = pods_of(view);
    let mut pod = pods.iter().filter(running).find(|pod| wanted(pod)).expect("a pod runs").clone();
    pod["status"] = json!({"phase": phase, "containerStatuses": [{"name": "c",
        "state": {"terminated": {"exitCode": code, "finishedAt": "2026-01-01T01:00:00Z"}}}]});
    view.put(&PODS, pod);
}

fn any(_: &Value) -> bool {
    true
}

fn index(wanted: &'static str) -> impl Fn(&Value) -> bool {
    move |pod| pod["metadata"]["annotations"][INDEX] == wanted
}

fn status(view: &FakeView) -> Value {
    view.json(&JOBS, "n", "work")["status"].clone()
}

fn conditions(view: &FakeView) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let status = status(view);
    let list = status["conditions"].as_array().cloned().unwrap_or_default();
    list.iter().map(|condition| (text(&condition["type"]), text(&condition["reason"]))).collect()
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
}

#[test]
fn a_job_runs_to_completion_and_lets_its_pods_go() {
    let view = job(json!({}));
    let plans = settle(&view, now());
    assert_eq!((plans.len(), plans[0].events[0].reason), (1, "SuccessfulCreate"));
    let expected = json!({"active": 2, "ready": 0, "terminating": 0, "startTime": "2026-01-01T01:00:00Z",
        "uncountedTerminatedPods": {}});
    assert_eq!(status(&view), expected);
    assert!(pods_of(&view).iter().all(|pod| pod["metadata"]["finalizers"] == json!([FINALIZER])));
    end(&view, "Succeeded", 0, any);
    settle(&view, now());
    assert_eq!((&status(&view)["succeeded"], &status(&view)["active"]), (&json!(1), &json!(1)));
    end(&view, "Succeeded", 0, any);
    let plans = settle(&view, now());
    assert_eq!(plans.last().unwrap().events[0].reason, "Completed");
    assert_eq!(status(&view)["succeeded"], 2);
    assert_eq!(status(&view)["completionTime"], "2026-01-01T01:00:00Z");
    let reached = [("SuccessCriteriaMet", "CompletionsReached"), ("Complete", "CompletionsReached")];
    assert_eq!(conditions(&view), pairs(&reached));
    assert!(pods_of(&view).iter().all(|pod| pod["metadata"]["finalizers"].is_null()));
}

#[test]
fn a_uid_is_told_before_its_finalizer_goes() {
    let view = job(json!({}));
    settle(&view, now());
    end(&view, "Succeeded", 0, any);
    let plan = Job.decide(&view, &key(), &Outcome::default(), now());
    let kinds: Vec<&str> = plan
        .writes
        .iter()
        .map(|write| match write {
            coracle_reconcile::Write::Patch { subresource: Some(_), .. } => "status",
            coracle_reconcile::Write::Patch { .. } => "finalizer",
            _ => "other",
        })
        .collect();
    assert_eq!(kinds, ["status", "finalizer", "status"]);
    let first = Plan { writes: plan.writes[..2].to_vec(), ..Plan::default() };
    view.apply(&first);
    settle(&view, now());
    assert_eq!(status(&view)["succeeded"], 1);
}

#[test]
fn failures_wait_longer_each_time_until_the_limit() {
    let view = job(json!({"parallelism": 1, "completions": 1, "backoffLimit": 1}));
    settle(&view, now());
    end(&view, "Failed", 1, any);
    settle(&view, now());
    let plan = Job.decide(&view, &key(), &Outcome::default(), now());
    assert_eq!((plan.writes.len(), plan.wake_after), (0, Some(Duration::from_secs(10))));
    let later = now() + Duration::from_secs(10);
    settle(&view, later);
    assert_eq!(pods_of(&view).len(), 2);
    end(&view, "Failed", 1, any);
    settle(&view, later);
    let exceeded = [("FailureTarget", "BackoffLimitExceeded"), ("Failed", "BackoffLimitExceeded")];
    assert_eq!(conditions(&view), pairs(&exceeded));
    assert_eq!((&status(&view)["failed"], status(&view).get("active")), (&json!(2), None));
}

#[test]
fn the_deadline_ends_what_still_runs() {
    let view = job(json!({"activeDeadlineSeconds": 30}));
    settle(&view, now());
    let plan = Job.decide(&view, &key(), &Outcome::default(), now());
    assert_eq!(plan.wake_after, Some(Duration::from_secs(30)));
    let plans = settle(&view, now() + Duration::from_secs(30));
    assert_eq!(conditions(&view)[1], ("Failed".into(), "DeadlineExceeded".into()));
    assert_eq!(status(&view)["failed"], 2);
    assert!(pods_of(&view).is_empty());
    assert_eq!(plans.last().unwrap().events[0].message, "Job was active longer than specified deadline");
}

#[test]
fn suspension_takes_pods_away_uncounted_and_resuming_starts_anew() {
    let view = job(json!({}));
    settle(&view, now());
    let suspend = |value: bool| {
        let mut tree = view.json(&JOBS, "n", "work");
        tree["spec"]["suspend"] = json!(value);
        view.put(&JOBS, tree);
    };
    suspend(true);
    settle(&view, now());
    assert!(pods_of(&view).is_empty());
    assert_eq!(conditions(&view), pairs(&[("Suspended", "JobSuspended")]));
    assert_eq!((status(&view).get("failed"), status(&view).get("startTime")), (None, None));
    suspend(false);
    settle(&view, now());
    assert_eq!(conditions(&view), pairs(&[("Suspended", "JobResumed")]));
    assert_eq!((pods_of(&view).len(), &status(&view)["startTime"]), (2, &json!("2026-01-01T01:00:00Z")));
}

#[test]
fn indexed_pods_carry_their_index() {
    let view = job(json!({"completionMode": "Indexed", "completions": 3, "parallelism": 2}));
    settle(&view, now());
    let pod = &pods_of(&view)[0];
    assert_eq!(pod["metadata"]["labels"][INDEX], "0");
    assert_eq!(pod["spec"]["hostname"], "work-0");
    assert!(pod["metadata"]["generateName"] == "work-0-" && pod["spec"].get("initContainers").is_none());
    let env = json!([{"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef":
        {"fieldPath": "metadata.labels['batch.kubernetes.io/job-completion-index']"}}}]);
    assert_eq!(pod["spec"]["containers"][0]["env"], env);
    end(&view, "Succeeded", 0, index("1"));
    settle(&view, now());
    assert_eq!((&status(&view)["completedIndexes"], pods_of(&view).len()), (&json!("1"), 3));
    end(&view, "Succeeded", 0, index("0"));
    end(&view, "Succeeded", 0, index("2"));
    settle(&view, now());
    assert_eq!((&status(&view)["completedIndexes"], &status(&view)["succeeded"]), (&json!("0-2"), &json!(3)));
    assert_eq!(conditions(&view)[1].0, "Complete");
}

#[test]
fn an_index_that_fails_too_often_fails_the_job_only_at_the_end() {
    let spec = json!({"completionMode": "Indexed", "backoffLimitPerIndex": 1, "backoffLimit": 2147483647});
    let view = job(spec);
    settle(&view, now());
    end(&view, "Failed", 1, index("0"));
    settle(&view, now());
    let later = now() + Duration::from_secs(11);
    settle(&view, later);
    let second = pods_of(&view).into_iter().filter(|pod| index("0")(pod)).find(|pod| pod["status"].is_null()).unwrap();
    assert_eq!(second["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"], "1");
    end(&view, "Failed", 1, index("0"));
    settle(&view, later);
    assert_eq!((&status(&view)["failedIndexes"], conditions(&view).len()), (&json!("0"), 0));
    end(&view, "Succeeded", 0, index("1"));
    settle(&view, later);
    assert_eq!(conditions(&view), pairs(&[("FailureTarget", "FailedIndexes"), ("Failed", "FailedIndexes")]));
    assert_eq!((&status(&view)["failed"], &status(&view)["completedIndexes"]), (&json!(2), &json!("1")));
}

#[test]
fn a_failure_policy_ignores_and_ends() {
    let policy = json!({"rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"containerName": "c", "operator": "In", "values": [42]}}]});
    let view = job(json!({"podFailurePolicy": policy, "podReplacementPolicy": "Failed", "backoffLimit": 0}));
    settle(&view, now());
    let mut pod = pods_of(&view)[0].clone();
    pod["status"] = json!({"phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": "True"}]});
    view.put(&PODS, pod);
    settle(&view, now());
    assert_eq!((status(&view).get("failed"), conditions(&view).len()), (None, 0));
    end(&view, "Failed", 42, any);
    let plans = settle(&view, now());
    assert_eq!(conditions(&view)[1], ("Failed".into(), "PodFailurePolicy".into()));
    let message = &plans.last().unwrap().events[0].message;
    assert!(message.ends_with("failed with exit code 42 matching FailJob rule at index 1"), "{message}");
}

#[test]
fn a_success_policy_ends_the_rest() {
    let policy = json!({"rules": [{"succeededIndexes": "0", "succeededCount": 1}]});
    let view = job(json!({"completionMode": "Indexed", "completions": 2, "successPolicy": policy}));
    settle(&view, now());
    end(&view, "Succeeded", 0, index("0"));
    settle(&view, now());
    assert_eq!(conditions(&view), pairs(&[("SuccessCriteriaMet", "SuccessPolicy"), ("Complete", "SuccessPolicy")]));
    assert_eq!((status(&view).get("failed"), &status(&view)["succeeded"]), (None, &json!(1)));
}

#[test]
fn orphans_are_adopted_with_the_finalizer_and_strangers_released_without() {
    let view = job(json!({"parallelism": 1}));
    settle(&view, now());
    let mut pod = pods_of(&view)[0].clone();
    let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
    pod["metadata"]["labels"] = json!({});
    view.put(&PODS, pod.clone());
    settle(&view, now());
    let released = view.json(&PODS, "n", &name);
    assert!(released["metadata"]["finalizers"].is_null() && released["metadata"]["ownerReferences"].is_null());
    pod["metadata"]["labels"] = json!({"job": "work"});
    pod["metadata"]["ownerReferences"] = json!([]);
    pod["metadata"]["finalizers"] = json!([]);
    view.put(&PODS, pod);
    settle(&view, now());
    let adopted = view.json(&PODS, "n", &name);
    let held = adopted["metadata"]["finalizers"] == json!([FINALIZER]);
    assert!(held || adopted.is_null(), "adopted, or removed as surplus: {adopted}");
}

#[test]
fn pods_of_a_job_that_is_gone_are_let_go() {
    let view = job(json!({}));
    settle(&view, now());
    view.remove(&JOBS, "n", "work");
    settle(&view, now());
    assert!(pods_of(&view).iter().all(|pod| pod["metadata"]["finalizers"].is_null()));
}

#[test]
fn what_is_refused_is_told() {
    let view = job(json!({}));
    let first = Job.decide(&view, &key(), &Outcome::default(), now());
    let refused = first.writes.into_iter().find(|write| matches!(write, coracle_reconcile::Write::Create { .. }));
    let last = Outcome { error: Some(coracle_meta::Status::internal("no")), refused, ..Outcome::default() };
    let plan = Job.decide(&view, &key(), &last, now());
    assert_eq!(plan.events[0].reason, "FailedCreate");
    settle(&view, now());
    let mut suspended = view.json(&JOBS, "n", "work");
    suspended["spec"]["suspend"] = json!(true);
    view.put(&JOBS, suspended);
    let first = Job.decide(&view, &key(), &Outcome::default(), now());
    let refused = first.writes.into_iter().find(|write| matches!(write, coracle_reconcile::Write::Delete { .. }));
    let last = Outcome { error: Some(coracle_meta::Status::internal("no")), refused, ..Outcome::default() };
    let plan = Job.decide(&view, &key(), &last, now());
    let told = plan.events.iter().find(|event| event.reason == "FailedDelete").unwrap();
    assert!(told.message.starts_with("Error deleting: "), "{}", told.message);
}

#[test]
fn a_mode_of_another_version_is_told_and_left_alone() {
    let plan = Job.decide(&job(json!({"completionMode": "Odd"})), &key(), &Outcome::default(), now());
    assert_eq!((plan.writes.len(), plan.events[0].reason), (0, "UnknownCompletionMode"));
}

#[test]
fn more_failed_indexes_than_are_allowed_end_the_job() {
    let spec = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3, "backoffLimitPerIndex": 0,
        "maxFailedIndexes": 0, "backoffLimit": i32::MAX});
    let view = job(spec);
    settle(&view, now());
    end(&view, "Failed", 1, index("0"));
    let plans = settle(&view, now());
    // The others are on their way out; the job ends with them.
    for pod in pods_of(&view) {
        view.remove(&PODS, "n", pod["metadata"]["name"].as_str().unwrap());
    }
    let after = settle(&view, now());
    let told = plans.iter().chain(&after).flat_map(|plan| &plan.events);
    assert!(told.into_iter().any(|event| event.reason == "MaxFailedIndexesExceeded"), "{after:#?}");
}

#[test]
fn pods_of_a_job_that_had_the_name_before_are_let_go() {
    for finished in [false, true] {
        let view = job(json!({}));
        settle(&view, now());
        if finished {
            end(&view, "Succeeded", 0, any);
            end(&view, "Succeeded", 0, any);
            settle(&view, now());
        }
        let owner =
            json!({"apiVersion": "batch/v1", "kind": "Job", "name": "work", "uid": "before", "controller": true});
        view.put(
            &PODS,
            json!({"metadata": {"name": "old", "namespace": "n", "labels": {"job": "work"},
            "finalizers": [FINALIZER], "ownerReferences": [owner]}, "status": {"phase": "Running"}}),
        );
        settle(&view, now());
        assert!(view.json(&PODS, "n", "old")["metadata"]["finalizers"].is_null(), "{finished}");
        assert_eq!(status(&view)["failed"], Value::Null, "it is nobody's failure");
    }
}

#[test]
fn more_successes_than_were_asked_for_are_told() {
    let view = job(json!({"completions": 1, "parallelism": 1}));
    settle(&view, now());
    let mut more = pods_of(&view)[0].clone();
    end(&view, "Succeeded", 0, any);
    more["metadata"]["name"] = json!("more");
    more["metadata"]["uid"] = json!("more");
    more["status"] = json!({"phase": "Succeeded"});
    view.put(&PODS, more);
    let plans = settle(&view, now());
    let told: Vec<&str> = plans.iter().flat_map(|plan| &plan.events).map(|event| event.reason).collect();
    assert_eq!((told, &status(&view)["succeeded"]), (vec!["TooManySucceededPods", "Completed"], &json!(2)));
}

#[test]
fn absurd_numbers_are_numbers() {
    let view = job(json!({"activeDeadlineSeconds": i64::MAX, "backoffLimit": i32::MAX, "parallelism": 1}));
    let plans = settle(&view, now());
    assert!(plans[0].wake_after.is_some_and(|wait| wait > Duration::from_secs(1 << 60)));
    assert_eq!(pods_of(&view).len(), 1);
}
