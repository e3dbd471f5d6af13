// SPDX-License-Identifier: GPL-2.0

//! Frames that go to a page which the guest's own page tables do not have: the delivery
//! ends in a page fault, which may make a double or a triple fault.

use super::compare::{event, vm, Maps};
use super::{gate, load_tss, queue, VECTOR};
use crate::harness::{tests, Backend, Lab};
use crate::machine::{self, Assembled, Machine, Stop};
use guest::asm::*;
use guest::{Mode, CODE, DATA, PAGE_SIZE, TABLES};

tests![
    page_fault_on_the_stack,
    double_fault,
    triple_fault,
    interrupt_survives_a_page_fault,
];

/// Maps the first 2 MiB in pages of 4 KiB, without the page at [`DATA`]. The stack goes
/// from the page behind it, which has a map, into it.
fn stack_into_the_void(machine: &Machine) {
    let table = 0x3_0000;
    for n in 0..512 {
        let entry = if n == DATA >> 12 { 0 } else { n << 12 | 7 };
        machine.set_qword(table + 8 * n, entry);
    }
    machine.set_qword(TABLES + 2 * PAGE_SIZE, table | 7);
    load_tss(machine);
    machine.change_regs(|r| r.rsp = DATA + PAGE_SIZE + 0x10);
}

/// The page behind [`DATA`] has a map.
const BEHIND: [(u64, u32); 1] = [(DATA + PAGE_SIZE, !(1 << 31))];

/// Gives the handler of a vector a stack of its own.
fn use_ist(machine: &Machine, vector: u8) {
    machine.write(gate(machine, vector) + 4, &[1]);
}

/// Runs a 64-bit guest with the stack of [`stack_into_the_void`] without maps and with
/// them. What is left of a frame that was begun is not compared.
fn into_the_void(
    lab: &Lab,
    author: impl Fn(&mut CodeAssembler) -> Assembled,
    prepare: impl Fn(&Machine),
) -> Stop {
    lab.needs_backend(Backend::Software);
    let run = |maps: &Maps| {
        let program = machine::program(Mode::Long, &author);
        let mut machine = Machine::load(vm(lab, Backend::Software), program);
        stack_into_the_void(&machine);
        prepare(&machine);
        for (page, map) in maps {
            machine.vm.set_maps(*page, &[*map]).expect("maps");
        }
        let stop = machine.run();
        (stop, machine.regs(), machine.sregs())
    };
    let (expected, seen) = (run(&[]), run(&BEHIND));
    assert_eq!(seen.0, expected.0);
    if expected.0 != Stop::Shutdown {
        assert_eq!((seen.1, seen.2.cr2), (expected.1, expected.2.cr2));
    }
    seen.0
}

/// Where the first push that faults goes.
const FAULT_AT: u64 = DATA + PAGE_SIZE - 8;

/// #UD is benign: the page fault on its delivery is all there is.
fn page_fault_on_the_stack(lab: &Lab) {
    let stop = into_the_void(lab, |a| a.ud2(), |machine| use_ist(machine, 14));
    let event = event(&stop);
    assert_eq!((event.vector, event.error, event.rip), (14, 2, CODE));
    let author = |a: &mut CodeAssembler| a.int(0x21);
    let stop = into_the_void(lab, author, |machine| use_ist(machine, 14));
    let event = self::event(&stop);
    assert_eq!((event.vector, event.error, event.rip), (14, 2, CODE));
}

fn double_fault(lab: &Lab) {
    // #PF, which cannot be delivered; #UD, for which neither #UD nor #PF can.
    for unmapped in [true, false] {
        let author = |a: &mut CodeAssembler| {
            if unmapped {
                a.mov(rax, qword_ptr(0x7f00_0000_u64))?;
            }
            a.ud2()
        };
        let stop = into_the_void(lab, author, |machine| {
            use_ist(machine, 8);
            if unmapped {
                // Behind the first GiB nothing is mapped.
                machine.set_qword(TABLES + PAGE_SIZE + 8, 0);
            }
        });
        let event = event(&stop);
        assert_eq!((event.vector, event.error, event.rip), (8, 0, CODE));
    }
}

fn triple_fault(lab: &Lab) {
    let stop = into_the_void(lab, |a| a.ud2(), |_| {});
    assert_eq!(stop, Stop::Shutdown);
}

/// An interrupt whose frame has no page comes when there is one.
fn interrupt_survives_a_page_fault(lab: &Lab) {
    lab.needs_backend(Backend::Software);
    let program = machine::program(Mode::Long, |a| {
        a.nop()?;
        a.hlt()
    });
    let mut machine = Machine::load(vm(lab, Backend::Software), program);
    stack_into_the_void(&machine);
    use_ist(&machine, 14);
    machine
        .vm
        .set_maps(BEHIND[0].0, &[BEHIND[0].1])
        .expect("maps");
    machine.change_regs(|r| r.rflags = 1 << 9 | 2);
    queue(&machine, VECTOR);
    let event = machine.expect_event(14);
    assert_eq!((event.error, event.rip), (2, CODE));
    assert_eq!(machine.sregs().cr2, FAULT_AT);
    machine.set_qword(0x3_0000 + 8 * (DATA >> 12), DATA | 7);
    let event = machine.expect_event(VECTOR);
    assert_eq!(
        (event.rip, event.frame),
        (CODE, DATA + PAGE_SIZE + 0x10 - 40)
    );
    machine.expect_hlt();
    let events = machine.cpu.fd().get_vcpu_events().expect("events");
    assert_eq!(events.interrupt.injected, 0, "once");
}
