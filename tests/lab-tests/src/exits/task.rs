// SPDX-License-Identifier: GPL-2.0

//! Hardware task switches.
//!
//! ```text
//!   GDT   0x18  TSS of the main task   runs the program
//!         0x20  TSS of the other one   runs OTHER: out 0x77 ; jmp or iret back
//! ```

use crate::harness::{tests, Backend, Lab};
use crate::machine::{self, Assembled, Machine, Stop};
use crate::raw;
use guest::asm::*;
use guest::{Mode, CODE, DATA, GDT, TABLES};
use ioctl_api::number::KVM_INTERRUPT;
use ioctl_api::subpage::{
    KVM_SPP_EXIT_EVENT_DELIVERY, KVM_SPP_EXIT_GVA_VALID, KVM_SPP_EXIT_INSN_LEN_VALID,
    KVM_SPP_EXIT_SIZE_VALID,
};
use ioctl_api::vcpu::Interrupt;

tests![
    task_jmp,
    task_call_and_iret,
    task_gate_of_exceptions,
    task_gate_of_a_software_interrupt,
    task_gate_of_an_interrupt,
    task_gate_of_an_nmi,
    task_that_is_not_in_order,
    task_that_cannot_be_left,
    task_with_a_bad_segment,
    task_trap,
    task_saved_to_a_denied_sub_page,
    task_gate_saved_to_a_denied_sub_page,
];

/// Selectors of the two tasks.
const MAIN: u16 = 0x18;
const OTHER: u16 = 0x20;
/// Their TSSs. What is saved in the first begins a sub-page.
const MAIN_TSS: u64 = DATA + 0x60;
const OTHER_TSS: u64 = 0x4000;
/// Code and stack of the other task.
const OTHER_CODE: u64 = 0x5000;
const OTHER_STACK: u64 = 0x6000;
/// Page tables of the other task, with a page that those of the main task do not have.
const OTHER_TABLES: u64 = 0x30000;
const ALIAS: u32 = 0x40_0000;
/// Length of a far JMP or CALL in bytes.
const FAR: u64 = 7;
/// EFLAGS.NT and RF.
const NT: u64 = 1 << 14;
const RF: u64 = 1 << 16;

/// Modes that have task switches.
const MODES: [Mode; 3] = [Mode::Protected, Mode::Paged32, Mode::Pae];

fn jmp(a: &mut CodeAssembler, task: u16) -> Assembled {
    a.db(&[0xea, 0, 0, 0, 0, task as u8, 0])
}

fn call(a: &mut CodeAssembler, task: u16) -> Assembled {
    a.db(&[0x9a, 0, 0, 0, 0, task as u8, 0])
}

/// A machine in its main task. The other one says so at port 0x77, and goes on with `back`.
fn machine(
    vm: vmm::Vm,
    mode: Mode,
    back: &[u8],
    author: impl FnOnce(&mut CodeAssembler) -> Assembled,
) -> Machine {
    let machine = Machine::load(vm, machine::program(mode, author));
    let mut code = vec![0xe6, 0x77];
    code.extend(back);
    machine.write(OTHER_CODE, &code);
    machine.set_qword(GDT + u64::from(MAIN), descriptor(MAIN_TSS, 11));
    machine.set_qword(GDT + u64::from(OTHER), descriptor(OTHER_TSS, 9));
    machine.write(MAIN_TSS, &[0; 0x68]);
    machine.write(OTHER_TSS, &tss());
    let mut sregs = machine.sregs();
    machine.write(MAIN_TSS + 0x1c, &(sregs.cr3 as u32).to_le_bytes());
    machine.write(OTHER_TABLES, &mode.tables(OTHER_TABLES));
    // The entry for the alias becomes that for address 0.
    match mode {
        Mode::Paged32 => machine.write(OTHER_TABLES + 4, &machine.read(TABLES, 4)),
        Mode::Pae => {
            let first = machine.qword(TABLES + 0x1000);
            machine.set_qword(OTHER_TABLES + 0x1010, first);
        }
        _ => {}
    }
    sregs.gdt.limit = 0x27;
    (sregs.tr.base, sregs.tr.limit, sregs.tr.type_) = (MAIN_TSS, 0x67, 11);
    (sregs.tr.present, sregs.tr.s, sregs.tr.selector) = (1, 0, MAIN);
    machine.set_sregs(&sregs);
    machine
}

/// A TSS descriptor of this type.
fn descriptor(base: u64, kind: u64) -> u64 {
    0x67 | (base & 0xff_ffff) << 16 | (0x80 | kind) << 40
}

/// The TSS of the other task: register `n` is 0x1110 + n.
fn tss() -> [u8; 0x68] {
    let mut tss = [0; 0x68];
    let mut put = |at: usize, value: u64| {
        tss[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes());
    };
    put(0x1c, OTHER_TABLES);
    put(0x20, OTHER_CODE);
    put(0x24, 2);
    for n in 0..8 {
        put(0x28 + 4 * n, 0x1110 + n as u64);
    }
    put(0x38, OTHER_STACK);
    for n in 0..6 {
        put(0x48 + 4 * n, 0x10);
    }
    put(0x4c, 8);
    tss
}

/// A word of four bytes.
fn dword(machine: &Machine, at: u64) -> u64 {
    machine.qword(at) & 0xffff_ffff
}

/// The types of the two TSS descriptors.
fn kinds(machine: &Machine) -> (u64, u64) {
    let kind = |selector: u16| machine.qword(GDT + u64::from(selector)) >> 40 & 15;
    (kind(MAIN), kind(OTHER))
}

/// Runs until the other task is there, and checks its registers.
fn expect_other(machine: &mut Machine) {
    let stop = machine.run();
    let Stop::Out(0x77, _) = stop else {
        panic!("{stop:x?} at {:#x}", machine.regs().rip);
    };
    let regs = machine.regs();
    assert_eq!(
        (regs.rax, regs.rcx, regs.rdx, regs.rbx),
        (0x1110, 0x1111, 0x1112, 0x1113)
    );
    assert_eq!((regs.rbp, regs.rsi, regs.rdi), (0x1115, 0x1116, 0x1117));
    let sregs = machine.sregs();
    assert_eq!(sregs.tr.selector, OTHER);
    assert_eq!((sregs.tr.base, sregs.tr.type_), (OTHER_TSS, 11));
    assert_eq!((sregs.cs.selector, sregs.ss.selector), (8, 0x10));
    assert_eq!(sregs.cr0 & 8, 8, "CR0.TS");
    if machine.program.mode != Mode::Protected {
        assert_eq!(sregs.cr3, OTHER_TABLES);
    }
}

/// The bytes of MOV EAX, [ALIAS + OTHER_CODE], where there is paging.
fn load_alias(mode: Mode) -> Vec<u8> {
    let mut code = Vec::new();
    if mode != Mode::Protected {
        code.push(0xa1);
        code.extend((ALIAS + OTHER_CODE as u32).to_le_bytes());
    }
    code
}

fn task_jmp(lab: &Lab) {
    for mode in MODES {
        let mut back = load_alias(mode);
        back.extend([0xe6, 0x78, 0xea, 0, 0, 0, 0, MAIN as u8, 0]);
        let mut machine = machine(machine::vm(lab), mode, &back, |a| {
            jmp(a, OTHER)?;
            a.hlt()
        });
        machine.change_regs(|r| (r.rax, r.rdi) = (0x2220, 0x2227));
        let mut debug = machine.cpu.fd().get_debug_regs().expect("debug registers");
        debug.dr7 = 0x7ff;
        debug.db = [0x9000; 4];
        machine.cpu.fd().set_debug_regs(&debug).expect("DR7");
        expect_other(&mut machine);
        assert_eq!(machine.regs().rflags, 2);
        assert_eq!(kinds(&machine), (9, 11), "{mode:?}");
        assert_eq!(dword(&machine, OTHER_TSS), 0, "no link");
        let saved = [0x20, 0x28, 0x38, 0x44, 0x4c].map(|at| dword(&machine, MAIN_TSS + at));
        assert_eq!(saved, [CODE + FAR, 0x2220, guest::STACK, 0x2227, 8]);
        let debug = machine.cpu.fd().get_debug_regs().expect("debug registers");
        assert_eq!(debug.dr7 & 0x5ff, 0x4aa, "no local breakpoints");
        assert_eq!(
            machine.run(),
            Stop::Out(0x78, vec![machine.regs().rax as u8])
        );
        if mode != Mode::Protected {
            assert_eq!(machine.regs().rax, dword(&machine, OTHER_CODE), "{mode:?}");
        }
        machine.expect_hlt();
        assert_eq!(kinds(&machine), (11, 9), "{mode:?}");
        let regs = machine.regs();
        assert_eq!((regs.rip, regs.rax), (CODE + FAR + 1, 0x2220));
        assert_eq!((regs.rdi, regs.rsp), (0x2227, guest::STACK));
        assert_eq!(machine.sregs().tr.selector, MAIN);
    }
}

fn task_call_and_iret(lab: &Lab) {
    for mode in MODES {
        // IRET, and OUT again when it is called again.
        let mut machine = machine(machine::vm(lab), mode, &[0xcf, 0xeb, 0xfb], |a| {
            call(a, OTHER)?;
            call(a, OTHER)?;
            a.hlt()
        });
        for n in 1..=2 {
            expect_other(&mut machine);
            assert_eq!(machine.regs().rflags, 2 | NT);
            assert_eq!(kinds(&machine), (11, 11));
            assert_eq!(dword(&machine, OTHER_TSS), u64::from(MAIN), "link");
            assert_eq!(dword(&machine, MAIN_TSS + 0x20), CODE + n * FAR);
        }
        machine.expect_hlt();
        assert_eq!(machine.regs().rip, CODE + 2 * FAR + 1);
        assert_eq!(machine.regs().rflags, 2);
        assert_eq!(kinds(&machine), (11, 9));
        assert_eq!(dword(&machine, OTHER_TSS + 0x24), 2, "NT is not saved");
    }
}

/// A task gate for a vector.
fn set_gate(machine: &Machine, vector: u64) {
    let gate = u64::from(OTHER) << 16 | 0x85 << 40;
    machine.set_qword(machine.sregs().idt.base + 8 * vector, gate);
}

fn task_gate_of_exceptions(lab: &Lab) {
    for mode in MODES {
        let mut machine = machine(machine::vm(lab), mode, &[0x58, 0xcf], |a| {
            a.mov(ecx, 0x33)?;
            a.mov(ds, ecx)?;
            a.hlt()
        });
        set_gate(&machine, 13);
        expect_other(&mut machine);
        assert_eq!(machine.regs().rsp, OTHER_STACK - 4);
        assert_eq!(dword(&machine, OTHER_STACK - 4), 0x30, "error code");
        assert_eq!(dword(&machine, MAIN_TSS + 0x20), CODE + 5);
        assert_eq!(dword(&machine, MAIN_TSS + 0x24), 2 | RF);
        assert_eq!(machine.regs().rflags, 2 | NT);
        machine.write(MAIN_TSS + 0x20, &(CODE as u32 + 7).to_le_bytes());
        machine.expect_hlt();
        assert_eq!(machine.sregs().tr.selector, MAIN);
    }
}

fn task_gate_of_a_software_interrupt(lab: &Lab) {
    let mut machine = machine(machine::vm(lab), Mode::Protected, &[0xcf], |a| {
        a.int(0x21)?;
        a.hlt()
    });
    set_gate(&machine, 0x21);
    expect_other(&mut machine);
    assert_eq!(machine.regs().rsp, OTHER_STACK);
    assert_eq!(dword(&machine, MAIN_TSS + 0x20), CODE + 2);
    machine.expect_hlt();
    assert_eq!(machine.regs().rip, CODE + 3);
}

fn task_gate_of_an_interrupt(lab: &Lab) {
    let mut machine = machine(machine::vm(lab), Mode::Protected, &[0xcf], |a| {
        a.nop()?;
        a.hlt()
    });
    set_gate(&machine, 0x31);
    machine.change_regs(|r| r.rflags |= 1 << 9);
    let mut interrupt = Interrupt { irq: 0x31 };
    assert_eq!(
        raw::with(machine.cpu.fd(), KVM_INTERRUPT, &mut interrupt),
        Ok(0)
    );
    expect_other(&mut machine);
    assert_eq!(dword(&machine, MAIN_TSS + 0x20), CODE);
    machine.expect_hlt();
    assert_eq!(machine.regs().rip, CODE + 2);
}

fn task_gate_of_an_nmi(lab: &Lab) {
    let mut machine = machine(machine::vm(lab), Mode::Protected, &[0xcf], |a| {
        a.nop()?;
        a.hlt()
    });
    set_gate(&machine, 2);
    machine.cpu.fd().nmi().expect("KVM_NMI");
    expect_other(&mut machine);
    let nmi = |machine: &Machine| machine.cpu.fd().get_vcpu_events().expect("events").nmi;
    let now = nmi(&machine);
    assert_eq!((now.injected, now.pending, now.masked), (0, 0, 1));
    assert_eq!(dword(&machine, MAIN_TSS + 0x20), CODE);
    machine.expect_hlt();
    assert_eq!(nmi(&machine).masked, 0, "IRET unblocks");
}

/// The processor finds that before it exits.
fn task_that_is_not_in_order(lab: &Lab) {
    let mut machine = machine(machine::vm(lab), Mode::Protected, &[], |a| {
        jmp(a, OTHER)?;
        a.hlt()
    });
    let short = descriptor(OTHER_TSS, 9) - 1;
    machine.set_qword(GDT + u64::from(OTHER), short);
    let before = machine.read(MAIN_TSS, 0x68);
    let event = machine.expect_event(10);
    assert_eq!((event.rip, event.error), (CODE, u64::from(OTHER)));
    assert_eq!(event.rflags, 2 | RF);
    assert_eq!(machine.sregs().tr.selector, MAIN);
    assert_eq!(machine.read(MAIN_TSS, 0x68), before);
    assert_eq!(machine.qword(GDT + u64::from(OTHER)), short);
}

/// The TSS of the old task has no room: it gets the exception, and nothing has changed. On
/// the way to the handler of another exception that is a double fault.
fn task_that_cannot_be_left(lab: &Lab) {
    lab.only_ours("KVM does not look, and loses the exceptions of task switches");
    for (by_gate, vector, error) in [(false, 10, u64::from(MAIN)), (true, 8, 0)] {
        let mut machine = machine(machine::vm(lab), Mode::Protected, &[], |a| {
            if by_gate {
                a.mov(ecx, 0x33)?;
                a.mov(ds, ecx)?;
            }
            jmp(a, OTHER)?;
            a.hlt()
        });
        set_gate(&machine, 13);
        let mut sregs = machine.sregs();
        sregs.tr.limit = 0x5e;
        machine.set_sregs(&sregs);
        let before = everything(&machine);
        let event = machine.expect_event(vector);
        assert_eq!(event.error, error);
        assert_eq!(event.rip, CODE + if by_gate { 5 } else { 0 });
        assert_eq!(event.rflags, 2 | RF);
        assert_eq!(machine.sregs().tr, sregs.tr);
        let after = everything(&machine);
        assert!((after.0, after.1, after.2) == (before.0, before.1, before.2));
    }
}

/// The new task gets the exception.
fn task_with_a_bad_segment(lab: &Lab) {
    lab.only_ours("KVM loses the exceptions of task switches");
    let mut machine = machine(machine::vm(lab), Mode::Protected, &[0xf4], |a| {
        jmp(a, OTHER)?;
        a.hlt()
    });
    machine.write(OTHER_TSS + 0x58, &[0x73]);
    let event = machine.expect_event(10);
    assert_eq!((event.rip, event.error), (OTHER_CODE, 0x70));
    assert_eq!(machine.sregs().tr.selector, OTHER);
    assert_eq!(kinds(&machine), (9, 11));
}

fn task_trap(lab: &Lab) {
    lab.only_ours("KVM does not look at T");
    let mut machine = machine(machine::vm(lab), Mode::Protected, &[0xf4], |a| {
        jmp(a, OTHER)?;
        a.hlt()
    });
    machine.write(OTHER_TSS + 0x64, &[1]);
    assert_eq!(machine.expect_event(1).rip, OTHER_CODE);
    let debug = machine.cpu.fd().get_debug_regs().expect("debug registers");
    assert_eq!(debug.dr6, 0xffff_8ff0);
    expect_other(&mut machine);
}

/// A VM whose maps the emulator checks.
fn software_vm(lab: &Lab) -> vmm::Vm {
    lab.needs_backend(Backend::Software);
    let vm = machine::vm(lab);
    vm.enable_spp_with(Backend::Software.cap())
        .expect("KVM_CAP_SPP");
    vm
}

/// What may not change while the switch is denied.
fn everything(machine: &Machine) -> (Vec<u8>, Vec<u8>, Vec<u8>, String) {
    let registers = format!("{:x?} {:x?}", machine.regs(), machine.sregs());
    let page = |at| machine.read(at, 0x1000);
    (page(DATA), page(OTHER_TSS), page(GDT), registers)
}

/// Runs into a denial of what is saved in the TSS of the main task; allows it.
fn denied_then_allowed(machine: &mut Machine) -> vmm::SppExit {
    let sub_page = 1 << 1;
    machine.vm.set_maps(DATA, &[!sub_page]).expect("maps");
    let before = everything(machine);
    let first = machine.expect_spp();
    assert_eq!((first.gpa, first.gva), (DATA + 0x80, DATA + 0x80));
    assert_eq!((first.denied, first.map), (sub_page, !sub_page));
    assert_eq!((first.size, first.rip), (64, CODE));
    let told = KVM_SPP_EXIT_GVA_VALID | KVM_SPP_EXIT_SIZE_VALID;
    assert_eq!(first.flags & told, told);
    let again = machine.expect_spp();
    assert_eq!(again.flags, first.flags);
    assert!(everything(machine) == before, "nothing changes");
    machine.vm.set_maps(DATA, &[sub_page]).expect("maps");
    expect_other(machine);
    first
}

fn task_saved_to_a_denied_sub_page(lab: &Lab) {
    let mut machine = machine(software_vm(lab), Mode::Pae, &[0xcf], |a| {
        call(a, OTHER)?;
        a.hlt()
    });
    let exit = denied_then_allowed(&mut machine);
    assert_eq!(u64::from(exit.insn_len), FAR);
    let flags = exit.flags & (KVM_SPP_EXIT_INSN_LEN_VALID | KVM_SPP_EXIT_EVENT_DELIVERY);
    assert_eq!(flags, KVM_SPP_EXIT_INSN_LEN_VALID);
    assert_eq!(dword(&machine, MAIN_TSS + 0x20), CODE + FAR);
    machine.expect_hlt();
}

fn task_gate_saved_to_a_denied_sub_page(lab: &Lab) {
    let mut machine = machine(software_vm(lab), Mode::Pae, &[0xcf], |a| {
        a.int(0x21)?;
        a.hlt()
    });
    set_gate(&machine, 0x21);
    let exit = denied_then_allowed(&mut machine);
    assert_ne!(exit.flags & KVM_SPP_EXIT_EVENT_DELIVERY, 0);
    assert_eq!(dword(&machine, MAIN_TSS + 0x20), CODE + 2);
    machine.expect_hlt();
}
