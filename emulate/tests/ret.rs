// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::cpu::rflags;
use crate::exec::far::tests::*;
use crate::machine::{descriptor, Machine, CODE, FLAT, GDT, LONG};
use crate::model::Event;

#[test]
fn virtual_8086_mode_has_limits_of_its_own() {
    let mut machine = Machine::real();
    machine.cpu.paging.cr0 |= 1;
    machine.cpu.rflags |= rflags::VM;
    machine.cpu.cpl = 3;
    machine.cpu.paging.user = true;
    push(&mut machine, 2, &[0x17, 0x20, 0x30]);
    assert_eq!(machine.run(&ret(2, 2)), OK);
    let want = Segment {
        selector: 0x20,
        base: 0x200,
        limit: 0xffff,
        attributes: 0xf3,
        unusable: false,
    };
    assert_eq!(*machine.cpu.segment(Seg::Cs), want);
    assert_eq!((machine.cpu.rip, machine.cpu.gprs[4]), (0x30, ESP));
    assert_eq!(machine.cpu.cpl, 3);
}

#[test]
fn returns_to_the_same_level() {
    for (size, width) in [(2u8, 0xffff), (4, 0xffff_ffff)] {
        for parameters in [0, 8] {
            let mut machine = Machine::protected(3);
            push(&mut machine, size, &[0xab1b, 0x1234_5678]);
            let sp = machine.cpu.gprs[4];
            // The upper half of the slot of CS is not looked at.
            machine.model.ram.write(sp + u64::from(size), &[0x1b, 0]);
            assert_eq!(machine.run(&ret(size, parameters)), OK);
            assert_eq!(machine.cpu.rip, 0x1234_5678 & width);
            assert_eq!(machine.cpu.gprs[4], ESP + u64::from(parameters));
            assert_eq!(selectors(&machine.cpu), (0x1b, 0x23));
        }
    }
}

#[test]
fn returns_are_checked() {
    for (cpl, selector, offset, want) in [
        (0, 0x08, 0, OK),
        (0, 0x30, 0, OK),
        (3, 0x33, 0, OK),
        (0, 0, 0, gp(0)),
        (0, 0x100, 0, gp(0x100)),
        (0, 0x10, 0, gp(0x10)),
        (0, 0x48, 0, gp(0x48)),
        (3, 0x18, 0, gp(0x18)),
        (3, 0x30, 0, gp(0x30)),
        (3, 0x0b, 0, gp(0x08)),
        (0, 0x18, 0, gp(0x18)),
        (0, 0x40, 0, np(0x40)),
        (0, 0x28, 0x1000, gp(0)),
    ] {
        let mut machine = Machine::protected(cpl);
        push(&mut machine, 4, &[selector, offset]);
        assert_eq!(machine.run(&ret(4, 0)), want, "{cpl} {selector:x}");
    }
    let mut machine = Machine::protected(0);
    let mut stack = *machine.cpu.segment(Seg::Ss);
    stack.limit = ESP as u32 + 6;
    machine.cpu.set_segment(Seg::Ss, stack);
    assert_eq!(machine.run(&ret(4, 0)), ss(0));
}

/// Level 0 with what a return to level 3 needs on the stack.
fn inner(size: u8, cs: u64, stack: u64) -> Machine {
    let mut machine = Machine::protected(0);
    push(&mut machine, size, &[stack, 0x4000, 0, 0, cs, 0x1234]);
    machine
}

#[test]
fn returns_to_an_outer_level() {
    for size in [2u8, 4] {
        let mut machine = inner(size, 0x1b, 0x23);
        let segments = &mut machine.cpu.segments;
        segments[3].attributes |= 3 << 5;
        segments[4] = Segment {
            // Conforming code of level 0 stays.
            selector: 0x30,
            attributes: 0xc09f,
            ..segments[4]
        };
        segments[5].attributes = 0xc09b;
        let before = *segments;
        assert_eq!(machine.run(&ret(size, 2 * u16::from(size))), OK);
        let cpu = machine.cpu;
        assert_eq!(cpu.rip, 0x1234);
        assert_eq!(cpu.gprs[4], 0x4000 + 2 * u64::from(size));
        assert_eq!(selectors(&cpu), (0x1b, 0x23));
        assert_eq!((cpu.cpl, cpu.paging.user), (3, true));
        assert_eq!(cpu.segment(Seg::Ss).attributes, 0xc0f3);
        assert_eq!(cpu.segments[0].selector, 0);
        assert!(cpu.segments[0].unusable, "data of level 0");
        assert!(cpu.segments[5].unusable, "code of level 0");
        assert_eq!(cpu.segments[5].selector, 0);
        assert_eq!(cpu.segments[3..5], before[3..5]);
    }
}

#[test]
fn returns_set_accessed_flags() {
    let fresh = |machine: &mut Machine| {
        for (selector, access) in [(0x08, 0x9a), (0x18, 0xfa), (0x20, 0xf2)] {
            machine.set(selector, descriptor(0, 0xfffff, access, FLAT));
        }
    };
    let mut machine = inner(4, 0x1b, 0x23);
    fresh(&mut machine);
    machine.model.protect(GDT, !1);
    assert!(matches!(machine.run(&ret(4, 8)), Err(Stop::Denied(_))));
    machine.model.maps.clear();
    assert_eq!(machine.run(&ret(4, 8)), OK);
    let exchanges = [GDT + 0x1d, GDT + 0x25].map(|at| Event::Exchange(at, 1));
    assert_eq!(machine.model.writes(), exchanges);

    let mut machine = Machine::protected(0);
    push(&mut machine, 4, &[0x08, 0]);
    fresh(&mut machine);
    assert_eq!(machine.run(&ret(4, 8)), OK);
    assert_eq!(machine.model.writes(), [Event::Exchange(GDT + 0xd, 1)]);
}

#[test]
fn returns_to_an_outer_level_are_checked() {
    for (cs, stack, want) in [
        (0x1b, 0x23, OK),
        (0x1b, 0, gp(0)),
        (0x1b, 3, gp(0)),
        (0x1b, 0x100, gp(0x100)),
        (0x1b, 0x20, gp(0x20)),
        (0x1b, 0x13, gp(0x10)),
        (0x1b, 0x1b, gp(0x18)),
        (0x1b, 0x73, ss(0x70)),
        // A conforming segment is code of any level that is not more privileged.
        (0x33, 0x23, OK),
        (0x59, 0x61, OK),
        (0x5b, 0x23, gp(0x58)),
    ] {
        let mut machine = inner(4, cs, stack);
        machine.set(0x70, descriptor(0, 0xfffff, 0x73, FLAT));
        assert_eq!(machine.run(&ret(4, 8)), want, "{cs:x} {stack:x}");
    }
    // Both stack slots have to be there.
    let mut machine = inner(4, 0x1b, 0x23);
    let mut stack = *machine.cpu.segment(Seg::Ss);
    stack.limit = ESP as u32 - 2;
    machine.cpu.set_segment(Seg::Ss, stack);
    assert_eq!(machine.run(&ret(4, 8)), ss(0));
}

#[test]
fn null_stacks_are_for_64_bit_code_above_level_3() {
    for (cs, stack, want) in [
        (0x71, 1, OK),
        (0x71, 0, gp(0)),
        (0x59, 1, gp(0)),
        (0x1b, 3, gp(0)),
        (0x1b, 0x23, OK),
    ] {
        let mut machine = Machine::ia32e(0, true);
        machine.set(0x70, descriptor(0, 0xfffff, CODE | 1 << 5, LONG));
        push(&mut machine, 8, &[stack, 0x4000, cs, 0x1234]);
        assert_eq!(machine.run(&ret(8, 0)), want, "{cs:x} {stack:x}");
        if want == OK {
            let ss = machine.cpu.segment(Seg::Ss);
            assert_eq!(u64::from(ss.selector), stack);
            assert_eq!(u64::from(ss.dpl()), cs & 3);
            assert_eq!(machine.cpu.gprs[4], 0x4000);
        }
    }
}
