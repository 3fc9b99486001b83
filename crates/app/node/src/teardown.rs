//! Removing a cluster from the machine with nothing running: by what its data directory says and what the kernel holds
//! under its name. Other clusters keep all of theirs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::identity::{Identity, IdentityError};
use crate::lock::Lock;
use crate::paths::Paths;
use crate::up::StartError;
use crate::worker;

#[derive(Debug, thiserror::Error)]
pub enum TeardownError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Lock(#[from] StartError),
    #[error("a coracle still runs on {}; end it first", .0.display())]
    Running(PathBuf),
    #[error("ending the pods")]
    Runtime(#[source] Box<tonic::Status>),
    #[error("removing the pod network")]
    Network(#[from] coracle_podnet::Error),
    #[error("removing the packet filter of Services")]
    Proxy(#[from] coracle_proxy::Error),
    #[error("unmounting below {}", path.display())]
    Unmount {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("removing {}", path.display())]
    Remove {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// Ends every pod and removes mounts, cgroups, interfaces and packet filters. Pods have as long to end as they say, but
/// at most `grace_max`. Without data there is nothing to do.
pub fn clear_kernel(paths: &Paths, grace_max: Duration) -> Result<(), TeardownError> {
    let Some(identity) = Identity::read(paths)? else { return Ok(()) };
    let _lock = wait_for_lock(paths)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| TeardownError::Remove { path: paths.root().into(), source })?;
    let places = worker::places(&identity.name, paths);
    let ended = runtime.block_on(coracle_runtime::teardown_all(&places, grace_max, None));
    coracle_podnet::remove_all(&identity.name, &paths.network())?;
    coracle_proxy::remove_all(&identity.name)?;
    unmount_below(paths.root())?;
    identity.unregister();
    ended.map_err(|status| TeardownError::Runtime(Box::new(status)))
}

/// Removes the data directory. A folder without a cluster's identity is left alone.
pub fn remove_data(paths: &Paths) -> Result<(), TeardownError> {
    if Identity::read(paths)?.is_none()
        && std::fs::read_dir(paths.root()).is_ok_and(|mut inside| inside.next().is_some())
    {
        return Ok(());
    }
    match std::fs::remove_dir_all(paths.root()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(|source| TeardownError::Remove { path: paths.root().into(), source }),
    }
}

/// The process that was asked to end lets go of the lock when it has.
fn wait_for_lock(paths: &Paths) -> Result<Lock, TeardownError> {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(lock) = Lock::take(&paths.lock())? {
            return Ok(lock);
        }
        if std::time::Instant::now() > deadline {
            return Err(TeardownError::Running(paths.root().into()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Detaches everything mounted below a folder, the innermost first.
fn unmount_below(root: &Path) -> Result<(), TeardownError> {
    let failed = |source| TeardownError::Unmount { path: root.into(), source };
    let mounts = std::fs::read_to_string("/proc/self/mounts").map_err(failed)?;
    let mut below: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(|path| PathBuf::from(path.replace("\\040", " ")))
        .filter(|path| path.starts_with(root) && path != root)
        .collect();
    below.reverse();
    for path in below {
        rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH)
            .map_err(|error| TeardownError::Unmount { path, source: error.into() })?;
    }
    Ok(())
}
