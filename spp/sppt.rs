// SPDX-License-Identifier: GPL-2.0

//! The entry format of the sub-page permission table (SDM 3C 29.3.4.2).

use ept::{Format, Hpa, Kind, Level};
use static_assertions::const_assert_eq;

use crate::Mask;

const VALID: u64 = 1 << 0;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const_assert_eq!(VALID & ADDRESS, 0);

/// The SPPT entry format. The upper levels have a valid bit and an address; the lowest is the
/// SPP vector itself, which has no valid bit: every word of a vector table counts, and
/// zero denies everything. So a new table says "all writable" before it is linked.
#[derive(Clone, Copy, Debug)]
pub enum Sppt {}

impl Format for Sppt {
    const NEW_LEAF: u64 = Mask::ALL.vector();

    #[inline]
    fn kind(raw: u64, level: Level) -> Kind {
        if level == Level::Pt {
            Kind::Leaf
        } else if raw & VALID == 0 {
            Kind::Hole
        } else {
            Kind::Table(Hpa::new(raw & ADDRESS))
        }
    }

    #[inline]
    fn link(table: Hpa) -> u64 {
        table.get() & ADDRESS | VALID
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_leaves_whatever_they_hold() {
        for raw in [0, 1, 0x5555_5555_5555_5555, u64::MAX] {
            assert_eq!(Sppt::kind(raw, Level::Pt), Kind::Leaf);
        }
    }

    #[test]
    fn valid_bit_decides_above() {
        for level in [Level::Pd, Level::Pdpt, Level::Pml4] {
            assert_eq!(Sppt::kind(0x1234_5000, level), Kind::Hole);
            let table = Hpa::new(0x1234_5000);
            assert_eq!(Sppt::link(table), 0x1234_5001);
            assert_eq!(Sppt::kind(Sppt::link(table), level), Kind::Table(table));
        }
    }

    #[test]
    fn new_vectors_deny_nothing() {
        assert_eq!(Mask::from_vector(Sppt::NEW_LEAF), Some(Mask::ALL));
    }
}
