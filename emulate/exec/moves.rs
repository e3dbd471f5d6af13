// SPDX-License-Identifier: GPL-2.0

//! Moves between memory and general registers, with and without conversion.

use super::arithmetic::signed;
use super::operand::{self, read, set_register};
use super::{bit, retire, Done};
use crate::cpu::gpr::{RAX, RBX};
use crate::cpu::mask;
use crate::cpu::rflags::{CF, OF, PF, SF, ZF};
use crate::guard::{Guest, Intent};
use crate::insn::Insn;
use crate::op::Op;
use crate::segment;
use crate::stop::Stop;

/// Executes the moves to memory: MOV, MOVNTI, MOVDIRI, MOVBE and SETcc.
pub(super) fn store(guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    let size = insn.size;
    let value = match insn.op {
        Op::Setcc => condition(insn.condition, guest.cpu.rflags).into(),
        Op::MovbeStore => reversed(read(guest, insn, insn.src, size)?, size),
        _ => read(guest, insn, insn.src, size)?,
    };
    let gva = operand::linear(guest.cpu, insn, size.into(), size.into(), true)?;
    let span = guest.prepare_write(gva, size.into(), Intent::Write)?;
    operand::store(guest, span, size, value)?;
    Ok(retire(guest, insn))
}

/// Executes the moves to a register, and what else only reads memory and writes one:
/// MOV, MOVZX, MOVSX, MOVSXD, MOVBE, CMOVcc, CRC32, the bit scans and counts.
pub(super) fn load(guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    let (op, size) = (insn.op, insn.size);
    let src_size = match op {
        Op::Movzx | Op::Movsx | Op::Movsxd | Op::Crc32 => insn.mem_size as u8,
        _ => size,
    };
    let value = read(guest, insn, insn.src, src_size)?;
    let value = match op {
        Op::MovLoad | Op::Movzx => value,
        Op::Movsx | Op::Movsxd => signed(value, src_size) as u64,
        Op::MovbeLoad => reversed(value, size),
        // Memory is read in any case, and a destination of 4 bytes is written.
        Op::Cmovcc if condition(insn.condition, guest.cpu.rflags) => value,
        Op::Cmovcc => read(guest, insn, insn.dst, size)?,
        Op::Crc32 => {
            let crc = read(guest, insn, insn.dst, 4)? as u32;
            bit::crc32(crc, value, src_size).into()
        }
        op => {
            let (value, rflags) =
                bit::counted(op, value, guest.cpu.rflags, size).ok_or(Stop::Refused(op))?;
            guest.cpu.rflags = rflags;
            // BSF and BSR of 0 leave the destination alone.
            if matches!(op, Op::Bsf | Op::Bsr) && rflags & ZF != 0 {
                return Ok(retire(guest, insn));
            }
            value
        }
    };
    set_register(guest.cpu, insn.dst, size, value);
    Ok(retire(guest, insn))
}

/// Executes XLAT: AL becomes the byte at RBX + AL.
pub(super) fn xlat(guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    let offset =
        guest.cpu.gpr(RBX).wrapping_add(guest.cpu.gpr_sized(RAX, 1)) & mask(insn.addr_size);
    let gva = segment::linear(guest.cpu, insn.mem.seg, offset, 1, false)?;
    let source = guest.prepare_read(gva, 1, false)?;
    let value = operand::load(guest, &source, 1)?;
    guest.cpu.set_gpr_sized(RAX, 1, value);
    Ok(retire(guest, insn))
}

fn reversed(value: u64, size: u8) -> u64 {
    let unused = 64u32.wrapping_sub(super::arithmetic::bits(size));
    value.swap_bytes().wrapping_shr(unused)
}

/// A condition of Jcc, SETcc and CMOVcc (SDM 1 appendix B).
fn condition(code: u8, rflags: u64) -> bool {
    let less = (rflags & SF != 0) != (rflags & OF != 0);
    let holds = match code >> 1 & 7 {
        0 => rflags & OF != 0,
        1 => rflags & CF != 0,
        2 => rflags & ZF != 0,
        3 => rflags & (CF | ZF) != 0,
        4 => rflags & SF != 0,
        5 => rflags & PF != 0,
        6 => less,
        _ => less || rflags & ZF != 0,
    };
    holds != (code & 1 != 0)
}

/// CLFLUSH and the like: to memory that is coherent they do nothing, and no device is told.
pub(super) fn flush(guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    let gva = operand::linear(guest.cpu, insn, 1, 1, false)?;
    let _source = guest.prepare_read(gva, 1, false)?;
    Ok(retire(guest, insn))
}
