//! Volumes for pods made from dice: claims in every state that needs no write before its pod is bound, and disks that
//! pods cannot share.

use serde_json::{Value, json};

use crate::cases::World;
use crate::dice::Dice;

const NAMESPACES: [&str; 3] = ["n1", "n2", "n3"];
/// Claims that are there, by what they are like; bound to a volume of the same name and namespace.
const BOUND: [&str; 5] = ["free", "zoned", "labelled", "alone", "lost"];
/// Claims that are not bound.
const OPEN: [&str; 3] = ["now", "local", "leaving"];
const MISSING: &str = "missing";

/// What is there in every case: classes, volumes, and claims in every namespace.
pub fn world() -> World {
    let class = |name: &str, provisioner: &str, mode: &str| {
        ("storageclasses", json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode}))
    };
    let mut world = vec![
        class("now", "example.com/disk", "Immediate"),
        class("local", "kubernetes.io/no-provisioner", "WaitForFirstConsumer"),
    ];
    for namespace in NAMESPACES {
        for name in BOUND {
            let key = format!("{namespace}-{name}");
            if name != "lost" {
                world.push(("persistentvolumes", volume(&key, namespace, name)));
            }
            let mut bound = claim(namespace, name, "now");
            bound["metadata"]["annotations"] = json!({"pv.kubernetes.io/bind-completed": "yes"});
            bound["spec"]["volumeName"] = key.into();
            bound["status"] = json!({"phase": if name == "lost" { "Lost" } else { "Bound" }});
            world.push(("persistentvolumeclaims", bound));
        }
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

fn mode(name: &str) -> &'static str {
    if name == "alone" { "ReadWriteOncePod" } else { "ReadWriteOnce" }
}

fn claim(namespace: &str, name: &str, class: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": namespace, "uid": format!("{namespace}-{name}-claim")},
        "spec": {"accessModes": [mode(name)], "storageClassName": class, "volumeMode": "Filesystem",
                 "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Pending"},
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

/// What a pod mounts. One that has its place has claims that let it have one.
pub fn mounted(dice: &mut Dice, waits: bool) -> Value {
    let mut volumes = Vec::new();
    for at in 0..dice.between(1, 2) {
        let mut volume = match dice.below(10) {
            0..5 => json!({"persistentVolumeClaim": {"claimName": dice.pick(&BOUND[..4])}}),
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
