// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::cpu::rflags::{AF, ARITHMETIC, CF, OF, PF, SF, ZF};

const OPS: [(Op, u8); 8] = [
    (Op::Add, 0),
    (Op::Or, 1),
    (Op::Adc, 2),
    (Op::Sbb, 3),
    (Op::And, 4),
    (Op::Sub, 5),
    (Op::Xor, 6),
    (Op::Cmp, 7),
];

/// The result and the flags by the rules of the manual, in wider numbers.
fn by_the_book(op: Op, a: u64, b: u64, carry: bool, size: u8) -> (u64, u64) {
    let bits = u32::from(size) * 8;
    let signed = |value: u64| i128::from((value << (64 - bits)) as i64 >> (64 - bits));
    let (wide_a, wide_b) = (i128::from(a), i128::from(b));
    let nibble = |value: u64| (value & 15) as i32;
    let c = i128::from(carry && matches!(op, Op::Adc | Op::Sbb));
    let (unsigned, exact, low) = match op {
        Op::Add | Op::Adc => (
            wide_a + wide_b + c,
            signed(a) + signed(b) + c,
            nibble(a) + nibble(b) + c as i32,
        ),
        Op::Sub | Op::Sbb | Op::Cmp => (
            wide_a - wide_b - c,
            signed(a) - signed(b) - c,
            nibble(a) - nibble(b) - c as i32,
        ),
        Op::And | Op::Test => (wide_a & wide_b, signed(a & b), 0),
        Op::Or => (wide_a | wide_b, signed(a | b), 0),
        _ => (wide_a ^ wide_b, signed(a ^ b), 0),
    };
    let value = unsigned as u64 & mask(size);
    let mut flags = 0;
    let mut set = |condition: bool, flag: u64| flags |= if condition { flag } else { 0 };
    set(!(0..1i128 << bits).contains(&unsigned), CF);
    set(exact != signed(value), OF);
    set(!(0..16).contains(&low), AF);
    set(value == 0, ZF);
    set(signed(value) < 0, SF);
    set(
        (0..8).filter(|bit| value >> bit & 1 == 1).count() % 2 == 0,
        PF,
    );
    (value, flags)
}

#[test]
fn all_bytes() {
    for (op, _) in OPS {
        for n in 0..1u64 << 17 {
            let (a, b, carry) = (n & 0xff, n >> 8 & 0xff, n >> 16 != 0);
            let rflags = 2 | if carry { ARITHMETIC } else { 0 };
            let (value, flags) = by_the_book(op, a, b, carry, 1);
            let got = arithmetic::modified(op, a, b, rflags, 1);
            assert_eq!(got, Some((value, flags | 2)), "{op:?} {a:x} {b:x} {carry}");
        }
    }
}

#[test]
fn wider_numbers() {
    let mut random = Random(1);
    for _ in 0..200_000 {
        let (op, _) = OPS[random.below(8) as usize];
        let size = SIZES[random.below(4) as usize];
        let (a, b) = (random.value(size), random.value(size));
        let carry = random.below(2) == 1;
        let (value, flags) = by_the_book(op, a, b, carry, size);
        let got = arithmetic::modified(op, a, b, if carry { CF } else { 0 }, size);
        assert_eq!(got, Some((value, flags)), "{op:?} {size} {a:x} {b:x}");
    }
}

/// Each of the eight with each kind of operands: memory and register both ways, and
/// immediates.
#[test]
fn operands() {
    let mut random = Random(2);
    let mut machine = machine();
    for n in 0..4000 {
        let (op, number) = OPS[n % 8];
        let size = SIZES[n / 8 % 4];
        let (a, b) = (random.value(size), random.value(size));
        let small = b as i8 as u64 & mask(size);
        let around = random.next();
        machine.model.ram.write_u64(DATA, around & !mask(size) | a);
        machine.cpu.gprs[1] = around & !mask(size) | b;
        machine.cpu.rflags = 0x202 | random.next() & ARITHMETIC;
        let carry = machine.cpu.rflags & CF != 0;
        let form = n / 32 % 3;
        let (opcode, rest, x, y): (u8, &[u8], _, _) = match form {
            0 => (number << 3 | 1, &[0x0b], a, b),
            1 => (number << 3 | 3, &[0x0b], b, a),
            // 80 and 83: a byte.
            _ if size == 1 => (0x81, &[number << 3 | 3, b as u8], a, b),
            _ => (0x83, &[number << 3 | 3, b as u8], a, small),
        };
        let (value, flags) = by_the_book(op, x, y, carry, size);
        assert_eq!(run(&mut machine, &wide(size, &[opcode], rest)), Ok(()));
        let memory = if form == 1 || op == Op::Cmp { a } else { value };
        assert_eq!(machine.u64(DATA), around & !mask(size) | memory);
        let register = if form == 1 && op != Op::Cmp { value } else { b };
        let upper = match (form, op, size) {
            (1, op, 4) if op != Op::Cmp => 0,
            _ => around & !mask(size),
        };
        assert_eq!(machine.cpu.gprs[1], upper | register);
        assert_eq!(machine.cpu.rflags, 0x202 | flags, "{op:?} {x:x} {y:x}");
    }
}

#[test]
fn bits_15_to_8_are_a_register() {
    let mut machine = machine();
    machine.model.ram.write(DATA, &[0x10]);
    machine.cpu.gprs[1] = 0x1122_3344_5566_7788;
    // ADD [rbx], ch and ADD ch, [rbx].
    assert_eq!(run(&mut machine, &[0x00, 0x2b]), Ok(()));
    assert_eq!(machine.bytes(DATA), [0x87]);
    assert_eq!(run(&mut machine, &[0x02, 0x2b]), Ok(()));
    assert_eq!(machine.cpu.gprs[1], 0x1122_3344_5566_fe88);
}

#[test]
fn one_operand() {
    let mut random = Random(3);
    let mut machine = machine();
    for n in 0..2000 {
        let size = SIZES[n % 4];
        let a = random.value(size);
        machine.model.ram.write_u64(DATA, a);
        machine.cpu.rflags = 2 | random.next() & ARITHMETIC;
        let old = machine.cpu.rflags;
        let (opcode, reg) = [(0xff, 0), (0xff, 1), (0xf7, 2), (0xf7, 3)][n / 4 % 4];
        let (value, flags) = match (opcode, reg) {
            (0xff, 0) => by_the_book(Op::Add, a, 1, false, size),
            (0xff, _) => by_the_book(Op::Sub, a, 1, false, size),
            (_, 2) => (!a & mask(size), old),
            _ => by_the_book(Op::Sub, 0, a, false, size),
        };
        // INC and DEC leave CF alone.
        let kept = if opcode == 0xff { CF } else { 0 };
        let bytes = wide(size, &[opcode], &[reg << 3 | 3]);
        assert_eq!(run(&mut machine, &bytes), Ok(()));
        assert_eq!(machine.u64(DATA), value);
        assert_eq!(machine.cpu.rflags, 2 | flags & !kept | old & kept);
    }
}

#[test]
fn test_writes_nothing() {
    let mut machine = machine();
    machine.model.ram.write_u64(DATA, 0xf0);
    machine.model.protect(DATA, 0);
    machine.cpu.gprs[1] = 0x80;
    assert_eq!(run(&mut machine, &[0x84, 0x0b]), Ok(()));
    assert_eq!(machine.cpu.rflags, 2 | SF);
    // And with an immediate; CMP likewise.
    assert_eq!(run(&mut machine, &[0xf6, 0x03, 0x0f]), Ok(()));
    assert_eq!(machine.cpu.rflags, 2 | ZF | PF);
    assert_eq!(run(&mut machine, &[0x80, 0x3b, 0xf0]), Ok(()));
    assert_eq!(machine.cpu.rflags, 2 | ZF | PF);
}

/// The right to write comes before the read, and where the value stays the same too.
#[test]
fn write_intent_comes_first() {
    for bytes in [
        &[0x83, 0x0b, 0x00][..],   // or dword [rbx], 0
        &[0x48, 0x0f, 0xab, 0x0b], // bts [rbx], rcx
        &[0xd3, 0x23],             // shl dword [rbx], cl
        &[0xc1, 0x03, 0x20],       // rol dword [rbx], 32
        &[0x0f, 0xa5, 0x0b],       // shld [rbx], ecx, cl
        &[0xf7, 0x13],             // not dword [rbx]
        &[0xf0, 0xff, 0x03],       // lock inc dword [rbx]
    ] {
        let mut machine = machine();
        machine.model.protect(DATA, !1);
        let got = denial(run(&mut machine, bytes));
        assert_eq!((got.gpa.get(), got.gva.get()), (DATA, DATA), "{bytes:x?}");
        assert!(got.read);
        let reads = machine.model.log.iter();
        let data = |e: &&crate::model::Event| matches!(e, crate::model::Event::Read(gpa, _) if gpa >> 12 == DATA >> 12);
        assert_eq!(reads.filter(data).count(), 0, "{bytes:x?}");
        // A page that may not even be read: the fault is one of a write.
        machine.cpu.gprs[3] = 0x20_0000;
        assert_eq!(run(&mut machine, bytes), Err(page_fault(0x20_0000, 2)));
    }
}

#[test]
fn lock_is_one_access() {
    use crate::model::{Event, Meanwhile};
    let mut machine = machine();
    machine.model.ram.write_u64(DATA, 5);
    assert_eq!(run(&mut machine, &[0xf0, 0x48, 0xff, 0x03]), Ok(()));
    assert_eq!(machine.model.writes(), [Event::Exchange(DATA, 8)]);
    assert_eq!(run(&mut machine, &[0x48, 0xff, 0x03]), Ok(()));
    assert_eq!(machine.model.writes(), [Event::Write(DATA, 8)]);
    assert_eq!(machine.u64(DATA), 7);
    // Somebody else was quicker. The model stores on its behalf, so that memory has
    // changed, but not by the instruction.
    machine.model.meanwhile.push(Meanwhile::Store(DATA, 100));
    let insn = decoded(&machine, &[0xf0, 0x48, 0xff, 0x03]);
    let before = machine.cpu;
    assert_eq!(execute(&mut machine.guest(), &insn), Err(Stop::Retry));
    assert_eq!((machine.cpu, machine.u64(DATA)), (before, 100));
    assert_eq!(run(&mut machine, &[0xf0, 0x48, 0xff, 0x03]), Ok(()));
    assert_eq!(machine.u64(DATA), 101);
}
