//! The server itself: what it is made of, and the corridor's order.

use std::collections::HashMap;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use coracle_access::Policy;
use coracle_cache::{Cache, LocalView, ResourceCache, StoreError};
use coracle_kinds::Kind;
use coracle_meta::{Gate, Gates, Resource, Status, User};
use coracle_reconcile::View;
use coracle_rt::{Clock, Dice, Scope};
use futures_util::FutureExt;
use http::HeaderMap;
use parking_lot::RwLock;

use crate::answer::{self, Response};
use crate::authorise::{POLICY_KINDS, authorise, follow};
use crate::call::Call;
use crate::caller::Caller;
use crate::doors::discovery::Documents;
use crate::encode::kept::Kept;
use crate::groups::{Groups, GroupsError};
use crate::identify::genuine::Genuine;
use crate::identify::jwt::{KeyError, Keys};
use crate::identify::legacy::Marks;
use crate::limit::Limits;
use crate::metrics::Metrics;
use crate::services::range::Cidr;
use crate::store::charge::Turns;
use crate::store::facts::Facts;
use crate::usage::Sampler;
use crate::{bootstrap, doors, encode, identify, impersonate, verbs};

/// The issuer and the audience of service accounts' tokens.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// What nearly every request reads.
const COMMON_KINDS: [&str; 5] = ["namespaces", "serviceaccounts", "pods", "nodes", "services"];

/// Answers `/openapi/v2` and `/openapi/v3…`, given the path (with its query) and the headers; `None` for a path it
/// does not know.
pub type ApiDocs = Arc<dyn Fn(&str, &HeaderMap) -> Option<http::Response<Bytes>> + Send + Sync>;

/// What a server is started with.
pub struct Options {
    pub cache: Arc<Cache>,
    pub clock: Clock,
    pub dice: Dice,
    /// Tunnels to nodes run in it; it ends with the server.
    pub scope: Scope,
    /// Where clients reach the server, as the `kubernetes` Service's endpoint.
    pub advertise: (IpAddr, u16),
    /// The range of Services' addresses, `10.96.0.0/16`.
    pub service_cidr: String,
    /// First and last node port.
    pub node_ports: (u16, u16),
    /// Private keys of service accounts' tokens in PEM; the first signs.
    pub token_keys: Vec<String>,
    /// Static bearer tokens.
    pub tokens: Vec<(String, User)>,
    /// How kubelets are reached: the client certificate shown to them and whom to trust.
    pub kubelet_tls: Option<Arc<rustls::ClientConfig>>,
    pub docs: Option<ApiDocs>,
    /// The span that `metrics.k8s.io` tells rates over, as metrics-server's `--metric-resolution`.
    pub metric_resolution: Duration,
    /// Versions switched on or off, as kube-apiserver's flag of that name: `api/all=true`, `batch/v2alpha1=true`.
    pub runtime_config: Vec<String>,
    /// Feature gates that are on.
    pub gates: Gates,
}

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("reading the keys of service accounts' tokens")]
    Keys(#[from] KeyError),
    #[error("the range of Services {0:?} is not an IPv4 CIDR of 8 to 30 bits")]
    ServiceRange(String),
    #[error(transparent)]
    Groups(#[from] GroupsError),
    #[error("reading the store")]
    Store(#[from] StoreError),
    #[error("writing the objects a new cluster starts with")]
    Bootstrap(#[source] Status),
}

pub struct Server {
    pub cache: Arc<Cache>,
    pub view: Arc<LocalView>,
    pub clock: Clock,
    pub dice: Dice,
    pub keys: Keys,
    pub tokens: HashMap<String, Arc<User>>,
    pub(crate) genuine: Genuine,
    pub(crate) marks: Marks,
    audiences: Vec<String>,
    pub policy: Arc<RwLock<Policy>>,
    pub metrics: Metrics,
    pub(crate) kept: Kept,
    pub(crate) groups: Groups,
    pub(crate) gates: Gates,
    pub(crate) discovery: Documents,
    pub(crate) scope: Scope,
    pub(crate) docs: Option<ApiDocs>,
    pub(crate) kubelet_tls: Option<Arc<rustls::ClientConfig>>,
    pub(crate) advertise: (IpAddr, u16),
    pub(crate) service_range: Cidr,
    pub(crate) node_ports: (u16, u16),
    /// Held while a Service takes addresses and ports.
    pub(crate) allocation: tokio::sync::Mutex<()>,
    /// Writes that are charged to quotas, namespace by namespace.
    pub(crate) turns: Turns,
    pub(crate) facts: Facts,
    pub(crate) usage: Arc<Sampler>,
    limits: Limits,
    ready: AtomicBool,
}

/// Where a resource's objects rest in the store.
pub fn prefix_of(resource: &Resource) -> Option<String> {
    let storage = coracle_kinds::find(resource)?.storage?;
    Some(format!("/registry/{}", storage.prefix))
}

impl Server {
    pub fn new(options: Options) -> Result<Arc<Server>, ServerError> {
        let view = options.cache.view(Arc::new(prefix_of));
        let service_range =
            Cidr::parse(&options.service_cidr).ok_or(ServerError::ServiceRange(options.service_cidr))?;
        Ok(Arc::new(Server {
            cache: options.cache,
            view,
            clock: options.clock,
            dice: options.dice,
            keys: Keys::new(&options.token_keys)?,
            tokens: options.tokens.into_iter().map(|(token, user)| (token, Arc::new(user))).collect(),
            genuine: Genuine::default(),
            marks: Marks::default(),
            audiences: vec![ISSUER.to_owned()],
            policy: Arc::default(),
            metrics: Metrics::default(),
            kept: Kept::default(),
            groups: Groups::read(&options.runtime_config, options.gates)?,
            gates: options.gates,
            discovery: Documents::default(),
            scope: options.scope,
            docs: options.docs,
            kubelet_tls: options.kubelet_tls,
            advertise: options.advertise,
            service_range,
            node_ports: options.node_ports,
            allocation: tokio::sync::Mutex::default(),
            turns: Turns::default(),
            facts: Facts::default(),
            usage: Sampler::new(options.metric_resolution),
            limits: Limits::default(),
            ready: AtomicBool::new(false),
        }))
    }

    /// Writes what a new cluster starts with, reads the policy in, and is ready. Called once, before serving.
    pub async fn start(self: &Arc<Self>) -> Result<(), ServerError> {
        // Opened first, so that all of them fill at the same time.
        let common = COMMON_KINDS.map(|kind| Resource::new("", kind));
        let gated = self.gates.has(Gate::GenericWorkload).then_some(Resource::new("scheduling.k8s.io", "podgroups"));
        let all = POLICY_KINDS.into_iter().chain(common).chain(gated);
        let caches: Vec<_> = all.filter_map(|resource| self.view.resource(&resource)).collect();
        bootstrap::write(self).await?;
        futures_util::future::try_join_all(caches.iter().map(|cache| async {
            cache.wait_synced().await;
            cache.sync().await
        }))
        .await?;
        follow(self.view.as_ref(), &self.policy);
        self.ready.store(true, Ordering::Release);
        Ok(())
    }

    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// The cluster as this server's cache has it, for in-process components. Opening it is not authorised here.
    pub fn view(&self) -> Arc<dyn View> {
        self.view.clone()
    }

    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// Answers one request. A panic inside costs that request alone.
    pub async fn call(self: &Arc<Self>, caller: Caller, request: http::Request<Bytes>) -> Response {
        let began = Instant::now();
        let (call, failed) = match Call::new(self, caller, request) {
            Ok(call) => (call, None),
            Err((call, status)) => (call, Some(status)),
        };
        let response = match failed {
            Some(status) => encode::status(&call, &status),
            None => match AssertUnwindSafe(self.corridor(&call)).catch_unwind().await {
                Ok(Ok(response)) => response,
                Ok(Err(status)) => encode::status(&call, &status),
                Err(_) => {
                    tracing::error!(component = "apiserver", path = call.info.path, "a request panicked");
                    encode::status(&call, &Status::internal("the request could not be completed"))
                }
            },
        };
        self.metrics.count(&call.info, response.status().as_u16(), began.elapsed());
        call.finish(response)
    }

    /// Impersonation is settled in `Call::new`, since everything after speaks of the final user.
    async fn corridor(self: &Arc<Self>, call: &Call) -> Result<Response, Status> {
        let seat = self.limits.seat(&call.user, &call.info).await?;
        authorise(self, &call.user, &call.info)?;
        let answer = match call.info.is_resource() {
            true => verbs::route(self, call).await,
            false => doors::route(self, call).await,
        };
        drop(seat);
        answer
    }

    /// Identity and impersonation, the first steps of the corridor.
    pub(crate) fn user(self: &Arc<Self>, caller: &Caller, headers: &HeaderMap) -> Result<Arc<User>, Status> {
        let user = identify::identify(self, caller, headers)?;
        impersonate::impersonate(self, user, headers)
    }

    /// The cache of a stored kind, its first list in.
    pub(crate) async fn resource(&self, kind: &Kind) -> Result<Arc<ResourceCache>, Status> {
        let cache = kind.storage_resource().and_then(|resource| self.view.resource(&resource));
        let cache = cache.ok_or_else(answer::method_not_allowed)?;
        if cache.revision() == 0 {
            cache.wait_synced().await;
        }
        Ok(cache)
    }
}
