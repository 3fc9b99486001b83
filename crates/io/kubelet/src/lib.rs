//! The node's agent: runs the pods that are bound to its node through a container runtime, tells the API how they are,
//! keeps the node's own object and lease, and serves the kubelet API. What is to be done for a pod is decided by
//! `podlife`; here it is done. It names no implementation of its runtime and none of its view.

mod act;
mod container;
mod env;
mod events;
mod extended;
mod fields;
mod hooks;
mod http_call;
mod image;
mod logs;
mod names;
mod node;
mod node_context;
mod observe;
pub mod options;
mod pods;
mod prober;
mod resize;
mod resources;
pub mod runtime;
mod sandbox;
mod security;
mod server;
mod stats;
mod status;
mod volumes;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use coracle_client::Client;
use coracle_reconcile::View;
use coracle_rt::{Clock, Scope};
use serde::Serialize;

pub use options::Options;
pub use runtime::{Duplex, ExecRequest, Runtime, RuntimeError, Streams};

use node_context::NodeContext;

/// How long containers that had their time may take to be gone.
const KILL_MAX: Duration = Duration::from_secs(12);

#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    #[error("making {path}")]
    Directory {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("listening on {address}")]
    Listen {
        address: std::net::SocketAddr,
        #[source]
        source: std::io::Error,
    },
}

/// A running kubelet. It ends with its scope and leaves every container as it is.
pub struct Kubelet {
    node: Arc<NodeContext>,
    pods: pods::Pods,
}

/// How the kubelet is.
#[derive(Clone, Debug, Serialize)]
pub struct KubeletStatus {
    pub node: String,
    pub pods: usize,
    pub serving: Option<std::net::SocketAddr>,
}

/// What the kubelet reaches outside of itself by.
#[derive(Clone)]
pub struct Connections {
    /// Must hold Pods of this node, Secrets, ConfigMaps, Services, RuntimeClasses and the own Node.
    pub view: Arc<dyn View>,
    pub client: Client,
    pub runtime: Arc<dyn Runtime>,
    pub clock: Clock,
}

impl Kubelet {
    /// Binds the kubelet's port, then runs everything in tasks of `scope`.
    pub async fn start(scope: &Scope, options: Options, connections: Connections) -> Result<Kubelet, KubeletError> {
        let scope = scope.child("kubelet");
        for dir in [options.root_dir.join("pods"), options.log_dir.clone()] {
            std::fs::create_dir_all(&dir)
                .map_err(|source| KubeletError::Directory { path: dir.display().to_string(), source })?;
        }
        let Connections { view, client, runtime, clock } = connections;
        let capacity = node::capacity(&options);
        let host = options.node_name.clone();
        let node = Arc::new(NodeContext {
            events: events::EventSink::start(&scope, client.clone(), clock.clone(), host),
            memory_bytes: capacity.memory_bytes,
            rates: stats::Rates::default(),
            allocatable: capacity.allocatable.clone(),
            options,
            view,
            client,
            runtime,
            clock,
            scope,
        });
        server::start(&node).await?;
        node::start(&node, capacity);
        let pods = pods::start(&node);
        Ok(Kubelet { node, pods })
    }

    /// Ends all pods as if they were deleted, hooks and all, but within `grace_max`, and takes no other. In the API they
    /// stay as they are, so that the next kubelet runs them again. Whether nothing runs any more.
    pub async fn end_pods(&self, grace_max: Duration) -> bool {
        let grace_seconds_max = i64::try_from(grace_max.as_secs()).unwrap_or(i64::MAX);
        let ended = self.pods.end(grace_seconds_max);
        tokio::time::timeout(grace_max.saturating_add(KILL_MAX), ended).await.is_ok()
    }

    pub fn status(&self) -> KubeletStatus {
        let options = &self.node.options;
        let pods = coracle_reconcile::view::resource_of::<k8s_openapi::api::core::v1::Pod>();
        KubeletStatus {
            node: options.node_name.clone(),
            pods: self.node.view.by_index(&pods, coracle_reconcile::view::Index::Node, &options.node_name).len(),
            serving: options.tls.as_ref().map(|_| options.listen),
        }
    }
}
