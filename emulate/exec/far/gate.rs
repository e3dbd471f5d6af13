// SPDX-License-Identifier: GPL-2.0

//! Call gates (SDM 3A 5.8.3 to 5.8.5).
//!
//! ```text
//!   old stack        new stack, from the TSS
//!   | param n |      | SS      |
//!   | ...     |      | ESP     |
//!   | param 1 | ---> | param n |      in IA-32e mode there are no parameters, and SS
//!                    | ...     |      becomes null
//!                    | param 1 |
//!                    | CS      |
//!                    | EIP     |
//! ```

use super::{check_offset, prepare, set_flag, Far, Transfer};
use crate::cpu::gpr::RSP;
use crate::descriptor::{error_code, is_null, prepare_flags, rpl, system, Descriptor, Flag};
use crate::exec::{next_rip, operand};
use crate::guard::{Guest, Source, Span};
use crate::insn::{Insn, Seg};
use crate::segment;
use crate::stack::{self, Image, Pushed, Stack};
use crate::stop::{Exception, Stop};

/// What is in a gate.
struct Gate {
    code: Far,
    /// Bytes of what is pushed.
    size: u8,
    /// Parameters to copy.
    count: u16,
}

/// CALL or JMP through a gate.
#[inline(never)]
pub(super) fn enter(
    guest: &mut Guest<'_>,
    insn: &Insn,
    descriptor: &Descriptor,
    call: bool,
) -> Result<u64, Stop> {
    let gate = read(guest, descriptor)?;
    let target = code_segment(guest, &gate, call)?;
    let cpl = guest.cpu.cpl;
    let inner = !target.is_conforming() && target.dpl() < cpl;
    if inner {
        return more_privilege(guest, insn, &gate, &target);
    }
    let mut stack = Stack::current(guest.cpu);
    if gate.size == 8 {
        // What is entered is 64-bit code.
        stack.width = 8;
    }
    Transfer {
        target,
        offset: gate.code.offset,
        size: gate.size,
        stack,
        cpl,
        call,
    }
    .same_level(guest, insn)
}

/// Checks the gate and reads what is in it.
#[inline(never)]
fn read(guest: &mut Guest<'_>, gate: &Descriptor) -> Result<Gate, Stop> {
    let error = error_code(gate.selector, false);
    let wrong = Exception::gp(error);
    if gate.dpl() < guest.cpu.cpl || gate.dpl() < rpl(gate.selector) {
        return Err(wrong.into());
    }
    let raw = gate.raw;
    let (mut offset, mut size, mut count) = (raw & 0xffff, 2, (raw >> 32 & 31) as u16);
    if gate.kind() == system::CALL_GATE32 {
        offset |= raw >> 32 & 0xffff_0000;
        size = 4;
    }
    if !gate.is_present() {
        return Err(Exception::np(error).into());
    }
    if guest.cpu.paging.long_mode() {
        let upper = gate.read_upper(guest, wrong)?;
        // Else the upper half could pass for a descriptor itself.
        if upper >> 40 & 31 != 0 {
            return Err(wrong.into());
        }
        offset |= upper << 32;
        size = 8;
        count = 0;
    }
    let selector = (raw >> 16) as u16;
    Ok(Gate {
        code: Far { selector, offset },
        size,
        count,
    })
}

/// Reads and checks the code segment of a gate.
#[inline(never)]
fn code_segment(guest: &mut Guest<'_>, gate: &Gate, call: bool) -> Result<Descriptor, Stop> {
    let selector = gate.code.selector;
    if is_null(selector) {
        return Err(Exception::gp(0).into());
    }
    let error = error_code(selector, false);
    let wrong = Exception::gp(error);
    let target = Descriptor::read(guest, selector, wrong)?;
    let cpl = guest.cpu.cpl;
    let narrow = guest.cpu.paging.long_mode() && (!target.is_long() || target.is_big());
    // JMP cannot enter another level.
    let denied = target.dpl() > cpl || !call && !target.is_conforming() && target.dpl() != cpl;
    if !target.is_code() || denied || narrow {
        return Err(wrong.into());
    }
    if !target.is_present() {
        return Err(Exception::np(error).into());
    }
    Ok(target)
}

/// CALL to a more privileged level, on its own stack.
#[inline(never)]
fn more_privilege(
    guest: &mut Guest<'_>,
    insn: &Insn,
    gate: &Gate,
    target: &Descriptor,
) -> Result<u64, Stop> {
    let cpl = target.dpl();
    let (stack, descriptor) = stack::inner(guest, cpl, 0, false)?;
    let slots = gate.count.wrapping_add(4);
    let pushed = stack.push(guest.cpu, slots, gate.size.into());
    let selector = stack.segment.selector;
    let pushed = pushed.ok_or(Exception::ss(error_code(selector, false)))?;
    check_offset(guest.cpu, target, gate.code.offset)?;
    check_parameters(guest, gate)?;
    let span = prepare_inner(guest, insn, &pushed, gate.size, cpl)?;
    let mut flags = [None, None];
    prepare_flags(guest, [Some(target), descriptor.as_ref()], &mut flags)?;
    push_frame(guest, insn, gate, span, &mut flags)?;
    let cpu = &mut *guest.cpu;
    cpu.set_segment(Seg::Ss, stack.segment);
    cpu.set_gpr_sized(RSP, stack.width, pushed.pointer);
    cpu.enter_code(target, cpl);
    cpu.set_cpl(cpl);
    Ok(gate.code.offset)
}

/// Makes sure that the parameters can be read, before anything is read of a device.
#[inline(never)]
fn check_parameters(guest: &mut Guest<'_>, gate: &Gate) -> Result<(), Stop> {
    let old = Stack::current(guest.cpu);
    for n in 0..gate.count {
        let _ = prepare_slot(guest, &old, n, gate.size)?;
    }
    Ok(())
}

/// Writes what the new stack gets; the parameters are read from the old one.
#[inline(never)]
fn push_frame(
    guest: &mut Guest<'_>,
    insn: &Insn,
    gate: &Gate,
    span: Span,
    flags: &mut [Option<Flag>; 2],
) -> Result<(), Stop> {
    // CS:EIP, 31 parameters and SS:ESP.
    let mut image = Image::<140>::new(gate.size);
    image.far(Far {
        selector: guest.cpu.segment(Seg::Cs).selector,
        offset: next_rip(guest, insn),
    });
    let old = Stack::current(guest.cpu);
    for n in 0..gate.count {
        let value = slot(guest, &old, n, gate.size)?;
        image.slot(value);
    }
    image.far(Far {
        selector: old.segment.selector,
        offset: old.pointer,
    });
    for flag in flags {
        set_flag(guest, flag.take())?;
    }
    guest.commit(span, image.bytes())
}

/// Looks up slot `n` of a stack, counted from the stack pointer.
#[inline(never)]
fn prepare_slot(guest: &mut Guest<'_>, stack: &Stack, n: u16, size: u8) -> Result<Source, Stop> {
    let gva = stack.slot(guest.cpu, n, size).ok_or(Exception::ss(0))?;
    segment::aligned(guest.cpu, gva, size.into())?;
    guest.prepare_read(gva, size.into(), false)
}

/// Reads slot `n` of a stack.
pub(super) fn slot(guest: &mut Guest<'_>, stack: &Stack, n: u16, size: u8) -> Result<u64, Stop> {
    let source = prepare_slot(guest, stack, n, size)?;
    operand::load(guest, &source, size)
}

/// Prepares the frame with the rights of the level that it is for.
fn prepare_inner(
    guest: &mut Guest<'_>,
    insn: &Insn,
    pushed: &Pushed,
    size: u8,
    cpl: u8,
) -> Result<Span, Stop> {
    let user = guest.cpu.paging.user;
    guest.cpu.paging.user = cpl == 3;
    let span = prepare(guest, insn, pushed, size.into());
    guest.cpu.paging.user = user;
    span
}

#[cfg(test)]
#[path = "../../tests/gate.rs"]
mod tests;
