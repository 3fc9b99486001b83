//! An address range in CIDR notation.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range; the host bits of `address` are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address range such as 10.42.0.0/24")]
pub struct BadCidr(pub String);

impl Cidr {
    /// `None` when the prefix is longer than the address. Host bits are cleared.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Cidr> {
        if prefix > bits(address) {
            return None;
        }
        let kept = number(address) & mask(address, prefix);
        Some(Cidr { address: like(address, kept), prefix })
    }

    /// The range of this one address.
    pub fn host(address: IpAddr) -> Cidr {
        Cidr { address, prefix: bits(address) }
    }

    /// The first address of the range.
    pub fn network(&self) -> IpAddr {
        self.address
    }

    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4() && number(address) & mask(address, self.prefix) == number(self.address)
    }

    /// Whether the two share an address.
    pub fn overlaps(&self, other: &Cidr) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// The address `index` steps behind the first, if it is still inside.
    pub fn nth(&self, index: u128) -> Option<IpAddr> {
        if index >= self.size() {
            return None;
        }
        Some(like(self.address, number(self.address) + index))
    }

    /// How far an address of the range is behind the first.
    pub fn index_of(&self, address: IpAddr) -> Option<u128> {
        self.contains(address).then(|| number(address) - number(self.address))
    }

    /// How many addresses there are, the first and last among them. `::/0` counts one short.
    pub fn size(&self) -> u128 {
        1u128.checked_shl(u32::from(bits(self.address) - self.prefix)).unwrap_or(u128::MAX)
    }

    /// The bit mask in network order, as long as the address.
    pub fn mask(&self) -> Vec<u8> {
        octets(like(self.address, mask(self.address, self.prefix)))
    }
}

/// An address in network order.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

impl FromStr for Cidr {
    type Err = BadCidr;

    fn from_str(text: &str) -> Result<Cidr, BadCidr> {
        let bad = || BadCidr(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        Cidr::new(address, prefix.parse().map_err(|_| bad())?).ok_or_else(bad)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix)
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn mask(address: IpAddr, prefix: u8) -> u128 {
    let full = if address.is_ipv4() { u128::from(u32::MAX) } else { u128::MAX };
    full & !full.checked_shr(u32::from(prefix)).unwrap_or(0)
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn like(model: IpAddr, number: u128) -> IpAddr {
    match model {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(number as u32)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_cleared() {
        let range: Cidr = "10.42.7.9/20".parse().unwrap();
        assert_eq!(range.to_string(), "10.42.0.0/20");
        assert_eq!(range.nth(10), Some("10.42.0.10".parse().unwrap()));
        assert_eq!(range.nth(4096), None);
        assert!(range.contains("10.42.15.255".parse().unwrap()));
        assert!(!range.contains("10.42.16.0".parse().unwrap()));
        assert_eq!(range.mask(), [255, 255, 240, 0]);
    }

    #[test]
    fn the_whole_range_and_single_addresses_are_ranges() {
        let all: Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("255.255.255.255".parse().unwrap()));
        let one: Cidr = "fd00::1/128".parse().unwrap();
        assert_eq!(one.size(), 1);
        assert!(one.contains("fd00::1".parse().unwrap()) && !one.contains("fd00::2".parse().unwrap()));
        assert!(!all.contains("fd00::1".parse().unwrap()));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "10.0.0.0", "10.0.0.0/33", "a/8", "10.0.0.0/-1"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}
