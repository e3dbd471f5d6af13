// SPDX-License-Identifier: GPL-2.0

//! A page walk for comparison, written from the manual (SDM 3A 4.3 to 4.7) and in
//! another way than the one under test: each mode is a list of shifts.

use emulate::paging::{Access, Paging};

/// What the manual says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The guest-physical address.
    Address(u64),
    /// The error code of a page fault.
    PageFault(u32),
    /// #GP or #SS.
    NotCanonical,
    /// A table is not in memory.
    NoTable(u64),
}

/// Walks; `read` takes an address and a length.
pub fn walk(
    paging: &Paging,
    linear: u64,
    access: Access,
    read: &mut dyn FnMut(u64, usize) -> Option<u64>,
) -> Answer {
    let has = |register: u64, bit: u32| register >> bit & 1 == 1;
    let (pae, long, la57) = (
        has(paging.cr4, 5),
        has(paging.efer, 10),
        has(paging.cr4, 12),
    );
    if !has(paging.cr0, 31) {
        return Answer::Address(linear & 0xffff_ffff);
    }
    let user_access = paging.user && !access.system;
    let nxe = has(paging.efer, 11);
    let fetch_flag = access.fetch && (pae && nxe || has(paging.cr4, 20));
    let fault = |present: bool, reserved: bool, key: bool| {
        let flags = [
            present,
            access.write,
            user_access,
            reserved,
            fetch_flag,
            key,
        ];
        Answer::PageFault((0..6).map(|n| u32::from(flags[n]) << n).sum())
    };
    let shifts: &[u32] = match (long, pae, la57) {
        (_, false, _) => &[22, 12],
        (false, true, _) => &[21, 12],
        (true, true, false) => &[39, 30, 21, 12],
        (true, true, true) => &[48, 39, 30, 21, 12],
    };
    let long = long && pae;
    let top = shifts[0] + 9;
    if long && (linear as i64) << (64 - top) >> (64 - top) != linear as i64 {
        return Answer::NotCanonical;
    }
    let linear = if long { linear } else { linear & 0xffff_ffff };
    let size = if pae { 8 } else { 4 };
    let mut table = paging.cr3;
    if pae && !long {
        table = paging.pdptes[(linear >> 30) as usize];
        if !has(table, 0) {
            return fault(false, false, false);
        }
    }
    let mut entries = Vec::new();
    for shift in shifts {
        let index_bits = if pae { 9 } else { 10 };
        let index = linear >> shift & ((1 << index_bits) - 1);
        let limit = if pae { 1 << 52 } else { 1 << 32 };
        let at = table % limit / 4096 * 4096 + index * size as u64;
        let Some(entry) = read(at, size) else {
            return Answer::NoTable(at);
        };
        if !has(entry, 0) {
            return fault(false, false, false);
        }
        let large_bit = has(entry, 7) && *shift != 12;
        let large = large_bit
            && match shift {
                22 => has(paging.cr4, 4),
                21 | 30 => true,
                _ => false,
            };
        if reserved_bit(paging, entry, *shift, large, pae, long, nxe) {
            return fault(true, true, false);
        }
        entries.push(entry);
        table = entry;
        if !large && *shift != 12 {
            continue;
        }
        let offset = linear % (1 << shift);
        let mut frame = entry % limit >> shift << shift;
        if *shift == 22 {
            frame += (entry >> 13 & 0xff) << 32;
        }
        return match permitted(paging, &entries, access, user_access, long) {
            (true, _) => Answer::Address(frame + offset),
            (false, key) => fault(true, false, key),
        };
    }
    unreachable!("the last shift is 12")
}

fn reserved_bit(
    paging: &Paging,
    entry: u64,
    shift: u32,
    large: bool,
    pae: bool,
    long: bool,
    nxe: bool,
) -> bool {
    (0..64).filter(|bit| entry >> bit & 1 == 1).any(|bit| {
        let missing = |bit: u32| paging.reserved_address >> bit & 1 == 1;
        match bit {
            // 4-MByte pages: an address in two parts.
            21 if large && !pae => true,
            13..=20 if large && !pae => missing(bit + 19),
            _ if !pae => false,
            // The offset in a large page, but for the PAT bit.
            13.. if large && bit < shift => true,
            7 if shift >= 39 => true,
            12..=51 => missing(bit),
            52..=62 => !long,
            63 => !nxe,
            _ => false,
        }
    })
}

/// Whether access is permitted, and if not whether the key forbids it.
fn permitted(
    paging: &Paging,
    entries: &[u64],
    access: Access,
    user_access: bool,
    long: bool,
) -> (bool, bool) {
    let all = |bit: u32| entries.iter().all(|entry| entry >> bit & 1 == 1);
    let (writable, user_page) = (all(1), all(2));
    let execute = !entries.iter().any(|entry| entry >> 63 == 1);
    let cr4 = |bit: u32| paging.cr4 >> bit & 1 == 1;
    let wp = paging.cr0 >> 16 & 1 == 1;
    let key = (entries[entries.len() - 1] >> 59 & 15) as u32;
    let (disabled, read_only) = (
        paging.pkru >> (2 * key) & 1 == 1,
        paging.pkru >> (2 * key + 1) & 1 == 1,
    );
    let must_be_writable = access.write && (user_access || wp);
    let data = !access.fetch;
    let by_key =
        long && cr4(22) && user_page && data && (disabled || must_be_writable && read_only);
    let smap = !user_access && user_page && data && cr4(21) && (access.system || !paging.ac);
    let smep = !user_access && user_page && access.fetch && cr4(20);
    let refused = user_access && !user_page
        || must_be_writable && !writable
        || access.fetch && !execute
        || smap
        || smep
        || by_key;
    (!refused, by_key)
}
