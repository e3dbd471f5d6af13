// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::machine::{descriptor, CODE, FLAT, LONG};
use crate::stack::null_stack;

/// Where the handlers are.
const FAR: u64 = 0xffff_ff80_8765_4321;

/// IA-32e mode, 64-bit code or not, with gates to 64-bit code of level 0. Stacks: `offset`
/// bytes above a000 in use, above b000 of level 0, above b200, b400, ... in the table.
fn machine(cpl: u8, long: bool, ist: u8, offset: u64) -> Machine {
    let mut machine = Machine::ia32e(cpl, long);
    machine.cpu.rflags = FLAGS;
    long_gates(&mut machine, gate(0x38, HANDLER, 0xee, ist), FAR >> 32);
    machine.cpu.gprs[4] = 0xa000 + offset;
    let ram = &mut machine.model.ram;
    ram.write_u64(TSS + 4, 0xb000 + offset);
    for n in 1..8 {
        ram.write_u64(TSS + 28 + 8 * n, 0xb000 + 0x200 * n + offset);
    }
    machine
}

/// The registers in a handler of level 0.
fn handler(cpu: &mut Cpu) {
    level0(cpu);
    let cs = Segment {
        attributes: 0xa09b,
        ..flat(0x38, 0)
    };
    cpu.set_segment(Seg::Cs, cs);
    cpu.code = CodeSize::Bits64;
    (cpu.rip, cpu.rflags) = (FAR, INTERRUPT);
}

#[test]
fn five_quadwords_are_pushed() {
    for long in [false, true] {
        for (cpl, ist) in [(0, 0), (0, 3), (3, 0), (3, 7)] {
            for offset in 0..17 {
                for event in ALL {
                    let mut machine = machine(cpl, long, ist, offset);
                    let top = match (cpl, ist) {
                        (0, 0) => 0xa000,
                        (_, ist) => 0xb000 + 0x200 * u64::from(ist),
                    };
                    let selector = |seg| u64::from(machine.cpu.segment(seg).selector);
                    let (rip, rsp) = (RIP + u64::from(event.len), 0xa000 + offset);
                    let slots = [rip, selector(Seg::Cs), FLAGS, rsp, selector(Seg::Ss)];
                    let slots = with_error(&event, &slots);
                    let at = (top + offset & !15) - 8 * slots.len() as u64;
                    delivers(&mut machine, &event, (at, 8, &slots), |cpu| {
                        handler(cpu);
                        if cpl == 3 {
                            cpu.set_segment(Seg::Ss, null_stack(0));
                        }
                        cpu.gprs[4] = at;
                    });
                }
            }
        }
    }
}

/// The handler's code has no stack segment, whatever that of the interrupted code is.
#[test]
fn stack_segments_of_32_bits_do_not_count() {
    for change in [
        |ss: &mut Segment| ss.base = 0x1000,
        |ss: &mut Segment| ss.limit = 0xfff,
        |ss: &mut Segment| ss.attributes &= !(1 << 14),
    ] {
        let mut machine = machine(0, false, 0, 0);
        let mut ss = *machine.cpu.segment(Seg::Ss);
        change(&mut ss);
        machine.cpu.set_segment(Seg::Ss, ss);
        machine.cpu.gprs[4] = 0x1_a000;
        let slots = [RIP, 0x08, FLAGS, 0x1_a000, 0x10];
        delivers(&mut machine, &EXTERNAL, (0x1_a000 - 40, 8, &slots), |cpu| {
            handler(cpu);
            cpu.gprs[4] = 0x1_a000 - 40;
        });
    }
}

#[test]
fn registers_have_64_bits() {
    let mut machine = machine(0, true, 0, 0);
    // The page of the stack once more, high above.
    let tables = 0x10_0000;
    machine
        .model
        .ram
        .write_u64(tables + 8 * 256, (tables + 0x1000) | 0x27);
    let high = 0xffff_8000_0000_a000;
    (machine.cpu.gprs[4], machine.cpu.rip) = (high, 0x7fff_ffff_fff0);
    let slots = [0x7fff_ffff_fff2, 0x08, FLAGS, high, 0x10];
    delivers(&mut machine, &INT, (0xa000 - 40, 8, &slots), |cpu| {
        handler(cpu);
        cpu.gprs[4] = high - 40;
    });
}

#[test]
fn the_instruction_pointer_of_32_bit_code_wraps() {
    let mut machine = machine(3, false, 0, 0);
    machine.cpu.rip = 0xffff_ffff;
    let slots = [1, 0x1b, FLAGS, 0xa000, 0x23];
    delivers(&mut machine, &INT, (0xb000 - 40, 8, &slots), |cpu| {
        handler(cpu);
        cpu.set_segment(Seg::Ss, null_stack(0));
        cpu.gprs[4] = 0xb000 - 40;
    });
}

#[test]
fn trap_gates_keep_interrupts_on() {
    let mut machine = machine(0, true, 0, 0);
    long_gates(&mut machine, gate(0x38, HANDLER, 0x8f, 0), FAR >> 32);
    let slots = [RIP, 0x08, FLAGS, 0xa000, 0x10];
    delivers(&mut machine, &EXTERNAL, (0xa000 - 40, 8, &slots), |cpu| {
        handler(cpu);
        (cpu.gprs[4], cpu.rflags) = (0xa000 - 40, TRAP);
    });
}

#[test]
fn gates_are_checked() {
    let own = 0x21 << 3 | 3;
    for (selector, access, want) in [
        (0x38, 0xee, None),
        (0x38, 0xef, None),
        (0x38, 0xe6, Some(gp(own))),
        (0x38, 0xe7, Some(gp(own))),
        (0x38, 0xe5, Some(gp(own))),
        (0x38, 0xec, Some(gp(own))),
        (0x38, 0xfe, Some(gp(own))),
        (0x38, 0x6e, Some(np(own))),
        (0x08, 0xee, Some(gp(0x08 | 1))),
        (0x70, 0xee, Some(gp(0x70 | 1))),
        (0x10, 0xee, Some(gp(0x10 | 1))),
        (0x00, 0xee, Some(gp(1))),
    ] {
        let mut machine = machine(0, true, 0, 0);
        machine.set(0x70, descriptor(0, 0xfffff, CODE, LONG | FLAT));
        long_gates(&mut machine, gate(selector, HANDLER, access, 0), FAR >> 32);
        let before = machine.cpu;
        match want {
            None => assert_eq!(deliver(&mut machine.guest(), &EXTERNAL), Ok(())),
            Some(want) => assert_eq!(stops(&mut machine, &EXTERNAL), want),
        }
        machine.cpu = before;
        machine.cpu.idtr.limit = 0x21 * 16 + 14;
        assert_eq!(stops(&mut machine, &EXTERNAL), gp(own));
    }
}

#[test]
fn addresses_are_canonical() {
    let bad = 0x8000_0000_0000;
    // The handler.
    let mut machine = machine(0, true, 0, 0);
    long_gates(&mut machine, gate(0x38, HANDLER, 0xee, 0), 0x8000);
    assert_eq!(stops(&mut machine, &EXTERNAL), gp(1));
    assert_eq!(stops(&mut machine, &INT), gp(0));
    // With 57 bits it is; the tables happen to have a level more.
    machine.cpu.paging.cr4 |= 1 << 12;
    assert_eq!(deliver(&mut machine.guest(), &EXTERNAL), Ok(()));
    // The stack: a new one, the one in use, and one that begins at the edge.
    let mut machine = super::long::machine(3, true, 7, 0);
    machine.model.ram.write_u64(TSS + 28 + 56, bad + 8);
    assert_eq!(stops(&mut machine, &EXTERNAL), ss(1));
    let mut machine = super::long::machine(0, true, 0, 0);
    for rsp in [bad, bad + 8, 0xffff_8000_0000_0010] {
        machine.cpu.gprs[4] = rsp;
        assert_eq!(stops(&mut machine, &FAULT), ss(1), "{rsp:x}");
    }
    assert_eq!(stops(&mut machine, &INT), ss(0));
}

#[test]
fn the_task_state_has_the_stack() {
    for (ist, last) in [(0, 11), (1, 43), (7, 91)] {
        let mut machine = machine(3, true, ist, 0);
        machine.cpu.tr.limit = last - 1;
        assert_eq!(stops(&mut machine, &EXTERNAL), ts(0x48 | 1));
        assert_eq!(stops(&mut machine, &INT), ts(0x48));
        machine.cpu.tr.limit = last;
        assert_eq!(deliver(&mut machine.guest(), &EXTERNAL), Ok(()));
    }
}

/// A stack at 4 GBytes: the code that is interrupted has addresses of 32 bits, its
/// handler has not.
#[test]
fn frames_cross_4_gbytes() {
    let tables = 0x10_0000;
    let mut machine = machine(3, false, 0, 0);
    let ram = &mut machine.model.ram;
    // PDPTE 3 and 4: 2 MBytes below and above.
    for (pdpte, entry) in [(3, 511), (4, 0)] {
        let directory = tables + 0x3000 + 0x1000 * (pdpte - 3);
        ram.write_u64(tables + 0x1000 + 8 * pdpte, directory | 0x27);
        ram.write_u64(directory + 8 * entry, 0xe7 | 0x20_0000 * (pdpte - 2));
    }
    for page in [0x3f_f000, 0x40_0000] {
        ram.write(page, &[0]);
    }
    ram.write_u64(TSS + 4, 0x1_0000_0010);
    let slots: [u64; 5] = [RIP, 0x1b, FLAGS, 0xa000, 0x23];
    delivers(
        &mut machine,
        &EXTERNAL,
        (0x40_0010 - 40, 8, &slots),
        |cpu| {
            handler(cpu);
            cpu.set_segment(Seg::Ss, null_stack(0));
            cpu.gprs[4] = 0x1_0000_0010 - 40;
        },
    );
}
