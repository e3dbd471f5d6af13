// SPDX-License-Identifier: GPL-2.0

use super::format::{NO_EXECUTE, USER, WRITABLE};
use super::*;
use crate::memory::Ram;

const FOUR_LEVEL: Paging = Paging {
    cr0: CR0_PG | 1,
    cr3: 0x1000,
    cr4: CR4_PAE,
    efer: EFER_LMA | EFER_NXE | 0x100,
    pdptes: [0; 4],
    user: false,
    ac: false,
    pkru: 0,
    reserved_address: 0,
};
const GVA: u64 = 0xffff_8123_4567_89ab;

/// Tables at 0x1000, 0x2000, 0x3000, 0x4000 for GVA, all with `flags`.
fn four_level(flags: u64, leaf: u64) -> Ram {
    let mut ram = Ram::default();
    for (n, shift) in [39, 30, 21].into_iter().enumerate() {
        let table = 0x1000 * (n as u64 + 1);
        ram.write_u64(table + (GVA >> shift & 511) * 8, (table + 0x1000) | flags);
    }
    ram.write_u64(0x4000 + (GVA >> 12 & 511) * 8, leaf);
    ram
}

fn walk(paging: &Paging, ram: &mut Ram, gva: u64, access: Access) -> Result<u64, Fault> {
    let gpa = paging.translate(ram, Gva::new(gva), access);
    gpa.map(Gpa::get)
}

#[test]
fn without_paging_addresses_have_32_bits() {
    let mut ram = Ram::default();
    let off = Paging::default();
    assert_eq!(
        walk(&off, &mut ram, 0x1_2345_6789, Access::WRITE),
        Ok(0x2345_6789)
    );
}

#[test]
fn four_levels() {
    let mut ram = four_level(7, 0x7_8000_5000 | 7);
    assert_eq!(
        walk(&FOUR_LEVEL, &mut ram, GVA, Access::READ),
        Ok(0x7_8000_59ab)
    );
    let elsewhere = GVA + 0x1000;
    assert_eq!(
        walk(&FOUR_LEVEL, &mut ram, elsewhere, Access::READ),
        Err(Fault::Page(0))
    );
    let odd = 0x0000_8000_0000_0000;
    assert_eq!(
        walk(&FOUR_LEVEL, &mut ram, odd, Access::READ),
        Err(Fault::NonCanonical)
    );
    let mut lost = FOUR_LEVEL;
    lost.cr3 = 0x9000;
    let at = Gpa::new(0x9000 + (GVA >> 39 & 511) * 8);
    assert_eq!(
        walk(&lost, &mut ram, GVA, Access::READ),
        Err(Fault::NoTable(at))
    );
}

#[test]
fn large_pages_of_four_levels() {
    let mut ram = four_level(7, 0);
    ram.write_u64(0x3000 + (GVA >> 21 & 511) * 8, 0x4_0020_0000 | 0x87);
    let want = 0x4_0020_0000 | GVA & 0x1f_ffff;
    assert_eq!(walk(&FOUR_LEVEL, &mut ram, GVA, Access::READ), Ok(want));
    ram.write_u64(0x3000 + (GVA >> 21 & 511) * 8, 0x4_0020_2000 | 0x87);
    assert_eq!(
        walk(&FOUR_LEVEL, &mut ram, GVA, Access::READ),
        Err(Fault::Page(9))
    );
    // Bit 12 is PAT, not reserved.
    ram.write_u64(0x3000 + (GVA >> 21 & 511) * 8, 0x4_0020_1000 | 0x87);
    assert_eq!(walk(&FOUR_LEVEL, &mut ram, GVA, Access::READ), Ok(want));
    ram.write_u64(0x2000 + (GVA >> 30 & 511) * 8, 0x80_4000_0000 | 0x87);
    let want = 0x80_4000_0000 | GVA & 0x3fff_ffff;
    assert_eq!(walk(&FOUR_LEVEL, &mut ram, GVA, Access::READ), Ok(want));
    ram.write_u64(0x1000 + (GVA >> 39 & 511) * 8, 0x2000 | 0x87);
    assert_eq!(
        walk(&FOUR_LEVEL, &mut ram, GVA, Access::READ),
        Err(Fault::Page(9))
    );
}

#[test]
fn no_execute_is_reserved_without_nxe() {
    let mut ram = four_level(7, 0x5007 | NO_EXECUTE);
    let mut paging = FOUR_LEVEL;
    assert!(walk(&paging, &mut ram, GVA, Access::READ).is_ok());
    paging.efer &= !EFER_NXE;
    assert_eq!(
        walk(&paging, &mut ram, GVA, Access::READ),
        Err(Fault::Page(9))
    );
}

#[test]
fn two_levels() {
    let mut ram = Ram::default();
    let mut paging = Paging {
        cr0: CR0_PG | 1,
        cr3: 0x1fff,
        ..Paging::default()
    };
    ram.write_u32(0x1000 + 0x48 * 4, 0x2007);
    ram.write_u32(0x2000 + 0x345 * 4, 0xabcd_e007);
    assert_eq!(
        walk(&paging, &mut ram, 0x1234_5678, Access::WRITE),
        Ok(0xabcd_e678)
    );
    // The upper half of a linear address does not exist.
    assert_eq!(
        walk(&paging, &mut ram, 0xf_1234_5678, Access::WRITE),
        Ok(0xabcd_e678)
    );
    // A 4-MByte page above 4 GBytes, with and without CR4.PSE.
    ram.write_u32(0x1000 + 0x48 * 4, 0x8040_0087 | 5 << 13);
    assert!(walk(&paging, &mut ram, 0x1234_5678, Access::READ).is_err());
    paging.cr4 = CR4_PSE;
    let want = 5 << 32 | 0x8040_0000 | 0x34_5678;
    assert_eq!(walk(&paging, &mut ram, 0x1234_5678, Access::READ), Ok(want));
    ram.write_u32(0x1000 + 0x48 * 4, 0x8060_0087);
    assert_eq!(
        walk(&paging, &mut ram, 0x1234_5678, Access::READ),
        Err(Fault::Page(9))
    );
}

#[test]
fn pae() {
    let mut ram = Ram::default();
    let paging = Paging {
        cr0: CR0_PG | 1,
        cr4: CR4_PAE,
        pdptes: [0, 0x1001, 0, 0],
        ..Paging::default()
    };
    // 0x52345678: PDPTE 1, PDE 0x91, PTE 0x145.
    ram.write_u64(0x1000 + 0x91 * 8, 0x2007);
    ram.write_u64(0x2000 + 0x145 * 8, 0x3_0000_7007);
    assert_eq!(
        walk(&paging, &mut ram, 0x5234_5678, Access::WRITE),
        Ok(0x3_0000_7678)
    );
    assert_eq!(
        walk(&paging, &mut ram, 0x1234_5678, Access::WRITE),
        Err(Fault::Page(2))
    );
    ram.write_u64(0x1000 + 0x91 * 8, 0x3_0060_0087);
    let want = 0x3_0060_0000 | 0x14_5678;
    assert_eq!(
        walk(&paging, &mut ram, 0x5234_5678, Access::WRITE),
        Ok(want)
    );
    ram.write_u64(0x1000 + 0x91 * 8, 0x3_0060_0087 | 1 << 52);
    assert_eq!(
        walk(&paging, &mut ram, 0x5234_5678, Access::READ),
        Err(Fault::Page(9))
    );
}

/// SDM 3A 4.6.1, written down rule by rule.
fn allowed(paging: &Paging, user_page: bool, writable: bool, nx: bool, access: Access) -> bool {
    let mut paging = *paging;
    if access.system {
        paging.user = false;
        paging.ac = false;
    }
    let wp = paging.cr0 & CR0_WP != 0;
    let smep = paging.cr4 & CR4_SMEP != 0;
    let smap = paging.cr4 & CR4_SMAP != 0;
    match (paging.user, user_page) {
        (true, false) => false,
        (true, true) if access.fetch => !nx,
        (true, true) if access.write => writable,
        (true, true) => true,
        (false, true) if access.fetch => !smep && !nx,
        (false, true) if access.write && smap => paging.ac && (!wp || writable),
        (false, true) if access.write => !wp || writable,
        (false, true) => !smap || paging.ac,
        (false, false) if access.fetch => !nx,
        (false, false) if access.write => !wp || writable,
        (false, false) => true,
    }
}

/// All combinations of rights, registers and accesses, with each right taken
/// away at each level in turn.
#[test]
fn access_rights() {
    for bits in 0..1u32 << 9 {
        let bit = |n: u32| bits >> n & 1 == 1;
        let mut paging = FOUR_LEVEL;
        paging.user = bit(0);
        paging.ac = bit(7);
        paging.cr0 |= if bit(1) { CR0_WP } else { 0 };
        paging.cr4 |= if bit(2) { CR4_SMEP } else { 0 };
        paging.cr4 |= if bit(3) { CR4_SMAP } else { 0 };
        let (user_page, writable, nx) = (bit(4), bit(5), bit(6));
        for (write, fetch, system) in [
            (false, false, false),
            (true, false, false),
            (false, true, false),
            (false, false, true),
            (true, false, true),
        ] {
            let access = Access {
                write,
                fetch,
                system,
            };
            let mut weak = 1;
            weak |= if user_page { USER } else { 0 };
            weak |= if writable { WRITABLE } else { 0 };
            weak |= if nx { NO_EXECUTE } else { 0 };
            // The restriction sits in the leaf or in the top table.
            let mut ram = four_level(7, 0x5000 | 7);
            if bit(8) {
                ram.write_u64(0x1000 + (GVA >> 39 & 511) * 8, 0x2000 | weak);
            } else {
                ram.write_u64(0x4000 + (GVA >> 12 & 511) * 8, 0x5000 | weak);
            }
            let got = walk(&paging, &mut ram, GVA, access);
            if allowed(&paging, user_page, writable, nx, access) {
                assert_eq!(got, Ok(0x59ab), "{bits:#b} {access:?}");
            } else {
                let user = paging.user && !system;
                let code = 1 | u32::from(write) << 1 | u32::from(user) << 2 | u32::from(fetch) << 4;
                assert_eq!(got, Err(Fault::Page(code)), "{bits:#b} {access:?}");
            }
        }
    }
}

#[test]
fn fetch_flag_of_the_error_code() {
    for (efer, cr4, flag) in [
        (EFER_LMA | EFER_NXE, CR4_PAE, 1 << 4),
        (EFER_LMA, CR4_PAE, 0),
        (EFER_LMA, CR4_PAE | CR4_SMEP, 1 << 4),
        (EFER_NXE, 0, 0),
    ] {
        let paging = Paging {
            efer,
            cr4,
            ..FOUR_LEVEL
        };
        let mut ram = Ram::default();
        ram.write_u64(0x1000, 0);
        assert_eq!(
            walk(&paging, &mut ram, 0, Access::FETCH),
            Err(Fault::Page(flag))
        );
    }
}

/// SDM 3A 4.6.2: all keys, rights of a key, registers, accesses and pages.
#[test]
fn protection_keys() {
    for bits in 0..1u32 << 8 {
        let bit = |n: u32| bits >> n & 1 == 1;
        let (ad, wd, user, wp, pke) = (bit(0), bit(1), bit(2), bit(3), bit(4));
        let (user_page, writable, system) = (bit(5), bit(6), bit(7));
        for key in 0..16u32 {
            let mut paging = FOUR_LEVEL;
            paging.user = user;
            paging.cr0 |= if wp { CR0_WP } else { 0 };
            paging.cr4 |= if pke { CR4_PKE } else { 0 };
            // All other keys forbid the opposite.
            let rights = u32::from(ad) | u32::from(wd) << 1;
            let others = (rights ^ 3) * 0x5555_5555;
            paging.pkru = others & !(3 << (2 * key)) | rights << (2 * key);
            let mut leaf = 0x5001 | u64::from(key) << 59;
            leaf |= if user_page { USER } else { 0 };
            leaf |= if writable { WRITABLE } else { 0 };
            let mut ram = four_level(7, leaf);
            for (write, fetch) in [(false, false), (true, false), (false, true)] {
                let system = system && !fetch;
                let access = Access {
                    write,
                    fetch,
                    system,
                };
                let user = user && !system;
                let by_key = pke && user_page && !fetch && (ad || write && wd && (user || wp));
                let got = walk(&paging, &mut ram, GVA, access);
                if allowed(&paging, user_page, writable, false, access) && !by_key {
                    assert_eq!(got, Ok(0x59ab), "{bits:#b} {key} {access:?}");
                } else {
                    let flags = [true, write, user, false, fetch, by_key];
                    let code = flags.iter().rev().fold(0, |c, f| c << 1 | u32::from(*f));
                    assert_eq!(got, Err(Fault::Page(code)), "{bits:#b} {key} {access:?}");
                }
            }
        }
    }
}

#[test]
fn only_long_mode_has_protection_keys() {
    let mut ram = Ram::default();
    let paging = Paging {
        cr0: CR0_PG | 1,
        cr4: CR4_PAE | CR4_PKE,
        pdptes: [0x1001, 0, 0, 0],
        pkru: u32::MAX,
        ..Paging::default()
    };
    ram.write_u64(0x1000, 0x2007);
    ram.write_u64(0x2000, 0x3007);
    assert_eq!(walk(&paging, &mut ram, 0x123, Access::READ), Ok(0x3123));
}

#[test]
fn five_levels() {
    let mut ram = four_level(7, 0x5007);
    let paging = Paging {
        cr3: 0x8000,
        cr4: CR4_PAE | CR4_LA57,
        ..FOUR_LEVEL
    };
    for index in [0, 1, 255, 256, 511] {
        // Bits 56:48 choose the entry, and 63:57 follow bit 56.
        let top = index << 48 | if index > 255 { 0xfe << 56 } else { 0 };
        let gva = GVA & 0xffff_ffff_ffff | top;
        ram.write_u64(0x8000 + index * 8, 0x1007);
        assert_eq!(walk(&paging, &mut ram, gva, Access::WRITE), Ok(0x59ab));
        ram.write_u64(0x8000 + index * 8, 0x1087);
        let reserved = Err(Fault::Page(9));
        assert_eq!(walk(&paging, &mut ram, gva, Access::READ), reserved);
        ram.write_u64(0x8000 + index * 8, 0);
        let missing = Err(Fault::Page(0));
        assert_eq!(walk(&paging, &mut ram, gva, Access::READ), missing);
        let odd = Err(Fault::NonCanonical);
        assert_eq!(walk(&paging, &mut ram, gva ^ 1 << 56, Access::READ), odd);
    }
    let four = Paging {
        cr4: CR4_PAE,
        ..paging
    };
    let odd = 0x0100_0000_0000_0000;
    assert!(paging.canonical(odd >> 1) && !four.canonical(odd >> 1));
    assert!(!paging.canonical(odd) && !four.canonical(odd));
}

#[test]
fn canonical_addresses() {
    for (cr4, bits) in [(0, 48), (CR4_LA57, 57)] {
        let paging = Paging { cr4, ..FOUR_LEVEL };
        let half = 1u64 << (bits - 1);
        for address in [0, half - 1, half.wrapping_neg(), u64::MAX] {
            assert!(paging.canonical(address), "{address:#x}");
        }
        for address in [half, half.wrapping_neg() - 1, 1 << 63, 1 << bits] {
            assert!(!paging.canonical(address), "{address:#x}");
        }
    }
}

#[test]
fn address_bits_that_the_processor_lacks_are_reserved() {
    assert_eq!(Paging::reserved_address(36), 0x000f_fff0_0000_0000);
    assert_eq!(Paging::reserved_address(52), 0);
    assert_eq!(Paging::reserved_address(64), 0);
    let paging = Paging {
        reserved_address: Paging::reserved_address(36),
        ..FOUR_LEVEL
    };
    let reserved = Err(Fault::Page(9));
    for bit in 30..52u64 {
        // In a leaf, a table and a large page.
        let mut ram = four_level(7, 0x5007 | 1 << bit);
        let want = if bit < 36 {
            Ok(0x59ab | 1 << bit)
        } else {
            reserved
        };
        assert_eq!(walk(&paging, &mut ram, GVA, Access::READ), want, "{bit}");
        ram.write_u64(0x2000 + (GVA >> 30 & 511) * 8, 0x87 | 1 << bit);
        let want = (GVA & 0x3fff_ffff | 1 << bit, want.is_ok());
        let want = want.1.then_some(want.0).ok_or(Fault::Page(9));
        assert_eq!(walk(&paging, &mut ram, GVA, Access::READ), want, "{bit}");
        ram.write_u64(0x1000 + (GVA >> 39 & 511) * 8, 0x2007 | 1 << bit);
        let got = walk(&paging, &mut ram, GVA, Access::READ);
        assert_eq!(got == reserved, bit >= 36, "{bit}");
    }
    // PSE-36: bits 35:32 of the address exist, 39:36 do not.
    let mut ram = Ram::default();
    let paging = Paging {
        cr0: CR0_PG | 1,
        cr3: 0x1000,
        cr4: CR4_PSE,
        efer: 0,
        ..paging
    };
    for bit in 13..21 {
        ram.write_u32(0x1000, 0x87 | 1 << bit);
        let got = walk(&paging, &mut ram, 0, Access::READ);
        let want = if bit < 17 {
            Ok(1 << (bit + 19))
        } else {
            reserved
        };
        assert_eq!(got, want, "{bit}");
    }
}

/// The processor's own accesses are a supervisor's also in their error codes.
#[test]
fn implicit_accesses_fault_as_a_supervisor() {
    let paging = Paging {
        user: true,
        ac: true,
        cr4: CR4_PAE | CR4_SMAP,
        ..FOUR_LEVEL
    };
    let system = Access {
        system: true,
        ..Access::READ
    };
    let mut ram = four_level(7, 0x5003);
    assert_eq!(walk(&paging, &mut ram, GVA, system), Ok(0x59ab));
    let user = Err(Fault::Page(5));
    assert_eq!(walk(&paging, &mut ram, GVA, Access::READ), user);
    let mut ram = four_level(7, 0x5007);
    assert_eq!(walk(&paging, &mut ram, GVA, system), Err(Fault::Page(1)));
    let mut ram = four_level(7, 0);
    assert_eq!(walk(&paging, &mut ram, GVA, system), Err(Fault::Page(0)));
    assert_eq!(paging.not_present(system), 0);
    assert_eq!(paging.not_present(Access::WRITE), 6);
}

/// Random bits of the entries and registers that matter: where the quick walk answers, the
/// full one says the same, and marks nothing.
#[test]
fn the_quick_walk_agrees_with_the_full_one() {
    let mut seed = 1u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
        seed >> 33
    };
    let mut answered = [0; 3];
    for case in 0..200_000 {
        let mut ram = Ram::default();
        // Mostly usual entries, each with a bit changed now and then.
        let mut entry = |next: u64| {
            let odd = [0, 0, 0, 1, 2, 4, 0x20, 0x40, 0x80, 1 << 63, 1 << 51, 0x2000];
            (next | 0x67) ^ odd[random() as usize % odd.len()]
        };
        for (n, shift) in [39, 30, 21].into_iter().enumerate() {
            let table = 0x1000 * (n as u64 + 1);
            ram.write_u64(table + (GVA >> shift & 511) * 8, entry(table + 0x1000));
        }
        ram.write_u64(0x4000 + (GVA >> 12 & 511) * 8, entry(0x5000));
        let mut paging = FOUR_LEVEL;
        paging.reserved_address = 1 << 51;
        let bits = random();
        let bit = |n: u32| bits >> n & 1 == 1;
        paging.user = bit(0);
        paging.ac = bit(1);
        paging.cr0 |= if bit(2) { CR0_WP } else { 0 };
        for (n, flag) in [(3, CR4_SMEP), (4, CR4_SMAP)] {
            paging.cr4 |= if bit(n) { flag } else { 0 };
        }
        paging.cr4 |= if bits & 0xe0 == 0 { CR4_PKE } else { 0 };
        paging.efer ^= if bits & 0x700 == 0 { EFER_NXE } else { 0 };
        let access = [Access::READ, Access::WRITE, Access::FETCH][case % 3];
        let gva = Gva::new(GVA);
        if let Some(gpa) = paging.quick(&mut ram, gva, access) {
            answered[case % 3] += 1;
            let mut path = Path::new();
            let full = paging.walk(&mut ram, gva, access, &mut path);
            assert_eq!(full, Ok(gpa), "case {case}: {access:?} {paging:x?}");
            assert_eq!(path.missing(access.write).count(), 0, "case {case}");
        }
    }
    assert!(answered.into_iter().all(|n| n > 1_000), "{answered:?}");
}
