// SPDX-License-Identifier: GPL-2.0

//! Debug registers, breakpoints and single steps of the guest.

use crate::harness::{tests, Lab};
use crate::machine::{Machine, Stop};
use guest::asm::*;
use guest::{CODE, DATA, SCRATCH};
use ioctl_api::vcpu::{
    KVM_VCPUEVENT_VALID_SHADOW, KVM_X86_SHADOW_INT_MOV_SS, KVM_X86_SHADOW_INT_STI,
};
use kvm_bindings::{kvm_debugregs, kvm_msr_entry, Msrs};

tests![
    registers_are_kept_over_exits,
    user_space_sets_and_sees_them,
    two_guests_keep_their_own,
    bad_values_fault,
    execution_breakpoint,
    data_breakpoint,
    single_step,
    single_step_over_exits,
    new_registers_drop_a_trap,
    single_step_in_a_shadow,
    no_shadow_without_interrupts,
    new_flags_in_a_shadow,
    icebp,
    general_detect,
];

/// RFLAGS.TF.
const TF: u64 = 1 << 8;
/// RFLAGS.IF.
const IF: u64 = 1 << 9;
/// DR6 without conditions.
const DR6: u64 = 0xffff_0ff0;
const B0: u64 = 1;
const BD: u64 = 1 << 13;
const BS: u64 = 1 << 14;

fn debugregs(machine: &Machine) -> kvm_debugregs {
    machine
        .cpu
        .fd()
        .get_debug_regs()
        .expect("KVM_GET_DEBUGREGS")
}

fn set_debugregs(machine: &Machine, db: [u64; 4], enable: u64) {
    let regs = kvm_debugregs {
        db,
        dr6: DR6,
        dr7: enable,
        ..Default::default()
    };
    machine
        .cpu
        .fd()
        .set_debug_regs(&regs)
        .expect("KVM_SET_DEBUGREGS");
}

fn registers_are_kept_over_exits(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        for (n, value) in [0x1111, 0x2222, 0x3333, 0x4444].into_iter().enumerate() {
            a.mov(eax, value)?;
            a.mov([dr0, dr1, dr2, dr3][n], rax)?;
        }
        a.out(0x40, al)?;
        a.cpuid()?;
        a.mov(r8, dr0)?;
        a.mov(r9, dr1)?;
        a.mov(r10, dr2)?;
        a.mov(r11, dr3)?;
        a.mov(r12, dr6)?;
        a.mov(r13, dr7)?;
        a.hlt()
    });
    assert!(matches!(machine.run(), Stop::Out(0x40, _)));
    assert_eq!(debugregs(&machine).db, [0x1111, 0x2222, 0x3333, 0x4444]);
    machine.expect_hlt();
    let r = machine.regs();
    assert_eq!([r.r8, r.r9, r.r10, r.r11], [0x1111, 0x2222, 0x3333, 0x4444]);
    assert_eq!((r.r12, r.r13), (DR6, 0x400));
}

fn user_space_sets_and_sees_them(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(rax, dr2)?;
        a.mov(rbx, dr7)?;
        a.mov(ecx, 0x500)?;
        a.mov(dr7, rcx)?;
        a.hlt()
    });
    set_debugregs(&machine, [1, 2, 0x7777, 4], 0x600);
    machine.expect_hlt();
    assert_eq!((machine.regs().rax, machine.regs().rbx), (0x7777, 0x600));
    assert_eq!(debugregs(&machine).dr7, 0x500);
}

fn two_guests_keep_their_own(lab: &Lab) {
    let make = || {
        Machine::long(lab, |a| {
            a.mov(dr3, rbx)?;
            a.out(0x40, al)?;
            a.mov(rax, dr3)?;
            a.hlt()
        })
    };
    let mut machines = [make(), make()];
    for (machine, value) in machines.iter_mut().zip([0x1000, 0x2000]) {
        machine.change_regs(|r| r.rbx = value);
        assert!(matches!(machine.run(), Stop::Out(0x40, _)));
    }
    for (machine, value) in machines.iter_mut().zip([0x1000, 0x2000]) {
        machine.expect_hlt();
        assert_eq!(machine.regs().rax, value);
    }
}

fn bad_values_fault(lab: &Lab) {
    for register in [dr6, dr7] {
        let mut machine = Machine::long(lab, |a| {
            a.mov(register, rax)?;
            a.hlt()
        });
        machine.change_regs(|r| r.rax = 1 << 32);
        assert_eq!(machine.expect_event(13).rip, CODE);
        let now = debugregs(&machine);
        assert_eq!((now.dr6, now.dr7), (DR6, 0x400));
    }
    // DR4 is DR6, unless CR4.DE says that it does not exist.
    let mut machine = Machine::long(lab, |a| {
        a.mov(rax, dr4)?;
        a.hlt()
    });
    machine.expect_hlt();
    assert_eq!(machine.regs().rax, DR6);
    machine.restart();
    let mut sregs = machine.sregs();
    sregs.cr4 |= 8;
    machine.set_sregs(&sregs);
    assert_eq!(machine.expect_event(6).rip, CODE);
}

fn execution_breakpoint(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.nop()?;
        a.inc(eax)?;
        a.nop()?;
        a.hlt()
    });
    set_debugregs(&machine, [CODE + 1, 0, 0, 0], 0x401);
    let event = machine.expect_event(1);
    assert_eq!(event.rip, CODE + 1, "before the instruction");
    assert_eq!(debugregs(&machine).dr6, DR6 | B0);
    // IRET with RF set goes over it.
    machine.set_qword(event.frame + 16, event.rflags | (1 << 16));
    machine.expect_hlt();
    assert_eq!(machine.regs().rax, 1);
}

fn data_breakpoint(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(rax, qword_ptr(SCRATCH))?;
        a.mov(qword_ptr(SCRATCH), rax)?;
        a.nop()?;
        a.hlt()
    });
    // 8 bytes, on writes.
    set_debugregs(&machine, [0, SCRATCH, 0, 0], 0x400 | 4 | (0b1001 << 20));
    let event = machine.expect_event(1);
    let store = machine.program.instructions().nth(2).expect("NOP");
    assert_eq!(event.rip, store, "after the store");
    assert_eq!(debugregs(&machine).dr6, DR6 | 2);
    machine.expect_hlt();
}

fn single_step(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.nop()?;
        a.mov(eax, 5)?;
        a.inc(eax)?;
        a.nop()?;
        a.hlt()
    });
    let starts: Vec<u64> = machine.program.instructions().collect();
    machine.change_regs(|r| r.rflags |= TF);
    for rip in &starts[1..] {
        let event = machine.expect_event(1);
        assert_eq!(event.rip, *rip);
        assert_eq!(debugregs(&machine).dr6 & BS, BS);
        if *rip == starts[4] {
            machine.set_qword(event.frame + 16, event.rflags & !TF);
        }
    }
    machine.expect_hlt();
    assert_eq!(machine.regs().rax, 6);
}

/// Instructions that leave the guest are stepped over like all others.
fn single_step_over_exits(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(ecx, 0x10)?;
        a.cpuid()?;
        a.mov(ecx, 0x174)?;
        a.rdmsr()?;
        a.mov(rax, cr0)?;
        a.mov(cr0, rax)?;
        a.nop()?;
        a.hlt()
    });
    let starts: Vec<u64> = machine.program.instructions().collect();
    machine.change_regs(|r| r.rflags |= TF);
    for rip in &starts[1..] {
        let event = machine.expect_event(1);
        assert_eq!(event.rip, *rip);
        if *rip == starts[7] {
            machine.set_qword(event.frame + 16, event.rflags & !TF);
        }
    }
    machine.expect_hlt();
}

/// The trap behind HLT belongs to the registers that the guest had there.
fn new_registers_drop_a_trap(lab: &Lab) {
    for (new, rip) in [(false, CODE + 1), (true, CODE + 2)] {
        let mut machine = Machine::long(lab, |a| {
            a.hlt()?;
            a.nop()?;
            a.hlt()
        });
        machine.change_regs(|r| r.rflags |= TF);
        machine.expect_hlt();
        if new {
            machine.change_regs(|_| ());
        }
        assert_eq!(machine.expect_event(1).rip, rip);
    }
}

/// VM entry wants the trap of the instruction that made the shadow to be pending (SDM 3C
/// 27.3.1.5). MOV SS puts it off (SDM 3A 6.8.3), STI does not.
fn single_step_in_a_shadow(lab: &Lab) {
    lab.only_ours("on KVM the VM entry fails");
    for (shadow, rip) in [
        (KVM_X86_SHADOW_INT_STI, CODE),
        (KVM_X86_SHADOW_INT_MOV_SS, CODE + 1),
    ] {
        for btf in [0, 2] {
            let mut machine = Machine::long(lab, |a| {
                a.nop()?;
                a.hlt()
            });
            set_debugctl(&machine, btf);
            let mut events = machine.cpu.fd().get_vcpu_events().expect("events");
            events.flags |= KVM_VCPUEVENT_VALID_SHADOW;
            events.interrupt.shadow = shadow;
            machine.cpu.fd().set_vcpu_events(&events).expect("a shadow");
            machine.change_regs(|r| r.rflags |= TF | IF);
            match btf {
                0 => assert_eq!(machine.expect_event(1).rip, rip),
                // The lab's processor steps over all instructions with BTF, too.
                _ => assert!(matches!(machine.run(), Stop::Hlt | Stop::Event(_))),
            }
        }
    }
}

/// IA32_DEBUGCTL.
fn set_debugctl(machine: &Machine, data: u64) {
    let entry = kvm_msr_entry {
        index: 0x1d9,
        data,
        ..Default::default()
    };
    let msrs = Msrs::from_entries(&[entry]).expect("one MSR");
    assert_eq!(machine.cpu.fd().set_msrs(&msrs), Ok(1));
}

/// IF is cleared in the shadow of STI: VM entry refuses such a shadow, so it is no more.
fn no_shadow_without_interrupts(lab: &Lab) {
    lab.only_ours("on KVM the VM entry fails");
    let mut machine = Machine::long(lab, |a| a.hlt());
    let mut events = machine.cpu.fd().get_vcpu_events().expect("events");
    events.flags |= KVM_VCPUEVENT_VALID_SHADOW;
    events.interrupt.shadow = KVM_X86_SHADOW_INT_STI;
    machine.cpu.fd().set_vcpu_events(&events).expect("a shadow");
    machine.change_regs(|r| r.rflags &= !IF);
    machine.expect_hlt();
}

/// TF changes while the instruction behind MOV SS is stopped by a map.
fn new_flags_in_a_shadow(lab: &Lab) {
    for traced in [true, false] {
        let mut machine = Machine::spp(lab, |a| {
            a.mov(ss, eax)?;
            a.mov(byte_ptr(rbx), 1)?;
            a.hlt()
        });
        let starts: Vec<u64> = machine.program.instructions().collect();
        machine.vm.set_maps(DATA, &[0]).expect("maps");
        machine.change_regs(|r| {
            (r.rax, r.rbx) = (0x10, DATA);
            r.rflags |= if traced { TF } else { 0 };
        });
        assert_eq!(machine.expect_spp().rip, starts[1]);
        machine.change_regs(|r| r.rflags ^= TF);
        assert_eq!(machine.expect_spp().rip, starts[1], "still denied");
        machine.vm.set_maps(DATA, &[1]).expect("maps");
        match traced {
            true => machine.expect_hlt(),
            false => assert_eq!(machine.expect_event(1).rip, starts[2]),
        }
        assert_eq!(machine.read(DATA, 1), [1]);
    }
}

fn icebp(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.int1()?;
        a.hlt()
    });
    assert_eq!(machine.expect_event(1).rip, CODE + 1);
    machine.expect_hlt();
}

fn general_detect(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(dr0, rax)?;
        a.hlt()
    });
    set_debugregs(&machine, [5; 4], 0x400 | (1 << 13));
    assert_eq!(machine.expect_event(1).rip, CODE);
    let now = debugregs(&machine);
    assert_eq!((now.dr6 & BD, now.db[0]), (BD, 5));
    assert_eq!(now.dr7 & (1 << 13), 0, "GD is cleared for the handler");
}
