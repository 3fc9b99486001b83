//! The plans: everything a shim and a container's first process need to know, as plain data. They lie on disk in a
//! pod's state folder, so that a shim, an exec and a later daemon read the same.

use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Context, Error, Result};

/// Names of files in a pod's state folder, and in a container's folder inside it.
pub const POD_PLAN: &str = "pod.json";
pub const SHIM_SOCKET: &str = "shim.sock";
pub const SHIM_PID: &str = "shim.pid";
pub const NETNS_PIN: &str = "netns";
pub const SHM_MOUNT: &str = "shm";
pub const CONTAINERS: &str = "containers";
pub const CONTAINER_PLAN: &str = "plan.json";
pub const CONTAINER_STATUS: &str = "status.json";
pub const ROOTFS: &str = "rootfs";

/// Where a namespace of a process comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Namespace {
    /// Shared by the containers of the pod.
    #[default]
    Pod,
    /// One of the container's own.
    Own,
    /// The machine's.
    Host,
    /// That of another container of the pod, by id.
    Target(String),
}

/// What a shim makes when it starts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PodPlan {
    pub id: String,
    pub hostname: String,
    pub net: Namespace,
    pub ipc: Namespace,
    /// `Pod`: one process-id namespace for all containers, with a first process of the shim's.
    pub pid: Namespace,
    pub sysctls: Vec<(String, String)>,
    /// Files into which the shim writes its process id: its own cgroup in every hierarchy.
    pub cgroup_procs: Vec<PathBuf>,
    pub oom_score_adj: i32,
    /// Bound of the pod's /dev/shm.
    pub shm_bytes: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ContainerPlan {
    pub id: String,
    pub root: RootPlan,
    pub mounts: Vec<MountPlan>,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    pub devices: Vec<DevicePlan>,
    pub process: ProcessPlan,
    pub pid: Namespace,
    /// Writes to /sys and /sys/fs/cgroup are possible, and every device of the machine is there.
    pub privileged: bool,
    pub cgroup_procs: Vec<PathBuf>,
    /// A file that counts kills for want of memory in a line `oom_kill N`.
    pub oom_file: Option<PathBuf>,
    pub log: Option<LogPlan>,
    pub stdin: bool,
    pub stdin_once: bool,
}

/// An overlay, or a plain folder when `upper` is empty.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RootPlan {
    /// Topmost first.
    pub lower: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
    /// Where it is mounted, in the container's own mount namespace only.
    pub target: PathBuf,
    pub readonly: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    #[default]
    ReadWrite,
    ReadOnly,
    /// Read-only with every mount below it.
    ReadOnlyRecursive,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountSource {
    /// A path of the machine, with the mounts below it.
    Bind(PathBuf),
    /// A file system of the kernel: its type and options.
    Filesystem { kind: String, options: String },
    /// The file tree of an image, or a part of it: layers with the topmost first, and a path inside of them.
    Image { layers: Vec<PathBuf>, sub_path: PathBuf },
    /// The container's own cgroups, read-only unless privileged.
    Cgroup,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountPlan {
    pub target: PathBuf,
    pub source: MountSource,
    pub access: Access,
    pub propagation: Propagation,
    /// `MS_NOSUID | MS_NODEV | …`; only for file systems.
    pub flags: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DevicePlan {
    pub path: PathBuf,
    /// 'c' or 'b'.
    pub kind: char,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// A process in a container: the first one or an exec'd one.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ProcessPlan {
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    pub cwd: String,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// Bit masks; see `capability`.
    pub capabilities: u64,
    pub ambient: u64,
    pub no_new_privileges: bool,
    /// Files of classic BPF, loaded in this order.
    pub seccomp: Vec<PathBuf>,
    /// `RLIMIT_*`, soft, hard.
    pub rlimits: Vec<(i32, u64, u64)>,
    pub oom_score_adj: i32,
    pub terminal: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogPlan {
    pub path: PathBuf,
    /// A log that would outgrow this is rotated before the write; 0: never.
    pub bytes_max: u64,
    pub files_max: u32,
}

/// What a shim knows of a container; kept on disk at every change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    pub id: String,
    /// 0 before the start.
    pub pid: i32,
    /// Nanoseconds since 1970; 0: not yet.
    pub started_at: i64,
    pub finished_at: i64,
    pub exit_code: i32,
    pub oom_killed: bool,
}

pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&bytes)
        .map_err(|source| Error::Json { what: format!("decoding {}", path.display()), source })
}

/// Writes the whole value or nothing: readers and crashes never see half of it.
pub fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let bytes = serde_json::to_vec(value)
        .map_err(|source| Error::Json { what: format!("encoding {}", path.display()), source })?;
    let beside = path.with_extension("new");
    fs::write(&beside, bytes).context(|| format!("writing {}", beside.display()))?;
    fs::rename(&beside, path).context(|| format!("renaming to {}", path.display()))
}
