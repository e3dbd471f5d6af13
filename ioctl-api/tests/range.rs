// SPDX-License-Identifier: GPL-2.0

//! `Maps::check` at every edge it has.

use ioctl_api::subpage::{BadRange, Maps, KVM_SPP_MAX_PAGES};
use zerocopy::{FromBytes, IntoBytes};

const LIMIT: u64 = 1 << 39;
const END: u64 = 1 << 48;

fn maps(gpa: u64, npages: u64) -> Maps {
    Maps {
        gpa,
        npages,
        maps: 0x1000,
        ..Maps::default()
    }
}

#[test]
fn good_ranges_give_gfn_and_pages() {
    for (gpa, npages) in [
        (0, 1),
        (0x5000, 3),
        (0, KVM_SPP_MAX_PAGES),
        (LIMIT - 0x1000, 1),
        (LIMIT - KVM_SPP_MAX_PAGES * 0x1000, KVM_SPP_MAX_PAGES),
    ] {
        assert_eq!(maps(gpa, npages).check(LIMIT), Ok((gpa / 0x1000, npages)));
    }
}

#[test]
fn every_unused_word_must_be_zero() {
    let good = maps(0x1000, 1);
    for byte in 24..64 {
        for bit in 0..8 {
            let mut bad = good;
            bad.as_mut_bytes()[byte] ^= 1 << bit;
            assert_eq!(
                bad.check(LIMIT),
                Err(BadRange::Invalid),
                "byte {byte} bit {bit}"
            );
        }
    }
}

#[test]
fn addresses_must_be_page_aligned() {
    for bit in 0..12 {
        assert_eq!(maps(1 << bit, 1).check(LIMIT), Err(BadRange::Invalid));
    }
}

#[test]
fn no_pages_is_invalid_and_too_many_is_too_long() {
    assert_eq!(maps(0, 0).check(LIMIT), Err(BadRange::Invalid));
    for npages in [KVM_SPP_MAX_PAGES + 1, 1 << 52, u64::MAX] {
        assert_eq!(maps(0, npages).check(LIMIT), Err(BadRange::TooLong));
    }
}

#[test]
fn ranges_must_end_below_the_limit_and_below_48_bits() {
    for gpa in [LIMIT, LIMIT - 0x1000, END - 0x1000, !0xfff] {
        assert_eq!(
            maps(gpa, 2).check(LIMIT),
            Err(BadRange::Invalid),
            "{gpa:#x}"
        );
    }
    // A limit beyond what a 4-level EPT translates does not help.
    assert_eq!(
        maps(END - 0x1000, 1).check(u64::MAX),
        Ok((END / 0x1000 - 1, 1))
    );
    assert_eq!(maps(END, 1).check(u64::MAX), Err(BadRange::Invalid));
    assert_eq!(
        maps(END - 0x1000, 2).check(u64::MAX),
        Err(BadRange::Invalid)
    );
}

#[test]
fn errors_have_the_documented_numbers() {
    assert_eq!(BadRange::Invalid.errno(), 22);
    assert_eq!(BadRange::TooLong.errno(), 7);
}

#[test]
fn structures_read_back_from_their_bytes() {
    let range = maps(0x7000, 9);
    assert_eq!(
        range.as_bytes()[0..16],
        [0, 0x70, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(Maps::read_from_bytes(range.as_bytes()).unwrap(), range);
}
