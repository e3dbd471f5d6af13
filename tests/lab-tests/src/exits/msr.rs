// SPDX-License-Identifier: GPL-2.0

//! RDMSR and WRMSR in the guest, and MSRs of two guests and the host.

use crate::harness::{tests, Lab};
use crate::machine::{Machine, Stop};
use guest::asm::*;
use guest::CODE;
use kvm_bindings::{kvm_msr_entry, Msrs};

tests![
    guest_writes_and_reads_back,
    user_space_sees_what_the_guest_wrote,
    unknown_msrs_fault,
    bad_values_fault,
    two_guests_keep_their_own,
    swapgs,
    syscall,
    bases_of_segments,
];

/// MSRs that a guest owns, each with a value for it.
const OWNED: [(u32, u64); 11] = [
    (0x174, 0x10),
    (0x175, 0xffff_8000_0000_1000),
    (0x176, 0x2000),
    (0x277, 0x0007_0406_0007_0406),
    (0xc000_0081, 0x0123_4567_89ab_cdef),
    (0xc000_0082, 0xffff_8000_1111_2222),
    (0xc000_0083, 0x3333),
    (0xc000_0084, 0x4_7700),
    (0xc000_0100, 0x7000),
    (0xc000_0101, 0x8000),
    (0xc000_0102, 0x9000),
];

/// A guest that writes EDX:EAX to MSR ECX, exits, and reads it back into RBX.
fn writer(lab: &Lab) -> Machine {
    Machine::long(lab, |a| {
        a.wrmsr()?;
        a.out(0x40, al)?;
        a.xor(eax, eax)?;
        a.xor(edx, edx)?;
        a.rdmsr()?;
        a.mov(ebx, edx)?;
        a.shl(rbx, 32)?;
        a.or(rbx, rax)?;
        a.hlt()
    })
}

fn start(machine: &mut Machine, index: u32, value: u64) {
    machine.restart();
    machine.change_regs(|r| {
        (r.rcx, r.rax, r.rdx) = (index.into(), value & 0xffff_ffff, value >> 32);
    });
}

/// Reads an MSR of the guest from user space.
fn msr(machine: &Machine, index: u32) -> u64 {
    let entry = kvm_msr_entry {
        index,
        ..Default::default()
    };
    let mut one = Msrs::from_entries(&[entry]).expect("one MSR");
    assert_eq!(
        machine.cpu.fd().get_msrs(&mut one).expect("KVM_GET_MSRS"),
        1
    );
    one.as_slice()[0].data
}

fn guest_writes_and_reads_back(lab: &Lab) {
    let mut machine = writer(lab);
    for (index, value) in OWNED {
        start(&mut machine, index, value);
        assert!(matches!(machine.run(), Stop::Out(0x40, _)), "{index:#x}");
        machine.expect_hlt();
        assert_eq!(machine.regs().rbx, value, "{index:#x}");
    }
}

fn user_space_sees_what_the_guest_wrote(lab: &Lab) {
    let mut machine = writer(lab);
    for (index, value) in OWNED {
        start(&mut machine, index, value);
        assert!(matches!(machine.run(), Stop::Out(0x40, _)), "{index:#x}");
        assert_eq!(msr(&machine, index), value, "{index:#x}");
    }
    for (index, value) in OWNED {
        assert_eq!(msr(&machine, index), value, "{index:#x} later");
    }
}

fn unknown_msrs_fault(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.rdmsr()?;
        a.hlt()
    });
    for index in [0xdead_beef, 0x4000_0000, 0x1fff, 0xc000_1fff, u32::MAX] {
        start(&mut machine, index, 0);
        let event = machine.expect_event(13);
        assert_eq!((event.error, event.rip), (0, CODE), "RDMSR {index:#x}");
    }
    let mut machine = writer(lab);
    for index in [0xdead_beef, 0x4000_0000, 0x1fff, 0xc000_1fff, u32::MAX] {
        start(&mut machine, index, 0);
        let event = machine.expect_event(13);
        assert_eq!((event.error, event.rip), (0, CODE), "WRMSR {index:#x}");
    }
}

fn bad_values_fault(lab: &Lab) {
    let mut machine = writer(lab);
    let cases = [
        (0x277, 2),             // a memory type that is not
        (0x277, 1 << 63),       // a reserved bit
        (0xc000_0082, 1 << 63), // not canonical
        (0xc000_0102, 1 << 47),
        (0xc000_0100, 1 << 60),
        (0x176, 1 << 50),
        (0xc000_0080, 1 << 1), // reserved
        (0xfe, 0),             // read-only
    ];
    for (index, value) in cases {
        let before = msr(&machine, index);
        start(&mut machine, index, value);
        match machine.run() {
            Stop::Event(event) => assert_eq!((event.vector, event.error, event.rip), (13, 0, CODE)),
            other => panic!("{index:#x} = {value:#x}: {other:x?}"),
        }
        assert_eq!(msr(&machine, index), before, "{index:#x} = {value:#x}");
    }
}

fn two_guests_keep_their_own(lab: &Lab) {
    let mut machines = [writer(lab), writer(lab)];
    for (index, value) in OWNED.into_iter().filter(|(index, _)| *index != 0x277) {
        for (n, machine) in machines.iter_mut().enumerate() {
            start(machine, index, value ^ (0x100 * n as u64));
            assert!(matches!(machine.run(), Stop::Out(0x40, _)), "{index:#x}");
        }
        for (n, machine) in machines.iter_mut().enumerate() {
            machine.expect_hlt();
            assert_eq!(
                machine.regs().rbx,
                value ^ (0x100 * n as u64),
                "{index:#x}, VM {n}"
            );
        }
    }
}

fn swapgs(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(ecx, 0xc000_0102_u32)?;
        a.mov(eax, 0x1111)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.mov(ecx, 0xc000_0101_u32)?;
        a.mov(eax, 0x2222)?;
        a.wrmsr()?;
        a.swapgs()?;
        a.out(0x40, al)?;
        a.swapgs()?;
        a.swapgs()?;
        a.hlt()
    });
    assert!(matches!(machine.run(), Stop::Out(0x40, _)));
    for _ in 0..2 {
        assert_eq!(machine.sregs().gs.base, 0x1111);
        assert_eq!(msr(&machine, 0xc000_0102), 0x2222);
        if machine.regs().rip < CODE + machine.program.code.len() as u64 {
            machine.expect_hlt();
        }
    }
}

fn syscall(lab: &Lab) {
    let target = 0x9000_u64;
    let mut machine = Machine::long(lab, |a| {
        for (index, high, low) in [
            (0xc000_0080_u32, 0, 0x501),
            (0xc000_0081, 0x0010_0008, 0),
            (0xc000_0082, 0, target as u32),
            (0xc000_0084, 0, 0x200),
        ] {
            a.mov(ecx, index)?;
            a.mov(edx, high)?;
            a.mov(eax, low)?;
            a.wrmsr()?;
        }
        a.out(0x40, al)?;
        a.syscall()?;
        a.ud2()
    });
    machine.write(target, &[0xf4]);
    assert!(matches!(machine.run(), Stop::Out(0x40, _)));
    machine.expect_hlt();
    let regs = machine.regs();
    assert_eq!(regs.rip, target + 1);
    assert_eq!(
        regs.rcx,
        CODE + machine.program.code.len() as u64 - 2,
        "return address"
    );
}

fn bases_of_segments(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(rax, qword_ptr(0x10).fs())?;
        a.mov(rbx, qword_ptr(0x10).gs())?;
        a.hlt()
    });
    let mut sregs = machine.sregs();
    (sregs.fs.base, sregs.gs.base) = (0x2_0000, 0x2_1000);
    machine.set_sregs(&sregs);
    machine.set_qword(0x2_0010, 0xf5f5);
    machine.set_qword(0x2_1010, 0x6565);
    machine.expect_hlt();
    assert_eq!((machine.regs().rax, machine.regs().rbx), (0xf5f5, 0x6565));
}
