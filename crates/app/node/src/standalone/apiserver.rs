//! The API server alone, on the embedded store or an etcd cluster.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use coracle_meta::Gates;
use coracle_rt::Scope;
use coracle_store::EtcdOptions;

use super::{StandaloneError, until_signal};
use crate::control_plane::{ControlPlane, Keeping, Serving};
use crate::files::private_dir;
use crate::identity::{Cidr, node_ip};
use crate::lock::Lock;
use crate::pki::Pki;
use crate::up::StartError;

pub struct Options {
    pub datastore: Datastore,
    /// The folder of certificates and keys that `coracle dev-pki` writes.
    pub pki: PathBuf,
    pub port: u16,
    /// Where clients in the cluster reach this server; the machine's own address by default.
    pub advertise: Option<IpAddr>,
    pub service_cidr: String,
    /// Group versions switched on or off, as kube-apiserver's flag of that name.
    pub runtime_config: Vec<String>,
    /// Feature gates that are on.
    pub gates: Gates,
    /// The span that `metrics.k8s.io` tells rates over.
    pub metric_resolution: Duration,
}

/// Where objects are kept.
pub enum Datastore {
    /// The embedded store in this folder.
    Embedded(PathBuf),
    Etcd(EtcdOptions),
}

/// Serves until a signal.
pub async fn run(options: Options, tell: impl Fn(&str)) -> Result<(), StandaloneError> {
    let range = Cidr::try_from(options.service_cidr.clone());
    range.map_err(|_| StandaloneError::Range { setting: "service-cidr", value: options.service_cidr.clone() })?;
    let pki = Pki::read(&options.pki)?;
    let (keeping, _lock) = match options.datastore {
        Datastore::Embedded(folder) => {
            private_dir(&folder).map_err(|source| StandaloneError::File { path: folder.clone(), source })?;
            let lock = Lock::take(&folder.join("lock"))?.ok_or_else(|| StartError::InUse(folder.clone()))?;
            (Keeping::Durable(folder.join("store")), Some(lock))
        }
        Datastore::Etcd(etcd) => (Keeping::Etcd(etcd), None),
    };
    let serving = Serving {
        advertise: options.advertise.unwrap_or_else(node_ip),
        port: options.port,
        service_cidr: options.service_cidr,
        runtime_config: options.runtime_config,
        gates: options.gates,
        metric_resolution: options.metric_resolution,
    };
    let scope = Scope::root();
    let _control_plane = ControlPlane::start(&scope, serving, &pki, keeping).await?;
    tell(&format!("✓ API server on https://127.0.0.1:{}", options.port));
    until_signal(&scope).await
}
