//! What the runtime remembers of sandboxes and containers, in memory and in the state folder:
//! `pods/SANDBOX/{sandbox.json,sandbox.pb}` and `pods/SANDBOX/containers/ID/{container.json,container.pb}`. The plans,
//! sockets and statuses beside them are `coracle-linux`'s.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use coracle_linux::plan;
use coracle_proto::cri::{ContainerConfig, PodSandboxConfig};
use prost::Message;
use serde::{Deserialize, Serialize};
use tonic::Status;

use crate::internal;

pub const PODS: &str = "pods";
pub const CONTAINERS: &str = "containers";
pub const SANDBOX_RECORD: &str = "sandbox.json";
const SANDBOX_CONFIG: &str = "sandbox.pb";
pub const CONTAINER_RECORD: &str = "container.json";
const CONTAINER_CONFIG: &str = "container.pb";

#[derive(Default)]
pub struct State {
    pub sandboxes: BTreeMap<String, Sandbox>,
    pub containers: BTreeMap<String, Container>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SandboxRecord {
    pub id: String,
    pub created_at: i64,
    pub ready: bool,
    pub ips: Vec<IpAddr>,
    pub runtime_handler: String,
    /// The pod's group, and whether this runtime made it.
    pub cgroup: String,
    pub owns_cgroup: bool,
}

#[derive(Clone, Debug)]
pub struct Sandbox {
    pub record: SandboxRecord,
    /// Boxed, as the maps of both have room for more than they hold.
    pub config: Box<PodSandboxConfig>,
    pub dir: PathBuf,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub id: String,
    pub sandbox_id: String,
    pub created_at: i64,
    pub image_id: String,
    pub cgroup: String,
    pub stop_signal: i32,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// Absolute; empty without a log.
    #[serde(default)]
    pub log_path: String,
    /// Why it never ran.
    pub start_error: String,
    /// Lost with its shim or a reboot, so nobody saw how it ended.
    #[serde(default)]
    pub lost: bool,
}

#[derive(Clone, Debug)]
pub struct Container {
    pub record: ContainerRecord,
    pub config: Box<ContainerConfig>,
    pub status: plan::ContainerStatus,
    pub dir: PathBuf,
}

impl Sandbox {
    pub fn save(&self) -> Result<(), Status> {
        write_config(&self.dir.join(SANDBOX_CONFIG), &*self.config)?;
        self.save_record()
    }

    pub fn save_record(&self) -> Result<(), Status> {
        plan::write(&self.dir.join(SANDBOX_RECORD), &self.record).map_err(internal)
    }

    pub fn load(dir: &Path) -> Result<Sandbox, Status> {
        let record = plan::read(&dir.join(SANDBOX_RECORD)).map_err(internal)?;
        Ok(Sandbox { record, config: Box::new(read_config(&dir.join(SANDBOX_CONFIG))?), dir: dir.to_owned() })
    }

    pub fn shim_cgroup(&self) -> String {
        format!("{}/{}", self.record.cgroup, self.record.id)
    }
}

impl Container {
    pub fn save(&self) -> Result<(), Status> {
        write_config(&self.dir.join(CONTAINER_CONFIG), &*self.config)?;
        self.save_record()
    }

    pub fn save_record(&self) -> Result<(), Status> {
        plan::write(&self.dir.join(CONTAINER_RECORD), &self.record).map_err(internal)
    }

    /// Its own `status.json` is read as well: the shim wrote it, maybe while nobody listened.
    pub fn load(dir: &Path) -> Result<Container, Status> {
        let record: ContainerRecord = plan::read(&dir.join(CONTAINER_RECORD)).map_err(internal)?;
        let config = Box::new(read_config(&dir.join(CONTAINER_CONFIG))?);
        let status = plan::read(&dir.join(plan::CONTAINER_STATUS))
            .unwrap_or_else(|_| plan::ContainerStatus { id: record.id.clone(), ..Default::default() });
        Ok(Container { record, config, status, dir: dir.to_owned() })
    }

    pub fn save_status(&self) -> Result<(), Status> {
        plan::write(&self.dir.join(plan::CONTAINER_STATUS), &self.status).map_err(internal)
    }

    pub fn is_running(&self) -> bool {
        self.status.started_at != 0 && self.status.finished_at == 0
    }
}

impl State {
    /// By id, or by the beginning of one that is the only one to begin so.
    pub fn sandbox(&self, id: &str) -> Result<&Sandbox, Status> {
        by_prefix(&self.sandboxes, id)
            .ok_or_else(|| Status::not_found(format!("an error occurred when try to find sandbox: not found: {id}")))
    }

    pub fn container(&self, id: &str) -> Result<&Container, Status> {
        by_prefix(&self.containers, id)
            .ok_or_else(|| Status::not_found(format!("an error occurred when try to find container {id:?}: not found")))
    }

    pub fn containers_of<'a>(&'a self, sandbox_id: &'a str) -> impl Iterator<Item = &'a Container> {
        self.containers.values().filter(move |container| container.record.sandbox_id == sandbox_id)
    }
}

fn by_prefix<'a, T>(map: &'a BTreeMap<String, T>, id: &str) -> Option<&'a T> {
    if let Some(exact) = map.get(id) {
        return Some(exact);
    }
    let mut fitting = map.range(id.to_owned()..).take_while(|(key, _)| !id.is_empty() && key.starts_with(id));
    let first = fitting.next()?;
    fitting.next().is_none().then_some(first.1)
}

fn write_config(path: &Path, config: &impl Message) -> Result<(), Status> {
    fs::write(path, config.encode_to_vec())
        .map_err(|error| Status::internal(format!("writing {}: {error}", path.display())))
}

fn read_config<T: Message + Default>(path: &Path) -> Result<T, Status> {
    let bytes = fs::read(path).map_err(|error| Status::internal(format!("reading {}: {error}", path.display())))?;
    T::decode(bytes.as_slice()).map_err(internal)
}
