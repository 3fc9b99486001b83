//! Who may read a component's metrics.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use coracle_client::{Body, BodyError, Client, Transport};
use coracle_controld::Doors;
use http::{Method, Response};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

/// Knows the token `good`, of the user `prometheus`, who may read metrics.
struct Reviewer;

#[async_trait]
impl Transport for Reviewer {
    async fn send(&self, request: http::Request<Bytes>) -> Result<Response<Body>, BodyError> {
        let mut review: Value = serde_json::from_slice(request.body())?;
        review["status"] = match request.uri().path() {
            "/apis/authentication.k8s.io/v1/tokenreviews" => {
                let known = review["spec"]["token"] == "good";
                json!({"authenticated": known, "user": {"username": "prometheus", "groups": ["watchers"]}})
            }
            _ => {
                let (spec, wanted) = (&review["spec"], json!({"path": "/metrics", "verb": "get"}));
                let known = spec["user"] == "prometheus" && spec["groups"] == json!(["watchers"]);
                json!({"allowed": known && spec["nonResourceAttributes"] == wanted})
            }
        };
        let body = Full::new(Bytes::from(review.to_string())).map_err(|never| match never {}).boxed_unsync();
        Ok(Response::builder().status(201).body(body)?)
    }
}

async fn got(path: &str, token: Option<&str>) -> (u16, String) {
    let doors = Doors { client: Client::new(Arc::new(Reviewer)), metrics: Box::new(|| "up 1\n".into()) };
    let answer = doors.answer(&Method::GET, path, token).await;
    let code = answer.status().as_u16();
    let body = answer.into_body().collect().await.expect("a whole body").to_bytes();
    (code, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn health_is_for_everybody_and_metrics_for_whom_the_server_lets() {
    assert_eq!(got("/healthz", None).await, (200, "ok".into()));
    assert_eq!(got("/metrics", Some("good")).await, (200, "up 1\n".into()));
    assert_eq!(got("/metrics", Some("bad")).await.0, 401);
    let (code, body) = got("/metrics", None).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(code, 403);
    assert_eq!(body["message"], "forbidden: User \"system:anonymous\" cannot get path \"/metrics\"");
    assert_eq!(got("/debug", Some("good")).await.0, 403);
}
