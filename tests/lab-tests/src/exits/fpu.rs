// SPDX-License-Identifier: GPL-2.0

//! x87, SSE and AVX registers: the guest's and the VMM's stay apart.

use crate::harness::{tests, Lab};
use crate::machine::{Machine, Stop};
use guest::asm::*;
use guest::SCRATCH;
use ioctl_api::number::KVM_RUN;
use std::os::fd::AsRawFd;

tests![
    registers_are_kept_over_exits,
    user_space_sets_and_sees_them,
    new_guest_sees_nothing_of_the_host,
    host_keeps_its_own,
    two_guests_keep_their_own,
    upper_halves_of_avx,
    page_fault_address_is_kept,
];

fn registers_are_kept_over_exits(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(rax, 0x1122_3344_5566_7788_u64)?;
        a.movq(xmm0, rax)?;
        a.movq(xmm15, rax)?;
        a.fninit()?;
        a.fld1()?;
        a.fldpi()?;
        a.out(0x40, al)?;
        a.cpuid()?;
        a.movq(rbx, xmm0)?;
        a.movq(rcx, xmm15)?;
        a.fstp(qword_ptr(SCRATCH))?;
        a.fstp(qword_ptr(SCRATCH + 8))?;
        a.hlt()
    });
    assert!(matches!(machine.run(), Stop::Out(0x40, _)));
    // Work of the VMM in between.
    let sum: f64 = (1..100).map(|n| f64::from(n).sqrt()).sum();
    assert!(sum > 600.0);
    machine.expect_hlt();
    let value = 0x1122_3344_5566_7788;
    assert_eq!((machine.regs().rbx, machine.regs().rcx), (value, value));
    assert_eq!(f64::from_bits(machine.qword(SCRATCH)), std::f64::consts::PI);
    assert_eq!(f64::from_bits(machine.qword(SCRATCH + 8)), 1.0);
}

fn user_space_sets_and_sees_them(lab: &Lab) {
    lab.only_ours("KVM_SET_FPU of KVM does not say in XSTATE_BV that there are SSE registers");
    let mut machine = Machine::long(lab, |a| {
        a.movups(xmmword_ptr(SCRATCH), xmm3)?;
        a.fnstcw(word_ptr(SCRATCH + 16))?;
        a.mov(eax, 0x99)?;
        a.movq(xmm4, rax)?;
        a.hlt()
    });
    let mut fpu = machine.cpu.fd().get_fpu().expect("KVM_GET_FPU");
    fpu.xmm[3] = [0xab; 16];
    fpu.fcw = 0x27f;
    machine.cpu.fd().set_fpu(&fpu).expect("KVM_SET_FPU");
    machine.expect_hlt();
    assert_eq!(machine.read(SCRATCH, 16), [0xab; 16]);
    assert_eq!(machine.qword(SCRATCH + 16) & 0xffff, 0x27f);
    let fpu = machine.cpu.fd().get_fpu().expect("KVM_GET_FPU");
    assert_eq!((fpu.xmm[3], fpu.xmm[4][0]), ([0xab; 16], 0x99));
}

/// Enters the guest by a bare system call with XMM7 = `value`, and returns what
/// is in XMM7 afterwards.
fn run_with_xmm7(fd: &impl AsRawFd, value: u64) -> u64 {
    let after: u64;
    // SAFETY: KVM_RUN changes no memory of this program but kvm_run, to which no
    // reference exists; all registers that a system call changes are named.
    unsafe {
        std::arch::asm!(
            "movq xmm7, {value}",
            "syscall",
            "movq {after}, xmm7",
            value = in(reg) value,
            after = lateout(reg) after,
            inlateout("rax") libc::SYS_ioctl => _,
            in("rdi") fd.as_raw_fd(),
            in("rsi") u64::from(KVM_RUN),
            in("rdx") 0_u64,
            lateout("rcx") _,
            lateout("r11") _,
            out("xmm7") _,
        );
    }
    after
}

fn new_guest_sees_nothing_of_the_host(lab: &Lab) {
    let machine = Machine::long(lab, |a| {
        a.movups(xmmword_ptr(SCRATCH), xmm7)?;
        a.stmxcsr(dword_ptr(SCRATCH + 16))?;
        a.hlt()
    });
    machine.set_qword(SCRATCH, 1);
    machine.set_qword(SCRATCH + 8, 1);
    run_with_xmm7(machine.cpu.fd(), 0x5ec2_e75e_c2e7);
    assert_eq!((machine.qword(SCRATCH), machine.qword(SCRATCH + 8)), (0, 0));
    // The flags of exceptions that happened are not looked at: under KVM the
    // host's stay there.
    assert_eq!(machine.qword(SCRATCH + 16) as u32 & !0x3f, 0x1f80);
}

fn host_keeps_its_own(lab: &Lab) {
    let machine = Machine::long(lab, |a| {
        a.mov(eax, 0xbad)?;
        a.movq(xmm7, rax)?;
        a.mov(dword_ptr(SCRATCH), 0x9fc0)?;
        a.ldmxcsr(dword_ptr(SCRATCH))?;
        a.hlt()
    });
    assert_eq!(run_with_xmm7(machine.cpu.fd(), 0x600d), 0x600d);
    assert_eq!(
        machine.cpu.fd().get_fpu().expect("KVM_GET_FPU").xmm[7][0],
        0xad
    );
    // A flush-to-zero mode left behind would make this 0.
    assert!(std::hint::black_box(f64::MIN_POSITIVE) / 4.0 > 0.0);
}

fn two_guests_keep_their_own(lab: &Lab) {
    let make = || {
        Machine::long(lab, |a| {
            a.movq(xmm9, rbx)?;
            a.out(0x40, al)?;
            a.movq(rax, xmm9)?;
            a.hlt()
        })
    };
    let mut machines = [make(), make()];
    for (machine, value) in machines.iter_mut().zip([0x1111, 0x2222]) {
        machine.change_regs(|r| r.rbx = value);
        assert!(matches!(machine.run(), Stop::Out(0x40, _)));
    }
    for (machine, value) in machines.iter_mut().zip([0x1111, 0x2222]) {
        machine.expect_hlt();
        assert_eq!(machine.regs().rax, value);
    }
}

fn upper_halves_of_avx(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.xor(ecx, ecx)?;
        a.xor(edx, edx)?;
        a.mov(eax, 7)?;
        a.xsetbv()?;
        a.vmovups(ymm5, ymmword_ptr(SCRATCH))?;
        a.out(0x40, al)?;
        a.cpuid()?;
        a.vmovups(ymmword_ptr(SCRATCH + 32), ymm5)?;
        a.hlt()
    });
    let xcr0 = machine.cpu.fd().get_cpuid2(256).expect("KVM_GET_CPUID2");
    let leaf = xcr0
        .as_slice()
        .iter()
        .find(|e| (e.function, e.index) == (0xd, 0));
    if leaf.is_none_or(|e| e.eax & 4 == 0) {
        lab.skip("no AVX");
    }
    let mut sregs = machine.sregs();
    sregs.cr4 |= 1 << 18;
    machine.set_sregs(&sregs);
    let pattern: Vec<u8> = (1..=32).collect();
    machine.write(SCRATCH, &pattern);
    assert!(matches!(machine.run(), Stop::Out(0x40, _)));
    let area = machine.cpu.fd().get_xsave().expect("KVM_GET_XSAVE").region;
    let upper: Vec<u8> = area[(576 + 5 * 16) / 4..][..4]
        .iter()
        .flat_map(|w| w.to_le_bytes())
        .collect();
    assert_eq!(upper, pattern[16..], "YMM_Hi128 of KVM_GET_XSAVE");
    machine.expect_hlt();
    assert_eq!(machine.read(SCRATCH + 32, 32), pattern);
}

/// CR2 is not switched by the processor, and the VMM has page faults.
fn page_fault_address_is_kept(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(rax, 0x1234_5678_9000_u64)?;
        a.mov(cr2, rax)?;
        a.out(0x40, al)?;
        a.cpuid()?;
        a.mov(rbx, cr2)?;
        a.hlt()
    });
    assert!(matches!(machine.run(), Stop::Out(0x40, _)));
    let fresh = crate::raw::Mapping::anonymous(1 << 16, 4096);
    (0..16).for_each(|page| fresh.write(page << 12, 1));
    assert_eq!(machine.sregs().cr2, 0x1234_5678_9000);
    machine.expect_hlt();
    assert_eq!(machine.regs().rbx, 0x1234_5678_9000);
    let mut sregs = machine.sregs();
    sregs.cr2 = 0xabc0;
    machine.set_sregs(&sregs);
    assert_eq!(machine.sregs().cr2, 0xabc0);
}
