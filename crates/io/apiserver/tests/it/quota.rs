//! What a namespace lets in: quotas that many writers charge at once, and namespaces that go meanwhile.

use coracle_apiserver::Identity;
use serde_json::{Value, json};

use super::{Fixture, MAPS, PODS, config_map, fixture, pod};

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

/// A quota as its controller has taken it up.
async fn bound(fixture: &Fixture, hard: Value) {
    let used: serde_json::Map<String, Value> =
        hard.as_object().unwrap().keys().map(|name| (name.clone(), json!("0"))).collect();
    fixture.ok("POST", QUOTAS, &json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).await;
    let status = json!({"status": {"hard": hard, "used": used}});
    fixture.ok("PATCH", &format!("{QUOTAS}/q/status"), &status).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_are_charged_and_refuse() {
    let fixture = fixture().await;
    bound(&fixture, json!({"pods": "1"})).await;
    fixture.ok("POST", PODS, &pod("a")).await;
    let (code, refused) = fixture.call("POST", PODS, &pod("b")).await;
    let words = "pods \"b\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1";
    assert_eq!((code, &refused["message"]), (403, &json!(words)));
    let on_trial = fixture.call("POST", &format!("{PODS}?dryRun=All"), &pod("b")).await;
    assert_eq!(on_trial.0, 403);
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_never_exceed_a_quota_together() {
    let fixture = fixture().await;
    bound(&fixture, json!({"count/configmaps": "7"})).await;
    let makes = (0..20).map(|index| {
        let fixture = &fixture;
        async move { fixture.call("POST", MAPS, &config_map(&format!("m{index}"))).await.0 }
    });
    let codes = futures_util::future::join_all(makes).await;
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 7, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == 403).count(), 13, "{codes:?}");
    assert_eq!(fixture.get(&format!("{QUOTAS}/q")).await["status"]["used"]["count/configmaps"], "7");
    // A write that fails for another reason costs nothing.
    fixture.ok("DELETE", &format!("{QUOTAS}/q"), &Value::Null).await;
    bound(&fixture, json!({"count/configmaps": "7"})).await;
    let taken = codes.iter().position(|code| *code == 201).unwrap();
    assert_eq!(fixture.call("POST", MAPS, &config_map(&format!("m{taken}"))).await.0, 409);
    assert_eq!(fixture.get(&format!("{QUOTAS}/q")).await["status"]["used"]["count/configmaps"], "0");
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_comes_into_a_namespace_once_its_end_is_told() {
    let fixture = fixture().await;
    for round in 0..10 {
        let name = format!("n{round}");
        let namespace = format!("/api/v1/namespaces/{name}");
        fixture.ok("POST", "/api/v1/namespaces", &json!({"metadata": {"name": name}})).await;
        let maps = format!("{namespace}/configmaps");
        fixture.ok("POST", &maps, &config_map("first")).await;
        let (ended, ()) = tokio::join!(fixture.ok("DELETE", &namespace, &Value::Null), async {
            for index in 0..5 {
                fixture.call("POST", &maps, &config_map(&format!("m{index}"))).await;
            }
        });
        let (code, refused) = fixture.call("POST", &maps, &config_map("late")).await;
        assert_eq!((code, &refused["details"]["causes"][0]["reason"]), (403, &json!("NamespaceTerminating")));
        let end: u64 = ended["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        for map in fixture.get(&maps).await["items"].as_array().unwrap() {
            let made: u64 = map["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
            assert!(made < end, "{map:#} came after {end}");
        }
    }
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_count_for_the_very_next_pod() {
    let fixture = fixture().await;
    for round in 0..5 {
        let range =
            json!({"metadata": {"name": "l"}, "spec": {"limits": [{"type": "Container", "default": {"cpu": "3"}}]}});
        fixture.ok("POST", "/api/v1/namespaces/default/limitranges", &range).await;
        let made = fixture.ok("POST", PODS, &pod(&format!("p{round}"))).await;
        assert_eq!(made["spec"]["containers"][0]["resources"]["limits"]["cpu"], "3");
        fixture.ok("DELETE", "/api/v1/namespaces/default/limitranges/l", &Value::Null).await;
        let free = fixture.as_user(Identity::admin(), "POST", PODS, &pod(&format!("f{round}"))).await.1;
        assert!(free["spec"]["containers"][0]["resources"]["limits"].is_null());
    }
    fixture.close().await;
}
