//! Decisions by tables: a pod, what is observed, and what follows.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::json;

use crate::{
    Action, Decision, Desired, Failure, FailureKind, Instance, Memory, Observation, Outcome, PreStop, Presence,
    ProbeAnswer, ProbeKind, RunState, Sandbox, container_hash, find_container, step,
};

struct World {
    pod: Pod,
    presence: Presence,
    observed: Observation,
    memory: Memory,
    now: Timestamp,
}

impl World {
    /// A prepared pod with a ready sandbox.
    fn new(spec: serde_json::Value) -> World {
        let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec});
        let mut memory = Memory::default();
        memory.finish(&Action::Prepare, &Outcome::Done, Timestamp::UNIX_EPOCH);
        let sandbox = Sandbox { id: "s".into(), ready: true, ips: vec!["10.0.0.9".into()], ..Sandbox::default() };
        let observed = Observation { sandboxes: vec![sandbox], instances: Vec::new() };
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        World { pod: serde_json::from_value(pod).unwrap(), presence: Presence::InApi, observed, memory, now }
    }

    fn step(&mut self) -> Decision {
        let desired = Desired { pod: &self.pod, presence: self.presence, node_ip: "192.0.2.1", hindrance: None };
        let decision = step(desired, &self.observed, &mut self.memory, self.now);
        self.pod.status = Some(decision.status.clone());
        decision
    }

    fn pass(&mut self, seconds: i64) -> &mut World {
        self.now += SignedDuration::from_secs(seconds);
        self
    }

    /// The newest life of a container is in this state.
    fn is(&mut self, name: &str, attempt: u32, state: RunState) -> &mut World {
        let id = format!("{name}{attempt}");
        self.observed.instances.retain(|instance| instance.id != id);
        let hash = find_container(&self.pod, name).map(|(_, container)| container_hash(&container)).unwrap();
        let instance = Instance {
            container_id: format!("x://{id}"),
            id,
            name: name.into(),
            sandbox_id: "s".into(),
            attempt,
            hash,
            state,
            image: String::new(),
            image_id: String::new(),
            resources: None,
        };
        self.observed.instances.insert(0, instance);
        self
    }

    fn runs(&mut self, name: &str, attempt: u32) -> &mut World {
        let started_at = self.now;
        self.is(name, attempt, RunState::Running { started_at })
    }

    fn ends(&mut self, name: &str, attempt: u32, code: i32) -> &mut World {
        let at = self.now;
        let (reason, message) = (String::new(), String::new());
        self.is(name, attempt, RunState::Exited { code, reason, message, started_at: at, finished_at: at })
    }

    fn delete(&mut self, grace_seconds: i64) {
        let metadata = json!({"name": "p", "namespace": "ns", "uid": "u", "deletionTimestamp": "2027-01-15T08:00:00Z",
            "deletionGracePeriodSeconds": grace_seconds});
        self.pod.metadata = serde_json::from_value(metadata).unwrap();
    }
}

fn start(name: &str, attempt: u32) -> Action {
    Action::StartContainer { name: name.into(), attempt }
}

fn kills(decision: &Decision) -> Vec<&str> {
    let killed = decision.actions.iter().filter_map(|action| match action {
        Action::KillContainer { name, .. } => Some(name.as_str()),
        _ => None,
    });
    killed.collect()
}

fn waiting_reason(decision: &Decision) -> String {
    let statuses = decision.status.container_statuses.as_ref().unwrap();
    let waiting = statuses[0].state.as_ref().and_then(|state| state.waiting.clone());
    waiting.and_then(|waiting| waiting.reason).unwrap_or_default()
}

fn one(policy: &str) -> World {
    World::new(json!({"restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]}))
}

#[test]
fn init_containers_go_one_after_the_other_and_a_sidecar_stays() {
    let mut world = World::new(json!({"containers": [{"name": "c"}],
        "initContainers": [{"name": "a"}, {"name": "side", "restartPolicy": "Always"}, {"name": "b"}]}));
    assert_eq!(world.step().actions, [start("a", 0)]);
    assert_eq!(world.runs("a", 0).step().actions, []);
    assert_eq!(world.ends("a", 0, 0).step().actions, [start("side", 0)]);
    assert_eq!(world.runs("side", 0).step().actions, [start("b", 0)]);
    assert_eq!(world.ends("b", 0, 0).step().actions, [start("c", 0)]);
    let decision = world.runs("c", 0).step();
    assert_eq!((decision.actions, decision.status.phase.as_deref()), (vec![], Some("Running")));
    assert_eq!(world.ends("side", 0, 1).step().actions, [start("side", 1)]);
}

#[test]
fn what_runs_is_ready_at_once_unless_a_hook_is_still_to_succeed() {
    let hook = json!({"postStart": {"exec": {"command": ["x"]}}});
    for (lifecycle, ready) in [(json!(null), true), (hook, false)] {
        let mut world = World::new(json!({"containers": [{"name": "c", "lifecycle": lifecycle}]}));
        world.step();
        world.memory.begin(&start("c", 0));
        let told = |decision: Decision| decision.status.container_statuses.unwrap()[0].ready;
        assert_eq!(told(world.runs("c", 0).step()), ready);
        world.memory.finish(&start("c", 0), &Outcome::Done, world.now);
        assert!(told(world.step()));
    }
}

#[test]
fn an_init_container_that_fails_for_good_fails_the_pod() {
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "c"}], "initContainers": [{"name": "a"}]});
    let decision = World::new(spec).ends("a", 0, 1).step();
    assert_eq!(decision.actions, [Action::StopSandbox { id: "s".into() }]);
    assert_eq!(decision.status.phase.as_deref(), Some("Failed"));
}

#[test]
fn restart_policy_decides_what_follows_an_end() {
    for (policy, code, restarts, phase) in [
        ("Always", 0, true, "Running"),
        ("OnFailure", 0, false, "Succeeded"),
        ("OnFailure", 1, true, "Running"),
        ("Never", 0, false, "Succeeded"),
        ("Never", 1, false, "Failed"),
    ] {
        let decision = one(policy).ends("c", 0, code).step();
        assert_eq!(decision.actions.contains(&start("c", 1)), restarts, "{policy} {code}");
        assert_eq!(decision.status.phase.as_deref(), Some(phase), "{policy} {code}");
    }
}

#[test]
fn back_off_grows_from_ten_seconds_to_five_minutes() {
    let mut world = one("Always");
    world.runs("c", 0).step();
    assert_eq!(world.ends("c", 0, 1).step().actions, [start("c", 1)]);
    for (attempt, seconds) in [10, 20, 40, 80, 160, 300, 300].into_iter().enumerate() {
        let attempt = attempt as u32 + 1;
        let decision = world.runs("c", attempt).ends("c", attempt, 1).step();
        assert_eq!(decision.actions.iter().filter(|action| matches!(action, Action::StartContainer { .. })).count(), 0);
        assert_eq!(waiting_reason(&decision), "CrashLoopBackOff");
        assert_eq!(decision.wake_at, Some(world.now + SignedDuration::from_secs(seconds)));
        assert!(world.pass(seconds).step().actions.contains(&start("c", attempt + 1)));
    }
}

#[test]
fn a_pull_that_fails_shows_as_such_and_then_backs_off() {
    let mut world = one("Always");
    world.step();
    let failure = Failure { kind: FailureKind::Pull, reason: "ErrImagePull".into(), message: "gone".into() };
    world.memory.finish(&start("c", 0), &Outcome::Failed(failure), world.now);
    let decision = world.step();
    assert_eq!((decision.actions.len(), waiting_reason(&decision)), (0, "ErrImagePull".into()));
    assert_eq!(waiting_reason(&world.pass(3).step()), "ImagePullBackOff");
    assert_eq!(world.pass(7).step().actions, [start("c", 0)]);
}

#[test]
fn a_start_that_fails_shows_as_such_and_then_as_a_crash_loop() {
    let mut world = one("Always");
    let failure = Failure { kind: FailureKind::Run, reason: "RunContainerError".into(), message: "no file".into() };
    world.memory.finish(&start("c", 0), &Outcome::Failed(failure), world.now);
    world.ends("c", 0, 128);
    assert_eq!(waiting_reason(&world.step()), "RunContainerError");
    assert_eq!(waiting_reason(&world.pass(3).step()), "CrashLoopBackOff");
    assert_eq!(world.pass(8).step().actions, [start("c", 1)]);
}

#[test]
fn the_message_of_an_end_is_kept_when_its_file_is_gone() {
    let mut world = one("Never");
    let ends = |message: &str| RunState::Exited {
        code: 1,
        reason: String::new(),
        message: message.into(),
        started_at: Timestamp::UNIX_EPOCH,
        finished_at: Timestamp::UNIX_EPOCH,
    };
    world.is("c", 0, ends("said why")).step();
    let status = world.is("c", 0, ends("")).step().status;
    let state = status.container_statuses.unwrap().remove(0).state.unwrap();
    assert_eq!(state.terminated.unwrap().message.as_deref(), Some("said why"));
}

#[test]
fn probes_gate_readiness_and_condemn() {
    let mut world = World::new(json!({"containers": [{"name": "c",
        "readinessProbe": {"periodSeconds": 5}, "livenessProbe": {"failureThreshold": 2, "periodSeconds": 5,
        "terminationGracePeriodSeconds": 7}}]}));
    let decision = world.runs("c", 0).step();
    let probe = |kind| Action::Probe { id: "c0".into(), name: "c".into(), kind };
    assert_eq!(decision.actions, [probe(ProbeKind::Liveness), probe(ProbeKind::Readiness)]);
    assert!(!decision.status.container_statuses.unwrap()[0].ready);
    let answer = |world: &mut World, kind, answer| {
        let now = world.now;
        world.memory.finish(&probe(kind), &Outcome::Probed(answer), now);
        world.step()
    };
    let decision = answer(&mut world, ProbeKind::Readiness, ProbeAnswer::Success);
    assert!(decision.status.container_statuses.unwrap()[0].ready);
    answer(&mut world, ProbeKind::Liveness, ProbeAnswer::Failure);
    world.pass(5);
    let decision = answer(&mut world, ProbeKind::Liveness, ProbeAnswer::Failure);
    let kill = Action::KillContainer {
        id: "c0".into(),
        name: "c".into(),
        grace_seconds: 7,
        message: "Container c failed liveness probe, will be restarted".into(),
        pre_stop: PreStop::Run,
    };
    assert!(decision.actions.contains(&kill), "{:?}", decision.actions);
}

#[test]
fn a_changed_image_restarts_the_container_in_place() {
    let mut world = one("Never");
    world.runs("c", 0).step();
    world.pod.spec.as_mut().unwrap().containers[0].image = Some("other".into());
    assert_eq!(kills(&world.step()), ["c"]);
}

#[test]
fn deletion_ends_sidecars_last_and_then_everything() {
    let mut world = World::new(json!({"containers": [{"name": "c"}],
        "initContainers": [{"name": "x", "restartPolicy": "Always"}, {"name": "y", "restartPolicy": "Always"}]}));
    world.runs("x", 0).runs("y", 0).runs("c", 0).step();
    world.delete(30);
    assert_eq!(kills(&world.step()), ["c"]);
    assert_eq!(kills(&world.ends("c", 0, 0).step()), ["y"]);
    assert_eq!(kills(&world.ends("y", 0, 0).step()), ["x"]);
    assert_eq!(world.ends("x", 0, 0).step().actions, [Action::StopSandbox { id: "s".into() }]);
    world.observed.sandboxes[0].ready = false;
    assert_eq!(world.step().actions, [Action::CleanUp]);
    world.memory.finish(&Action::CleanUp, &Outcome::Done, world.now);
    let decision = world.step();
    assert_eq!(decision.actions, [Action::Delete]);
    assert_eq!(decision.status.phase.as_deref(), Some("Succeeded"));
}

#[test]
fn a_node_that_goes_down_ends_containers_by_their_grace_and_its_own_and_starts_none() {
    let mut world = World::new(json!({"terminationGracePeriodSeconds": 20, "containers": [{"name": "c"}],
        "initContainers": [{"name": "x", "restartPolicy": "Always"}]}));
    world.runs("x", 0).runs("c", 0).step();
    let kill = |name: &str, grace_seconds| Action::KillContainer {
        id: format!("{name}0"),
        name: name.into(),
        grace_seconds,
        message: format!("Stopping container {name}"),
        pre_stop: PreStop::Run,
    };
    world.presence = Presence::Leaving { grace_seconds_max: 60 };
    assert_eq!(world.step().actions, [kill("c", 20)]);
    world.presence = Presence::Leaving { grace_seconds_max: 10 };
    assert_eq!(world.step().actions, [kill("c", 10)]);
    // The time is the pod's, not each container's.
    assert_eq!(world.pass(4).ends("c", 0, 0).step().actions, [kill("x", 6)]);
    world.memory.begin(&start("c", 1));
    assert_eq!(world.ends("x", 0, 0).step().actions, []);
    world.memory.finish(&start("c", 1), &Outcome::Done, world.now);
    assert_eq!(world.step().actions, [Action::Leave]);
}

#[test]
fn a_deleted_pod_goes_to_the_end_on_a_node_that_goes_down() {
    let mut world = one("Always");
    world.runs("c", 0).step();
    world.delete(30);
    world.presence = Presence::Leaving { grace_seconds_max: 5 };
    assert_eq!(kills(&world.step()), ["c"]);
    assert_eq!(world.ends("c", 0, 0).step().actions, [Action::StopSandbox { id: "s".into() }]);
}

#[test]
fn a_lost_sandbox_is_made_anew_and_init_runs_again() {
    let mut world = World::new(json!({"containers": [{"name": "c"}], "initContainers": [{"name": "a"}]}));
    world.ends("a", 0, 0).ends("c", 0, 137);
    world.observed.sandboxes[0].ready = false;
    assert_eq!(world.step().actions, [Action::CreateSandbox { attempt: 1 }]);
    let fresh = Sandbox { id: "t".into(), attempt: 1, ready: true, ips: vec!["10.0.0.8".into()], ..Sandbox::default() };
    world.observed.sandboxes.insert(0, fresh);
    assert_eq!(world.step().actions, [start("a", 1)]);
}

#[test]
fn what_changes_while_volumes_are_made_is_not_missed() {
    let mut world = one("Always");
    let failed =
        Failure { kind: FailureKind::Other, reason: String::new(), message: "configmap \"c\" not found".into() };
    for outcome in [Outcome::Failed(failed), Outcome::Done] {
        world.memory = Memory::default();
        world.observed = Observation::default();
        assert_eq!(world.step().actions, [Action::Prepare]);
        world.memory.begin(&Action::Prepare);
        world.memory.refresh_volumes();
        world.memory.finish(&Action::Prepare, &outcome, world.now);
        assert!(world.step().actions.contains(&Action::Prepare), "{outcome:?}");
        world.memory.begin(&Action::Prepare);
        world.memory.finish(&Action::Prepare, &outcome, world.now);
        assert!(!world.step().actions.contains(&Action::Prepare), "{outcome:?}");
    }
}

#[test]
fn a_pod_past_its_deadline_fails() {
    let mut world = World::new(json!({"activeDeadlineSeconds": 60, "containers": [{"name": "c"}]}));
    world.runs("c", 0);
    let decision = world.step();
    assert_eq!(decision.wake_at, Some(world.now + SignedDuration::from_secs(60)));
    let decision = world.pass(60).step();
    assert_eq!(kills(&decision), ["c"]);
    assert_eq!(decision.status.reason.as_deref(), Some("DeadlineExceeded"));
}

#[test]
fn deciding_twice_changes_nothing() {
    let mut world = one("Always");
    world.runs("c", 0);
    let first = world.step();
    let second = world.pass(5).step();
    assert_eq!(first.status, second.status);
    assert!(second.actions.is_empty());
}

#[test]
fn a_running_container_is_given_other_resources_and_the_status_tells_when_it_has_them() {
    let of = |cpu: &str| json!({"requests": {"cpu": cpu}});
    let mut world = World::new(json!({"containers": [{"name": "a", "image": "i", "resources": of("1")}]}));
    world.runs("a", 0).step();
    world.pod.spec.as_mut().unwrap().containers[0].resources = serde_json::from_value(of("2")).unwrap();
    let decision = world.step();
    let resize = Action::ResizeContainer { id: "a0".into(), name: "a".into(), resources: of("2").to_string() };
    assert_eq!(decision.actions, std::slice::from_ref(&resize));
    let shown = |status: &PodStatus| {
        let container = &status.container_statuses.as_ref().unwrap()[0];
        let resources = serde_json::to_value(&container.resources).unwrap();
        let resizes = status.conditions.iter().flatten().filter(|one| one.type_ == "PodResizeInProgress").count();
        (resources, serde_json::to_value(&container.allocated_resources).unwrap(), resizes)
    };
    assert_eq!(shown(&decision.status), (of("1"), json!({"cpu": "2"}), 1));
    world.memory.finish(&resize, &Outcome::Done, world.now);
    assert_eq!(shown(&world.step().status), (of("2"), json!({"cpu": "2"}), 0));
}
