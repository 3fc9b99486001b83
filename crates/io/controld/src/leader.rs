//! The gate before the scheduler and the controllers: of several processes only the one that holds a Lease decides.
//! Times and fields are client-go's, so that ours and upstream's take turns on the same Lease
//! (client-go, tools/leaderelection).

use std::time::Duration;

use coracle_client::{Client, ClientError, ObjectPath, ResourceRef, WriteOptions};
use coracle_meta::time;
use coracle_rt::{Clock, Dice};
use serde_json::{Value, json};
use tokio::time::Instant;

const NAMESPACE: &str = "kube-system";
/// How long others wait after the last renewal that they saw.
const LEASE: Duration = Duration::from_secs(15);
/// How long the holder tries to renew before it gives up.
const RENEW_MAX: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);

/// One candidate for one Lease of `kube-system`.
pub struct Election {
    client: Client,
    name: String,
    identity: String,
    clock: Clock,
    /// The Lease's spec as last seen, and since when it says so. Only this process' own clock counts: others' may be off.
    observed: Option<(Value, Instant)>,
}

impl Election {
    /// `identity` must be no other process'.
    pub fn new(client: Client, name: &str, identity: String, clock: Clock) -> Election {
        Election { client, name: name.into(), identity, clock, observed: None }
    }

    /// Resolves once this process holds the Lease.
    pub async fn won(&mut self) {
        while !self.attempt().await {
            let jitter = Dice::system().below(RETRY.as_millis() as u64 / 5);
            tokio::time::sleep(RETRY + Duration::from_millis(jitter)).await;
        }
        tracing::info!(lease = self.name, identity = self.identity, "became leader");
    }

    /// Renews the Lease and resolves once it is lost: whoever led must stop at once then.
    pub async fn lost(&mut self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < RENEW_MAX {
            tokio::time::sleep(RETRY).await;
            if self.attempt().await {
                renewed = Instant::now();
            }
        }
    }

    /// Lets the next candidate have the Lease at once.
    pub async fn release(&mut self) {
        let release = async {
            let lease = self.client.get(&self.path()).await?;
            if lease["spec"]["holderIdentity"] != self.identity {
                return Ok(());
            }
            let now = time::micros(self.clock.now());
            let transitions = lease["spec"]["leaseTransitions"].clone();
            let spec = json!({"holderIdentity": "", "leaseDurationSeconds": 1, "leaseTransitions": transitions,
                "acquireTime": now, "renewTime": now});
            self.replace(lease, spec).await.map(|_| ())
        };
        let released: Result<Result<(), ClientError>, _> = tokio::time::timeout(RETRY, release).await;
        if !matches!(released, Ok(Ok(()))) {
            tracing::debug!(lease = self.name, "the lease was not released and will expire");
        }
    }

    async fn attempt(&mut self) -> bool {
        match tokio::time::timeout(RETRY * 2, self.try_once()).await {
            Ok(Ok(leads)) => leads,
            Ok(Err(error)) => {
                tracing::debug!(lease = self.name, error = %error.into_status(), "the lease was not taken");
                false
            }
            Err(_) => false,
        }
    }

    async fn try_once(&mut self) -> Result<bool, ClientError> {
        let lease = match self.client.get(&self.path()).await {
            Err(ClientError::Status(status)) if status.code == 404 => {
                let fresh = json!({
                    "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                    "metadata": {"name": self.name, "namespace": NAMESPACE},
                    "spec": self.spec(&Value::Null),
                });
                let made = self.client.create(&leases(), NAMESPACE, &fresh, &WriteOptions::default()).await?;
                self.observed = Some((made["spec"].clone(), Instant::now()));
                return Ok(true);
            }
            other => other?,
        };
        let spec = &lease["spec"];
        if self.observed.as_ref().is_none_or(|(seen, _)| seen != spec) {
            self.observed = Some((spec.clone(), Instant::now()));
        }
        if self.is_held_by_another(spec) {
            return Ok(false);
        }
        let spec = self.spec(spec);
        let written = self.replace(lease, spec).await?;
        self.observed = Some((written["spec"].clone(), Instant::now()));
        Ok(true)
    }

    fn is_held_by_another(&self, spec: &Value) -> bool {
        let holder = spec["holderIdentity"].as_str().unwrap_or_default();
        let lasts = Duration::from_secs(spec["leaseDurationSeconds"].as_u64().unwrap_or(LEASE.as_secs()));
        let alive = self.observed.as_ref().is_some_and(|(_, since)| since.elapsed() < lasts);
        !holder.is_empty() && holder != self.identity && alive
    }

    /// What the Lease says once this process has it, given what it said before.
    fn spec(&self, before: &Value) -> Value {
        let now = time::micros(self.clock.now());
        let own = before["holderIdentity"] == self.identity;
        let transitions = before["leaseTransitions"].as_i64().unwrap_or(0) + i64::from(!own && !before.is_null());
        json!({
            "holderIdentity": self.identity,
            "leaseDurationSeconds": LEASE.as_secs(),
            "acquireTime": if own { before["acquireTime"].clone() } else { json!(now) },
            "renewTime": now,
            "leaseTransitions": transitions,
        })
    }

    /// Fails with a conflict where another was faster: the resource version goes along.
    async fn replace(&self, mut lease: Value, spec: Value) -> Result<Value, ClientError> {
        lease["spec"] = spec;
        self.client.replace(&self.path(), &lease, &WriteOptions::default()).await
    }

    fn path(&self) -> ObjectPath {
        ObjectPath::new(leases(), NAMESPACE, &self.name)
    }
}

fn leases() -> ResourceRef {
    ResourceRef::new("coordination.k8s.io", "v1", "leases")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;
    use bytes::Bytes;
    use coracle_client::{Body, BodyError, Transport};
    use http::{Method, Request, Response};
    use http_body_util::{BodyExt, Full};
    use parking_lot::Mutex;

    use super::*;

    /// A server that holds one Lease.
    #[derive(Default)]
    struct OneLease(Mutex<Option<Value>>);

    #[async_trait]
    impl Transport for OneLease {
        async fn send(&self, request: Request<Bytes>) -> Result<Response<Body>, BodyError> {
            let mut held = self.0.lock();
            if *request.method() != Method::GET {
                *held = Some(serde_json::from_slice(request.body())?);
            }
            let (code, body) = match &*held {
                Some(lease) => (200, lease.clone()),
                None => (404, json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound"})),
            };
            let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed_unsync();
            Ok(Response::builder().status(code).header("content-type", "application/json").body(body)?)
        }
    }

    /// As if what it saw last had been seen that much earlier.
    fn wait(candidate: &mut Election, time: Duration) {
        candidate.observed.as_mut().unwrap().1 -= time;
    }

    #[tokio::test]
    async fn a_lease_passes_on_when_it_is_released_or_no_longer_renewed() {
        let server = Arc::new(OneLease::default());
        let candidate =
            |name: &str| Election::new(Client::new(server.clone()), "scheduler", name.into(), Clock::system());
        let (mut first, mut second) = (candidate("first"), candidate("second"));
        first.won().await;
        assert!(!second.attempt().await);
        wait(&mut second, LEASE - RETRY);
        assert!(!second.attempt().await, "not yet expired");
        wait(&mut second, LEASE);
        assert!(first.attempt().await && !second.attempt().await, "renewed");
        wait(&mut second, LEASE + RETRY);
        assert!(second.attempt().await && !first.attempt().await, "expired");
        second.release().await;
        assert!(first.attempt().await, "released");
        let lease = server.0.lock().clone().unwrap();
        assert_eq!(lease["spec"]["leaseTransitions"], 2);
    }
}
