//! The embedded container runtime: the CRI's methods over shims, images and cgroups, as functions in this process. It
//! knows CRI messages and the kernel; it knows nothing of pods' meaning or the API. Truth is in the kernel, the shims
//! and the state folder: a runtime that is opened anew finds every container as it was.

mod adopt;
mod container;
mod images;
mod mounts;
pub mod network;
mod process;
mod sandbox;
mod service;
mod shim;
mod state;
mod stats;
pub mod streams;
pub mod teardown;
mod terminal;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coracle_image::Store;
use coracle_linux::cgroup::{self, Layout};
use coracle_linux::zygote::Zygote;
use coracle_proto::cri::{ContainerEventResponse, FilesystemUsage};
use coracle_rt::{Clock, Dice, Scope};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit, broadcast, watch};
use tonic::Status;

pub use network::{NetworkAttach, NetworkRequest};
pub use streams::{ExecOptions, Resize, Streams};
pub use teardown::{Places, teardown_all};

const TURN_WAIT_MAX: Duration = Duration::from_secs(5);
/// Events that a slow listener may be behind before it misses some and must list.
const EVENTS_MAX: usize = 1024;

pub struct Options {
    /// Pods' sockets, plans and pins. Survives the daemon; may be lost at a reboot.
    pub state_dir: PathBuf,
    /// Containers' writable layers.
    pub data_dir: PathBuf,
    /// Absolute cgroup path below which everything of this runtime is.
    pub cgroup_root: String,
    pub images: Arc<Store>,
    pub network: Arc<dyn NetworkAttach>,
    pub scope: Scope,
    pub clock: Clock,
    pub dice: Dice,
}

pub struct EmbeddedRuntime {
    options: Options,
    zygote: Zygote,
    cgroups: Layout,
    state: Mutex<state::State>,
    warming: AtomicBool,
    /// What containers' writable layers were found to hold.
    layers: Mutex<HashMap<String, FilesystemUsage>>,
    /// Pods and containers that are being made at once. More would only wait for each other in the kernel, and the first
    /// of them would run no sooner than the last.
    pods_in_the_making: Semaphore,
    starts: Semaphore,
    /// Counts changes of containers; who waits for one looks again when it moves.
    changes: watch::Sender<u64>,
    events: broadcast::Sender<ContainerEventResponse>,
}

impl EmbeddedRuntime {
    /// Opens the runtime and takes over every pod that its state folder names.
    pub async fn open(options: Options, zygote: Zygote) -> Result<Arc<EmbeddedRuntime>, Status> {
        let cgroups = Layout::detect().map_err(internal)?;
        if cgroups.is_empty() {
            return Err(Status::failed_precondition("no cgroup file system is mounted"));
        }
        for folder in [options.state_dir.join(state::PODS), options.data_dir.join(state::CONTAINERS)] {
            std::fs::create_dir_all(&folder)
                .map_err(|error| Status::internal(format!("making {}: {error}", folder.display())))?;
        }
        let runtime = Arc::new(EmbeddedRuntime {
            options,
            zygote,
            cgroups,
            state: Mutex::default(),
            warming: AtomicBool::new(false),
            layers: Mutex::default(),
            pods_in_the_making: Semaphore::new(starts_max()),
            starts: Semaphore::new(starts_max()),
            changes: watch::Sender::new(0),
            events: broadcast::Sender::new(EVENTS_MAX),
        });
        runtime.adopt().await;
        Ok(runtime)
    }

    /// Starts and ends of containers from now on.
    pub fn events(&self) -> broadcast::Receiver<ContainerEventResponse> {
        self.events.subscribe()
    }

    /// Makes the next start of a container cheaper, in the background. To be called when a pod appears.
    pub fn warm(self: &Arc<Self>) {
        if self.warming.swap(true, Ordering::Relaxed) {
            return;
        }
        let runtime = self.clone();
        // It may wait for the kernel; nobody waits for it.
        tokio::task::spawn_blocking(move || {
            cgroup::warm(&runtime.cgroups);
            runtime.warming.store(false, Ordering::Relaxed);
        });
    }

    /// The process id of the zygote.
    pub fn zygote_pid(&self) -> i32 {
        self.zygote.pid()
    }

    fn now(&self) -> i64 {
        self.options.clock.now().as_nanosecond() as i64
    }

    /// 64 hexadecimal digits, as every runtime names its containers.
    fn new_id(&self) -> String {
        (0..4).map(|_| format!("{:016x}", self.options.dice.next_u64())).collect()
    }
}

/// Waits for a turn, but not for ever: those who have one may be stuck, which is no reason for others to be.
async fn turn(turns: &Semaphore) -> Option<SemaphorePermit<'_>> {
    tokio::time::timeout(TURN_WAIT_MAX, turns.acquire()).await.ok()?.ok()
}

fn starts_max() -> usize {
    2 * std::thread::available_parallelism().map_or(1, usize::from)
}

/// What cannot be helped by the caller, with all its causes.
fn internal(error: impl std::error::Error) -> Status {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    Status::unknown(text)
}
