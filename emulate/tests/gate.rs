// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::cpu::rflags;
use crate::exec::far::tests::*;
use crate::exec::Done;
use crate::insn::{CodeSize, Operand};
use crate::machine::{at, descriptor, gate, Machine, CODE, DATA, FLAT, GDT, LONG, RIP, TSS};
use crate::model::Event;
use crate::op::Op;

#[test]
fn user_code_may_want_alignment() {
    let ac = Err(Exception::AC.into());
    for size in [2u8, 4] {
        for offset in 0..8u64 {
            let want = if offset % u64::from(size) == 0 {
                OK
            } else {
                ac
            };
            let setup = |stack: u64| {
                let mut machine = Machine::protected(3);
                machine.cpu.paging.cr0 |= 1 << 18;
                machine.cpu.rflags |= rflags::AC;
                machine.cpu.gprs[4] = stack;
                push(&mut machine, size, &[0x1b, 0x40]);
                machine
            };
            let mut machine = setup(ESP + offset);
            assert_eq!(machine.run(&ret(size, 0)), want);
            machine = setup(ESP + offset);
            assert_eq!(machine.run(&far(Op::CallFar, size, 0x1b, 0)), want);
            let mut insn = far(Op::JmpFar, size, 0, 0);
            insn.dst = Operand::Mem;
            insn.mem = at(ESP + offset - 2 * u64::from(size));
            machine = setup(ESP + offset);
            assert_eq!(machine.run(&insn), want);
            // Not at level 0: a gate takes any stack there, but parameters are read here.
            for count in [0, 1] {
                let mut machine = gated(if size == 4 { 12 } else { 4 }, count);
                machine.cpu.paging.cr0 |= 1 << 18;
                machine.cpu.rflags |= rflags::AC;
                machine.cpu.gprs[4] = ESP + offset;
                machine.model.ram.write_u32(TSS + 4, 0x9001);
                let want = if count == 0 { OK } else { want };
                assert_eq!(machine.run(&far(Op::CallFar, 4, THROUGH, 0)), want);
            }
        }
    }
}

/// A device that has the parameters is read after the new stack was found writable.
#[test]
fn parameters_of_devices_are_read_late() {
    let mut machine = gated(12, 2);
    machine.cpu.gprs[4] = 0x2_0000;
    machine.model.protect(0x8000, !(1 << 31));
    let call = far(Op::CallFar, 4, THROUGH, 0);
    assert!(matches!(machine.run(&call), Err(Stop::Denied(_))));
    machine.model.maps.clear();
    for n in 0..2u8 {
        let Err(Stop::DeviceRead(read)) = machine.run(&call) else {
            panic!("the parameters are a device's");
        };
        assert_eq!((read.gpa.get(), read.len), (0x2_0000 + 4 * u64::from(n), 4));
        assert!(machine.journal.supply(read, [n + 1, 0, 0, 0, 0, 0, 0, 0]));
    }
    assert_eq!(machine.run(&call), OK);
    assert_eq!(machine.u32(machine.cpu.gprs[4] + 8), 1);
    assert_eq!(machine.u32(machine.cpu.gprs[4] + 12), 2);
}

/// A gate to the same level in IA-32e mode enters 64-bit code, whose stack has no limit.
#[test]
fn gates_of_ia32e_to_the_same_level() {
    for (op, cpl, selector) in [
        (Op::CallFar, 0, 0x38),
        (Op::JmpFar, 0, 0x38),
        (Op::CallFar, 3, 0x80),
    ] {
        let mut machine = Machine::ia32e(cpl, false);
        machine.set(0x70, gate(selector, 0x1122_3344, 0xec, 0));
        machine.set(0x78, 0);
        machine.set(0x80, descriptor(0, 0xfffff, CODE | 4, LONG));
        let mut stack = *machine.cpu.segment(Seg::Ss);
        stack.limit = 0x7000;
        machine.cpu.set_segment(Seg::Ss, stack);
        let (cs, _) = selectors(&machine.cpu);
        assert_eq!(machine.run(&far(op, 4, 0x70, 0)), OK);
        assert_eq!((machine.cpu.code, machine.cpu.cpl), (CodeSize::Bits64, cpl));
        let call = u64::from(op == Op::CallFar);
        assert_eq!(machine.cpu.gprs[4], ESP - call * 16);
        if op == Op::CallFar {
            assert_eq!(machine.u64(ESP - 16), 0x1007);
            assert_eq!(machine.u64(ESP - 8), cs.into());
        }
    }
}

/// A machine at level 3 with a gate of a type at 70 to level 0, and the stack for that.
fn gated(kind: u8, count: u8) -> Machine {
    let mut machine = Machine::protected(3);
    machine.set(0x70, gate(0x08, 0x1122_3344, 0xe0 | kind, count));
    machine.model.ram.write_u32(TSS + 4, 0x9000);
    machine.model.ram.write_u32(TSS + 8, 0x10);
    for n in 0..32 {
        machine.model.ram.write_u32(ESP + 4 * n, 0x100 + n as u32);
    }
    machine
}

const THROUGH: u16 = 0x73;

#[test]
fn gates_to_the_inner_level_switch_stacks() {
    for (kind, size) in [(12, 4), (4, 2)] {
        for count in [0, 1, 5, 31u8] {
            let mut machine = gated(kind, count);
            machine.cpu.gprs[4] = ESP;
            let insn = far(Op::CallFar, 4, THROUGH, 0xdead);
            assert_eq!(machine.run(&insn), OK);
            let cpu = machine.cpu;
            let len = size * (4 + u64::from(count));
            assert_eq!(cpu.gprs[4], 0x9000 - len);
            assert_eq!(selectors(&cpu), (0x08, 0x10));
            assert_eq!((cpu.cpl, cpu.paging.user), (0, false));
            assert_eq!(cpu.segment(Seg::Ss).attributes, 0xc093);
            let offset = if size == 4 { 0x1122_3344 } else { 0x3344 };
            assert_eq!(cpu.rip, offset);
            let mut slot = |n: u64| match size {
                4 => u64::from(machine.u32(0x9000 - len + 4 * n)),
                _ => u64::from(machine.u16(0x9000 - len + 2 * n)),
            };
            assert_eq!((slot(0), slot(1)), (0x1007, 0x1b));
            for n in 0..u64::from(count) {
                let want = match (size, n % 2) {
                    (4, _) => 0x100 + n,
                    (_, 0) => 0x100 + n / 2,
                    _ => 0,
                };
                assert_eq!(slot(2 + n), want, "{size} {n}");
            }
            let n = 2 + u64::from(count);
            assert_eq!((slot(n), slot(n + 1)), (ESP, 0x23));
        }
    }
}

#[test]
fn a_16_bit_tss_has_16_bit_stacks() {
    let mut machine = gated(4, 0);
    machine.cpu.tr.attributes = 0x83;
    machine.cpu.tr.limit = 0x2b;
    machine.model.ram.write_u32(TSS + 2, 0x10_9800);
    assert_eq!(machine.run(&far(Op::CallFar, 2, THROUGH, 0)), OK);
    assert_eq!(machine.cpu.gprs[4], 0x97f8);
    assert_eq!(selectors(&machine.cpu), (0x08, 0x10));
    machine = gated(4, 0);
    machine.cpu.tr.attributes = 0x83;
    machine.cpu.tr.limit = 4;
    assert_eq!(machine.run(&far(Op::CallFar, 2, THROUGH, 0)), ts(0x48));
}

#[test]
fn each_level_has_its_stack() {
    for (attributes, esp, ss) in [(0x8b, 12, 16), (0x83, 6, 8)] {
        let mut machine = gated(if attributes == 0x8b { 12 } else { 4 }, 0);
        machine.set(
            0x70,
            gate(0x58, 0, if attributes == 0x8b { 0xec } else { 0xe4 }, 0),
        );
        machine.cpu.tr.attributes = attributes;
        machine.model.ram.write(TSS, &[0x33; 0x40]);
        machine
            .model
            .ram
            .write(TSS + esp, &[0, 0x90, 0, 0][..(ss - esp) as usize]);
        machine.model.ram.write(TSS + ss, &[0x61, 0]);
        assert_eq!(machine.run(&far(Op::CallFar, 4, THROUGH, 0)), OK);
        assert_eq!(selectors(&machine.cpu), (0x59, 0x61));
        assert_eq!(machine.cpu.cpl, 1);
        assert_eq!(machine.cpu.gprs[4] & 0xf000, 0x8000);
    }
    let mut machine = Machine::ia32e(3, true);
    machine.set(0x70, gate(0x80, 0, 0xec, 0));
    machine.set(0x78, 0);
    machine.set(0x80, descriptor(0, 0xfffff, CODE | 1 << 5, LONG));
    machine.model.ram.write_u64(TSS + 12, 0x9000);
    assert_eq!(machine.run(&far(Op::CallFar, 4, THROUGH, 0)), OK);
    assert_eq!(selectors(&machine.cpu), (0x81, 1));
    assert_eq!(machine.cpu.gprs[4], 0x9000 - 32);
}

/// The frame lies in two pages, both of which are read-only: the first push faults.
#[test]
fn frames_fault_from_above() {
    let mut machine = Machine::ia32e(3, true);
    machine.set(0x70, gate(0x38, 0, 0xec, 0));
    machine.model.ram.write_u64(TSS + 4, 0x9010);
    machine.cpu.paging.cr0 |= 1 << 16;
    let tables = 0x10_0000u64;
    machine
        .model
        .ram
        .write_u64(tables + 0x2000, tables + 0x3027);
    for page in 0..512u64 {
        let read_only = matches!(page, 8 | 9);
        let entry = page << 12 | if read_only { 0x61 } else { 0x63 };
        machine
            .model
            .ram
            .write_u64(tables + 0x3000 + page * 8, entry);
    }
    let got = machine.run(&far(Op::CallFar, 4, THROUGH, 0));
    assert_eq!(got, Err(Exception::pf(ept::Gva::new(0x9008), 3).into()));
}

#[test]
fn gates_to_the_same_level() {
    for (kind, size) in [(12, 4), (4, 2)] {
        for (op, cpl, selector) in [
            (Op::CallFar, 0, 0x08),
            (Op::JmpFar, 0, 0x08),
            (Op::CallFar, 3, 0x30),
            (Op::JmpFar, 3, 0x30),
        ] {
            let mut machine = Machine::protected(cpl);
            machine.set(0x70, gate(selector, 0x1122_3344, 0xe0 | kind, 3));
            assert_eq!(machine.run(&far(op, 4, 0x70, 0)), OK);
            let call = u64::from(op == Op::CallFar);
            assert_eq!(machine.cpu.gprs[4], ESP - call * 2 * size);
            let (cs, _) = selectors(&machine.cpu);
            assert_eq!(cs, selector | u16::from(cpl));
            assert_eq!(machine.cpu.cpl, cpl);
        }
    }
}

#[test]
fn gates_are_checked() {
    type Change = fn(&mut Machine);
    type End = Result<Done, Stop>;
    let rows: [(Change, End, End); 20] = [
        // JMP does not enter another level.
        (|_| (), OK, gp(0x08)),
        (|m| m.set(0x70, gate(8, 0, 0xcc, 0)), gp(0x70), gp(0x70)),
        (|m| m.set(0x70, gate(8, 0, 0x6c, 0)), np(0x70), np(0x70)),
        (|m| m.set(0x70, gate(3, 0, 0xec, 0)), gp(0), gp(0)),
        (
            |m| m.set(0x70, gate(0x100, 0, 0xec, 0)),
            gp(0x100),
            gp(0x100),
        ),
        (|m| m.set(0x70, gate(0x10, 0, 0xec, 0)), gp(0x10), gp(0x10)),
        (|m| m.set(0x70, gate(0x40, 0, 0xec, 0)), np(0x40), gp(0x40)),
        (
            |m| m.set(0x70, gate(0x28, 0x1000, 0xec, 0)),
            gp(0),
            gp(0x28),
        ),
        // The stack in the TSS.
        (|m| m.cpu.tr.limit = 8, ts(0x48), gp(0x08)),
        (|m| m.model.ram.write_u32(TSS + 8, 0), ts(0), gp(0x08)),
        (
            |m| m.model.ram.write_u32(TSS + 8, 0x100),
            ts(0x100),
            gp(0x08),
        ),
        (|m| m.model.ram.write_u32(TSS + 8, 0x13), ts(0x10), gp(0x08)),
        (|m| m.model.ram.write_u32(TSS + 8, 0x20), ts(0x20), gp(0x08)),
        (|m| m.model.ram.write_u32(TSS + 8, 0x08), ts(0x08), gp(0x08)),
        (
            |m| m.set(0x10, descriptor(0, 0xfffff, 0x91, FLAT)),
            ts(0x10),
            gp(0x08),
        ),
        (
            |m| m.set(0x10, descriptor(0, 0xfffff, 0x13, FLAT)),
            ss(0x10),
            gp(0x08),
        ),
        (|m| m.set(0x10, descriptor(0, 8, DATA, FLAT)), OK, gp(0x08)),
        (
            |m| m.set(0x10, descriptor(0, 7, DATA, FLAT)),
            ss(0x10),
            gp(0x08),
        ),
        // The old stack has the parameters.
        (
            |m| {
                m.set(0x70, gate(8, 0, 0xec, 1));
                let mut stack = *m.cpu.segment(Seg::Ss);
                stack.limit = 0x8002;
                m.cpu.set_segment(Seg::Ss, stack);
            },
            ss(0),
            gp(0x08),
        ),
        // An offset of 32 bits, beyond a limit.
        (
            |m| m.set(0x08, descriptor(0, 0x11, CODE, FLAT)),
            gp(0),
            gp(0x08),
        ),
    ];
    for (n, (change, call, jump)) in rows.into_iter().enumerate() {
        for (op, want) in [(Op::CallFar, call), (Op::JmpFar, jump)] {
            let mut machine = gated(12, 0);
            change(&mut machine);
            assert_eq!(machine.run(&far(op, 4, THROUGH, 0)), want, "row {n} {op:?}");
        }
    }
    // The RPL of the gate's selector counts too.
    let mut machine = gated(12, 0);
    machine.set(0x70, gate(0x08, 0, 0x8c, 0));
    machine.cpu = Machine::protected(0).cpu;
    assert_eq!(machine.run(&far(Op::CallFar, 4, 0x70, 0)), OK);
    machine.cpu = Machine::protected(0).cpu;
    assert_eq!(machine.run(&far(Op::CallFar, 4, 0x71, 0)), gp(0x70));
}

#[test]
fn gates_of_ia32e() {
    for long in [false, true] {
        for (upper, target, want) in [
            (0x1234u64, 0x38, OK),
            (0x8000, 0x38, gp(0)),
            // The type in the upper half, code of 32 bits, with L and D.
            (0x0100_0000_1234, 0x38, gp(0x70)),
            (0, 0x08, gp(0x08)),
            (0, 0x80, gp(0x80)),
        ] {
            let mut machine = Machine::ia32e(3, long);
            machine.set(0x70, gate(target, 0x89ab_cdef, 0xec, 31));
            machine.set(0x78, upper);
            machine.set(0x80, descriptor(0, 0xfffff, CODE, LONG | FLAT));
            machine.model.ram.write_u64(TSS + 4, 0x9004);
            let (cs, ss) = selectors(&machine.cpu);
            let old = machine.cpu;
            let what = std::format!("{long} {upper:x} {target:x}");
            assert_eq!(machine.run(&far(Op::CallFar, 4, 0x73, 0)), want, "{what}");
            if want != OK {
                continue;
            }
            let cpu = machine.cpu;
            assert_eq!(cpu.rip, upper << 32 | 0x89ab_cdef);
            assert_eq!((cpu.code, cpu.cpl), (CodeSize::Bits64, 0));
            assert_eq!(cpu.gprs[4], 0x9004 - 32, "calls do not align the stack");
            let frame = [0x1007, cs.into(), old.gprs[4], ss.into()];
            for (n, want) in frame.into_iter().enumerate() {
                assert_eq!(machine.u64(cpu.gprs[4] + 8 * n as u64), want);
            }
            let stack = cpu.segment(Seg::Ss);
            assert_eq!((stack.selector, stack.unusable, stack.dpl()), (0, true, 0));
            // And back.
            assert_eq!(machine.run(&ret(8, 0)), OK);
            assert_eq!(selectors(&machine.cpu), (cs, ss));
            assert_eq!((machine.cpu.rip, machine.cpu.code), (0x1007, old.code));
            assert_eq!(machine.cpu.gprs[4], old.gprs[4]);
            assert_eq!(machine.cpu.segments[1..3], old.segments[1..3]);
            assert!(machine.cpu.paging.user);
        }
        // The table ends within the upper half.
        let mut machine = Machine::ia32e(3, long);
        machine.set(0x70, gate(0x38, 0, 0xec, 0));
        machine.cpu.gdtr.limit = 0x7e;
        assert_eq!(machine.run(&far(Op::CallFar, 4, 0x73, 0)), gp(0x70));
        machine.model.ram.write_u64(TSS + 4, 0x9000);
        machine.set(0x78, 0);
        machine.cpu.gdtr.limit = 0x7f;
        assert_eq!(machine.run(&far(Op::CallFar, 4, 0x73, 0)), OK);
        // A stack that is not canonical.
        let mut machine = Machine::ia32e(3, long);
        machine.set(0x70, gate(0x38, 0, 0xec, 0));
        machine.model.ram.write_u64(TSS + 4, 0x8000_0000_0010);
        assert_eq!(machine.run(&far(Op::CallFar, 4, 0x73, 0)), ss(0));
    }
}

/// A frame on the new stack that is denied: nothing has changed, not even a flag in the
/// descriptors.
#[test]
fn gates_that_are_denied_change_nothing() {
    let mut machine = gated(12, 2);
    machine.set(0x08, descriptor(0, 0xfffff, CODE & !1, FLAT));
    machine.set(0x10, descriptor(0, 0xfffff, DATA & !1, FLAT));
    machine.model.protect(0x8000, !(1 << 31));
    match machine.run(&far(Op::CallFar, 4, THROUGH, 0)) {
        Err(Stop::Denied(d)) => {
            assert_eq!((d.gpa.get(), d.size), (0x9000 - 24, 24));
        }
        got => panic!("{got:?}"),
    }
    machine.model.maps.clear();
    machine.model.protect(GDT, 0);
    let got = machine.run(&far(Op::CallFar, 4, THROUGH, 0));
    assert!(matches!(got, Err(Stop::Denied(_))), "{got:?}");
    machine.model.maps.clear();
    assert_eq!(machine.run(&far(Op::CallFar, 4, THROUGH, 0)), OK);
    let writes = machine.model.writes();
    assert_eq!(
        writes,
        [
            Event::Exchange(GDT + 13, 1),
            Event::Exchange(GDT + 0x15, 1),
            Event::Write(0x9000 - 24, 24)
        ]
    );
}

/// Through a gate and back: everything is as it was.
#[test]
fn there_and_back() {
    for count in [0, 7u8] {
        let mut machine = gated(12, count);
        let before = machine.cpu;
        let ds = *machine.cpu.segment(Seg::Ds);
        assert_eq!(machine.run(&far(Op::CallFar, 4, THROUGH, 0)), OK);
        assert_eq!(machine.run(&ret(4, 4 * u16::from(count))), OK);
        let mut want = before;
        want.rip = RIP + 7;
        want.gprs[4] = ESP + 4 * u64::from(count);
        assert_eq!(machine.cpu, want);
        assert_eq!(*machine.cpu.segment(Seg::Ds), ds);
    }
}
