// SPDX-License-Identifier: GPL-2.0

//! Sums, differences and logic, with their flags (SDM 1 appendix A).
//!
//! Each function takes numbers of `size` bytes, zero-extended, and returns one, with the
//! flags of [`ARITHMETIC`] that go with it.

use crate::cpu::mask;
use crate::cpu::rflags::{AF, ARITHMETIC, CF, OF, PF, SF, ZF};
use crate::op::Op;

/// A result and RFLAGS, or as much of it as the function sets.
pub(super) type Outcome = (u64, u64);

/// The highest bit of a number of `size` bytes.
pub(super) fn sign(value: u64, size: u8) -> bool {
    value.wrapping_shr(bits(size).wrapping_sub(1)) & 1 != 0
}

/// How many bits `size` bytes have.
pub(super) fn bits(size: u8) -> u32 {
    u32::from(size).wrapping_mul(8)
}

/// A number of `size` bytes as a signed one.
pub(super) fn signed(value: u64, size: u8) -> i64 {
    let unused = 64u32.wrapping_sub(bits(size));
    (value.wrapping_shl(unused) as i64).wrapping_shr(unused)
}

/// `flag` if `set`.
pub(super) fn flag(set: bool, flag: u64) -> u64 {
    if set {
        flag
    } else {
        0
    }
}

/// SF, ZF and PF.
pub(super) fn result_flags(value: u64, size: u8) -> u64 {
    flag(sign(value, size), SF)
        | flag(value & mask(size) == 0, ZF)
        | flag((value as u8).count_ones() & 1 == 0, PF)
}

/// `a + b + carry`.
pub(super) fn add(a: u64, b: u64, carry: bool, size: u8) -> Outcome {
    let sum = a.wrapping_add(b).wrapping_add(carry.into()) & mask(size);
    // The carry out of each bit.
    let carries = a & b | (a | b) & !sum;
    let overflow = (a ^ sum) & (b ^ sum);
    (sum, carry_flags(carries, overflow, sum, size))
}

/// `a - b - borrow`.
pub(super) fn sub(a: u64, b: u64, borrow: bool, size: u8) -> Outcome {
    let difference = a.wrapping_sub(b).wrapping_sub(borrow.into()) & mask(size);
    // The borrow into each bit's neighbour.
    let borrows = !a & b | !(a ^ b) & difference;
    let overflow = (a ^ b) & (a ^ difference);
    (difference, carry_flags(borrows, overflow, difference, size))
}

fn carry_flags(carries: u64, overflow: u64, value: u64, size: u8) -> u64 {
    flag(sign(carries, size), CF)
        | flag(carries & 1 << 3 != 0, AF)
        | flag(sign(overflow, size), OF)
        | result_flags(value, size)
}

/// What a read-modify-write operation of two operands at most makes of the old value,
/// with all of RFLAGS. `None`: it is none of these.
pub(super) fn modified(op: Op, old: u64, src: u64, rflags: u64, size: u8) -> Option<Outcome> {
    let carry = rflags & CF != 0;
    let logic = |value| (value, result_flags(value, size));
    let (value, flags) = match op {
        Op::Add => add(old, src, false, size),
        Op::Adc => add(old, src, carry, size),
        Op::Sub | Op::Cmp => sub(old, src, false, size),
        Op::Sbb => sub(old, src, carry, size),
        Op::Or => logic(old | src),
        Op::And | Op::Test => logic(old & src),
        Op::Xor => logic(old ^ src),
        Op::Neg => sub(0, old, false, size),
        Op::Not => (!old & mask(size), rflags),
        // These leave CF alone.
        Op::Inc => keep_carry(add(old, 1, false, size), rflags),
        Op::Dec => keep_carry(sub(old, 1, false, size), rflags),
        _ => return None,
    };
    Some((value, rflags & !ARITHMETIC | flags & ARITHMETIC))
}

fn keep_carry((value, flags): Outcome, rflags: u64) -> Outcome {
    (value, flags & !CF | rflags & CF)
}
