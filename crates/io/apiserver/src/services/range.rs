//! A range of IPv4 addresses: which belong to Services, and which are given out by chance.

use std::net::Ipv4Addr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: u32,
    bits: u32,
}

impl Cidr {
    /// `10.96.0.0/16`; `None` for other forms and for ranges of fewer than two usable addresses.
    pub fn parse(text: &str) -> Option<Cidr> {
        let (base, bits) = text.split_once('/')?;
        let bits: u32 = bits.parse().ok().filter(|bits| (8..=30).contains(bits))?;
        let base = u32::from(base.parse::<Ipv4Addr>().ok()?);
        Some(Cidr { base: base & (u32::MAX << (32 - bits)), bits })
    }

    pub fn family(&self) -> &'static str {
        "IPv4"
    }

    /// Usable addresses: all but the first and the last.
    pub fn len(&self) -> u32 {
        (1 << (32 - self.bits)) - 2
    }

    pub fn usable(&self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1 + offset % self.len())
    }

    /// Addresses behind the part that is left to those who ask for one by name.
    pub fn dynamic_len(&self) -> u32 {
        self.len() - self.reserved()
    }

    pub fn dynamic(&self, offset: u32) -> Ipv4Addr {
        self.usable(self.reserved() + offset)
    }

    pub fn holds(&self, ip: &str) -> bool {
        let Ok(ip) = ip.parse::<Ipv4Addr>() else { return false };
        let offset = u32::from(ip).wrapping_sub(self.base);
        (1..=self.len()).contains(&offset)
    }

    /// A sixteenth, at least 16 and at most 256 where the range has that many (KEP-3070).
    fn reserved(&self) -> u32 {
        let part = (self.len() / 16).clamp(16, 256);
        if part < self.len() { part } else { 0 }
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", Ipv4Addr::from(self.base), self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_stay_in_the_range() {
        let range = Cidr::parse("10.96.0.0/16").unwrap();
        assert_eq!(range.usable(0).to_string(), "10.96.0.1");
        assert!(range.holds("10.96.255.254") && !range.holds("10.96.255.255") && !range.holds("10.97.0.1"));
        assert!((0..range.dynamic_len()).step_by(977).all(|offset| range.holds(&range.dynamic(offset).to_string())));
        assert!(Cidr::parse("10.96.0.0").is_none() && Cidr::parse("fd00::/108").is_none());
    }
}
