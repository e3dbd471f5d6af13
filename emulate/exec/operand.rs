// SPDX-License-Identifier: GPL-2.0

//! Operands: where they are, and what they are.

use ept::Gva;

use crate::cpu::{mask, Cpu};
use crate::guard::{Guest, Span};
use crate::insn::{Insn, Operand};
use crate::segment;
use crate::stop::Stop;

/// The offset of the memory operand in its segment (SDM 1 3.7.5).
pub(super) fn effective_address(cpu: &Cpu, insn: &Insn) -> u64 {
    let mem = &insn.mem;
    let base = match (mem.rip_relative, mem.base) {
        (true, _) => cpu.rip.wrapping_add(insn.len.into()),
        (false, Some(base)) => cpu.gpr(base),
        (false, None) => 0,
    };
    let index = mem.index.map_or(0, |index| cpu.gpr(index));
    let sum = base
        .wrapping_add(index.wrapping_mul(mem.scale.into()))
        .wrapping_add(mem.disp as u64);
    sum & mask(insn.addr_size)
}

/// The linear address of `len` bytes of the memory operand. `align`: what the processor
/// wants their address to be a multiple of where it checks that with #AC; 1: nothing.
///
/// # Errors
///
/// #GP, #SS or #AC.
pub(super) fn linear(
    cpu: &Cpu,
    insn: &Insn,
    len: u16,
    align: u16,
    write: bool,
) -> Result<Gva, Stop> {
    let offset = effective_address(cpu, insn);
    let gva = segment::linear(cpu, insn.mem.seg, offset, len, write)?;
    segment::aligned(cpu, gva, align)?;
    Ok(gva)
}

/// An operand, `size` bytes of it, zero-extended.
///
/// # Errors
///
/// The [`Stop`] that reading memory ends in.
pub(super) fn read(
    guest: &mut Guest<'_>,
    insn: &Insn,
    operand: Operand,
    size: u8,
) -> Result<u64, Stop> {
    match operand {
        Operand::Gpr(number) => Ok(guest.cpu.gpr_sized(number, size)),
        Operand::High(number) => Ok(guest.cpu.gpr(number) >> 8 & 0xff),
        Operand::Imm => Ok(insn.imm as u64 & mask(size)),
        Operand::Mem => {
            let gva = linear(guest.cpu, insn, size.into(), size.into(), false)?;
            load(guest, gva, size)
        }
        _ => Err(Stop::Refused(insn.op)),
    }
}

/// Writes a register operand; memory is for [`store`].
pub(super) fn set_register(cpu: &mut Cpu, operand: Operand, size: u8, value: u64) {
    match operand {
        Operand::Gpr(number) => cpu.set_gpr_sized(number, size, value),
        Operand::High(number) => {
            let rest = cpu.gpr(number) & !0xff00;
            cpu.set_gpr_sized(number, 8, rest | (value & 0xff) << 8);
        }
        _ => (),
    }
}

/// Reads 1 to 8 bytes, zero-extended.
///
/// # Errors
///
/// The [`Stop`] that it ends in.
pub(super) fn load(guest: &mut Guest<'_>, gva: Gva, size: u8) -> Result<u64, Stop> {
    let source = guest.prepare_read(gva, size.into(), false)?;
    let mut bytes = [0; 8];
    guest.load(&source, first(&mut bytes, size)?)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Writes a span of 1 to 8 bytes.
///
/// # Errors
///
/// The [`Stop`] that it ends in.
pub(super) fn store(guest: &mut Guest<'_>, span: Span, size: u8, value: u64) -> Result<(), Stop> {
    let mut bytes = value.to_le_bytes();
    guest.commit(span, first(&mut bytes, size)?)
}

/// The first `size` of 8 bytes.
fn first(bytes: &mut [u8; 8], size: u8) -> Result<&mut [u8], Stop> {
    bytes.get_mut(..usize::from(size)).ok_or(Stop::Host)
}
