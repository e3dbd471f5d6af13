// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::machine::{descriptor, CODE, FLAT};

/// VM and an IOPL with the other flags.
fn flags(iopl: u64) -> u64 {
    FLAGS | rflags::VM | iopl << 12
}

/// Virtual-8086 mode; the selectors of ES, CS, SS, DS, FS, GS are 100, 200, ...
fn machine(kind: u8) -> Machine {
    let mut machine = inner(kind);
    for (segment, selector) in machine
        .cpu
        .segments
        .iter_mut()
        .zip((0x100..).step_by(0x100))
    {
        *segment = Segment {
            selector,
            base: u64::from(selector) << 4,
            limit: 0xffff,
            attributes: 0xf3,
            unusable: false,
        };
    }
    machine.cpu.rflags = flags(3);
    machine.cpu.code = CodeSize::Bits16;
    // The table of virtual-8086 mode, and the I/O map with the one for redirection.
    for vector in 0..256 {
        machine
            .model
            .ram
            .write_u32(4 * vector, 0x0135_a000 + vector as u32);
    }
    machine.cpu.tr.limit = 0xff;
    machine.model.ram.write(TSS + 102, &[0x90, 0]);
    machine.model.ram.write(TSS + 0x70, &[0xff; 32]);
    machine
}

/// The bit of [`INT`] says: keep it.
fn keep(machine: &mut Machine) {
    machine.model.ram.write(TSS + 0x70 + 0x10, &[!1]);
}

#[test]
fn all_segments_are_pushed_and_become_null() {
    for (kind, slot, in_handler) in [(14, 4, INTERRUPT), (15, 4, TRAP), (6, 2, INTERRUPT)] {
        for event in ALL {
            let mut machine = machine(kind);
            machine.cpu.gprs[4] = 0x5678_8000;
            let ip = RIP + u64::from(event.len);
            let slots = [
                ip,
                0x200,
                flags(3),
                0x5678_8000,
                0x300,
                0x100,
                0x400,
                0x500,
                0x600,
            ];
            let slots = with_error(&event, &slots);
            let at = ESP0 - u64::from(slot) * slots.len() as u64;
            delivers(&mut machine, &event, (at, slot, &slots), |cpu| {
                level0(cpu);
                let null = Segment {
                    unusable: true,
                    ..Segment::default()
                };
                for seg in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
                    cpu.set_segment(seg, null);
                }
                cpu.set_segment(Seg::Ss, flat(0x10, 0x93));
                cpu.gprs[4] = at;
                cpu.rflags = in_handler | 3 << 12;
                if slot == 2 {
                    cpu.rip &= 0xffff;
                }
            });
        }
    }
}

#[test]
fn it_can_be_left_to_level_0_only() {
    for selector in [0x30, 0x18, 0x58, 0x70] {
        let mut machine = machine(14);
        machine.set(0x70, descriptor(0, 0xfffff, CODE | 4 | 3 << 5, FLAT));
        gates(&mut machine, gate(selector, 0, 0xee, 0));
        assert_eq!(stops(&mut machine, &EXTERNAL), gp(u32::from(selector) | 1));
        let int3 = Event {
            kind: Kind::SoftwareException,
            ..INT
        };
        assert_eq!(stops(&mut machine, &int3), gp(selector.into()));
    }
}

/// A map for redirection at offset 20, with all bits clear.
fn machine_with_low_map() -> Machine {
    let mut machine = machine(14);
    machine.cpu.paging.cr4 |= 1;
    machine.model.ram.write(TSS + 102, &[0x40, 0]);
    machine
}

#[test]
fn each_vector_has_a_bit() {
    for vector in 0..=255 {
        for kept in [false, true] {
            let mut machine = super::virtual_8086::machine(14);
            machine.cpu.paging.cr4 |= 1;
            let at = TSS + 0x70 + u64::from(vector / 8);
            let bit = 1 << (vector % 8);
            machine
                .model
                .ram
                .write(TSS + 0x70, &[if kept { 0xff } else { 0 }; 32]);
            machine
                .model
                .ram
                .write(at, &[if kept { !bit } else { bit }]);
            let event = Event { vector, ..INT };
            assert_eq!(deliver(&mut machine.guest(), &event), Ok(()));
            let own = machine.cpu.rflags & rflags::VM != 0;
            assert_eq!(own, kept, "{vector:x}");
        }
    }
}

/// Where INT n goes (SDM 3A table 20-2): to the gate, to the program's own handler, or
/// nowhere.
#[test]
fn int_n_is_redirected() {
    const GATE: Option<bool> = Some(true);
    const OWN: Option<bool> = Some(false);
    for (vme, iopl, bit, want) in [
        (false, 3, true, GATE),
        (false, 3, false, GATE),
        (false, 2, true, None),
        (false, 0, false, None),
        (true, 3, true, GATE),
        (true, 3, false, OWN),
        (true, 0, true, None),
        (true, 0, false, OWN),
    ] {
        let mut machine = machine(14);
        machine.cpu.rflags = flags(iopl);
        machine.cpu.paging.cr4 |= u64::from(vme);
        if !bit {
            keep(&mut machine);
        }
        if want.is_none() {
            assert_eq!(stops(&mut machine, &INT), gp(0));
        } else {
            assert_eq!(deliver(&mut machine.guest(), &INT), Ok(()));
            let gate = machine.cpu.rflags & rflags::VM == 0;
            assert_eq!(Some(gate), want, "{vme} {iopl} {bit}");
        }
        // The others do not ask.
        for kind in [Kind::SoftwareException, Kind::PrivilegedSoftwareException] {
            let mut machine = super::virtual_8086::machine(14);
            machine.cpu.rflags = flags(iopl);
            machine.cpu.paging.cr4 |= u64::from(vme);
            keep(&mut machine);
            let event = Event { kind, ..INT };
            assert_eq!(deliver(&mut machine.guest(), &event), Ok(()));
            assert_eq!(machine.cpu.rflags & rflags::VM, 0);
        }
    }
}

/// What the program's own handler finds: its IF is the virtual one if IOPL is below 3.
#[test]
fn the_programs_own_handler() {
    let vif = rflags::VIF;
    for (before, pushed, after) in [
        // IF and TF are clear, RF too; NT and AC stay.
        (flags(3), flags(3), 0x6_7403),
        (flags(3) | vif, flags(3), 0x6_7403 | vif),
        // VIF is pushed as IF, and IOPL as 3; VIF is clear.
        (flags(1) | vif, flags(3), 0x6_5603),
        (flags(1), flags(3) & !rflags::IF, 0x6_5603),
        (flags(0) & !rflags::IF | vif, flags(3), 0x6_4403),
    ] {
        let mut machine = machine(14);
        machine.cpu.paging.cr4 |= 1;
        machine.cpu.rflags = before;
        machine.cpu.gprs[4] = 0x5678_8000;
        keep(&mut machine);
        let slots = [RIP + 2, 0x200, pushed];
        delivers(
            &mut machine,
            &INT,
            (0x3000 + 0x8000 - 6, 2, &slots),
            |cpu| {
                let mut cs = *cpu.segment(Seg::Cs);
                (cs.selector, cs.base) = (0x135, 0x1350);
                cpu.set_segment(Seg::Cs, cs);
                (cpu.rip, cpu.gprs[4], cpu.rflags) = (0xa080, 0x5678_7ffa, after);
            },
        );
    }
}

#[test]
fn the_redirection_map_is_inside_of_the_task_state() {
    for limit in [0x66, 0x7f] {
        let mut machine = machine(14);
        machine.cpu.paging.cr4 |= 1;
        keep(&mut machine);
        machine.cpu.tr.limit = limit;
        assert_eq!(stops(&mut machine, &INT), gp(0));
        machine.cpu.tr.limit = 0x80;
        assert_eq!(deliver(&mut machine.guest(), &INT), Ok(()));
    }
    // The shortest TSS that has the offset of the map, and a map in it.
    let mut machine = machine_with_low_map();
    machine.cpu.tr.limit = 0x67;
    assert_eq!(deliver(&mut machine.guest(), &INT), Ok(()));
    assert_ne!(machine.cpu.rflags & rflags::VM, 0);
    let mut machine = machine_with_low_map();
    machine.cpu.tr.limit = 0x66;
    assert_eq!(stops(&mut machine, &INT), gp(0));
    // A map so low that it would begin before the TSS.
    let mut machine = super::virtual_8086::machine(14);
    machine.cpu.paging.cr4 |= 1;
    machine.model.ram.write(TSS + 102, &[0x0f, 0]);
    assert_eq!(stops(&mut machine, &INT), gp(0));
}
