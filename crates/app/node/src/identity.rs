//! What a cluster chose at its first start and keeps: its name, its address ranges, its node and its ports. Ranges are
//! picked so that no route of the machine and no other cluster on it has them; all running clusters of a machine are
//! listed in one folder for that.

use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use coracle_config::Config;
use serde::{Deserialize, Serialize};

use crate::files::{private_dir, write_private};
use crate::paths::Paths;

/// The machine's list of clusters, gone at reboot like their kernel objects.
const REGISTRY: &str = "/run/coracle";

/// The format of the data directory; a newer one is refused.
const FORMAT: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    pub format: u32,
    pub name: String,
    pub data_dir: PathBuf,
    pub node_name: String,
    pub node_ip: IpAddr,
    pub pod_cidr: Cidr,
    pub service_cidr: Cidr,
    pub api_port: u16,
    pub kubelet_port: u16,
}

/// An IPv4 range, written `10.42.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    pub network: Ipv4Addr,
    pub prefix: u8,
}

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is damaged: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("the data in {} was written by a newer coracle (format {found}, this one knows up to {known}); start that version", path.display())]
    Newer { path: PathBuf, found: u32, known: u32 },
    #[error("{setting}: {value:?} is not an IPv4 range such as 10.42.0.0/16, with a prefix of 8 to 24")]
    BadCidr { setting: &'static str, value: String },
    #[error(
        "{setting}: this cluster was made with {was}; it cannot change to {now}. Leave the setting out, or `coracle reset` first"
    )]
    Fixed { setting: &'static str, was: String, now: String },
    #[error("name: a cluster {name:?} with its data in {} runs on this machine; choose another --name", data_dir.display())]
    NameTaken { name: String, data_dir: PathBuf },
    #[error(
        "no free range of addresses was found between 10.42.0.0 and 10.255.0.0; give --pod-cidr and --service-cidr"
    )]
    NoRange,
    #[error("finding a free port")]
    Port(#[source] std::io::Error),
}

impl Identity {
    /// What was recorded, or chosen and recorded now, and listed as running. One start at a time on a machine, so that
    /// two clusters never choose the same.
    pub fn claim(config: &Config, paths: &Paths) -> Result<Identity, IdentityError> {
        let folder = Path::new(REGISTRY);
        let failed = |source| IdentityError::File { path: folder.into(), source };
        private_dir(folder).map_err(failed)?;
        let turn = std::fs::File::open(folder).map_err(failed)?;
        rustix::fs::flock(&turn, rustix::fs::FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        let identity = Identity::ensure(config, paths)?;
        identity.register()?;
        Ok(identity)
    }

    /// What was recorded, or chosen and recorded now.
    fn ensure(config: &Config, paths: &Paths) -> Result<Identity, IdentityError> {
        let recorded = Identity::read(paths)?;
        let mut others = others(&config.name);
        others.retain(|other| other.data_dir != paths.root());
        if let Some(other) = others.iter().find(|other| other.name == config.name) {
            return Err(IdentityError::NameTaken { name: other.name.clone(), data_dir: other.data_dir.clone() });
        }
        let identity = match recorded {
            Some(recorded) => recorded.confirm(config, &others)?,
            None => Identity::choose(config, paths, &others)?,
        };
        identity.write(&paths.identity())?;
        Ok(identity)
    }

    /// What a data directory says of its cluster; `None` where it holds none.
    pub fn read(paths: &Paths) -> Result<Option<Identity>, IdentityError> {
        let path = paths.identity();
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::File { path, source }),
        };
        let format = serde_json::from_slice::<serde_json::Value>(&text).ok().and_then(|value| value["format"].as_u64());
        if let Some(found) = format.filter(|found| *found > u64::from(FORMAT)) {
            return Err(IdentityError::Newer { path, found: found as u32, known: FORMAT });
        }
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| IdentityError::Damaged { path, reason: error.to_string() })
    }

    /// Lists the cluster as running on this machine.
    fn register(&self) -> Result<(), IdentityError> {
        let folder = Path::new(REGISTRY);
        private_dir(folder).map_err(|source| IdentityError::File { path: folder.into(), source })?;
        self.write(&registered(&self.name))
    }

    /// Takes the cluster off the machine's list.
    pub fn unregister(&self) {
        let _ = std::fs::remove_file(registered(&self.name));
    }

    fn write(&self, path: &Path) -> Result<(), IdentityError> {
        let text = serde_json::to_vec_pretty(self).expect("an identity has a JSON form");
        write_private(path, &text).map_err(|source| IdentityError::File { path: path.into(), source })
    }

    fn confirm(self, config: &Config, others: &[Identity]) -> Result<Identity, IdentityError> {
        let fixed = |setting, was: String, now: Option<String>| match now {
            Some(now) if now != was => Err(IdentityError::Fixed { setting, was, now }),
            _ => Ok(()),
        };
        fixed("pod-cidr", self.pod_cidr.to_string(), config.pod_cidr.clone())?;
        fixed("service-cidr", self.service_cidr.to_string(), config.service_cidr.clone())?;
        fixed("name", self.name.clone(), Some(config.name.clone()))?;
        fixed("node-name", self.node_name.clone(), Some(config.node_name.clone()))?;
        let kubelet_port = free_port(self.kubelet_port, others)?;
        Ok(Identity { api_port: config.port, node_ip: node_ip(), kubelet_port, ..self })
    }

    fn choose(config: &Config, paths: &Paths, others: &[Identity]) -> Result<Identity, IdentityError> {
        let mut taken = routes();
        taken.extend(others.iter().flat_map(|other| [other.pod_cidr, other.service_cidr]));
        let service_cidr = match &config.service_cidr {
            Some(value) => given("service-cidr", value)?,
            None => free_range(&taken, 43)?,
        };
        taken.push(service_cidr);
        let pod_cidr = match &config.pod_cidr {
            Some(value) => given("pod-cidr", value)?,
            None => free_range(&taken, 42)?,
        };
        Ok(Identity {
            format: FORMAT,
            name: config.name.clone(),
            data_dir: paths.root().into(),
            node_name: config.node_name.clone(),
            node_ip: node_ip(),
            pod_cidr,
            service_cidr,
            api_port: config.port,
            kubelet_port: free_port(10250, others)?,
        })
    }

    /// The Service of the API itself: the first address of the range.
    pub fn api_service_ip(&self) -> Ipv4Addr {
        self.service_cidr.nth(1)
    }

    /// The Service of the cluster's DNS: by custom the tenth address.
    pub fn dns_service_ip(&self) -> Ipv4Addr {
        self.service_cidr.nth(10)
    }
}

impl Cidr {
    pub fn nth(&self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) + index)
    }

    fn overlaps(&self, other: &Cidr) -> bool {
        let shift = 32 - u32::from(self.prefix.min(other.prefix));
        shift < 32 && u32::from(self.network) >> shift == u32::from(other.network) >> shift
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.network, self.prefix)
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> String {
        cidr.to_string()
    }
}

impl TryFrom<String> for Cidr {
    type Error = String;

    fn try_from(text: String) -> Result<Cidr, String> {
        let parse = || {
            let (network, prefix) = text.split_once('/')?;
            let (network, prefix) = (network.parse::<Ipv4Addr>().ok()?, prefix.parse::<u8>().ok()?);
            let host_bits = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
            let exact = u32::from(network) & host_bits == 0;
            (prefix <= 32 && exact).then_some(Cidr { network, prefix })
        };
        parse().ok_or_else(|| format!("{text:?} is not a range"))
    }
}

fn given(setting: &'static str, value: &str) -> Result<Cidr, IdentityError> {
    let cidr = Cidr::try_from(value.to_owned()).ok().filter(|cidr| (8..=24).contains(&cidr.prefix));
    cidr.ok_or_else(|| IdentityError::BadCidr { setting, value: value.into() })
}

/// The first /16 of 10.0.0.0/8 from `10.<from>` on, in steps of two, that overlaps nothing taken.
fn free_range(taken: &[Cidr], from: u8) -> Result<Cidr, IdentityError> {
    (from..=255)
        .step_by(2)
        .map(|second| Cidr { network: Ipv4Addr::new(10, second, 0, 0), prefix: 16 })
        .find(|candidate| !taken.iter().any(|range| range.overlaps(candidate)))
        .ok_or(IdentityError::NoRange)
}

/// The machine's IPv4 routes but the default one, from /proc/net/route.
fn routes() -> Vec<Cidr> {
    let table = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let parse = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let address = |index: usize| Some(u32::from_str_radix(fields.get(index)?, 16).ok()?.swap_bytes());
        Some(Cidr { network: address(1)?.into(), prefix: address(7)?.leading_ones() as u8 })
    };
    table.lines().skip(1).filter_map(parse).filter(|route| route.prefix > 0).collect()
}

/// Other clusters listed on this machine, and this name's own entry if it is another data directory's.
fn others(name: &str) -> Vec<Identity> {
    let entries = std::fs::read_dir(REGISTRY).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| serde_json::from_slice::<Identity>(&std::fs::read(entry.path()).ok()?).ok())
        .filter(|other| other.name != name || Paths::new(&other.data_dir).identity().exists())
        .collect()
}

fn registered(name: &str) -> PathBuf {
    Path::new(REGISTRY).join(format!("{name}.json"))
}

/// The address that traffic to the outside leaves from; nothing is sent. Loopback on a machine without routes.
pub fn node_ip() -> IpAddr {
    let ask = || {
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.connect("192.0.2.1:9").ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    ask().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// `wanted` if nobody listens there and no other cluster is about to, else any free port.
fn free_port(wanted: u16, others: &[Identity]) -> Result<u16, IdentityError> {
    let bind = |port| TcpListener::bind(("0.0.0.0", port)).and_then(|listener| listener.local_addr());
    let claimed = others.iter().any(|other| other.kubelet_port == wanted);
    let wanted = if claimed { 0 } else { wanted };
    bind(wanted).or_else(|_| bind(0)).map(|address| address.port()).map_err(IdentityError::Port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        Cidr::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn a_free_range_overlaps_nothing_taken() {
        let taken = [cidr("10.42.0.0/16"), cidr("10.44.128.0/24"), cidr("192.168.0.0/16")];
        assert_eq!(free_range(&taken, 42).unwrap(), cidr("10.46.0.0/16"));
        assert!(free_range(&[cidr("10.0.0.0/8")], 42).is_err());
    }

    #[test]
    fn ranges_with_host_bits_are_refused() {
        assert!(Cidr::try_from("10.0.0.1/16".to_owned()).is_err());
        assert!(Cidr::try_from("10.0.0.0/33".to_owned()).is_err());
        assert!(given("pod-cidr", "10.0.0.0/30").is_err());
    }
}
