// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::memory::Ram;

fn code() -> [u8; 15] {
    core::array::from_fn(|n| n as u8 + 1)
}

/// The first `len` bytes of [`code`].
fn some(len: usize, end: Option<FetchStop>) -> Fetched {
    let mut bytes = [0; 15];
    bytes[..len].copy_from_slice(&code()[..len]);
    let len = len as u8;
    Fetched { bytes, len, end }
}

fn page_fault(gva: u64, code: u32) -> Option<FetchStop> {
    let exception = Exception::pf(Gva::new(gva), code);
    Some(FetchStop::Exception(exception))
}

const GP: Option<FetchStop> = Some(FetchStop::Exception(Exception::gp(0)));

#[test]
fn real_mode_uses_the_segment_base() {
    let mut ram = Ram::default();
    ram.write(0xf_fff0, &code());
    let at = CodeLocation {
        rip: 0xfff0,
        cs_base: 0xf_0000,
        cs_limit: 0xffff,
        ..CodeLocation::default()
    };
    assert_eq!(instruction(&mut ram, &at), some(15, None));
    assert_eq!(instruction(&mut ram, &at).get(), code());
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
        assert_eq!(instruction(&mut ram, &at), some(15, None), "{split}");
    }
}

#[test]
fn the_rest_may_be_missing() {
    let (mut ram, mut paging) = two_pages();
    ram.write(0x8ffd, &[1, 2, 3]);
    let mut at = CodeLocation {
        rip: 0x1ffd,
        long: true,
        paging,
        ..CodeLocation::default()
    };
    // Translated, but no memory at 0x6000.
    let no_memory = Some(FetchStop::NoMemory(Gpa::new(0x6000)));
    assert_eq!(instruction(&mut ram, &at), some(3, no_memory));
    // Memory, but no translation: the fault is at the first byte that is missing.
    ram.write(0x6000, &[9]);
    ram.write_u64(0x10_3010, 0);
    assert_eq!(instruction(&mut ram, &at), some(3, page_fault(0x2000, 0)));
    ram.write_u64(0x10_3010, 0x6003 | 1 << 63);
    paging.efer |= 1 << 11;
    at.paging = paging;
    let forbidden = page_fault(0x2000, 0x11);
    assert_eq!(instruction(&mut ram, &at), some(3, forbidden));
    at.paging.user = true;
    let forbidden = page_fault(0x1ffd, 0x15);
    assert_eq!(instruction(&mut ram, &at), some(0, forbidden));
    // A table that is no memory.
    at.paging = paging;
    ram.write_u64(0x10_2000, 0xdead_b003);
    let missing = page_fault(0x1ffd, 0x10);
    assert_eq!(instruction(&mut ram, &at), some(0, missing));
}

#[test]
fn the_end_of_canonical_addresses() {
    let (mut ram, paging) = two_pages();
    // The last page below the hole, through its own tables.
    ram.write_u64(0x10_07f8, 0x10_4003);
    ram.write_u64(0x10_4ff8, 0x10_5003);
    ram.write_u64(0x10_5ff8, 0x10_6003);
    ram.write_u64(0x10_6ff8, 0x8003);
    ram.write(0x8ffe, &[1, 2]);
    let mut at = CodeLocation {
        rip: 0x7fff_ffff_fffe,
        long: true,
        paging,
        ..CodeLocation::default()
    };
    assert_eq!(instruction(&mut ram, &at), some(2, GP));
    at.rip = 0x8000_0000_0000;
    assert_eq!(instruction(&mut ram, &at), some(0, GP));
}

#[test]
fn the_code_segment_ends() {
    let mut ram = Ram::default();
    ram.write(0x1_fff0, &code());
    for limit in 0..15 {
        let at = CodeLocation {
            rip: 0xfff0,
            cs_base: 0x1_0000,
            cs_limit: 0xfff0 + limit,
            ..CodeLocation::default()
        };
        let (len, end) = match limit {
            14 => (15, None),
            limit => (limit as usize + 1, GP),
        };
        assert_eq!(instruction(&mut ram, &at), some(len, end), "{limit}");
    }
    let mut at = CodeLocation {
        rip: 0xfff0,
        cs_base: 0x1_0000,
        cs_limit: 0xffef,
        ..CodeLocation::default()
    };
    assert_eq!(instruction(&mut ram, &at), some(0, GP));
    at.long = true;
    at.rip = 0x1_fff0;
    assert_eq!(instruction(&mut ram, &at), some(15, None));
}

/// Offsets of 32-bit code wrap in a segment that has them all, wherever it begins.
#[test]
fn offsets_wrap() {
    for base in [0u64, 0xff8, 0x1000_0005] {
        for before in 1..15u64 {
            let mut ram = Ram::default();
            let start = (base + 0x1_0000_0000 - before) & 0xffff_ffff;
            for (n, byte) in code().into_iter().enumerate() {
                ram.write((start + n as u64) & 0xffff_ffff, &[byte]);
            }
            let at = CodeLocation {
                rip: 0x1_0000_0000 - before,
                cs_base: base,
                cs_limit: u32::MAX,
                ..CodeLocation::default()
            };
            let got = instruction(&mut ram, &at);
            assert_eq!(got, some(15, None), "{base:#x} {before}");
        }
    }
}
