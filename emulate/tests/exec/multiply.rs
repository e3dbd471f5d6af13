// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::cpu::rflags::{ARITHMETIC, CF, OF};

fn signed(value: u64, size: u8) -> i128 {
    let unused = 64 - u32::from(size) * 8;
    i128::from((value << unused) as i64 >> unused)
}

/// RDX:RAX, or AX.
fn accumulator(machine: &Machine, size: u8) -> u128 {
    let [rax, _, rdx, ..] = machine.cpu.gprs;
    match size {
        1 => u128::from(rax & 0xffff),
        _ => u128::from(rax & mask(size)) | u128::from(rdx & mask(size)) << (size * 8),
    }
}

fn set_accumulator(machine: &mut Machine, size: u8, value: u128) {
    let upper = |old: u64| old & !mask(size);
    let [rax, _, rdx, ..] = machine.cpu.gprs;
    match size {
        1 => machine.cpu.gprs[0] = rax & !0xffff | value as u64 & 0xffff,
        _ => {
            machine.cpu.gprs[0] = upper(rax) | value as u64 & mask(size);
            machine.cpu.gprs[2] = upper(rdx) | (value >> (size * 8)) as u64 & mask(size);
        }
    }
}

#[test]
fn products() {
    let mut random = Random(8);
    let mut machine = machine();
    for n in 0..8000 {
        let size = SIZES[n % 4];
        let bits = u32::from(size) * 8;
        let (a, b) = (random.value(size), random.value(size));
        machine
            .model
            .ram
            .write_u64(DATA, b | random.next() & !mask(size));
        machine.cpu.gprs[0] = a | random.next() & !mask(size);
        machine.cpu.gprs[2] = random.next();
        machine.cpu.rflags = 2 | random.next() & ARITHMETIC;
        let old = machine.cpu.rflags & !(CF | OF);
        let sign = n / 4 % 2 == 1;
        let (product, wide_result) = if sign {
            let product = signed(a, size) * signed(b, size);
            (
                product as u128,
                product != signed(product as u64 & mask(size), size),
            )
        } else {
            let product = u128::from(a) * u128::from(b);
            (product, product >> bits != 0)
        };
        let reg = if sign { 5 } else { 4 };
        let bytes = wide(size, &[0xf7], &[reg << 3 | 3]);
        assert_eq!(run(&mut machine, &bytes), Ok(()));
        let all = u128::MAX >> (128 - 2 * bits);
        assert_eq!(accumulator(&machine, size), product & all, "{a:x} {b:x}");
        let flags = if wide_result { CF | OF } else { 0 };
        assert_eq!(machine.cpu.rflags, old | flags, "{a:x} * {b:x}");
    }
}

#[test]
fn products_of_two_and_three_operands() {
    let mut random = Random(9);
    let mut machine = machine();
    for n in 0..6000 {
        let size = SIZES[n % 3 + 1];
        let (a, b) = (random.value(size), random.value(size));
        machine.model.ram.write_u64(DATA, b);
        machine.cpu.gprs[1] = a;
        let (bytes, a) = match n / 3 % 3 {
            0 => (wide(size, &[0x0f, 0xaf], &[0x0b]), signed(a, size)),
            1 => (wide(size, &[0x6b], &[0x0b, a as u8]), signed(a & 0xff, 1)),
            _ if size == 2 => {
                let [low, high] = (a as u16).to_le_bytes();
                (wide(size, &[0x69], &[0x0b, low, high]), signed(a, 2))
            }
            _ => {
                let imm = (a as u32).to_le_bytes();
                let rest = [&[0x0b][..], &imm].concat();
                (wide(size, &[0x69], &rest), signed(a & mask(4), 4))
            }
        };
        assert_eq!(run(&mut machine, &bytes), Ok(()));
        let product = a * signed(b, size);
        let low = product as u64 & mask(size);
        assert_eq!(machine.cpu.gprs[1] & mask(size), low);
        let flags = machine.cpu.rflags & (CF | OF);
        let wide_result = product != signed(low, size);
        assert_eq!(flags, if wide_result { CF | OF } else { 0 });
    }
}

#[test]
fn quotients() {
    let mut random = Random(10);
    let mut machine = machine();
    let mut overflows = 0;
    for n in 0..40_000 {
        let size = SIZES[n % 4];
        let bits = u32::from(size) * 8;
        let sign = n / 4 % 2 == 1;
        let divisor = random.value(size);
        // Mostly quotients that fit.
        let high = match random.below(4) {
            0 => random.value(size),
            1 => random.next() % divisor.max(1),
            2 => mask(size),
            _ => 0,
        };
        let dividend = u128::from(high) << bits | u128::from(random.value(size));
        machine.model.ram.write_u64(DATA, divisor);
        set_accumulator(&mut machine, size, dividend);
        let expected = if divisor == 0 {
            None
        } else if sign {
            let unused = 128 - 2 * bits;
            let dividend = (dividend << unused) as i128 >> unused;
            let divisor = signed(divisor, size);
            // Only -2^127 by -1 overflows what computes here.
            let quotient = dividend.checked_div(divisor);
            let fits = |q: &i128| signed(*q as u64 & mask(size), size) == *q;
            quotient
                .filter(fits)
                .map(|q| (q as u64, (dividend % divisor) as u64))
        } else {
            let (quotient, rest) = (
                dividend / u128::from(divisor),
                dividend % u128::from(divisor),
            );
            (quotient >> bits == 0).then_some((quotient as u64, rest as u64))
        };
        let reg = if sign { 7 } else { 6 };
        let result = run(&mut machine, &wide(size, &[0xf7], &[reg << 3 | 3]));
        match expected {
            None => {
                overflows += 1;
                assert_eq!(
                    result,
                    Err(Exception::DE.into()),
                    "{dividend:x}/{divisor:x}"
                );
            }
            Some((quotient, rest)) => {
                assert_eq!(result, Ok(()), "{dividend:x}/{divisor:x}");
                let both =
                    u128::from(quotient & mask(size)) | u128::from(rest & mask(size)) << bits;
                assert_eq!(
                    accumulator(&machine, size),
                    both,
                    "{dividend:x}/{divisor:x}"
                );
            }
        }
    }
    assert!((1000..39_000).contains(&overflows), "{overflows}");
}
