// SPDX-License-Identifier: GPL-2.0

//! Denied writes in other modes than 64-bit supervisor code, and writes that the
//! processor makes on its own.

use super::ALL_VALID;
use crate::harness::{tests, Lab};
use crate::machine::{self, Assembled, Machine, Stop};
use guest::asm::*;
use guest::{Mode, DATA, PAGE_SIZE, SCRATCH, TABLES};
use ioctl_api::subpage::{FULL, KVM_SPP_EXIT_PAGE_WALK};

tests![
    every_mode,
    user_mode,
    two_pages_at_once,
    accessed_flag_in_a_denied_page,
    task_switch_flags_in_a_denied_gdt,
    device_is_asked_outside_of_memory,
    alternating_places,
];

/// A page below 64 KiB, which real mode reaches too.
const LOW: u64 = 0x6000;

fn spp(lab: &Lab, mode: Mode, author: impl FnOnce(&mut CodeAssembler) -> Assembled) -> Machine {
    Machine::load(machine::spp_vm(lab), machine::program(mode, author))
}

fn every_mode(lab: &Lab) {
    for mode in Mode::ALL {
        let mut machine = spp(lab, mode, |a| {
            a.mov(dword_ptr(LOW + 0x80), 0x1111_1111)?;
            a.mov(dword_ptr(LOW + 0x100), 0x2222_2222)?;
            a.hlt()
        });
        machine.vm.set_maps(LOW, &[!2]).expect("maps");
        let exit = machine.expect_spp();
        assert_eq!(
            (exit.gpa, exit.gva, exit.denied),
            (LOW + 0x80, LOW + 0x80, 2),
            "{mode:?}"
        );
        assert_eq!(exit.flags, ALL_VALID, "{mode:?}");
        assert_eq!(exit.size, 4, "{mode:?}");
        let length = machine.program.len_at(exit.rip).expect("length");
        assert_eq!(u64::from(exit.insn_len), length, "{mode:?}");
        assert_eq!(exit.rip, machine.program.address, "{mode:?}");
        let len = usize::from(exit.insn_bytes);
        assert_eq!(exit.insn[..len], machine.read(exit.rip, len), "{mode:?}");
        assert!(len as u64 >= length, "{mode:?}");
        machine.vm.set_maps(LOW, &[FULL]).expect("maps");
        machine.expect_hlt();
        assert_eq!(machine.read(LOW + 0x80, 4), [0x11; 4], "{mode:?}");
        assert_eq!(machine.read(LOW + 0x100, 4), [0x22; 4], "{mode:?}");
    }
}

/// The map does not ask who writes.
fn user_mode(lab: &Lab) {
    let mut machine = spp(lab, Mode::Long, |a| {
        a.mov(dword_ptr(rbx), 7)?;
        a.mov(dword_ptr(rbx + 0x80), 8)?;
        a.hlt() // not for user code: #GP
    });
    machine.open_to_user();
    machine.become_user();
    machine.change_regs(|r| r.rbx = DATA);
    machine.vm.set_maps(DATA, &[!1]).expect("maps");
    let exit = machine.expect_spp();
    assert_eq!((exit.gpa, exit.denied), (DATA, 1));
    assert_eq!(
        exit.insn[..15],
        machine.read(exit.rip, 15),
        "user code can be read"
    );
    machine
        .cpu
        .skip(machine.program.len_at(exit.rip).expect("length"))
        .expect("skip");
    // No TSS has a stack for the handler of #GP.
    assert_eq!(machine.run(), Stop::Shutdown);
    assert_eq!((machine.qword(DATA), machine.qword(DATA + 0x80)), (0, 8));
}

/// A store over the border of two pages changes neither if one denies it.
fn two_pages_at_once(lab: &Lab) {
    let mut machine = spp(lab, Mode::Long, |a| {
        a.mov(qword_ptr(rbx), rax)?;
        a.hlt()
    });
    let border = DATA + PAGE_SIZE;
    let last = 1 << 31;
    for before in 1..8 {
        for (maps, denied) in [([!last, FULL], last), ([FULL, !1], 1), ([!last, !1], last)] {
            let at = border - before;
            machine.write(at, &[0; 8]);
            machine.vm.set_maps(DATA, &maps).expect("maps");
            machine.restart();
            machine.change_regs(|r| (r.rbx, r.rax) = (at, u64::MAX));
            let exit = machine.expect_spp();
            let gpa = if denied == 1 { border } else { at };
            assert_eq!((exit.gpa, exit.gva, exit.denied), (gpa, gpa, denied));
            assert_eq!(
                machine.read(at, 8),
                [0; 8],
                "{before} bytes before the border"
            );
            machine.vm.set_maps(DATA, &[last, 1]).expect("maps");
            machine.expect_hlt();
            assert_eq!(
                machine.read(at, 8),
                [0xff; 8],
                "{before} bytes before the border"
            );
        }
    }
}

/// The processor does not ask the map about accessed flags (SDM 3C 29.3.4.1), so the
/// module does: it sets the flag where the map allows that, and else tells.
fn accessed_flag_in_a_denied_page(lab: &Lab) {
    for map in [0, !1, FULL & !(1 << 31)] {
        let mut machine = spp(lab, Mode::Long, |a| {
            a.mov(rax, qword_ptr(SCRATCH))?;
            a.hlt()
        });
        machine.vm.set_maps(TABLES, &[map]).expect("maps");
        let before = machine.qword(TABLES);
        let stop = machine.run();
        if map & 1 == 0 {
            let Stop::Spp(exit) = stop else {
                if stop == Stop::Hlt && machine.qword(TABLES) == before | 0x20 {
                    lab.skip("this processor sets flags without asking EPT, as Bochs does");
                }
                panic!("map {map:#x}: {stop:x?}");
            };
            assert_ne!(exit.flags & KVM_SPP_EXIT_PAGE_WALK, 0);
            assert_eq!((exit.gpa, exit.denied, exit.map), (TABLES, 1, map));
            assert_eq!(machine.qword(TABLES), before);
            machine.vm.set_maps(TABLES, &[FULL]).expect("maps");
            machine.expect_hlt();
        } else {
            assert_eq!(stop, Stop::Hlt, "map {map:#x}");
        }
        assert_eq!(machine.qword(TABLES), before | 0x20, "accessed");
    }
}

/// LTR sets the busy flag of the descriptor: an ordinary write to the GDT.
fn task_switch_flags_in_a_denied_gdt(lab: &Lab) {
    let gdt = DATA;
    let mut machine = spp(lab, Mode::Long, |a| {
        a.mov(eax, 0x18)?;
        a.ltr(ax)?;
        a.hlt()
    });
    machine.write(gdt, &Mode::Long.gdt());
    // An available 64-bit TSS of 0x68 bytes at SCRATCH.
    machine.set_qword(gdt + 0x18, 0x0000_8902_0000_0067);
    let mut sregs = machine.sregs();
    (sregs.gdt.base, sregs.gdt.limit) = (gdt, 0x27);
    machine.set_sregs(&sregs);
    machine.vm.set_maps(gdt, &[!1]).expect("maps");
    let exit = machine.expect_spp();
    assert_eq!((exit.gpa & !7, exit.denied), (gdt + 0x18, 1));
    assert_eq!(machine.qword(gdt + 0x18), 0x0000_8902_0000_0067);
    machine.vm.set_maps(gdt, &[FULL]).expect("maps");
    machine.expect_hlt();
    assert_eq!(machine.qword(gdt + 0x18), 0x0000_8b02_0000_0067);
    assert_eq!(machine.sregs().tr.base, SCRATCH);
}

fn device_is_asked_outside_of_memory(lab: &Lab) {
    let mut machine = spp(lab, Mode::Long, |a| {
        a.mov(byte_ptr(rbx), al)?;
        a.hlt()
    });
    machine
        .vm
        .set_maps(machine::HOLE, &[FULL, 0])
        .expect("maps");
    for page in 0..2 {
        machine.restart();
        let gpa = machine::HOLE + page * PAGE_SIZE;
        machine.change_regs(|r| r.rbx = gpa);
        let stop = machine.run();
        assert!(stop.is_mmio(gpa), "{stop:x?}");
    }
}

/// One instruction is denied here and allowed there, in turns.
fn alternating_places(lab: &Lab) {
    let mut machine = spp(lab, Mode::Long, |a| {
        let mut again = a.create_label();
        a.mov(ecx, 64)?;
        a.mov(rbx, DATA)?;
        a.set_label(&mut again)?;
        a.inc(byte_ptr(rbx))?;
        a.xor(rbx, 0x1080)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.hlt()
    });
    machine.vm.set_maps(DATA, &[!1, FULL & !1]).expect("maps");
    for _ in 0..32 {
        let exit = machine.expect_spp();
        assert_eq!(exit.gpa, DATA);
        machine
            .cpu
            .skip(machine.program.len_at(exit.rip).expect("length"))
            .expect("skip");
    }
    machine.expect_hlt();
    assert_eq!(
        (machine.read(DATA, 1)[0], machine.read(DATA + 0x1080, 1)[0]),
        (0, 32)
    );
}
