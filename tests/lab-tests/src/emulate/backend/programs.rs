// SPDX-License-Identifier: GPL-2.0

//! Programs that do more than store: modes, events, breakpoints, code and tables.

use super::{assert_same, denials, ended, mapped, needs_both, with, Emit, BOTH};
use crate::emulate::bus::Bus;
use crate::emulate::rig::{Rig, PAGES, WINDOW};
use crate::emulate::trace::Exit;
use crate::harness::{tests, Lab};
use crate::machine::{self, Assembled, Machine, Stop};
use guest::asm::*;
use guest::{Mode, CODE, DATA, GDT, PAGE_SIZE};
use ioctl_api::subpage::{FULL, KVM_SPP_EXIT_EVENT_DELIVERY};
use kvm_bindings::kvm_debugregs;

tests![
    every_mode,
    user_code,
    frames_of_events,
    single_steps,
    data_breakpoints,
    code_that_changes_itself,
    locked_loops,
    flags_of_page_tables,
    flags_of_descriptors,
];

/// Stores of each kind in all modes: allowed, denied, repeated over a border.
fn every_mode(lab: &Lab) {
    needs_both(lab);
    for mode in Mode::ALL {
        let trace = assert_same(lab, &format!("{mode:?}"), |lab| {
            let machine = Machine::load(machine::spp_vm(lab), machine::program(mode, low_stores));
            machine.vm.set_maps(LOW, &[!4]).expect("maps");
            machine.change_regs(|r| (r.rax, r.rdi, r.rcx) = (0x1234_5678, LOW + 0xf4, 20));
            Rig {
                machine,
                bus: Bus::new(),
            }
        });
        assert_eq!((denials(&trace), ended(&trace)), (3, true), "{mode:?}");
    }
}

/// A page below 64 KiB, which real mode reaches too.
const LOW: u64 = 0x6000;

/// Stores to the third sub-page of LOW, and to others.
fn low_stores(a: &mut CodeAssembler) -> Assembled {
    a.mov(dword_ptr(LOW + 0x80), eax)?;
    a.mov(dword_ptr(LOW + 0x100), eax)?;
    a.xchg(word_ptr(LOW + 0x10), ax)?;
    a.lock().add(word_ptr(LOW + 0x17e), ax)?;
    a.inc(byte_ptr(LOW + 0x180))?;
    a.rep().stosb()?;
    a.push(ax)?;
    a.hlt()
}

fn user_code(lab: &Lab) {
    needs_both(lab);
    let trace = assert_same(lab, "user code", |lab| {
        let program = machine::program(Mode::Long, |a| {
            a.mov(dword_ptr(rbx), 7)?;
            a.add(qword_ptr(rbx + 0x80), rbx)?;
            a.xchg(qword_ptr(rbx + 0x100), rax)?;
            // Not for user code, and there is no stack for the handler.
            a.hlt()
        });
        let machine = Machine::load(machine::spp_vm(lab), program);
        machine.vm.set_maps(DATA, &[!1]).expect("maps");
        machine.open_to_user();
        machine.become_user();
        machine.change_regs(|r| r.rbx = DATA);
        Rig {
            machine,
            bus: Bus::new(),
        }
    });
    assert_eq!(denials(&trace), 1);
    let last = trace.exits.last().map(|(exit, _)| exit);
    assert_eq!(last, Some(&Exit::Stop(Stop::Shutdown)));
}

/// Frames that go to a page with a map: denied as an event, and pushed where only their
/// own sub-page may be written.
fn frames_of_events(lab: &Lab) {
    needs_both(lab);
    let rows: [(&str, Emit, u8); 6] = [
        ("ud2", |a| a.ud2(), 6),
        ("int3", |a| a.int3(), 3),
        ("int", |a| a.int(0x21), 0x21),
        ("#DE", |a| a.div(ecx), 0),
        ("#PF", |a| a.mov(byte_ptr(0x7f_ffff_0000_u64), al), 14),
        ("#GP", |a| a.mov(ds, ebx), 13),
    ];
    for (name, emit, vector) in rows {
        let events = BOTH.map(|backend| {
            let lab = with(lab, backend);
            let mut machine = Machine::spp(&lab, |a| {
                emit(a)?;
                a.hlt()
            });
            machine.change_regs(|r| (r.rsp, r.rbx) = (DATA + 0x200, 0x33));
            machine.vm.set_maps(DATA, &[!(1 << 3)]).expect("maps");
            let exit = machine.expect_spp();
            let told = (
                exit.flags & KVM_SPP_EXIT_EVENT_DELIVERY,
                exit.gpa & !0x7f,
                exit.denied,
            );
            assert_eq!(
                told,
                (KVM_SPP_EXIT_EVENT_DELIVERY, DATA + 0x180, 1 << 3),
                "{name}, {backend:?}"
            );
            machine.vm.set_maps(DATA, &[1 << 3]).expect("maps");
            let event = machine.expect_event(vector);
            (event, machine.read(DATA, PAGE_SIZE as usize))
        });
        assert_eq!(events[0], events[1], "{name}");
    }
}

/// #DB after each store that is done, and after no other.
fn single_steps(lab: &Lab) {
    needs_both(lab);
    let trace = assert_same(lab, "steps", |lab| {
        let program = machine::program(Mode::Long, |a| {
            a.mov(dword_ptr(rbx), eax)?;
            a.add(dword_ptr(rbx + 0x80), eax)?;
            a.xchg(qword_ptr(rbx + 8), rax)?;
            a.rep().stosw()?;
            a.nop()?;
            a.hlt()
        });
        let rig = mapped(lab, program, [!2, FULL, FULL, FULL]);
        rig.machine.change_regs(|r| {
            (r.rbx, r.rdi, r.rcx) = (WINDOW, WINDOW + 0x20, 3);
            r.rflags |= 1 << 8;
        });
        rig
    });
    let step = |exit: &Exit| matches!(exit, Exit::Stop(Stop::Event(e)) if e.vector == 1);
    let steps = trace.exits.iter().filter(|(exit, _)| step(exit)).count();
    assert_eq!((denials(&trace), ended(&trace), steps), (1, true, 6));
}

fn data_breakpoints(lab: &Lab) {
    needs_both(lab);
    let trace = assert_same(lab, "breakpoints", |lab| {
        let program = machine::program(Mode::Long, |a| {
            a.mov(dword_ptr(rbx), eax)?;
            a.mov(dword_ptr(rbx + 8), eax)?;
            a.inc(byte_ptr(rbx + 10))?;
            a.mov(byte_ptr(rbx + 12), al)?;
            a.mov(dword_ptr(rbx + 0x84), eax)?;
            a.nop()?;
            a.hlt()
        });
        let rig = mapped(lab, program, [!2, FULL, FULL, FULL]);
        rig.machine.change_regs(|r| r.rbx = WINDOW);
        let regs = kvm_debugregs {
            db: [WINDOW + 8, WINDOW + 0x84, 0, 0],
            dr6: 0xffff_0ff0,
            // 4 bytes each, on writes.
            dr7: 0x405 | (0xdd << 16),
            ..Default::default()
        };
        let fd = rig.machine.cpu.fd();
        fd.set_debug_regs(&regs).expect("KVM_SET_DEBUGREGS");
        rig
    });
    let hit = |exit: &Exit| matches!(exit, Exit::Stop(Stop::Event(e)) if e.vector == 1);
    let hits = trace.exits.iter().filter(|(exit, _)| hit(exit)).count();
    assert_eq!((denials(&trace), ended(&trace), hits), (1, true, 2));
}

/// What is written is executed, and what is denied is not.
fn code_that_changes_itself(lab: &Lab) {
    needs_both(lab);
    let trace = assert_same(lab, "code", |lab| {
        let program = machine::program(Mode::Long, |a| {
            let (mut again, mut target) = (a.create_label(), a.create_label());
            a.mov(ecx, 5)?;
            a.lea(rdx, ptr(target))?;
            a.set_label(&mut again)?;
            // The immediate of the ADD, which is in the next sub-page.
            a.inc(byte_ptr(rdx + 1))?;
            a.jmp(target)?;
            a.db(&[0xcc; 0x80])?;
            a.set_label(&mut target)?;
            a.add(eax, 0x10)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.hlt()
        });
        let rig = mapped(lab, program, [FULL; 4]);
        rig.machine.vm.set_maps(CODE, &[2]).expect("maps");
        rig
    });
    assert_eq!((denials(&trace), ended(&trace)), (0, true));
    assert_eq!(trace.regs.rax, 5 * 0x10 + 1 + 2 + 3 + 4 + 5);
}

fn locked_loops(lab: &Lab) {
    needs_both(lab);
    let trace = assert_same(lab, "loops", |lab| {
        let program = machine::program(Mode::Long, |a| {
            let (mut again, mut retry) = (a.create_label(), a.create_label());
            a.mov(ecx, 100)?;
            a.set_label(&mut again)?;
            a.lock().inc(qword_ptr(rbx))?;
            a.lock().xadd(dword_ptr(rbx + 8), ecx)?;
            a.lock().xadd(dword_ptr(rbx + 8), ecx)?;
            a.mov(rax, qword_ptr(rbx + 16))?;
            a.set_label(&mut retry)?;
            a.lea(rdx, qword_ptr(rax + 3))?;
            a.lock().cmpxchg(qword_ptr(rbx + 16), rdx)?;
            a.jnz(retry)?;
            a.and(ecx, 0x7f)?;
            a.dec(ecx)?;
            a.jg(again)?;
            a.hlt()
        });
        let rig = mapped(lab, program, [1, FULL, FULL, FULL]);
        rig.machine.change_regs(|r| r.rbx = WINDOW);
        rig
    });
    assert_eq!((denials(&trace), ended(&trace)), (0, true));
}

/// Page tables and descriptors in pages with maps that allow their flags to be set.
fn flags_of_page_tables(lab: &Lab) {
    needs_both(lab);
    let trace = assert_same(lab, "flags", |lab| {
        let program = machine::program(Mode::Long, |a| {
            a.mov(rax, qword_ptr(rbx))?;
            a.mov(qword_ptr(rbx + PAGE_SIZE), rax)?;
            a.lock().inc(qword_ptr(rbx + 2 * PAGE_SIZE))?;
            // Sets the accessed flag of a descriptor, and the busy flag of another.
            a.mov(eax, 0x10)?;
            a.mov(es, eax)?;
            a.mov(eax, 0x18)?;
            a.ltr(ax)?;
            a.hlt()
        });
        let rig = mapped(lab, program, [FULL, 1, 1, FULL]);
        let machine = &rig.machine;
        machine.set_qword(GDT + 0x10, 0x00cf_9200_0000_ffff);
        machine.set_qword(GDT + 0x18, 0x0000_8902_0000_0067);
        let mut sregs = machine.sregs();
        sregs.gdt.limit = 0x27;
        machine.set_sregs(&sregs);
        for page in [GDT, PAGES] {
            machine.vm.set_maps(page, &[1]).expect("maps");
        }
        machine.change_regs(|r| r.rbx = WINDOW);
        rig
    });
    assert_eq!((denials(&trace), ended(&trace)), (0, true));
    // Accessed, and dirty where it is written.
    let flags = [0, 8, 16].map(|at| trace.qword(PAGES + at) & 0x60);
    assert_eq!(flags, [0x20, 0x60, 0x60]);
    assert_ne!(trace.qword(GDT + 0x10) & (1 << 40), 0, "accessed");
    assert_ne!(trace.qword(GDT + 0x18) & (1 << 41), 0, "busy");
}

/// Loads of segments mark their descriptors, in a page with a map: denied with the length
/// of the instruction, and then done.
fn flags_of_descriptors(lab: &Lab) {
    needs_both(lab);
    let fresh: u64 = 0x00cf_9200_0000_ffff;
    let rows: [(&str, Emit, u64); 5] = [
        ("mov es", |a| a.mov(es, eax), fresh),
        ("mov ss", |a| a.mov(ss, eax), fresh),
        ("pop fs", |a| a.pop(fs), fresh),
        ("lgs", |a| a.db(&[0x0f, 0xb5, 0x03]), fresh), // lgs eax, [rbx]
        ("ltr", |a| a.ltr(ax), 0x0000_8902_0000_0067),
    ];
    for (name, emit, descriptor) in rows {
        for backend in BOTH {
            let what = format!("{name}, {backend:?}");
            let mut machine = Machine::spp(&with(lab, backend), |a| {
                emit(a)?;
                a.hlt()
            });
            machine.set_qword(GDT + 0x18, descriptor);
            let mut sregs = machine.sregs();
            sregs.gdt.limit = 0x27;
            machine.set_sregs(&sregs);
            machine.change_regs(|r| (r.rax, r.rbx, r.rsp) = (0x18, DATA, DATA + 8));
            // A far pointer, and then a selector.
            machine.set_qword(DATA, 0x18 << 32);
            machine.set_qword(DATA + 8, 0x18);
            machine.vm.set_maps(GDT, &[!1]).expect("maps");
            let exit = machine.expect_spp();
            let told = (exit.gpa & !7, exit.denied, u64::from(exit.insn_len));
            let len = machine.program.len_at(CODE).expect("length");
            let len = if name == "lgs" { 3 } else { len };
            assert_eq!(told, (GDT + 0x18, 1, len), "{what}");
            assert_eq!(machine.qword(GDT + 0x18), descriptor, "{what}");
            machine.vm.set_maps(GDT, &[1]).expect("maps");
            machine.expect_hlt();
            let flag = if name == "ltr" { 1 << 41 } else { 1 << 40 };
            assert_eq!(machine.qword(GDT + 0x18), descriptor | flag, "{what}");
        }
    }
}
