//! The control plane of one process: store, cache and API server, and the components that reach it in-process, each
//! under the identity it would have alone.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coracle_apiserver::{Groups, Identity as Caller, LocalTransport, Options, Server, ServerError};
use coracle_cache::Cache;
use coracle_cache::store::Store;
use coracle_client::Client;
use coracle_controld::Driver;
use coracle_controllers::Settings;
use coracle_meta::{Gate, Gates};
use coracle_reconcile::View;
use coracle_reconcile::controller::COMPONENT_IDENTITY;
use coracle_rt::{Clock, Dice, Scope};
use coracle_store::{Engine, Etcd, EtcdOptions};
use tokio::net::TcpListener;

use crate::apidocs;
use crate::pki::Pki;
use crate::signing::Authority;
use crate::tls;
use crate::up::StartError;

/// Group, version and plural of PodGroups.
const GANG: (&str, &str, &str) = ("scheduling.k8s.io", "v1alpha2", "podgroups");

pub struct ControlPlane {
    pub server: Arc<Server>,
}

/// Where objects are kept.
#[derive(Clone, Debug)]
pub enum Keeping {
    /// In this folder, synced before any write is acknowledged.
    Durable(PathBuf),
    /// In memory and this folder, gone with the process.
    Ephemeral(PathBuf),
    /// In an etcd cluster.
    Etcd(EtcdOptions),
}

/// Where clients reach the server, and what it hands out.
#[derive(Clone, Debug)]
pub struct Serving {
    pub advertise: IpAddr,
    pub port: u16,
    /// The range of Services' addresses, `10.96.0.0/16`.
    pub service_cidr: String,
    /// Group versions switched on or off, as kube-apiserver's flag of that name.
    pub runtime_config: Vec<String>,
    /// Feature gates that are on.
    pub gates: Gates,
    /// The span that `metrics.k8s.io` tells rates over.
    pub metric_resolution: Duration,
}

impl ControlPlane {
    /// Opens the store, starts the API server and serves it on all addresses.
    pub async fn start(
        scope: &Scope,
        serving: Serving,
        pki: &Pki,
        keeping: Keeping,
    ) -> Result<ControlPlane, StartError> {
        let store = open_store(scope, keeping).await?;
        let groups = Groups::read(&serving.runtime_config, serving.gates).map_err(ServerError::from)?;
        if serving.gates.has(Gate::GenericWorkload) && groups.find(GANG.0, GANG.1, GANG.2).is_none() {
            tracing::warn!(
                "GenericWorkload is on and scheduling.k8s.io/v1alpha2 is not served: give it to --runtime-config"
            );
        }
        let server = Server::new(Options {
            scope: scope.child("apiserver"),
            cache: Cache::new(store, scope.child("cache")),
            clock: Clock::system(),
            dice: Dice::system(),
            advertise: (serving.advertise, serving.port),
            service_cidr: serving.service_cidr,
            node_ports: (30000, 32767),
            token_keys: vec![pki.service_account_key.clone()],
            tokens: Vec::new(),
            kubelet_tls: Some(tls::client(&pki.api_server_kubelet_client, &pki.ca)?),
            docs: Some(apidocs::handler(groups)),
            runtime_config: serving.runtime_config,
            gates: serving.gates,
            metric_resolution: serving.metric_resolution,
        })?;
        let listener = TcpListener::bind(("0.0.0.0", serving.port))
            .await
            .map_err(|source| StartError::Listen { port: serving.port, source })?;
        let tls = tls::server(&pki.api_server, &pki.ca, &[b"h2", b"http/1.1"])?;
        server.start().await?;
        scope.spawn("apiserver", coracle_apiserver::serve(server.clone(), listener, tls, scope.child("apiserver")));
        Ok(ControlPlane { server })
    }

    /// Starts the scheduler and the controllers; autoscalers look once in a period.
    pub fn start_deciders(&self, scope: &Scope, pki: &Pki, autoscaler_period: Duration, gates: Gates) {
        let clock = Clock::system();
        let scheduler = self.client(Caller::scheduler());
        let deciding = coracle_scheduler::Scheduler::gated(coracle_controld::DEFAULT_SCHEDULER, gates);
        let scope_of = scope.child("scheduler");
        let metrics = coracle_controld::run_scheduler(&scope_of, self.view(), scheduler, clock, deciding);
        self.server.metrics.add(Box::new(move || metrics.text()));
        let server = self.server.clone();
        let caller = |name: &str| match name {
            COMPONENT_IDENTITY => Caller::controller_manager(),
            name => Caller::controller(name),
        };
        let clients = Arc::new(move |name: &str| local(&server, caller(name)));
        let settings =
            Settings { root_ca: pki.ca.clone(), can_sign: true, can_make_tokens: true, autoscaler_period, gates };
        let driver = Driver {
            scope: scope.child("controller-manager"),
            view: self.view(),
            clients,
            clock: Clock::system(),
            signer: Some(Arc::new(Authority {
                certificates: Some(pki.authority()),
                tokens: Some(pki.service_account_key.clone()),
            })),
            metrics: Arc::default(),
        };
        let metrics = driver.metrics.clone();
        self.server.metrics.add(Box::new(move || metrics.text()));
        driver.start(coracle_controllers::all(&settings));
    }

    pub fn view(&self) -> Arc<dyn View> {
        self.server.view()
    }

    pub fn client(&self, caller: Caller) -> Client {
        local(&self.server, caller)
    }
}

fn local(server: &Arc<Server>, identity: Caller) -> Client {
    Client::new(Arc::new(LocalTransport { server: server.clone(), identity }))
}

async fn open_store(scope: &Scope, keeping: Keeping) -> Result<Arc<dyn Store>, StartError> {
    let scope = scope.child("store");
    Ok(match keeping {
        Keeping::Durable(folder) => Engine::open(&folder, scope)?,
        Keeping::Ephemeral(folder) => Engine::ephemeral(&folder, scope)?,
        Keeping::Etcd(options) => {
            let etcd = Arc::new(Etcd::connect(&options).await?);
            etcd.compact_by_turns(&scope);
            etcd
        }
    })
}
