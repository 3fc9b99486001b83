//! Tokens that Secrets hold, and what the server notes of their use.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use coracle_apiserver::Caller;
use serde_json::{Value, json};

use super::{Fixture, fixture};

const SECRET: &str = "/api/v1/namespaces/default/secrets/t";
const TRACKING: &str = "/api/v1/namespaces/kube-system/configmaps/kube-apiserver-legacy-service-account-token-tracking";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";

fn is_day(value: &Value) -> bool {
    jiff::civil::Date::strptime("%Y-%m-%d", value.as_str().unwrap_or_default()).is_ok()
}

/// Fills a Secret with a token of the account `default`.
async fn token(fixture: &Fixture) -> String {
    let account = fixture.get("/api/v1/namespaces/default/serviceaccounts/default").await;
    let claims = json!({"iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:default:default",
        "kubernetes.io/serviceaccount/namespace": "default", "kubernetes.io/serviceaccount/secret.name": "t",
        "kubernetes.io/serviceaccount/service-account.name": "default",
        "kubernetes.io/serviceaccount/service-account.uid": account["metadata"]["uid"]});
    let claims = coracle_meta::Value::from_json(claims.to_string().as_bytes()).unwrap();
    let token = fixture.server.keys.sign(&claims).unwrap();
    let secret = json!({"metadata": {"name": "t", "annotations": {"kubernetes.io/service-account.name": "default"}},
        "type": "kubernetes.io/service-account-token", "stringData": {"token": token}});
    fixture.ok("POST", "/api/v1/namespaces/default/secrets", &secret).await;
    token
}

async fn ask(fixture: &Fixture, token: &str) -> u16 {
    // A fresh list returns once the server has seen every write before it.
    fixture.get("/api/v1/namespaces/default/secrets").await;
    let caller = Caller::Socket { certificate: None, address: IpAddr::from([192, 0, 2, 9]) };
    let request = http::Request::builder().uri("/api").header("authorization", format!("Bearer {token}"));
    fixture.send(caller, request.body(Bytes::new()).unwrap()).await.0
}

async fn noted(fixture: &Fixture) {
    let label = async || fixture.get(SECRET).await["metadata"]["labels"][LAST_USED].clone();
    let noted = async {
        while !is_day(&label().await) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), noted).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_day_of_a_tokens_use_is_noted() {
    let fixture = fixture().await;
    let token = token(&fixture).await;
    assert_eq!(ask(&fixture, &token).await, 200);
    noted(&fixture).await;
    let invalid =
        json!({"metadata": {"labels": {"kubernetes.io/legacy-token-invalid-since": "2026-01-01", LAST_USED: null}}});
    fixture.ok("PATCH", SECRET, &invalid).await;
    assert_eq!(ask(&fixture, &token).await, 401);
    noted(&fixture).await;
    let valid = json!({"metadata": {"labels": {"kubernetes.io/legacy-token-invalid-since": null}}});
    fixture.ok("PATCH", SECRET, &valid).await;
    assert_eq!(ask(&fixture, &token).await, 200);
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_day_since_which_use_is_noted_is_kept() {
    let fixture = fixture().await;
    assert!(is_day(&fixture.get(TRACKING).await["data"]["since"]));
    for (since, kept) in [("2020-01-01", true), ("one day", false)] {
        fixture.ok("PATCH", TRACKING, &json!({"data": {"since": since}})).await;
        let beside = fixture.beside();
        beside.server.start().await.unwrap();
        let now = fixture.get(TRACKING).await["data"]["since"].clone();
        assert!(is_day(&now) && (now == since) == kept, "{since} {now}");
    }
    fixture.ok("DELETE", TRACKING, &Value::Null).await;
    fixture.beside().server.start().await.unwrap();
    assert!(is_day(&fixture.get(TRACKING).await["data"]["since"]));
    fixture.close().await;
}
