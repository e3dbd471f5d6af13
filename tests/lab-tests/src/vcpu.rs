// SPDX-License-Identifier: GPL-2.0

//! ioctls on a vCPU that read and write its state, with their errors.

mod lists;
mod state;

use crate::harness::{tests, Lab, Test};
use crate::machine::{self, Machine, Stop};
use crate::raw::{self, Mapping, NOWHERE};
use guest::asm::*;
use ioctl_api::number::*;
use ioctl_api::run;
use libc::{EFAULT, EINVAL};

/// The tests of all parts.
pub(crate) const ALL: &[&[Test]] = &[TESTS, state::TESTS, lists::TESTS];

tests![
    unknown_ioctls,
    bad_addresses,
    run_takes_no_argument,
    mapping_is_kvm_run,
    mappings_of_other_sizes,
    every_return_fills_kvm_run,
    bad_cr8_in_kvm_run,
    unknown_register_sets,
];

fn unknown_ioctls(lab: &Lab) {
    let cpu = machine::vm(lab).vcpu(0).expect("a vCPU");
    for code in [
        io(0x1f),
        KVM_CREATE_VCPU,
        KVM_GET_API_VERSION,
        0x5401,
        ior::<u32>(0x81),
    ] {
        assert_eq!(raw::number(cpu.fd(), code, 0), Err(EINVAL), "{code:#x}");
    }
}

fn bad_addresses(lab: &Lab) {
    let cpu = machine::vm(lab).vcpu(0).expect("a vCPU");
    let codes = [
        KVM_GET_REGS,
        KVM_SET_REGS,
        KVM_GET_SREGS,
        KVM_SET_SREGS,
        KVM_GET_FPU,
        KVM_SET_FPU,
        KVM_GET_XSAVE,
        KVM_SET_XSAVE,
        KVM_GET_XCRS,
        KVM_SET_XCRS,
        KVM_GET_MSRS,
        KVM_SET_MSRS,
        KVM_GET_CPUID2,
        KVM_SET_CPUID2,
        KVM_GET_VCPU_EVENTS,
        KVM_SET_VCPU_EVENTS,
        KVM_GET_MP_STATE,
        KVM_SET_MP_STATE,
        KVM_GET_DEBUGREGS,
        KVM_SET_DEBUGREGS,
        KVM_SET_SIGNAL_MASK,
        KVM_INTERRUPT,
    ];
    for code in codes {
        for address in [NOWHERE, usize::MAX - 7] {
            assert_eq!(
                raw::number(cpu.fd(), code, address),
                Err(EFAULT),
                "{code:#x}"
            );
        }
    }
}

fn run_takes_no_argument(lab: &Lab) {
    let cpu = machine::vm(lab).vcpu(0).expect("a vCPU");
    for arg in [1, usize::MAX] {
        assert_eq!(raw::number(cpu.fd(), KVM_RUN, arg), Err(EINVAL));
    }
}

const PAGE: usize = 4096;
const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

fn mapping_is_kvm_run(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(eax, 0x1234_5678)?;
        a.out(0x40, eax)?;
        a.hlt()
    });
    let whole = Mapping::file(machine.cpu.fd(), run::MMAP_SIZE, READ_WRITE, 0).expect("mmap");
    let second = Mapping::file(machine.cpu.fd(), PAGE, READ_WRITE, PAGE as i64).expect("mmap");
    assert_eq!(machine.run(), Stop::Out(0x40, vec![0x78, 0x56, 0x34, 0x12]));
    let reason = whole.read(run::EXIT_REASON) as u32;
    assert_eq!(reason, run::KVM_EXIT_IO);
    assert_eq!(
        whole.read(run::PAYLOAD + 8),
        run::PIO_DATA as u64,
        "data offset"
    );
    assert_eq!(whole.read(run::PIO_DATA) as u32, 0x1234_5678);
    assert_eq!(second.read(0) as u32, 0x1234_5678);
}

fn mappings_of_other_sizes(lab: &Lab) {
    let cpu = machine::vm(lab).vcpu(0).expect("a vCPU");
    let map = |pages: usize, first: i64| {
        Mapping::file(cpu.fd(), pages * PAGE, READ_WRITE, first * PAGE as i64)
    };
    for (pages, first) in [(1, 0), (2, 0), (1, 2), (3, 0)] {
        let mapping = map(pages, first).expect("a part of the area");
        assert_eq!(mapping.read(pages * PAGE - 8), 0);
    }
    lab.only_ours("KVM maps more, and delivers SIGBUS where nothing is");
    for (pages, first) in [(4, 0), (3, 1), (1, 3), (1, 64), (1 << 20, 0)] {
        let result = map(pages, first).map(|m| m.address());
        assert_eq!(result, Err(EINVAL), "{pages} pages from {first}");
    }
}

fn every_return_fills_kvm_run(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(eax, 9)?;
        a.mov(cr8, rax)?;
        a.hlt()?;
        a.sti()?;
        a.nop()?;
        a.hlt()
    });
    machine.expect_hlt();
    let run = *machine.cpu.fd_mut().get_kvm_run();
    assert_eq!((run.cr8, run.if_flag), (9, 0));
    assert_eq!(run.ready_for_interrupt_injection, 0);
    assert_eq!(run.apic_base, machine.sregs().apic_base);
    machine.expect_hlt();
    let run = *machine.cpu.fd_mut().get_kvm_run();
    assert_eq!((run.if_flag, run.ready_for_interrupt_injection), (1, 1));
}

fn bad_cr8_in_kvm_run(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| a.hlt());
    machine.cpu.fd_mut().get_kvm_run().cr8 = 16;
    assert_eq!(machine.run(), Stop::Error(EINVAL));
    machine.cpu.fd_mut().get_kvm_run().cr8 = 15;
    machine.expect_hlt();
    assert_eq!(machine.sregs().cr8, 15);
}

fn unknown_register_sets(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| a.hlt());
    machine.cpu.fd_mut().get_kvm_run().kvm_valid_regs = 1 << 63;
    assert_eq!(machine.run(), Stop::Error(EINVAL));
    machine.cpu.fd_mut().get_kvm_run().kvm_valid_regs = 0;
    machine.cpu.fd_mut().get_kvm_run().kvm_dirty_regs = 1 << 63;
    assert_eq!(machine.run(), Stop::Error(EINVAL));
    machine.cpu.fd_mut().get_kvm_run().kvm_dirty_regs = 0;
    machine.expect_hlt();
}
