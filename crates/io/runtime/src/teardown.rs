//! Removing every trace of a runtime from the kernel, with or without a daemon that runs: by what lies on disk and
//! what stands in the kernel under our names.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use coracle_linux::cgroup::Layout;
use coracle_linux::wire::{Reply, Request};
use coracle_linux::{plan, sys};
use futures_util::future::join_all;
use tonic::Status;

use crate::internal;
use crate::network::NetworkAttach;
use crate::sandbox::{has_network, network_request, unmount};
use crate::shim::{self, ShimConnection};
use crate::state::{self, Container, Sandbox};

const END_TIMEOUT: Duration = Duration::from_secs(5);
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// Where the kubelet notes, on each container, the seconds that its pod gives it to end.
const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
/// What Kubernetes gives a pod that does not say.
const GRACE_DEFAULT: Duration = Duration::from_secs(30);

/// Where a runtime keeps what it has.
#[derive(Clone, Debug)]
pub struct Places {
    pub state_dir: PathBuf,
    pub data_dir: PathBuf,
    pub cgroup_root: String,
}

/// Ends all pods and removes their mounts, cgroups and namespaces. Every container is first asked to end and has as long
/// as its pod says, but at most `grace_max`. No daemon may run on these places. Goes on past what fails and reports the
/// first failure.
pub async fn teardown_all(
    places: &Places,
    grace_max: Duration,
    network: Option<&dyn NetworkAttach>,
) -> Result<(), Status> {
    let layout = Layout::detect().map_err(internal)?;
    let mut first_failure = Ok(());
    let mut groups = vec![places.cgroup_root.clone()];
    let pods = fs::read_dir(places.state_dir.join(state::PODS)).into_iter().flatten().flatten();
    let pods: Vec<PathBuf> = pods.map(|entry| entry.path()).collect();
    if !grace_max.is_zero() {
        join_all(pods.iter().map(|dir| ask_to_end(dir, grace_max))).await;
    }
    for dir in pods {
        end_shim(&dir).await;
        if let Ok(sandbox) = Sandbox::load(&dir) {
            if sandbox.record.owns_cgroup {
                groups.push(sandbox.record.cgroup.clone());
            }
            groups.push(sandbox.shim_cgroup());
            if let (Some(network), true) = (network, has_network(&sandbox.config)) {
                let detached = network.detach(&network_request(&sandbox)).await;
                let detached =
                    detached.map_err(|error| Status::unknown(format!("detaching {}: {error}", sandbox.record.id)));
                first_failure = first_failure.and(detached);
            }
        }
        unmount(&dir);
    }
    for group in groups.iter().rev().map(|path| layout.group(path)) {
        first_failure = first_failure.and(group.kill(KILL_TIMEOUT).and_then(|()| group.remove()).map_err(internal));
    }
    unmount_below(&places.state_dir);
    for folder in [places.state_dir.join(state::PODS), places.data_dir.join(state::CONTAINERS)] {
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                let failed = Status::internal(format!("removing {}: {error}", folder.display()));
                first_failure = first_failure.and(Err(failed));
            }
            _ => {}
        }
    }
    first_failure
}

/// Sends every running container of a pod its stop signal and waits for them.
async fn ask_to_end(dir: &Path, grace_max: Duration) {
    let Ok(mut connection) = ShimConnection::connect(dir) else { return };
    let Ok(statuses) = shim::subscribe(&mut connection).await else { return };
    let (mut left, mut grace) = (BTreeSet::new(), Duration::ZERO);
    for status in statuses.into_iter().filter(|status| status.finished_at == 0) {
        let Ok(container) = Container::load(&dir.join(plan::CONTAINERS).join(&status.id)) else { continue };
        grace = grace.max(grace_of(&container));
        let signal = container.record.stop_signal;
        if connection.send(&Request::Signal { container: status.id.clone(), signal, everyone: false }).await.is_ok() {
            left.insert(status.id);
        }
    }
    let ended = async {
        while !left.is_empty() {
            match connection.receive().await {
                Ok(Reply::Event { status }) if status.finished_at != 0 => drop(left.remove(&status.id)),
                Ok(_) => {}
                Err(_) => return,
            }
        }
    };
    let _ = tokio::time::timeout(grace.min(grace_max), ended).await;
}

fn grace_of(container: &Container) -> Duration {
    let seconds = container.config.annotations.get(GRACE).and_then(|seconds| seconds.parse().ok());
    seconds.map_or(GRACE_DEFAULT, Duration::from_secs)
}

async fn end_shim(dir: &Path) {
    let Ok(mut connection) = ShimConnection::connect(dir) else { return };
    let ended = async {
        if connection.send(&Request::Shutdown).await.is_ok() {
            while connection.receive().await.is_ok() {}
        }
    };
    let _ = tokio::time::timeout(END_TIMEOUT, ended).await;
}

/// Whatever else is mounted below the state folder, deepest first.
fn unmount_below(folder: &Path) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let targets = table.lines().filter_map(|line| line.split(' ').nth(4));
    let mut targets: Vec<PathBuf> = targets.map(|target| target.replace("\\040", " ").into()).collect();
    targets.retain(|target| target.starts_with(folder));
    targets.sort();
    for target in targets.iter().rev() {
        let _ = sys::umount_detach(target);
    }
}
