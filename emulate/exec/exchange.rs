// SPDX-License-Identifier: GPL-2.0

//! XCHG, XADD and the CMPXCHG family. They are executed as locked accesses, with LOCK or
//! without: that is never wrong, and XCHG has it always.
//!
//! CMPXCHG writes in any case: where it finds another value, it writes that back.

use super::arithmetic::{self, flag};
use super::operand::{self, linear, load_span, read, set_register};
use super::{retire, Done};
use crate::cpu::gpr::{RAX, RBX, RCX, RDX};
use crate::cpu::rflags::{ARITHMETIC, ZF};
use crate::guard::{Guest, Intent};
use crate::insn::{Insn, Operand};
use crate::op::Op;
use crate::stop::{Exception, Stop};

/// Executes XCHG, XADD and CMPXCHG with memory.
pub(super) fn execute(guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    let size = insn.size;
    // XCHG is written either way.
    let register = match insn.dst {
        Operand::Mem => insn.src,
        register => register,
    };
    let src = read(guest, insn, register, size)?;
    let gva = linear(guest.cpu, insn, size.into(), size.into(), true)?;
    let span = guest.prepare_write(gva, size.into(), Intent::ReadWrite)?;
    let old = load_span(guest, &span, size)?;
    match insn.op {
        Op::Xchg => {
            operand::exchange(guest, span, size, old, src)?;
            set_register(guest.cpu, register, size, old);
        }
        Op::Xadd => {
            let (sum, flags) = arithmetic::add(old, src, false, size);
            operand::exchange(guest, span, size, old, sum)?;
            set_register(guest.cpu, register, size, old);
            set_flags(guest, ARITHMETIC, flags);
        }
        Op::Cmpxchg => {
            let accumulator = guest.cpu.gpr_sized(RAX, size);
            let (_, flags) = arithmetic::sub(accumulator, old, false, size);
            let equal = accumulator == old;
            operand::exchange(guest, span, size, old, if equal { src } else { old })?;
            if !equal {
                guest.cpu.set_gpr_sized(RAX, size, old);
            }
            set_flags(guest, ARITHMETIC, flags);
        }
        op => return Err(Stop::Refused(op)),
    }
    Ok(retire(guest, insn))
}

/// Executes CMPXCHG8B and CMPXCHG16B.
pub(super) fn double(guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    // Bytes of one half.
    let (size, len, align) = match insn.op {
        Op::Cmpxchg8b => (4, 8u16, 8),
        _ => (8, 16, 1),
    };
    let gva = linear(guest.cpu, insn, len, align, true)?;
    if len == 16 && gva.get() & 15 != 0 {
        return Err(Exception::gp(0).into());
    }
    let span = guest.prepare_write(gva, len, Intent::ReadWrite)?;
    let mut old = [0; 16];
    let whole = old.get_mut(..len.into()).ok_or(Stop::Host)?;
    guest.load_span(&span, whole)?;
    let mut new = halves(guest, RBX, RCX, size);
    let expected = halves(guest, RAX, RDX, size);
    let equal = expected == old;
    if !equal {
        new = old;
    }
    let (old_bytes, new_bytes) = (old.get(..len.into()), new.get(..len.into()));
    guest.exchange(
        span,
        old_bytes.ok_or(Stop::Host)?,
        new_bytes.ok_or(Stop::Host)?,
    )?;
    if !equal {
        let old = u128::from_le_bytes(old);
        let high = match size {
            4 => (old >> 32) as u64,
            _ => (old >> 64) as u64,
        };
        guest.cpu.set_gpr_sized(RAX, size, old as u64);
        guest.cpu.set_gpr_sized(RDX, size, high);
    }
    set_flags(guest, ZF, flag(equal, ZF));
    Ok(retire(guest, insn))
}

/// Two registers of `size` bytes as they lie in memory, the rest 0.
fn halves(guest: &Guest<'_>, low: u8, high: u8, size: u8) -> [u8; 16] {
    let (low, high) = (guest.cpu.gpr_sized(low, size), guest.cpu.gpr(high));
    match size {
        4 => u128::from(low | high << 32).to_le_bytes(),
        _ => (u128::from(low) | u128::from(high) << 64).to_le_bytes(),
    }
}

fn set_flags(guest: &mut Guest<'_>, changed: u64, flags: u64) {
    guest.cpu.rflags = guest.cpu.rflags & !changed | flags;
}
