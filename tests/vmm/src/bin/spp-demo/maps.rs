// SPDX-License-Identifier: GPL-2.0

//! The maps of the demonstration.

/// A map and what to call it.
#[derive(Clone, Debug)]
pub(crate) struct NamedMap {
    pub(crate) name: &'static str,
    /// Bit `n` set: sub-page `n` may be written.
    pub(crate) map: u32,
}

/// The maps, one for each page; `seed` chooses those called random.
pub(crate) fn all(seed: u64) -> Vec<NamedMap> {
    let fixed = [
        ("all", u32::MAX),
        ("none", 0),
        ("even", 0x5555_5555),
        ("odd", 0xaaaa_aaaa),
        ("only 0", 1),
        ("only 31", 1 << 31),
        ("all but 13", !(1 << 13)),
        ("lower half", 0x0000_ffff),
        ("upper half", 0xffff_0000),
        ("bytes", 0x00ff_00ff),
    ];
    let random = (0..4).map(|n| ("random", random(seed, n)));
    fixed
        .into_iter()
        .chain(random)
        .map(|(name, map)| NamedMap { name, map })
        .collect()
}

/// What whole-page protection makes of a map: nothing is writable if anything
/// is not.
pub(crate) fn whole_page(map: u32) -> u32 {
    match map {
        u32::MAX => u32::MAX,
        _ => 0,
    }
}

/// The `n`-th number of the splitmix64 sequence.
fn random(seed: u64, n: u64) -> u32 {
    let step = 0x9e37_79b9_7f4a_7c15_u64;
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(step));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn maps_differ_from_each_other() {
        for seed in [0, 1, u64::MAX] {
            let maps: BTreeSet<u32> = all(seed).iter().map(|m| m.map).collect();
            assert_eq!(maps.len(), all(seed).len(), "seed {seed}");
        }
    }

    #[test]
    fn every_sub_page_is_allowed_and_denied_somewhere() {
        let maps = all(1);
        assert_eq!(maps.iter().fold(0, |sum, m| sum | m.map), u32::MAX);
        assert_eq!(maps.iter().fold(u32::MAX, |sum, m| sum & m.map), 0);
    }

    #[test]
    fn whole_page_protection_is_all_or_nothing() {
        assert_eq!(whole_page(u32::MAX), u32::MAX);
        for map in [0, 1, u32::MAX - 1] {
            assert_eq!(whole_page(map), 0);
        }
    }
}
