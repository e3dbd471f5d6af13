// SPDX-License-Identifier: GPL-2.0

//! Events whose frame goes to a denied sub-page: the exit says so, and once the
//! map allows the frame the event is delivered, once.

use crate::harness::{tests, Lab};
use crate::machine::{Assembled, Event, Machine, Stop};
use guest::asm::*;
use guest::{CODE, DATA, PAGE_SIZE};
use ioctl_api::subpage::{
    FULL, KVM_SPP_EXIT_EVENT_DELIVERY, KVM_SPP_EXIT_GVA_VALID, KVM_SPP_EXIT_SIZE_VALID,
};

tests![
    divide_error,
    general_protection,
    page_fault_keeps_cr2,
    software_interrupt,
    breakpoint,
    external_interrupt,
    nmi,
    frame_over_two_sub_pages,
    registers_changed_meanwhile,
];

/// Stack in the last sub-page, which may not be written.
const STACK_TOP: u64 = DATA + PAGE_SIZE;

/// A guest whose stack is denied and that is about to run `author`'s program.
fn machine(lab: &Lab, author: impl FnOnce(&mut CodeAssembler) -> Assembled) -> Machine {
    let machine = Machine::spp(lab, author);
    machine.vm.set_maps(DATA, &[!(1 << 31)]).expect("maps");
    machine.change_regs(|r| r.rsp = STACK_TOP);
    machine
}

/// What is known of a denied frame.
const FLAGS: u64 = KVM_SPP_EXIT_EVENT_DELIVERY | KVM_SPP_EXIT_GVA_VALID | KVM_SPP_EXIT_SIZE_VALID;

/// Runs into the denial, again, and then through. The page keeps a map.
fn denied_then_delivered(lab: &Lab, machine: &mut Machine, vector: u8) -> Event {
    for _ in 0..2 {
        let exit = machine.expect_spp();
        assert_eq!((exit.flags, exit.cause), (FLAGS, lab.cause()));
        let size = STACK_TOP - exit.gpa;
        assert_eq!((exit.gva, u64::from(exit.size)), (exit.gpa, size));
        assert!(size == 40 || size == 48, "{size}");
        assert_eq!(
            machine.read(STACK_TOP - 0x80, 0x80),
            [0; 0x80],
            "nothing is pushed"
        );
    }
    machine.vm.set_maps(DATA, &[!1]).expect("maps");
    let event = machine.expect_event(vector);
    let events = machine.cpu.fd().get_vcpu_events().expect("events");
    let waiting = (events.exception.injected, events.interrupt.injected);
    assert_eq!(waiting, (0, 0), "once");
    event
}

fn divide_error(lab: &Lab) {
    let mut machine = machine(lab, |a| {
        a.xor(ecx, ecx)?;
        a.div(ecx)?;
        a.hlt()
    });
    let event = denied_then_delivered(lab, &mut machine, 0);
    assert_eq!(event.rip, CODE + 2);
    machine.step_over(&event);
    machine.expect_hlt();
}

fn general_protection(lab: &Lab) {
    let mut machine = machine(lab, |a| {
        a.mov(ecx, 0x33)?;
        a.mov(ds, ecx)?;
        a.hlt()
    });
    let event = denied_then_delivered(lab, &mut machine, 13);
    assert_eq!((event.rip, event.error), (CODE + 5, 0x30));
    machine.step_over(&event);
    machine.expect_hlt();
}

fn page_fault_keeps_cr2(lab: &Lab) {
    let address = 0x1234_5678_9abc_u64;
    let mut machine = machine(lab, |a| {
        a.mov(rbx, address)?;
        a.mov(qword_ptr(rbx), rax)?;
        a.hlt()
    });
    let event = denied_then_delivered(lab, &mut machine, 14);
    assert_eq!(event.error, 2);
    assert_eq!(machine.sregs().cr2, address);
    machine.step_over(&event);
    machine.expect_hlt();
}

fn software_interrupt(lab: &Lab) {
    let mut machine = machine(lab, |a| {
        a.int(0x21)?;
        a.hlt()
    });
    let event = denied_then_delivered(lab, &mut machine, 0x21);
    assert_eq!(event.rip, CODE + 2, "behind the INT");
    machine.expect_hlt();
}

fn breakpoint(lab: &Lab) {
    let mut machine = machine(lab, |a| {
        a.int3()?;
        a.hlt()
    });
    let event = denied_then_delivered(lab, &mut machine, 3);
    assert_eq!(event.rip, CODE + 1, "behind the INT3");
    machine.expect_hlt();
}

fn external_interrupt(lab: &Lab) {
    let mut machine = machine(lab, |a| {
        a.sti()?;
        a.nop()?;
        a.nop()?;
        a.nop()?;
        a.hlt()
    });
    let vector = ioctl_api::vcpu::Interrupt { irq: 0x31 };
    queue(&machine, vector);
    let exit = machine.expect_spp();
    assert_ne!(exit.flags & KVM_SPP_EXIT_EVENT_DELIVERY, 0);
    let events = machine.cpu.fd().get_vcpu_events().expect("events");
    assert_eq!((events.interrupt.injected, events.interrupt.nr), (1, 0x31));
    let event = denied_then_delivered(lab, &mut machine, 0x31);
    assert_eq!(event.rip, CODE + 2, "behind the shadow of STI");
    machine.expect_hlt();
}

fn queue(machine: &Machine, mut vector: ioctl_api::vcpu::Interrupt) {
    let code = ioctl_api::number::KVM_INTERRUPT;
    assert_eq!(crate::raw::with(machine.cpu.fd(), code, &mut vector), Ok(0));
}

fn nmi(lab: &Lab) {
    let mut machine = machine(lab, |a| {
        a.nop()?;
        a.nop()?;
        a.hlt()
    });
    machine.cpu.fd().nmi().expect("KVM_NMI");
    let event = denied_then_delivered(lab, &mut machine, 2);
    assert_eq!(event.rip, CODE);
    let events = || machine.cpu.fd().get_vcpu_events().expect("events");
    assert_eq!(
        (
            events().nmi.injected,
            events().nmi.pending,
            events().nmi.masked
        ),
        (0, 0, 1)
    );
    machine.expect_hlt();
    let events = machine.cpu.fd().get_vcpu_events().expect("events");
    assert_eq!(events.nmi.masked, 0, "IRET unblocks");
}

/// The first words of the frame are in an allowed sub-page, the rest are not.
fn frame_over_two_sub_pages(lab: &Lab) {
    let mut machine = Machine::spp(lab, |a| {
        a.ud2()?;
        a.hlt()
    });
    let border = DATA + 0x200;
    machine.vm.set_maps(DATA, &[!(1 << 3)]).expect("maps");
    machine.change_regs(|r| r.rsp = border + 0x10);
    let exit = machine.expect_spp();
    assert_ne!(exit.flags & KVM_SPP_EXIT_EVENT_DELIVERY, 0);
    assert_eq!(exit.denied, 1 << 3);
    assert_eq!(machine.read(border - 0x80, 0x80), [0; 0x80]);
    machine.vm.set_maps(DATA, &[FULL]).expect("maps");
    let event = machine.expect_event(6);
    assert_eq!((event.rip, event.frame), (CODE, border + 0x10 - 40));
    machine.step_over(&event);
    machine.expect_hlt();
}

/// New registers make KVM forget an exception that was not delivered: it comes
/// from the instruction again, and finds the new stack.
fn registers_changed_meanwhile(lab: &Lab) {
    let mut machine = machine(lab, |a| {
        a.ud2()?;
        a.hlt()
    });
    let exit = machine.expect_spp();
    assert_ne!(exit.flags & KVM_SPP_EXIT_EVENT_DELIVERY, 0);
    machine.change_regs(|r| r.rsp = guest::STACK);
    let event = machine.expect_event(6);
    assert_eq!((event.rip, event.frame), (CODE, guest::STACK - 40));
    machine.step_over(&event);
    assert_eq!(machine.run(), Stop::Hlt);
}
