//! What the runtime needs of a pod network: to connect a namespace and to let it go.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use async_trait::async_trait;
use coracle_proto::cri::PortMapping;

pub type NetworkError = Box<dyn std::error::Error + Send + Sync>;

/// A pod's network namespace and whose it is.
#[derive(Clone, Debug, Default)]
pub struct NetworkRequest {
    /// The pin of the namespace; gone when a pod is detached after a reboot.
    pub netns: PathBuf,
    pub sandbox_id: String,
    pub pod_namespace: String,
    pub pod_name: String,
    pub pod_uid: String,
    pub port_mappings: Vec<PortMapping>,
    pub annotations: BTreeMap<String, String>,
}

#[async_trait]
pub trait NetworkAttach: Send + Sync {
    /// Gives the pod its addresses, the primary one first.
    async fn attach(&self, request: &NetworkRequest) -> Result<Vec<IpAddr>, NetworkError>;

    /// Takes them back; doing it twice is fine.
    async fn detach(&self, request: &NetworkRequest) -> Result<(), NetworkError>;

    /// `Err` says why pods cannot have a network yet.
    async fn ready(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Pods with a loopback device and nothing else.
pub struct NoNetwork;

#[async_trait]
impl NetworkAttach for NoNetwork {
    async fn attach(&self, _: &NetworkRequest) -> Result<Vec<IpAddr>, NetworkError> {
        Ok(Vec::new())
    }

    async fn detach(&self, _: &NetworkRequest) -> Result<(), NetworkError> {
        Ok(())
    }
}
