// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::machine::{descriptor, CODE, DATA, FLAT, GDT};

/// Type of the gate, bytes of a slot, flags in the handler.
const KINDS: [(u8, u8, u64); 4] = [
    (6, 2, INTERRUPT),
    (7, 2, TRAP),
    (14, 4, INTERRUPT),
    (15, 4, TRAP),
];

/// What a gate with slots of this size says of [`HANDLER`].
fn offset(slot: u8) -> u64 {
    u64::from(HANDLER) & if slot == 2 { 0xffff } else { 0xffff_ffff }
}

#[test]
fn the_same_level_keeps_its_stack() {
    for (kind, slot, flags) in KINDS {
        for event in ALL {
            let mut machine = Machine::protected(0);
            machine.cpu.rflags = FLAGS;
            machine.cpu.rip = 0x1234_5678;
            // The RPL of a gate's selector means nothing.
            gates(&mut machine, gate(0x0b, HANDLER, 0x80 | kind, 0));
            let eip = 0x1234_5678 + u64::from(event.len);
            let slots = with_error(&event, &[eip, 0x08, FLAGS]);
            let at = ESP - u64::from(slot) * slots.len() as u64;
            delivers(&mut machine, &event, (at, slot, &slots), |cpu| {
                (cpu.gprs[4], cpu.rip, cpu.rflags) = (at, offset(slot), flags);
            });
        }
    }
}

#[test]
fn a_narrow_stack_wraps_and_keeps_the_upper_half() {
    for (kind, slot) in [(6, 2_u8), (14, 4)] {
        for (sp, wraps) in [(0_u64, false), (u64::from(slot), true), (0x100, false)] {
            let mut machine = Machine::protected(0);
            machine.model.ram.write(0x1_f000, &[0]);
            let mut stack = *machine.cpu.segment(Seg::Ss);
            (stack.attributes, stack.limit, stack.base) = (0x93, 0xffff, 0x1_0000);
            machine.cpu.set_segment(Seg::Ss, stack);
            machine.cpu.gprs[4] = 0xabcd_0000 | sp;
            gates(&mut machine, gate(0x08, HANDLER, 0x80 | kind, 0));
            let mut expected = machine.model.ram.clone();
            let bottom = sp.wrapping_sub(3 * u64::from(slot));
            for (n, value) in [RIP, 0x08, 2].into_iter().enumerate() {
                let sp = bottom.wrapping_add(n as u64 * u64::from(slot)) & 0xffff;
                expected.write(0x1_0000 + sp, &value.to_le_bytes()[..slot.into()]);
            }
            assert_eq!(deliver(&mut machine.guest(), &EXTERNAL), Ok(()));
            assert!(machine.model.ram == expected, "{sp:x}");
            assert_eq!(machine.cpu.gprs[4], 0xabcd_0000 | bottom & 0xffff);
            assert_eq!(machine.model.writes().len(), 1 + usize::from(wraps));
        }
    }
}

#[test]
fn conforming_code_runs_at_the_level_that_was_interrupted() {
    let mut machine = Machine::protected(3);
    gates(&mut machine, gate(0x30, HANDLER, 0xee, 0));
    let slots = [RIP + 2, 0x1b, 2];
    delivers(&mut machine, &INT, (ESP - 12, 4, &slots), |cpu| {
        cpu.set_segment(Seg::Cs, flat(0x33, 0x9f));
        (cpu.gprs[4], cpu.rip) = (ESP - 12, HANDLER.into());
    });
}

#[test]
fn an_inner_level_has_a_stack_of_its_own() {
    for (kind, slot, flags) in KINDS {
        for event in ALL {
            let mut machine = inner(kind);
            machine.cpu.gprs[4] = 0xcdef_8000;
            let eip = RIP + u64::from(event.len);
            let slots = with_error(&event, &[eip, 0x1b, FLAGS, 0xcdef_8000, 0x23]);
            let at = ESP0 - u64::from(slot) * slots.len() as u64;
            delivers(&mut machine, &event, (at, slot, &slots), |cpu| {
                level0(cpu);
                cpu.set_segment(Seg::Ss, flat(0x10, 0x93));
                (cpu.gprs[4], cpu.rip, cpu.rflags) = (at, offset(slot), flags);
            });
        }
    }
}

/// Level 1, and a TSS of 16 bits.
#[test]
fn other_levels_and_the_old_task_state() {
    let mut machine = inner(14);
    gates(&mut machine, gate(0x58, HANDLER, 0xee, 0));
    machine.cpu.tr.attributes = 0x83;
    machine.model.ram.write_u32(TSS + 6, 0x0061_7000);
    let slots = [RIP, 0x1b, FLAGS, ESP, 0x23];
    delivers(&mut machine, &EXTERNAL, (0x7000 - 20, 4, &slots), |cpu| {
        level0(cpu);
        cpu.cpl = 1;
        cpu.set_segment(Seg::Cs, flat(0x59, 0xbb));
        cpu.set_segment(Seg::Ss, flat(0x61, 0xb3));
        (cpu.gprs[4], cpu.rflags) = (0x7000 - 20, INTERRUPT);
    });
}

#[test]
fn descriptors_are_marked_when_they_are_loaded_first() {
    let fresh = [
        (0x08, descriptor(0, 0xfffff, CODE & !1, FLAT)),
        (0x10, descriptor(0, 0xfffff, DATA & !1, FLAT)),
    ];
    for set in 0..4 {
        let mut machine = inner(14);
        for (n, (selector, entry)) in fresh.into_iter().enumerate() {
            if set >> n & 1 != 0 {
                machine.set(selector, entry);
            }
        }
        let slots = [RIP, 0x1b, FLAGS, ESP, 0x23];
        let mut expected = machine.model.ram.clone();
        expected.write(GDT + 0x0d, &[CODE]);
        expected.write(GDT + 0x15, &[DATA]);
        for (n, slot) in slots.into_iter().enumerate() {
            expected.write_u32(ESP0 - 20 + 4 * n as u64, slot as u32);
        }
        assert_eq!(deliver(&mut machine.guest(), &EXTERNAL), Ok(()));
        assert!(machine.model.ram == expected, "{set}");
        assert_eq!(*machine.cpu.segment(Seg::Cs), flat(0x08, 0x9b));
        assert_eq!(*machine.cpu.segment(Seg::Ss), flat(0x10, 0x93));
    }
}

#[test]
fn user_handlers_may_want_alignment() {
    for (event, code) in [(INT, 0), (EXTERNAL, 1)] {
        for (esp, cr0, flags, fine) in [
            (ESP + 2, 1 << 18, FLAGS, false),
            (ESP + 2, 0, FLAGS, true),
            (ESP + 2, 1 << 18, 0x102, true),
            (ESP + 4, 1 << 18, FLAGS, true),
        ] {
            let mut machine = Machine::protected(3);
            gates(&mut machine, gate(0x18, HANDLER, 0xee, 0));
            machine.cpu.gprs[4] = esp;
            machine.cpu.paging.cr0 |= cr0;
            machine.cpu.rflags = flags;
            if fine {
                assert_eq!(deliver(&mut machine.guest(), &event), Ok(()));
            } else {
                let exception = Exception {
                    error_code: Some(code),
                    ..Exception::AC
                };
                assert_eq!(stops(&mut machine, &event), exception.into());
            }
        }
    }
    // A more privileged handler does not.
    let mut machine = inner(14);
    machine.cpu.paging.cr0 |= 1 << 18;
    machine.model.ram.write_u32(TSS + 4, 0x9001);
    assert_eq!(deliver(&mut machine.guest(), &EXTERNAL), Ok(()));
}
