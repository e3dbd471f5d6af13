// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::model::Meanwhile;
use spp::Mask;

/// A page that has nothing to do with it becomes what it is.
const OLD: Meanwhile = Meanwhile::Map(0x3000, Mask::ALL);

/// IP beyond any 16-bit number, so that halves get noticed.
fn machine() -> Machine {
    let mut machine = Machine::real();
    for (seg, base) in [(Seg::Ss, 0x1_0000), (Seg::Cs, 0x2340)] {
        let mut segment = *machine.cpu.segment(seg);
        (segment.base, segment.selector) = (base, (base >> 4) as u16);
        machine.cpu.set_segment(seg, segment);
    }
    machine.cpu.idtr.base = 0x600;
    machine.cpu.rflags = FLAGS;
    for vector in 0..256 {
        let entry = 0x1357_a000 + vector as u32;
        machine.model.ram.write_u32(0x600 + 4 * vector, entry);
    }
    machine
}

/// The handler of a vector in [`machine`].
fn handler(cpu: &mut Cpu, vector: u8) {
    let mut cs = *cpu.segment(Seg::Cs);
    (cs.selector, cs.base) = (0x1357, 0x1_3570);
    cpu.set_segment(Seg::Cs, cs);
    cpu.rip = 0xa000 + u64::from(vector);
    // AC, RF, IF and TF are clear; NT stays.
    cpu.rflags = 0x4403;
}

#[test]
fn three_words_are_pushed() {
    for event in ALL {
        let ip = RIP + u64::from(event.len);
        for (sp, at) in [(0x8000, 0x1_7ffa), (0, 0x1_fffa), (6, 0x1_0000)] {
            let mut machine = machine();
            machine.model.ram.write(0x1_f000, &[0]);
            machine.cpu.gprs[4] = 0x1234_abcd_0000 | sp;
            let slots = [ip, 0x234, FLAGS];
            delivers(&mut machine, &event, (at, 2, &slots), |cpu| {
                handler(cpu, event.vector);
                cpu.gprs[4] = 0x1234_abcd_0000 | (at & 0xffff);
            });
        }
    }
}

#[test]
fn the_stack_pointer_wraps_between_pushes() {
    for (sp, low) in [(4, 1), (2, 2)] {
        let mut machine = machine();
        machine.model.ram.write(0x1_f000, &[0]);
        machine.cpu.gprs[4] = sp;
        let slots = [RIP, 0x234, FLAGS];
        let mut expected = machine.model.ram.clone();
        for (n, slot) in slots.into_iter().enumerate() {
            let at = 0x1_0000 | (sp + 2 * n as u64).wrapping_sub(6) & 0xffff;
            expected.write(at, &slot.to_le_bytes()[..2]);
        }
        assert_eq!(deliver(&mut machine.guest(), &EXTERNAL), Ok(()));
        assert!(machine.model.ram == expected);
        assert_eq!(machine.cpu.gprs[4], 0x1_0000 - 2 * low);
        // Either part can be denied.
        for page in [0x1_0000, 0x1_f000] {
            let mut machine = super::real::machine();
            machine.model.ram.write(0x1_f000, &[0]);
            machine.cpu.gprs[4] = sp;
            let map = if page == 0x1_0000 { !1 } else { u32::MAX >> 1 };
            machine.model.protect(page, map);
            let Stop::Denied(denial) = stops(&mut machine, &EXTERNAL) else {
                panic!("{page:x} is written");
            };
            assert_eq!(denial.gpa.gfn().get(), page >> 12);
        }
    }
}

/// What changes before either write counts; the first one stays, as it does where a
/// processor pushes word by word.
#[test]
fn maps_change_between_the_writes() {
    let nothing = Meanwhile::Map(0x1_0000, Mask::from_raw(0));
    for (meanwhile, written) in [
        (std::vec![nothing], 0),
        (std::vec![Meanwhile::Fail, OLD], 1),
    ] {
        let mut machine = machine();
        machine.model.ram.write(0x1_f000, &[0]);
        machine.cpu.gprs[4] = 2;
        machine.model.meanwhile = meanwhile;
        let cpu = machine.cpu;
        let want = if written == 0 {
            Stop::Retry
        } else {
            Stop::Host
        };
        assert_eq!(deliver(&mut machine.guest(), &EXTERNAL), Err(want));
        assert_eq!(machine.cpu, cpu);
        assert_eq!(machine.model.writes().len(), written);
    }
}

#[test]
fn stacks_end() {
    for (sp, limit) in [(5, 0xffff), (3, 0xffff), (1, 0xffff), (0x8000, 0x7ffe)] {
        let mut machine = machine();
        machine.cpu.gprs[4] = sp;
        let mut stack = *machine.cpu.segment(Seg::Ss);
        stack.limit = limit;
        machine.cpu.set_segment(Seg::Ss, stack);
        assert_eq!(stops(&mut machine, &EXTERNAL), ss(0), "{sp:x}");
    }
}

#[test]
fn the_table_ends() {
    for (event, code) in [
        (EXTERNAL, 0x21 << 3 | 3),
        (FAULT, 14 << 3 | 3),
        (INT, 0x80 << 3 | 2),
    ] {
        let mut machine = machine();
        machine.cpu.idtr.limit = u16::from(event.vector) * 4 + 2;
        assert_eq!(stops(&mut machine, &event), gp(code));
        machine.cpu.idtr.limit += 1;
        assert_eq!(deliver(&mut machine.guest(), &event), Ok(()));
    }
}

#[test]
fn handlers_are_inside_of_the_code_segment() {
    let mut machine = machine();
    let mut cs = *machine.cpu.segment(Seg::Cs);
    cs.limit = 0xa020;
    machine.cpu.set_segment(Seg::Cs, cs);
    assert_eq!(stops(&mut machine, &EXTERNAL), gp(0));
    cs.limit = 0xa021;
    machine.cpu.set_segment(Seg::Cs, cs);
    assert_eq!(deliver(&mut machine.guest(), &EXTERNAL), Ok(()));
    assert_eq!(machine.cpu.segment(Seg::Cs).limit, 0xa021, "it stays");
}

/// Without protection nobody asks for alignment, nor has privileges.
#[test]
fn stacks_need_no_alignment() {
    let mut machine = machine();
    machine.cpu.paging.cr0 |= 1 << 18;
    machine.cpu.gprs[4] = 0x8001;
    let slots = [RIP, 0x234, FLAGS];
    delivers(&mut machine, &EXTERNAL, (0x1_7ffb, 2, &slots), |cpu| {
        handler(cpu, EXTERNAL.vector);
        cpu.gprs[4] = 0x7ffb;
    });
}
