// SPDX-License-Identifier: GPL-2.0

//! Page tables that map linear addresses to the same physical ones, with the
//! largest page of each paging mode that all its processors have (SDM 3A 4.3,
//! 4.4 and 4.5).
//!
//! ```text
//!   32-bit  CR3 ─► PD ─► 4 MiB
//!   PAE     CR3 ─► 4 PDPTEs ─► 4 PDs ─► 2 MiB
//!   4-level CR3 ─► PML4 ─► PDPT ─► PDs ─► 2 MiB
//! ```
//! Accessed and dirty flags are clear: setting them is the processor's work,
//! and part of what guests test.

use crate::PAGE_SIZE;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
const BRANCH: u64 = PRESENT | WRITABLE;
const LEAF: u64 = PRESENT | WRITABLE | LARGE;

const SIZE_2M: u64 = 2 << 20;
const SIZE_4M: u64 = 4 << 20;

/// `count` entries of 8 bytes that point to `first`, `first + step`, ...
fn entries(first: u64, step: u64, count: u64, flags: u64) -> impl Iterator<Item = u8> {
    (0..count).flat_map(move |n| ((first + n * step) | flags).to_le_bytes())
}

fn pad_to_page(table: &mut Vec<u8>) {
    table.resize(table.len().next_multiple_of(PAGE_SIZE as usize), 0);
}

/// The lowest 4 GiB with 32-bit paging, at any CR3 (needs CR4.PSE).
pub(crate) fn legacy() -> Vec<u8> {
    (0..1024_u64)
        .flat_map(|n| (((n * SIZE_4M) | LEAF) as u32).to_le_bytes())
        .collect()
}

/// The lowest 4 GiB with PAE paging, for CR3 = `base`.
pub(crate) fn pae(base: u64) -> Vec<u8> {
    // Bits 1 and 2 of a PDPTE are reserved: only P may be set.
    let mut tables: Vec<u8> = entries(base + PAGE_SIZE, PAGE_SIZE, 4, PRESENT).collect();
    pad_to_page(&mut tables);
    tables.extend(entries(0, SIZE_2M, 4 * 512, LEAF));
    tables
}

/// The lowest 4 GiB with 4-level paging, for CR3 = `base`.
pub(crate) fn four_level(base: u64) -> Vec<u8> {
    let mut tables: Vec<u8> = entries(base + PAGE_SIZE, 0, 1, BRANCH).collect();
    pad_to_page(&mut tables);
    tables.extend(entries(base + 2 * PAGE_SIZE, PAGE_SIZE, 4, BRANCH));
    pad_to_page(&mut tables);
    tables.extend(entries(0, SIZE_2M, 4 * 512, LEAF));
    tables
}

#[cfg(test)]
#[path = "../tests/unit/paging.rs"]
mod tests;
