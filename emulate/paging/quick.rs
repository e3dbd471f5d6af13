// SPDX-License-Identifier: GPL-2.0

//! The walk that nearly all accesses need: four levels, 4-KiB or 2-MiB page, all flags
//! set already and no right in doubt. Whatever is unusual is left to the full walk, which
//! gives the same answer where this one gives any.

use ept::{Gpa, Gva};

use super::format::{ACCESSED, ADDRESS, DIRTY, LARGE, NO_EXECUTE, PRESENT, USER, WRITABLE};
use super::{Access, Paging, CR4_LA57, CR4_PAE, CR4_PKE, CR4_SMAP, CR4_SMEP};
use super::{CR0_PG, EFER_LMA, EFER_NXE};
use crate::GuestPhys;

/// Address bits of a 2-MiB page that must be 0; bit 12 is its PAT.
const LARGE_RESERVED: u64 = 0x1f_e000;

impl Paging {
    /// Translates a linear address; `None` where the full walk has to.
    pub(super) fn quick(
        &self,
        memory: &mut (impl GuestPhys + ?Sized),
        gva: Gva,
        access: Access,
    ) -> Option<Gpa> {
        let usual = self.cr0 & CR0_PG != 0
            && self.cr4 & (CR4_PAE | CR4_LA57 | CR4_PKE) == CR4_PAE
            && self.efer & EFER_LMA != 0;
        let linear = gva.get();
        if !usual || !self.canonical(linear) {
            return None;
        }
        let mut table = self.cr3 & ADDRESS;
        let (mut every, mut any) = (u64::MAX, 0);
        for shift in [39, 30] {
            let entry = read(memory, table, linear >> shift)?;
            (every, any) = (every & entry, any | entry);
            table = entry & ADDRESS;
        }
        let directory = read(memory, table, linear >> 21)?;
        let upper = any & LARGE != 0;
        (every, any) = (every & directory, any | directory);
        let (leaf, offset) = match directory & LARGE {
            0 => (read(memory, directory & ADDRESS, linear >> 12)?, 0xfff),
            _ if directory & LARGE_RESERVED != 0 => return None,
            _ => (directory, 0x1f_ffff),
        };
        (every, any) = (every & leaf, any | leaf);
        let marked = access.write <= (leaf & DIRTY != 0);
        if upper || !marked || !self.plain(every, any, access) {
            return None;
        }
        Some(Gpa::new(leaf & ADDRESS & !offset | linear & offset))
    }

    /// Whether entries, of which `every` has all bits that are in each of them and `any`
    /// those that are in one, allow the access without a closer look.
    #[inline]
    fn plain(&self, every: u64, any: u64, access: Access) -> bool {
        let mut wanted = PRESENT | ACCESSED;
        let mut unwanted = self.reserved_address & ADDRESS;
        if access.write {
            wanted |= WRITABLE;
        }
        // Without NXE the bit is reserved.
        if access.fetch || self.efer & EFER_NXE == 0 {
            unwanted |= NO_EXECUTE;
        }
        if self.user(access) {
            wanted |= USER;
        } else if self.cr4 & (CR4_SMEP | CR4_SMAP) != 0 {
            // Supervisor pages alone: one entry that says so would do.
            unwanted |= USER;
        }
        every & wanted == wanted && any & unwanted == 0
    }
}

fn read(memory: &mut (impl GuestPhys + ?Sized), table: u64, index: u64) -> Option<u64> {
    memory.read_u64(Gpa::new(table | (index & 511) << 3))
}
