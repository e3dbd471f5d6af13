// SPDX-License-Identifier: GPL-2.0

//! Exceptions, interrupts and NMIs in the guest, and signals in the VMM.

mod interrupt;
mod signal;

use crate::harness::{tests, Lab, Test};
use crate::machine::{Machine, Stop, HOLE};
use guest::asm::*;
use guest::{CODE, SCRATCH, TABLES};

/// The tests of all parts.
pub(crate) const ALL: &[&[Test]] = &[TESTS, interrupt::TESTS, signal::TESTS];

tests![
    page_faults,
    no_execute,
    error_codes,
    simd_exception,
    double_fault,
    fault_while_delivering_is_triple,
    software_exceptions,
    exception_from_user_space,
    page_fault_from_user_space,
    failed_entry_keeps_the_event,
    stack_outside_of_memory,
    idt_outside_of_memory,
];

/// An address behind everything that the page tables map.
const UNMAPPED: u64 = 0x7f_0000_1238;

fn page_faults(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(rbx, UNMAPPED)?;
        a.mov(rax, qword_ptr(rbx))?;
        a.mov(byte_ptr(rbx + 1), al)?;
        // Mapped, but read-only; CR0.WP is set.
        a.mov(rbx, 0x4000_0000_u64 + SCRATCH)?;
        a.mov(rax, qword_ptr(rbx))?;
        a.mov(qword_ptr(rbx), rax)?;
        a.hlt()
    });
    machine.set_qword(TABLES + 0x1008, 0x81);
    for (address, error) in [(UNMAPPED, 0), (UNMAPPED + 1, 2), (0x4000_0000 + SCRATCH, 3)] {
        let event = machine.expect_event(14);
        assert_eq!(event.error, error, "{address:#x}");
        assert_eq!(machine.sregs().cr2, address);
        machine.step_over(&event);
    }
    machine.expect_hlt();
}

fn no_execute(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(rbx, 0x4000_0000_u64 + SCRATCH)?;
        a.jmp(rbx)
    });
    machine.set_qword(TABLES + 0x1008, (1 << 63) | 0x83);
    let mut sregs = machine.sregs();
    sregs.efer |= 1 << 11;
    machine.set_sregs(&sregs);
    let event = machine.expect_event(14);
    assert_eq!((event.error, event.rip), (0x11, 0x4000_0000 + SCRATCH));
}

fn error_codes(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(eax, 0x53)?;
        a.mov(ds, eax)?; // beyond the GDT
        a.int(0x77)?; // a gate that is not present
        a.mov(rax, 1_u64 << 62)?;
        a.mov(rbx, qword_ptr(rax))?; // not canonical
        a.mov(rsp, rax)?;
        a.hlt()
    });
    machine.write(0x2000 + 0x77 * 16 + 5, &[0xe]);
    for (vector, error) in [(13, 0x50), (11, (0x77 << 3) | 2), (13, 0)] {
        let event = machine.expect_event(vector);
        assert_eq!(event.error, error, "vector {vector}");
        machine.step_over(&event);
    }
    machine.expect_hlt();
}

fn simd_exception(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        // Division by zero is not masked.
        a.mov(dword_ptr(SCRATCH), 0x1d80)?;
        a.ldmxcsr(dword_ptr(SCRATCH))?;
        a.mov(eax, 0x3f80_0000)?;
        a.movd(xmm0, eax)?;
        a.xorps(xmm1, xmm1)?;
        a.divss(xmm0, xmm1)?;
        a.hlt()
    });
    let event = machine.expect_event(19);
    machine.step_over(&event);
    machine.expect_hlt();
}

/// Two contributory exceptions: the gate of #DE is not present.
fn double_fault(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.xor(ecx, ecx)?;
        a.div(ecx)?;
        a.hlt()
    });
    machine.write(0x2005, &[0]);
    let event = machine.expect_event(8);
    assert_eq!((event.error, event.rip), (0, CODE + 2));
    machine.step_over(&event);
    machine.expect_hlt();
}

/// #DF cannot be delivered either.
fn fault_while_delivering_is_triple(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.ud2()?;
        a.hlt()
    });
    machine.change_regs(|r| r.rsp = UNMAPPED);
    assert_eq!(machine.run(), Stop::Shutdown);
}

fn software_exceptions(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.int3()?;
        a.int(0x3f)?;
        a.int(0x20)?;
        a.hlt()
    });
    for (vector, rip) in [(3, CODE + 1), (0x3f, CODE + 3), (0x20, CODE + 5)] {
        assert_eq!(machine.expect_event(vector).rip, rip);
    }
    machine.expect_hlt();
}

fn exception_from_user_space(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(eax, 7)?;
        a.hlt()
    });
    let mut events = machine.cpu.fd().get_vcpu_events().expect("events");
    (events.exception.injected, events.exception.nr) = (1, 13);
    (events.exception.has_error_code, events.exception.error_code) = (1, 0x1230);
    machine.cpu.fd().set_vcpu_events(&events).expect("events");
    let event = machine.expect_event(13);
    assert_eq!((event.error, event.rip), (0x1230, CODE));
    machine.expect_hlt();
    assert_eq!(machine.regs().rax, 7);
}

fn page_fault_from_user_space(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(rbx, cr2)?;
        a.hlt()
    });
    let mut sregs = machine.sregs();
    sregs.cr2 = 0x1357_9000;
    machine.set_sregs(&sregs);
    let mut events = machine.cpu.fd().get_vcpu_events().expect("events");
    (events.exception.injected, events.exception.nr) = (1, 14);
    (events.exception.has_error_code, events.exception.error_code) = (1, 2);
    machine.cpu.fd().set_vcpu_events(&events).expect("events");
    assert_eq!(machine.expect_event(14).error, 2);
    machine.expect_hlt();
    assert_eq!(machine.regs().rbx, 0x1357_9000);
}

/// An event whose frame or gate is where no memory is cannot be delivered.
fn undeliverable(lab: &Lab, change: impl FnOnce(&Machine)) {
    let mut machine = Machine::long(lab, |a| {
        a.ud2()?;
        a.hlt()
    });
    change(&machine);
    match machine.run() {
        // KVM_INTERNAL_ERROR_DELIVERY_EV.
        Stop::Other(error) => assert!(error.contains("suberror: 3"), "{error}"),
        other => panic!("{other:x?}"),
    }
}

/// An event whose VM entry failed waits, and goes where user space takes it back.
fn failed_entry_keeps_the_event(lab: &Lab) {
    lab.only_ours("KVM leaves the event in the VMCS as well, and delivers it once more");
    for taken_back in [false, true] {
        let mut machine = Machine::long(lab, |a| a.hlt());
        let good = machine.sregs();
        let mut bad = good;
        // CS is a system segment.
        bad.cs.s = 0;
        machine.set_sregs(&bad);
        let none = machine.cpu.fd().get_vcpu_events().expect("events");
        let mut events = none;
        (events.exception.injected, events.exception.nr) = (1, 6);
        machine.cpu.fd().set_vcpu_events(&events).expect("events");
        assert!(matches!(machine.run(), Stop::Other(exit) if exit.contains("FailEntry")));
        machine.set_sregs(&good);
        if taken_back {
            machine.cpu.fd().set_vcpu_events(&none).expect("events");
        } else {
            machine.expect_event(6);
        }
        machine.expect_hlt();
    }
}

fn stack_outside_of_memory(lab: &Lab) {
    undeliverable(lab, |machine| {
        machine.change_regs(|r| r.rsp = HOLE + 0x1000)
    });
}

fn idt_outside_of_memory(lab: &Lab) {
    undeliverable(lab, |machine| {
        let mut sregs = machine.sregs();
        sregs.idt.base = HOLE;
        machine.set_sregs(&sregs);
    });
}
