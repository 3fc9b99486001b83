//! The file of address leases and of the node's ports that lead to pods; it survives a restart. It is written whole at
//! every change; what it says of addresses is checked against the links that are there.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use coracle_netplan::nft::Protocol;
use coracle_netplan::podrules::HostPort;
use coracle_netplan::{Cidr, Ipam};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::switches::write_whole;

pub const FILE: &str = "addresses.json";

#[derive(Serialize, Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Written {
    range: String,
    /// The address given out last.
    last: Option<IpAddr>,
    /// Sandbox ids by address.
    leases: BTreeMap<IpAddr, String>,
    /// By sandbox id.
    ports: BTreeMap<String, Vec<PortMapping>>,
}

/// A port of the node that is to lead into a sandbox.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    pub transport: Transport,
    /// Any address of the node where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_address: Option<IpAddr>,
    pub host_port: u16,
    pub pod_port: u16,
}

#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
    Sctp,
}

impl Transport {
    fn protocol(self) -> Protocol {
        match self {
            Transport::Tcp => Protocol::Tcp,
            Transport::Udp => Protocol::Udp,
            Transport::Sctp => Protocol::Sctp,
        }
    }
}

/// The leases and where they are written down.
pub struct Leases {
    pub ipam: Ipam,
    ports: BTreeMap<String, Vec<PortMapping>>,
    path: PathBuf,
}

impl Leases {
    /// Takes back what was written. A file that cannot be read as leases is set aside: the links tell the rest.
    pub fn open(state_dir: &Path, range: Cidr) -> Result<Leases, Error> {
        fs::create_dir_all(state_dir).map_err(|source| Error::State { path: state_dir.into(), source })?;
        let path = state_dir.join(FILE);
        let mut ipam = Ipam::new(range)?;
        let written = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(file = %path.display(), %error, "the address leases cannot be read, links tell them");
                Written::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Written::default(),
            Err(source) => return Err(Error::State { path, source }),
        };
        for (address, sandbox) in &written.leases {
            if !ipam.restore(*address, sandbox) {
                tracing::warn!(%address, sandbox, %range, "a leased address is not in the pod range");
            }
        }
        if let Some(last) = written.last {
            ipam.continue_after(last);
        }
        Ok(Leases { ipam, ports: written.ports, path })
    }

    /// Says whether that is a change.
    pub fn set_ports(&mut self, sandbox: &str, ports: &[PortMapping]) -> bool {
        let before = match ports.is_empty() {
            true => self.ports.remove(sandbox),
            false => self.ports.insert(sandbox.to_owned(), ports.to_vec()),
        };
        before.as_deref().unwrap_or_default() != ports
    }

    /// The ports of all sandboxes that have an address.
    pub fn host_ports(&self) -> impl Iterator<Item = HostPort> {
        self.ports.iter().flat_map(|(sandbox, ports)| {
            let address = self.ipam.leased_to(sandbox);
            ports.iter().filter_map(move |port| {
                Some(HostPort {
                    protocol: port.transport.protocol(),
                    host_address: port.host_address,
                    host_port: port.host_port,
                    pod_address: address?,
                    pod_port: port.pod_port,
                })
            })
        })
    }

    pub fn save(&self) -> Result<(), Error> {
        let written = Written {
            range: self.ipam.range().to_string(),
            last: self.ipam.last(),
            leases: self.ipam.leases().map(|(address, sandbox)| (address, sandbox.to_owned())).collect(),
            ports: self.ports.clone(),
        };
        let text = serde_json::to_string(&written).map_err(io::Error::from);
        text.and_then(|text| write_whole(&self.path, &text))
            .map_err(|source| Error::State { path: self.path.clone(), source })
    }
}
