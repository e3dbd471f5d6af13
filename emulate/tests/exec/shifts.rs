// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::cpu::rflags::{AF, ARITHMETIC, CF, OF, PF, SF, ZF};

const OPS: [(Op, u8); 7] = [
    (Op::Rol, 0),
    (Op::Ror, 1),
    (Op::Rcl, 2),
    (Op::Rcr, 3),
    (Op::Shl, 4),
    (Op::Shr, 5),
    (Op::Sar, 7),
];

fn top(value: u64, bits: u32) -> u64 {
    value >> (bits - 1) & 1
}

/// One step of the manual's loops.
fn step(op: Op, value: u64, carry: u64, bits: u32) -> (u64, u64) {
    let high = top(value, bits);
    let low = value & 1;
    let right = |fill: u64| value >> 1 | fill << (bits - 1);
    let left = |fill: u64| value << 1 & mask((bits / 8) as u8) | fill;
    match op {
        Op::Rol => (left(high), high),
        Op::Ror => (right(low), low),
        Op::Rcl => (left(carry), high),
        Op::Rcr => (right(carry), low),
        Op::Shl => (left(0), high),
        Op::Shr => (right(0), low),
        _ => (right(high), low),
    }
}

/// Value, CF, and OF where it is defined.
fn by_the_book(op: Op, old: u64, count: u64, carry: u64, size: u8) -> (u64, u64, Option<u64>) {
    let bits = u32::from(size) * 8;
    let count = count & if size == 8 { 63 } else { 31 };
    let (mut value, mut cf) = (old, carry);
    for _ in 0..count {
        (value, cf) = step(op, value, cf, bits);
    }
    let overflow = (count == 1).then(|| match op {
        Op::Rol | Op::Rcl | Op::Shl => top(value, bits) ^ cf,
        Op::Sar => 0,
        // The sign changes.
        _ => top(value, bits) ^ top(old, bits),
    });
    (value, cf, overflow)
}

fn flags_of(value: u64, size: u8) -> u64 {
    let mut flags = 0;
    if value == 0 {
        flags |= ZF;
    }
    if top(value, u32::from(size) * 8) == 1 {
        flags |= SF;
    }
    if (value as u8).count_ones() % 2 == 0 {
        flags |= PF;
    }
    flags
}

#[track_caller]
fn check(op: Op, old: u64, count: u64, rflags: u64, size: u8) {
    let (value, carry, overflow) = by_the_book(op, old, count, rflags & CF, size);
    let (got, flags) = shift::single(op, old, count, rflags, size).unwrap();
    let what = std::format!("{op:?} {size} {old:x} by {count}, flags {rflags:x}");
    assert_eq!(got, value, "{what}");
    let counted = count & if size == 8 { 63 } else { 31 };
    if counted == 0 {
        assert_eq!(flags, rflags, "{what}");
        return;
    }
    assert_eq!(flags & CF, carry, "{what}");
    if let Some(overflow) = overflow {
        assert_eq!(flags & OF != 0, overflow == 1, "{what}");
    }
    let rotate = matches!(op, Op::Rol | Op::Ror | Op::Rcl | Op::Rcr);
    let others = ARITHMETIC & !(CF | OF | AF);
    let expected = match rotate {
        true => rflags,
        false => flags_of(value, size),
    };
    assert_eq!(flags & others, expected & others, "{what}");
    assert_eq!(flags & !ARITHMETIC, rflags & !ARITHMETIC, "{what}");
}

#[test]
fn all_bytes() {
    for (op, _) in OPS {
        for n in 0..1u64 << 14 {
            for rflags in [2, 2 | ARITHMETIC] {
                check(op, n & 0xff, n >> 8, rflags, 1);
            }
        }
    }
}

#[test]
fn wider_numbers() {
    let mut random = Random(4);
    for n in 0..100_000 {
        let size = SIZES[n % 4];
        let (op, _) = OPS[random.below(7) as usize];
        let count = random.below(256);
        check(
            op,
            random.value(size),
            count,
            2 | random.next() & ARITHMETIC,
            size,
        );
    }
}

/// The number that SHLD and SHRD shift has twice the width, and of a word three times: by
/// more than 16 bits, it follows itself. So processors do it; the manual leaves it open.
#[test]
fn double() {
    let mut random = Random(5);
    for n in 0..100_000 {
        let size = SIZES[n % 3 + 1];
        let bits = u32::from(size) * 8;
        let (old, fill) = (random.value(size), random.value(size));
        let count = random.below(256);
        let counted = (count & if size == 8 { 63 } else { 31 }) as u32;
        let rflags = 2 | random.next() & ARITHMETIC;
        for (op, left) in [(Op::Shld, true), (Op::Shrd, false)] {
            let got = shift::double(op, old, fill, count, rflags, size).unwrap();
            if counted == 0 {
                assert_eq!(got, (old, rflags));
                continue;
            }
            // Bit by bit: what goes out, and what comes in.
            let bit = |value: u64, n: u32| value >> n & 1;
            let (mut value, mut carry) = (old, 0);
            for step in 0..counted {
                let from = if step < bits { fill } else { old };
                let step = step % bits;
                if left {
                    carry = top(value, bits);
                    value = value << 1 & mask(size) | bit(from, bits - 1 - step);
                } else {
                    carry = value & 1;
                    value = value >> 1 | bit(from, step) << (bits - 1);
                }
            }
            let what = std::format!("{op:?} {size} {old:x} {fill:x} by {count}");
            assert_eq!(got.0, value, "{what}");
            assert_eq!(got.1 & CF, carry, "{what}");
            if counted == 1 {
                let changed = top(value, bits) != top(old, bits);
                assert_eq!(got.1 & OF != 0, changed, "{what}");
            }
            assert_eq!(got.1 & (SF | ZF | PF), flags_of(value, size), "{what}");
        }
    }
}

#[test]
fn counts_and_operands() {
    let mut machine = machine();
    machine.cpu.gprs[1] = 0x0304;
    machine.cpu.gprs[2] = 0xabcd_0000_0000_0000;
    // By CL, of which 5 or 6 bits count; by an immediate; by 1.
    for (bytes, old, new) in [
        (&[0xd3, 0x23][..], 0x1234_5678, 0x2345_6780),
        (&[0xd2, 0x2b], 0x1234_56f8, 0x1234_560f),
        (&[0xc1, 0x3b, 0x08], 0x8234_5678, 0xff82_3456),
        (&[0xc0, 0x03, 0x24], 0x1234_5612, 0x1234_5621),
        (&[0xd1, 0x0b], 0x1, 0x8000_0000),
        (&[0x66, 0xd1, 0x23], 0xffff_8001, 0xffff_0002),
        // SHLD and SHRD of memory, of which the filling ends in zeros.
        (&[0x48, 0x0f, 0xa4, 0x13, 0x10], 0x1_0002, 0x1_0002_abcd),
        (&[0x48, 0x0f, 0xad, 0x13], 0x10, 0x1),
        (&[0x48, 0x0f, 0xac, 0x13, 0x3c], 0x10, 0xbcd0_0000_0000_0000),
    ] {
        machine.model.ram.write_u64(DATA, old);
        assert_eq!(run(&mut machine, bytes), Ok(()));
        assert_eq!(machine.u64(DATA), new, "{bytes:x?}");
    }
    // RCL takes CF in.
    machine.model.ram.write_u64(DATA, 0x80);
    machine.cpu.rflags = 2 | CF;
    assert_eq!(run(&mut machine, &[0xd0, 0x13]), Ok(()));
    assert_eq!((machine.u64(DATA), machine.cpu.rflags), (1, 2 | CF | OF));
}
