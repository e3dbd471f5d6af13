// SPDX-License-Identifier: GPL-2.0

//! `KVM_INTERRUPT` and `KVM_NMI`, and when the guest takes them.

use crate::harness::{tests, Lab};
use crate::machine::{Machine, Stop};
use crate::raw;
use guest::asm::*;
use guest::{Mode, CODE, DATA};
use ioctl_api::number::KVM_INTERRUPT;
use ioctl_api::vcpu::Interrupt;

tests![
    interrupt_in_each_mode,
    interrupt_waits_for_sti,
    interrupt_waits_for_mov_ss,
    window_exit,
    window_is_open_at_once,
    interrupt_outlives_a_software_interrupt,
    interrupt_wakes_from_hlt,
    later_interrupt_replaces,
    interrupt_is_saved_and_restored,
    nmi,
    nmi_blocks_until_iret,
    nmi_goes_before_an_interrupt,
    nmi_through_events,
    shadow_through_events,
];

const VECTOR: u8 = 0x31;
/// RFLAGS.IF, and bit 1.
const IF: u64 = (1 << 9) | 2;

fn queue(machine: &Machine, vector: u8) {
    let mut interrupt = Interrupt { irq: vector.into() };
    assert_eq!(
        raw::with(machine.cpu.fd(), KVM_INTERRUPT, &mut interrupt),
        Ok(0)
    );
}

/// A guest of NOPs with interrupts on or off.
fn idle(lab: &Lab, flags: u64) -> Machine {
    let machine = Machine::long(lab, |a| {
        for _ in 0..4 {
            a.nop()?;
        }
        a.hlt()
    });
    machine.change_regs(|r| r.rflags = flags);
    machine
}

fn interrupt_in_each_mode(lab: &Lab) {
    for mode in Mode::ALL {
        let mut machine = Machine::new(lab, mode, |a| {
            a.nop()?;
            a.hlt()
        });
        machine.change_regs(|r| r.rflags = IF);
        queue(&machine, VECTOR);
        let event = machine.expect_event(VECTOR);
        assert_eq!(event.rip, CODE, "{mode:?}");
        assert_ne!(event.rflags & IF, 2, "{mode:?}");
        assert_eq!(
            machine.regs().rflags & IF,
            2,
            "{mode:?}: IF is clear in the handler"
        );
        machine.expect_hlt();
    }
}

fn interrupt_waits_for_sti(lab: &Lab) {
    lab.only_ours("KVM injects at once, so that VM entry fails");
    let mut machine = Machine::long(lab, |a| {
        a.nop()?;
        a.cpuid()?;
        a.sti()?;
        a.nop()?;
        a.nop()?;
        a.hlt()
    });
    queue(&machine, VECTOR);
    let event = machine.expect_event(VECTOR);
    assert_eq!(event.rip, CODE + 5, "behind the instruction after STI");
    machine.expect_hlt();
}

fn interrupt_waits_for_mov_ss(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(eax, 0x10)?;
        a.out(0x40, al)?;
        a.mov(ss, eax)?;
        a.cpuid()?;
        a.nop()?;
        a.hlt()
    });
    machine.change_regs(|r| r.rflags = IF);
    assert!(matches!(machine.run(), Stop::Out(0x40, _)));
    let at = |n: usize| {
        machine
            .program
            .instructions()
            .nth(n)
            .expect("an instruction")
    };
    let behind = [at(2), at(3), at(4)];
    queue(&machine, VECTOR);
    let event = machine.expect_event(VECTOR);
    assert!(behind.contains(&event.rip), "{:#x}", event.rip);
    machine.expect_hlt();
}

fn window_exit(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.out(0x40, al)?;
        a.sti()?;
        a.nop()?;
        a.nop()?;
        a.hlt()
    });
    machine.cpu.fd_mut().get_kvm_run().request_interrupt_window = 1;
    assert!(matches!(machine.run(), Stop::Out(0x40, _)));
    assert_eq!(
        machine
            .cpu
            .fd_mut()
            .get_kvm_run()
            .ready_for_interrupt_injection,
        0
    );
    assert_eq!(machine.run(), Stop::IrqWindow);
    let run = *machine.cpu.fd_mut().get_kvm_run();
    assert_eq!((run.ready_for_interrupt_injection, run.if_flag), (1, 1));
    assert_eq!(machine.regs().rip, CODE + 4);
    machine.cpu.fd_mut().get_kvm_run().request_interrupt_window = 0;
    queue(&machine, VECTOR);
    assert_eq!(machine.expect_event(VECTOR).rip, CODE + 4);
    machine.expect_hlt();
}

fn window_is_open_at_once(lab: &Lab) {
    let mut machine = idle(lab, IF);
    machine.cpu.fd_mut().get_kvm_run().request_interrupt_window = 1;
    assert_eq!(machine.run(), Stop::IrqWindow);
    assert_eq!(machine.regs().rip, CODE);
    machine.cpu.fd_mut().get_kvm_run().request_interrupt_window = 0;
    machine.expect_hlt();
}

/// INT n, the delivery of which needs a page of the host's first, while an interrupt waits.
fn interrupt_outlives_a_software_interrupt(lab: &Lab) {
    lab.only_ours("KVM injects at once, so that VM entry fails");
    let mut machine = Machine::long(lab, |a| {
        a.int(0x21)?;
        a.sti()?;
        a.nop()?;
        a.hlt()
    });
    // Nobody has touched this page.
    machine.change_regs(|r| r.rsp = DATA + 0x1000);
    queue(&machine, VECTOR);
    assert_eq!(machine.expect_event(0x21).rip, CODE + 2);
    let events = machine.cpu.fd().get_vcpu_events().expect("events");
    assert_eq!(
        (events.interrupt.injected, events.interrupt.nr),
        (1, VECTOR)
    );
    assert_eq!(machine.expect_event(VECTOR).rip, CODE + 4);
    machine.expect_hlt();
}

fn interrupt_wakes_from_hlt(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.sti()?;
        a.hlt()?;
        a.nop()?;
        a.hlt()
    });
    machine.expect_hlt();
    queue(&machine, VECTOR);
    assert_eq!(machine.expect_event(VECTOR).rip, CODE + 2);
    machine.expect_hlt();
    assert_eq!(machine.regs().rip, CODE + 4);
}

fn later_interrupt_replaces(lab: &Lab) {
    let mut machine = idle(lab, IF);
    queue(&machine, 0x30);
    queue(&machine, VECTOR);
    machine.expect_event(VECTOR);
    machine.expect_hlt();
}

fn interrupt_is_saved_and_restored(lab: &Lab) {
    lab.only_ours("KVM injects at once, so that VM entry fails");
    let mut machine = idle(lab, 2);
    queue(&machine, VECTOR);
    machine.expect_hlt();
    let events = machine.cpu.fd().get_vcpu_events().expect("events");
    assert_eq!(
        (events.interrupt.injected, events.interrupt.nr),
        (1, VECTOR)
    );
    let mut second = idle(lab, IF);
    second.cpu.fd().set_vcpu_events(&events).expect("events");
    second.expect_event(VECTOR);
    second.expect_hlt();
}

fn nmi(lab: &Lab) {
    let mut machine = idle(lab, 2);
    machine.cpu.fd().nmi().expect("KVM_NMI");
    assert_eq!(machine.expect_event(2).rip, CODE, "IF does not matter");
    machine.expect_hlt();
}

fn nmi_blocks_until_iret(lab: &Lab) {
    let mut machine = idle(lab, 2);
    machine.cpu.fd().nmi().expect("KVM_NMI");
    machine.expect_event(2);
    let masked = |m: &Machine| m.cpu.fd().get_vcpu_events().expect("events").nmi;
    assert_eq!(masked(&machine).masked, 1);
    // One more is latched, a third is lost.
    machine.cpu.fd().nmi().expect("KVM_NMI");
    machine.cpu.fd().nmi().expect("KVM_NMI");
    assert_eq!(masked(&machine).pending, 1);
    let second = machine.expect_event(2);
    assert_eq!(second.rip, CODE, "after IRET, before anything else");
    machine.expect_hlt();
    let nmi = masked(&machine);
    assert_eq!((nmi.masked, nmi.pending), (0, 0));
}

fn nmi_goes_before_an_interrupt(lab: &Lab) {
    let mut machine = idle(lab, IF);
    queue(&machine, VECTOR);
    machine.cpu.fd().nmi().expect("KVM_NMI");
    let mut vectors = Vec::new();
    for _ in 0..2 {
        match machine.run() {
            Stop::Event(event) => vectors.push(event.vector),
            other => panic!("{other:x?}"),
        }
    }
    vectors.sort_unstable();
    assert_eq!(vectors, [2, VECTOR], "both come");
    machine.expect_hlt();
}

fn nmi_through_events(lab: &Lab) {
    let mut machine = idle(lab, 2);
    let mut events = machine.cpu.fd().get_vcpu_events().expect("events");
    events.nmi.masked = 1;
    events.nmi.pending = 1;
    machine.cpu.fd().set_vcpu_events(&events).expect("events");
    machine.expect_hlt();
    assert_eq!(
        machine
            .cpu
            .fd()
            .get_vcpu_events()
            .expect("events")
            .nmi
            .pending,
        1
    );
    machine.restart();
    events.nmi.masked = 0;
    machine.cpu.fd().set_vcpu_events(&events).expect("events");
    machine.expect_event(2);
    machine.expect_hlt();
}

fn shadow_through_events(lab: &Lab) {
    lab.only_ours("KVM injects at once, so that VM entry fails");
    let mut machine = idle(lab, IF);
    let mut events = machine.cpu.fd().get_vcpu_events().expect("events");
    events.interrupt.shadow = ioctl_api::vcpu::KVM_X86_SHADOW_INT_STI;
    events.flags |= ioctl_api::vcpu::KVM_VCPUEVENT_VALID_SHADOW;
    machine.cpu.fd().set_vcpu_events(&events).expect("events");
    queue(&machine, VECTOR);
    assert_eq!(
        machine.expect_event(VECTOR).rip,
        CODE + 1,
        "one instruction later"
    );
    machine.expect_hlt();
}
