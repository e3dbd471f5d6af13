// SPDX-License-Identifier: GPL-2.0

use std::vec::Vec;

use super::*;
use crate::cpu::{rflags, Segment};
use crate::insn::Seg;
use crate::machine::{descriptor, gate, Machine, CODE, DATA, FLAT, GDT, IDT, LONG, TSS};

const EXTERNAL: Event = Event {
    vector: 0x21,
    kind: Kind::External,
    error_code: false,
};
const FAULT: Event = Event {
    vector: 14,
    kind: Kind::Exception,
    error_code: true,
};
const INT: Event = Event {
    vector: 0x80,
    kind: Kind::SoftwareInterrupt,
    error_code: false,
};
const ALL: [Event; 3] = [EXTERNAL, FAULT, INT];
const ESP: u64 = 0x8000;

/// Address and length, the stack first.
type Writes = Vec<(u64, u16)>;

fn frame_of(machine: &mut Machine, event: &Event) -> Result<Writes, Stop> {
    let frame = frame(&mut machine.guest(), event)?;
    Ok(frame.ranges().map(|r| (r.gva.get(), r.len)).collect())
}

fn gp(code: u32) -> Result<Writes, Stop> {
    Err(Exception::gp(code).into())
}

fn np(code: u32) -> Result<Writes, Stop> {
    Err(Exception::np(code).into())
}

fn ss(code: u32) -> Result<Writes, Stop> {
    Err(Exception::ss(code).into())
}

fn ts(code: u32) -> Result<Writes, Stop> {
    Err(Exception::ts(code).into())
}

/// Gates of 8 bytes for all vectors.
fn gates(machine: &mut Machine, entry: u64) {
    for vector in 0..256 {
        machine.model.ram.write_u64(IDT + 8 * vector, entry);
    }
}

/// Level 3 with gates to level 0, and the stack for that.
fn inner(kind: u8) -> Machine {
    let mut machine = Machine::protected(3);
    gates(&mut machine, gate(0x08, 0x1234, 0xe0 | kind, 0));
    machine.model.ram.write_u32(TSS + 4, 0x9000);
    machine.model.ram.write_u32(TSS + 8, 0x10);
    machine
}

#[test]
fn real_mode_pushes_three_words() {
    for event in ALL {
        let mut machine = Machine::real();
        let mut stack = *machine.cpu.segment(Seg::Ss);
        stack.base = 0x1_0000;
        machine.cpu.set_segment(Seg::Ss, stack);
        for (sp, want) in [
            (0x8000, Ok([(0x1_7ffa, 6)].to_vec())),
            (0, Ok([(0x1_fffa, 6)].to_vec())),
            (6, Ok([(0x1_0000, 6)].to_vec())),
            (4, Ok([(0x1_fffe, 2), (0x1_0000, 4)].to_vec())),
            (2, Ok([(0x1_fffc, 4), (0x1_0000, 2)].to_vec())),
            (5, ss(0)),
        ] {
            machine.cpu.gprs[4] = 0xabcd_0000 | sp;
            assert_eq!(frame_of(&mut machine, &event), want, "{sp:x}");
        }
        machine.cpu.gprs[4] = ESP;
        machine.cpu.idtr.limit = u16::from(event.vector) * 4 + 2;
        let code =
            u32::from(event.vector) << 3 | 2 | u32::from(event.kind != Kind::SoftwareInterrupt);
        assert_eq!(frame_of(&mut machine, &event), gp(code));
    }
}

#[test]
fn gates_to_the_same_level() {
    for (kind, slot) in [(6, 2), (7, 2), (14, 4), (15, 4)] {
        for event in ALL {
            let mut machine = Machine::protected(0);
            gates(&mut machine, gate(0x08, 0, 0x80 | kind, 0));
            let len = slot * (3 + u16::from(event.error_code));
            let want = [(ESP - u64::from(len), len)].to_vec();
            assert_eq!(frame_of(&mut machine, &event), Ok(want));
            let mut stack = *machine.cpu.segment(Seg::Ss);
            stack.limit = 0x7ffe;
            machine.cpu.set_segment(Seg::Ss, stack);
            let external = u32::from(event.kind != Kind::SoftwareInterrupt);
            assert_eq!(frame_of(&mut machine, &event), ss(external));
        }
    }
    // Conforming code of level 0 runs at level 3.
    let mut machine = Machine::protected(3);
    gates(&mut machine, gate(0x30, 0, 0xee, 0));
    assert_eq!(frame_of(&mut machine, &INT), Ok([(ESP - 12, 12)].to_vec()));
}

#[test]
fn gates_to_the_inner_level() {
    for (kind, slot) in [(6, 2), (7, 2), (14, 4), (15, 4)] {
        for event in ALL {
            let mut machine = inner(kind);
            let len = slot * (5 + u16::from(event.error_code));
            let want = [(0x9000 - u64::from(len), len)].to_vec();
            assert_eq!(frame_of(&mut machine, &event), Ok(want));
        }
    }
}

#[test]
fn descriptors_are_written_when_they_were_never_loaded() {
    let mut machine = inner(14);
    machine.set(0x08, descriptor(0, 0xfffff, CODE & !1, FLAT));
    let stack = (0x9000 - 20, 20);
    let (code, data) = ((GDT + 0x0d, 1), (GDT + 0x15, 1));
    let got = frame_of(&mut machine, &INT);
    assert_eq!(got, Ok([stack, code].to_vec()));
    machine.set(0x10, descriptor(0, 0xfffff, DATA & !1, FLAT));
    let got = frame_of(&mut machine, &INT);
    assert_eq!(got, Ok([stack, code, data].to_vec()));
}

#[test]
fn virtual_8086_mode_pushes_all_segments() {
    let mut machine = inner(14);
    machine.cpu.rflags |= rflags::VM;
    let got = frame_of(&mut machine, &EXTERNAL);
    assert_eq!(got, Ok([(0x9000 - 36, 36)].to_vec()));
    let got = frame_of(&mut machine, &FAULT);
    assert_eq!(got, Ok([(0x9000 - 40, 40)].to_vec()));
    let mut machine = inner(6);
    machine.cpu.rflags |= rflags::VM;
    let got = frame_of(&mut machine, &FAULT);
    assert_eq!(got, Ok([(0x9000 - 20, 20)].to_vec()));
    // It can be left to level 0 only.
    for selector in [0x30, 0x18, 0x58] {
        gates(&mut machine, gate(selector, 0, 0xee, 0));
        let code = u32::from(selector);
        assert_eq!(frame_of(&mut machine, &EXTERNAL), gp(code | 1));
    }
}

#[test]
fn int_n_in_virtual_8086_mode() {
    let own = Ok([(ESP - 6, 6)].to_vec());
    let gate = Ok([(0x9000 - 36, 36)].to_vec());
    for (vme, iopl, bit, want) in [
        (false, 3, true, gate.clone()),
        (false, 2, true, gp(0)),
        (true, 3, true, gate.clone()),
        (true, 3, false, own.clone()),
        (true, 0, true, gp(0)),
        (true, 0, false, own.clone()),
    ] {
        let mut machine = inner(14);
        for segment in &mut machine.cpu.segments {
            *segment = Segment {
                limit: 0xffff,
                attributes: 0xf3,
                ..*segment
            };
        }
        machine.cpu.rflags |= rflags::VM | iopl << 12;
        machine.cpu.paging.cr4 |= u64::from(vme);
        machine.cpu.tr.limit = 0xff;
        machine.model.ram.write(TSS + 102, &[0x90, 0]);
        machine.model.ram.write(TSS + 0x70, &[0xff; 32]);
        let byte = if bit { 1 } else { !1 };
        machine.model.ram.write(TSS + 0x70 + 0x10, &[byte]);
        assert_eq!(frame_of(&mut machine, &INT), want, "{vme} {iopl} {bit}");
        // The others do not ask.
        let int3 = Event {
            kind: Kind::SoftwareException,
            ..INT
        };
        assert_eq!(frame_of(&mut machine, &int3), gate);
        if vme {
            machine.cpu.tr.limit = 0x80;
            assert_eq!(frame_of(&mut machine, &INT), want);
            machine.cpu.tr.limit = 0x7f;
            assert_eq!(frame_of(&mut machine, &INT), gp(0));
            machine.cpu.tr.limit = 0x66;
            assert_eq!(frame_of(&mut machine, &INT), gp(0));
        }
    }
}

/// Gates of 16 bytes for all vectors, with this entry of the interrupt stack table.
fn long_gates(machine: &mut Machine, selector: u16, kind: u8, ist: u8) {
    machine.cpu.idtr.limit = 0xfff;
    for vector in 0..256 {
        let at = IDT + 16 * vector;
        let entry = gate(selector, 0, 0xe0 | kind, ist);
        machine.model.ram.write_u64(at, entry);
        machine.model.ram.write_u64(at + 8, 0xffff_ffff);
    }
}

#[test]
fn stacks_of_64_bits_are_aligned() {
    for long in [false, true] {
        for (cpl, ist) in [(0, 0), (0, 3), (3, 0), (3, 7)] {
            for offset in 0..17 {
                let mut machine = Machine::ia32e(cpl, long);
                long_gates(&mut machine, 0x38, 14, ist);
                machine.cpu.gprs[4] = 0xa000 + offset;
                machine.model.ram.write_u64(TSS + 4, 0xb000 + offset);
                for n in 1..8 {
                    let stack = 0xb000 + 0x200 * n + offset;
                    machine.model.ram.write_u64(TSS + 28 + 8 * n, stack);
                }
                let top = match (cpl, ist) {
                    (0, 0) => 0xa000,
                    (_, ist) => 0xb000 + 0x200 * u64::from(ist),
                };
                let top = (top + offset) & !15;
                for event in ALL {
                    let len = 8 * (5 + u16::from(event.error_code));
                    let want = [(top - u64::from(len), len)].to_vec();
                    assert_eq!(frame_of(&mut machine, &event), Ok(want));
                }
            }
        }
    }
}

#[test]
fn gates_of_64_bits_are_checked() {
    for (selector, kind, want) in [
        (0x38, 14, Ok([(ESP - 40, 40)].to_vec())),
        (0x38, 15, Ok([(ESP - 40, 40)].to_vec())),
        (0x38, 6, gp(0x21 << 3 | 3)),
        (0x38, 5, gp(0x21 << 3 | 3)),
        (0x08, 14, gp(0x08 | 1)),
        (0x70, 14, gp(0x70 | 1)),
        (0x00, 14, gp(1)),
    ] {
        let mut machine = Machine::ia32e(0, true);
        machine.set(0x70, descriptor(0, 0xfffff, CODE, LONG | FLAT));
        long_gates(&mut machine, selector, kind, 0);
        assert_eq!(frame_of(&mut machine, &EXTERNAL), want);
        machine.cpu.idtr.limit = 0x21 * 16 + 14;
        assert_eq!(frame_of(&mut machine, &EXTERNAL), gp(0x21 << 3 | 3));
    }
    let mut machine = Machine::ia32e(3, true);
    long_gates(&mut machine, 0x38, 14, 7);
    machine.cpu.tr.limit = 28 + 7 * 8 + 6;
    assert_eq!(frame_of(&mut machine, &EXTERNAL), ts(0x48 | 1));
    machine.cpu.tr.limit += 1;
    let stack = 0x8000_0000_0008;
    machine.model.ram.write_u64(TSS + 28 + 56, stack);
    assert_eq!(frame_of(&mut machine, &EXTERNAL), ss(1));
}

#[test]
fn gates_are_checked() {
    type Change = fn(&mut Machine);
    let code = 0x21 << 3 | 3;
    let rows: [(Change, Result<Writes, Stop>); 16] = [
        (|_| (), Ok([(0x9000 - 20, 20)].to_vec())),
        (|m| m.cpu.idtr.limit = 0x21 * 8 + 6, gp(code)),
        (|m| gates(m, gate(8, 0, 0xec, 0)), gp(code)),
        (|m| gates(m, gate(8, 0, 0xfe, 0)), gp(code)),
        (|m| gates(m, gate(8, 0, 0x6e, 0)), np(code)),
        (|m| gates(m, gate(3, 0, 0xee, 0)), gp(1)),
        (|m| gates(m, gate(0x100, 0, 0xee, 0)), gp(0x101)),
        (|m| gates(m, gate(0x10, 0, 0xee, 0)), gp(0x11)),
        (|m| gates(m, gate(0x40, 0, 0xee, 0)), np(0x41)),
        (|m| m.cpu.tr.limit = 8, ts(0x49)),
        (|m| m.model.ram.write_u32(TSS + 8, 0), ts(1)),
        (|m| m.model.ram.write_u32(TSS + 8, 0x101), ts(0x101)),
        (|m| m.model.ram.write_u32(TSS + 8, 0x20), ts(0x21)),
        (
            |m| m.set(0x10, descriptor(0, 0xfffff, 0x13, FLAT)),
            ss(0x11),
        ),
        (|m| m.set(0x10, descriptor(0, 7, DATA, FLAT)), ss(0x11)),
        // A task gate: the processor writes nothing, but exits.
        (|m| gates(m, gate(0x48, 0, 0xe5, 0)), Ok(Vec::new())),
    ];
    for (n, (change, want)) in rows.into_iter().enumerate() {
        let mut machine = inner(14);
        change(&mut machine);
        assert_eq!(frame_of(&mut machine, &EXTERNAL), want, "row {n}");
    }
    // A gate that only level 0 may ask for.
    let mut machine = inner(14);
    gates(&mut machine, gate(8, 0, 0x8e, 0));
    for (kind, want) in [
        (Kind::SoftwareInterrupt, false),
        (Kind::SoftwareException, false),
        (Kind::PrivilegedSoftwareException, true),
        (Kind::External, true),
        (Kind::Nmi, true),
        (Kind::Exception, true),
    ] {
        let event = Event { kind, ..INT };
        let got = frame_of(&mut machine, &event);
        match want {
            true => assert!(got.is_ok()),
            false => assert_eq!(got, gp(0x80 << 3 | 2)),
        }
    }
}

/// Each byte that is denied, and each that is not.
#[test]
fn frames_are_checked_as_a_whole() {
    let mut machine = inner(14);
    machine.set(0x08, descriptor(0, 0xfffff, CODE & !1, FLAT));
    machine.model.ram.write_u32(TSS + 4, 0x9088);
    let frame = frame(&mut machine.guest(), &FAULT).unwrap();
    let before = machine.model.ram.clone();
    for (page, map, want) in [
        (0x9000, u32::MAX, None),
        (0x9000, !1, Some(0x9070)),
        (0x9000, !2, Some(0x9080)),
        (0x9000, !4, None),
        (GDT, !1, Some(GDT + 13)),
        (GDT, !2, None),
    ] {
        machine.model.maps.clear();
        machine.model.protect(page, map);
        let got = allowed(&mut machine.guest(), &frame);
        match (got, want) {
            (Ok(()), None) => (),
            (Err(Stop::Denied(d)), Some(gpa)) => assert_eq!(d.gpa.get(), gpa),
            (got, want) => panic!("{page:x} {map:x}: {got:?}, not {want:x?}"),
        }
        assert!(machine.cpu.paging.user);
    }
    assert!(machine.model.ram == before, "nothing is written");
}

/// The frame is written with the rights of the handler's level.
#[test]
fn handlers_have_their_own_rights() {
    for (selector, cpl, fault) in [(0x38, 3, false), (0x1b, 3, true), (0x38, 0, false)] {
        let mut machine = Machine::ia32e(cpl, true);
        long_gates(&mut machine, selector, 14, 0);
        machine.model.ram.write_u64(TSS + 4, ESP);
        // All memory is the supervisor's.
        machine.model.ram.write_u64(0x10_2000, 0xe3);
        let frame = frame(&mut machine.guest(), &EXTERNAL).unwrap();
        let got = allowed(&mut machine.guest(), &frame);
        match fault {
            true => {
                let at = Gva::new(ESP - 40);
                assert_eq!(got, Err(Exception::pf(at, 7).into()));
            }
            false => assert_eq!(got, Ok(())),
        }
    }
}

/// Descriptors are written with the rights of the system, also for a handler of level 3.
#[test]
fn descriptors_are_the_systems() {
    let mut machine = Machine::ia32e(3, true);
    long_gates(&mut machine, 0x1b, 14, 0);
    machine.set(0x18, descriptor(0, 0xfffff, 0xfa, LONG));
    let tables = 0x10_0000u64;
    let ram = &mut machine.model.ram;
    ram.write_u64(tables + 0x2000, tables + 0x3027);
    for page in 0..512u64 {
        let user = u64::from(page << 12 != GDT) << 2;
        ram.write_u64(tables + 0x3000 + page * 8, page << 12 | 0x63 | user);
    }
    let frame = frame(&mut machine.guest(), &EXTERNAL).unwrap();
    assert_eq!(frame.ranges().count(), 2);
    assert_eq!(allowed(&mut machine.guest(), &frame), Ok(()));
}
