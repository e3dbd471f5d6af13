// SPDX-License-Identifier: GPL-2.0

//! Maps that change between the question to a device and its answer, flags of page
//! tables, and what a denial leaves alone.

use super::{rig, set_map, FIRST_DEVICE, PORT, PROTECTED, RF};
use crate::emulate::bus::{contents, stream, Access};
use crate::emulate::rig::{Rig, P, PAGES, RAM, W};
use crate::harness::{tests, Lab};
use crate::machine::{Stop, HOLE};
use guest::asm::*;
use guest::{CODE, PAGE_SIZE};
use ioctl_api::subpage::{
    FULL, KVM_SPP_CAUSE_EMULATED, KVM_SPP_EXIT_GVA_VALID, KVM_SPP_EXIT_PAGE_WALK,
};

tests![
    denied_when_a_device_has_answered,
    denied_when_a_port_has_answered,
    denied_in_the_middle_of_an_answer,
    skipped_with_an_answer,
    skipped_and_executed_again,
    another_instruction_comes_between,
    flags_of_a_denied_page_table,
    flags_of_an_allowed_page_table,
    no_single_step_of_a_denied_write,
    interrupt_shadow_stays,
    faults_go_before_denials,
];

/// RFLAGS.IF.
const IF: u64 = 1 << 9;

fn expect_denial(rig: &mut Rig, at: u64) -> vmm::SppExit {
    match rig.run() {
        Stop::Spp(exit) => {
            assert_eq!(exit.gpa, RAM + at);
            exit
        }
        other => panic!("no denial: {other:x?}, {:?}", rig.log()),
    }
}

/// Answers the first access, and denies all writes then.
fn answer_and_deny(rig: &mut Rig) {
    let stop = rig.machine.run();
    assert!(rig.bus.serve(&mut rig.machine, &stop), "{stop:x?}");
    set_map(rig, 0);
}

/// The answer is kept: it is not asked for again.
fn denied_when_a_device_has_answered(lab: &Lab) {
    let mut rig = rig(lab, |a| a.movsq());
    set_map(&rig, !1);
    rig.machine
        .change_regs(|r| (r.rsi, r.rdi) = (FIRST_DEVICE, PROTECTED + 0x200));
    answer_and_deny(&mut rig);
    let before = rig.machine.read(RAM, PAGE_SIZE as usize);
    for _ in 0..2 {
        let exit = expect_denial(&mut rig, 0x200);
        assert_eq!((exit.denied, exit.map), (1 << 4, 0));
        assert_eq!(exit.cause, KVM_SPP_CAUSE_EMULATED);
        assert!(rig.machine.read(RAM, PAGE_SIZE as usize) == before);
        assert_eq!(rig.machine.regs().rip, CODE);
    }
    set_map(&rig, FULL);
    let data = contents(1)[..8].to_vec();
    assert_eq!(rig.log_until_hlt(), [Access::Read(HOLE, data.clone())]);
    assert_eq!(rig.machine.read(RAM + 0x200, 8), data);
}

fn denied_when_a_port_has_answered(lab: &Lab) {
    let mut rig = rig(lab, |a| a.rep().insb());
    rig.machine
        .change_regs(|r| (r.rdx, r.rdi, r.rcx) = (PORT, PROTECTED + 0x200, 40));
    answer_and_deny(&mut rig);
    let exit = expect_denial(&mut rig, 0x200);
    assert_eq!(exit.denied, 1 << 4);
    assert_eq!(rig.machine.regs().rcx, 40);
    set_map(&rig, FULL);
    assert_eq!(rig.log_until_hlt().len(), 1, "no byte was lost");
    let data: Vec<u8> = (1..=40).map(stream).collect();
    assert_eq!(rig.machine.read(RAM + 0x200, 40), data);
}

/// A part of what the port has given finds its place.
fn denied_in_the_middle_of_an_answer(lab: &Lab) {
    let mut rig = rig(lab, |a| a.rep().insw());
    // 10 elements before a border, and 30 behind.
    rig.machine
        .change_regs(|r| (r.rdx, r.rdi, r.rcx) = (PORT, PROTECTED + 0x200 - 20, 40));
    answer_and_deny(&mut rig);
    set_map(&rig, !(1 << 4));
    expect_denial(&mut rig, 0x200);
    let regs = rig.machine.regs();
    assert_eq!((regs.rcx, regs.rdi), (30, PROTECTED + 0x200));
    let data: Vec<u8> = (1..=80).map(stream).collect();
    assert_eq!(rig.machine.read(RAM + 0x200 - 20, 20), data[..20]);
    set_map(&rig, FULL);
    assert_eq!(rig.log_until_hlt().len(), 1, "no byte was lost");
    assert_eq!(rig.machine.read(RAM + 0x200 - 20, 80), data);
}

/// Who skips the instruction does not want its answer: the next one asks for its own.
fn skipped_with_an_answer(lab: &Lab) {
    let mut rig = rig(lab, |a| {
        a.movsb()?;
        a.movsb()
    });
    rig.machine
        .change_regs(|r| (r.rsi, r.rdi) = (FIRST_DEVICE + 5, PROTECTED + 0x200));
    answer_and_deny(&mut rig);
    let exit = expect_denial(&mut rig, 0x200);
    set_map(&rig, FULL);
    rig.machine.cpu.skip(exit.insn_len.into()).expect("skip");
    let read = Access::Read(HOLE + 5, contents(1)[5..6].to_vec());
    assert_eq!(rig.log_until_hlt(), [read.clone(), read]);
    assert_eq!(rig.machine.read(RAM + 0x200, 1), contents(1)[5..6]);
}

/// The same instruction asks anew when its turn comes again.
fn skipped_and_executed_again(lab: &Lab) {
    let mut rig = rig(lab, |a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.mov(rsi, rbx)?;
        a.movsb()?;
        a.dec(ecx)?;
        a.jnz(again)
    });
    rig.machine.change_regs(|r| {
        (r.rbx, r.rcx) = (FIRST_DEVICE + 5, 2);
        r.rdi = PROTECTED + 0x200;
    });
    answer_and_deny(&mut rig);
    let exit = expect_denial(&mut rig, 0x200);
    set_map(&rig, FULL);
    rig.machine.cpu.skip(exit.insn_len.into()).expect("skip");
    rig.bus.registers_mut()[5] = 0x77;
    let read = |byte| Access::Read(HOLE + 5, vec![byte]);
    assert_eq!(rig.log_until_hlt(), [read(contents(1)[5]), read(0x77)]);
    assert_eq!(rig.machine.read(RAM + 0x200, 1), [0x77]);
}

/// An interrupt's handler with device accesses of its own, before the write is allowed.
fn another_instruction_comes_between(lab: &Lab) {
    let mut rig = rig(lab, |a| {
        a.movsd()?;
        a.hlt()?;
        // At some other place: a load of a device.
        a.mov(al, byte_ptr(rbx))
    });
    rig.machine.change_regs(|r| {
        (r.rsi, r.rdi) = (FIRST_DEVICE, PROTECTED + 0x200);
        r.rbx = FIRST_DEVICE + 0x20;
        r.rflags |= IF;
    });
    answer_and_deny(&mut rig);
    expect_denial(&mut rig, 0x200);
    let regs = rig.machine.regs();
    let mut events = rig.machine.cpu.fd().get_vcpu_events().expect("events");
    (events.interrupt.injected, events.interrupt.nr) = (1, 0x3f);
    rig.machine
        .cpu
        .fd()
        .set_vcpu_events(&events)
        .expect("events");
    assert_eq!(rig.machine.expect_event(0x3f).rip, CODE);
    let other = rig.machine.program.instructions().nth(2);
    rig.machine.change_regs(|r| r.rip = other.expect("a load"));
    let (first, second) = (contents(1)[..4].to_vec(), contents(1)[0x20..0x21].to_vec());
    let expected = [
        Access::Read(HOLE, first.clone()),
        Access::Read(HOLE + 0x20, second),
    ];
    assert_eq!(rig.log_until_hlt(), expected);
    rig.machine.change_regs(|r| *r = regs);
    set_map(&rig, FULL);
    assert_eq!(rig.log_until_hlt(), [], "the answer was kept");
    assert_eq!(rig.machine.read(RAM + 0x200, 4), first);
}

/// A guest about to copy from a device to a page whose entry in a page table has neither
/// flag, so that nobody but the emulator sets them. The map is that of the page table.
fn marking(lab: &Lab, map: u32) -> Rig {
    let rig = rig(lab, |a| a.movsq());
    rig.machine
        .change_regs(|r| (r.rsi, r.rdi) = (FIRST_DEVICE, PROTECTED + 0x208));
    // The entry is the second of the table, in its first sub-page.
    assert_eq!(rig.entry(1) & (A | D), 0);
    // The source's flags are set.
    rig.set_entry(0, rig.entry(0) | A);
    rig.machine.vm.set_maps(PAGES, &[map]).expect("maps");
    rig
}

const A: u64 = 1 << 5;
const D: u64 = 1 << 6;

fn flags_of_a_denied_page_table(lab: &Lab) {
    let mut rig = marking(lab, !1);
    let before = rig.state();
    for _ in 0..2 {
        let stop = rig.run();
        assert_eq!(rig.log(), [], "the device was not asked");
        let Stop::Spp(exit) = stop else {
            panic!("{stop:x?}");
        };
        let flags = KVM_SPP_EXIT_PAGE_WALK | KVM_SPP_EXIT_GVA_VALID;
        assert_eq!(exit.flags & flags, flags);
        assert_eq!((exit.gpa, exit.gva), (PAGES + 8, PROTECTED + 0x208));
        assert_eq!((exit.denied, exit.map), (1, !1));
        assert_eq!((exit.rip, exit.cause), (CODE, KVM_SPP_CAUSE_EMULATED));
        assert_eq!(rig.entry(1) & (A | D), 0);
        let mut now = rig.state();
        now.regs.rflags &= !RF;
        assert_eq!(now.difference(&before), None);
    }
    rig.machine.vm.set_maps(PAGES, &[FULL]).expect("maps");
    assert_eq!(rig.log_until_hlt().len(), 1);
    assert_eq!(rig.entry(1) & (A | D), A | D);
    assert_eq!(rig.machine.read(RAM + 0x208, 8), contents(1)[..8]);
}

fn flags_of_an_allowed_page_table(lab: &Lab) {
    for map in [1, FULL & !2] {
        let mut rig = marking(lab, map);
        assert_eq!(rig.log_until_hlt().len(), 1, "map {map:#x}");
        assert_eq!(rig.entry(1) & (A | D), A | D, "map {map:#x}");
    }
}

/// RFLAGS.TF.
const TF: u64 = 1 << 8;

fn no_single_step_of_a_denied_write(lab: &Lab) {
    let mut rig = rig(lab, |a| {
        a.movsb()?;
        a.nop()
    });
    set_map(&rig, 0);
    rig.machine.change_regs(|r| {
        (r.rsi, r.rdi) = (FIRST_DEVICE, PROTECTED + 0x200);
        r.rflags |= TF;
    });
    expect_denial(&mut rig, 0x200);
    expect_denial(&mut rig, 0x200);
    set_map(&rig, FULL);
    let Stop::Event(event) = rig.run() else {
        panic!("no #DB");
    };
    assert_eq!((event.vector, event.rip), (1, CODE + 1));
    rig.machine.set_qword(event.frame + 16, event.rflags & !TF);
    assert_eq!(rig.log_until_hlt().len(), 1);
}

/// STI, and then a denied write: interrupts come behind it, when it is done.
fn interrupt_shadow_stays(lab: &Lab) {
    for from_memory in [false, true] {
        let mut rig = rig(lab, |a| {
            a.sti()?;
            a.movsb()?;
            a.nop()?;
            a.nop()
        });
        set_map(&rig, 0);
        rig.machine.change_regs(|r| {
            (r.rsi, r.rdi) = (FIRST_DEVICE, PROTECTED + 0x200);
            if from_memory {
                r.rsi = super::MEMORY;
            }
        });
        let run = rig.machine.cpu.fd_mut().get_kvm_run();
        run.request_interrupt_window = 1;
        expect_denial(&mut rig, 0x200);
        let events = rig.machine.cpu.fd().get_vcpu_events();
        let shadow = events.expect("KVM_GET_VCPU_EVENTS").interrupt.shadow;
        assert_ne!(shadow, 0, "the shadow has not ended");
        set_map(&rig, FULL);
        assert_eq!(rig.run(), Stop::IrqWindow);
        assert_eq!(rig.machine.regs().rip, CODE + 2);
    }
}

/// What the guest's own tables forbid is no matter of maps.
fn faults_go_before_denials(lab: &Lab) {
    let mut rig = rig(lab, |a| a.movsd());
    rig.machine.use_handler_stack();
    set_map(&rig, 0);
    rig.map(&[
        crate::emulate::rig::Page::Device(0),
        crate::emulate::rig::Page::Ram(0),
    ]);
    // Two bytes in the protected page, two in one that is read-only.
    rig.set_entry(2, (RAM + PAGE_SIZE) | P);
    rig.machine
        .change_regs(|r| (r.rsi, r.rdi) = (FIRST_DEVICE, PROTECTED + PAGE_SIZE - 2));
    let Stop::Event(event) = rig.run() else {
        panic!("no #PF");
    };
    assert_eq!((event.vector, event.error, event.rip), (14, 3, CODE));
    assert_eq!(rig.machine.sregs().cr2, PROTECTED + PAGE_SIZE);
    rig.set_entry(2, (RAM + PAGE_SIZE) | P | W);
    expect_denial(&mut rig, 0xffe);
    assert_eq!(rig.log(), []);
}
