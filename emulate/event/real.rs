// SPDX-License-Identifier: GPL-2.0

//! Delivery through a table of far pointers: in real mode, and of INT n that
//! virtual-8086 mode keeps to itself (SDM 3A 20.1.4, 20.3.3).

use ept::Gva;

use super::frame::{Frame, Writer};
use super::Event;
use crate::cpu::gpr::RSP;
use crate::cpu::rflags;
use crate::descriptor::read_system;
use crate::guard::Guest;
use crate::insn::Seg;
use crate::stack::{Image, Stack};
use crate::stop::{Exception, Stop};

const CR4_VME: u64 = 1 << 0;
/// Offset in a 32-bit TSS of the I/O map's offset.
const IO_MAP_BASE: u64 = 102;
/// The last byte that a 32-bit TSS must have.
const TSS_LIMIT: u32 = 103;
/// Bytes of a slot of the frame.
const SLOT: u8 = 2;

/// Delivers an event in real mode.
///
/// # Errors
///
/// As for [`deliver`](super::deliver).
pub(super) fn deliver(guest: &mut Guest<'_>, event: &Event) -> Result<(), Stop> {
    let end = u32::from(event.vector) << 2 | 3;
    if end > guest.cpu.idtr.limit.into() {
        return Err(Exception::gp(event.gate_code()).into());
    }
    let (table, flags) = (Gva::new(guest.cpu.idtr.base), guest.cpu.rflags);
    let cleared = rflags::IF | rflags::TF | rflags::AC | rflags::RF;
    enter(guest, event, table, flags, cleared)
}

/// Whether INT n in virtual-8086 mode goes to the handler of that mode (SDM 3A table
/// 20-2).
///
/// # Errors
///
/// #GP(0) where neither that nor the gate may be entered; the [`Stop`]s of reading the
/// TSS.
pub(super) fn redirected(guest: &mut Guest<'_>, vector: u8) -> Result<bool, Stop> {
    let trusted = guest.cpu.rflags & rflags::IOPL == rflags::IOPL;
    if guest.cpu.paging.cr4 & CR4_VME != 0 {
        let tss = guest.cpu.tr;
        if tss.limit < TSS_LIMIT {
            return Err(Exception::gp(0).into());
        }
        let base = Gva::new(tss.base);
        let map = guest.cpu.linear(base, IO_MAP_BASE);
        let map = u16::from_le_bytes(read_system(guest, map)?);
        // The 32 bytes before the I/O map.
        let at = u64::from(map)
            .wrapping_add(u64::from(vector >> 3))
            .wrapping_sub(32);
        if at > tss.limit.into() {
            return Err(Exception::gp(0).into());
        }
        let at = guest.cpu.linear(base, at);
        let [byte] = read_system(guest, at)?;
        if byte >> (vector & 7) & 1 == 0 {
            return Ok(true);
        }
    }
    match trusted {
        true => Ok(false),
        false => Err(Exception::gp(0).into()),
    }
}

/// Delivers INT n to the handler of virtual-8086 mode, through the table at linear
/// address 0. A program with an IOPL below 3 has a virtual IF.
///
/// # Errors
///
/// As for [`deliver`](super::deliver).
pub(super) fn redirect(guest: &mut Guest<'_>, event: &Event) -> Result<(), Stop> {
    let flags = guest.cpu.rflags;
    let trusted = flags & rflags::IOPL == rflags::IOPL;
    let (image, mask) = match (trusted, flags & rflags::VIF != 0) {
        (true, _) => (flags, rflags::IF),
        (false, true) => (flags | rflags::IOPL | rflags::IF, rflags::VIF),
        (false, false) => ((flags | rflags::IOPL) & !rflags::IF, rflags::VIF),
    };
    let cleared = mask | rflags::TF | rflags::RF;
    enter(guest, event, Gva::new(0), image, cleared)
}

/// Pushes `flags`, CS and IP, and enters a handler of `table`.
fn enter(
    guest: &mut Guest<'_>,
    event: &Event,
    table: Gva,
    flags: u64,
    cleared: u64,
) -> Result<(), Stop> {
    let at = guest.cpu.linear(table, u64::from(event.vector) << 2);
    let [a, b, c, d] = read_system(guest, at)?;
    let (offset, selector) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
    let mut image = Image::<6>::new(SLOT);
    image.slot(event.return_address(guest.cpu));
    image.slot(guest.cpu.segment(Seg::Cs).selector.into());
    image.slot(flags);
    let stack = Stack::current(guest.cpu);
    let pushed = stack
        .push(guest.cpu, image.slots(), SLOT.into())
        .ok_or(Exception::ss(0))?;
    if u32::from(offset) > guest.cpu.segment(Seg::Cs).limit {
        return Err(Exception::gp(0).into());
    }
    let writer = Writer {
        cpl: guest.cpu.cpl,
        slot: SLOT,
        external: event.external(),
    };
    Frame::prepare(guest, &pushed, writer)?.write(guest, image.bytes())?;
    let cpu = &mut *guest.cpu;
    cpu.set_gpr_sized(RSP, stack.width, pushed.pointer);
    cpu.set_real_code_segment(selector);
    cpu.rip = offset.into();
    cpu.rflags &= !cleared;
    Ok(())
}
