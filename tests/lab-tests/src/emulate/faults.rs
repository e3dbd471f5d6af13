// SPDX-License-Identifier: GPL-2.0

//! Exceptions of emulated instructions, page-table flags, and what cannot be emulated.

use super::bus::Access;
use super::rig::{Page, Rig, P, PAGES, RAM, U, W, WINDOW};
use crate::harness::{tests, Lab};
use crate::machine::{Assembled, Event, Stop, HOLE};
use guest::asm::*;
use guest::{CODE, PAGE_SIZE, SCRATCH, TABLES};

tests![
    second_page_is_missing,
    second_page_is_read_only,
    second_page_has_reserved_bits,
    second_page_is_the_supervisors,
    push_finds_no_stack,
    push_finds_no_canonical_stack,
    destination_is_not_canonical,
    repeated_copy_faults_in_the_middle,
    division_by_a_device,
    accessed_and_dirty_flags,
    flags_of_every_level,
    instruction_is_cut_off,
    instruction_is_cut_off_meanwhile,
    fault_keeps_the_answer,
    what_cannot_be_emulated,
];

/// RFLAGS.RF.
const RF: u64 = 1 << 16;
/// Accessed, and dirty.
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;

type Emit = fn(&mut CodeAssembler) -> Assembled;

/// A guest with a device as the first page of its window, and a stack for handlers.
fn rig(lab: &Lab, emit: Emit) -> Rig {
    let rig = Rig::new(lab, emit);
    rig.machine.use_handler_stack();
    rig.map(&[Page::Device(0), Page::Ram(0), Page::Ram(1), Page::Ram(2)]);
    rig.machine.change_regs(|r| {
        r.rbx = WINDOW + PAGE_SIZE - 2;
        (r.rsi, r.rdi) = (WINDOW, WINDOW + PAGE_SIZE);
    });
    rig
}

/// Instructions with 4 bytes or more on both pages, and the error code's write bit.
const CROSSING: [(&str, Emit, u64); 9] = [
    ("load", |a| a.mov(eax, dword_ptr(rbx)), 0),
    ("store", |a| a.mov(dword_ptr(rbx), eax), 2),
    ("add", |a| a.add(dword_ptr(rbx), eax), 2),
    ("cmp", |a| a.cmp(dword_ptr(rbx), eax), 0),
    ("xchg", |a| a.xchg(dword_ptr(rbx), eax), 2),
    ("lock xadd", |a| a.lock().xadd(qword_ptr(rbx), rax), 2),
    ("movups load", |a| a.movups(xmm0, xmmword_ptr(rbx)), 0),
    ("movups store", |a| a.movups(xmmword_ptr(rbx), xmm0), 2),
    ("cmpxchg", |a| a.cmpxchg(word_ptr(rbx + 1), cx), 2),
];

/// Runs until a fault of an instruction at CODE that has changed nothing.
fn expect_fault(rig: &mut Rig, vector: u8, what: &str) -> Event {
    let before = rig.machine.regs();
    let memory = rig.state();
    let stop = rig.run();
    let Stop::Event(event) = stop else {
        panic!("{what}: {stop:x?}, {:?}", rig.log());
    };
    assert_eq!((event.vector, event.rip), (vector, CODE), "{what}");
    assert_eq!(event.rflags & !RF, before.rflags, "{what}");
    assert_ne!(event.rflags & RF, 0, "{what}: RF is set by faults");
    let mut now = rig.state();
    now.regs = memory.regs;
    let regs = rig.machine.regs();
    for (name, a, b) in [
        ("rax", regs.rax, before.rax),
        ("rcx", regs.rcx, before.rcx),
        ("rbx", regs.rbx, before.rbx),
        ("rsi", regs.rsi, before.rsi),
        ("rdi", regs.rdi, before.rdi),
    ] {
        assert_eq!(a, b, "{what}: {name}");
    }
    assert_eq!(now.difference(&memory), None, "{what}");
    event
}

/// Sets the entry of the second page, and expects a page fault at its first byte.
fn second_page(lab: &Lab, entry: u64, reads: bool, present: u64) {
    for (name, emit, write) in CROSSING {
        let mut rig = rig(lab, emit);
        rig.set_entry(1, entry);
        if !reads && write == 0 {
            let stop = rig.run();
            assert_eq!(stop, Stop::Hlt, "{name}");
            continue;
        }
        let event = expect_fault(&mut rig, 14, name);
        assert_eq!(event.error, write | present, "{name}");
        assert_eq!(rig.machine.sregs().cr2, WINDOW + PAGE_SIZE, "{name}");
        // KVM finds out about writes when it has read.
        if reads || lab.is_ours() {
            assert_eq!(rig.log(), [], "{name}: no device was asked");
        }
    }
}

fn second_page_is_missing(lab: &Lab) {
    second_page(lab, RAM | W | U, true, 0);
}

fn second_page_is_read_only(lab: &Lab) {
    second_page(lab, RAM | P | U, false, 1);
}

fn second_page_has_reserved_bits(lab: &Lab) {
    second_page(lab, RAM | P | W | U | (1 << 50), true, 9);
}

fn second_page_is_the_supervisors(lab: &Lab) {
    for (name, emit, write) in CROSSING {
        let mut rig = rig(lab, emit);
        rig.machine.open_to_user();
        // The second GiB, that of the window.
        let entry = rig.machine.qword(TABLES + PAGE_SIZE + 8);
        rig.machine.set_qword(TABLES + PAGE_SIZE + 8, entry | U);
        rig.set_entry(1, RAM | P | W);
        rig.machine.become_user();
        let event = expect_fault(&mut rig, 14, name);
        assert_eq!(event.error, P | U | write, "{name}");
        assert_eq!(rig.machine.sregs().cr2, WINDOW + PAGE_SIZE, "{name}");
        assert_eq!(rig.log(), [], "{name}: no device was asked");
    }
}

/// The device has been asked in KVM, but not here.
fn assert_asked_by_kvm(lab: &Lab, rig: &mut Rig, access: &str) {
    let log = rig.log();
    let expected = usize::from(!lab.is_ours());
    assert_eq!(log.len(), expected, "{access}: {log:?}");
}

fn push_finds_no_stack(lab: &Lab) {
    let mut rig = rig(lab, |a| a.push(qword_ptr(rsi)));
    rig.set_entry(2, RAM | P | U);
    rig.machine
        .change_regs(|r| r.rsp = WINDOW + 2 * PAGE_SIZE + 8);
    let event = expect_fault(&mut rig, 14, "push");
    assert_eq!(event.error, 3);
    assert_eq!(rig.machine.sregs().cr2, WINDOW + 2 * PAGE_SIZE);
    let pushed = rig.machine.qword(event.frame + 24);
    assert_eq!(pushed, WINDOW + 2 * PAGE_SIZE + 8);
    assert_asked_by_kvm(lab, &mut rig, "push");
}

fn push_finds_no_canonical_stack(lab: &Lab) {
    let mut rig = rig(lab, |a| a.push(qword_ptr(rsi)));
    rig.machine.change_regs(|r| r.rsp = 0x8000_0000_0000_0008);
    let event = expect_fault(&mut rig, 12, "push");
    assert_eq!(event.error, 0);
    assert_asked_by_kvm(lab, &mut rig, "push");
}

fn destination_is_not_canonical(lab: &Lab) {
    let mut rig = rig(lab, |a| a.movsq());
    rig.machine.change_regs(|r| r.rdi = 0x8000_0000_0000);
    let event = expect_fault(&mut rig, 13, "movs");
    assert_eq!(event.error, 0);
    assert_asked_by_kvm(lab, &mut rig, "movs");
}

/// Elements before the fault are done, and only for these has the device been asked.
fn repeated_copy_faults_in_the_middle(lab: &Lab) {
    let mut rig = rig(lab, |a| a.rep().movsw());
    rig.set_entry(2, 0);
    let last = WINDOW + 2 * PAGE_SIZE;
    rig.machine.change_regs(|r| (r.rdi, r.rcx) = (last - 5, 10));
    let stop = rig.run();
    let Stop::Event(event) = stop else {
        panic!("{stop:x?}");
    };
    assert_eq!((event.vector, event.error, event.rip), (14, 2, CODE));
    assert_ne!(event.rflags & RF, 0);
    assert_eq!(rig.machine.sregs().cr2, last);
    let regs = rig.machine.regs();
    let expected = (WINDOW + 4, last - 1, 8);
    assert_eq!((regs.rsi, regs.rdi, regs.rcx), expected);
    let whole = super::bus::contents(1);
    let mut stored = whole[..4].to_vec();
    // KVM stores the first byte of an element whose second it cannot store.
    let next = if lab.is_ours() {
        whole[0xfff]
    } else {
        whole[4]
    };
    stored.push(next);
    assert_eq!(rig.machine.read(RAM + 0xffb, 5), stored);
    let reads = if lab.is_ours() { 2 } else { 3 };
    assert_eq!(rig.log().len(), reads);
    // The page comes, the instruction goes on, and no answer was lost.
    rig.map(&[Page::Device(0), Page::Ram(0), Page::Ram(1)]);
    assert_eq!(rig.log_until_hlt().len(), 8);
    assert_eq!(rig.machine.read(RAM + 0xffb, 20), whole[..20]);
}

fn division_by_a_device(lab: &Lab) {
    let mut rig = rig(lab, |a| a.div(dword_ptr(rsi)));
    rig.bus.registers_mut()[..4].fill(0);
    expect_fault(&mut rig, 0, "div");
    assert_eq!(rig.log(), [Access::Read(HOLE, vec![0; 4])]);
}

/// The processor has translated the source when it leaves the guest, but not the
/// destination.
fn accessed_and_dirty_flags(lab: &Lab) {
    let rows: [(&str, Emit, u64); 6] = [
        ("movs", |a| a.movsq(), A | D),
        ("cmps", |a| a.cmpsq(), A),
        ("push", |a| a.push(qword_ptr(rsi)), A | D),
        ("pop", |a| a.pop(qword_ptr(rsi)), A),
        ("rep movs", |a| a.rep().movsb(), A | D),
        ("crossing store", |a| a.mov(dword_ptr(rbx), eax), A | D),
    ];
    for (name, emit, flags) in rows {
        let mut rig = rig(lab, emit);
        rig.machine.change_regs(|r| {
            (r.rcx, r.rsp) = (2, WINDOW + PAGE_SIZE + 0x100);
        });
        assert_eq!(rig.run(), Stop::Hlt, "{name}");
        assert_eq!(rig.entry(1) & (A | D), flags, "{name}");
        assert_eq!(rig.entry(2) & (A | D), 0, "{name}: not touched");
    }
}

/// A destination of whose tables the processor has seen but the first.
fn flags_of_every_level(lab: &Lab) {
    let mut rig = rig(lab, |a| a.movsq());
    let (directory_entry, entry) = (TABLES + PAGE_SIZE + 16, TABLES + 4 * PAGE_SIZE);
    // A large page in the third GiB is the first memory.
    rig.machine.set_qword(entry, P | W | (1 << 7));
    rig.machine.change_regs(|r| r.rdi = (2 << 30) + SCRATCH);
    assert_eq!(rig.machine.qword(directory_entry) & (A | D), 0);
    let log = rig.log_until_hlt();
    assert_eq!(log.len(), 1);
    assert_eq!(rig.machine.qword(directory_entry) & (A | D), A);
    assert_eq!(rig.machine.qword(entry) & (A | D), A | D);
    let Access::Read(_, data) = &log[0] else {
        panic!("{log:?}");
    };
    assert_eq!(rig.machine.read(SCRATCH, 8), *data);
}

/// `mov eax, [rbx + disp32]` with two bytes on each side of the border before `page`.
fn put_cut_instruction(rig: &Rig, page: u64) {
    let code = [0x8b, 0x83, 0, 0, 0, 0, 0xf4];
    let at = RAM + (page - 1) * PAGE_SIZE - 2;
    rig.machine.write(at, &code);
}

/// The processor has a page of code in its TLB that page tables do not have any more:
/// it can execute the instruction, but who emulates it cannot.
fn instruction_is_cut_off(lab: &Lab) {
    let border = WINDOW + 2 * PAGE_SIZE;
    let mut rig = rig(lab, |a| {
        a.mov(rax, qword_ptr(PAGES + 16))?;
        a.mov(qword_ptr(PAGES + 16), rax)?;
        // A RET there.
        a.mov(rax, WINDOW + 2 * PAGE_SIZE + 0x80)?;
        a.call(rax)?;
        a.and(qword_ptr(PAGES + 16), -2)?;
        a.mov(rbx, WINDOW)?;
        a.mov(rax, WINDOW + 2 * PAGE_SIZE - 2)?;
        a.jmp(rax)
    });
    put_cut_instruction(&rig, 2);
    rig.machine.write(RAM + PAGE_SIZE + 0x80, &[0xc3]);
    let stop = rig.run();
    let Stop::Event(event) = stop else {
        panic!("{stop:x?}");
    };
    assert_eq!((event.vector, event.error, event.rip), (14, 0, border - 2));
    assert_eq!(rig.machine.sregs().cr2, border);
    assert_eq!(rig.log(), []);
    rig.map(&[Page::Device(0), Page::Ram(0), Page::Ram(1)]);
    assert_eq!(rig.log_until_hlt().len(), 1);
}

/// A guest at an instruction that is cut by a page boundary, whose second page goes away
/// when the device has answered.
fn cut_meanwhile(lab: &Lab) -> (Rig, u64) {
    let border = WINDOW + 2 * PAGE_SIZE;
    let mut rig = rig(lab, |a| a.nop());
    put_cut_instruction(&rig, 2);
    rig.machine
        .change_regs(|r| (r.rip, r.rbx) = (border - 2, WINDOW));
    assert_eq!(rig.machine.run(), Stop::MmioRead(HOLE, 4));
    rig.machine.answer_mmio(&[0x44, 0x33, 0x22, 0x11]);
    rig.set_entry(2, 0);
    (rig, border)
}

/// The instruction is finished, and the next one cannot be fetched.
fn instruction_is_cut_off_meanwhile(lab: &Lab) {
    let (mut rig, border) = cut_meanwhile(lab);
    let event = rig.machine.expect_event(14);
    assert_eq!((event.error, event.rip), (0, border + 4));
    assert_eq!(rig.machine.sregs().cr2, border + 4);
    assert_eq!(rig.machine.regs().rax, 0x1122_3344);
}

/// User space sets registers, so that the instruction starts over: its fault comes, and
/// when it is repeated, the device is not asked again.
fn fault_keeps_the_answer(lab: &Lab) {
    lab.only_ours("KVM does not look at the instruction again");
    let (mut rig, border) = cut_meanwhile(lab);
    rig.machine.change_regs(|r| r.rcx = 5);
    let event = rig.machine.expect_event(14);
    assert_eq!((event.error, event.rip), (0, border - 2));
    assert_eq!(rig.machine.sregs().cr2, border);
    rig.map(&[Page::Device(0), Page::Ram(0), Page::Ram(1)]);
    assert_eq!(rig.log_until_hlt(), [], "the device was asked before");
    assert_eq!(rig.machine.regs().rax, 0x1122_3344);
}

/// User space gets the bytes, and nothing has happened.
fn what_cannot_be_emulated(lab: &Lab) {
    let in_kvm: [(&str, Emit); 3] = [
        ("paddb", |a| a.paddb(xmm0, xmmword_ptr(rsi))),
        ("fld", |a| a.fld(dword_ptr(rsi))),
        ("fistp", |a| a.fistp(dword_ptr(rsi))),
    ];
    let ours: [(&str, Emit); 7] = [
        ("fxsave", |a| a.fxsave(ptr(rsi))),
        ("xsave", |a| a.xsave(ptr(rsi))),
        ("fnstcw", |a| a.fnstcw(word_ptr(rsi))),
        ("stmxcsr", |a| a.stmxcsr(dword_ptr(rsi))),
        ("movntq", |a| a.movntq(qword_ptr(rsi), mm0)),
        ("lgdt", |a| a.lgdt(fword_ptr(rsi))),
        ("pop m from it to ds", |a| a.mov(ds, word_ptr(rsi))),
    ];
    let ours = ours.into_iter().filter(|_| lab.is_ours());
    for (name, emit) in in_kvm.into_iter().chain(ours) {
        let mut rig = rig(lab, emit);
        let len = rig.machine.program.len_at(CODE).expect("length");
        let before = rig.state();
        for _ in 0..1 + u32::from(lab.is_ours()) {
            let stop = rig.run();
            let Stop::Emulate(bytes) = stop else {
                panic!("{name}: {stop:x?}, {:?}", rig.log());
            };
            assert_eq!(bytes.len(), 15, "{name}");
            assert_eq!(bytes, rig.machine.read(CODE, 15), "{name}");
            let mut now = rig.state();
            // KVM has #UD wait, in case that nobody cares.
            now.regs.rflags &= !RF;
            assert_eq!(now.difference(&before), None, "{name}");
        }
        rig.machine.cpu.skip(len).expect("skip");
        assert_eq!(rig.log_until_hlt(), [], "{name}");
    }
}
