// SPDX-License-Identifier: GPL-2.0

//! Moves.

use super::{operand, retire, Done};
use crate::guard::{Guest, Intent};
use crate::insn::Insn;
use crate::op::Op;
use crate::stop::Stop;

/// Executes one of them.
pub(super) fn execute(guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    match insn.op {
        Op::Mov => store(guest, insn)?,
        Op::MovLoad => {
            let value = operand::read(guest, insn, insn.src, insn.size)?;
            operand::set_register(guest.cpu, insn.dst, insn.size, value);
        }
        op => return Err(Stop::Refused(op)),
    }
    Ok(retire(guest, insn))
}

fn store(guest: &mut Guest<'_>, insn: &Insn) -> Result<(), Stop> {
    let size = insn.size;
    let value = operand::read(guest, insn, insn.src, size)?;
    let gva = operand::linear(guest.cpu, insn, size.into(), size.into(), true)?;
    let span = guest.prepare_write(gva, size.into(), Intent::Write)?;
    operand::store(guest, span, size, value)
}
