// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::machine::{descriptor, DATA, FLAT};

type Change = fn(&mut Machine);

#[test]
fn everything_on_the_way_is_checked() {
    let own = 0x21 << 3 | 3;
    let rows: [(Change, Stop); 18] = [
        (|m| m.cpu.idtr.limit = 0x21 * 8 + 6, gp(own)),
        (|m| gates(m, gate(8, 0, 0xec, 0)), gp(own)),
        (|m| gates(m, gate(8, 0, 0xfe, 0)), gp(own)),
        (|m| gates(m, gate(8, 0, 0x6e, 0)), np(own)),
        // A task gate: the processor does not deliver, but exits.
        (
            |m| gates(m, gate(0x48, 0, 0xe5, 0)),
            Stop::Refused(Op::Unknown),
        ),
        (|m| gates(m, gate(0x48, 0, 0x65, 0)), np(own)),
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
        // The code segment ends before the handler.
        (
            |m| m.set(0x08, descriptor(0, HANDLER - 1 & 0xf_ffff, 0x9b, 4)),
            gp(1),
        ),
        // The shadow stack is not emulated.
        (|m| m.cpu.paging.cr4 |= 1 << 23, Stop::Refused(Op::Unknown)),
    ];
    for (n, (change, want)) in rows.into_iter().enumerate() {
        let mut machine = inner(14);
        change(&mut machine);
        assert_eq!(stops(&mut machine, &EXTERNAL), want, "row {n}");
    }
    let mut machine = inner(14);
    assert_eq!(deliver(&mut machine.guest(), &EXTERNAL), Ok(()));
}

#[test]
fn tables_end_behind_a_whole_gate() {
    for (long, last) in [(false, 0x21 * 8 + 7), (true, 0x21 * 16 + 15)] {
        let mut machine = Machine::protected(0);
        gates(&mut machine, gate(0x08, HANDLER, 0x8e, 0));
        if long {
            machine = Machine::ia32e(0, true);
            long_gates(&mut machine, gate(0x38, HANDLER, 0x8e, 0), 0);
        }
        machine.cpu.idtr.limit = last - 1;
        assert_eq!(stops(&mut machine, &EXTERNAL), gp(0x21 << 3 | 3));
        machine.cpu.idtr.limit = last;
        assert_eq!(deliver(&mut machine.guest(), &EXTERNAL), Ok(()));
    }
}

#[test]
fn levels_are_compared() {
    for cpl in [0, 1, 3] {
        for dpl in 0..4 {
            let mut machine = Machine::protected(cpl);
            // Conforming code, so that the stack stays.
            gates(&mut machine, gate(0x30, HANDLER, 0x8e | dpl << 5, 0));
            match dpl < cpl {
                true => assert_eq!(stops(&mut machine, &INT), gp(0x80 << 3 | 2)),
                false => assert_eq!(deliver(&mut machine.guest(), &INT), Ok(())),
            }
        }
    }
}

#[test]
fn the_stack_in_use_has_room() {
    for (limit, want) in [(0x7ffe, true), (0x7fff, false)] {
        for event in ALL {
            let mut machine = Machine::protected(0);
            gates(&mut machine, gate(0x08, 0, 0x8e, 0));
            let mut stack = *machine.cpu.segment(Seg::Ss);
            stack.limit = limit;
            machine.cpu.set_segment(Seg::Ss, stack);
            if want {
                assert_eq!(stops(&mut machine, &event), ss(event.external().into()));
            } else {
                assert_eq!(deliver(&mut machine.guest(), &event), Ok(()));
            }
        }
    }
}

/// A gate that only level 0 may ask for.
#[test]
fn programs_need_the_right_to_enter_a_gate() {
    for (kind, fine) in [
        (Kind::SoftwareInterrupt, false),
        (Kind::SoftwareException, false),
        (Kind::PrivilegedSoftwareException, true),
        (Kind::External, true),
        (Kind::Nmi, true),
        (Kind::Exception, true),
    ] {
        let mut machine = inner(14);
        gates(&mut machine, gate(8, 0, 0x8e, 0));
        let event = Event { kind, ..INT };
        if fine {
            assert_eq!(deliver(&mut machine.guest(), &event), Ok(()));
        } else {
            assert_eq!(stops(&mut machine, &event), gp(0x80 << 3 | 2));
            // The right comes before the presence.
            gates(&mut machine, gate(8, 0, 0x0e, 0));
            assert_eq!(stops(&mut machine, &event), gp(0x80 << 3 | 2));
        }
    }
}

/// INT1 is as the processor's own: its error codes have EXT.
#[test]
fn only_programs_clear_ext() {
    for (kind, ext) in [
        (Kind::SoftwareInterrupt, 0),
        (Kind::SoftwareException, 0),
        (Kind::PrivilegedSoftwareException, 1),
        (Kind::External, 1),
        (Kind::Nmi, 1),
        (Kind::Exception, 1),
    ] {
        let mut machine = inner(14);
        gates(&mut machine, gate(0x40, 0, 0xee, 0));
        let event = Event { kind, ..INT };
        assert_eq!(stops(&mut machine, &event), np(0x40 | ext));
        machine.cpu.idtr.limit = 0;
        assert_eq!(stops(&mut machine, &event), gp(0x80 << 3 | 2 | ext));
    }
}
