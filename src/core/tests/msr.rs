// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::cr::Efer;
use std::collections::BTreeSet;
use std::vec::Vec;

const FEATURES: Features = Features {
    cr4: Features::BASE_CR4,
    efer: Efer::all(),
    physical_bits: 40,
};

fn ok(index: u32, value: u64) -> bool {
    check(index, value, &FEATURES, Writer::Guest).is_ok()
}

#[test]
fn listed_msrs_exist() {
    for index in INDEX_LIST {
        assert!(place(*index).is_some(), "{index:#x}");
    }
    let unique: BTreeSet<_> = INDEX_LIST.iter().collect();
    assert_eq!(unique.len(), INDEX_LIST.len());
}

#[test]
fn unknown_msrs_fault() {
    for index in [
        0x3b,
        0x48,
        0x10a,
        0x480,
        0x6e0,
        0x802,
        0xda0,
        0x210,
        0x270,
        0xc001_0010,
    ] {
        assert_eq!(place(index), None, "{index:#x}");
        assert!(!ok(index, 0), "{index:#x}");
    }
}

#[test]
fn every_stored_register_keeps_its_own_value() {
    let mut store = MsrStore::new();
    let all: Vec<Stored> = (0..0x300).filter_map(stored).collect();
    assert_eq!(all.len(), 5 + 16 + 11);
    for (n, register) in all.iter().enumerate() {
        store.write(*register, n as u64 + 100);
    }
    for (n, register) in all.iter().enumerate() {
        assert_eq!(store.read(*register), n as u64 + 100, "{register:?}");
    }
}

#[test]
fn canonical_where_the_processor_demands_it() {
    let bad = 1 << 47;
    for index in [
        0x175,
        0x176,
        0xc000_0082,
        0xc000_0083,
        0xc000_0100,
        0xc000_0101,
        0xc000_0102,
    ] {
        assert!(!ok(index, bad), "{index:#x}");
        assert!(ok(index, !0 << 47), "{index:#x}");
    }
    assert!(ok(0xc000_0081, bad), "STAR is no address");
}

#[test]
fn reserved_upper_halves() {
    for index in [0x174, 0xc000_0084, 0xc000_0103] {
        assert!(!ok(index, 1 << 32), "{index:#x}");
        assert!(ok(index, 0xffff_ffff), "{index:#x}");
    }
}

#[test]
fn memory_types() {
    for kind in 0..=255u64 {
        let mtrr = [0, 1, 4, 5, 6].contains(&kind);
        assert_eq!(
            ok(0x277, 0x0606_0606_0606_0600 | kind),
            mtrr || kind == 7,
            "PAT {kind}"
        );
        assert_eq!(
            ok(0x250, 0x0606_0606_0606_0600 | kind),
            mtrr,
            "fixed {kind}"
        );
        assert_eq!(ok(0x2ff, 0xc00 | kind), mtrr, "default {kind}");
        assert_eq!(ok(0x200, 0x1000 | kind), mtrr, "base {kind}");
    }
    assert!(pat_valid(PAT_RESET));
    assert!(!ok(0x277, 2 << 56));
    assert!(!ok(0x200, 1 << 40), "beyond MAXPHYADDR");
    assert!(!ok(0x201, 0x400));
    assert!(ok(0x201, 0xff_ffff_f800));
    assert!(!ok(0x2ff, 1 << 12));
}

#[test]
fn constants_may_be_written_back_by_user_space_only() {
    for (index, value) in [(0x3a, 1), (0x179, 0), (0xfe, 0x508), (0x17, 0)] {
        assert_eq!(place(index), Some(Place::Constant(value)));
        assert!(!ok(index, value), "{index:#x}");
        let user = |value| check(index, value, &FEATURES, Writer::User);
        assert_eq!(user(value), Ok(value), "{index:#x}");
        assert!(user(value + 1).is_err(), "{index:#x}");
    }
}

#[test]
fn debugctl_keeps_only_btf() {
    assert_eq!(check(0x1d9, 3, &FEATURES, Writer::Guest), Ok(2));
    assert!(!ok(0x1d9, 1 << 6));
}

#[test]
fn apic_base() {
    assert!(ok(0x1b, 0xfee0_0900));
    assert!(!ok(0x1b, 0xfee0_0c00), "x2APIC");
    assert!(!ok(0x1b, 1 << 40));
}

/// SDM 3C 25.6.9: reads of low MSRs, reads of high, writes of low, writes of high.
#[test]
fn bitmap_layout() {
    assert_eq!(bitmap_bit(0, false), Some((0, 0)));
    assert_eq!(bitmap_bit(0x1fff, false), Some((0x3ff, 7)));
    assert_eq!(bitmap_bit(0xc000_0000, false), Some((0x400, 0)));
    assert_eq!(bitmap_bit(0xc000_1fff, false), Some((0x7ff, 7)));
    assert_eq!(bitmap_bit(0x174, true), Some((0x82e, 4)));
    assert_eq!(bitmap_bit(0xc000_0102, true), Some((0xc20, 2)));
    assert_eq!(bitmap_bit(0x2000, false), None);
    assert_eq!(bitmap_bit(0xc000_2000, false), None);
    assert_eq!(bitmap_bit(0xbfff_ffff, false), None);
}

#[test]
fn bitmap_lets_through_exactly_what_is_listed() {
    let bitmap: Vec<u8> = (0..4096).map(bitmap_byte).collect();
    let clear: u32 = bitmap.iter().map(|byte| byte.count_zeros()).sum();
    assert_eq!(
        clear as usize,
        READ_PASSTHROUGH.len() + WRITE_PASSTHROUGH.len()
    );
    for (msrs, write) in [
        (&READ_PASSTHROUGH[..], false),
        (&WRITE_PASSTHROUGH[..], true),
    ] {
        for msr in msrs {
            let (at, bit) = bitmap_bit(*msr, write).unwrap();
            assert_eq!(bitmap[at] >> bit & 1, 0, "{msr:#x}");
        }
    }
    // EFER and TSC_AUX always exit, and so do writes of STAR.
    for (msr, write) in [
        (0xc000_0080, true),
        (0xc000_0103, false),
        (0xc000_0081, true),
    ] {
        let (at, bit) = bitmap_bit(msr, write).unwrap();
        assert_eq!(bitmap[at] >> bit & 1, 1, "{msr:#x}");
    }
}
