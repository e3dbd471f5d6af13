// SPDX-License-Identifier: GPL-2.0

//! Rotates and shifts (SDM 2B, RCL and the like, SAL and the like, SHLD and SHRD).
//!
//! Where the manual leaves a flag undefined, it has the value that the rule for the
//! defined cases gives; AF becomes 0.

use super::arithmetic::{bits, flag, result_flags, sign, signed, Outcome};
use crate::cpu::mask;
use crate::cpu::rflags::{ARITHMETIC, CF, OF};
use crate::op::Op;

/// What a rotate or a shift by `count` makes of a number of `size` bytes, with all of
/// RFLAGS. `None`: it is none of these.
pub(super) fn single(op: Op, old: u64, count: u64, rflags: u64, size: u8) -> Option<Outcome> {
    let count = masked(count, size);
    if count == 0 {
        return Some((old, rflags));
    }
    let carry = rflags & CF;
    let rotate = |(value, flags)| (value, rflags & !(CF | OF) | flags);
    let shift = |(value, flags)| {
        let flags = flags | result_flags(value, size);
        (value, rflags & !ARITHMETIC | flags)
    };
    Some(match op {
        Op::Rol => rotate(rol(old, count, size)),
        Op::Ror => rotate(ror(old, count, size)),
        Op::Rcl => rotate(rcl(old, count, carry, size)),
        Op::Rcr => rotate(rcr(old, count, carry, size)),
        Op::Shl => shift(shl(old, count, size)),
        Op::Shr => shift(shr(old, count, size)),
        Op::Sar => shift(sar(old, count, size)),
        _ => return None,
    })
}

/// What SHLD or SHRD by `count` makes of a number of `size` bytes, filled up with bits of
/// `fill`; with all of RFLAGS. `None`: it is none of these.
pub(super) fn double(
    op: Op,
    old: u64,
    fill: u64,
    count: u64,
    rflags: u64,
    size: u8,
) -> Option<Outcome> {
    let count = masked(count, size);
    if count == 0 {
        return Some((old, rflags));
    }
    let width = bits(size);
    // A word may be shifted by more than its width: then it follows its own filling.
    let (old, fill, count) = match count.checked_sub(width) {
        Some(rest) if rest > 0 => (fill, old, rest),
        _ => (old, fill, count),
    };
    let rest = width.wrapping_sub(count);
    let (value, carry, overflow) = match op {
        Op::Shld => {
            let value = (left(old, count) | right(fill, rest)) & mask(size);
            let carry = bit(old, rest);
            (value, carry, carry != sign(value, size))
        }
        Op::Shrd => {
            let value = (right(old, count) | left(fill, rest)) & mask(size);
            let carry = bit(old, count.wrapping_sub(1));
            (value, carry, top_bits_differ(value, size))
        }
        _ => return None,
    };
    let flags = flag(carry, CF) | flag(overflow, OF) | result_flags(value, size);
    Some((value, rflags & !ARITHMETIC | flags))
}

/// The count that counts.
fn masked(count: u64, size: u8) -> u32 {
    match size {
        8 => count as u32 & 63,
        _ => count as u32 & 31,
    }
}

fn left(value: u64, count: u32) -> u64 {
    value.checked_shl(count).unwrap_or(0)
}

fn right(value: u64, count: u32) -> u64 {
    value.checked_shr(count).unwrap_or(0)
}

fn bit(value: u64, number: u32) -> bool {
    right(value, number) & 1 != 0
}

fn top_bits_differ(value: u64, size: u8) -> bool {
    sign(value ^ value.wrapping_shl(1), size)
}

/// CF, and OF where a shift to the left changes the sign.
fn left_flags(carry: bool, value: u64, size: u8) -> u64 {
    flag(carry, CF) | flag(carry != sign(value, size), OF)
}

/// CF, and OF where a shift to the right changes the sign.
fn right_flags(carry: bool, value: u64, size: u8) -> u64 {
    flag(carry, CF) | flag(top_bits_differ(value, size), OF)
}

fn rol(old: u64, count: u32, size: u8) -> Outcome {
    let width = bits(size);
    let count = count.checked_rem(width).unwrap_or(0);
    let value = (left(old, count) | right(old, width.wrapping_sub(count))) & mask(size);
    (value, left_flags(value & 1 != 0, value, size))
}

fn ror(old: u64, count: u32, size: u8) -> Outcome {
    let width = bits(size);
    let count = count.checked_rem(width).unwrap_or(0);
    let value = (right(old, count) | left(old, width.wrapping_sub(count))) & mask(size);
    (value, right_flags(sign(value, size), value, size))
}

/// CF goes round as a bit above the highest.
fn rcl(old: u64, count: u32, carry: u64, size: u8) -> Outcome {
    let turn = bits(size).wrapping_add(1);
    let count = count.checked_rem(turn).unwrap_or(0);
    if count == 0 {
        return (old, left_flags(carry & CF != 0, old, size));
    }
    let value = left(old, count)
        | left(carry, count.wrapping_sub(1))
        | right(old, turn.wrapping_sub(count));
    let value = value & mask(size);
    let carry = bit(old, bits(size).wrapping_sub(count));
    (value, left_flags(carry, value, size))
}

/// CF goes round as a bit above the highest.
fn rcr(old: u64, count: u32, carry: u64, size: u8) -> Outcome {
    let turn = bits(size).wrapping_add(1);
    let count = count.checked_rem(turn).unwrap_or(0);
    if count == 0 {
        return (old, right_flags(carry & CF != 0, old, size));
    }
    let value = right(old, count)
        | left(carry, bits(size).wrapping_sub(count))
        | left(old, turn.wrapping_sub(count));
    let value = value & mask(size);
    let carry = bit(old, count.wrapping_sub(1));
    (value, right_flags(carry, value, size))
}

fn shl(old: u64, count: u32, size: u8) -> Outcome {
    let value = left(old, count) & mask(size);
    // Beyond its width, only zeros fall out.
    let carry = bits(size)
        .checked_sub(count)
        .is_some_and(|number| bit(old, number));
    (value, left_flags(carry, value, size))
}

fn shr(old: u64, count: u32, size: u8) -> Outcome {
    let value = right(old, count);
    let carry = bit(old, count.wrapping_sub(1));
    (value, right_flags(carry, value, size))
}

fn sar(old: u64, count: u32, size: u8) -> Outcome {
    let old = signed(old, size);
    let value = old.wrapping_shr(count) as u64 & mask(size);
    let carry = old.wrapping_shr(count.wrapping_sub(1)) & 1 != 0;
    (value, flag(carry, CF))
}
