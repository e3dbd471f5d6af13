// SPDX-License-Identifier: GPL-2.0

//! Processor modes and the register state that puts a vCPU into each.

use crate::paging;
use kvm_bindings::{kvm_segment, kvm_sregs};

const CR0_PE: u64 = 1 << 0;
const CR0_MP: u64 = 1 << 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// Selector of the code segment in [`gdt`](Mode::gdt).
const CODE_SELECTOR: u16 = 0x08;
/// Selector of the data segment in [`gdt`](Mode::gdt).
const DATA_SELECTOR: u16 = 0x10;

const TYPE_CODE: u8 = 11;
const TYPE_DATA: u8 = 3;

/// A processor mode with flat segments and linear = physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Real-address mode, all segment bases 0.
    Real,
    /// Protected mode without paging.
    Protected,
    /// Protected mode with 32-bit paging, 4-MiB pages.
    Paged32,
    /// Protected mode with PAE paging, 2-MiB pages.
    Pae,
    /// 64-bit mode with 4-level paging, 2-MiB pages.
    Long,
}

impl Mode {
    /// All modes.
    pub const ALL: [Self; 5] = [
        Self::Real,
        Self::Protected,
        Self::Paged32,
        Self::Pae,
        Self::Long,
    ];

    /// Default operand and address size of code, in bits.
    pub const fn bitness(self) -> u32 {
        match self {
            Self::Real => 16,
            Self::Protected | Self::Paged32 | Self::Pae => 32,
            Self::Long => 64,
        }
    }

    /// The page tables of the mode, to be written to `base`; they map the
    /// lowest 4 GiB. Empty without paging.
    pub fn tables(self, base: u64) -> Vec<u8> {
        match self {
            Self::Real | Self::Protected => Vec::new(),
            Self::Paged32 => paging::legacy(),
            Self::Pae => paging::pae(base),
            Self::Long => paging::four_level(base),
        }
    }

    /// A GDT with a flat code and a flat data segment, for programs that load
    /// segment registers or take interrupts.
    pub fn gdt(self) -> Vec<u8> {
        let code: u64 = match self {
            Self::Long => 0x00af_9b00_0000_ffff,
            _ => 0x00cf_9b00_0000_ffff,
        };
        [0, code, 0x00cf_9300_0000_ffff]
            .iter()
            .flat_map(|d| d.to_le_bytes())
            .collect()
    }

    /// Changes the registers of a new vCPU to this mode, with page tables at
    /// `tables` and a GDT at `gdt`. There is no IDT: an exception of the guest
    /// becomes a triple fault.
    pub fn enter(self, sregs: &mut kvm_sregs, tables: u64, gdt: u64) {
        self.enter_segments(sregs);
        if self == Self::Real {
            return;
        }
        sregs.gdt.base = gdt;
        sregs.gdt.limit = 23;
        sregs.idt.limit = 0;
        sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE;
        sregs.cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT;
        match self {
            Self::Real | Self::Protected => return,
            Self::Paged32 => sregs.cr4 |= CR4_PSE,
            Self::Pae => sregs.cr4 |= CR4_PAE,
            Self::Long => {
                sregs.cr4 |= CR4_PAE;
                sregs.efer |= EFER_LME | EFER_LMA;
            }
        }
        sregs.cr0 |= CR0_WP | CR0_PG;
        sregs.cr3 = tables;
    }

    fn enter_segments(self, sregs: &mut kvm_sregs) {
        if self == Self::Real {
            // After reset the code segment is at 0xffff0000.
            sregs.cs.base = 0;
            sregs.cs.selector = 0;
            return;
        }
        sregs.cs = self.flat(CODE_SELECTOR, TYPE_CODE);
        let data = self.flat(DATA_SELECTOR, TYPE_DATA);
        sregs.ds = data;
        sregs.es = data;
        sregs.fs = data;
        sregs.gs = data;
        sregs.ss = data;
    }

    fn flat(self, selector: u16, type_: u8) -> kvm_segment {
        let long_code = self == Self::Long && type_ == TYPE_CODE;
        kvm_segment {
            base: 0,
            limit: u32::MAX,
            selector,
            type_,
            present: 1,
            dpl: 0,
            db: u8::from(!long_code),
            s: 1,
            l: u8::from(long_code),
            g: 1,
            ..Default::default()
        }
    }
}

#[cfg(test)]
#[path = "../tests/unit/mode.rs"]
mod tests;
