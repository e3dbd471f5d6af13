// SPDX-License-Identifier: GPL-2.0

//! Page tables in the emulated guest, in each of the formats, that give the window the
//! rights which the kernel gives it natively.

use emulate::paging::Paging;
use spp::Mask;

use crate::layout::{Rights, CODE, CODE_BYTES, HIGH, LOW, MID, PAGE, RIGHTS};
use crate::model::{Ram, CODE_FRAME, PAGING_FRAME, TABLES_FRAME};

/// Linear address of the descriptor tables, for the processor alone.
pub const DESCRIPTORS: u64 = 0xfe00_0000;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const NO_EXECUTE: u64 = 1 << 63;

const CR0: u64 = 0x8005_0033;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
/// OSFXSR and OSXMMEXCPT, OSXSAVE.
const CR4_VECTOR: u64 = 3 << 9 | 1 << 18;
/// SCE, LME, LMA.
const EFER_LONG: u64 = 1 << 0 | 1 << 8 | 1 << 10;
const EFER_NXE: u64 = 1 << 11;

/// A format of page tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Two levels of 4-byte entries; 32-bit linear addresses.
    TwoLevel,
    /// Four PDPTEs and two levels; 32-bit linear addresses.
    Pae,
    /// Four levels.
    FourLevel,
    /// Five levels, not for 64-bit code: the processor has four, and this one would
    /// take more addresses for canonical.
    FiveLevel,
}

impl Format {
    const fn levels(self) -> u32 {
        match self {
            Self::TwoLevel => 2,
            Self::Pae => 3,
            Self::FourLevel => 4,
            Self::FiveLevel => 5,
        }
    }

    const fn index_bits(self) -> u32 {
        match self {
            Self::TwoLevel => 10,
            _ => 9,
        }
    }

    const fn entry_bytes(self) -> usize {
        match self {
            Self::TwoLevel => 4,
            _ => 8,
        }
    }
}

/// How the guest's memory is made.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Format of its page tables.
    pub format: Format,
    /// Accessed and dirty flags are set beforehand.
    pub marked: bool,
    /// What the window does not allow to write, a sub-page map forbids, not the page
    /// tables: that a page is denied must be seen where a fault would be.
    pub denied: bool,
}

/// Makes the page tables and the sub-page maps, and returns the registers for them.
pub fn build(ram: &mut Ram, plan: &Plan) -> Paging {
    let mut builder = Builder {
        ram,
        plan,
        next: PAGING_FRAME,
    };
    let top = builder.allocate();
    let bases: &[u64] = match plan.format {
        Format::FourLevel => &[LOW, MID, HIGH],
        _ => &[LOW, MID],
    };
    for base in bases {
        builder.window(top, *base);
    }
    for n in 0..CODE_BYTES as u64 / PAGE {
        builder.map(top, CODE + n * PAGE, CODE_FRAME + n, USER);
    }
    builder.map(top, DESCRIPTORS, TABLES_FRAME, WRITABLE | NO_EXECUTE);
    paging(ram, plan.format, top)
}

fn paging(ram: &mut Ram, format: Format, top: u64) -> Paging {
    let mut paging = Paging {
        cr0: CR0,
        cr3: top * PAGE,
        cr4: CR4_PAE | CR4_VECTOR,
        efer: EFER_NXE,
        user: true,
        ..Paging::default()
    };
    match format {
        Format::TwoLevel => paging.cr4 &= !CR4_PAE,
        Format::Pae => {
            for (n, pdpte) in paging.pdptes.iter_mut().enumerate() {
                *pdpte = read(ram, top, n, 8);
            }
        }
        Format::FourLevel => paging.efer |= EFER_LONG,
        Format::FiveLevel => {
            paging.efer |= EFER_LONG;
            paging.cr4 |= CR4_LA57;
        }
    }
    paging
}

struct Builder<'a> {
    ram: &'a mut Ram,
    plan: &'a Plan,
    next: u64,
}

impl Builder<'_> {
    fn allocate(&mut self) -> u64 {
        let frame = self.next;
        self.next += 1;
        self.ram.frame(frame).fill(0);
        frame
    }

    fn window(&mut self, top: u64, base: u64) {
        for (n, rights) in RIGHTS.into_iter().enumerate() {
            let denied = rights == Rights::Read && self.plan.denied;
            self.ram
                .set_map(n, if denied { Mask::NONE } else { Mask::ALL });
            let flags = match rights {
                Rights::None => continue,
                Rights::Read if !denied => USER | NO_EXECUTE,
                _ => USER | WRITABLE | NO_EXECUTE,
            };
            self.map(top, base + n as u64 * PAGE, n as u64, flags);
        }
    }

    /// Maps one page.
    fn map(&mut self, top: u64, linear: u64, frame: u64, flags: u64) {
        let format = self.plan.format;
        let mut table = top;
        for level in (1..=format.levels()).rev() {
            let shift = 12 + (level - 1) * format.index_bits();
            let index = (linear >> shift) as usize & ((1 << format.index_bits()) - 1);
            if level == 1 {
                let entry = frame * PAGE | flags | PRESENT | self.marks(flags);
                return self.write(table, index, entry);
            }
            let entry = read(self.ram, table, index, format.entry_bytes());
            table = match entry & PRESENT {
                0 => self.link(table, index, level),
                _ => (entry & !NO_EXECUTE) / PAGE,
            };
        }
    }

    /// A new table, below an entry of another.
    fn link(&mut self, table: u64, index: usize, level: u32) -> u64 {
        let frame = self.allocate();
        let flags = match (self.plan.format, level) {
            // A PDPTE has no rights (SDM 3A 4.4.1).
            (Format::Pae, 3) => PRESENT,
            _ => PRESENT | WRITABLE | USER | self.marks(0),
        };
        self.write(table, index, frame * PAGE | flags);
        frame
    }

    const fn marks(&self, flags: u64) -> u64 {
        match (self.plan.marked, flags & WRITABLE != 0) {
            (true, true) => ACCESSED | DIRTY,
            (true, false) => ACCESSED,
            (false, _) => 0,
        }
    }

    fn write(&mut self, table: u64, index: usize, entry: u64) {
        let len = self.plan.format.entry_bytes();
        let bytes = &entry.to_le_bytes()[..len];
        self.ram.frame(table)[index * len..][..len].copy_from_slice(bytes);
    }
}

fn read(ram: &mut Ram, table: u64, index: usize, len: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes[..len].copy_from_slice(&ram.frame(table)[index * len..][..len]);
    u64::from_le_bytes(bytes)
}
