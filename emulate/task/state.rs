// SPDX-License-Identifier: GPL-2.0

//! Task-state segments (SDM 3A 7.2.1 and 7.6).
//!
//! ```text
//!   32-bit                                16-bit
//!    0 link        28 EAX .. EDI  saved    0 link        12 AX .. DI  saved
//!   1c CR3         48 ES .. GS    saved    e IP   saved  22 ES .. DS  saved
//!   20 EIP  saved  60 LDT                 10 FLAGS saved 2a LDT
//!   24 EFLAGS saved  64 T
//! ```
//!
//! Selectors are saved as words: the other half of their slots belongs to nobody.

use ept::{Gpa, Gva};

use super::old::Old;
use super::{is_wide, Reason, Switch};
use crate::cpu::rflags;
use crate::descriptor::{system, Descriptor};
use crate::guard::Guest;
use crate::op::Op;
use crate::paging::Paging;
use crate::stop::{Exception, Stop};

const CR0_TS: u64 = 1 << 3;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
/// The flags that exist, with bit 1, which is always set.
const FLAGS: u32 = 0x003f_7fd7;
/// Bytes of a 32-bit TSS that matter here.
const SIZE: usize = 104;

/// The last byte that a TSS must have.
pub(super) const fn last(wide: bool) -> u32 {
    if wide {
        SIZE as u32 - 1
    } else {
        43
    }
}

/// Which part of a TSS the state of a task is saved in: offset, length, and the bytes
/// that are written.
pub(super) const fn saved(wide: bool) -> (u64, u16, u64) {
    if wide {
        // Ten registers, and the lower halves of six.
        (0x20, 64, 0x3333_33ff_ffff_ffff)
    } else {
        (0x0e, 28, u64::MAX)
    }
}

/// The state of a task as it goes to its TSS.
pub(super) struct Image {
    bytes: [u8; 64],
    wide: bool,
}

impl Image {
    /// The registers of the old task.
    #[inline(never)]
    pub(super) fn new(old: &Old, switch: &Switch) -> Self {
        let wide = is_wide(old.tr.attributes as u8);
        let flags = match switch.reason {
            Reason::Iret => old.rflags & !rflags::NT,
            _ => old.rflags,
        };
        let mut bytes = [0; 64];
        let registers = [switch.next_rip, flags];
        let registers = registers.into_iter().chain(old.gprs);
        let selectors = old.segments.iter().map(|s| u64::from(s.selector));
        let slots = bytes.chunks_exact_mut(if wide { 4 } else { 2 });
        // A 16-bit TSS has no FS and GS.
        let slots = slots.take(if wide { 16 } else { 14 });
        for (slot, value) in slots.zip(registers.chain(selectors)) {
            for (to, from) in slot.iter_mut().zip(value.to_le_bytes()) {
                *to = from;
            }
        }
        Self { bytes, wide }
    }

    pub(super) const fn is_wide(&self) -> bool {
        self.wide
    }

    pub(super) fn bytes(&self) -> &[u8] {
        let (_, len, _) = saved(self.wide);
        self.bytes.get(..usize::from(len)).unwrap_or(&self.bytes)
    }
}

/// The TSS of the new task.
pub(super) struct State {
    bytes: [u8; SIZE],
    wide: bool,
}

impl State {
    #[inline(never)]
    pub(super) fn read(guest: &mut Guest<'_>, target: &Descriptor) -> Result<Self, Stop> {
        let wide = is_wide(target.kind());
        let mut bytes = [0; SIZE];
        let len = last(wide).wrapping_add(1);
        let source = guest.prepare_read(Gva::new(target.base()), len as u16, true)?;
        let part = bytes.get_mut(..len as usize).ok_or(Stop::Host)?;
        guest.load(&source, part)?;
        Ok(Self { bytes, wide })
    }

    fn word(&self, at: usize) -> u16 {
        let bytes = self.bytes.get(at..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |bytes| u16::from_le_bytes(*bytes))
    }

    /// Slot `n` behind offset `wide` of a 32-bit TSS or `narrow` of a 16-bit one.
    fn slot(&self, wide: usize, narrow: usize, n: usize) -> u32 {
        if self.wide {
            let at = wide.wrapping_add(n.wrapping_mul(4));
            u32::from(self.word(at)) | u32::from(self.word(at.wrapping_add(2))) << 16
        } else {
            self.word(narrow.wrapping_add(n.wrapping_mul(2))).into()
        }
    }

    pub(super) const fn is_wide(&self) -> bool {
        self.wide
    }

    /// The selector of segment register `n`; FS and GS of a 16-bit TSS are null.
    pub(super) fn selector(&self, n: usize) -> u16 {
        match (self.wide, n) {
            (false, 4..) => 0,
            _ => self.slot(0x48, 0x22, n) as u16,
        }
    }

    pub(super) fn ldt(&self) -> u16 {
        self.slot(0x60, 0x2a, 0) as u16
    }

    pub(super) fn trap(&self) -> bool {
        self.wide && self.word(0x64) & 1 != 0
    }

    /// Loads all registers but LDTR and the segment registers.
    ///
    /// # Errors
    ///
    /// #GP(0) where the page-directory-pointer table sets reserved bits, which the old
    /// task gets.
    #[inline(never)]
    pub(super) fn load_registers(
        &self,
        guest: &mut Guest<'_>,
        target: &Descriptor,
        reason: Reason,
    ) -> Result<(), Stop> {
        if self.wide && guest.cpu.paging.cr0 & CR0_PG != 0 {
            let cr3 = self.slot(0x1c, 0, 0).into();
            if guest.cpu.paging.cr4 & CR4_PAE != 0 {
                let pdptes = read_pdptes(guest, cr3)?;
                guest.cpu.paging.pdptes = pdptes;
            }
            guest.cpu.paging.cr3 = cr3;
        }
        let cpu = &mut *guest.cpu;
        let mut flags = u64::from(self.slot(0x24, 0x10, 0) & FLAGS | 2);
        if reason.nests() {
            flags |= rflags::NT;
        }
        cpu.rflags = flags;
        cpu.paging.ac = flags & rflags::AC != 0;
        cpu.paging.cr0 |= CR0_TS;
        cpu.rip = self.slot(0x20, 0x0e, 0).into();
        for (n, gpr) in cpu.gprs.iter_mut().take(8).enumerate() {
            *gpr = self.slot(0x28, 0x12, n).into();
        }
        cpu.tr = target.segment();
        cpu.tr.attributes |= u16::from(system::TSS16_BUSY);
        Ok(())
    }
}

/// Reads the four entries that a processor with PAE paging holds (SDM 3A 4.4.1).
fn read_pdptes(guest: &mut Guest<'_>, cr3: u64) -> Result<[u64; 4], Stop> {
    let mut pdptes = [0; 4];
    let mut at = cr3 & 0xffff_ffe0;
    for pdpte in &mut pdptes {
        let memory = &mut *guest.memory;
        *pdpte = memory
            .read_u64(Gpa::new(at))
            .ok_or(Stop::Refused(Op::Unknown))?;
        if !valid(&guest.cpu.paging, *pdpte) {
            return Err(Exception::gp(0).into());
        }
        at = at.wrapping_add(8);
    }
    Ok(pdptes)
}

/// Bits 63:52, 8:5 and 2:1 are reserved, and what is above the physical-address width.
const fn valid(paging: &Paging, pdpte: u64) -> bool {
    let reserved = 0xfff0_0000_0000_01e6 | paging.reserved_address;
    pdpte & 1 == 0 || pdpte & reserved == 0
}
