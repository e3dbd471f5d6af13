// SPDX-License-Identifier: GPL-2.0

//! What comes between instructions: single steps, breakpoints, interrupts.

use super::bus::Access;
use super::rig::{Page, Rig, WINDOW};
use crate::harness::{tests, Lab};
use crate::machine::{Assembled, Event, Stop, HOLE};
use crate::raw;
use guest::asm::*;
use guest::{CODE, PAGE_SIZE};
use ioctl_api::number::KVM_INTERRUPT;
use ioctl_api::vcpu::Interrupt;
use kvm_bindings::kvm_debugregs;

tests![
    single_step_over_reads,
    single_step_over_writes,
    single_step_over_elements,
    single_step_over_ports,
    data_breakpoint_on_a_device,
    code_breakpoint_comes_first,
    interrupt_shadow_ends,
    interrupt_between_stores,
    interrupt_between_loads,
    interrupt_between_batches,
    interrupt_waits_for_a_finished_access,
];

const TF: u64 = 1 << 8;
const IF: u64 = 1 << 9;
const RF: u64 = 1 << 16;
const BS: u64 = 1 << 14;
const VECTOR: u8 = 0x31;

type Emit = fn(&mut CodeAssembler) -> Assembled;

/// A guest whose window is a device and memory.
fn rig(lab: &Lab, author: impl FnOnce(&mut CodeAssembler) -> Assembled) -> Rig {
    let rig = Rig::new(lab, author);
    rig.map(&[Page::Device(0), Page::Ram(0)]);
    rig.machine.change_regs(|r| {
        (r.rbx, r.rsi, r.rdi) = (WINDOW, WINDOW, WINDOW + PAGE_SIZE);
        (r.rdx, r.rcx) = (0x3f8, 3);
    });
    rig
}

fn dr6(rig: &Rig) -> u64 {
    let regs = rig.machine.cpu.fd().get_debug_regs();
    regs.expect("KVM_GET_DEBUGREGS").dr6
}

fn set_breakpoint(rig: &Rig, address: u64, enable: u64) {
    let regs = kvm_debugregs {
        db: [address, 0, 0, 0],
        dr6: 0xffff_0ff0,
        dr7: enable,
        ..Default::default()
    };
    let fd = rig.machine.cpu.fd();
    fd.set_debug_regs(&regs).expect("KVM_SET_DEBUGREGS");
}

fn interrupt(rig: &Rig) {
    let mut interrupt = Interrupt { irq: VECTOR.into() };
    let fd = rig.machine.cpu.fd();
    assert_eq!(raw::with(fd, KVM_INTERRUPT, &mut interrupt), Ok(0));
}

fn expect_event(rig: &mut Rig, vector: u8) -> Event {
    match rig.run() {
        Stop::Event(event) if event.vector == vector => event,
        other => panic!("vector {vector} expected, not {other:x?}, {:?}", rig.log()),
    }
}

/// Steps over the first two instructions: an event after each.
fn step(rig: &mut Rig, name: &str) {
    let starts: Vec<u64> = rig.machine.program.instructions().collect();
    rig.machine.change_regs(|r| r.rflags |= TF);
    for rip in &starts[1..3] {
        let event = expect_event(rig, 1);
        assert_eq!(event.rip, *rip, "{name}");
        assert_eq!(dr6(rig) & BS, BS, "{name}");
        if *rip == starts[2] {
            rig.machine.set_qword(event.frame + 16, event.rflags & !TF);
        }
    }
    rig.machine.expect_hlt();
    assert!(!rig.log().is_empty(), "{name}");
}

fn step_each(lab: &Lab, rows: &[(&str, Emit)]) {
    for (name, emit) in rows {
        let mut rig = rig(lab, |a| {
            emit(a)?;
            a.nop()?;
            a.nop()
        });
        step(&mut rig, name);
    }
}

fn single_step_over_reads(lab: &Lab) {
    step_each(
        lab,
        &[
            ("mov", |a| a.mov(eax, dword_ptr(rbx))),
            ("movs", |a| a.movsd()),
            ("movups", |a| a.movups(xmm0, xmmword_ptr(rbx))),
            ("insb", |a| a.insb()),
        ],
    );
}

fn single_step_over_writes(lab: &Lab) {
    lab.only_ours("KVM forgets the step");
    step_each(
        lab,
        &[
            ("mov", |a| a.mov(dword_ptr(rbx), eax)),
            ("add", |a| a.add(dword_ptr(rbx), eax)),
            ("movups", |a| a.movups(xmmword_ptr(rbx), xmm0)),
            ("outsb", |a| a.outsb()),
        ],
    );
}

/// The guest is interrupted after each element (SDM 3B 19.3.1.4).
fn single_step_over_elements(lab: &Lab) {
    lab.only_ours("KVM does all elements in one step");
    let rows: [(&str, Emit); 4] = [
        ("rep lodsb", |a| a.rep().lodsb()),
        ("rep movsb", |a| a.rep().movsb()),
        ("rep outsb", |a| a.rep().outsb()),
        ("rep insb", |a| a.rep().insb()),
    ];
    for (name, emit) in rows {
        let mut rig = rig(lab, emit);
        rig.machine.change_regs(|r| r.rflags |= TF);
        for left in [2, 1, 0] {
            let event = expect_event(&mut rig, 1);
            assert_eq!(rig.machine.regs().rcx, left, "{name}");
            let rip = if left == 0 { CODE + 2 } else { CODE };
            assert_eq!(event.rip, rip, "{name}, {left} left");
            if left == 0 {
                rig.machine.set_qword(event.frame + 16, event.rflags & !TF);
            }
        }
        rig.machine.expect_hlt();
    }
}

fn single_step_over_ports(lab: &Lab) {
    lab.only_ours("KVM forgets the step");
    step_each(
        lab,
        &[
            ("insd", |a| a.insd()),
            ("outsw", |a| a.outsw()),
            ("in", |a| a.in_(al, dx)),
            ("out", |a| a.out(dx, al)),
        ],
    );
}

/// A breakpoint on the bytes that are written.
fn data_breakpoint_on_a_device(lab: &Lab) {
    lab.only_ours("KVM's emulator knows no data breakpoints");
    let mut rig = rig(lab, |a| {
        a.mov(dword_ptr(rbx), eax)?;
        a.mov(dword_ptr(rbx + 4), eax)?;
        a.nop()
    });
    // 2 bytes, on writes.
    set_breakpoint(&rig, WINDOW + 6, 0x401 | (0b0101 << 16));
    let event = expect_event(&mut rig, 1);
    let starts: Vec<u64> = rig.machine.program.instructions().collect();
    assert_eq!(event.rip, starts[2], "after the second store");
    assert_eq!(dr6(&rig) & 0xf, 1);
    assert_eq!(rig.log().len(), 2);
    rig.machine.expect_hlt();
}

/// A breakpoint on the instruction is met before its operand.
fn code_breakpoint_comes_first(lab: &Lab) {
    let mut rig = rig(lab, |a| a.rep().stosb());
    rig.machine.change_regs(|r| r.rdi = WINDOW);
    set_breakpoint(&rig, CODE, 0x401);
    let event = expect_event(&mut rig, 1);
    assert_eq!(event.rip, CODE);
    assert_eq!(rig.log(), []);
    // RF lets the instruction go, with all its elements.
    rig.machine.set_qword(event.frame + 16, event.rflags | RF);
    assert_eq!(rig.log_until_hlt().len(), 3);
}

/// Interrupts are held off until the instruction behind STI or MOV SS is finished.
fn interrupt_shadow_ends(lab: &Lab) {
    let rows: [(&str, Emit, usize); 5] = [
        ("sti, load", |a| a.mov(eax, dword_ptr(rbx)), 2),
        ("sti, store", |a| a.mov(dword_ptr(rbx), eax), 2),
        ("sti, add", |a| a.add(dword_ptr(rbx), eax), 2),
        ("sti, outs", |a| a.outsb(), 2),
        (
            "mov ss, add",
            |a| {
                a.mov(ss, eax)?;
                a.add(dword_ptr(rbx), eax)
            },
            3,
        ),
    ];
    for (name, emit, behind) in rows {
        let mut rig = rig(lab, |a| {
            a.sti()?;
            emit(a)?;
            a.nop()?;
            a.nop()
        });
        rig.machine.change_regs(|r| r.rax = 0x10);
        let rip = rig.machine.program.instructions().nth(behind);
        let run = rig.machine.cpu.fd_mut().get_kvm_run();
        run.request_interrupt_window = 1;
        assert_eq!(rig.run(), Stop::IrqWindow, "{name}");
        assert_eq!(Some(rig.machine.regs().rip), rip, "{name}");
        assert!(!rig.log().is_empty(), "{name}");
        let run = rig.machine.cpu.fd_mut().get_kvm_run();
        run.request_interrupt_window = 0;
        interrupt(&rig);
        let event = expect_event(&mut rig, VECTOR);
        assert_eq!(Some(event.rip), rip, "{name}");
        rig.machine.expect_hlt();
    }
}

/// Answers the first access of a repeated instruction, queues an interrupt, and returns
/// the event and what was asked by then.
fn interrupted(rig: &mut Rig) -> (Event, Vec<Access>) {
    rig.machine.change_regs(|r| r.rflags |= IF);
    let stop = rig.machine.run();
    assert!(rig.bus.serve(&mut rig.machine, &stop), "{stop:x?}");
    interrupt(rig);
    let event = expect_event(rig, VECTOR);
    (event, rig.log())
}

fn interrupt_between_stores(lab: &Lab) {
    let mut rig = rig(lab, |a| a.rep().stosw());
    rig.machine
        .change_regs(|r| (r.rdi, r.rax) = (WINDOW, 0x4241));
    let (event, log) = interrupted(&mut rig);
    let write = |at| Access::Write(HOLE + at, vec![0x41, 0x42]);
    assert_eq!(log, [write(0)]);
    assert_eq!(event.rip, CODE);
    let regs = rig.machine.regs();
    assert_eq!((regs.rcx, regs.rdi), (2, WINDOW + 2));
    assert_eq!(rig.log_until_hlt(), [write(2), write(4)]);
}

/// However far it came, registers say so, and no element is read twice.
fn interrupt_between_loads(lab: &Lab) {
    let mut rig = rig(lab, |a| a.rep().movsw());
    let (event, mut log) = interrupted(&mut rig);
    let regs = rig.machine.regs();
    let done = log.len() as u64;
    let behind = rig.machine.program.instructions().nth(1);
    // KVM looks once more whether there are elements left.
    assert!(event.rip == CODE || done == 3 && Some(event.rip) == behind);
    let expected = (3 - done, WINDOW + 2 * done, WINDOW + PAGE_SIZE + 2 * done);
    assert_eq!((regs.rcx, regs.rsi, regs.rdi), expected);
    if lab.is_ours() {
        assert_eq!(done, 1, "KVM does all of them first");
    }
    log.extend(rig.log_until_hlt());
    let whole = super::bus::contents(1);
    let reads: Vec<Access> = (0..3)
        .map(|n| Access::Read(HOLE + 2 * n, whole[2 * n as usize..][..2].to_vec()))
        .collect();
    assert_eq!(log, reads);
}

fn interrupt_between_batches(lab: &Lab) {
    let mut rig = rig(lab, |a| a.rep().insb());
    rig.machine.change_regs(|r| r.rcx = 2000);
    let (event, log) = interrupted(&mut rig);
    assert_eq!((event.rip, log.len()), (CODE, 1));
    let regs = rig.machine.regs();
    let expected = (2000 - 1024, WINDOW + PAGE_SIZE + 1024);
    assert_eq!((regs.rcx, regs.rdi), expected);
    assert_eq!(rig.log_until_hlt().len(), 1);
    let stored = rig.machine.read(super::rig::RAM, 2000);
    let all: Vec<u8> = (1..=2000).map(super::bus::stream).collect();
    assert!(stored == all);
}

/// An instruction with two accesses is not left between them.
fn interrupt_waits_for_a_finished_access(lab: &Lab) {
    let mut rig = rig(lab, |a| {
        a.lock().add(dword_ptr(rbx), eax)?;
        a.nop()
    });
    let (event, log) = interrupted(&mut rig);
    assert_eq!(log.len(), 2, "{log:?}");
    assert_eq!(
        event.rip,
        rig.machine.program.instructions().nth(1).expect("NOP")
    );
    rig.machine.expect_hlt();
}
