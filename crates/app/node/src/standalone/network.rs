//! The Service proxy and the DNS server, each alone.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use coracle_dns::Dns;
use coracle_meta::Resource;
use coracle_proxy::{Cidr, Proxy};
use coracle_rt::Scope;

use super::{Remote, StandaloneError, until_signal};
use crate::worker::WorkerError;

/// What DNS answers from: no name is denied before all were seen.
const DNS_READS: [Resource; 2] = [Resource::new("", "services"), Resource::new("discovery.k8s.io", "endpointslices")];

pub struct ProxyOptions {
    pub kubeconfig: PathBuf,
    /// Names the packet filter's table, `coracle-NAME`.
    pub name: String,
    pub node_name: String,
    pub cluster_cidr: String,
    pub service_cidr: String,
}

/// Keeps the kernel's Services until a signal, and leaves them as they are then.
pub async fn proxy(options: ProxyOptions, tell: impl Fn(&str)) -> Result<(), StandaloneError> {
    let settings = coracle_proxy::Options {
        cluster: options.name,
        node: options.node_name,
        pod_ranges: vec![range("cluster-cidr", &options.cluster_cidr)?],
        service_ranges: vec![range("service-cidr", &options.service_cidr)?],
    };
    let scope = Scope::root();
    let remote = Remote::open(&scope, &options.kubeconfig)?;
    let proxy = Proxy::start(&scope.child("proxy"), remote.view.clone(), settings);
    let told = async {
        match proxy.tried().await.error {
            None => tell("✓ proxy"),
            Some(error) => tell(&format!("✗ proxy: {error}; it is tried again")),
        }
        std::future::pending().await
    };
    tokio::select! { () = told => Ok(()), ended = until_signal(&scope) => ended }
}

/// Answers for the cluster's names until a signal.
pub async fn dns(
    kubeconfig: &Path,
    bind: Vec<SocketAddr>,
    cluster_domain: String,
    tell: impl Fn(&str),
) -> Result<(), StandaloneError> {
    let scope = Scope::root();
    let remote = Remote::open(&scope, kubeconfig)?;
    let start = async {
        remote.view.synced(&DNS_READS).await;
        let options = coracle_dns::Options { bind, cluster_domain, upstreams: coracle_dns::host_upstreams() };
        let started = Dns::start(&scope.child("dns"), remote.view.clone(), options).await;
        let dns = started.map_err(WorkerError::from)?;
        tell(&format!("✓ DNS on {:?}", dns.addresses()));
        std::future::pending().await
    };
    tokio::select! { failed = start => failed, ended = until_signal(&scope) => ended }
}

fn range(setting: &'static str, value: &str) -> Result<Cidr, StandaloneError> {
    let bad = || StandaloneError::Range { setting, value: value.into() };
    let (address, prefix) = value.split_once('/').ok_or_else(bad)?;
    let (address, prefix) = (address.parse().map_err(|_| bad())?, prefix.parse().map_err(|_| bad())?);
    Cidr::new(address, prefix).ok_or_else(bad)
}
