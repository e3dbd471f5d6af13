// SPDX-License-Identifier: GPL-2.0

//! VM exits: what the guest sees of each, and what user space does.

mod debug;
mod fpu;
mod msr;
mod port;
mod storm;
mod task;

use crate::harness::{tests, Lab, Test};
use crate::machine::{self, Machine, Stop, HOLE};
use guest::asm::*;
use guest::{Mode, CODE, SCRATCH};
use kvm_bindings::kvm_cpuid_entry2;

/// The tests of all parts.
pub(crate) const ALL: &[&[Test]] = &[
    TESTS,
    port::TESTS,
    msr::TESTS,
    debug::TESTS,
    fpu::TESTS,
    storm::TESTS,
    task::TESTS,
];

tests![
    cpuid_says_what_was_set,
    cpuid_beyond_the_last_leaf,
    cpuid_follows_osxsave,
    hlt,
    cr8_rises_and_falls,
    cr8_from_kvm_run,
    xsetbv,
    xsetbv_bad_values,
    caches_and_pauses,
    monitor_and_mwait,
    time_goes_on,
    rdtscp_and_rdpid,
    rdpmc,
    vmx_instructions_are_undefined,
    vmcall,
    avx_that_cpuid_does_not_offer,
    triple_fault,
    access_outside_of_memory,
    fetch_outside_of_memory,
    bad_guest_state,
];

fn cpuid_says_what_was_set(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.cpuid()?;
        a.hlt()
    });
    let list = machine.cpu.fd().get_cpuid2(256).expect("KVM_GET_CPUID2");
    assert!(list.as_slice().len() > 10);
    for entry in list.as_slice() {
        machine.restart();
        let upper = 0xdead_beef_0000_0000;
        machine.change_regs(|r| {
            (r.rax, r.rcx) = (
                upper | u64::from(entry.function),
                upper | u64::from(entry.index),
            );
        });
        machine.expect_hlt();
        let r = machine.regs();
        let (mut found, mut expected) = ([r.rax, r.rbx, r.rcx, r.rdx], registers(entry));
        for (leaf, register, mask) in DYNAMIC {
            if (entry.function, entry.index) == (leaf, 0) || (leaf, entry.index) == (0xd, 1) {
                found[register] &= !mask;
                expected[register] &= !mask;
            }
        }
        assert_eq!(
            found, expected,
            "leaf {:#x}.{}",
            entry.function, entry.index
        );
    }
}

/// Leaf, register and bits that follow the state of the vCPU: OSXSAVE and
/// MONITOR, APIC, OSPKE, the size of the XSAVE area.
const DYNAMIC: [(u32, usize, u64); 4] = [
    (1, 2, (1 << 27) | (1 << 3)),
    (1, 3, 1 << 9),
    (7, 2, 1 << 4),
    (0xd, 1, u64::MAX),
];

fn registers(entry: &kvm_cpuid_entry2) -> [u64; 4] {
    [entry.eax, entry.ebx, entry.ecx, entry.edx].map(u64::from)
}

/// Like an Intel processor: the data of the last basic leaf.
fn cpuid_beyond_the_last_leaf(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.cpuid()?;
        a.hlt()
    });
    let list = machine.cpu.fd().get_cpuid2(256).expect("KVM_GET_CPUID2");
    let last = list
        .as_slice()
        .iter()
        .find(|e| e.function == 0)
        .map_or(0, |e| e.eax);
    let mut ask = |leaf: u32| {
        machine.restart();
        machine.change_regs(|r| (r.rax, r.rcx) = (leaf.into(), 0));
        machine.expect_hlt();
        let r = machine.regs();
        [r.rax, r.rbx, r.rcx, r.rdx]
    };
    let expected = ask(last);
    for leaf in [last + 1, 0x1000_0000, 0x7fff_ffff, 0x8fff_ffff] {
        assert_eq!(ask(leaf), expected, "leaf {leaf:#x}");
    }
}

fn cpuid_follows_osxsave(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(eax, 1)?;
        a.cpuid()?;
        a.mov(esi, ecx)?;
        a.mov(rax, cr4)?;
        a.or(eax, 1 << 18)?;
        a.mov(cr4, rax)?;
        a.mov(eax, 1)?;
        a.cpuid()?;
        a.mov(edi, ecx)?;
        a.hlt()
    });
    machine.expect_hlt();
    let regs = machine.regs();
    assert_eq!(((regs.rsi >> 27) & 1, (regs.rdi >> 27) & 1), (0, 1));
}

fn hlt(lab: &Lab) {
    for mode in Mode::ALL {
        let mut machine = Machine::new(lab, mode, |a| {
            for _ in 0..3 {
                a.hlt()?;
            }
            Ok(())
        });
        for n in 1..=3 {
            machine.expect_hlt();
            assert_eq!(machine.regs().rip, CODE + n, "{mode:?}");
        }
    }
}

fn cr8_rises_and_falls(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        for value in [5, 9, 9, 3, 15, 0] {
            a.mov(eax, value)?;
            a.mov(cr8, rax)?;
        }
        a.mov(eax, 6)?;
        a.mov(cr8, rax)?;
        a.mov(rbx, cr8)?;
        a.hlt()
    });
    // User space hears of it when the value falls.
    for value in [3, 0] {
        assert_eq!(machine.run(), Stop::SetTpr);
        assert_eq!(machine.cpu.fd_mut().get_kvm_run().cr8, value);
    }
    machine.expect_hlt();
    assert_eq!(machine.regs().rbx, 6);
    assert_eq!(machine.sregs().cr8, 6);
}

fn cr8_from_kvm_run(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(rbx, cr8)?;
        a.hlt()
    });
    machine.cpu.fd_mut().get_kvm_run().cr8 = 11;
    machine.expect_hlt();
    assert_eq!(machine.regs().rbx, 11);
}

/// A guest with CR4.OSXSAVE that executes XSETBV with its registers.
fn xcr0_writer(lab: &Lab) -> Machine {
    let machine = Machine::long(lab, |a| {
        a.xsetbv()?;
        a.xor(ecx, ecx)?;
        a.xgetbv()?;
        a.mov(esi, eax)?;
        a.mov(eax, 0xd)?;
        a.xor(ecx, ecx)?;
        a.cpuid()?;
        a.hlt()
    });
    let mut sregs = machine.sregs();
    sregs.cr4 |= 1 << 18;
    machine.set_sregs(&sregs);
    machine
}

fn xsetbv(lab: &Lab) {
    let mut machine = xcr0_writer(lab);
    for (value, size) in [(1, 576), (3, 576), (7, 832), (1, 576)] {
        machine.restart();
        machine.change_regs(|r| (r.rax, r.rcx, r.rdx) = (value, 0, 0));
        machine.expect_hlt();
        assert_eq!(machine.regs().rsi, value);
        assert_eq!(machine.regs().rbx, size, "size of the area for {value}");
        let xcrs = machine.cpu.fd().get_xcrs().expect("KVM_GET_XCRS");
        assert_eq!(xcrs.xcrs[0].value, value);
    }
}

fn xsetbv_bad_values(lab: &Lab) {
    let mut machine = xcr0_writer(lab);
    for (index, value) in [(0, 0), (0, 2), (0, 5), (0, (1 << 62) | 1), (1, 1), (77, 1)] {
        machine.restart();
        machine.change_regs(|r| (r.rax, r.rdx, r.rcx) = (value & 0xffff_ffff, value >> 32, index));
        let event = machine.expect_event(13);
        assert_eq!(
            (event.error, event.rip),
            (0, CODE),
            "XCR{index} = {value:#x}"
        );
        let xcrs = machine.cpu.fd().get_xcrs().expect("KVM_GET_XCRS");
        assert_eq!(xcrs.xcrs[0].value, 1);
    }
    let mut sregs = machine.sregs();
    sregs.cr4 &= !(1 << 18);
    machine.set_sregs(&sregs);
    machine.restart();
    machine.change_regs(|r| (r.rax, r.rdx, r.rcx) = (1, 0, 0));
    assert_eq!(machine.expect_event(6).rip, CODE, "without CR4.OSXSAVE");
}

fn caches_and_pauses(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        let mut again = a.create_label();
        a.mov(qword_ptr(SCRATCH), 77)?;
        a.invd()?;
        a.wbinvd()?;
        a.clflush(byte_ptr(SCRATCH))?;
        a.mov(ecx, 5000)?;
        a.set_label(&mut again)?;
        a.pause()?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.hlt()
    });
    machine.expect_hlt();
    assert_eq!(machine.qword(SCRATCH), 77);
}

/// CPUID does not offer them; a guest that tries is not made to wait for ever.
fn monitor_and_mwait(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(eax, SCRATCH as u32)?;
        a.xor(ecx, ecx)?;
        a.xor(edx, edx)?;
        a.monitor()?;
        a.mwait()?;
        a.hlt()
    });
    machine.expect_hlt();
}

fn time_goes_on(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.rdtsc()?;
        a.shl(rdx, 32)?;
        a.lea(rbx, qword_ptr(rax + rdx))?;
        a.out(0x40, al)?;
        a.cpuid()?;
        a.rdtsc()?;
        a.shl(rdx, 32)?;
        a.lea(rsi, qword_ptr(rax + rdx))?;
        // IA32_TIME_STAMP_COUNTER can be set.
        a.mov(ecx, 0x10)?;
        a.xor(eax, eax)?;
        a.mov(edx, 0x100)?;
        a.wrmsr()?;
        a.rdtsc()?;
        a.mov(edi, edx)?;
        a.rdmsr()?;
        a.hlt()
    });
    assert!(matches!(machine.run(), Stop::Out(0x40, _)));
    machine.expect_hlt();
    let regs = machine.regs();
    assert!(regs.rsi > regs.rbx, "{:#x} after {:#x}", regs.rsi, regs.rbx);
    assert_eq!((regs.rdi, regs.rdx), (0x100, 0x100));
}

fn rdtscp_and_rdpid(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(ecx, 0xc000_0103_u32)?;
        a.mov(eax, 0x1357_u32)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.rdtscp()?;
        a.mov(rbx, rcx)?;
        a.hlt()
    });
    let list = machine.cpu.fd().get_cpuid2(256).expect("KVM_GET_CPUID2");
    let leaf = |e: &&kvm_cpuid_entry2| e.function == 0x8000_0001;
    if list
        .as_slice()
        .iter()
        .find(leaf)
        .is_none_or(|e| (e.edx >> 27) & 1 == 0)
    {
        lab.skip("no RDTSCP");
    }
    machine.expect_hlt();
    assert_eq!(machine.regs().rbx, 0x1357);
}

fn rdpmc(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(ecx, 0x99)?;
        a.rdpmc()?;
        a.hlt()
    });
    let event = machine.expect_event(13);
    assert_eq!((event.error, event.rip), (0, CODE + 5));
}

fn vmx_instructions_are_undefined(lab: &Lab) {
    type Emit = fn(&mut CodeAssembler) -> machine::Assembled;
    let instructions: [(&str, Emit); 12] = [
        ("vmxon", |a| a.vmxon(qword_ptr(SCRATCH))),
        ("vmxoff", |a| a.vmxoff()),
        ("vmclear", |a| a.vmclear(qword_ptr(SCRATCH))),
        ("vmptrld", |a| a.vmptrld(qword_ptr(SCRATCH))),
        ("vmptrst", |a| a.vmptrst(qword_ptr(SCRATCH))),
        ("vmread", |a| a.vmread(rax, rbx)),
        ("vmwrite", |a| a.vmwrite(rax, rbx)),
        ("vmlaunch", |a| a.vmlaunch()),
        ("vmresume", |a| a.vmresume()),
        ("invept", |a| a.invept(rax, xmmword_ptr(SCRATCH))),
        ("invvpid", |a| a.invvpid(rax, xmmword_ptr(SCRATCH))),
        ("vmfunc", |a| a.vmfunc()),
    ];
    for (name, emit) in instructions {
        let mut machine = Machine::long(lab, |a| {
            emit(a)?;
            a.hlt()
        });
        match machine.run() {
            Stop::Event(event) => assert_eq!((event.vector, event.rip), (6, CODE), "{name}"),
            other => panic!("{name}: {other:x?}"),
        }
    }
}

fn vmcall(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(eax, 0x1234)?;
        a.vmcall()?;
        a.hlt()
    });
    machine.expect_hlt();
    // -KVM_ENOSYS: there is no such hypercall.
    assert_eq!(machine.regs().rax as i64, -1000);
}

/// XCR0 has what the guest's CPUID offers, whatever the processor has.
fn avx_that_cpuid_does_not_offer(lab: &Lab) {
    let mut machine = xcr0_writer(lab);
    let mut list = machine.cpu.fd().get_cpuid2(256).expect("KVM_GET_CPUID2");
    for entry in list.as_mut_slice() {
        match (entry.function, entry.index) {
            (0xd, 0) => entry.eax = 3,
            (1, _) => entry.ecx &= !(1 << 28),
            _ => {}
        }
    }
    machine.cpu.fd().set_cpuid2(&list).expect("KVM_SET_CPUID2");
    machine.change_regs(|r| (r.rax, r.rcx, r.rdx) = (7, 0, 0));
    assert_eq!(machine.expect_event(13).rip, CODE);
    machine.restart();
    machine.change_regs(|r| (r.rax, r.rcx, r.rdx) = (3, 0, 0));
    machine.expect_hlt();
}

fn triple_fault(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.ud2()?;
        a.hlt()
    });
    let mut sregs = machine.sregs();
    sregs.idt.limit = 0;
    machine.set_sregs(&sregs);
    assert_eq!(machine.run(), Stop::Shutdown);
}

fn access_outside_of_memory(lab: &Lab) {
    type Emit = fn(&mut CodeAssembler) -> machine::Assembled;
    let accesses: [Emit; 4] = [
        |a| a.mov(rax, qword_ptr(rbx)),
        |a| a.mov(dword_ptr(rbx), 0x1234),
        |a| a.or(byte_ptr(rbx), al),
        |a| a.movzx(eax, word_ptr(rbx)),
    ];
    for emit in accesses {
        let mut machine = Machine::long(lab, |a| {
            a.mov(rbx, HOLE)?;
            emit(a)?;
            a.hlt()
        });
        let stop = machine.run();
        assert!(stop.is_mmio(HOLE), "{stop:x?}");
    }
}

/// Nobody emulates an instruction that cannot be read.
fn fetch_outside_of_memory(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(rbx, HOLE)?;
        a.jmp(rbx)
    });
    match machine.run() {
        Stop::Emulate(bytes) => assert_eq!(bytes, []),
        Stop::Other(error) => assert!(error.contains("suberror: 1"), "{error}"),
        other => panic!("{other:x?}"),
    }
    assert_eq!(machine.regs().rip, HOLE);
}

/// State that only VM entry checks: it fails, and can be mended.
fn bad_guest_state(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| a.hlt());
    let good = machine.sregs();
    let mut bad = good;
    // CS is a system segment.
    bad.cs.s = 0;
    machine.set_sregs(&bad);
    match machine.run() {
        Stop::Other(exit) => assert!(exit.contains("FailEntry(2147483681"), "{exit}"),
        other => panic!("{other:x?}"),
    }
    machine.set_sregs(&good);
    machine.expect_hlt();
}
