//! Names of what does not exist: ids of containers, images and machines that are the same whenever they are asked for,
//! and times as the API has them.

use std::fmt::Write;

use jiff::Timestamp;

/// 64 hexadecimal digits that follow from the parts. Not a secret and no proof of anything: only unlike others.
pub fn hex_id(parts: &[&str]) -> String {
    let mut id = String::with_capacity(64);
    for seed in 1_u64..=4 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for part in parts {
            // FNV-1a, with a byte between parts that no name has.
            for byte in part.bytes().chain([0]) {
                state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        write!(id, "{:016x}", mixed(state)).expect("a string grows as it must");
    }
    id
}

/// The finalizer of SplitMix64.
fn mixed(state: u64) -> u64 {
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// The API's times have no fraction.
pub fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_from_their_parts() {
        assert_eq!(hex_id(&["a", "b"]), hex_id(&["a", "b"]));
        assert_ne!(hex_id(&["a", "b"]), hex_id(&["ab", ""]));
        assert_eq!(hex_id(&["a"]).len(), 64);
    }
}
