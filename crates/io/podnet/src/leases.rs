//! The file of address leases, which survives a restart. It is written whole at every change; what it says is checked
//! against the links that are there.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

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
}

/// The leases and where they are written down.
pub struct Leases {
    pub ipam: Ipam,
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
        Ok(Leases { ipam, path })
    }

    pub fn save(&self) -> Result<(), Error> {
        let written = Written {
            range: self.ipam.range().to_string(),
            last: self.ipam.last(),
            leases: self.ipam.leases().map(|(address, sandbox)| (address, sandbox.to_owned())).collect(),
        };
        let text = serde_json::to_string(&written).map_err(io::Error::from);
        text.and_then(|text| write_whole(&self.path, &text))
            .map_err(|source| Error::State { path: self.path.clone(), source })
    }
}
