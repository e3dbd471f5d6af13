// SPDX-License-Identifier: GPL-2.0

//! Bits: tests of single ones, scans and counts.
//!
//! Flags that the manual leaves undefined are as processors of AMD have them.

use super::arithmetic::{bits, flag, signed, Outcome};
use crate::cpu::mask;
use crate::cpu::rflags::{AF, ARITHMETIC, CF, PF, SF, ZF};
use crate::op::Op;

/// How many bytes ahead of the operand the word with bit `number`, a signed number of
/// `size` bytes, begins (SDM 2A 3.1.1.9, "Bit(BitBase, BitOffset)").
pub(super) fn word(number: u64, size: u8) -> u64 {
    let bytes = signed(number, size).wrapping_shr(3) as u64;
    bytes & !u64::from(size).wrapping_sub(1)
}

/// RFLAGS after a test of the bit `number`, modulo the width of the word, in it.
pub(super) fn test(word: u64, number: u64, rflags: u64, size: u8) -> u64 {
    rflags & !CF | flag(word & at(number, size) != 0, CF)
}

/// What BTS, BTR or BTC makes of a word, with all of RFLAGS. `None`: it is none of them.
pub(super) fn modified(op: Op, word: u64, number: u64, rflags: u64, size: u8) -> Option<Outcome> {
    let at = at(number, size);
    let value = match op {
        Op::Bts => word | at,
        Op::Btr => word & !at,
        Op::Btc => word ^ at,
        _ => return None,
    };
    Some((value, test(word, number, rflags, size)))
}

/// What BSF, BSR, TZCNT, LZCNT or POPCNT makes of a number of `size` bytes. `None`: it is
/// none of them. BSF and BSR of 0 have no result.
pub(super) fn counted(op: Op, src: u64, rflags: u64, size: u8) -> Option<Outcome> {
    let width = bits(size);
    let unused = 64u32.wrapping_sub(width);
    let zero = src == 0;
    let value: u64 = match op {
        Op::Bsf => src.trailing_zeros().into(),
        Op::Bsr => 63u32.wrapping_sub(src.leading_zeros()).into(),
        Op::Tzcnt => src.trailing_zeros().min(width).into(),
        Op::Lzcnt => src.leading_zeros().wrapping_sub(unused).into(),
        Op::Popcnt => src.count_ones().into(),
        _ => return None,
    };
    let even = value.count_ones() & 1 == 0;
    let (changed, flags) = match op {
        Op::Bsf | Op::Bsr => (ARITHMETIC, flag(zero, ZF) | flag(zero || even, PF)),
        Op::Popcnt => (ARITHMETIC, flag(zero, ZF)),
        _ => (
            CF | ZF | SF | AF | PF,
            flag(zero, CF) | flag(value == 0, ZF),
        ),
    };
    Some((value, rflags & !changed | flags))
}

/// CRC32 with the polynomial 11EDC6F41H of `size` bytes more.
pub(super) fn crc32(crc: u32, data: u64, size: u8) -> u32 {
    /// The polynomial, its bits in reverse.
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut crc = crc;
    for byte in data.to_le_bytes().iter().take(size.into()) {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let out = crc & 1;
            crc >>= 1;
            if out != 0 {
                crc ^= POLYNOMIAL;
            }
        }
    }
    crc
}

/// The bit `number` modulo the width of a word.
fn at(number: u64, size: u8) -> u64 {
    let number = number as u32 & bits(size).wrapping_sub(1);
    1u64.wrapping_shl(number) & mask(size)
}
