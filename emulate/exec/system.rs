// SPDX-License-Identifier: GPL-2.0

//! Stores of system registers and selectors (SDM 2B SGDT, SIDT, SLDT, SMSW, STR, MOV),
//! and MOVDIR64B.

use super::{operand, retire, Done};
use crate::cpu::{mask, Cpu, Table};
use crate::guard::{Guest, Intent};
use crate::insn::{Insn, Operand, Seg};
use crate::op::Op;
use crate::segment;
use crate::stop::{Exception, Stop};

const CR4_UMIP: u64 = 1 << 11;

/// Executes one of them.
// Not inlined: its stack is not that of all other instructions.
#[inline(never)]
pub(super) fn execute(guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    match insn.op {
        Op::Sgdt => store_table(guest, insn, guest.cpu.gdtr)?,
        Op::Sidt => store_table(guest, insn, guest.cpu.idtr)?,
        Op::Sldt => {
            protected(guest.cpu)?;
            permitted(guest.cpu)?;
            store_word(guest, insn, guest.cpu.ldtr.selector.into())?;
        }
        Op::Str => {
            protected(guest.cpu)?;
            permitted(guest.cpu)?;
            store_word(guest, insn, guest.cpu.tr.selector.into())?;
        }
        Op::Smsw => {
            permitted(guest.cpu)?;
            store_word(guest, insn, guest.cpu.paging.cr0)?;
        }
        Op::MovFromSreg => {
            let Operand::Sreg(seg) = insn.src else {
                return Err(Stop::Refused(insn.op));
            };
            store_word(guest, insn, guest.cpu.segment(seg).selector.into())?;
        }
        Op::Movdir64b => store_line(guest, insn)?,
        op => return Err(Stop::Refused(op)),
    }
    Ok(retire(guest, insn))
}

/// There are no LDTR and TR in real and virtual-8086 mode.
fn protected(cpu: &Cpu) -> Result<(), Exception> {
    match cpu.protected() {
        true => Ok(()),
        false => Err(Exception::UD),
    }
}

/// User-mode instruction prevention (SDM 3A 2.5).
fn permitted(cpu: &Cpu) -> Result<(), Exception> {
    match cpu.paging.cr4 & CR4_UMIP != 0 && cpu.cpl != 0 {
        true => Err(Exception::gp(0)),
        false => Ok(()),
    }
}

/// A limit and a base of 4 bytes, in 64-bit mode 8. The operand size does not matter:
/// with one of 16 bits too, all of the base is stored.
fn store_table(guest: &mut Guest<'_>, insn: &Insn, table: Table) -> Result<(), Stop> {
    permitted(guest.cpu)?;
    let base_size = if guest.cpu.long() { 8 } else { 4 };
    let len = base_size + 2;
    let gva = operand::linear(guest.cpu, insn, len, 2, true)?;
    // Aligned is where the base is (SDM 3A 3.5.1).
    let base = guest.cpu.linear(gva, 2);
    segment::aligned(guest.cpu, base, base_size)?;
    let mut bytes = [0; 10];
    let words = table.limit.to_le_bytes().into_iter();
    for (to, from) in bytes.iter_mut().zip(words.chain(table.base.to_le_bytes())) {
        *to = from;
    }
    let data = bytes.get(..usize::from(len)).ok_or(Stop::Host)?;
    let span = guest.prepare_write(gva, len, Intent::Write)?;
    guest.commit(span, data)
}

/// To memory 16 bits, to a register as many as the operand size says.
fn store_word(guest: &mut Guest<'_>, insn: &Insn, value: u64) -> Result<(), Stop> {
    if insn.dst != Operand::Mem {
        operand::set_register(guest.cpu, insn.dst, insn.size, value);
        return Ok(());
    }
    let gva = operand::linear(guest.cpu, insn, 2, 2, true)?;
    let span = guest.prepare_write(gva, 2, Intent::Write)?;
    operand::store(guest, span, 2, value)
}

/// MOVDIR64B: 64 bytes to where a register points, in ES.
fn store_line(guest: &mut Guest<'_>, insn: &Insn) -> Result<(), Stop> {
    const LINE: u16 = 64;
    let Operand::Gpr(number) = insn.dst else {
        return Err(Stop::Refused(insn.op));
    };
    let offset = guest.cpu.gpr(number) & mask(insn.addr_size);
    let from = operand::linear(guest.cpu, insn, LINE, 1, false)?;
    let to = segment::linear(guest.cpu, Seg::Es, offset, LINE, true)?;
    if to.get() & u64::from(LINE - 1) != 0 {
        return Err(Exception::gp(0).into());
    }
    let source = guest.prepare_read(from, LINE, false)?;
    let span = guest.prepare_write(to, LINE, Intent::Write)?;
    let mut data = [0; LINE as usize];
    guest.load(&source, &mut data)?;
    guest.commit(span, &data)
}

#[cfg(test)]
#[path = "../tests/system.rs"]
mod tests;
