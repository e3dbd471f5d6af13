// SPDX-License-Identifier: GPL-2.0

//! Writes that lie across the border of two sub-pages of one page: allowed only
//! where both are (SDM 3C 29.3.4.2), and no byte changes where one is not.
//!
//! ```text
//!            sub-page 3       border       sub-page 4
//!   ───────────────┬────────────┼────────────┬──────────────
//!                  │<── before ─┼─── rest ──>│   one write
//! ```

use crate::harness::{tests, Lab};
use crate::machine::{Assembled, Machine, Stop};
use guest::asm::*;
use guest::{DATA, PAGE_SIZE, SCRATCH, SUBPAGE_SIZE};
use ioctl_api::subpage::FULL;
use kvm_bindings::kvm_regs;

tests![
    second_sub_page_denied,
    first_sub_page_denied,
    both_denied,
    repeated_store_across_the_border,
    a_write_that_ends_at_the_border,
    page_without_a_map,
];

/// The sub-page below the border, and the border.
const FIRST: u32 = 3;
const BORDER: u64 = DATA + (FIRST as u64 + 1) * SUBPAGE_SIZE;

/// RFLAGS.RF.
const RF: u64 = 1 << 16;

/// A write of one piece: its name, its bytes, and the instruction, which writes
/// to where RBX and RDI point, or pushes from RSP = RBX + its bytes.
type Kind = (&'static str, u64, fn(&mut CodeAssembler) -> Assembled);

const KINDS: &[Kind] = &[
    ("mov word", 2, |a| a.mov(word_ptr(rbx), ax)),
    ("mov dword", 4, |a| a.mov(dword_ptr(rbx), 0x5a5a_5a5a)),
    ("mov qword", 8, |a| a.mov(qword_ptr(rbx), rax)),
    ("movnti", 8, |a| a.movnti(qword_ptr(rbx), rax)),
    ("movups", 16, |a| a.movups(xmmword_ptr(rbx), xmm0)),
    ("fnstcw", 2, |a| a.fnstcw(word_ptr(rbx))),
    ("stmxcsr", 4, |a| a.stmxcsr(dword_ptr(rbx))),
    ("stosd", 4, |a| a.stosd()),
    ("stosq", 8, |a| a.stosq()),
    ("movsq", 8, |a| a.movsq()),
    ("pop", 8, |a| a.pop(qword_ptr(rbx))),
    ("push", 8, |a| a.push(rax)),
    ("pushfq", 8, |a| a.pushfq()),
    // Read first, then written.
    ("inc", 8, |a| a.inc(qword_ptr(rbx))),
    ("add", 2, |a| a.add(word_ptr(rbx), ax)),
    ("not", 4, |a| a.not(dword_ptr(rbx))),
    ("btc", 4, |a| a.btc(dword_ptr(rbx), 31)),
    ("xchg", 8, |a| a.xchg(qword_ptr(rbx), rax)),
    ("lock xadd", 4, |a| a.lock().xadd(dword_ptr(rbx), eax)),
    ("lock or", 8, |a| a.lock().or(qword_ptr(rbx), 0x7e)),
    ("shl", 8, |a| a.shl(qword_ptr(rbx), 1)),
];

fn machine(lab: &Lab, emit: fn(&mut CodeAssembler) -> Assembled) -> Machine {
    Machine::spp(lab, |a| {
        emit(a)?;
        a.hlt()
    })
}

/// Registers for any of the kinds.
fn arm(regs: &mut kvm_regs, name: &str, at: u64, bytes: u64) {
    regs.rax = 0x0123_4567_89ab_cdef;
    (regs.rbx, regs.rdi, regs.rsi) = (at, at, SCRATCH);
    if name.starts_with("push") {
        regs.rsp = at + bytes;
    }
}

/// Runs every kind at every place across the border under `map`, which must deny
/// it with `denied` at the byte that `gpa` gives; then lets it happen.
fn each_kind(lab: &Lab, map: u32, denied: u32, gpa: impl Fn(u64) -> u64) {
    for &(name, bytes, emit) in KINDS {
        let mut machine = machine(lab, emit);
        for at in BORDER - bytes + 1..BORDER {
            let what = format!("{name}, {} bytes before the border", BORDER - at);
            machine.vm.set_maps(DATA, &[map]).expect("maps");
            machine.write(DATA, &[0x81; PAGE_SIZE as usize]);
            machine.restart();
            machine.change_regs(|r| arm(r, name, at, bytes));
            let regs = machine.regs();
            let exit = machine.expect_spp();
            assert_eq!((exit.gpa, exit.denied), (gpa(at), denied), "{what}");
            // A fault sets RFLAGS.RF in the image of RFLAGS (SDM 3C 28.3.3).
            let mut now = machine.regs();
            now.rflags &= !RF;
            assert_eq!(now, regs, "{what}: registers change");
            assert_eq!(changed(&machine), None, "{what}");
            machine.vm.set_maps(DATA, &[FULL]).expect("maps");
            assert_eq!(machine.run(), Stop::Hlt, "{what}");
            let (first, last) = changed(&machine).expect("a change when allowed");
            assert!(
                first >= at && last < at + bytes,
                "{what}: {first:#x}..={last:#x}"
            );
        }
    }
}

/// The first and the last byte of the page that are not as [`each_kind`] wrote them.
fn changed(machine: &Machine) -> Option<(u64, u64)> {
    let page = machine.read(DATA, PAGE_SIZE as usize);
    let first = page.iter().position(|b| *b != 0x81)? as u64;
    let last = page.iter().rposition(|b| *b != 0x81)? as u64;
    Some((DATA + first, DATA + last))
}

fn second_sub_page_denied(lab: &Lab) {
    lab.needs_spp();
    each_kind(lab, !(2 << FIRST), 2 << FIRST, |_| BORDER);
}

fn first_sub_page_denied(lab: &Lab) {
    lab.needs_spp();
    each_kind(lab, !(1 << FIRST), 1 << FIRST, |at| at);
}

/// Either of the two, or both, may be told as denied.
fn both_denied(lab: &Lab) {
    lab.needs_spp();
    let mut machine = machine(lab, |a| a.mov(qword_ptr(rbx), rax));
    for at in BORDER - 7..BORDER {
        machine.vm.set_maps(DATA, &[!(3 << FIRST)]).expect("maps");
        machine.restart();
        machine.change_regs(|r| (r.rax, r.rbx) = (u64::MAX, at));
        let exit = machine.expect_spp();
        assert_ne!(exit.denied & (3 << FIRST), 0);
        assert_eq!(exit.denied & !(3 << FIRST), 0);
        assert!((at..at + 8).contains(&exit.gpa));
        // Allowing one of them is not enough.
        machine.vm.set_maps(DATA, &[!(2 << FIRST)]).expect("maps");
        assert_eq!(machine.expect_spp().denied, 2 << FIRST);
        assert_eq!(machine.read(BORDER - 8, 16), [0; 16]);
    }
}

/// REP STOS whose elements are not aligned: it stops before the one that would
/// reach the denied sub-page.
fn repeated_store_across_the_border(lab: &Lab) {
    lab.needs_spp();
    let mut machine = machine(lab, |a| a.rep().stosq());
    let start = BORDER - 44;
    machine.vm.set_maps(DATA, &[!(2 << FIRST)]).expect("maps");
    machine.change_regs(|r| (r.rdi, r.rcx, r.rax) = (start, 10, u64::MAX));
    let exit = machine.expect_spp();
    assert_eq!((exit.gpa, exit.denied), (BORDER, 2 << FIRST));
    let regs = machine.regs();
    assert_eq!((regs.rdi, regs.rcx), (start + 40, 5));
    assert_eq!(machine.read(start, 40), [0xff; 40]);
    assert_eq!(machine.read(start + 40, 40), [0; 40]);
    machine.vm.set_maps(DATA, &[FULL]).expect("maps");
    machine.expect_hlt();
    assert_eq!(machine.read(start, 80), [0xff; 80]);
}

/// Nothing of the denied neighbour is touched, so nothing is denied.
fn a_write_that_ends_at_the_border(lab: &Lab) {
    lab.needs_spp();
    for &(name, bytes, emit) in KINDS {
        let mut machine = machine(lab, emit);
        for (at, map) in [
            (BORDER - bytes, 1 << FIRST),
            (BORDER, 2 << FIRST),
            (DATA + PAGE_SIZE - bytes, 1 << 31),
        ] {
            machine.vm.set_maps(DATA, &[map]).expect("maps");
            machine.write(DATA, &[0x81; PAGE_SIZE as usize]);
            machine.restart();
            machine.change_regs(|r| arm(r, name, at, bytes));
            assert_eq!(machine.run(), Stop::Hlt, "{name} at {at:#x}");
            assert_ne!(machine.read(at, bytes as usize), vec![0x81; bytes as usize]);
        }
    }
}

fn page_without_a_map(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(qword_ptr(rbx), rax)?;
        a.inc(qword_ptr(rbx))?;
        a.hlt()
    });
    machine.change_regs(|r| (r.rax, r.rbx) = (0x0807_0605_0403_0201, BORDER - 3));
    machine.expect_hlt();
    assert_eq!(machine.read(BORDER - 3, 8), [2, 2, 3, 4, 5, 6, 7, 8]);
}
