// SPDX-License-Identifier: GPL-2.0

//! PUSH, POP and those that make and remove stack frames.
//!
//! The stack pointer is as wide as the stack segment says, an element as the operand size
//! says. What is pushed together is written together: hardware may leave a part of it.

use super::operand::{self, Input};
use super::{retire, Done};
use crate::cpu::gpr::{RBP, RSP};
use crate::cpu::{mask, rflags, Cpu};
use crate::guard::{Guest, Intent, Source, Span};
use crate::insn::{Insn, Operand, Seg};
use crate::op::Op;
use crate::segment;
use crate::stop::{Exception, Stop};

const CR4_VME: u64 = 1 << 0;

/// Executes PUSH, also of segment registers, and PUSHF.
pub(super) fn push(guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    let size = insn.size;
    let (input, len) = match (insn.op, insn.dst) {
        (Op::Pushf, _) => (Input::Value(flags_image(guest.cpu, size)?), size),
        // The upper half of a doubleword is left alone, as by all recent processors.
        (_, Operand::Sreg(seg)) => {
            let selector = guest.cpu.segment(seg).selector;
            (
                Input::Value(selector.into()),
                if size == 4 { 2 } else { size },
            )
        }
        (_, operand) => (Input::prepare(guest, insn, operand, size)?, size),
    };
    let sp = below(guest.cpu, size.into());
    let span = prepare_push(guest, sp, len)?;
    let value = input.value(guest, size)?;
    operand::store(guest, span, len, value)?;
    set_pointer(guest.cpu, sp);
    Ok(retire(guest, insn))
}

/// Executes POP.
pub(super) fn pop(guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    let size = insn.size;
    let source = prepare_pop(guest, pointer(guest.cpu), size)?;
    let next = above(guest.cpu, size.into());
    if insn.dst == Operand::Mem {
        // The address is computed with the stack pointer as it will be.
        let rsp = guest.cpu.gpr(RSP);
        set_pointer(guest.cpu, next);
        let gva = operand::linear(guest.cpu, insn, size.into(), size.into(), true);
        guest.cpu.set_gpr_sized(RSP, 8, rsp);
        let span = guest.prepare_write(gva?, size.into(), Intent::Write)?;
        let value = operand::load(guest, &source, size)?;
        operand::store(guest, span, size, value)?;
        set_pointer(guest.cpu, next);
    } else {
        let value = operand::load(guest, &source, size)?;
        set_pointer(guest.cpu, next);
        operand::set_register(guest.cpu, insn.dst, size, value);
    }
    Ok(retire(guest, insn))
}

/// Executes LEAVE.
pub(super) fn leave(guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    let size = insn.size;
    let frame = guest.cpu.gpr_sized(RBP, guest.cpu.stack_size());
    let source = prepare_pop(guest, frame, size)?;
    let value = operand::load(guest, &source, size)?;
    set_pointer(guest.cpu, frame.wrapping_add(size.into()));
    guest.cpu.set_gpr_sized(RBP, size, value);
    Ok(retire(guest, insn))
}

/// The stack pointer.
pub(super) fn pointer(cpu: &Cpu) -> u64 {
    cpu.gpr_sized(RSP, cpu.stack_size())
}

/// What the stack pointer is after a push of `bytes`.
pub(super) fn below(cpu: &Cpu, bytes: u64) -> u64 {
    pointer(cpu).wrapping_sub(bytes) & mask(cpu.stack_size())
}

/// What the stack pointer is after a pop of `bytes`.
pub(super) fn above(cpu: &Cpu, bytes: u64) -> u64 {
    pointer(cpu).wrapping_add(bytes) & mask(cpu.stack_size())
}

/// Sets the stack pointer.
pub(super) fn set_pointer(cpu: &mut Cpu, value: u64) {
    cpu.set_gpr_sized(RSP, cpu.stack_size(), value);
}

/// Prepares writing an element at an offset in the stack segment.
pub(super) fn prepare_push(guest: &mut Guest<'_>, offset: u64, size: u8) -> Result<Span, Stop> {
    let gva = segment::linear(guest.cpu, Seg::Ss, offset, size.into(), true)?;
    segment::aligned(guest.cpu, gva, size.into())?;
    guest.prepare_write(gva, size.into(), Intent::Write)
}

/// Prepares reading an element at an offset in the stack segment.
pub(super) fn prepare_pop(guest: &mut Guest<'_>, offset: u64, size: u8) -> Result<Source, Stop> {
    let gva = segment::linear(guest.cpu, Seg::Ss, offset, size.into(), false)?;
    segment::aligned(guest.cpu, gva, size.into())?;
    guest.prepare_read(gva, size.into(), false)
}

/// What PUSHF pushes.
fn flags_image(cpu: &Cpu, size: u8) -> Result<u64, Stop> {
    let image = cpu.rflags & !(rflags::VM | rflags::RF);
    let virtual_8086 = cpu.rflags & rflags::VM != 0;
    if !virtual_8086 || image & rflags::IOPL == rflags::IOPL {
        return Ok(image);
    }
    // Virtual-8086 mode extensions (SDM 3B 21.3.1): VIF is what the program sees as IF.
    if cpu.paging.cr4 & CR4_VME == 0 || size != 2 {
        return Err(Exception::gp(0).into());
    }
    let interrupts = match image & rflags::VIF {
        0 => 0,
        _ => rflags::IF,
    };
    Ok(image & !rflags::IF | interrupts | rflags::IOPL)
}
