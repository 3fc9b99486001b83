//! A whole control plane in one thread: the API server's own corridor on a store in memory, every controller under its
//! own driver with a lagging view, a scheduler and nodes that are played. Time is the paused runtime's, chance is a seed's.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use coracle_apiserver::{Identity, Options, Server};
use coracle_cache::Cache;
use coracle_cache::store::Store;
use coracle_client::Client;
use coracle_controld::{Clients, Driver};
use coracle_controllers::Settings;
use coracle_meta::{Object, Resource};
use coracle_reconcile::controller::COMPONENT_IDENTITY;
use coracle_reconcile::{Change, Controller, Informed, Known, Outcome, Sink, Surroundings, View};
use coracle_rt::{Clock, Dice, Scope};
use http_body_util::BodyExt;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::lag::LagView;
use crate::store::MemoryStore;
use crate::transport::{Door, FairTransport, FaultyTransport};
use crate::watch::Watchdog;
use crate::weather::{Weather, millis};
use crate::witness::{Asked, Witnessed};

/// When every simulation begins.
pub const BEGIN: &str = "2026-03-02T10:00:00Z";
/// No write for this long, after all lags, and nothing is taken to happen any more.
const QUIET: Duration = Duration::from_secs(40);
const STEP: Duration = Duration::from_secs(5);
/// A controller that decides more often than this about one scenario runs in circles.
const RECONCILES_MAX: u64 = 4000;

/// What a run is made of.
#[derive(Clone)]
pub struct Setup {
    pub seed: u64,
    pub weather: Weather,
    pub nodes: usize,
    /// Controllers that are left out, by name.
    pub without: &'static [&'static str],
}

impl Setup {
    pub fn of_seed(seed: u64) -> Setup {
        Setup { seed, weather: Weather::of_seed(seed), nodes: 2, without: &[] }
    }
}

pub struct World {
    pub server: Arc<Server>,
    door: Door,
    pub watchdog: Arc<Watchdog>,
    pub cluster: Arc<Cluster>,
    pub clock: Clock,
    pub dice: Dice,
    pub setup: Setup,
    pub asked: Asked,
    known: Arc<[Known]>,
}

/// Runs a scenario, and answers its trace. Panics with the seed and what came before where it fails.
pub fn run<F, R>(setup: Setup, scenario: F) -> Vec<String>
where
    F: FnOnce(Arc<World>) -> R,
    R: Future<Output = ()>,
{
    let base = base();
    TREES.with_borrow_mut(HashMap::clear);
    let runtime = runtime();
    let seed = setup.seed;
    runtime.block_on(async move {
        let scope = Scope::root();
        let world = World::start(setup, base.fork(), &scope).await;
        let outcome = {
            use futures_util::FutureExt;
            std::panic::AssertUnwindSafe(scenario(world.clone())).catch_unwind().await
        };
        scope.cancel();
        let trace = world.watchdog.trace();
        let violations = world.watchdog.violations();
        if outcome.is_err() || !violations.is_empty() {
            eprintln!("seed {seed}: {:?}", world.watchdog.weather);
            tail(&trace).for_each(|line| eprintln!("{line}"));
        }
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
        assert!(violations.is_empty(), "seed {seed}: {violations:#?}");
        trace
    })
}

/// The last lines, each as long as is readable.
fn tail(trace: &[String]) -> impl Iterator<Item = String> {
    let lines = std::env::var("SIM_LINES").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    trace[trace.len().saturating_sub(lines)..].iter().map(|line| {
        let (asked, code) = line.rsplit_once(" -> ").unwrap_or((line, ""));
        format!("{} -> {code}", asked.chars().take(300).collect::<String>())
    })
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().expect("a runtime without I/O needs nothing of the system")
}

/// A store with what every cluster starts with, made once.
fn base() -> &'static MemoryStore {
    static BASE: OnceLock<Arc<MemoryStore>> = OnceLock::new();
    BASE.get_or_init(|| {
        runtime().block_on(async {
            let (store, scope) = (Arc::new(MemoryStore::default()), Scope::root());
            let server = server(store.clone(), Clock::of_runtime(begin()), Dice::seeded(1), &scope);
            server.start().await.expect("an empty store takes the first objects");
            scope.cancel();
            store
        })
    })
}

fn begin() -> Timestamp {
    BEGIN.parse().expect("a constant")
}

fn server(store: Arc<dyn Store>, clock: Clock, dice: Dice, scope: &Scope) -> Arc<Server> {
    static KEY: OnceLock<String> = OnceLock::new();
    let key = KEY.get_or_init(|| {
        let made = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256);
        made.expect("a key can be made").serialize_pem()
    });
    let options = Options {
        cache: Cache::new(store, scope.clone()),
        clock,
        dice,
        scope: scope.clone(),
        advertise: ([192, 0, 2, 1].into(), 6443),
        service_cidr: "10.96.0.0/16".into(),
        node_ports: (30000, 32767),
        token_keys: vec![key.clone()],
        tokens: Vec::new(),
        kubelet_tls: None,
        docs: None,
        runtime_config: Vec::new(),
        gates: Default::default(),
        metric_resolution: Duration::from_secs(10),
    };
    Server::new(options).expect("options that stand here")
}

impl World {
    async fn start(setup: Setup, store: Arc<MemoryStore>, scope: &Scope) -> Arc<World> {
        let dice = Dice::seeded(setup.seed);
        let clock = Clock::of_runtime(begin());
        let server = server(store, clock.clone(), Dice::seeded(setup.seed ^ 0x7365_7276_6572), scope);
        server.start().await.expect("the store holds what a server wrote");
        let watchdog = Watchdog::new(setup.weather.clone(), dice.clone(), clock.clone(), server.view());
        let door = Door::new(server.clone());
        let admin = Client::new(Arc::new(FairTransport { door: door.clone(), identity: Identity::admin() }));
        let cluster = Cluster::start(admin.clone(), server.view(), clock.clone(), &setup, scope).await;
        let (found, _) = admin.discover().await.expect("the server knows what it serves");
        let usable = found.into_iter().filter(|entry| ["list", "watch", "delete"].iter().all(|verb| entry.can(verb)));
        let known: Vec<Known> = usable
            .map(|entry| Known { resource: entry.resource.resource, kind: entry.kind, namespaced: entry.namespaced })
            .collect();
        for cache in known.iter().filter_map(|known| server.view.resource(&known.resource)) {
            cache.wait_synced().await;
        }
        let world = Arc::new(World {
            server,
            door,
            watchdog,
            cluster,
            clock,
            dice,
            setup,
            asked: Asked::default(),
            known: known.into(),
        });
        world.look_on();
        scope.spawn_until_cancelled("controllers", manage(world.clone(), scope.child("process")));
        world
    }

    /// Bounds that hold for whatever happens.
    fn look_on(&self) {
        let dog = Arc::downgrade(&self.watchdog);
        let sink: Sink = Arc::new(move |resource: &Resource, change: &Change| {
            if let (Some(dog), Some(new)) = (dog.upgrade(), &change.new) {
                dog.judge_owners(resource, new);
            }
        });
        for (group, plural) in [
            ("apps", "deployments"),
            ("apps", "replicasets"),
            ("apps", "statefulsets"),
            ("apps", "daemonsets"),
            ("batch", "jobs"),
            ("batch", "cronjobs"),
            ("", "pods"),
        ] {
            self.server.view().subscribe(&Resource::new(group, plural), sink.clone());
        }
    }

    /// Calls `look` with every change of a resource, as the server's cache has it.
    pub fn watch(&self, resource: Resource, look: impl Fn(&Change) + Send + Sync + 'static) {
        self.server.view().subscribe(&resource, Arc::new(move |_: &Resource, change: &Change| look(change)));
    }

    /// Sends a request as the cluster's administrator: its code, and its answer.
    pub async fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let request = http::Request::builder().method(method).uri(path).header("content-type", media).body(body);
        let request = request.expect("a path of the scenario");
        let response = self.door.call(&Identity::admin(), request).await;
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let answer = serde_json::from_slice(&body).unwrap_or(Value::Null);
        self.watchdog.note(format!("admin {method} {path} -> {code}"));
        (code, answer)
    }

    /// As `call`, and it must succeed.
    pub async fn ok(&self, method: &str, path: &str, body: &Value) -> Value {
        let (code, answer) = self.call(method, path, body).await;
        assert!((200..300).contains(&code), "{method} {path}: {code} {answer:#}");
        answer
    }

    /// The object as it stands, null where there is none.
    pub fn see(&self, resource: &Resource, namespace: &str, name: &str) -> Arc<Value> {
        self.server.view().get(resource, namespace, name).map_or_else(Arc::default, |object| json_of(&object))
    }

    pub fn list(&self, resource: &Resource, namespace: &str) -> Vec<Arc<Value>> {
        self.server.view().list(resource, Some(namespace)).iter().map(|object| json_of(object)).collect()
    }

    /// Reasons of the events told about an object, with how often.
    pub fn events(&self, namespace: &str, name: &str) -> Vec<(String, u64)> {
        let about = |event: &Arc<Value>| event["involvedObject"]["name"] == name;
        let events = self.list(&Resource::new("", "events"), namespace);
        let told = events.iter().filter(|event| about(event));
        told.map(|event| (event["reason"].as_str().unwrap_or_default().into(), event["count"].as_u64().unwrap_or(0)))
            .collect()
    }

    pub async fn pass(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    /// Sets the wall clock to another time, without any passing.
    pub fn jump(&self, by: SignedDuration) {
        self.clock.set(self.clock.now() + by);
    }

    /// Lets time pass until `holds`, at most so many seconds.
    pub async fn until(&self, seconds: u64, what: &str, holds: impl Fn(&World) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(seconds);
        while !holds(self) {
            assert!(tokio::time::Instant::now() < deadline, "in {seconds} s it did not come to: {what}");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Lets the weather clear up and everything come to rest within so many seconds; then no controller may want
    /// anything any more.
    pub async fn settle(&self, seconds: u64) {
        self.watchdog.clear_up();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(seconds);
        while self.watchdog.quiet() < QUIET {
            assert!(tokio::time::Instant::now() < deadline, "no rest within {seconds} s");
            tokio::time::sleep(STEP).await;
        }
        self.assert_done();
        for (name, count) in self.watchdog.reconciles() {
            assert!(count < RECONCILES_MAX, "{name} decided {count} times");
        }
    }

    /// A plan applied gives the empty plan: of every controller, about every key that it was ever asked about.
    fn assert_done(&self) {
        let view = Informed { view: self.server.view(), around: Offered(self.known.clone()) };
        let asked = self.asked.lock().clone();
        for controller in self.controllers() {
            // Controllers with a memory get what they would remember: a first look.
            for key in asked.get(controller.name()).into_iter().flatten() {
                let _ = controller.reconcile(&view, key, &Outcome::default(), self.clock.now());
                let plan = controller.reconcile(&view, key, &Outcome::default(), self.clock.now());
                assert!(plan.writes.is_empty(), "{} is not done with {key:?}: {:#?}", controller.name(), plan.writes);
            }
        }
    }

    fn controllers(&self) -> Vec<Box<dyn Controller>> {
        let all = coracle_controllers::all(&Settings { root_ca: "PEM".into(), ..Settings::default() });
        all.into_iter().filter(|controller| !self.setup.without.contains(&controller.name())).collect()
    }
}

thread_local! {
    /// Trees by uid and revision: a scenario looks at the same objects again and again.
    static TREES: RefCell<HashMap<(String, u64), Arc<Value>>> = RefCell::default();
}

pub fn json_of(object: &Object) -> Arc<Value> {
    TREES.with_borrow_mut(|trees| {
        let parse = || Arc::new(serde_json::from_slice(&object.json()).unwrap_or(Value::Null));
        trees.entry((object.meta.uid.clone(), object.revision)).or_insert_with(parse).clone()
    })
}

/// The controllers' process: dies as the watchdog says, and is started again a little later.
async fn manage(world: Arc<World>, scope: Scope) {
    loop {
        let life = scope.child("life");
        start_controllers(&world, &life);
        world.watchdog.died.notified().await;
        life.cancel();
        tokio::time::sleep(millis(&world.dice, 4000)).await;
    }
}

fn start_controllers(world: &Arc<World>, scope: &Scope) {
    let (door, watchdog) = (world.door.clone(), world.watchdog.clone());
    let clients: Clients = Arc::new(move |account| {
        let identity = match account {
            COMPONENT_IDENTITY => Identity::controller_manager(),
            name => Identity::controller(name),
        };
        Client::new(Arc::new(FaultyTransport { door: door.clone(), identity, watchdog: watchdog.clone() }))
    });
    let driver = Driver {
        scope: scope.clone(),
        view: world.server.view(),
        clients,
        clock: world.clock.clone(),
        signer: None,
        metrics: Arc::default(),
    };
    let controllers = world.controllers().into_iter().map(|controller| {
        let (watchdog, asked) = (world.watchdog.clone(), world.asked.clone());
        let view = LagView::new(world.server.view(), world.watchdog.weather.clone(), world.dice.clone(), scope);
        let witnessed: Box<dyn Controller> = Box::new(Witnessed { controller, watchdog, asked });
        (witnessed, view as Arc<dyn View>)
    });
    driver.start_on(controllers.collect());
}

/// What the driver would show beside the server's cache.
struct Offered(Arc<[Known]>);

impl Surroundings for Offered {
    fn known(&self) -> Arc<[Known]> {
        self.0.clone()
    }

    fn steady(&self) -> Duration {
        Duration::ZERO
    }
}
