//! Chance as a value: uids, name suffixes and jitter come from here, from the system or from a seed.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A source of random numbers. Cheap to clone; clones of a seeded source share its state.
#[derive(Clone, Debug)]
pub struct Dice(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Seeded(Arc<AtomicU64>),
}

impl Dice {
    pub fn system() -> Dice {
        Dice(Source::System)
    }

    /// The same numbers in the same order for the same seed.
    pub fn seeded(seed: u64) -> Dice {
        Dice(Source::Seeded(Arc::new(AtomicU64::new(seed))))
    }

    pub fn next_u64(&self) -> u64 {
        match &self.0 {
            Source::System => POOL.with_borrow_mut(Pool::next),
            Source::Seeded(state) => split_mix(state.fetch_add(GOLDEN, Ordering::SeqCst).wrapping_add(GOLDEN)),
        }
    }

    /// A number in `0..bound`; 0 for a bound of 0.
    pub fn below(&self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A random (version 4) UUID in its usual form, RFC 9562.
    pub fn uuid(&self) -> String {
        let high = (self.next_u64() & !0xf000) | 0x4000;
        let low = (self.next_u64() & !(0b11 << 62)) | (0b10 << 62);
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        )
    }
}

/// Bytes of the kernel's random source that a thread has fetched and not handed out: one system call for many numbers.
struct Pool {
    bytes: [u8; POOL_BYTES],
    used: usize,
}

const POOL_BYTES: usize = 256;

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { bytes: [0; POOL_BYTES], used: POOL_BYTES }) };
}

impl Pool {
    fn next(&mut self) -> u64 {
        if self.used == POOL_BYTES {
            getrandom::fill(&mut self.bytes).expect("the kernel's random source answers on every supported Linux");
            self.used = 0;
        }
        let mut number = [0; 8];
        let taken = &mut self.bytes[self.used..self.used + number.len()];
        number.copy_from_slice(taken);
        // What was handed out is not left lying in memory.
        taken.fill(0);
        self.used += number.len();
        u64::from_ne_bytes(number)
    }
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output function of SplitMix64 (Steele, Lea, Flood 2014).
fn split_mix(state: u64) -> u64 {
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_again() {
        let (left, right) = (Dice::seeded(7), Dice::seeded(7));
        assert!((0..100).all(|_| left.next_u64() == right.next_u64()));
    }

    #[test]
    fn uuids_carry_version_and_variant() {
        let uuid = Dice::system().uuid();
        assert_eq!((uuid.len(), &uuid[14..15]), (36, "4"));
        assert!("89ab".contains(&uuid[19..20]));
    }

    #[test]
    fn the_system_never_repeats_itself() {
        let dice = Dice::system();
        let numbers: std::collections::HashSet<u64> = (0..1000).map(|_| dice.next_u64()).collect();
        assert_eq!(numbers.len(), 1000);
    }

    #[test]
    fn below_stays_below() {
        let dice = Dice::seeded(1);
        assert!((0..1000).all(|_| dice.below(3) < 3));
        assert_eq!(dice.below(0), 0);
    }
}
