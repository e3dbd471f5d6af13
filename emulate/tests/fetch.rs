// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::memory::Ram;

fn code() -> [u8; 15] {
    core::array::from_fn(|n| n as u8 + 1)
}

#[test]
fn real_mode_uses_the_segment_base() {
    let mut ram = Ram::default();
    ram.write(0xf_fff0, &code());
    let at = CodeLocation {
        rip: 0xfff0,
        cs_base: 0xf_0000,
        ..CodeLocation::default()
    };
    assert_eq!(instruction(&mut ram, &at), (code(), 15));
}

#[test]
fn linear_addresses() {
    let mut at = CodeLocation {
        rip: 0xffff_fff0,
        cs_base: 0x100,
        ..CodeLocation::default()
    };
    assert_eq!(at.linear(0x10).get(), 0x100);
    at.long = true;
    assert_eq!(at.linear(0x10).get(), 0x1_0000_0000);
}

/// 4-level tables that map linear 0x1000 to 0x8000 and linear 0x2000 to 0x6000.
fn two_pages() -> (Ram, Paging) {
    let mut ram = Ram::default();
    ram.write_u64(0x10_0000, 0x10_1003);
    ram.write_u64(0x10_1000, 0x10_2003);
    ram.write_u64(0x10_2000, 0x10_3003);
    ram.write_u64(0x10_3008, 0x8003);
    ram.write_u64(0x10_3010, 0x6003);
    let paging = Paging {
        cr0: 0x8000_0001,
        cr3: 0x10_0000,
        cr4: 0x20,
        efer: 0x500,
        ..Paging::default()
    };
    (ram, paging)
}

#[test]
fn both_pages_are_translated() {
    let (mut ram, paging) = two_pages();
    for split in 1..15u64 {
        ram.write(0x9000 - split, &code()[..split as usize]);
        ram.write(0x6000, &code()[split as usize..]);
        let at = CodeLocation {
            rip: 0x2000 - split,
            long: true,
            paging,
            ..CodeLocation::default()
        };
        assert_eq!(instruction(&mut ram, &at), (code(), 15), "{split}");
    }
}

#[test]
fn the_rest_may_be_missing() {
    let (mut ram, paging) = two_pages();
    ram.write(0x8ffd, &[1, 2, 3]);
    let mut want = [0; 15];
    want[..3].copy_from_slice(&[1, 2, 3]);
    let mut at = CodeLocation {
        rip: 0x1ffd,
        long: true,
        paging,
        ..CodeLocation::default()
    };
    // Translated, but no memory at 0x6000.
    assert_eq!(instruction(&mut ram, &at), (want, 3));
    // Memory, but no translation.
    ram.write(0x6000, &[9]);
    ram.write_u64(0x10_3010, 0);
    assert_eq!(instruction(&mut ram, &at), (want, 3));
    at.rip = 0x5000;
    assert_eq!(instruction(&mut ram, &at), ([0; 15], 0));
}
