//! The way from a controller to the server, on which requests are late, refused, lost, or the last thing that their
//! process does.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coracle_apiserver::{Caller, Identity, Server};
use coracle_client::{Body, BodyError, Transport};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::watch::{Hook, Watchdog};
use crate::weather::{millis, strikes};

/// The server's only door: one request at a time, in the order of arrival. Tokio wakes those who wait for one value by
/// lot, and the lot is not the seed's.
#[derive(Clone)]
pub struct Door {
    server: Arc<Server>,
    turn: Arc<Mutex<()>>,
}

impl Door {
    pub fn new(server: Arc<Server>) -> Door {
        Door { server, turn: Arc::default() }
    }

    pub async fn call(&self, identity: &Identity, request: http::Request<Bytes>) -> http::Response<Body> {
        let _turn = self.turn.lock().await;
        self.server.call(Caller::Local(identity.clone()), request).await
    }
}

/// A way without faults.
pub struct FairTransport {
    pub door: Door,
    pub identity: Identity,
}

#[async_trait]
impl Transport for FairTransport {
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, BodyError> {
        Ok(self.door.call(&self.identity, request).await)
    }
}

pub struct FaultyTransport {
    pub door: Door,
    pub identity: Identity,
    pub watchdog: Arc<Watchdog>,
}

enum Fate {
    Passes,
    Conflict,
    Error,
    AnswerLost,
    /// The process dies before the write, or after it and before it hears of it.
    DiesBefore,
    DiesAfter,
}

impl FaultyTransport {
    /// Discovery and events pass unharmed: nothing is decided by them.
    fn fate(&self, request: &http::Request<Bytes>) -> Fate {
        let (dog, path) = (&self.watchdog, request.uri().path());
        let is_write = request.method() != http::Method::GET;
        if dog.is_fair() || path.ends_with("/events") || path.contains("/events/") || is_discovery(path) {
            return Fate::Passes;
        }
        if is_write && dog.is_last_write() {
            return if dog.dice.below(2) == 0 { Fate::DiesBefore } else { Fate::DiesAfter };
        }
        let weather = &dog.weather;
        match () {
            () if is_write && strikes(&dog.dice, weather.conflicts) => Fate::Conflict,
            () if strikes(&dog.dice, weather.errors) => Fate::Error,
            () if is_write && strikes(&dog.dice, weather.lost_answers) => Fate::AnswerLost,
            () => Fate::Passes,
        }
    }

    /// What the API server would answer whose webhook fails: the simulated one calls none.
    async fn hooked(&self, hook: Hook, request: &http::Request<Bytes>) -> Result<http::Response<Body>, BodyError> {
        let dog = &self.watchdog;
        let asked = dog.before(&self.identity.user().name, request);
        let (wait, code, reason, message) = match hook {
            Hook::Denies => {
                let words = "admission webhook \"pods.example.com\" denied the request: not now";
                (millis(&dog.dice, dog.weather.latency_ms_max), 403, "Forbidden", words)
            }
            Hook::TimesOut => {
                let words = "Internal error occurred: failed calling webhook \"pods.example.com\": failed to call \
                             webhook: Post \"https://pods.example.com/?timeout=10s\": context deadline exceeded";
                (HOOK_WAIT, 500, "InternalError", words)
            }
        };
        tokio::time::sleep(wait).await;
        dog.after(asked, code);
        refuse(code, reason, message)
    }

    async fn pass(&self, request: http::Request<Bytes>) -> http::Response<Body> {
        let dog = &self.watchdog;
        if is_discovery(request.uri().path()) {
            return self.door.call(&self.identity, request).await;
        }
        let asked = dog.before(&self.identity.user().name, &request);
        tokio::time::sleep(millis(&dog.dice, dog.weather.latency_ms_max)).await;
        let response = self.door.call(&self.identity, request).await;
        dog.after(asked, response.status().as_u16());
        tokio::time::sleep(millis(&dog.dice, dog.weather.latency_ms_max)).await;
        response
    }
}

/// Until the API server no longer waits for a webhook, as `timeoutSeconds` has it by default.
const HOOK_WAIT: Duration = Duration::from_secs(10);

fn makes_pod(request: &http::Request<Bytes>) -> bool {
    request.method() == http::Method::POST && request.uri().path().ends_with("/pods")
}

fn is_discovery(path: &str) -> bool {
    let depth = path.split('/').count();
    path == "/apis" || path == "/api/v1" || (path.starts_with("/apis/") && depth <= 4)
}

#[async_trait]
impl Transport for FaultyTransport {
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, BodyError> {
        if request.uri().path().starts_with("/apis/metrics.k8s.io/")
            && let Some(metrics) = self.watchdog.metrics()
        {
            return answer(200, &metrics);
        }
        if let Some(hook) = self.watchdog.hook().filter(|_| makes_pod(&request)) {
            return self.hooked(hook, &request).await;
        }
        match self.fate(&request) {
            Fate::Passes => Ok(self.pass(request).await),
            Fate::Conflict => {
                let words =
                    "the object has been modified; please apply your changes to the latest version and try again";
                refuse(409, "Conflict", words)
            }
            Fate::Error => refuse(500, "InternalError", "a fault of the simulation"),
            Fate::AnswerLost => {
                self.pass(request).await;
                Err("the connection was lost".into())
            }
            Fate::DiesBefore => {
                self.watchdog.die();
                std::future::pending().await
            }
            Fate::DiesAfter => {
                let response = self.pass(request).await;
                drop(response);
                self.watchdog.die();
                std::future::pending().await
            }
        }
    }
}

fn refuse(code: u16, reason: &str, message: &str) -> Result<http::Response<Body>, BodyError> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": message});
    answer(code, &status)
}

fn answer(code: u16, body: &Value) -> Result<http::Response<Body>, BodyError> {
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed_unsync();
    Ok(http::Response::builder().status(code).header("content-type", "application/json").body(body)?)
}
