//! Cron jobs on a fake cluster whose jobs finish when the test says so.

use coracle_testkit::{FakeView, Witness};

use super::*;

fn at(text: &str) -> Timestamp {
    format!("2026-01-01T{text}Z").parse().unwrap()
}

fn cluster(spec: Value) -> FakeView {
    let mut tree = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tick", "namespace": "n"},
        "spec": {"schedule": "* * * * *", "concurrencyPolicy": "Allow", "suspend": false,
            "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 1,
            "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"template": {}}}}});
    for (key, value) in spec.as_object().unwrap() {
        tree["spec"][key] = value.clone();
    }
    FakeView::new().with(CRON_JOBS, tree)
}

fn settle(view: &FakeView, now: &str) -> Vec<Plan> {
    view.settle(&CronJob, &Key::new("n", "tick"), at(now))
}

fn plan(view: &FakeView, now: &str) -> Plan {
    CronJob.decide(view, &Key::new("n", "tick"), &Outcome::default(), at(now))
}

fn status(view: &FakeView) -> Value {
    view.json(&CRON_JOBS, "n", "tick")["status"].clone()
}

fn end(view: &FakeView, name: &str, kind: &str, when: &str) {
    let mut job = view.json(&JOBS, "n", name);
    job["status"] = json!({"startTime": at(when).to_string(), "completionTime": at(when).to_string(),
        "conditions": [{"type": kind, "status": "True"}]});
    view.put(&JOBS, job);
}

fn job_at(minute: i64) -> String {
    format!("tick-{}", at("00:00:00").as_second() / 60 + minute)
}

#[test]
fn a_job_starts_each_minute_and_is_followed_to_its_end() {
    let view = cluster(json!({"timeZone": "Europe/Berlin"}));
    let early = plan(&view, "00:00:30");
    assert_eq!((early.writes.len(), early.wake_after), (0, Some(Duration::from_millis(30_100))));
    let plans = settle(&view, "00:01:00");
    assert_eq!(plans[0].events[0].reason, "SuccessfulCreate");
    assert_eq!(view.names(&JOBS), [job_at(1)]);
    let job = view.json(&JOBS, "n", &job_at(1));
    assert_eq!(job["metadata"]["annotations"][SCHEDULED], "2026-01-01T01:01:00+01:00");
    assert_eq!(job["metadata"]["labels"], json!({"a": "b"}));
    assert_eq!(status(&view)["lastScheduleTime"], "2026-01-01T00:01:00Z");
    assert_eq!(status(&view)["active"][0]["name"], json!(job_at(1)));
    end(&view, &job_at(1), "Complete", "00:01:20");
    let plans = settle(&view, "00:01:30");
    assert_eq!(plans[0].events[0].message, format!("Saw completed job: {}, condition: Complete", job_at(1)));
    assert_eq!(
        (status(&view).get("active"), &status(&view)["lastSuccessfulTime"]),
        (None, &json!("2026-01-01T00:01:20Z"))
    );
}

#[test]
fn history_is_bounded() {
    let view = cluster(json!({}));
    for minute in 1..4 {
        settle(&view, &format!("00:0{minute}:00"));
        end(&view, &job_at(minute), "Complete", &format!("00:0{minute}:10"));
        settle(&view, &format!("00:0{minute}:20"));
    }
    assert_eq!(view.names(&JOBS), [job_at(3)]);
}

#[test]
fn forbid_waits_and_replace_takes_over() {
    let view = cluster(json!({"concurrencyPolicy": "Forbid"}));
    settle(&view, "00:01:00");
    let held = plan(&view, "00:02:00");
    assert_eq!((held.writes.len(), held.events[0].reason), (0, "JobAlreadyActive"));
    let view = cluster(json!({"concurrencyPolicy": "Replace"}));
    settle(&view, "00:01:00");
    settle(&view, "00:02:00");
    assert_eq!(view.names(&JOBS), [job_at(2)]);
    assert_eq!(status(&view)["active"].as_array().unwrap().len(), 1);
}

#[test]
fn missed_times_are_told() {
    let late = plan(&cluster(json!({})), "05:00:30");
    assert_eq!(late.events[0].reason, "TooManyMissedTimes");
    let hourly = plan(&cluster(json!({"schedule": "@hourly", "startingDeadlineSeconds": 10})), "01:00:30");
    assert!(hourly.writes.is_empty());
}

#[test]
fn suspended_and_unreadable_schedules_start_nothing() {
    let suspended = plan(&cluster(json!({"suspend": true})), "00:05:00");
    assert_eq!((suspended.is_empty(), suspended.wake_after), (true, None));
    let cases = [
        (json!({"schedule": "never"}), "UnparseableSchedule"),
        (json!({"schedule": "0 0 30 2 *"}), "InvalidSchedule"),
        (json!({"timeZone": "Nowhere/City"}), "UnknownTimeZone"),
    ];
    for (spec, reason) in cases {
        let plan = plan(&cluster(spec), "00:05:00");
        assert_eq!((plan.writes.len(), plan.events[0].reason), (0, reason));
    }
}

#[test]
fn active_jobs_that_went_missing_are_told() {
    let view = cluster(json!({}));
    settle(&view, "00:01:00");
    view.remove(&JOBS, "n", &job_at(1));
    let plan = plan(&view, "00:01:30");
    assert_eq!(plan.events[0].reason, "MissingJob");
    view.apply(&plan);
    assert_eq!(status(&view).get("active"), None);
}

#[test]
fn what_is_refused_is_told() {
    let view = cluster(json!({"concurrencyPolicy": "Replace"}));
    let told = |now: &str, wanted: fn(&Write) -> bool| {
        let refused = plan(&view, now).writes.into_iter().find(wanted);
        let last = Outcome { error: Some(Status::new(500, "", "no")), refused, ..Outcome::default() };
        let plan = CronJob.decide(&view, &Key::new("n", "tick"), &last, at(now));
        let event = plan.events.into_iter().find(|event| event.reason.starts_with("Failed"));
        event.map(|event| (event.reason, event.message)).unwrap_or_default()
    };
    let create = told("00:01:00", |write| matches!(write, Write::Create { .. }));
    assert_eq!(create, ("FailedCreate", "Error creating job: no".into()));
    settle(&view, "00:01:00");
    let delete = told("00:02:00", |write| matches!(write, Write::Delete { .. }));
    assert_eq!(delete, ("FailedDelete", "Deleted job: no".into()));
}

#[test]
fn what_is_odd_is_told() {
    let zoned = plan(&cluster(json!({"schedule": "TZ=UTC 0 * * * *"})), "00:05:00");
    assert_eq!(zoned.events[0].reason, "UnsupportedSchedule");
    let view = cluster(json!({}));
    let owner =
        json!([{"apiVersion": "batch/v1", "kind": "CronJob", "name": "tick", "uid": "tick-uid", "controller": true}]);
    view.put(&JOBS, json!({"metadata": {"name": "j", "namespace": "n", "ownerReferences": owner}}));
    assert_eq!(plan(&view, "00:00:30").events[0].reason, "UnexpectedJob");
}
