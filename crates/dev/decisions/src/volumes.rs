//! Volumes for pods made from dice: claims in every state that needs no write before its pod is bound, disks that pods
//! cannot share, and how many volumes of a driver each node attaches.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::cases::World;
use crate::dice::Dice;

const NAMESPACES: [&str; 3] = ["n1", "n2", "n3"];
/// Claims that are there, by what they are like; bound to a volume of the same name and namespace.
const BOUND: [&str; 5] = ["free", "zoned", "labelled", EXCLUSIVE, "lost"];
/// The claim that only one pod may use begins so and ends with its namespace: looking for victims, kube-scheduler takes
/// claims of one name in two namespaces for the same, and evicts pods that have nothing to do with it.
const EXCLUSIVE: &str = "alone";
/// Claims that are not bound.
const OPEN: [&str; 3] = ["now", "local", "leaving"];
const MISSING: &str = "missing";
/// Claims bound to volumes of CSI drivers, with their drivers; the last is one disk in all namespaces.
const ATTACHABLE: [(&str, &str); 5] = [
    ("disk0", DRIVERS[0]),
    ("disk1", DRIVERS[0]),
    ("disk2", DRIVERS[0]),
    ("other", DRIVERS[1]),
    ("shared", DRIVERS[0]),
];
const DRIVERS: [&str; 2] = ["a.example.com", "b.example.com"];
/// A claim whose volume is made once its pod has a node, by the first of the drivers.
const LATER: &str = "later";
/// A claim in the first namespace, and the driver of its volume, of which nodes attach one at most.
pub const PROBED: &str = "probed";
const PROBED_DRIVER: &str = "probed.example.com";
/// Another volume of that driver.
const HELD: &str = "held";

/// What is there in every case: classes, volumes, and claims in every namespace.
pub fn world() -> World {
    let class = |name: &str, provisioner: &str, mode: &str| {
        ("storageclasses", json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode}))
    };
    let mut world = vec![
        class("now", "example.com/disk", "Immediate"),
        class("local", "kubernetes.io/no-provisioner", "WaitForFirstConsumer"),
        class("csi", DRIVERS[0], "WaitForFirstConsumer"),
        ("persistentvolumes", attachable(HELD, ("", ""), PROBED_DRIVER)),
        ("persistentvolumes", attachable(PROBED, (NAMESPACES[0], PROBED), PROBED_DRIVER)),
        ("persistentvolumeclaims", bound(NAMESPACES[0], PROBED, PROBED)),
    ];
    for namespace in NAMESPACES {
        for name in BOUND {
            let name = &named(name, namespace);
            let key = format!("{namespace}-{name}");
            if name != "lost" {
                world.push(("persistentvolumes", volume(&key, namespace, name)));
            }
            world.push(("persistentvolumeclaims", bound(namespace, name, &key)));
        }
        for (name, driver) in ATTACHABLE {
            let key = format!("{namespace}-{name}");
            world.push(("persistentvolumes", attachable(&key, (namespace, name), driver)));
            world.push(("persistentvolumeclaims", bound(namespace, name, &key)));
        }
        world.push(("persistentvolumeclaims", claim(namespace, LATER, "csi")));
        for name in OPEN {
            let mut open = claim(namespace, name, if name == "local" { "local" } else { "now" });
            if name == "leaving" {
                open["metadata"]["deletionTimestamp"] = "2026-01-02T00:00:00Z".into();
            }
            world.push(("persistentvolumeclaims", open));
        }
    }
    world
}

/// The name in a namespace.
fn named(name: &str, namespace: &str) -> String {
    if name == EXCLUSIVE { format!("{name}-{namespace}") } else { name.into() }
}

fn mode(name: &str) -> &'static str {
    if name.starts_with(EXCLUSIVE) { "ReadWriteOncePod" } else { "ReadWriteOnce" }
}

fn claim(namespace: &str, name: &str, class: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": namespace, "uid": format!("{namespace}-{name}-claim")},
        "spec": {"accessModes": [mode(name)], "storageClassName": class, "volumeMode": "Filesystem",
                 "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Pending"},
    })
}

fn bound(namespace: &str, name: &str, volume: &str) -> Value {
    let mut bound = claim(namespace, name, "now");
    bound["metadata"]["annotations"] = json!({"pv.kubernetes.io/bind-completed": "yes"});
    bound["spec"]["volumeName"] = volume.into();
    bound["status"] = json!({"phase": if name == "lost" { "Lost" } else { "Bound" }});
    bound
}

fn attachable(key: &str, (namespace, name): (&str, &str), driver: &str) -> Value {
    let mut volume = volume(key, namespace, name);
    let handle = if name == "shared" { name } else { key };
    volume["spec"]["hostPath"] = Value::Null;
    volume["spec"]["csi"] = json!({"driver": driver, "volumeHandle": handle});
    volume
}

/// How many volumes of each driver a node attaches, where it says so at all.
pub fn limits(dice: &mut Dice, node: &str) -> Value {
    let mut drivers = Vec::new();
    for driver in DRIVERS {
        if dice.chance(80) {
            let count = *dice.pick(&[0, 1, 1, 2, 2, 3]);
            let most = if dice.chance(85) { json!({"count": count}) } else { json!({}) };
            drivers.push(driver_of(driver, node, most));
        }
    }
    json!({"metadata": {"name": node, "uid": format!("{node}-csi")}, "spec": {"drivers": drivers}})
}

fn driver_of(name: &str, node: &str, most: Value) -> Value {
    json!({"name": name, "nodeID": node, "topologyKeys": [], "allocatable": most})
}

/// Adds that a node attaches one volume of the driver that probes use.
pub fn add_probed(limits: &mut Value) {
    let node = limits["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if let Some(drivers) = limits["spec"]["drivers"].as_array_mut() {
        drivers.push(driver_of(PROBED_DRIVER, &node, json!({"count": 1})));
    }
}

/// That one volume is attached to a node already.
pub fn probed_attachment(name: &str, node: &str) -> Value {
    attached(name, node, (PROBED_DRIVER, HELD))
}

/// Some volume attached to a node, or said to be.
pub fn attachment(dice: &mut Dice, name: &str, node: &str) -> Value {
    let (claim, driver) = *dice.pick(&ATTACHABLE);
    let volume = match dice.below(10) {
        0 => MISSING.to_owned(),
        1 => "n1-free".to_owned(),
        _ => format!("{}-{claim}", dice.pick(&NAMESPACES)),
    };
    let attacher = if dice.chance(90) { driver } else { dice.pick(&DRIVERS) };
    attached(name, node, (attacher, &volume))
}

fn attached(name: &str, node: &str, (attacher, volume): (&str, &str)) -> Value {
    json!({
        "metadata": {"name": name, "uid": name},
        "spec": {"attacher": attacher, "nodeName": node, "source": {"persistentVolumeName": volume}},
        "status": {"attached": true},
    })
}

fn volume(key: &str, namespace: &str, name: &str) -> Value {
    let mut volume = json!({
        "metadata": {"name": key, "uid": key, "labels": {}},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": [mode(name)], "storageClassName": "now",
                 "volumeMode": "Filesystem", "hostPath": {"path": "/x"},
                 "claimRef": {"namespace": namespace, "name": name, "uid": format!("{namespace}-{name}-claim")}},
        "status": {"phase": "Bound"},
    });
    if name == "zoned" {
        let zone = json!({"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["z0", "z2"]});
        volume["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [zone]}]}});
    }
    if name == "labelled" {
        volume["metadata"]["labels"] = json!({"topology.kubernetes.io/zone": "z1__z2"});
    }
    volume
}

/// Gives pods a claim that can be shared where another pod has the one that cannot: no cluster ever lets two pods use it.
pub fn share_claims(placed: &mut [Value]) {
    let mut taken = BTreeSet::new();
    for pod in placed {
        let namespace = pod["metadata"]["namespace"].to_string();
        for volume in pod["spec"]["volumes"].as_array_mut().into_iter().flatten() {
            let Some(name) = volume.pointer_mut("/persistentVolumeClaim/claimName") else { continue };
            let exclusive = name.as_str().is_some_and(|name| name.starts_with(EXCLUSIVE));
            if exclusive && !taken.insert(namespace.clone()) {
                *name = "free".into();
            }
        }
    }
}

/// What a pod mounts. One that has its place has claims that let it have one.
pub fn mounted(dice: &mut Dice, namespace: &str, waits: bool) -> Value {
    let mut volumes = Vec::new();
    for at in 0..dice.between(1, 3) {
        let mut volume = match dice.below(16) {
            10.. if waits || dice.chance(80) => {
                json!({"persistentVolumeClaim": {"claimName": dice.pick(&ATTACHABLE).0}})
            }
            10.. => json!({"persistentVolumeClaim": {"claimName": dice.pick(&[LATER, LATER, "lost", MISSING])}}),
            0..5 => json!({"persistentVolumeClaim": {"claimName": named(BOUND[dice.below(4)], namespace)}}),
            5 if waits => json!({"persistentVolumeClaim": {"claimName": dice.pick(&["lost", MISSING])}}),
            6 if waits => json!({"persistentVolumeClaim": {"claimName": dice.pick(&OPEN)}}),
            7 if waits => json!({"ephemeral": {"volumeClaimTemplate": {"spec": claim("", "own", "now")["spec"]}}}),
            5 | 6 => json!({"gcePersistentDisk": {"pdName": dice.pick(&["d0", "d1"]), "readOnly": dice.chance(50)}}),
            7 => json!({"awsElasticBlockStore": {"volumeID": dice.pick(&["d0", "d1"])}}),
            8 => json!({"rbd": {"monitors": dice.pick(&[["m0", "m1"], ["m1", "m2"], ["m3", "m4"]]),
                                "pool": "rbd", "image": "i", "readOnly": dice.chance(50)}}),
            _ => json!({"iscsi": {"targetPortal": "t", "lun": 0, "iqn": dice.pick(&["q0", "q1"]),
                                  "readOnly": dice.chance(50)}}),
        };
        volume["name"] = format!("v{at}").into();
        volumes.push(volume);
    }
    volumes.into()
}
