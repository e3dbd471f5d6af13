// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::cpu::Segment;
use crate::insn::{CodeSize, Operand};
use crate::machine::{at, descriptor, gate, Machine, CODE, FLAT, GDT, LONG, TSS};
use crate::model::{Event, Meanwhile};
use ept::Gpa;

pub(super) const OK: Result<Done, Stop> = Ok(Done::Retired);
pub(super) const ESP: u64 = 0x8000;

pub(super) fn gp(code: u32) -> Result<Done, Stop> {
    Err(Exception::gp(code).into())
}

pub(super) fn np(code: u32) -> Result<Done, Stop> {
    Err(Exception::np(code).into())
}

pub(super) fn ss(code: u32) -> Result<Done, Stop> {
    Err(Exception::ss(code).into())
}

pub(super) fn ts(code: u32) -> Result<Done, Stop> {
    Err(Exception::ts(code).into())
}

/// The direct form.
pub(super) fn far(op: Op, size: u8, selector: u16, offset: u64) -> Insn {
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

pub(super) fn ret(size: u8, parameters: u16) -> Insn {
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

pub(super) fn selectors(cpu: &Cpu) -> (u16, u16) {
    (cpu.segment(Seg::Cs).selector, cpu.segment(Seg::Ss).selector)
}

/// Pushes words as RET finds them, the last first.
pub(super) fn push(machine: &mut Machine, size: u8, slots: &[u64]) {
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

/// What is entered decides how the stack is addressed.
#[test]
fn calls_push_as_what_they_enter() {
    for (long, selector, big, top) in [
        (false, 0x38, true, ESP),
        (true, 0x38, true, ESP),
        (true, 0x08, true, 0x1_0000 + ESP),
        (false, 0x08, true, 0x1_0000 + ESP),
        (true, 0x08, false, 0x1_0000 + ESP),
        (true, 0x30, true, 0x1_0000 + ESP),
    ] {
        for limit in [0x7fff, 0x7ffe] {
            let mut machine = Machine::ia32e(0, long);
            let mut stack = *machine.cpu.segment(Seg::Ss);
            stack.base = 0x1_0000;
            stack.limit = limit;
            stack.attributes &= if big { u16::MAX } else { !(1 << 14) };
            machine.cpu.set_segment(Seg::Ss, stack);
            machine.model.ram.write(0x2000, &[0, 0, 0, 0]);
            machine.model.ram.write(0x2004, &u16::to_le_bytes(selector));
            let mut insn = far(Op::CallFar, 4, 0, 0);
            insn.dst = Operand::Mem;
            insn.mem = at(0x2000);
            let got = machine.run(&insn);
            if selector != 0x38 && limit == 0x7ffe {
                assert_eq!(got, ss(0));
                continue;
            }
            assert_eq!(got, OK);
            assert_eq!(machine.u32(top - 8), 0x1007);
            assert_eq!(machine.cpu.gprs[4], ESP - 8);
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
    let fault = Exception::pf(ept::Gva::new(GDT + 0x7fc), 7);
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
    assert_eq!(machine.run(&insn), fault(0x7ffc, 7));
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

/// The accessed flag of a descriptor in read-only memory is a device's matter, and that
/// hears of it when the call is made, not when it is tried.
#[test]
fn devices_hear_of_finished_calls() {
    let mut machine = Machine::protected(0);
    machine.set(8, descriptor(0, 0xfffff, CODE & !1, FLAT));
    machine.model.rom.insert(GDT >> 12);
    let call = far(Op::CallFar, 4, 8, 5);
    let denied = Meanwhile::Map(ESP - 8, spp::Mask::NONE);
    machine.model.meanwhile = std::vec![denied];
    assert_eq!(machine.run(&call), Err(Stop::Retry));
    machine.model.maps.clear();
    assert_eq!(machine.run(&call), OK);
    let told = machine.journal.next_write().unwrap();
    assert_eq!((told.gpa, told.len, told.data[0]), (GDT + 13, 1, CODE));
    assert_eq!(machine.journal.next_write(), None);
}
