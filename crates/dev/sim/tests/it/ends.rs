//! How things end: owners deleted in every way, namespaces emptied.

use std::sync::Arc;

use coracle_sim::World;
use serde_json::json;

use super::*;

async fn collected(world: Arc<World>) {
    for name in ["back", "fore", "orphan"] {
        make(&world, &DEPLOYMENTS, &workload("Deployment", name, 2)).await;
    }
    world
        .until(900, "six pods", |world| world.list(&PODS, "default").iter().filter(|pod| is_ready(pod)).count() == 6)
        .await;
    for (name, policy) in [("back", "Background"), ("fore", "Foreground"), ("orphan", "Orphan")] {
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy});
        world.ok("DELETE", &one(&DEPLOYMENTS, "default", name), &options).await;
    }
    // In the foreground the owner outlives what it owns.
    let (view, dog) = (world.server.view(), world.watchdog.clone());
    world.watch(DEPLOYMENTS, move |change| {
        let gone = change.old.as_ref().filter(|old| change.new.is_none() && old.meta.name == "fore");
        let Some(gone) = gone else { return };
        let owned =
            |set: &&Arc<coracle_meta::Object>| set.meta.owner_references.iter().any(|owner| owner.uid == gone.meta.uid);
        if view.list(&REPLICA_SETS, Some("default")).iter().any(|set| owned(&set)) {
            dog.blame("the owner went before what it owns".into());
        }
    });
    world.until(900, "no deployment", |world| world.list(&DEPLOYMENTS, "default").is_empty()).await;
    world.settle(900).await;
    let sets = world.list(&REPLICA_SETS, "default");
    assert_eq!(sets.len(), 1, "{sets:#?}");
    assert!(sets[0]["metadata"]["ownerReferences"].is_null(), "{:#}", sets[0]["metadata"]);
    let pods = world.list(&PODS, "default");
    assert!(pods.len() == 2 && pods.iter().all(|pod| text(pod, "/metadata/name").starts_with("orphan-")));
}

async fn emptied(world: Arc<World>) {
    world.ok("POST", "/api/v1/namespaces", &json!({"metadata": {"name": "short"}})).await;
    let accounts = Resource::new("", "serviceaccounts");
    world.until(300, "its account", |world| !world.list(&accounts, "short").is_empty()).await;
    let map = json!({"metadata": {"name": "held", "finalizers": ["example.com/hold"]}});
    world.ok("POST", "/api/v1/namespaces/short/configmaps", &map).await;
    world.ok("POST", "/apis/apps/v1/namespaces/short/deployments", &workload("Deployment", "web", 2)).await;
    world.pass(world.dice.below(20)).await;
    world.ok("DELETE", "/api/v1/namespaces/short", &Value::Null).await;
    let namespaces = Resource::new("", "namespaces");
    world.until(900, "only what is held", |world| world.list(&PODS, "short").is_empty()).await;
    world
        .until(900, "word of the finalizer", |world| {
            condition(&world.see(&namespaces, "", "short"), "NamespaceFinalizersRemaining") == "True"
        })
        .await;
    world.ok("PATCH", "/api/v1/namespaces/short/configmaps/held", &json!({"metadata": {"finalizers": null}})).await;
    // Its end takes a look at everything in which no request fails: that may never come in the worst of weathers.
    world.watchdog.clear_up();
    world.until(900, "the namespace to go", |world| world.see(&namespaces, "", "short").is_null()).await;
    world.settle(900).await;
    for (group, plural) in [("", "configmaps"), ("", "serviceaccounts"), ("apps", "replicasets"), ("", "events")] {
        assert!(world.list(&Resource::new(group, plural), "short").is_empty(), "{plural} are left");
    }
}

#[test]
fn owned_objects_go_or_stay_as_their_owners_end_says() {
    seeds(collected);
}

#[test]
fn namespaces_end_empty() {
    seeds(emptied);
}
