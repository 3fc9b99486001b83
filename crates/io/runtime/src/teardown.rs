//! Removing every trace of a runtime from the kernel, with or without a daemon that runs: by what lies on disk and
//! what stands in the kernel under our names.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use coracle_linux::cgroup::Layout;
use coracle_linux::sys;
use coracle_linux::wire::Request;
use tonic::Status;

use crate::internal;
use crate::network::NetworkAttach;
use crate::sandbox::{has_network, network_request, unmount};
use crate::shim::ShimConnection;
use crate::state::{self, Sandbox};

const END_TIMEOUT: Duration = Duration::from_secs(5);
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a runtime keeps what it has.
#[derive(Clone, Debug)]
pub struct Places {
    pub state_dir: PathBuf,
    pub data_dir: PathBuf,
    pub cgroup_root: String,
}

/// Kills all pods and removes their mounts, cgroups and namespaces. No daemon may run on these places. Goes on past
/// what fails and reports the first failure.
pub async fn teardown_all(places: &Places, network: Option<&dyn NetworkAttach>) -> Result<(), Status> {
    let layout = Layout::detect().map_err(internal)?;
    let mut first_failure = Ok(());
    let mut groups = vec![places.cgroup_root.clone()];
    for entry in fs::read_dir(places.state_dir.join(state::PODS)).into_iter().flatten().flatten() {
        let dir = entry.path();
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
