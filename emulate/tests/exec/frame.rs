// SPDX-License-Identifier: GPL-2.0

use super::*;

const SP: u64 = 0x8000;

/// What a sequence of single pushes leaves: the model for those that push together.
struct Pushed {
    machine: Machine,
    size: u8,
}

impl Pushed {
    fn push(&mut self, value: u64) {
        let cpu = &mut self.machine.cpu;
        let width = cpu.stack_size();
        let sp = cpu.gpr_sized(4, width).wrapping_sub(self.size.into()) & mask(width);
        cpu.set_gpr_sized(4, width, sp);
        let bytes = value.to_le_bytes();
        let base = self.base();
        let ram = &mut self.machine.model.ram;
        ram.write(base + sp, &bytes[..usize::from(self.size)]);
    }

    fn base(&self) -> u64 {
        match self.machine.cpu.long() {
            true => 0,
            false => self.machine.cpu.segment(Seg::Ss).base,
        }
    }

    /// The manual's ENTER.
    fn enter(&mut self, space: u64, level: u8) {
        let width = self.machine.cpu.stack_size();
        self.push(self.machine.cpu.gprs[5]);
        let frame = self.machine.cpu.gprs[4];
        for _ in 1..level {
            let cpu = &mut self.machine.cpu;
            let bp = cpu.gpr_sized(5, width).wrapping_sub(self.size.into());
            cpu.set_gpr_sized(5, width, bp);
            let at = self.base() + self.machine.cpu.gpr_sized(5, width);
            let value = self.machine.u64(at);
            self.push(value);
        }
        if level > 0 {
            self.push(frame);
        }
        let cpu = &mut self.machine.cpu;
        let sp = cpu.gprs[4].wrapping_sub(space);
        cpu.set_gpr_sized(4, width, sp);
    }
}

fn with_registers(mut machine: Machine) -> Machine {
    for n in [0, 1, 2, 3, 6, 7] {
        machine.cpu.gprs[n] = 0x8182_8384_8586_8780 + n as u64;
    }
    for n in 0..0x800 {
        machine
            .model
            .ram
            .write_u64(0x7000 + n * 8, n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
    machine
}

#[test]
fn pusha_and_popa() {
    let mut small = Machine::protected(0);
    let stack = Segment {
        base: 0x1000,
        limit: 0xffff,
        attributes: 0x93,
        ..Segment::default()
    };
    small.cpu.set_segment(Seg::Ss, stack);
    small.cpu.gprs[4] = 0x7777_7000;
    let mut start = Machine::protected(0);
    start.cpu.gprs[4] = SP;
    for (machine, base) in [(start, 0), (small, 0x1000)] {
        for (bytes, size) in [(&[0x60][..], 4), (&[0x66, 0x60], 2)] {
            let fresh = || {
                let mut one = with_registers(Machine::protected(0));
                one.cpu.gprs[4] = machine.cpu.gprs[4];
                one.cpu.gprs[5] = 0x5555_5555;
                one.cpu.segments = machine.cpu.segments;
                one
            };
            let mut machine = fresh();
            assert_eq!(run(&mut machine, bytes), Ok(()));
            let mut model = Pushed {
                machine: fresh(),
                size,
            };
            for n in 0..8 {
                let value = fresh().cpu.gprs[n];
                model.push(value);
            }
            assert_eq!(machine.cpu.gprs, model.machine.cpu.gprs);
            assert!(
                machine.model.ram == model.machine.model.ram,
                "{size} {base:x}"
            );
            assert_eq!(machine.model.writes().len(), 1);
            // And back, with other registers in between.
            let pushed = fresh().cpu.gprs;
            for n in [0, 1, 2, 3, 5, 6, 7] {
                machine.cpu.gprs[n] = 0x1111_1111;
            }
            let pop = if size == 4 {
                &[0x61][..]
            } else {
                &[0x66, 0x61]
            };
            assert_eq!(run(&mut machine, pop), Ok(()));
            for (n, value) in pushed.iter().enumerate().take(8) {
                let upper = if size == 4 || n == 4 {
                    value >> 16 << 16 & mask(4)
                } else {
                    0x1111_0000
                };
                assert_eq!(machine.cpu.gprs[n], upper | value & 0xffff, "{n} {size}");
            }
        }
    }
}

#[test]
fn enter() {
    let mut random = Random(13);
    for n in 0..400u64 {
        let long = n % 2 == 0;
        let fresh = |sp, bp| {
            let machine = if long {
                Machine::ia32e(0, true)
            } else {
                Machine::protected(0)
            };
            let mut machine = with_registers(machine);
            machine.cpu.gprs[4] = sp;
            machine.cpu.gprs[5] = bp;
            machine
        };
        let word = n % 3 == 0;
        let size = match (word, long) {
            (true, _) => 2,
            (false, true) => 8,
            _ => 4,
        };
        let level = if n % 5 == 0 {
            0
        } else {
            random.below(32) as u8
        };
        let space = random.below(0x200);
        let sp = SP - random.below(0x40);
        // Often among what is being pushed.
        let bp = match n % 4 {
            0 => sp + random.below(24),
            1 => sp,
            2 => sp - random.below(32),
            _ => 0x7000 + random.below(0x1800),
        };
        let bytes = [0xc8, space as u8, (space >> 8) as u8, level | 0xe0];
        let prefix: &[u8] = if word { &[0x66] } else { &[] };
        let mut machine = fresh(sp, bp);
        assert_eq!(run(&mut machine, &[prefix, &bytes].concat()), Ok(()));
        let mut model = Pushed {
            machine: fresh(sp, bp),
            size,
        };
        model.enter(space, level);
        let what = std::format!("level {level}, size {size}, sp {sp:x}, bp {bp:x}");
        assert_eq!(machine.cpu.gprs[4], model.machine.cpu.gprs[4], "{what}");
        let frame = sp - u64::from(size);
        let rbp = if word {
            bp & !0xffff | frame & 0xffff
        } else {
            frame
        };
        assert_eq!(machine.cpu.gprs[5], rbp, "{what}");
        assert!(machine.model.ram == model.machine.model.ram, "{what}");
    }
}

#[test]
fn all_or_nothing() {
    // enter 0x100, 3: 4 elements. The second is denied.
    let mut machine = machine();
    machine.cpu.gprs[4] = 0x8008;
    machine.cpu.gprs[5] = DATA + 0x100;
    machine.model.protect(0x7fff, !(1 << 31));
    let enter = &[0xc8, 0, 1, 3];
    assert_eq!(denial(run(&mut machine, enter)).gpa.get(), 0x7ff8);
    // Nothing is written at the end of the frame, but it has to be writable.
    machine.model.protect(0x7fff, !(1 << 29));
    let got = denial(run(&mut machine, enter));
    assert_eq!((got.gpa.get(), got.size), (0x8008 - 0x120, 8));
    machine.model.protect(0x7fff, !0);
    assert_eq!(run(&mut machine, enter), Ok(()));
    assert_eq!(machine.cpu.gprs[4], 0x8008 - 0x120);
    // The first push that faults is the one at the top.
    machine.cpu.gprs[4] = 0x20_0004;
    assert_eq!(run(&mut machine, enter), Err(page_fault(0x20_0000, 2)));
    // An outer frame that cannot be read, and the push before it that cannot be made.
    machine.cpu.gprs[4] = 0x8000;
    machine.cpu.gprs[5] = 0x20_0004;
    assert_eq!(run(&mut machine, enter), Err(page_fault(0x20_0000, 0)));
    machine.model.protect(0x7fff, !(1 << 31));
    denial(run(&mut machine, enter));
    let mut machine = Machine::protected(0);
    machine.cpu.gprs[4] = 0x8008;
    machine.model.protect(0x7fff, !(1 << 31));
    assert_eq!(denial(run(&mut machine, &[0x60])).gpa.get(), 0x7ffc);
    machine.model.protect(0x8000, !1);
    assert_eq!(denial(run(&mut machine, &[0x60])).gpa.get(), 0x8004);
}

/// A stack that wraps in the middle of them, and a device, are not for us.
#[test]
fn refused() {
    let mut machine = Machine::real();
    machine.cpu.gprs[4] = 6;
    assert_eq!(run(&mut machine, &[0x60]), Err(Stop::Refused(Op::Pusha)));
    machine.cpu.gprs[4] = 0;
    let stack = Segment {
        base: 0x1000,
        limit: 0xffff,
        attributes: 0x93,
        ..Segment::default()
    };
    machine.cpu.set_segment(Seg::Ss, stack);
    assert_eq!(run(&mut machine, &[0x60]), Ok(()));
    assert_eq!(machine.cpu.gprs[4], 0xfff0);
    let mut machine = Machine::protected(0);
    machine.cpu.gprs[4] = 0x4_0000;
    assert_eq!(run(&mut machine, &[0x60]), Err(Stop::Refused(Op::Pusha)));
    assert_eq!(
        run(&mut machine, &[0xc8, 0, 0, 1]),
        Err(Stop::Refused(Op::Enter))
    );
}
