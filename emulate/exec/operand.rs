// SPDX-License-Identifier: GPL-2.0

//! Operands: where they are, and what they are.

use ept::Gva;

use crate::cpu::{mask, Cpu};
use crate::guard::{Guest, Source, Span};
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
pub(crate) fn linear(
    cpu: &Cpu,
    insn: &Insn,
    len: u16,
    align: u16,
    write: bool,
) -> Result<Gva, Stop> {
    linear_ahead(cpu, insn, 0, len, align, write)
}

/// As [`linear`], `ahead` bytes from the memory operand.
pub(super) fn linear_ahead(
    cpu: &Cpu,
    insn: &Insn,
    ahead: u64,
    len: u16,
    align: u16,
    write: bool,
) -> Result<Gva, Stop> {
    let offset = effective_address(cpu, insn).wrapping_add(ahead) & mask(insn.addr_size);
    let gva = segment::linear(cpu, insn.mem.seg, offset, len, write)?;
    segment::aligned(cpu, gva, align)?;
    Ok(gva)
}

/// An operand that is going to be read: all checks are made, no device has been asked.
pub(super) enum Input {
    /// A register or an immediate.
    Value(u64),
    /// Memory.
    Memory(Source),
}

impl Input {
    /// Prepares reading `size` bytes of an operand.
    pub(super) fn prepare(
        guest: &mut Guest<'_>,
        insn: &Insn,
        operand: Operand,
        size: u8,
    ) -> Result<Self, Stop> {
        Ok(match operand {
            Operand::Gpr(number) => Self::Value(guest.cpu.gpr_sized(number, size)),
            Operand::High(number) => Self::Value(guest.cpu.gpr(number & 3) >> 8 & 0xff),
            Operand::Imm => Self::Value(insn.imm as u64 & mask(size)),
            Operand::Mem => Self::Memory(source(guest, insn, size)?),
            _ => return Err(Stop::Refused(insn.op)),
        })
    }

    /// Reads it, zero-extended.
    pub(super) fn value(&self, guest: &mut Guest<'_>, size: u8) -> Result<u64, Stop> {
        match self {
            Self::Value(value) => Ok(*value),
            Self::Memory(source) => load(guest, source, size),
        }
    }
}

/// Prepares reading `size` bytes of the memory operand.
fn source(guest: &mut Guest<'_>, insn: &Insn, size: u8) -> Result<Source, Stop> {
    let gva = linear(guest.cpu, insn, size.into(), size.into(), false)?;
    guest.prepare_read(gva, size.into(), false)
}

/// Reads `size` bytes of an operand, zero-extended.
pub(super) fn read(
    guest: &mut Guest<'_>,
    insn: &Insn,
    operand: Operand,
    size: u8,
) -> Result<u64, Stop> {
    match operand {
        Operand::Gpr(number) => Ok(guest.cpu.gpr_sized(number, size)),
        Operand::Mem => {
            let source = source(guest, insn, size)?;
            load(guest, &source, size)
        }
        _ => Input::prepare(guest, insn, operand, size)?.value(guest, size),
    }
}

/// Writes a register operand; memory is for [`store`].
pub(super) fn set_register(cpu: &mut Cpu, operand: Operand, size: u8, value: u64) {
    match operand {
        Operand::Gpr(number) => cpu.set_gpr_sized(number, size, value),
        Operand::High(number) => {
            let rest = cpu.gpr(number & 3) & !0xff00;
            cpu.set_gpr_sized(number & 3, 8, rest | (value & 0xff) << 8);
        }
        _ => (),
    }
}

/// Reads 1 to 8 bytes that were looked up, zero-extended.
pub(super) fn load(guest: &mut Guest<'_>, source: &Source, size: u8) -> Result<u64, Stop> {
    let mut bytes = [0; 8];
    guest.load(source, first(&mut bytes, size)?)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Reads the 1 to 8 bytes of a span, zero-extended.
pub(super) fn load_span(guest: &mut Guest<'_>, span: &Span, size: u8) -> Result<u64, Stop> {
    let mut bytes = [0; 8];
    guest.load_span(span, first(&mut bytes, size)?)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Writes the 1 to 8 bytes of a span.
pub(super) fn store(guest: &mut Guest<'_>, span: Span, size: u8, value: u64) -> Result<(), Stop> {
    let mut bytes = value.to_le_bytes();
    guest.commit(span, first(&mut bytes, size)?)
}

/// Replaces the 1 to 8 bytes of a span as a locked access: `old` is what [`load_span`] read.
pub(super) fn exchange(
    guest: &mut Guest<'_>,
    span: Span,
    size: u8,
    old: u64,
    new: u64,
) -> Result<(), Stop> {
    let (mut old, mut new) = (old.to_le_bytes(), new.to_le_bytes());
    guest.exchange(span, first(&mut old, size)?, first(&mut new, size)?)
}

/// The first `size` of 8 bytes.
fn first(bytes: &mut [u8; 8], size: u8) -> Result<&mut [u8], Stop> {
    bytes.get_mut(..usize::from(size)).ok_or(Stop::Host)
}
