//! The scheduler's deeds: which requests follow its decisions, and what refusals lead to.

use coracle_meta::Resource;
use coracle_scheduler::Scheduler;
use serde_json::{Value, json};

use crate::world::{World, node, pod};

const BINDING: &str = "POST /api/v1/namespaces/n/pods/p/binding";
const STATUS: &str = "PATCH /api/v1/namespaces/n/pods/p/status";
const EVENT: &str = "POST /apis/events.k8s.io/v1/namespaces/n/events";

fn standard() -> Scheduler {
    Scheduler::standard("default-scheduler")
}

/// The PodScheduled condition that a patch of a status writes.
fn condition(body: &Value) -> &Value {
    &body["status"]["conditions"][0]
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_bound_told_of_and_counted_when_the_cluster_shows_it() {
    let mut world = World::start(standard(), [node("a"), pod("p", 0, 100, "")], &[]);
    let binding = world.seen(BINDING).await.body;
    assert_eq!((&binding["target"]["name"], &binding["metadata"]["uid"]), (&json!("a"), &json!("p-uid")));
    let event = world.seen(EVENT).await.body;
    assert_eq!((&event["reason"], &event["note"]), (&json!("Scheduled"), &json!("Successfully assigned n/p to a")));
    world.counted("scheduler_cache_size{type=\"assumed_pods\"} 1").await;
    let (resource, bound) = pod("p", 0, 100, "a");
    world.cluster.put(&resource, bound);
    world.counted("scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"scheduled\"} 1").await;
    world.counted("scheduler_pod_scheduling_sli_duration_seconds_count{attempts=\"1\"} 1").await;
    world.counted("scheduler_cache_size{type=\"assumed_pods\"} 0").await;
    assert_eq!(world.end().await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_refused_binding_is_told_and_tried_again_after_a_back_off() {
    let refusals = [("pods/p/binding", 409, "it is elsewhere")];
    let mut world = World::start(standard(), [node("a"), pod("p", 0, 100, "")], &refusals);
    world.seen(BINDING).await;
    let status = world.seen(STATUS).await.body;
    let told = condition(&status);
    assert_eq!((&told["reason"], &told["status"]), (&json!("SchedulerError"), &json!("False")));
    assert_eq!(told["message"], "running Bind plugin \"DefaultBinder\": it is elsewhere");
    world.counted("scheduler_pending_pods{queue=\"backoff\"} 1").await;
    world.counted("scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"error\"} 1").await;
    world.pass(1);
    world.seen(BINDING).await;
    world.seen(EVENT).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_not_bound_before_it_is_written_why_it_was_refused() {
    let mut world = World::start(standard(), [node("a")], &[]);
    world.hold(STATUS);
    let (resource, object) = pod("p", 0, 5000, "");
    world.cluster.put(&resource, object);
    world.counted("scheduler_pending_pods{queue=\"unschedulable\"} 1").await;
    let (resource, mut larger) = node("a");
    larger["status"]["allocatable"]["cpu"] = json!("8");
    world.cluster.put(&resource, larger);
    world.counted("scheduler_cache_size{type=\"assumed_pods\"} 1").await;
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    world.let_go();
    let mut lines = Vec::new();
    while lines.last().is_none_or(|line| line != BINDING) {
        lines.push(world.seen("").await.line);
    }
    assert!(lines.iter().any(|line| line == STATUS), "{lines:?}");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn nobody_is_told_of_a_refused_binding_whose_pod_is_gone() {
    let refusals = [("pods/p/binding", 404, "no such pod")];
    let (resource, object) = pod("p", 0, 100, "");
    let mut world = World::start(standard(), [node("a")], &refusals);
    world.cluster.put(&resource, object);
    world.cluster.view.remove(&resource, "n", "p");
    world.seen(BINDING).await;
    world.counted("scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"error\"} 1").await;
    assert_eq!(world.end().await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn what_volumes_need_is_written_first_and_a_refusal_takes_the_decision_back() {
    let class = json!({"metadata": {"name": "late"}, "provisioner": "example.com/p",
                       "volumeBindingMode": "WaitForFirstConsumer"});
    let claim = json!({"metadata": {"name": "c", "namespace": "n"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "late",
                 "resources": {"requests": {"storage": "1Gi"}}}});
    let (resource, mut user) = pod("p", 0, 100, "");
    user["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
    let objects = [
        (Resource::new("storage.k8s.io", "storageclasses"), class),
        (Resource::new("", "persistentvolumeclaims"), claim),
        node("a"),
        (resource, user),
    ];
    let mut world = World::start(standard(), objects, &[("persistentvolumeclaims/c", 409, "changed meanwhile")]);
    assert_eq!(world.seen(STATUS).await.body["status"]["nominatedNodeName"], "a");
    let patch = world.seen("PATCH /api/v1/namespaces/n/persistentvolumeclaims/c").await.body;
    assert_eq!(patch["metadata"]["annotations"]["volume.kubernetes.io/selected-node"], "a");
    let status = world.seen(STATUS).await.body;
    assert_eq!(condition(&status)["reason"], "SchedulerError");
    assert_eq!(condition(&status)["message"], "binding volumes: a write was refused");
    world.pass(1);
    world.seen("PATCH /api/v1/namespaces/n/persistentvolumeclaims/c").await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn room_is_made_by_eviction_and_told() {
    let objects = [node("a"), pod("low", 0, 1500, "a"), pod("p", 9, 1500, "")];
    let mut world = World::start(standard(), objects, &[]);
    let mut lines = Vec::new();
    let (mut nominated, mut told, mut deleted) = (Value::Null, Value::Null, Value::Null);
    while [&nominated, &told, &deleted].contains(&&Value::Null) {
        let seen = world.seen("").await;
        match seen.line.as_str() {
            STATUS => nominated = seen.body["status"]["nominatedNodeName"].clone(),
            EVENT if seen.body["reason"] == "Preempted" => told = seen.body.clone(),
            "DELETE /api/v1/namespaces/n/pods/low" => deleted = seen.body.clone(),
            _ => (),
        }
        lines.push(seen.line);
    }
    assert_eq!(nominated, "a");
    assert_eq!(deleted["preconditions"]["uid"], "low-uid");
    assert_eq!(told["note"], "Preempted by pod p-uid on node a");
    let place = |line: &str| lines.iter().position(|seen| seen == line);
    assert!(place("PATCH /api/v1/namespaces/n/pods/low/status") < place("DELETE /api/v1/namespaces/n/pods/low"));
    world.counted("scheduler_preemption_victims_sum 1").await;
    world.counted("scheduler_preemption_attempts_total 1").await;
    world.counted("scheduler_unschedulable_pods{plugin=\"NodeResourcesFit\",profile=\"default-scheduler\"} 1").await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_gang_is_bound_and_its_condition_says_so_once() {
    const GROUP: &str = "PATCH /apis/scheduling.k8s.io/v1alpha2/namespaces/n/podgroups/g/status";
    let groups = Resource::new("scheduling.k8s.io", "podgroups");
    let group = |conditions: Value| {
        json!({"apiVersion": "scheduling.k8s.io/v1alpha2", "kind": "PodGroup", "metadata": {"name": "g", "namespace": "n"},
               "spec": {"schedulingPolicy": {"gang": {"minCount": 2}}}, "status": {"conditions": conditions}})
    };
    let member = |name: &str| {
        let (resource, mut pod) = pod(name, 0, 100, "");
        pod["spec"]["schedulingGroup"] = json!({"podGroupName": "g"});
        (resource, pod)
    };
    let scheduler = Scheduler::gated("default-scheduler", coracle_meta::Gates::GANGS);
    let mut world =
        World::start(scheduler, [node("a"), (groups.clone(), group(json!([]))), member("p"), member("q")], &[]);
    let written = world.seen(GROUP).await.body;
    let told = condition(&written);
    assert_eq!((&told["type"], &told["status"]), (&json!("PodGroupScheduled"), &json!("True")));
    assert_eq!((&told["reason"], &told["message"]), (&json!("Scheduled"), &json!("")));
    let attempts = "scheduler_podgroup_schedule_attempts_total{profile=\"default-scheduler\",result=\"scheduled\"}";
    world.counted(&format!("{attempts} 1")).await;
    world.cluster.put(&groups, group(json!([told])));
    let (resource, late) = member("late");
    world.cluster.put(&resource, late);
    world.counted(&format!("{attempts} 2")).await;
    world.seen("POST /api/v1/namespaces/n/pods/late/binding").await;
    let left = world.end().await;
    assert!(!left.iter().any(|line| line == GROUP), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn an_eviction_that_is_refused_is_tried_again() {
    let objects = [node("a"), pod("low", 0, 1500, "a"), pod("p", 9, 1500, "")];
    let mut world = World::start(standard(), objects, &[("DELETE /api/v1/namespaces/n/pods/low", 409, "not now")]);
    world.seen("DELETE /api/v1/namespaces/n/pods/low").await;
    world.counted("scheduler_queue_incoming_pods_total{event=\"ForceActivate\",queue=\"backoff\"} 1").await;
    world.seen("DELETE /api/v1/namespaces/n/pods/low").await;
    world.end().await;
}
