// SPDX-License-Identifier: GPL-2.0

//! Products and quotients.
//!
//! SF, ZF, AF and PF, which the manual leaves undefined, stay as they are, and so do all
//! flags of a division.

use super::arithmetic::{bits, flag, signed, Outcome};
use super::{operand, retire, Done};
use crate::cpu::gpr::{RAX, RDX};
use crate::cpu::rflags::{CF, OF};
use crate::cpu::{mask, Cpu};
use crate::guard::Guest;
use crate::insn::{Insn, Operand};
use crate::op::Op;
use crate::stop::{Exception, Stop};

/// Executes MUL, DIV and the forms of IMUL and IDIV with one operand: RDX:RAX, or AX, is
/// the other one.
pub(super) fn wide(guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    let (op, size) = (insn.op, insn.size);
    let src = operand::read(guest, insn, insn.dst, size)?;
    let cpu = &mut *guest.cpu;
    let (low, high) = pair(cpu, size);
    match op {
        Op::Mul | Op::Imul => {
            let (low, high, wide) = product(op == Op::Imul, low, src, size);
            set_pair(cpu, size, low, high);
            set_wide(cpu, wide);
        }
        Op::Div | Op::Idiv => {
            let quotient = match op {
                Op::Div => divide(high, low, src, size),
                _ => divide_signed(high, low, src, size),
            };
            let (quotient, remainder) = quotient.ok_or(Exception::DE)?;
            set_pair(cpu, size, quotient, remainder);
        }
        op => return Err(Stop::Refused(op)),
    }
    Ok(retire(guest, insn))
}

/// Executes IMUL with two and three operands.
pub(super) fn narrow(guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    let size = insn.size;
    let a = operand::read(guest, insn, insn.src, size)?;
    let b = match insn.third {
        Operand::None => operand::read(guest, insn, insn.dst, size)?,
        third => operand::read(guest, insn, third, size)?,
    };
    let (low, _, wide) = product(true, a, b, size);
    operand::set_register(guest.cpu, insn.dst, size, low);
    set_wide(guest.cpu, wide);
    Ok(retire(guest, insn))
}

/// The lower and the upper half of the accumulator.
fn pair(cpu: &Cpu, size: u8) -> (u64, u64) {
    let rax = cpu.gpr(RAX);
    match size {
        1 => (rax & 0xff, rax >> 8 & 0xff),
        _ => (rax & mask(size), cpu.gpr_sized(RDX, size)),
    }
}

fn set_pair(cpu: &mut Cpu, size: u8, low: u64, high: u64) {
    match size {
        1 => cpu.set_gpr_sized(RAX, 2, low & 0xff | high << 8),
        _ => {
            cpu.set_gpr_sized(RAX, size, low);
            cpu.set_gpr_sized(RDX, size, high);
        }
    }
}

/// CF and OF: the upper half of the product counts.
fn set_wide(cpu: &mut Cpu, wide: bool) {
    cpu.rflags = cpu.rflags & !(CF | OF) | flag(wide, CF | OF);
}

/// Both halves of a product, and whether the upper one counts.
fn product(sign: bool, a: u64, b: u64, size: u8) -> (u64, u64, bool) {
    let product = if sign {
        i128::from(signed(a, size)).wrapping_mul(signed(b, size).into()) as u128
    } else {
        u128::from(a).wrapping_mul(b.into())
    };
    let low = product as u64 & mask(size);
    let high = match size {
        8 => (product >> 64) as u64,
        size => (product as u64).wrapping_shr(bits(size)) & mask(size),
    };
    let fill = match sign && signed(low, size) < 0 {
        true => mask(size),
        false => 0,
    };
    (low, high, high != fill)
}

/// Quotient and remainder of two halves by `divisor`. `None`: it does not fit, or the
/// divisor is 0.
fn divide(high: u64, low: u64, divisor: u64, size: u8) -> Option<Outcome> {
    if high >= divisor {
        return None;
    }
    if size == 8 {
        return Some(long_division(high, low, divisor));
    }
    let dividend = high.wrapping_shl(bits(size)) | low;
    Some((
        dividend.checked_div(divisor)?,
        dividend.checked_rem(divisor)?,
    ))
}

/// 128 bits by 64: `high` is less than `divisor`. Bit by bit, since kernels have no
/// division of 128 bits.
fn long_division(high: u64, low: u64, divisor: u64) -> Outcome {
    let (mut rest, mut low, mut quotient) = (high, low, 0u64);
    for _ in 0..64 {
        let carry = rest >> 63;
        rest = rest << 1 | low >> 63;
        low <<= 1;
        quotient <<= 1;
        if carry != 0 || rest >= divisor {
            rest = rest.wrapping_sub(divisor);
            quotient |= 1;
        }
    }
    (quotient, rest)
}

/// As [`divide`], truncated towards 0; the remainder has the sign of the dividend.
fn divide_signed(high: u64, low: u64, divisor: u64, size: u8) -> Option<Outcome> {
    let negative = signed(high, size) < 0;
    let (high, low) = match negative {
        true => {
            let carry = u64::from(low == 0);
            let low = low.wrapping_neg() & mask(size);
            ((!high).wrapping_add(carry) & mask(size), low)
        }
        false => (high, low),
    };
    let divisor = signed(divisor, size);
    let (quotient, remainder) = divide(high, low, divisor.unsigned_abs(), size)?;
    let opposite = negative != (divisor < 0);
    // The greatest magnitudes: 2^n - 1 above zero, 2^n below.
    let most = (mask(size) >> 1).wrapping_add(opposite.into());
    if quotient > most {
        return None;
    }
    let with_sign = |value: u64, minus| if minus { value.wrapping_neg() } else { value };
    Some((
        with_sign(quotient, opposite) & mask(size),
        with_sign(remainder, negative) & mask(size),
    ))
}
