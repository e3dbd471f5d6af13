// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::cpu::rflags::{ARITHMETIC, ZF};
use crate::model::{Event, Meanwhile};

#[test]
fn xchg_and_xadd() {
    let mut random = Random(11);
    let mut machine = machine();
    for n in 0..2000 {
        let size = SIZES[n % 4];
        let (a, b, upper) = (
            random.value(size),
            random.value(size),
            random.next() & !mask(size),
        );
        machine.model.ram.write_u64(DATA, upper | a);
        machine.cpu.gprs[1] = upper | b;
        machine.cpu.rflags = 2 | random.next() & ARITHMETIC;
        let old = machine.cpu.rflags;
        let add = n / 4 % 2 == 1;
        let opcode: &[u8] = if add { &[0x0f, 0xc1] } else { &[0x87] };
        assert_eq!(run(&mut machine, &wide(size, opcode, &[0x0b])), Ok(()));
        let (sum, flags) = arithmetic::add(a, b, false, size);
        let (memory, flags) = if add { (sum, 2 | flags) } else { (b, old) };
        assert_eq!(machine.u64(DATA), upper | memory);
        let register = if size == 4 { a } else { upper | a };
        assert_eq!(machine.cpu.gprs[1], register);
        assert_eq!(machine.cpu.rflags, flags);
        assert_eq!(machine.model.writes(), [Event::Exchange(DATA, size.into())]);
    }
}

#[test]
fn cmpxchg() {
    let mut random = Random(12);
    let mut machine = machine();
    for n in 0..4000 {
        let size = SIZES[n % 4];
        let (memory, new) = (random.value(size), random.value(size));
        let equal = n / 4 % 2 == 0;
        let upper = random.next() & !mask(size);
        let expected = if equal { memory } else { random.value(size) };
        machine.model.ram.write_u64(DATA, upper | memory);
        machine.cpu.gprs[0] = upper | expected;
        machine.cpu.gprs[1] = upper | new;
        let bytes = wide(size, &[0x0f, 0xb1], &[0x0b]);
        assert_eq!(run(&mut machine, &bytes), Ok(()));
        let equal = expected == memory;
        let (_, flags) = arithmetic::sub(expected, memory, false, size);
        assert_eq!(machine.cpu.rflags, 2 | flags);
        assert_eq!(flags & ZF != 0, equal);
        assert_eq!(machine.u64(DATA), upper | if equal { new } else { memory });
        let rax = match (equal, size) {
            (true, _) => upper | expected,
            (false, 4) => memory,
            (false, _) => upper | memory,
        };
        assert_eq!(machine.cpu.gprs[0], rax);
        // There is a write in any case.
        assert_eq!(machine.model.writes(), [Event::Exchange(DATA, size.into())]);
    }
}

#[test]
fn cmpxchg_of_two_registers() {
    for (bytes, half) in [(&[0x0f, 0xc7, 0x0e][..], 4), (&[0x48, 0x0f, 0xc7, 0x0e], 8)] {
        let upper = 0x7777_7777_0000_0000 & !mask(half);
        let [low, high] = [0x1111_2222_3333_4444, 0x5555_6666_7777_8888].map(|v| v & mask(half));
        for equal in [true, false] {
            let mut machine = machine();
            let at = |n: u64| DATA + n * u64::from(half);
            machine.model.ram.write_u64(at(0), low);
            machine.model.ram.write_u64(at(1), high);
            machine.cpu.gprs[0] = upper | low;
            machine.cpu.gprs[2] = upper | if equal { high } else { low };
            machine.cpu.gprs[3] = upper | 0xb0b0;
            machine.cpu.gprs[1] = upper | 0xc0c0;
            machine.cpu.gprs[6] = DATA;
            machine.cpu.rflags = 2 | ARITHMETIC;
            assert_eq!(run(&mut machine, bytes), Ok(()));
            let memory = [
                machine.u64(at(0)) & mask(half),
                machine.u64(at(1)) & mask(half),
            ];
            if equal {
                assert_eq!(memory, [0xb0b0, 0xc0c0]);
                assert_eq!(machine.cpu.gprs[2], upper | high);
                assert_eq!(machine.cpu.rflags, 2 | ARITHMETIC);
            } else {
                assert_eq!(memory, [low, high]);
                // Both registers are written, with their upper halves cleared.
                assert_eq!([machine.cpu.gprs[0], machine.cpu.gprs[2]], [low, high]);
                assert_eq!(machine.cpu.rflags, 2 | ARITHMETIC & !ZF);
            }
            let len = usize::from(half) * 2;
            assert_eq!(machine.model.writes(), [Event::Exchange(DATA, len)]);
        }
    }
}

#[test]
fn cmpxchg16b_is_aligned() {
    let mut machine = machine();
    machine.model.protect(DATA, 0);
    machine.cpu.gprs[6] = DATA + 8;
    assert_eq!(run(&mut machine, &[0x48, 0x0f, 0xc7, 0x0e]), Err(gp()));
    machine.cpu.gprs[6] = DATA + 16;
    let got = denial(run(&mut machine, &[0x48, 0x0f, 0xc7, 0x0e]));
    assert_eq!((got.gpa.get(), got.size), (DATA + 16, 16));
}

/// What memory does not allow it does not allow for a comparison that fails either.
#[test]
fn denied_also_without_a_match() {
    for prefix in [&[][..], &[0xf0]] {
        for bytes in [
            &[0x48, 0x0f, 0xb1, 0x0b][..], // cmpxchg
            &[0x0f, 0xc7, 0x0b],           // cmpxchg8b
            &[0x48, 0x0f, 0xc1, 0x0b],     // xadd
        ] {
            let mut machine = machine();
            machine.model.ram.write_u64(DATA, 1);
            machine.model.protect(DATA, !1);
            let got = denial(run(&mut machine, &[prefix, bytes].concat()));
            assert_eq!(got.gpa.get(), DATA);
            assert!(got.read);
        }
    }
}

#[test]
fn others_in_between() {
    for bytes in [
        &[0x48, 0x87, 0x0b][..],
        &[0x48, 0x0f, 0xc1, 0x0b],
        &[0x48, 0x0f, 0xb1, 0x0b],
        &[0x0f, 0xc7, 0x0b],
    ] {
        let mut machine = machine();
        machine.model.meanwhile.push(Meanwhile::Store(DATA, 7));
        let insn = decoded(&machine, bytes);
        let before = machine.cpu;
        assert_eq!(execute(&mut machine.guest(), &insn), Err(Stop::Retry));
        assert_eq!((machine.cpu, machine.u64(DATA)), (before, 7), "{bytes:x?}");
        // A right that is gone, and a host that fails.
        let none = spp::Mask::NONE;
        machine.model.meanwhile.push(Meanwhile::Map(DATA, none));
        assert_eq!(run(&mut machine, bytes), Err(Stop::Retry));
        denial(run(&mut machine, bytes));
        machine.model.protect(DATA, !0);
        machine.model.meanwhile.push(Meanwhile::Fail);
        assert_eq!(run(&mut machine, bytes), Err(Stop::Host));
    }
}
