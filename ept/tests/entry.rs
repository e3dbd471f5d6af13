// SPDX-License-Identifier: GPL-2.0

use super::*;

const LEVELS: [Level; 4] = [Level::Pt, Level::Pd, Level::Pdpt, Level::Pml4];

/// The bit positions as SDM 3C table 29-7 prints them.
#[test]
fn bits_are_where_the_manual_has_them() {
    let table = [
        (Bits::READ, 0x1),
        (Bits::WRITE, 0x2),
        (Bits::EXEC, 0x4),
        (Bits::WRITE_BACK, 0x30),
        (Bits::IPAT, 0x40),
        (Bits::LARGE, 0x80),
        (Bits::ACCESSED, 0x100),
        (Bits::DIRTY, 0x200),
        (Bits::SPP, 0x2000_0000_0000_0000),
        (Bits::SUPPRESS_VE, 0x8000_0000_0000_0000),
    ];
    for (bits, raw) in table {
        assert_eq!(bits.bits(), raw);
    }
}

#[test]
fn kind_follows_rwx_and_large() {
    for level in LEVELS {
        for low in 0..0x1000_u64 {
            let want = match (low & 7, low & 0x80, level) {
                (0, _, _) => Kind::Hole,
                (_, _, Level::Pt) => Kind::Leaf,
                (_, 0x80, _) => Kind::Leaf,
                _ => Kind::Table(Hpa::new(0xa_bcde_f000)),
            };
            let raw = 0xf7f0_000a_bcde_f000 | low;
            assert_eq!(Ept::kind(raw, level), want, "{raw:#x} {level:?}");
        }
    }
}

#[test]
fn link_reads_back_as_table() {
    let table = Hpa::new(0xf_ffff_ffff_f000);
    assert_eq!(Ept::link(table), 0xf_ffff_ffff_f007);
    assert_eq!(Ept::kind(Ept::link(table), Level::Pd), Kind::Table(table));
}

#[test]
fn leaf_round_trip_or_refusal() {
    for level in LEVELS {
        let hpa = Hpa::new(PAGE_SIZE * level.pages() * 3);
        for (writable, subpage) in [(false, false), (false, true), (true, false), (true, true)] {
            let leaf = Leaf {
                hpa,
                level,
                writable,
                subpage,
            };
            let possible = level != Level::Pml4 && !(subpage && (writable || level != Level::Pt));
            assert_eq!(leaf.raw().is_some(), possible, "{leaf:?}");
            if let Some(raw) = leaf.raw() {
                assert_eq!(Leaf::parse(raw, level), Some(leaf));
                assert_eq!(Ept::kind(raw, level), Kind::Leaf);
                assert_eq!(raw & 0x78, 0x70, "write-back, PAT ignored");
                assert_eq!(raw & 5, 5, "readable, executable");
            }
        }
    }
}

#[test]
fn leaf_refuses_addresses_that_do_not_fit() {
    let at = |hpa, level| Leaf {
        hpa: Hpa::new(hpa),
        level,
        writable: true,
        subpage: false,
    };
    for level in [Level::Pt, Level::Pd, Level::Pdpt] {
        let size = PAGE_SIZE * level.pages();
        assert!(at(size, level).raw().is_some());
        for bit in 0..64 {
            let fits = (1_u64 << bit) >= size && bit < 52;
            assert_eq!(at(1 << bit, level).raw().is_some(), fits, "{level:?} {bit}");
        }
    }
}

#[test]
fn parse_ignores_bit_61_where_the_processor_does() {
    let spp = Bits::SPP.bits();
    assert!(Leaf::parse(spp | 0x5, Level::Pt).unwrap().subpage);
    assert!(!Leaf::parse(spp | 0x7, Level::Pt).unwrap().subpage);
    assert!(!Leaf::parse(spp | 0x85, Level::Pd).unwrap().subpage);
    assert_eq!(Leaf::parse(spp | 0x1000, Level::Pt), None);
    assert_eq!(Leaf::parse(0x1007, Level::Pd), None);
    assert_eq!(Leaf::parse(0x87, Level::Pml4), None);
}

#[test]
fn accessed_and_dirty_do_not_change_what_a_leaf_is() {
    let leaf = Leaf {
        hpa: Hpa::new(0x5000),
        level: Level::Pt,
        writable: false,
        subpage: true,
    };
    let raw = leaf.raw().unwrap();
    assert_eq!(Leaf::parse(raw | 0x300, Level::Pt), Some(leaf));
}

#[test]
fn eptp_layout() {
    assert_eq!(eptp(Hpa::new(0x1234_5000), false), 0x1234_501e);
    assert_eq!(eptp(Hpa::new(0x1234_5000), true), 0x1234_505e);
}
