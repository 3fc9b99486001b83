//! The cluster's names: what the Kubernetes DNS specification (version 1.1) answers for Services, their endpoints and
//! pods. It holds small projections of Services and slices, fed by its owner, and knows no wire format.

mod answer;
mod records;

pub use answer::{Answer, Data, Query, Record};
pub use records::{Kind, ZoneEndpoint, ZonePort, ZoneService, project_service, project_slice};

use std::collections::BTreeMap;

/// An object's namespace and name.
pub type Name = (String, String);

/// The names below one cluster domain.
#[derive(Clone, Debug, Default)]
pub struct Zone {
    /// Lower case, without a dot at the end.
    domain: String,
    services: BTreeMap<Name, ZoneService>,
    slices: BTreeMap<Name, (Name, Vec<ZoneEndpoint>)>,
    /// The slices of a Service.
    slices_of: BTreeMap<Name, Vec<Name>>,
    serial: u32,
}

impl Zone {
    /// `domain` as in `cluster.local`.
    pub fn new(domain: &str) -> Zone {
        Zone { domain: domain.trim_matches('.').to_ascii_lowercase(), serial: 1, ..Zone::default() }
    }

    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Grows with every change.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// Takes in a Service's newest version, `None` when it is gone.
    pub fn set_service(&mut self, name: Name, service: Option<ZoneService>) {
        self.serial = self.serial.wrapping_add(1);
        match service {
            Some(service) => drop(self.services.insert(name, service)),
            None => drop(self.services.remove(&name)),
        }
    }

    /// Takes in a slice's newest version: the Service it is of and its endpoints. `None` when it is gone.
    pub fn set_slice(&mut self, name: Name, slice: Option<(Name, Vec<ZoneEndpoint>)>) {
        self.serial = self.serial.wrapping_add(1);
        if let Some((owner, _)) = self.slices.remove(&name)
            && let Some(slices) = self.slices_of.get_mut(&owner)
        {
            slices.retain(|slice| *slice != name);
            if slices.is_empty() {
                self.slices_of.remove(&owner);
            }
        }
        if let Some((owner, endpoints)) = slice {
            self.slices_of.entry(owner.clone()).or_default().push(name.clone());
            self.slices.insert(name, (owner, endpoints));
        }
    }

    fn endpoints(&self, service: &Name) -> impl Iterator<Item = &ZoneEndpoint> {
        let slices = self.slices_of.get(service).into_iter().flatten();
        slices.filter_map(|slice| self.slices.get(slice)).flat_map(|(_, endpoints)| endpoints)
    }
}
