// SPDX-License-Identifier: GPL-2.0

use super::*;

const BASE: u64 = 0x10000;

fn entry(tables: &[u8], address: u64) -> u64 {
    let at = (address - BASE) as usize;
    u64::from_le_bytes(tables[at..at + 8].try_into().unwrap())
}

/// Walks `levels` of 9 bits each from the table at `table`.
fn walk(tables: &[u8], table: u64, linear: u64, levels: &[u32]) -> u64 {
    let mut table = table;
    for &shift in levels {
        let value = entry(tables, table + ((linear >> shift) & 511) * 8);
        assert_eq!(value & PRESENT, PRESENT);
        if value & LARGE != 0 {
            assert_eq!(shift, 21);
            return (value & !0x1f_ffff) | (linear & 0x1f_ffff);
        }
        table = value & !0xfff;
    }
    panic!("no leaf for {linear:#x}");
}

fn samples() -> impl Iterator<Item = u64> {
    (0..32)
        .map(|n| (1_u64 << n) | 0x123)
        .chain([0, 0x001f_ffff, 0x0020_0000, 0xffff_ffff])
}

#[test]
fn four_level_maps_linear_to_the_same_physical() {
    let tables = four_level(BASE);
    for linear in samples() {
        assert_eq!(walk(&tables, BASE, linear, &[39, 30, 21]), linear);
    }
    assert_eq!(entry(&tables, BASE + 8), 0, "only one PML4 entry");
    assert_eq!(
        entry(&tables, BASE + PAGE_SIZE + 32),
        0,
        "only four PDPT entries"
    );
}

#[test]
fn pae_maps_linear_to_the_same_physical() {
    let tables = pae(BASE);
    for linear in samples() {
        assert_eq!(walk(&tables, BASE, linear, &[30, 21]), linear);
    }
}

#[test]
fn pae_top_entries_have_no_reserved_bits() {
    for n in 0..4 {
        assert_eq!(entry(&pae(BASE), BASE + n * 8) & 0x1e6, 0);
    }
}

#[test]
fn legacy_maps_linear_to_the_same_physical() {
    let table = legacy();
    assert_eq!(table.len(), 4096);
    for linear in samples() {
        let at = (linear >> 22) as usize * 4;
        let value = u64::from(u32::from_le_bytes(table[at..at + 4].try_into().unwrap()));
        assert_eq!(value & 0xfff, LEAF);
        assert_eq!((value & !0x3f_ffff) | (linear & 0x3f_ffff), linear);
    }
}
