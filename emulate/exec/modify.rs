// SPDX-License-Identifier: GPL-2.0

//! Read-modify-write: arithmetic, logic, shifts, rotates and bit operations, and those
//! that only compare.
//!
//! ```text
//!   write intent --> read --> compute --> write --> flags
//! ```
//!
//! The right to write is asked for even where the value stays the same: the processor
//! does so too.

use ept::Gva;

use super::arithmetic::{self, Outcome};
use super::operand::{self, linear, load_span, read};
use super::{bit, retire, shift, Done};
use crate::guard::{Guest, Intent, Span};
use crate::insn::{Insn, Operand};
use crate::op::Op;
use crate::stop::Stop;

/// Executes ADD to NEG, the rotates and shifts, SHLD and SHRD.
pub(super) fn execute(guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    let (op, size) = (insn.op, insn.size);
    let src = match (op, insn.src) {
        (_, Operand::None) => 0,
        (Op::Rol | Op::Ror | Op::Rcl | Op::Rcr | Op::Shl | Op::Shr | Op::Sar, count) => {
            read(guest, insn, count, 1)?
        }
        (_, src) => read(guest, insn, src, size)?,
    };
    let count = match insn.third {
        Operand::None => 0,
        count => read(guest, insn, count, 1)?,
    };
    let outcome = |old, rflags| {
        let outcome = match op {
            Op::Shld | Op::Shrd => shift::double(op, old, src, count, rflags, size),
            _ => arithmetic::modified(op, old, src, rflags, size)
                .or_else(|| shift::single(op, old, src, rflags, size)),
        };
        outcome.ok_or(Stop::Refused(op))
    };
    match insn.dst {
        Operand::Mem => {
            let gva = linear(guest.cpu, insn, size.into(), size.into(), true)?;
            memory(guest, insn, gva, outcome)?;
        }
        register => {
            let old = read(guest, insn, register, size)?;
            let (new, rflags) = outcome(old, guest.cpu.rflags)?;
            operand::set_register(guest.cpu, register, size, new);
            guest.cpu.rflags = rflags;
        }
    }
    Ok(retire(guest, insn))
}

/// Executes CMP and TEST.
pub(super) fn compare(guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    // One of them is in memory.
    let dst = read(guest, insn, insn.dst, insn.size)?;
    let src = read(guest, insn, insn.src, insn.size)?;
    let (_, rflags) = arithmetic::modified(insn.op, dst, src, guest.cpu.rflags, insn.size)
        .ok_or(Stop::Refused(insn.op))?;
    guest.cpu.rflags = rflags;
    Ok(retire(guest, insn))
}

/// Executes BT, BTS, BTR and BTC.
pub(super) fn bit(guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    let (op, size) = (insn.op, insn.size);
    let number = read(guest, insn, insn.src, size)?;
    // A number in a register reaches beyond the operand, to either side.
    let ahead = match insn.src {
        Operand::Imm => 0,
        _ => bit::word(number, size),
    };
    let write = op != Op::Bt;
    let gva = operand::linear_ahead(guest.cpu, insn, ahead, size.into(), size.into(), write)?;
    if write {
        let outcome =
            |old, rflags| bit::modified(op, old, number, rflags, size).ok_or(Stop::Refused(op));
        memory(guest, insn, gva, outcome)?;
    } else {
        let source = guest.prepare_read(gva, size.into(), false)?;
        let value = operand::load(guest, &source, size)?;
        guest.cpu.rflags = bit::test(value, number, guest.cpu.rflags, size);
    }
    Ok(retire(guest, insn))
}

/// Replaces what is at `gva` by what `outcome` makes of it and RFLAGS.
fn memory(
    guest: &mut Guest<'_>,
    insn: &Insn,
    gva: Gva,
    outcome: impl FnOnce(u64, u64) -> Result<Outcome, Stop>,
) -> Result<(), Stop> {
    let size = insn.size;
    let span = guest.prepare_write(gva, size.into(), Intent::ReadWrite)?;
    let old = load_span(guest, &span, size)?;
    let (new, rflags) = outcome(old, guest.cpu.rflags)?;
    write_back(guest, insn, span, old, new)?;
    guest.cpu.rflags = rflags;
    Ok(())
}

fn write_back(
    guest: &mut Guest<'_>,
    insn: &Insn,
    span: Span,
    old: u64,
    new: u64,
) -> Result<(), Stop> {
    if insn.lock {
        operand::exchange(guest, span, insn.size, old, new)
    } else {
        operand::store(guest, span, insn.size, new)
    }
}
