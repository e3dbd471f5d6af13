// SPDX-License-Identifier: GPL-2.0

//! Descriptors: what a selector stands for (SDM 3A 3.4.5, 3.5).
//!
//! ```text
//!   63      56 55   52 51   48 47 46 45 44 43  40 39              16 15      0
//!   +---------+-------+-------+--+-----+--+------+------------------+--------+
//!   | base    | G DB  | limit |P | DPL |S | type | base             | limit  |
//!   |  31:24  | L AVL | 19:16 |  |     |  |      |  23:0            |  15:0  |
//!   +---------+-------+-------+--+-----+--+------+------------------+--------+
//! ```
//!
//! Gates share P, DPL, S and type.

use ept::Gva;

use crate::cpu::Segment;
use crate::guard::{Guest, Intent, Span};
use crate::stop::{Exception, Stop};

/// Types of system descriptors (SDM 3A table 3-2).
pub(crate) mod system {
    /// 16-bit TSS, available.
    pub(crate) const TSS16: u8 = 1;
    /// LDT.
    pub(crate) const LDT: u8 = 2;
    /// 16-bit TSS, busy.
    pub(crate) const TSS16_BUSY: u8 = 3;
    /// 16-bit call gate.
    pub(crate) const CALL_GATE16: u8 = 4;
    /// Task gate.
    pub(crate) const TASK_GATE: u8 = 5;
    /// 16-bit interrupt gate; the trap gate is 1 more.
    pub(crate) const INTERRUPT_GATE16: u8 = 6;
    /// 16-bit trap gate.
    pub(crate) const TRAP_GATE16: u8 = 7;
    /// 32-bit TSS, available; of 64 bits in IA-32e mode.
    pub(crate) const TSS32: u8 = 9;
    /// 32-bit TSS, busy; of 64 bits in IA-32e mode.
    pub(crate) const TSS32_BUSY: u8 = 11;
    /// 32-bit call gate; of 64 bits in IA-32e mode.
    pub(crate) const CALL_GATE32: u8 = 12;
    /// 32-bit interrupt gate; of 64 bits in IA-32e mode.
    pub(crate) const INTERRUPT_GATE32: u8 = 14;
    /// 32-bit trap gate; of 64 bits in IA-32e mode.
    pub(crate) const TRAP_GATE32: u8 = 15;
}

/// Offset in a descriptor of the byte with P, DPL, S and type.
const ACCESS_BYTE: u64 = 5;
/// Type bit 0 of a code or data segment: it was loaded.
const ACCESSED: u8 = 1 << 0;

/// The error code that names a selector (SDM 3A 6.13); `external` is EXT: an event from
/// outside the program was being delivered.
pub(crate) const fn error_code(selector: u16, external: bool) -> u32 {
    (selector & 0xfffc) as u32 | external as u32
}

/// Null: index 0 of the GDT, whatever the RPL.
pub(crate) const fn is_null(selector: u16) -> bool {
    selector & 0xfffc == 0
}

/// Requested privilege level.
pub(crate) const fn rpl(selector: u16) -> u8 {
    (selector & 3) as u8
}

/// Reads a table or TSS as the processor itself does, whatever the CPL.
///
/// # Errors
///
/// The [`Stop`] that the read ends in.
pub(crate) fn read_system<const N: usize>(
    guest: &mut Guest<'_>,
    gva: Gva,
) -> Result<[u8; N], Stop> {
    let mut bytes = [0; N];
    let source = guest.prepare_read(gva, N as u16, true)?;
    guest.load(&source, &mut bytes)?;
    Ok(bytes)
}

/// A descriptor of the GDT or an LDT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    /// Its 8 bytes; the lower 8 of 16.
    pub(crate) raw: u64,
    /// Its linear address.
    pub(crate) at: Gva,
    /// What stands for it.
    pub(crate) selector: u16,
}

impl Descriptor {
    /// Reads the descriptor of a selector.
    ///
    /// # Errors
    ///
    /// `outside` if the table ends before it; the [`Stop`] of the read.
    pub(crate) fn read(
        guest: &mut Guest<'_>,
        selector: u16,
        outside: Exception,
    ) -> Result<Self, Stop> {
        let at = locate(guest, selector, 8, outside)?;
        let raw = u64::from_le_bytes(read_system(guest, at)?);
        Ok(Self { raw, at, selector })
    }

    /// Reads the upper 8 of the 16 bytes that a system descriptor has in IA-32e mode.
    ///
    /// # Errors
    ///
    /// As for [`Descriptor::read`].
    pub(crate) fn read_upper(
        &self,
        guest: &mut Guest<'_>,
        outside: Exception,
    ) -> Result<u64, Stop> {
        let at = locate(guest, self.selector, 16, outside)?;
        let upper = guest.cpu.linear(at, 8);
        Ok(u64::from_le_bytes(read_system(guest, upper)?))
    }

    /// Type.
    pub(crate) const fn kind(&self) -> u8 {
        (self.raw >> 40 & 15) as u8
    }

    /// S is 0: neither code nor data.
    pub(crate) const fn is_system(&self) -> bool {
        self.raw & 1 << 44 == 0
    }

    /// Code.
    pub(crate) const fn is_code(&self) -> bool {
        !self.is_system() && self.kind() & 8 != 0
    }

    /// Code that keeps the privilege level of who enters it.
    pub(crate) const fn is_conforming(&self) -> bool {
        self.is_code() && self.kind() & 4 != 0
    }

    /// Data that may be written, as a stack must be.
    pub(crate) const fn is_writable_data(&self) -> bool {
        !self.is_system() && self.kind() & 8 == 0 && self.kind() & 2 != 0
    }

    /// Descriptor privilege level.
    pub(crate) const fn dpl(&self) -> u8 {
        (self.raw >> 45 & 3) as u8
    }

    /// P.
    pub(crate) const fn is_present(&self) -> bool {
        self.raw & 1 << 47 != 0
    }

    /// L: 64-bit code.
    pub(crate) const fn is_long(&self) -> bool {
        self.raw & 1 << 53 != 0
    }

    /// D/B.
    pub(crate) const fn is_big(&self) -> bool {
        self.raw & 1 << 54 != 0
    }

    /// Bits 31:0 of the base.
    pub(crate) const fn base(&self) -> u64 {
        self.raw >> 16 & 0x00ff_ffff | self.raw >> 32 & 0xff00_0000
    }

    /// The last offset, in bytes.
    pub(crate) const fn limit(&self) -> u32 {
        let limit = (self.raw & 0xffff | self.raw >> 32 & 0xf_0000) as u32;
        match self.raw & 1 << 55 {
            0 => limit,
            _ => limit << 12 | 0xfff,
        }
    }

    /// The segment register that it makes; of code and data, with the accessed flag.
    pub(crate) const fn segment(&self) -> Segment {
        let accessed = match self.is_system() {
            true => 0,
            false => ACCESSED as u16,
        };
        Segment {
            selector: self.selector,
            base: self.base(),
            limit: self.limit(),
            attributes: (self.raw >> 40) as u16 & 0xf0ff | accessed,
            unusable: false,
        }
    }

    /// Whether loading it sets the accessed flag.
    const fn is_fresh(&self) -> bool {
        !self.is_system() && self.kind() & ACCESSED == 0
    }

    /// Prepares the accessed flag, if it is not set already.
    ///
    /// # Errors
    ///
    /// The [`Stop`] that the write ends in.
    pub(crate) fn prepare_accessed(&self, guest: &mut Guest<'_>) -> Result<Option<Flag>, Stop> {
        if !self.is_fresh() {
            return Ok(None);
        }
        let old = self.access_byte();
        self.prepare_byte(guest, old | ACCESSED).map(Some)
    }

    /// Prepares a new type for a TSS descriptor: available or busy.
    ///
    /// # Errors
    ///
    /// The [`Stop`] that the write ends in.
    pub(crate) fn prepare_kind(&self, guest: &mut Guest<'_>, kind: u8) -> Result<Flag, Stop> {
        self.prepare_byte(guest, self.access_byte() & 0xf0 | kind)
    }

    const fn access_byte(&self) -> u8 {
        (self.raw >> 40) as u8
    }

    fn prepare_byte(&self, guest: &mut Guest<'_>, new: u8) -> Result<Flag, Stop> {
        let at = guest.cpu.linear(self.at, ACCESS_BYTE);
        let span = guest.prepare_bytes(at, 1, Intent::ReadWrite, u64::MAX, true)?;
        Ok(Flag {
            span,
            old: self.access_byte(),
            new,
        })
    }
}

/// A change to the access byte of a descriptor, ready to be made.
#[derive(Debug)]
#[must_use = "a flag that was prepared is set"]
pub(crate) struct Flag {
    span: Span,
    old: u8,
    new: u8,
}

impl Flag {
    /// The descriptor is a device's, or in read-only memory.
    pub(crate) fn device(&self) -> bool {
        self.span.device()
    }

    /// Makes the change, in one locked access as the processor does (SDM 3A 8.1.2.1).
    ///
    /// # Errors
    ///
    /// [`Stop::Retry`] if the descriptor is another one by now.
    pub(crate) fn set(self, guest: &mut Guest<'_>) -> Result<(), Stop> {
        guest.exchange(self.span, &[self.old], &[self.new])
    }
}

/// Sets the accessed flag of the descriptor at or around the linear address `gva`, as the
/// processor was about to do. It asks when all checks of the load are done, so that to
/// set the flag ahead of it and to let it load again is the same (SDM 3A 3.4.5.1).
///
/// False: there is no descriptor of code or data there, or it has the flag.
///
/// # Errors
///
/// The [`Stop`] that the write ends in.
pub fn mark_accessed(guest: &mut Guest<'_>, gva: Gva) -> Result<bool, Stop> {
    let Some(selector) = selector_at(guest, gva) else {
        return Ok(false);
    };
    let descriptor = Descriptor::read(guest, selector, Exception::gp(0))?;
    match descriptor.prepare_accessed(guest)? {
        Some(flag) if !flag.device() => flag.set(guest).map(|()| true),
        _ => Ok(false),
    }
}

/// Prepares to mark the TSS busy that LTR is about to load; `None` if it is none, which the
/// processor finds out as well.
///
/// # Errors
///
/// The [`Stop`] that the write ends in.
pub(crate) fn prepare_busy(guest: &mut Guest<'_>, selector: u16) -> Result<Option<Span>, Stop> {
    let descriptor = Descriptor::read(guest, selector, Exception::gp(error_code(selector, false)))?;
    let available = matches!(descriptor.kind(), system::TSS16 | system::TSS32);
    if !descriptor.is_system() || !available || selector & 4 != 0 {
        return Ok(None);
    }
    let flag = descriptor.prepare_kind(guest, descriptor.kind() | 2)?;
    Ok(Some(flag.span))
}

/// The selector, with RPL 0, of the descriptor that has a byte at the linear address.
fn selector_at(guest: &Guest<'_>, gva: Gva) -> Option<u16> {
    let cpu = &guest.cpu;
    let ldt = (!cpu.ldtr.unusable).then_some((cpu.ldtr.base, cpu.ldtr.limit, 4));
    let gdt = (cpu.gdtr.base, u32::from(cpu.gdtr.limit), 0);
    let tables = core::iter::once(gdt).chain(ldt);
    let offset = |base: u64| gva.get().wrapping_sub(base);
    let mut inside =
        tables.filter(|(base, limit, _)| offset(*base) <= u64::from(*limit).min(0xffff));
    inside
        .next()
        .map(|(base, _, table)| offset(base) as u16 & 0xfff8 | table)
}

/// Prepares the accessed flags of descriptors that are loaded together.
///
/// # Errors
///
/// The [`Stop`] that the writes end in.
#[inline(never)]
pub(crate) fn prepare_flags(
    guest: &mut Guest<'_>,
    descriptors: [Option<&Descriptor>; 2],
    flags: &mut [Option<Flag>; 2],
) -> Result<(), Stop> {
    for (flag, descriptor) in flags.iter_mut().zip(descriptors) {
        if let Some(descriptor) = descriptor {
            *flag = descriptor.prepare_accessed(guest)?;
        }
    }
    Ok(())
}

/// The linear address of the `len` bytes that a selector stands for.
fn locate(
    guest: &Guest<'_>,
    selector: u16,
    len: u32,
    outside: Exception,
) -> Result<Gva, Exception> {
    let offset = u32::from(selector & 0xfff8);
    let cpu = &guest.cpu;
    let (base, limit) = match selector & 4 {
        0 => (cpu.gdtr.base, u32::from(cpu.gdtr.limit)),
        _ if cpu.ldtr.unusable => return Err(outside),
        _ => (cpu.ldtr.base, cpu.ldtr.limit),
    };
    if offset.saturating_add(len).saturating_sub(1) > limit {
        return Err(outside);
    }
    Ok(cpu.linear(Gva::new(base), offset.into()))
}

#[cfg(test)]
#[path = "tests/descriptor.rs"]
mod tests;
