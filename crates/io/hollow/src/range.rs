//! IPv4 ranges and which of their addresses are given out.

use std::net::Ipv4Addr;

/// A range such as `100.64.0.0/10`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    first: u32,
    bits: u8,
}

impl Range {
    pub const fn new(first: Ipv4Addr, bits: u8) -> Range {
        Range { first: first.to_bits(), bits }
    }

    /// `None` where the text is no range, or one of fewer than four addresses.
    pub fn parse(text: &str) -> Option<Range> {
        let (address, bits) = text.split_once('/')?;
        let (address, bits): (Ipv4Addr, u8) = (address.parse().ok()?, bits.parse().ok()?);
        if !(1..=30).contains(&bits) {
            return None;
        }
        let mask = u32::MAX << (32 - bits);
        Some(Range { first: address.to_bits() & mask, bits })
    }

    /// How many addresses can be given out: the first and the last cannot.
    pub fn usable(&self) -> u32 {
        (1 << (32 - self.bits)) - 2
    }

    /// The address of this index, from 0 on, within what is usable.
    pub fn nth(&self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first + 1 + index)
    }

    fn index_of(&self, address: Ipv4Addr) -> Option<u32> {
        address.to_bits().checked_sub(self.first + 1).filter(|index| *index < self.usable())
    }
}

/// Gives every address out once until it comes back, the longest unused first as far as turns go.
pub struct Pool {
    range: Range,
    taken: Vec<u64>,
    next: u32,
    left: u32,
}

impl Pool {
    pub fn new(range: Range) -> Pool {
        let usable = range.usable();
        Pool { range, taken: vec![0; usable.div_ceil(64) as usize], next: 0, left: usable }
    }

    /// `None` where all are given out.
    pub fn take(&mut self) -> Option<Ipv4Addr> {
        if self.left == 0 {
            return None;
        }
        loop {
            let index = self.next;
            self.next = (index + 1) % self.range.usable();
            if self.mark(index) {
                return Some(self.range.nth(index));
            }
        }
    }

    /// Takes an address that somebody has already; one from elsewhere is nobody's here.
    pub fn reserve(&mut self, address: Ipv4Addr) {
        if let Some(index) = self.range.index_of(address) {
            self.mark(index);
        }
    }

    pub fn release(&mut self, address: Ipv4Addr) {
        let Some(index) = self.range.index_of(address) else { return };
        let (word, bit) = (&mut self.taken[(index / 64) as usize], 1 << (index % 64));
        if *word & bit != 0 {
            *word &= !bit;
            self.left += 1;
        }
    }

    /// Whether it was free until now.
    fn mark(&mut self, index: u32) -> bool {
        let (word, bit) = (&mut self.taken[(index / 64) as usize], 1 << (index % 64));
        let free = *word & bit == 0;
        if free {
            *word |= bit;
            self.left -= 1;
        }
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_odd_ones_refused() {
        let range = Range::parse("10.1.2.3/24").unwrap();
        assert_eq!((range.usable(), range.nth(0).to_string()), (254, "10.1.2.1".into()));
        for odd in ["10.0.0.0", "10.0.0.0/31", "10.0.0.0/0", "::/64", "10.0.0/8"] {
            assert_eq!(Range::parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn an_address_is_given_out_once_until_it_comes_back() {
        let mut pool = Pool::new(Range::parse("10.0.0.0/29").unwrap());
        pool.reserve(Ipv4Addr::new(10, 0, 0, 2));
        pool.reserve(Ipv4Addr::new(192, 0, 2, 1));
        let taken: Vec<String> = std::iter::from_fn(|| pool.take()).map(|address| address.to_string()).collect();
        assert_eq!(taken, ["10.0.0.1", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        pool.release(Ipv4Addr::new(10, 0, 0, 4));
        pool.release(Ipv4Addr::new(10, 0, 0, 4));
        assert_eq!((pool.take(), pool.take()), (Some(Ipv4Addr::new(10, 0, 0, 4)), None));
    }
}
