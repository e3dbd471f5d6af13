// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::cpu::rflags::{CF, ZF};

/// Bit `number` of memory from `DATA` on, whatever its sign.
fn place(number: i64) -> (u64, u8) {
    let byte = DATA.wrapping_add(number.div_euclid(8) as u64);
    (byte, 1 << number.rem_euclid(8))
}

#[test]
fn numbers_in_registers_reach_everywhere() {
    let mut random = Random(6);
    let mut machine = machine();
    for n in 0..3000 {
        let size = SIZES[n % 3 + 1];
        let number = random.below(20_000) as i64 - 10_000;
        let op = n / 3 % 4;
        let opcode = [0xa3, 0xab, 0xb3, 0xbb][op];
        let (at, bit) = place(number);
        let before: u8 = random.next() as u8;
        machine.model.ram.write(at, &[before]);
        let around = [machine.bytes::<1>(at - 1), machine.bytes(at + 1)];
        // Above the operand's size there may be anything.
        machine.cpu.gprs[1] = number as u64 & mask(size) | random.next() & !mask(size);
        assert_eq!(
            run(&mut machine, &wide(size, &[0x0f, opcode], &[0x0b])),
            Ok(())
        );
        let after = match op {
            0 => before,
            1 => before | bit,
            2 => before & !bit,
            _ => before ^ bit,
        };
        assert_eq!(machine.bytes(at), [after], "{number} {size} {opcode:x}");
        assert_eq!(machine.cpu.rflags & CF != 0, before & bit != 0);
        assert_eq!([machine.bytes::<1>(at - 1), machine.bytes(at + 1)], around);
        if op > 0 {
            // The whole word is written, at its place from the operand on.
            let word = i64::from(size) * number.div_euclid(i64::from(size) * 8);
            let gpa = DATA.wrapping_add(word as u64);
            let pieces = machine.model.writes();
            let first = crate::model::Event::Write(gpa, size.into());
            assert!(pieces[0] == first || gpa & 0xfff > 0xff8, "{pieces:x?}");
        }
    }
}

#[test]
fn immediate_numbers_stay_in_the_operand() {
    let mut machine = machine();
    for (reg, after) in [(4, 0x0f), (5, 0x8000_000f), (6, 0x0f), (7, 0x8000_000f)] {
        machine.model.ram.write_u64(DATA, 0x0f);
        // 63 is 31 of a doubleword.
        assert_eq!(run(&mut machine, &[0x0f, 0xba, reg << 3 | 3, 63]), Ok(()));
        assert_eq!(machine.u64(DATA), after);
        assert_eq!(machine.cpu.rflags & CF, 0);
        assert_eq!(run(&mut machine, &[0x0f, 0xba, reg << 3 | 3, 33]), Ok(()));
        assert_eq!(machine.cpu.rflags & CF, CF);
    }
}

#[test]
fn the_address_of_a_bit_wraps() {
    let mut machine = Machine::real();
    machine.cpu.gprs[3] = 0x10;
    machine.cpu.gprs[1] = 0x8000;
    // BTS [bx], cx with CX -32768: 4096 bytes below, in 64 KBytes.
    machine.cpu.set_segment(
        Seg::Ds,
        Segment {
            base: 0x1000,
            ..*machine.cpu.segment(Seg::Ds)
        },
    );
    assert_eq!(run(&mut machine, &[0x0f, 0xab, 0x0f]), Ok(()));
    assert_eq!(machine.bytes(0x1000 + 0xf010), [1]);
}

#[test]
fn scans_and_counts() {
    let mut random = Random(7);
    let mut machine = machine();
    for n in 0..4000 {
        let size = SIZES[n % 3 + 1];
        let bits = u64::from(size) * 8;
        let value = if n % 11 == 0 { 0 } else { random.value(size) };
        let old = random.next();
        machine
            .model
            .ram
            .write_u64(DATA, value | random.next() & !mask(size));
        machine.cpu.gprs[1] = old;
        let ones = (0..bits).filter(|bit| value >> bit & 1 == 1);
        let (lowest, highest, count) = (ones.clone().min(), ones.clone().max(), ones.count());
        let (f3, opcode, result, cf, zf) = match n / 3 % 5 {
            0 => (false, 0xbc, lowest, None, value == 0),
            1 => (false, 0xbd, highest, None, value == 0),
            2 => {
                let zeros = lowest.unwrap_or(bits);
                (true, 0xbc, Some(zeros), Some(value == 0), zeros == 0)
            }
            3 => {
                let zeros = highest.map_or(bits, |bit| bits - 1 - bit);
                (true, 0xbd, Some(zeros), Some(value == 0), zeros == 0)
            }
            _ => (true, 0xb8, Some(count as u64), Some(false), value == 0),
        };
        let mut bytes = wide(size, &[0x0f, opcode], &[0x0b]);
        if f3 {
            bytes.insert(usize::from(size == 2), 0xf3);
        }
        assert_eq!(run(&mut machine, &bytes), Ok(()));
        let expected = match (result, size) {
            (None, _) => old,
            (Some(result), 2) => old & !0xffff | result,
            (Some(result), _) => result,
        };
        assert_eq!(machine.cpu.gprs[1], expected, "{bytes:x?} {value:x}");
        assert_eq!(machine.cpu.rflags & ZF != 0, zf, "{bytes:x?} {value:x}");
        if let Some(cf) = cf {
            assert_eq!(machine.cpu.rflags & CF != 0, cf, "{bytes:x?} {value:x}");
        }
    }
}

/// The check value of CRC-32C: over "123456789", begun with ones and inverted in the end.
#[test]
fn crc32() {
    let mut machine = machine();
    machine.model.ram.write(DATA, b"123456789");
    let rflags = machine.cpu.rflags;
    for forms in [
        &[(8, 0), (1, 8)][..],
        &[(4, 0), (4, 4), (1, 8)],
        &[(2, 0), (1, 2), (2, 3), (4, 5)],
    ] {
        machine.cpu.gprs[1] = 0xdead_beef_ffff_ffff;
        for (size, ahead) in forms {
            let mut bytes = match size {
                2 => std::vec![0x66, 0xf2],
                8 => std::vec![0xf2, 0x48],
                _ => std::vec![0xf2],
            };
            let opcode = if *size == 1 { 0xf0 } else { 0xf1 };
            bytes.extend([0x0f, 0x38, opcode, 0x4b, *ahead]);
            assert_eq!(run(&mut machine, &bytes), Ok(()));
        }
        assert_eq!(machine.cpu.gprs[1], 0xe306_9283 ^ 0xffff_ffff);
    }
    assert_eq!(machine.cpu.rflags, rflags);
}
