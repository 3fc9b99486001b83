//! The scheduler and the controllers, each alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coracle_client::Client;
use coracle_controld::{Clients, Driver, Election, Metrics, SchedulerMetrics, Signer, check_extenders};
use coracle_controllers::Settings;
use coracle_meta::Gates;
use coracle_reconcile::controller::COMPONENT_IDENTITY;
use coracle_rt::{Clock, Dice, Scope};
use coracle_scheduler::{Scheduler, watches};

use super::account::Accounts;
use super::doors::{DoorOptions, Later};
use super::{Remote, StandaloneError, read, until_signal};
use crate::pki::KeyPairPem;
use crate::signing::Authority;

/// Where kube-scheduler and kube-controller-manager listen.
const SCHEDULER_PORT: u16 = 10259;
const CONTROLLERS_PORT: u16 = 10257;

/// Whether a component decides only while it holds its Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaderElection {
    On,
    Off,
}

pub struct SchedulerOptions {
    pub kubeconfig: PathBuf,
    pub election: LeaderElection,
    pub scheduler: Scheduler,
    pub doors: DoorOptions,
}

/// The scheduler of pods that name none, with everything at its default.
pub fn default_scheduler(gates: Gates) -> Scheduler {
    Scheduler::gated(coracle_controld::DEFAULT_SCHEDULER, gates)
}

/// Schedules until a signal, as `system:kube-scheduler` or whom else the kubeconfig says.
pub async fn scheduler(options: SchedulerOptions, tell: impl Fn(&str)) -> Result<(), StandaloneError> {
    let SchedulerOptions { kubeconfig, election, scheduler: deciding, doors } = options;
    let scope = Scope::root();
    let remote = Remote::open(&scope, &kubeconfig)?;
    check_extenders(&scope, deciding.extenders()).map_err(StandaloneError::Extender)?;
    let metrics = Later::<SchedulerMetrics>::default();
    let text = metrics.text(SchedulerMetrics::text);
    doors.open(&scope, SCHEDULER_PORT, remote.client.clone(), text).await?.iter().for_each(|line| tell(line));
    let gate = Gate::new(election, "kube-scheduler", &kubeconfig)?;
    gate.guard(&scope, async {
        // A pod is not judged before every node was seen.
        remote.view.synced(&watches(deciding.gates())).await;
        let scope = scope.child("scheduler");
        let (view, client) = (remote.view.clone(), remote.client.clone());
        metrics.set(coracle_controld::run_scheduler(&scope, view, client, Clock::system(), deciding));
        tell("✓ scheduler");
    })
    .await
}

/// Lets a component decide while it leads.
struct Gate {
    name: &'static str,
    election: Option<Election>,
}

impl Gate {
    /// The election has connections of its own: it lets go of its Lease when all else has ended.
    fn new(election: LeaderElection, name: &'static str, kubeconfig: &Path) -> Result<Gate, StandaloneError> {
        if election == LeaderElection::Off {
            return Ok(Gate { name, election: None });
        }
        let client = Remote::open(&Scope::root(), kubeconfig)?.client;
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let identity = format!("{}_{}", host.trim(), Dice::system().uuid());
        Ok(Gate { name, election: Some(Election::new(client, name, identity, Clock::system())) })
    }

    /// Starts the component once it leads, and stays until a signal or until the lead is lost.
    async fn guard(self, scope: &Scope, start: impl Future<Output = ()>) -> Result<(), StandaloneError> {
        let Gate { name, election: Some(mut election) } = self else {
            let started = async {
                start.await;
                std::future::pending().await
            };
            return tokio::select! { ended = started => ended, ended = until_signal(scope) => ended };
        };
        let led = async {
            election.won().await;
            let renewed = election.lost();
            tokio::pin!(renewed);
            tokio::select! { () = start => renewed.await, () = &mut renewed => () }
            Err(StandaloneError::LostLead(name))
        };
        let ended = tokio::select! { lost = led => lost, ended = until_signal(scope) => ended };
        if !matches!(ended, Err(StandaloneError::LostLead(_))) {
            election.release().await;
        }
        ended
    }
}

/// Under whom controllers write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// Each under the service account of its name.
    ServiceAccounts,
    /// All as whom the kubeconfig says.
    Shared,
}

pub struct ControllerOptions {
    pub kubeconfig: PathBuf,
    /// PEM of the authority of the API server's certificate, published in every namespace.
    pub root_ca: PathBuf,
    /// Certificate and key of the authority that signs certificate requests; without them nobody signs here.
    pub signing: Option<(PathBuf, PathBuf)>,
    /// Signs the tokens of service accounts that Secrets ask for.
    pub service_account_key: Option<PathBuf>,
    pub credentials: Credentials,
    pub election: LeaderElection,
    /// How often autoscalers look.
    pub autoscaler_period: Duration,
    /// Feature gates that are on.
    pub gates: Gates,
    pub doors: DoorOptions,
}

/// Runs every controller until a signal.
pub async fn controllers(options: &ControllerOptions, tell: impl Fn(&str)) -> Result<(), StandaloneError> {
    let authority = match &options.signing {
        Some((certificate, key)) => Some(KeyPairPem { certificate: read(certificate)?, key: read(key)? }),
        None => None,
    };
    let tokens = options.service_account_key.as_ref().map(|path| read(path)).transpose()?;
    let settings = Settings {
        root_ca: read(&options.root_ca)?,
        can_sign: authority.is_some(),
        can_make_tokens: tokens.is_some(),
        autoscaler_period: options.autoscaler_period,
        gates: options.gates,
    };
    let signer: Option<Arc<dyn Signer>> = Some(Arc::new(Authority { certificates: authority, tokens }));
    let scope = Scope::root();
    let remote = Remote::open(&scope, &options.kubeconfig)?;
    let clients: Clients = match options.credentials {
        Credentials::Shared => {
            let client: Client = remote.client.clone();
            Arc::new(move |_| client.clone())
        }
        Credentials::ServiceAccounts => {
            let accounts = Accounts::new(&scope.child("accounts"), &remote.kubeconfig, remote.client.clone());
            let accounts =
                accounts.map_err(|source| StandaloneError::Access { path: options.kubeconfig.clone(), source })?;
            let own = remote.client.clone();
            Arc::new(move |name| match name {
                COMPONENT_IDENTITY => own.clone(),
                name => accounts.client(name),
            })
        }
    };
    let metrics = Arc::<Metrics>::default();
    let shown = metrics.clone();
    let opened = options.doors.open(&scope, CONTROLLERS_PORT, remote.client.clone(), move || shown.text()).await?;
    opened.iter().for_each(|line| tell(line));
    let gate = Gate::new(options.election, "kube-controller-manager", &options.kubeconfig)?;
    gate.guard(&scope, async {
        let controllers = coracle_controllers::all(&settings);
        tell(&format!("✓ {} controllers", controllers.len()));
        let scope = scope.child("controller-manager");
        let driver = Driver { scope, view: remote.view.clone(), clients, clock: Clock::system(), signer, metrics };
        driver.start(controllers);
    })
    .await
}
