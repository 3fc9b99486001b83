//! Claims that compete for volumes: each volume has one claim and each claim one volume, both say so, and what a claim
//! leaves behind goes to nobody.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_sim::World;
use serde_json::json;

use super::*;

const CLAIMS: Resource = Resource::new("", "persistentvolumeclaims");
const VOLUMES: Resource = Resource::new("", "persistentvolumes");

async fn add_volume(world: &World, name: &str) {
    let volume = json!({"metadata": {"name": name}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "manual", "hostPath": {"path": "/data"}}});
    world.ok("POST", &path(&VOLUMES, ""), &volume).await;
}

/// The claims that are bound, with their volumes.
fn bound(world: &World) -> BTreeMap<String, String> {
    let claims = world.list(&CLAIMS, "default");
    let bound = claims.iter().filter(|claim| claim["status"]["phase"] == "Bound");
    bound.map(|claim| (text(claim, "/metadata/name").into(), text(claim, "/spec/volumeName").into())).collect()
}

/// A volume that has a claim changes to no other.
fn watch_holders(world: &Arc<World>) {
    let dog = world.watchdog.clone();
    world.watch(VOLUMES, move |change| {
        let (Some(old), Some(new)) = (&change.old, &change.new) else { return };
        let holder = |volume: &Arc<coracle_meta::Object>| {
            text(&coracle_sim::world::json_of(volume), "/spec/claimRef/uid").to_owned()
        };
        let (before, after) = (holder(old), holder(new));
        if !before.is_empty() && !after.is_empty() && before != after {
            dog.blame(format!("{} goes from one claim to another", new.meta.name));
        }
    });
}

fn assert_mutual(world: &World) {
    let volumes = world.list(&VOLUMES, "");
    for (claim, name) in bound(world) {
        let uid = world.see(&CLAIMS, "default", &claim)["metadata"]["uid"].clone();
        let volume = volumes.iter().find(|volume| volume["metadata"]["name"] == *name).expect("a bound claim has one");
        assert_eq!(
            (&volume["spec"]["claimRef"]["uid"], &volume["status"]["phase"]),
            (&uid, &json!("Bound")),
            "{volume:#}"
        );
    }
}

async fn competing(world: Arc<World>) {
    watch_holders(&world);
    for number in 0..6 {
        let claim = json!({"metadata": {"name": format!("c{number}")}, "spec": {"accessModes": ["ReadWriteOnce"],
            "storageClassName": "manual", "resources": {"requests": {"storage": "1Gi"}}}});
        make(&world, &CLAIMS, &claim).await;
        if number < 4 {
            add_volume(&world, &format!("v{number}")).await;
        }
    }
    world.until(900, "four bound claims", |world| bound(world).len() == 4).await;
    world.pass(world.dice.below(20)).await;
    let first = bound(&world);
    for claim in first.keys().take(2) {
        world.ok("DELETE", &one(&CLAIMS, "default", claim), &Value::Null).await;
    }
    let released =
        |world: &World| world.list(&VOLUMES, "").iter().filter(|one| one["status"]["phase"] == "Released").count();
    world.until(900, "two volumes left behind", |world| released(world) == 2 && bound(world).len() == 2).await;
    add_volume(&world, "fresh").await;
    world.until(900, "a third claim", |world| bound(world).len() == 3).await;
    world.settle(900).await;
    assert_eq!(released(&world), 2, "what a claim left behind goes to nobody");
    assert!(first.iter().skip(2).all(|(claim, volume)| bound(&world).get(claim) == Some(volume)), "{first:?}");
    assert_mutual(&world);
    // Bound volumes outlive their deletion; others go at once.
    for volume in world.list(&VOLUMES, "") {
        world.ok("DELETE", &one(&VOLUMES, "", text(&volume, "/metadata/name")), &Value::Null).await;
    }
    world.until(900, "only the bound", |world| world.list(&VOLUMES, "").len() == 3).await;
    world.settle(900).await;
    assert_mutual(&world);
}

#[test]
fn claims_that_compete_share_no_volume() {
    seeds(competing);
}
