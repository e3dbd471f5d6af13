// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::cpu::{rflags, Segment};
use crate::insn::{CodeSize, Operand};
use crate::machine::{at, descriptor, gate, Machine, CODE, DATA, FLAT, GDT, LONG, RIP, TSS};
use crate::model::Event;
use ept::Gpa;

const OK: Result<Done, Stop> = Ok(Done::Retired);
const ESP: u64 = 0x8000;

fn gp(code: u32) -> Result<Done, Stop> {
    Err(Exception::gp(code).into())
}

fn np(code: u32) -> Result<Done, Stop> {
    Err(Exception::np(code).into())
}

fn ss(code: u32) -> Result<Done, Stop> {
    Err(Exception::ss(code).into())
}

fn ts(code: u32) -> Result<Done, Stop> {
    Err(Exception::ts(code).into())
}

/// The direct form.
fn far(op: Op, size: u8, selector: u16, offset: u64) -> Insn {
    Insn {
        op,
        len: 7,
        size,
        addr_size: 4,
        dst: Operand::Imm,
        imm: offset as i64,
        imm2: selector,
        ..Insn::default()
    }
}

fn ret(size: u8, parameters: u16) -> Insn {
    Insn {
        op: Op::RetFar,
        len: 3,
        size,
        addr_size: 4,
        dst: Operand::Imm,
        imm: parameters.into(),
        ..Insn::default()
    }
}

fn selectors(cpu: &Cpu) -> (u16, u16) {
    (cpu.segment(Seg::Cs).selector, cpu.segment(Seg::Ss).selector)
}

/// Pushes words as RET finds them, the last first.
fn push(machine: &mut Machine, size: u8, slots: &[u64]) {
    for slot in slots {
        let sp = machine.cpu.gprs[4] - u64::from(size);
        machine.cpu.gprs[4] = sp;
        let bytes = &slot.to_le_bytes()[..size.into()];
        machine.model.ram.write(sp, bytes);
    }
}

#[test]
fn real_mode_shifts_the_selector() {
    for (op, size) in [
        (Op::JmpFar, 2),
        (Op::JmpFar, 4),
        (Op::CallFar, 2),
        (Op::CallFar, 4),
    ] {
        let mut machine = Machine::real();
        let mut cs = *machine.cpu.segment(Seg::Cs);
        cs.selector = 0x123;
        cs.limit = 0xf_ffff;
        machine.cpu.set_segment(Seg::Cs, cs);
        assert_eq!(machine.run(&far(op, size, 0xf000, 0xfff0)), OK);
        let segment = *machine.cpu.segment(Seg::Cs);
        assert_eq!((segment.selector, segment.base), (0xf000, 0xf_0000));
        assert_eq!((segment.limit, segment.attributes), (0xf_ffff, 0x93));
        assert_eq!(machine.cpu.rip, 0xfff0);
        assert_eq!(machine.cpu.code, CodeSize::Bits16);
        let sp = machine.cpu.gprs[4];
        match (op, size) {
            (Op::JmpFar, _) => assert_eq!(sp, ESP),
            (_, 2) => {
                assert_eq!(sp, ESP - 4);
                assert_eq!(machine.u32(sp), 0x0123_1007);
            }
            _ => {
                assert_eq!(sp, ESP - 8);
                assert_eq!(machine.u64(sp), 0x123_0000_1007);
            }
        }
        assert_eq!(machine.run(&far(op, 4, 0xf000, 0x10_0000)), gp(0));
        let sp = machine.cpu.gprs[4];
        push(&mut machine, 4, &[0, 0x10_0000]);
        assert_eq!(machine.run(&ret(4, 0)), gp(0));
        machine.cpu.gprs[4] = sp;
        if op == Op::CallFar {
            assert_eq!(machine.run(&ret(size, 0)), OK);
            let cpu = &machine.cpu;
            assert_eq!(
                (cpu.rip, cpu.gprs[4], *cpu.segment(Seg::Cs)),
                (0x1007, ESP, {
                    cs.base = 0x1230;
                    cs
                })
            );
        }
    }
}

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
fn code_of_the_same_level() {
    use CodeSize::{Bits16, Bits32};
    for op in [Op::JmpFar, Op::CallFar] {
        for (cpl, selector, offset, want, cs, code) in [
            (0, 0x08, 0x1234_5678, OK, 0x08, Bits32),
            (0, 0x08, 0x1234_5678, OK, 0x08, Bits32),
            (0, 0x28, 0xfff, OK, 0x28, Bits16),
            (0, 0x28, 0x1000, gp(0), 0, Bits32),
            (0, 0x30, 0, OK, 0x30, Bits32),
            (3, 0x1b, 0, OK, 0x1b, Bits32),
            // The RPL may be lower, and the level is what counts.
            (3, 0x18, 0, OK, 0x1b, Bits32),
            (3, 0x30, 0, OK, 0x33, Bits32),
            (0, 0x33, 0, OK, 0x30, Bits32),
            // Without IA-32e mode L means nothing, and D is 0.
            (0, 0x38, 0, OK, 0x38, Bits16),
            // Null; RPL too high; another level; not present; data; beyond the table.
            (0, 0x00, 0, gp(0), 0, Bits32),
            (0, 0x03, 0, gp(0), 0, Bits32),
            (0, 0x0b, 0, gp(0x08), 0, Bits32),
            (0, 0x1b, 0, gp(0x18), 0, Bits32),
            (0, 0x18, 0, gp(0x18), 0, Bits32),
            (3, 0x08, 0, gp(0x08), 0, Bits32),
            (0, 0x40, 0, np(0x40), 0, Bits32),
            (3, 0x43, 0, gp(0x40), 0, Bits32),
            (0, 0x10, 0, gp(0x10), 0, Bits32),
            (0, 0x100, 0, gp(0x100), 0, Bits32),
            // LDT: the segment of an LDT, and a busy TSS.
            (0, 0x50, 0, gp(0x50), 0, Bits32),
            (0, 0x48, 0, gp(0x48), 0, Bits32),
        ] {
            let mut machine = Machine::protected(cpl);
            let (old, _) = selectors(&machine.cpu);
            let what = std::format!("{op:?} {cpl} {selector:x}");
            assert_eq!(machine.run(&far(op, 4, selector, offset)), want, "{what}");
            if want != OK {
                continue;
            }
            assert_eq!(machine.cpu.rip, offset, "{what}");
            assert_eq!(machine.cpu.segment(Seg::Cs).selector, cs, "{what}");
            assert_eq!((machine.cpu.code, machine.cpu.cpl), (code, cpl), "{what}");
            if op == Op::CallFar {
                assert_eq!(machine.cpu.gprs[4], ESP - 8, "{what}");
                let back = u64::from(old) << 32 | 0x1007;
                assert_eq!(machine.u64(ESP - 8), back, "{what}");
            }
        }
    }
}

#[test]
fn hidden_parts_come_from_the_descriptor() {
    let mut machine = Machine::protected(0);
    assert_eq!(machine.run(&far(Op::JmpFar, 2, 0x28, 0xabcd_0123)), OK);
    let want = Segment {
        selector: 0x28,
        base: 0x10000,
        limit: 0xfff,
        attributes: 0x9b,
        unusable: false,
    };
    assert_eq!(*machine.cpu.segment(Seg::Cs), want);
    assert_eq!(machine.cpu.rip, 0x123, "16 bits of the offset count");
}

#[test]
fn the_ldt_has_descriptors_too() {
    let mut machine = Machine::protected(0);
    let entry = descriptor(0, 0xfffff, CODE, FLAT);
    machine.model.ram.write_u64(0x5808, entry);
    assert_eq!(machine.run(&far(Op::JmpFar, 4, 0x0c, 1)), OK);
    assert_eq!(machine.cpu.segment(Seg::Cs).selector, 0x0c);
    assert_eq!(machine.run(&far(Op::JmpFar, 4, 0x14, 1)), gp(0x14));
    // Index 0 of an LDT is not null.
    assert_eq!(machine.run(&far(Op::JmpFar, 4, 0x04, 1)), gp(0x04));
    machine.cpu.ldtr.unusable = true;
    assert_eq!(machine.run(&far(Op::JmpFar, 4, 0x0c, 1)), gp(0x0c));
    // The table ends with its last byte.
    machine.cpu.gdtr.limit = 0x0e;
    assert_eq!(machine.run(&far(Op::JmpFar, 4, 0x08, 1)), gp(0x08));
    machine.cpu.gdtr.limit = 0x0f;
    assert_eq!(machine.run(&far(Op::JmpFar, 4, 0x08, 1)), OK);
}

#[test]
fn pointers_in_memory() {
    for (size, want) in [(2, 0x5678), (4, 0x1234_5678), (8, 0x7fff_1234_5678)] {
        let mut machine = Machine::ia32e(0, true);
        let mut bytes = 0x7fff_1234_5678u64.to_le_bytes()[..size].to_vec();
        bytes.extend([0x38, 0]);
        machine.model.ram.write(0x2001, &bytes);
        let mut insn = far(Op::CallFar, size as u8, 0, 0);
        insn.dst = Operand::Mem;
        insn.mem = at(0x2001);
        assert_eq!(machine.run(&insn), OK);
        assert_eq!(machine.cpu.rip, want);
        assert_eq!(machine.cpu.gprs[4], ESP - 2 * size as u64);
        // Beyond the segment.
        let mut machine = Machine::protected(0);
        let mut ds = *machine.cpu.segment(Seg::Ds);
        ds.limit = 0x2001 + size as u32;
        machine.cpu.set_segment(Seg::Ds, ds);
        assert_eq!(machine.run(&insn), gp(0));
    }
}

#[test]
fn modes_of_ia32e() {
    use CodeSize::{Bits16, Bits32, Bits64};
    const FAR: u64 = 0xffff_8000_0000_0000;
    for long in [false, true] {
        for (selector, offset, want, code) in [
            (0x38, 0x1234_5678, OK, Bits64),
            (0x38, FAR, OK, Bits64),
            (0x38, FAR - 1, gp(0), Bits64),
            (0x08, 0xffff_ffff, OK, Bits32),
            (0x08, 0x1_0000_0000, gp(0), Bits32),
            (0x28, 0xfff, OK, Bits16),
            (0x28, 0x1000, gp(0), Bits16),
            // L and D.
            (0x70, 0, gp(0x70), Bits64),
            // Neither task gates nor TSS nor 16-bit call gates.
            (0x78, 0, gp(0x78), Bits64),
            (0x80, 0, gp(0x80), Bits64),
            (0x88, 0, gp(0x88), Bits64),
        ] {
            let mut machine = Machine::ia32e(0, long);
            machine.set(0x70, descriptor(0, 0xfffff, CODE, LONG | FLAT));
            machine.set(0x78, gate(0x48, 0, 0x85, 0));
            machine.set(0x80, descriptor(TSS as u32, 0x67, 0x89, 0));
            machine.set(0x88, gate(0x38, 0, 0x84, 0));
            let mut insn = far(Op::JmpFar, 8, selector, offset);
            insn.dst = Operand::Mem;
            insn.mem = at(0x2000);
            machine.model.ram.write_u64(0x2000, offset);
            machine.model.ram.write(0x2008, &selector.to_le_bytes());
            assert_eq!(machine.run(&insn), want, "{selector:x} {offset:x}");
            if want == OK {
                assert_eq!((machine.cpu.rip, machine.cpu.code), (offset, code));
            }
        }
    }
}

/// The push is one span: a denial in any part of it leaves everything as it was.
#[test]
fn calls_that_are_denied_change_nothing() {
    for sp in 0x2080..=0x2090u64 {
        for (machine, size) in [
            (Machine::real(), 2),
            (Machine::protected(3), 4),
            (Machine::ia32e(3, true), 8),
        ] {
            let mut machine = machine;
            machine.cpu.gprs[4] = sp;
            machine.model.protect(0x2000, !1);
            let selector = if size == 2 { 0x20 } else { 0x1b };
            let mut insn = far(Op::CallFar, size, selector, 5);
            insn.dst = Operand::Mem;
            insn.mem = at(0x3000);
            let mut bytes = 5u64.to_le_bytes()[..size.into()].to_vec();
            bytes.extend(selector.to_le_bytes());
            machine.model.ram.write(0x3000, &bytes);
            let first = sp - 2 * u64::from(size);
            match machine.run(&insn) {
                Ok(_) => assert!(first >= 0x2080),
                Err(Stop::Denied(d)) => {
                    assert!(first < 0x2080);
                    assert_eq!(d.gpa, Gpa::new(first));
                    assert_eq!((d.size, d.read), (2 * u16::from(size), false));
                }
                Err(stop) => panic!("{stop:?}"),
            }
        }
    }
}

#[test]
fn stacks_have_limits() {
    let mut machine = Machine::protected(0);
    let mut stack = *machine.cpu.segment(Seg::Ss);
    stack.limit = 0x7ffe;
    machine.cpu.set_segment(Seg::Ss, stack);
    let call = far(Op::CallFar, 4, 8, 0);
    assert_eq!(machine.run(&call), ss(0));
    // The stack comes before the offset.
    let beyond = far(Op::CallFar, 4, 0x28, 0x1000);
    assert_eq!(machine.run(&beyond), ss(0));
    stack.limit = 0x7fff;
    machine.cpu.set_segment(Seg::Ss, stack);
    assert_eq!(machine.run(&call), OK);
    // Expand-down: offsets begin above the limit.
    stack.attributes |= 4;
    machine.cpu.set_segment(Seg::Ss, stack);
    machine.cpu.gprs[4] = 0x8008;
    assert_eq!(machine.run(&call), OK);
    machine.cpu.gprs[4] = 0x8007;
    assert_eq!(machine.run(&call), ss(0));
}

/// SP that wraps between two words: two spans, which cannot be written at once.
#[test]
fn a_stack_pointer_that_wraps_is_refused() {
    let call = far(Op::CallFar, 2, 0x20, 0);
    for (sp, want) in [
        (0, OK),
        (1, ss(0)),
        (2, Err(Stop::Refused(Op::CallFar))),
        (3, ss(0)),
        (4, OK),
    ] {
        let mut machine = Machine::real();
        machine.cpu.gprs[4] = 0xabcd_0000 | sp;
        assert_eq!(machine.run(&call), want, "{sp}");
        if want == OK {
            let after = sp.wrapping_sub(4) & 0xffff;
            assert_eq!(machine.cpu.gprs[4], 0xabcd_0000 | after);
        }
    }
}

#[test]
fn the_accessed_flag_is_set_by_an_exchange() {
    for op in [Op::JmpFar, Op::CallFar] {
        let mut machine = Machine::protected(0);
        machine.set(0x08, descriptor(0, 0xfffff, CODE & !1, FLAT));
        assert_eq!(machine.run(&far(op, 4, 8, 0)), OK);
        let want = descriptor(0, 0xfffff, CODE, FLAT);
        assert_eq!(machine.u64(GDT + 8), want);
        assert_eq!(machine.model.writes()[0], Event::Exchange(GDT + 13, 1));
        assert_eq!(machine.cpu.segment(Seg::Cs).attributes, 0xc09b);

        assert_eq!(machine.run(&far(op, 4, 8, 0)), OK);
        let exchange = |event: &Event| matches!(event, Event::Exchange(..));
        assert!(!machine.model.writes().iter().any(exchange));

        machine.set(0x08, descriptor(0, 0xfffff, CODE & !1, FLAT));
        machine.model.protect(GDT, !1);
        match machine.run(&far(op, 4, 8, 0)) {
            Err(Stop::Denied(d)) => {
                assert_eq!((d.gpa.get(), d.size, d.read), (GDT + 13, 1, true));
            }
            got => panic!("{got:?}"),
        }
    }
}

#[test]
fn user_code_loads_segments_with_the_rights_of_the_system() {
    let mut machine = Machine::ia32e(3, false);
    // The GDT is in a page of the supervisor's.
    let tables = 0x10_0000u64;
    machine
        .model
        .ram
        .write_u64(tables + 0x2000, tables + 0x3027);
    for page in 0..512u64 {
        let user = if page == GDT >> 12 { 0 } else { 4 };
        let entry = page << 12 | 0x63 | user;
        machine
            .model
            .ram
            .write_u64(tables + 0x3000 + page * 8, entry);
    }
    machine.set(0x18, descriptor(0, 0xfffff, 0xfa, FLAT));
    assert_eq!(machine.run(&far(Op::CallFar, 4, 0x1b, 0)), OK);
    assert_eq!(machine.u64(GDT + 0x18), descriptor(0, 0xfffff, 0xfb, FLAT));
    // Its own stack it needs rights for.
    machine.cpu.gprs[4] = GDT + 0x800;
    let got = machine.run(&far(Op::CallFar, 4, 0x1b, 0));
    let fault = Exception::pf(ept::Gva::new(GDT + 0x7f8), 7);
    assert_eq!(got, Err(fault.into()));
}

/// A machine of level 3 whose pages are the supervisor's, but for some.
fn supervisor(user: &[u64]) -> Machine {
    let mut machine = Machine::ia32e(3, true);
    let tables = 0x10_0000u64;
    let ram = &mut machine.model.ram;
    ram.write_u64(tables + 0x2000, tables + 0x3027);
    for page in 0..512u64 {
        let bit = u64::from(user.contains(&(page << 12))) << 2;
        ram.write_u64(tables + 0x3000 + page * 8, page << 12 | 0x63 | bit);
    }
    machine
}

#[test]
fn pointers_and_stacks_are_the_programs_own() {
    let mut insn = far(Op::CallFar, 4, 0, 0);
    insn.dst = Operand::Mem;
    insn.mem = at(0x2000);
    let fault = |gva, code| Err(Exception::pf(ept::Gva::new(gva), code).into());
    let mut machine = supervisor(&[0x7000]);
    assert_eq!(machine.run(&insn), fault(0x2000, 5));
    machine = supervisor(&[0x2000]);
    machine.model.ram.write(0x2000, &[0, 0, 0, 0, 0x1b, 0]);
    assert_eq!(machine.run(&insn), fault(0x7ff8, 7));
    machine = supervisor(&[0x2000, 0x7000]);
    machine.model.ram.write(0x2000, &[0, 0, 0, 0, 0x1b, 0]);
    assert_eq!(machine.run(&insn), OK);
    // The stack of the inner level is the supervisor's.
    let mut machine = supervisor(&[]);
    machine.set(0x70, gate(0x38, 0, 0xec, 0));
    machine.model.ram.write_u64(TSS + 4, 0x9000);
    assert_eq!(machine.run(&far(Op::CallFar, 4, 0x73, 0)), OK);
    // What RET pops is the program's.
    machine = supervisor(&[]);
    assert_eq!(machine.run(&ret(4, 0)), fault(0x8000, 5));
}

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

#[test]
fn tasks_and_shadow_stacks_are_refused() {
    let mut machine = Machine::protected(0);
    machine.set(0x70, descriptor(0x6800, 0x67, 0x89, 0));
    machine.set(0x78, gate(0x70, 0, 0x85, 0));
    let refused = Err(Stop::Refused(Op::JmpFar));
    for selector in [0x70, 0x78] {
        assert_eq!(machine.run(&far(Op::JmpFar, 4, selector, 0)), refused);
    }
    machine.cpu.paging.cr4 |= 1 << 23;
    assert_eq!(machine.run(&far(Op::JmpFar, 4, 8, 0)), refused);
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
