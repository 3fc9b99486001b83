//! The node of one process: pod network, container runtime, Service proxy, DNS and kubelet.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coracle_apiserver::Identity as Caller;
use coracle_client::{ClientError, ObjectPath, Patch, ResourceRef, WriteOptions};
use coracle_dns::Dns;
use coracle_image::Store as Images;
use coracle_kubelet::{Connections, Kubelet};
use coracle_linux::zygote::Zygote;
use coracle_podnet::PodNetwork;
use coracle_proxy::Proxy;
use coracle_rt::{Clock, Dice, Scope};
use coracle_runtime::EmbeddedRuntime;
use serde_json::{Value, json};

use crate::control::Component;
use crate::control_plane::ControlPlane;
use crate::embedded::{Embedded, Network};
use crate::identity::{Cidr, Identity};
use crate::paths::Paths;
use crate::pki::{KeyPairPem, Pki};
use crate::tls::{self, TlsError};

pub const CLUSTER_DOMAIN: &str = "cluster.local";
const DNS_PORT: u16 = 53;

#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("setting up the pod network")]
    Network(#[from] coracle_podnet::Error),
    #[error("opening the container runtime")]
    Runtime(#[source] Box<tonic::Status>),
    #[error("starting DNS")]
    Dns(#[from] coracle_dns::Error),
    #[error("starting the kubelet")]
    Kubelet(#[from] coracle_kubelet::KubeletError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("announcing the cluster's DNS")]
    Announce(#[source] Box<ClientError>),
}

pub struct Worker {
    kubelet: Kubelet,
    proxy: Proxy,
    runtime: Arc<EmbeddedRuntime>,
    network: Arc<PodNetwork>,
}

impl Worker {
    #[expect(clippy::too_many_arguments, reason = "each is made once, by `up`, and nothing groups them")]
    pub async fn start(
        scope: &Scope,
        identity: &Identity,
        paths: &Paths,
        pki: &Pki,
        control_plane: &ControlPlane,
        images: Arc<Images>,
        zygote: Zygote,
    ) -> Result<Worker, WorkerError> {
        let network = Arc::new(PodNetwork::open(network_options(identity, paths))?);
        let runtime = open_runtime(scope, identity, paths, images, network.clone(), zygote).await?;
        let view = control_plane.view();
        let proxy = Proxy::start(&scope.child("proxy"), view.clone(), proxy_options(identity));
        let gateway = network.gateway();
        let dns = coracle_dns::Options {
            bind: vec![SocketAddr::new(gateway, DNS_PORT)],
            cluster_domain: CLUSTER_DOMAIN.into(),
            upstreams: coracle_dns::host_upstreams(),
        };
        Dns::start(&scope.child("dns"), view.clone(), dns).await?;
        announce_dns(control_plane, identity, gateway)
            .await
            .map_err(|source| WorkerError::Announce(Box::new(source)))?;
        let connections = Connections {
            view,
            client: control_plane.client(Caller::node(&identity.node_name)),
            runtime: Arc::new(Embedded { runtime: runtime.clone(), scope: scope.child("runtime") }),
            clock: Clock::system(),
        };
        let tls = Some(kubelet_tls(&pki.kubelet, &pki.ca)?);
        let options = coracle_kubelet::Options { tls, ..kubelet_options(identity, paths) };
        let kubelet = Kubelet::start(scope, options, connections).await?;
        Ok(Worker { kubelet, proxy, runtime, network })
    }

    /// Resolves once Services were carried to the kernel for the first time, or could not be.
    pub async fn services_tried(&self) {
        self.proxy.tried().await;
    }

    /// Ends all pods within `grace_max`, preStop hooks included.
    pub async fn end_pods(&self, grace_max: Duration) {
        if !self.kubelet.end_pods(grace_max).await {
            tracing::warn!(component = "kubelet", "some pods did not end in time");
        }
    }

    pub fn components(&self) -> Vec<Component> {
        let proxy = self.proxy.status();
        let kubelet = self.kubelet.status();
        vec![
            Component { name: "kubelet".into(), healthy: true, detail: format!("{} pods", kubelet.pods) },
            Component {
                name: "proxy".into(),
                healthy: proxy.synced,
                detail: match proxy.error {
                    Some(error) => error,
                    None => format!("{} service ports, {} endpoints", proxy.service_ports, proxy.endpoints),
                },
            },
            Component {
                name: "runtime".into(),
                healthy: true,
                detail: format!("zygote {}", self.runtime.zygote_pid()),
            },
            Component { name: "network".into(), healthy: true, detail: format!("bridge {}", self.network.bridge()) },
        ]
    }
}

/// Where this cluster's cgroups are, in every hierarchy.
pub fn cgroup_root(cluster: &str) -> String {
    format!("/coracle-{cluster}")
}

pub fn network_options(identity: &Identity, paths: &Paths) -> coracle_podnet::Options {
    coracle_podnet::Options {
        cluster: identity.name.clone(),
        state_dir: paths.network(),
        node_range: node_range(identity),
        cluster_range: range(identity.pod_cidr),
        service_range: Some(range(identity.service_cidr)),
        mtu: coracle_podnet::MTU_DEFAULT,
    }
}

/// The pods of this node: the first /24 of the cluster's range, as the first node of a cluster gets elsewhere.
pub fn node_range(identity: &Identity) -> coracle_podnet::Cidr {
    let prefix = identity.pod_cidr.prefix.max(24);
    coracle_podnet::Cidr::new(identity.pod_cidr.network.into(), prefix).expect("a prefix of at most 32 bits")
}

fn range(cidr: Cidr) -> coracle_podnet::Cidr {
    coracle_podnet::Cidr::new(cidr.network.into(), cidr.prefix).expect("an identity's ranges are valid")
}

pub fn proxy_options(identity: &Identity) -> coracle_proxy::Options {
    coracle_proxy::Options {
        cluster: identity.name.clone(),
        node: identity.node_name.clone(),
        pod_ranges: vec![range(identity.pod_cidr)],
        service_ranges: vec![range(identity.service_cidr)],
    }
}

pub async fn open_runtime(
    scope: &Scope,
    identity: &Identity,
    paths: &Paths,
    images: Arc<Images>,
    network: Arc<PodNetwork>,
    zygote: Zygote,
) -> Result<Arc<EmbeddedRuntime>, WorkerError> {
    let options = coracle_runtime::Options {
        state_dir: paths.runtime(),
        data_dir: paths.containers(),
        cgroup_root: cgroup_root(&identity.name),
        images,
        network: Arc::new(Network(network)),
        scope: scope.child("runtime"),
        clock: Clock::system(),
        dice: Dice::system(),
    };
    EmbeddedRuntime::open(options, zygote).await.map_err(|status| WorkerError::Runtime(Box::new(status)))
}

/// A kubelet's settings but for its server.
pub fn kubelet_options(identity: &Identity, paths: &Paths) -> coracle_kubelet::Options {
    let usual = coracle_kubelet::Options::new(&identity.node_name, &identity.node_ip.to_string(), paths.kubelet());
    coracle_kubelet::Options {
        log_dir: paths.pod_logs(),
        cluster_dns: vec![identity.dns_service_ip().to_string()],
        cluster_domain: CLUSTER_DOMAIN.into(),
        listen: SocketAddr::from(([0, 0, 0, 0], identity.kubelet_port)),
        clients: vec!["kube-apiserver-kubelet-client".into()],
        cgroup_root: cgroup_root(&identity.name),
        ..usual
    }
}

/// What a kubelet's server presents, and whose certificates it believes.
pub fn kubelet_tls(identity: &KeyPairPem, ca: &str) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    tls::server(identity, ca, &[b"http/1.1"])
}

/// The Service by which pods reach DNS, its endpoint this node's own server.
async fn announce_dns(control_plane: &ControlPlane, identity: &Identity, server: IpAddr) -> Result<(), ClientError> {
    let client = control_plane.client(Caller::admin());
    let port = |protocol: &str, name: &str| json!({"name": name, "port": DNS_PORT, "protocol": protocol});
    let labels =
        json!({"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS", "kubernetes.io/cluster-service": "true"});
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
        "spec": {
            "clusterIP": identity.dns_service_ip().to_string(),
            "ports": [port("UDP", "dns"), port("TCP", "dns-tcp")],
        },
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": "kube-dns", "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": "kube-dns", "endpointslice.kubernetes.io/managed-by": "coracle"},
        },
        "endpoints": [{"addresses": [server.to_string()], "conditions": {"ready": true}}],
        "ports": [port("UDP", "dns"), port("TCP", "dns-tcp")],
    });
    ensure(&client, ResourceRef::new("", "v1", "services"), service).await?;
    ensure(&client, ResourceRef::new("discovery.k8s.io", "v1", "endpointslices"), slice).await
}

/// Creates an object of kube-system, or brings one that exists to what it says.
async fn ensure(client: &coracle_client::Client, resource: ResourceRef, object: Value) -> Result<(), ClientError> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let path = ObjectPath::new(resource.clone(), "kube-system", name);
    let done = match client.get(&path).await {
        Err(ClientError::Status(status)) if status.is_not_found() => {
            client.create(&resource, "kube-system", &object, &WriteOptions::default()).await
        }
        Err(error) => Err(error),
        Ok(_) => client.patch(&path, &Patch::Merge(object), &WriteOptions::default()).await,
    };
    done.map(|_| ())
}

/// The places that a teardown clears.
pub fn places(cluster: &str, paths: &Paths) -> coracle_runtime::Places {
    coracle_runtime::Places {
        state_dir: paths.runtime(),
        data_dir: paths.containers(),
        cgroup_root: cgroup_root(cluster),
    }
}

impl Paths {
    /// Writable layers of containers.
    pub fn containers(&self) -> PathBuf {
        self.root().join("containers")
    }
}
