//! Pods and the volumes they need.

use coracle_scheduler::config::Configuration;
use coracle_scheduler::{Deed, Effect, Event};
use serde_json::{Value, json};

use crate::cluster::{Cluster, key, merge, node, on, pod};

fn user(name: &str, claim: &str) -> Value {
    pod(name, json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}}))
}

fn claim(name: &str, extra: Value) -> Value {
    let mut claim = json!({
        "metadata": {"name": name, "namespace": "n", "uid": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "late",
                 "resources": {"requests": {"storage": "1Gi"}}},
    });
    merge(&mut claim, extra);
    claim
}

fn bound(name: &str, volume: &str) -> Value {
    claim(
        name,
        json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": volume}}),
    )
}

fn volume(name: &str, node: &str) -> Value {
    let terms = json!({"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "zone", "operator": "In", "values": [node]}]}]});
    json!({
        "metadata": {"name": name, "uid": name},
        "spec": {"capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "late",
                 "nodeAffinity": {"required": terms}},
        "status": {"phase": "Available"},
    })
}

fn class(provisioner: &str) -> Value {
    json!({"metadata": {"name": "late"}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"})
}

fn cluster(objects: Vec<(&'static str, Value)>) -> Cluster {
    let nodes = ["a", "b"].map(|name| ("nodes", node(name, json!({}))));
    Cluster::new(nodes.into_iter().chain(objects))
}

#[test]
fn a_claim_that_cannot_be_used_is_named() {
    let table = [
        (vec![], "persistentvolumeclaim \"c\" not found"),
        (
            vec![("persistentvolumeclaims", claim("c", json!({"spec": {"storageClassName": ""}})))],
            "pod has unbound immediate PersistentVolumeClaims",
        ),
        (
            vec![(
                "persistentvolumeclaims",
                claim("c", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
            )],
            "persistentvolumeclaim \"c\" is being deleted",
        ),
    ];
    for (objects, reason) in table {
        let message = cluster(objects).schedule(user("p", "c")).unwrap_err();
        assert_eq!(message, format!("0/2 nodes are available: {reason}. not found"));
    }
}

#[test]
fn a_bound_volume_pulls_its_pod() {
    let mut cluster =
        cluster(vec![("persistentvolumes", volume("v", "b")), ("persistentvolumeclaims", bound("c", "v"))]);
    assert_eq!(cluster.schedule(user("p", "c")), Ok("b".into()));
    cluster.set("persistentvolumes", volume("v", "nowhere"));
    let message = cluster.schedule(user("q", "c")).unwrap_err();
    assert!(message.starts_with("0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity."));
}

#[test]
fn a_fitting_volume_is_promised_written_and_awaited() {
    let mut cluster = cluster(vec![
        ("storageclasses", class("kubernetes.io/no-provisioner")),
        ("persistentvolumes", volume("v", "b")),
        ("persistentvolumeclaims", claim("c", json!({}))),
        ("persistentvolumeclaims", claim("d", json!({}))),
    ]);
    cluster.set("pods", user("p", "c"));
    let Some(Effect::Prepare { node, deeds, .. }) = cluster.next() else { panic!("the claim has to be bound first") };
    let promise =
        Deed::PromiseVolume { volume: "v".into(), namespace: "n".into(), claim: "c".into(), claim_uid: "c".into() };
    assert_eq!((node.as_str(), deeds), ("b", vec![promise]));
    let message = cluster.schedule(user("q", "d")).unwrap_err();
    assert!(message.contains("2 node(s) didn't find available persistent volumes to bind"), "{message}");
    cluster.tell(Event::Prepared { key: key("p"), uid: "p".into(), done: true });
    assert!(cluster.next().is_none(), "the claim is not bound yet");
    cluster.set("persistentvolumeclaims", bound("c", "v"));
    let effects = cluster.run();
    assert!(effects.contains(&"p on b".to_owned()), "{effects:?}");
}

#[test]
fn a_provisioner_is_told_the_node() {
    let mut cluster =
        cluster(vec![("storageclasses", class("example.com/disk")), ("persistentvolumeclaims", claim("c", json!({})))]);
    cluster.set("pods", user("p", "c"));
    let Some(Effect::Prepare { node, deeds, .. }) = cluster.next() else { panic!("the claim has to be bound first") };
    assert_eq!(deeds, [Deed::SelectNode { namespace: "n".into(), claim: "c".into(), node }]);
    cluster.tell(Event::Prepared { key: key("p"), uid: "p".into(), done: true });
    cluster.now += 601;
    let now = cluster.time();
    cluster.scheduler.expire(now);
    assert_eq!(cluster.run()[0], "p refused");
}

#[test]
fn capacity_topology_and_limits_keep_pods_away() {
    let driver = json!({"metadata": {"name": "example.com/disk"}, "spec": {"storageCapacity": true}});
    let claimed =
        || vec![("storageclasses", class("example.com/disk")), ("persistentvolumeclaims", claim("c", json!({})))];
    let mut full = cluster(claimed());
    full.set("csidrivers", driver);
    let message = full.schedule(user("p", "c")).unwrap_err();
    assert!(message.contains("2 node(s) did not have enough free storage"), "{message}");
    full.set(
        "csistoragecapacities",
        json!({"metadata": {"name": "x", "namespace": "k"}, "storageClassName": "late",
        "capacity": "5Gi", "nodeTopology": {"matchLabels": {"zone": "b"}}}),
    );
    assert_eq!(full.run(), ["p prepared for b"]);

    let mut limited = cluster(claimed());
    let limits = |name: &str, most: u32| {
        let driver = json!({"name": "example.com/disk", "nodeID": name, "allocatable": {"count": most}});
        json!({"metadata": {"name": name}, "spec": {"drivers": [driver]}})
    };
    ["a", "b"].iter().for_each(|name| limited.set("csinodes", limits(name, 0)));
    let message = limited.schedule(user("p", "c")).unwrap_err();
    assert!(message.contains("2 node(s) exceed max volume count"), "{message}");
    limited.set("csinodes", limits("a", 0));
    assert_eq!(limited.run(), [""; 0], "what says the same wakes nobody");
    limited.set("csinodes", limits("a", 1));
    assert_eq!(limited.run(), ["p prepared for a"]);
    let events: Vec<&str> = limited.scheduler.queue().incoming().keys().map(|(_, event)| *event).collect();
    assert!(events.contains(&"CSINodeUpdate"), "{events:?}");
}

#[test]
fn labelled_volumes_keep_to_their_zone() {
    let mut zoned = volume("v", "b");
    zoned["spec"]["nodeAffinity"] = Value::Null;
    merge(&mut zoned, json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "z1__z2"}}}));
    let mut cluster = Cluster::new([
        ("nodes", node("a", json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "z3"}}}))),
        ("nodes", node("b", json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "z2"}}}))),
        ("persistentvolumes", zoned),
        ("persistentvolumeclaims", bound("c", "v")),
    ]);
    assert_eq!(cluster.schedule(user("p", "c")), Ok("b".into()));
}

#[test]
fn one_pod_alone_uses_an_exclusive_claim() {
    let mut exclusive = bound("c", "v");
    exclusive["spec"]["accessModes"] = json!(["ReadWriteOncePod"]);
    let mut cluster = cluster(vec![("persistentvolumes", volume("v", "b")), ("persistentvolumeclaims", exclusive)]);
    let mut first = user("first", "c");
    merge(&mut first, on("b"));
    cluster.set("pods", first.clone());
    let message = cluster.schedule(user("p", "c")).unwrap_err();
    assert!(message.contains("ReadWriteOncePod access mode already in-use by another pod"), "{message}");
    cluster.gone("pods", first);
    assert_eq!(cluster.run(), ["p on b"]);
}

#[test]
fn volumes_are_awaited_as_long_as_the_profile_says() {
    let config = json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "profiles": [{"pluginConfig": [{"name": "VolumeBinding", "args": {"bindTimeoutSeconds": 30}}]}],
    });
    let scheduler = Configuration::read(config)
        .and_then(|read| read.scheduler(coracle_meta::Gates::default()))
        .expect("a configuration");
    let objects = [
        ("nodes", node("a", json!({}))),
        ("storageclasses", class("example.com/disk")),
        ("persistentvolumeclaims", claim("c", json!({}))),
    ];
    let mut cluster = Cluster::with(scheduler, objects);
    cluster.schedule(user("p", "c")).unwrap();
    cluster.tell(Event::Prepared { key: key("p"), uid: "p".into(), done: true });
    cluster.now += 31;
    let now = cluster.time();
    cluster.scheduler.expire(now);
    assert_eq!(cluster.run(), ["p refused"]);
}
