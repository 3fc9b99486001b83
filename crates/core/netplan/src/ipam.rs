//! Which sandbox has which address of the node's pod range. It only counts: the keeper of the file that survives a
//! restart is `io/podnet`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;

use crate::Cidr;

/// The leases of one range. The first address is the network, the second the gateway, the last the broadcast address:
/// none of them is given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipam {
    range: Cidr,
    leases: BTreeMap<IpAddr, String>,
    /// Where the last lease was given: an address freed is the last to be used again, because others may remember it.
    last: u128,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    #[error("no address is free in {range}")]
    Exhausted { range: Cidr },
    #[error("{range} is too small for pods")]
    TooSmall { range: Cidr },
}

const GATEWAY: u128 = 1;

impl Ipam {
    pub fn new(range: Cidr) -> Result<Ipam, IpamError> {
        if range.size() < 4 {
            return Err(IpamError::TooSmall { range });
        }
        Ok(Ipam { range, leases: BTreeMap::new(), last: GATEWAY })
    }

    pub fn range(&self) -> Cidr {
        self.range
    }

    /// The address of the node in its pods' range.
    pub fn gateway(&self) -> IpAddr {
        self.range.nth(GATEWAY).unwrap_or(self.range.network())
    }

    /// The address `owner` has, or a free one.
    pub fn lease(&mut self, owner: &str) -> Result<IpAddr, IpamError> {
        if let Some(address) = self.leased_to(owner) {
            return Ok(address);
        }
        let first = GATEWAY + 1;
        let usable = self.range.size() - 1 - first;
        // Among one more candidates than there are leases one is free, if any is.
        let tried_max = usable.min(self.leases.len() as u128 + 1);
        for step in 1..=tried_max {
            let index = first + (self.last - GATEWAY + step - 1) % usable;
            let address = self.range.nth(index).ok_or(IpamError::Exhausted { range: self.range })?;
            if let Entry::Vacant(free) = self.leases.entry(address) {
                free.insert(owner.to_owned());
                self.last = index;
                return Ok(address);
            }
        }
        Err(IpamError::Exhausted { range: self.range })
    }

    pub fn leased_to(&self, owner: &str) -> Option<IpAddr> {
        self.leases.iter().find(|(_, name)| *name == owner).map(|(address, _)| *address)
    }

    /// Takes back a lease written down earlier. An address outside the range or taken is not taken back.
    pub fn restore(&mut self, address: IpAddr, owner: &str) -> bool {
        let Some(index) = self.range.index_of(address) else { return false };
        if index <= GATEWAY || index >= self.range.size() - 1 || self.leases.contains_key(&address) {
            return false;
        }
        self.leases.insert(address, owner.to_owned());
        true
    }

    /// Continues behind `address`, so that a restart does not give freed addresses out again at once.
    pub fn continue_after(&mut self, address: IpAddr) {
        if let Some(index) = self.range.index_of(address) {
            self.last = index.clamp(GATEWAY, self.range.size() - 2);
        }
    }

    pub fn last(&self) -> Option<IpAddr> {
        self.range.nth(self.last)
    }

    /// The address `owner` had, if any.
    pub fn release(&mut self, owner: &str) -> Option<IpAddr> {
        let address = self.leased_to(owner)?;
        self.leases.remove(&address);
        Some(address)
    }

    /// Releases the leases of all owners that `is_live` does not know and names those owners.
    pub fn retain(&mut self, is_live: impl Fn(&str) -> bool) -> Vec<String> {
        let gone: Vec<String> = self.leases.values().filter(|owner| !is_live(owner)).cloned().collect();
        self.leases.retain(|_, owner| is_live(owner));
        gone
    }

    pub fn leases(&self) -> impl Iterator<Item = (IpAddr, &str)> {
        self.leases.iter().map(|(address, owner)| (*address, owner.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipam(range: &str) -> Ipam {
        Ipam::new(range.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_freed_address_rests_before_it_is_used_again() {
        let mut ipam = ipam("10.1.0.0/24");
        assert_eq!(ipam.lease("a").unwrap().to_string(), "10.1.0.2");
        assert_eq!(ipam.lease("b").unwrap().to_string(), "10.1.0.3");
        assert_eq!(ipam.lease("a").unwrap().to_string(), "10.1.0.2");
        ipam.release("a");
        assert_eq!(ipam.lease("c").unwrap().to_string(), "10.1.0.4");
    }

    #[test]
    fn every_address_but_three_is_given_out_once() {
        let mut ipam = ipam("10.1.0.0/28");
        for owner in 0..13 {
            ipam.lease(&owner.to_string()).unwrap();
        }
        assert!(matches!(ipam.lease("more"), Err(IpamError::Exhausted { .. })));
        ipam.release("5").unwrap();
        assert_eq!(ipam.lease("more").unwrap().to_string(), "10.1.0.7");
        assert_eq!(ipam.gateway().to_string(), "10.1.0.1");
    }

    #[test]
    fn what_was_written_down_is_taken_back() {
        let mut ipam = ipam("10.1.0.0/28");
        assert!(ipam.restore("10.1.0.9".parse().unwrap(), "a"));
        for (address, owner) in [("10.1.0.9", "b"), ("10.1.0.1", "b"), ("10.1.0.15", "b"), ("10.2.0.9", "b")] {
            assert!(!ipam.restore(address.parse().unwrap(), owner), "{address}");
        }
        ipam.continue_after("10.1.0.9".parse().unwrap());
        assert_eq!(ipam.lease("c").unwrap().to_string(), "10.1.0.10");
        assert_eq!(ipam.retain(|owner| owner == "c"), ["a"]);
        assert_eq!(ipam.leases().count(), 1);
    }
}
