// SPDX-License-Identifier: GPL-2.0

//! SSE and AVX moves, between memory and the vCPU's XSAVE area.
//!
//! ```text
//!   bit  255        128 127    64 63      0
//!        +-------------+---------+---------+
//!        |             |         | scalar, |   legacy SSE keeps what it does not write,
//!        |             |  high   |   low   |   VEX clears it
//!        +-------------+---------+---------+
//! ```

use ept::Gva;

use super::{operand, retire, Done};
use crate::cpu::{rflags, Cpu};
use crate::guard::{Guest, Intent, Span};
use crate::insn::{Insn, Operand};
use crate::op::Op;
use crate::segment;
use crate::stop::{Exception, Stop};
use crate::xsave::{self, Ymm};

const CR0_PE: u64 = 1 << 0;
const CR0_EM: u64 = 1 << 2;
const CR0_TS: u64 = 1 << 3;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXSAVE: u64 = 1 << 18;

/// Executes one of them.
// Not inlined: its stack is not that of all other instructions.
#[inline(never)]
pub(super) fn execute(guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    enabled(guest.cpu, insn.vex)?;
    if !xsave::holds(guest.fpu, insn.vex) || insn.vector_len > 32 {
        return Err(Stop::Refused(insn.op));
    }
    match insn.op {
        Op::VectorStore | Op::ScalarStore => store(guest, insn, 0)?,
        Op::HighStore => store(guest, insn, 8)?,
        Op::VectorLoad | Op::ScalarLoad => load(guest, insn)?,
        Op::LowLoad => load_half(guest, insn, 0)?,
        Op::HighLoad => load_half(guest, insn, 8)?,
        Op::Maskmovdqu => store_bytes(guest, insn)?,
        Op::VmaskmovStore => store_elements(guest, insn)?,
        op => return Err(Stop::Refused(op)),
    }
    Ok(retire(guest, insn))
}

/// Checks what the operating system has to switch on (SDM 2A 2.4 and 2.6, SDM 3A 2.5).
fn enabled(cpu: &Cpu, vex: bool) -> Result<(), Exception> {
    let (cr0, cr4) = (cpu.paging.cr0, cpu.paging.cr4);
    let on = if vex {
        let real = cr0 & CR0_PE == 0 || cpu.rflags & rflags::VM != 0;
        let avx = cpu.xcr0 & xsave::XCR0_AVX == xsave::XCR0_AVX;
        !real && cr4 & CR4_OSXSAVE != 0 && avx
    } else {
        cr0 & CR0_EM == 0 && cr4 & CR4_OSFXSR != 0
    };
    match (on, cr0 & CR0_TS == 0) {
        (false, _) => Err(Exception::UD),
        (true, false) => Err(Exception::NM),
        (true, true) => Ok(()),
    }
}

/// A vector register, 0 to 15, which is all that legacy SSE and VEX can name.
fn register(insn: &Insn, operand: Operand) -> Result<u8, Stop> {
    match operand {
        Operand::Vector(number) if number < 16 => Ok(number),
        _ => Err(Stop::Refused(insn.op)),
    }
}

/// The linear address of the memory operand.
///
/// Whether vectors that need not be aligned are checked with #AC is the processor's
/// choice, for addresses that are not multiples of 8 (SDM 2B, MOVUPS): here they are.
fn linear(cpu: &Cpu, insn: &Insn, write: bool) -> Result<Gva, Stop> {
    let size = insn.mem_size;
    let gva = operand::linear(cpu, insn, size, 1, write)?;
    if insn.aligned && gva.get() & u64::from(size).wrapping_sub(1) != 0 {
        return Err(Exception::gp(0).into());
    }
    segment::aligned(cpu, gva, size.min(8))?;
    Ok(gva)
}

/// Stores as much of a register as memory takes, from byte `from` on.
fn store(guest: &mut Guest<'_>, insn: &Insn, from: usize) -> Result<(), Stop> {
    let value = xsave::read(guest.fpu, register(insn, insn.src)?);
    let end = from.saturating_add(insn.mem_size.into());
    let data = value.get(from..end).ok_or(Stop::Refused(insn.op))?;
    let gva = linear(guest.cpu, insn, true)?;
    let span = guest.prepare_write(gva, insn.mem_size, Intent::Write)?;
    guest.commit(span, data)
}

/// Reads memory into `value`, from byte `at` on.
fn fetch(guest: &mut Guest<'_>, insn: &Insn, value: &mut Ymm, at: usize) -> Result<(), Stop> {
    let end = at.saturating_add(insn.mem_size.into());
    let to = value.get_mut(at..end).ok_or(Stop::Refused(insn.op))?;
    let gva = linear(guest.cpu, insn, false)?;
    let source = guest.prepare_read(gva, insn.mem_size, false)?;
    guest.load(&source, to)
}

/// Loads a register and clears what memory does not give, up to bit 127 or, with VEX, to
/// the last.
fn load(guest: &mut Guest<'_>, insn: &Insn) -> Result<(), Stop> {
    let to = register(insn, insn.dst)?;
    let mut value = [0; 32];
    fetch(guest, insn, &mut value, 0)?;
    replace(guest, insn, to, &value);
    Ok(())
}

/// Loads 8 bytes, `at` 0 or 8, of a register; the other 8 are its own or, with VEX, those
/// of the second operand.
fn load_half(guest: &mut Guest<'_>, insn: &Insn, at: usize) -> Result<(), Stop> {
    let to = register(insn, insn.dst)?;
    let other = match insn.vex {
        true => register(insn, insn.src)?,
        false => to,
    };
    let mut value = xsave::read(guest.fpu, other);
    let (_, high) = value.split_at_mut(16);
    high.fill(0);
    fetch(guest, insn, &mut value, at)?;
    replace(guest, insn, to, &value);
    Ok(())
}

fn replace(guest: &mut Guest<'_>, insn: &Insn, to: u8, value: &Ymm) {
    match (insn.vex, value.first_chunk()) {
        (false, Some(xmm)) => xsave::write_xmm(guest.fpu, to, xmm),
        _ => xsave::write_ymm(guest.fpu, to, value),
    }
}

/// MASKMOVDQU: the sign bits of the third operand's bytes choose bytes of the second. The
/// memory operand is implied.
///
/// The processor may fault on bytes that it does not write, and here does so: all 16 must
/// be where the guest can write. Sub-pages count only for what is written.
fn store_bytes(guest: &mut Guest<'_>, insn: &Insn) -> Result<(), Stop> {
    let value = xsave::read(guest.fpu, register(insn, insn.src)?);
    let data = value.first_chunk::<16>().ok_or(Stop::Host)?;
    let enable = xsave::read(guest.fpu, register(insn, insn.third)?);
    let bytes = chosen(&enable, 1, data.len());
    let gva = operand::linear(guest.cpu, insn, 16, 1, true)?;
    let span = guest.prepare_bytes(gva, 16, Intent::Write, bytes, false)?;
    if bytes == 0 {
        return Ok(());
    }
    commit(guest, insn, span, data, bytes)
}

/// VMASKMOVPS and the like: the sign bits of the second operand's elements choose
/// elements of the third.
///
/// What is before the first element that is written, and after the last, is as if the
/// instruction did not have it: no access, no fault (SDM 2C VMASKMOV).
fn store_elements(guest: &mut Guest<'_>, insn: &Insn) -> Result<(), Stop> {
    let value = xsave::read(guest.fpu, register(insn, insn.third)?);
    let enable = xsave::read(guest.fpu, register(insn, insn.src)?);
    let bytes = chosen(&enable, insn.size.into(), insn.vector_len.into());
    if bytes == 0 {
        return Ok(());
    }
    let first = bytes.trailing_zeros();
    let past = 64u32.saturating_sub(bytes.leading_zeros());
    let len = past.saturating_sub(first) as u16;
    let data = value
        .get(first as usize..past as usize)
        .ok_or(Stop::Refused(insn.op))?;
    // Inside the operand, addresses do not wrap.
    let offset = operand::effective_address(guest.cpu, insn).wrapping_add(first.into());
    let gva = segment::linear(guest.cpu, insn.mem.seg, offset, len, true)?;
    let bytes = bytes.wrapping_shr(first);
    let span = guest.prepare_bytes(gva, len, Intent::Write, bytes, false);
    let span = span.map_err(|stop| at_written(stop, gva, bytes))?;
    commit(guest, insn, span, data, bytes)
}

/// Writes chosen bytes. A device cannot get words with holes.
fn commit(
    guest: &mut Guest<'_>,
    insn: &Insn,
    span: Span,
    data: &[u8],
    bytes: u64,
) -> Result<(), Stop> {
    let result = guest.commit_bytes(span, data, bytes);
    result.map_err(|stop| match stop {
        Stop::Refused(_) => Stop::Refused(insn.op),
        stop => stop,
    })
}

/// A page fault in the second page of a store names the first byte there that is written.
fn at_written(stop: Stop, gva: Gva, bytes: u64) -> Stop {
    let Stop::Exception(exception) = stop else {
        return stop;
    };
    let cr2 = exception.cr2.map(|at| {
        let ahead = at.get().wrapping_sub(gva.get());
        let skipped = bytes.wrapping_shr(ahead as u32).trailing_zeros();
        Gva::new(at.get().wrapping_add(u64::from(skipped)))
    });
    Stop::Exception(Exception { cr2, ..exception })
}

/// The bytes of the elements whose sign bit is set, of the first `len` bytes. The size of
/// an element is a power of two.
fn chosen(enable: &Ymm, element: usize, len: usize) -> u64 {
    let last = element.wrapping_sub(1);
    let sign = |n: &usize| enable.get(n | last).is_some_and(|byte| byte & 0x80 != 0);
    let bytes = (0..len.min(enable.len())).filter(sign);
    bytes.fold(0, |bytes, n| bytes | 1u64.wrapping_shl(n as u32))
}

#[cfg(test)]
#[path = "../tests/vector.rs"]
mod tests;
