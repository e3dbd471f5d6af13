// SPDX-License-Identifier: GPL-2.0

//! What user space changes between an exit for a device and its answer: registers, tables,
//! maps, memory slots, events. No access is lost, and none is made twice.
//!
//! ```text
//!   window   0, 1     2              3
//!            device   memory, map    memory
//! ```

use crate::emulate::bus::{contents, stream, Access};
use crate::emulate::rig::{Page, Rig, State, P, RAM, W, WINDOW};
use crate::harness::{tests, Lab};
use crate::machine::{add_slot, set_slot, Assembled, Stop, HOLE};
use crate::raw::{self, Mapping};
use guest::asm::*;
use guest::{CODE, PAGE_SIZE, TABLES};
use ioctl_api::number::KVM_NMI;
use kvm_bindings::kvm_regs;
use libc::EINTR;

tests![
    nothing_that_counts,
    destination_in_a_register,
    source_in_a_register,
    destination_in_the_page_table,
    source_in_the_page_table,
    destination_in_other_tables,
    answer_that_was_not_used,
    map_that_denies_another_place,
    destination_of_a_port_is_no_memory_any_more,
    memory_between_two_parts_of_a_write,
    code_is_taken_away,
    event_before_the_answer,
];

const PAGE: usize = PAGE_SIZE as usize;
/// The page with a map.
const MEMORY: u64 = WINDOW + 2 * PAGE_SIZE;
const PORT: u64 = 0x3f8;
const RF: u64 = 1 << 16;
/// A slot that the guest does not use.
const ELSEWHERE: u64 = HOLE + (1 << 20);

fn rig(lab: &Lab, author: impl FnOnce(&mut CodeAssembler) -> Assembled) -> Rig {
    lab.only_ours("KVM loses what an instruction writes to registers that were set");
    let rig = Rig::spp(lab, author);
    rig.map(&[Page::Device(0), Page::Device(1), Page::Ram(0), Page::Ram(1)]);
    rig.machine.vm.set_maps(RAM, &[!2]).expect("maps");
    start(&rig);
    rig
}

fn start(rig: &Rig) {
    rig.set_vectors();
    rig.machine.change_regs(|r| {
        (r.rax, r.rcx, r.rdx, r.rbx) = (0x1122_3344_5566_7788, 3, PORT, WINDOW + 0x40);
        (r.rsi, r.rdi) = (WINDOW + 8, MEMORY + 0x200);
    });
}

/// More than any of the instructions makes.
const MOST_EXITS: usize = 20;

type Emit = fn(&mut CodeAssembler) -> Assembled;
type Change = fn(&mut Rig);

/// Instructions, each with the exits that it makes.
const QUESTIONS: [(&str, Emit, usize); 13] = [
    ("mov load", |a| a.mov(eax, dword_ptr(rbx)), 1),
    ("mov store", |a| a.mov(dword_ptr(rbx), eax), 1),
    ("add", |a| a.lock().add(qword_ptr(rbx), rax), 2),
    ("xchg", |a| a.xchg(word_ptr(rbx), ax), 2),
    ("movups load", |a| a.movups(xmm0, xmmword_ptr(rbx)), 2),
    ("movups store", |a| a.movups(xmmword_ptr(rbx), xmm3), 2),
    ("movs", |a| a.movsq(), 1),
    ("rep movs", |a| a.rep().movsd(), 3),
    ("in", |a| a.in_(ax, dx), 1),
    ("out", |a| a.out(dx, eax), 1),
    ("ins", |a| a.rep().insw(), 1),
    ("outs", |a| a.rep().outsb(), 6),
    ("push", |a| a.push(qword_ptr(rbx)), 1),
];

/// Calls that change nothing that the instructions need.
const CHANGES: [(&str, Change); 8] = [
    ("KVM_SET_REGS", |rig| rig.machine.change_regs(|_| ())),
    ("flags and another register", |rig| {
        rig.machine.change_regs(|r| r.r15 = 0);
    }),
    ("KVM_SET_SREGS", |rig| {
        let sregs = rig.machine.sregs();
        rig.machine.set_sregs(&sregs);
    }),
    ("KVM_SET_FPU", |rig| {
        let fd = rig.machine.cpu.fd();
        let fpu = fd.get_fpu().expect("KVM_GET_FPU");
        fd.set_fpu(&fpu).expect("KVM_SET_FPU");
    }),
    ("KVM_SET_VCPU_EVENTS", |rig| {
        let fd = rig.machine.cpu.fd();
        let events = fd.get_vcpu_events().expect("KVM_GET_VCPU_EVENTS");
        fd.set_vcpu_events(&events).expect("KVM_SET_VCPU_EVENTS");
    }),
    ("maps", |rig| {
        let map = rig.machine.vm.maps(RAM, 1).expect("maps")[0];
        let other = map.rotate_left(20);
        // The third sub-page and those behind it stay as they are.
        let new = (map & !3) | (other & 2);
        rig.machine.vm.set_maps(RAM, &[new]).expect("maps");
    }),
    ("a slot", |rig| {
        let memory = Mapping::anonymous(PAGE, PAGE);
        add_slot(&rig.machine.vm, 5, ELSEWHERE, &memory, 0).expect("a slot");
        set_slot(&rig.machine.vm, 5, 0, &memory, 0, 0).expect("no slot");
    }),
    ("the same table entry", |rig| rig.set_entry(0, rig.entry(0))),
];

/// Runs to HLT, with a change before each answer.
fn run(rig: &mut Rig, change: Change) -> (Vec<Access>, State) {
    rig.machine.restart();
    rig.fill();
    start(rig);
    for _ in 0..MOST_EXITS {
        let stop = rig.machine.run();
        if stop == Stop::Hlt {
            return (rig.log(), rig.state());
        }
        change(rig);
        assert!(rig.bus.serve(&mut rig.machine, &stop), "{stop:x?}");
    }
    panic!("asked again and again: {:?}", rig.log());
}

fn nothing_that_counts(lab: &Lab) {
    for (name, emit, exits) in QUESTIONS {
        let mut rig = rig(lab, emit);
        let (log, state) = run(&mut rig, |_| ());
        assert!(log.len() >= exits, "{name}: {log:?}");
        for (what, change) in CHANGES {
            let (found, now) = run(&mut rig, change);
            assert_eq!(found, log, "{name}, {what}");
            assert_eq!(now.difference(&state), None, "{name}, {what}");
        }
    }
}

/// Bytes of the device from `offset` on.
fn device(offset: usize, len: usize) -> Vec<u8> {
    contents(2)[offset..offset + len].to_vec()
}

fn read(offset: usize, len: usize) -> Access {
    Access::Read(HOLE + offset as u64, device(offset, len))
}

/// Runs to the question of a device, and answers it.
fn answer(rig: &mut Rig) {
    let stop = rig.machine.run();
    assert!(rig.bus.serve(&mut rig.machine, &stop), "{stop:x?}");
}

fn destination_in_a_register(lab: &Lab) {
    let mut rig = rig(lab, |a| a.movsq());
    answer(&mut rig);
    rig.machine.change_regs(|r| r.rdi += 0x100);
    let before = rig.machine.read(RAM + 0x200, 8);
    assert_eq!(rig.log_until_hlt(), [read(8, 8)]);
    assert_eq!(rig.machine.read(RAM + 0x300, 8), device(8, 8));
    assert_eq!(rig.machine.read(RAM + 0x200, 8), before);
    assert_eq!(rig.machine.regs().rdi, MEMORY + 0x308);
}

/// Another register of the device is another question.
fn source_in_a_register(lab: &Lab) {
    let mut rig = rig(lab, |a| a.movsq());
    answer(&mut rig);
    rig.machine.change_regs(|r| r.rsi += 0x10);
    assert_eq!(rig.log_until_hlt(), [read(8, 8), read(0x18, 8)]);
    assert_eq!(rig.machine.read(RAM + 0x200, 8), device(0x18, 8));
    assert_eq!(rig.machine.regs().rsi, WINDOW + 0x20);
}

/// Changes the guest's page tables, and invalidates translations: a processor may use
/// those of an unfinished instruction until then, and so does the emulator.
fn remap(rig: &Rig, pages: &[Page]) {
    rig.map(pages);
    let sregs = rig.machine.sregs();
    rig.machine.set_sregs(&sregs);
}

fn destination_in_the_page_table(lab: &Lab) {
    let mut rig = rig(lab, |a| a.movsq());
    answer(&mut rig);
    remap(&rig, &[Page::Device(0), Page::Device(1), Page::Ram(1)]);
    let before = rig.machine.read(RAM + 0x200, 8);
    assert_eq!(rig.log_until_hlt(), [read(8, 8)]);
    assert_eq!(rig.machine.read(RAM + PAGE_SIZE + 0x200, 8), device(8, 8));
    assert_eq!(rig.machine.read(RAM + 0x200, 8), before);
}

fn source_in_the_page_table(lab: &Lab) {
    let mut rig = rig(lab, |a| a.movsq());
    answer(&mut rig);
    remap(&rig, &[Page::Device(1)]);
    assert_eq!(rig.log_until_hlt(), [read(8, 8), read(PAGE + 8, 8)]);
    assert_eq!(rig.machine.read(RAM + 0x200, 8), device(PAGE + 8, 8));
}

/// CR3 names other tables, in which the destination is another page.
fn destination_in_other_tables(lab: &Lab) {
    let mut rig = rig(lab, |a| a.movsq());
    let tables = [0, 1, 2, 3].map(|n| RAM + (n + 8) * PAGE_SIZE);
    let machine = &rig.machine;
    let [root, pointers, directory, pages] = tables;
    machine.write(pointers, &machine.read(TABLES + PAGE_SIZE, PAGE));
    machine.set_qword(root, pointers | P | W);
    machine.set_qword(pointers + 8, directory | P | W);
    machine.set_qword(directory, pages | P | W);
    for (n, page) in [(0, Page::Device(0)), (2, Page::Ram(1))] {
        machine.set_qword(pages + 8 * n, page.gpa() | P | W);
    }
    answer(&mut rig);
    let mut sregs = rig.machine.sregs();
    sregs.cr3 = root;
    rig.machine.set_sregs(&sregs);
    let before = rig.machine.read(RAM + 0x200, 8);
    assert_eq!(rig.log_until_hlt(), [read(8, 8)]);
    assert_eq!(rig.machine.read(RAM + PAGE_SIZE + 0x200, 8), device(8, 8));
    assert_eq!(rig.machine.read(RAM + 0x200, 8), before);
}

/// The source has become memory; when it is a device again, that is asked again.
fn answer_that_was_not_used(lab: &Lab) {
    let mut rig = rig(lab, |a| a.movsq());
    answer(&mut rig);
    remap(&rig, &[Page::Ram(1)]);
    let memory = rig.machine.read(RAM + PAGE_SIZE + 8, 8);
    assert_eq!(rig.log_until_hlt(), [read(8, 8)]);
    assert_eq!(rig.machine.read(RAM + 0x200, 8), memory);
    remap(&rig, &[Page::Device(0)]);
    rig.bus.registers_mut()[8..16].copy_from_slice(&[0x99; 8]);
    start(&rig);
    rig.machine.change_regs(|r| r.rip = CODE);
    let again = Access::Read(HOLE + 8, vec![0x99; 8]);
    assert_eq!(rig.log_until_hlt(), [again]);
    assert_eq!(rig.machine.read(RAM + 0x200, 8), [0x99; 8]);
}

/// Of the sub-pages that the instruction writes, both must allow it when it writes.
fn map_that_denies_another_place(lab: &Lab) {
    let mut rig = rig(lab, |a| a.movsq());
    rig.machine.change_regs(|r| r.rdi = MEMORY + 0x27c);
    answer(&mut rig);
    let before = rig.machine.read(RAM, PAGE);
    for sub_page in [4, 5] {
        let map = !(1 << sub_page);
        rig.machine.vm.set_maps(RAM, &[map]).expect("maps");
        let exit = rig.machine.expect_spp();
        assert_eq!((exit.denied, exit.map), (1 << sub_page, map));
        assert!(rig.machine.read(RAM, PAGE) == before);
    }
    rig.machine.vm.set_maps(RAM, &[3 << 4]).expect("maps");
    assert_eq!(rig.log_until_hlt(), [read(8, 8)]);
    assert_eq!(rig.machine.read(RAM + 0x27c, 8), device(8, 8));
}

/// What the port has given goes to the device that is there now.
fn destination_of_a_port_is_no_memory_any_more(lab: &Lab) {
    let mut rig = rig(lab, |a| a.rep().insb());
    let memory = Mapping::anonymous(PAGE, PAGE);
    add_slot(&rig.machine.vm, 1, HOLE + PAGE_SIZE, &memory, 0).expect("a slot");
    rig.machine
        .change_regs(|r| (r.rdi, r.rcx) = (WINDOW + PAGE_SIZE, 5));
    let stop = rig.machine.run();
    set_slot(&rig.machine.vm, 1, 0, &memory, 0, 0).expect("no slot");
    assert!(rig.bus.serve(&mut rig.machine, &stop), "{stop:x?}");
    let log = rig.log_until_hlt();
    let told = |n: usize| Access::Write(HOLE + PAGE_SIZE + n as u64, vec![stream(n as u32 + 1)]);
    let [Access::In(_, data), writes @ ..] = &log[..] else {
        panic!("{log:?}");
    };
    assert_eq!((data.len(), memory.read(0)), (5, 0));
    assert_eq!(*writes, [0, 1, 2, 3, 4].map(told));
}

/// The write is made when its first part is told.
fn memory_between_two_parts_of_a_write(lab: &Lab) {
    let mut rig = rig(lab, |a| a.movups(xmmword_ptr(rbx), xmm3));
    let memory = Mapping::anonymous(PAGE, PAGE);
    let first = rig.machine.run();
    assert!(first.is_mmio(HOLE + 0x40), "{first:x?}");
    add_slot(&rig.machine.vm, 1, HOLE, &memory, 0).expect("a slot");
    let second = rig.machine.run();
    assert!(second.is_mmio(HOLE + 0x48), "{second:x?}");
    rig.machine.expect_hlt();
    assert!(memory.read_bytes(0, PAGE).iter().all(|byte| *byte == 0));
}

/// The code is gone when the device has answered, and comes back.
fn code_is_taken_away(lab: &Lab) {
    for (name, emit, _) in QUESTIONS {
        let mut rig = rig(lab, emit);
        let code = Mapping::anonymous(PAGE, PAGE);
        code.write_bytes(0, &rig.machine.program.code);
        let at = HOLE + 3 * PAGE_SIZE;
        add_slot(&rig.machine.vm, 1, at, &code, 0).expect("a slot");
        rig.map(&[0, 1, 4, 3].map(|n| match n {
            4 => Page::Ram(0),
            n => Page::Device(n),
        }));
        let to_code = |r: &mut kvm_regs| r.rip = WINDOW + 3 * PAGE_SIZE;
        rig.machine.change_regs(to_code);
        let log = rig.log_until_hlt();
        let state = rig.state();
        rig.fill();
        start(&rig);
        rig.machine
            .change_regs(|r| (r.rsp, r.rflags) = (guest::STACK, 2));
        rig.machine.change_regs(to_code);
        answer(&mut rig);
        set_slot(&rig.machine.vm, 1, 0, &code, 0, 0).expect("no slot");
        for _ in 0..2 {
            let stop = rig.run();
            assert_eq!(stop, Stop::Emulate(vec![]), "{name}");
        }
        add_slot(&rig.machine.vm, 1, at, &code, 0).expect("a slot");
        assert_eq!(rig.log_until_hlt(), log, "{name}");
        let mut now = rig.state();
        now.regs.rflags &= !RF;
        assert_eq!(now.difference(&state), None, "{name}");
    }
}

/// The instruction is finished first, and `immediate_exit` says so.
fn event_before_the_answer(lab: &Lab) {
    for stop in [false, true] {
        let mut rig = rig(lab, |a| {
            a.mov(eax, dword_ptr(rbx))?;
            a.nop()
        });
        answer(&mut rig);
        assert_eq!(raw::number(rig.machine.cpu.fd(), KVM_NMI, 0), Ok(0));
        if stop {
            rig.machine.set_immediate_exit(true);
            assert_eq!(rig.machine.run(), Stop::Error(EINTR));
            rig.machine.set_immediate_exit(false);
        }
        let event = rig.machine.expect_event(2);
        let nop = rig.machine.program.instructions().nth(1);
        assert_eq!(Some(event.rip), nop);
        assert_eq!(rig.log_until_hlt(), [read(0x40, 4)]);
        let loaded = device(0x40, 4);
        assert_eq!(rig.machine.regs().rax.to_le_bytes()[..4], loaded);
    }
}
