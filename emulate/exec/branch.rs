// SPDX-License-Identifier: GPL-2.0

//! Near CALL, JMP and RET.

use super::operand::{self, Input};
use super::stack::{above, below, pointer, prepare_pop, prepare_push, set_pointer};
use super::{next_rip, retire_at, Done};
use crate::cpu::mask;
use crate::guard::Guest;
use crate::insn::{Insn, Operand};
use crate::segment;
use crate::stop::Stop;

/// Executes CALL.
pub(super) fn call(guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    let size = insn.size;
    let input = Input::prepare(guest, insn, insn.dst, size)?;
    let sp = below(guest.cpu, size.into());
    let span = prepare_push(guest, sp, size)?;
    let target = target(guest, insn, &input)?;
    let next = next_rip(guest, insn);
    operand::store(guest, span, size, next)?;
    set_pointer(guest.cpu, sp);
    Ok(retire_at(guest, target))
}

/// Executes JMP.
pub(super) fn jump(guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    let input = Input::prepare(guest, insn, insn.dst, insn.size)?;
    let target = target(guest, insn, &input)?;
    Ok(retire_at(guest, target))
}

/// Executes RET.
pub(super) fn ret(guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    let size = insn.size;
    let source = prepare_pop(guest, pointer(guest.cpu), size)?;
    let target = operand::load(guest, &source, size)?;
    segment::branch(guest.cpu, target)?;
    let released = insn.imm as u64 & 0xffff;
    let sp = above(guest.cpu, released.wrapping_add(size.into()));
    set_pointer(guest.cpu, sp);
    Ok(retire_at(guest, target))
}

/// Where it goes; checked.
fn target(guest: &mut Guest<'_>, insn: &Insn, input: &Input) -> Result<u64, Stop> {
    let value = input.value(guest, insn.size)?;
    let target = match insn.dst {
        // A displacement.
        Operand::Imm => next_rip(guest, insn).wrapping_add(value) & mask(insn.size),
        _ => value,
    };
    segment::branch(guest.cpu, target)?;
    Ok(target)
}
