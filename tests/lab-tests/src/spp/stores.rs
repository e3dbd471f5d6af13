// SPDX-License-Identifier: GPL-2.0

//! What is denied, what is not, and what the exit says.

use super::{check_map, store, storer, ALL_VALID};
use crate::harness::{tests, Lab};
use crate::machine::{self, Assembled, Machine, Stop};
use guest::asm::*;
use guest::{
    StorePattern, BACKGROUND, CODE, DATA, PAGE_SIZE, SCRATCH, SUBPAGES, SUBPAGE_SIZE, TABLES,
};
use ioctl_api::subpage::{FULL, KVM_SPP_EXIT_EVENT_DELIVERY};
use kvm_bindings::kvm_regs;

tests![
    every_store_under_every_map,
    each_single_sub_page,
    payload,
    retries_are_denied_again,
    flips_under_one_vcpu,
    each_kind_of_write,
    repeated_store_stops_in_the_middle,
    reads_are_not_denied,
    execution_is_not_denied,
    page_walks_read_a_denied_page,
    gva_differs_from_gpa,
    other_pages_stay_writable,
    skipping_leaves_memory_alone,
];

/// Stores of all widths to all sub-pages, in the order of the program: an exit
/// for each that the map denies and no other.
fn every_store_under_every_map(lab: &Lab) {
    lab.needs_spp();
    let maps = [FULL, 0, 0x5555_5555, 0xaaaa_aaaa, 1, 1 << 31, 0x0ff0_1234];
    let pattern = StorePattern {
        base: DATA,
        pages: maps.len() as u64,
        scratch: SCRATCH,
    };
    let vm = machine::spp_vm(lab);
    vm.set_maps(DATA, &maps).expect("maps");
    let background = vec![BACKGROUND; maps.len() * PAGE_SIZE as usize];
    vm.write(DATA, &background).expect("memory");
    let mut machine = Machine::load(vm, pattern.program(CODE).expect("a program"));
    let allowed = |s: guest::Store| (maps[s.page as usize] >> s.subpage) & 1 != 0;
    for denied in pattern.stores().filter(|s| !allowed(*s)) {
        let exit = machine.expect_spp();
        assert_eq!(exit.gpa, pattern.address(denied), "{denied:?}");
        assert_eq!(exit.denied, 1 << denied.subpage);
        assert_eq!(exit.map, maps[denied.page as usize]);
        let len = machine.program.len_at(exit.rip).expect("an instruction");
        machine.cpu.skip(len).expect("skip");
    }
    machine.expect_hlt();
    let image = pattern.image(allowed);
    assert!(machine.read(DATA, image.len()) == image, "memory differs");
}

fn each_single_sub_page(lab: &Lab) {
    let mut machine = storer(lab);
    for n in 0..SUBPAGES {
        for map in [1 << n, !(1 << n)] {
            machine.vm.set_maps(DATA, &[map]).expect("maps");
            for edge in [n * SUBPAGE_SIZE, (n + 1) * SUBPAGE_SIZE - 1] {
                let gpa = DATA + edge;
                let value = machine.read(gpa, 1)[0] ^ 1;
                let exit = store(&mut machine, gpa, value);
                assert_eq!(exit.map(|e| e.denied), (map != 1 << n).then_some(1 << n));
            }
        }
    }
}

fn payload(lab: &Lab) {
    let mut machine = Machine::spp(lab, |a| {
        a.nop()?;
        a.mov(word_ptr(rbx + 0x284), cx)?;
        a.hlt()
    });
    let map = 0x1234_5678 & !(1 << 5);
    machine.vm.set_maps(DATA, &[map]).expect("maps");
    machine.change_regs(|r| r.rbx = DATA);
    let exit = machine.expect_spp();
    let at = CODE + 1;
    assert_eq!(exit.flags, ALL_VALID);
    assert_eq!((exit.gpa, exit.gva), (DATA + 0x284, DATA + 0x284));
    assert_eq!(exit.rip, at);
    assert_eq!(machine.regs().rip, at);
    assert_eq!((exit.denied, exit.map), (1 << 5, map));
    assert_eq!(exit.cause, lab.cause());
    assert_eq!(exit.size, 2);
    assert_eq!(
        u64::from(exit.insn_len),
        machine.program.len_at(at).expect("length")
    );
    assert_eq!(exit.insn_bytes, 15);
    assert_eq!(exit.insn[..15], machine.read(at, 15));
    assert_eq!((exit.insn[15], exit.pad), (0, 0));
    assert_eq!(exit.reserved, [0; 8]);
}

fn retries_are_denied_again(lab: &Lab) {
    let mut machine = storer(lab);
    machine.vm.set_maps(DATA, &[!1]).expect("maps");
    let first = store(&mut machine, DATA, 0x77).expect("a denial");
    let regs = machine.regs();
    for _ in 0..3 {
        assert_eq!(machine.expect_spp(), first);
        assert_eq!(machine.regs(), regs);
    }
    assert_eq!(machine.read(DATA, 1), [0]);
    machine.vm.set_maps(DATA, &[FULL]).expect("maps");
    machine.expect_hlt();
    assert_eq!(machine.read(DATA, 1), [0x77]);
}

fn flips_under_one_vcpu(lab: &Lab) {
    let mut machine = storer(lab);
    for round in 1..40_u8 {
        let n = u64::from(round) % SUBPAGES;
        let gpa = DATA + n * SUBPAGE_SIZE;
        // From all denied to one allowed, to another, to no map at all.
        for (map, allowed) in [(0, false), (1 << n, true), (!(1 << n), false), (FULL, true)] {
            machine.vm.set_maps(DATA, &[map]).expect("maps");
            let old = machine.read(gpa, 1)[0];
            let exit = store(&mut machine, gpa, old ^ 0xff);
            assert_eq!(exit.is_none(), allowed, "round {round}, map {map:#x}");
            let new = if allowed { old ^ 0xff } else { old };
            assert_eq!(machine.read(gpa, 1), [new], "round {round}, map {map:#x}");
        }
    }
}

/// RFLAGS.RF.
const RF: u64 = 1 << 16;

/// A kind of write: its name and its instruction, whose first written byte is
/// at RBX or below RSP = RBX.
type Kind = (&'static str, fn(&mut CodeAssembler) -> Assembled, u64);

const KINDS: &[Kind] = &[
    ("mov byte", |a| a.mov(byte_ptr(rbx), al), 0),
    ("mov imm", |a| a.mov(dword_ptr(rbx), 0x5a5a_5a5a), 0),
    ("mov qword", |a| a.mov(qword_ptr(rbx), rax), 0),
    ("movups", |a| a.movups(xmmword_ptr(rbx), xmm0), 0),
    ("movnti", |a| a.movnti(qword_ptr(rbx), rax), 0),
    ("movntdq", |a| a.movntdq(xmmword_ptr(rbx), xmm0), 0),
    ("setz", |a| a.setnz(byte_ptr(rbx)), 0),
    ("inc", |a| a.inc(qword_ptr(rbx)), 0),
    ("not", |a| a.not(dword_ptr(rbx)), 0),
    ("add", |a| a.add(word_ptr(rbx), ax), 0),
    ("bts", |a| a.bts(qword_ptr(rbx), 3), 0),
    ("xchg", |a| a.xchg(qword_ptr(rbx), rax), 0),
    ("lock xadd", |a| a.lock().xadd(dword_ptr(rbx), eax), 0),
    ("lock or", |a| a.lock().or(byte_ptr(rbx), 0x40), 0),
    ("cmpxchg", |a| a.cmpxchg(qword_ptr(rbx), rcx), 0),
    ("lock cmpxchg", |a| a.lock().cmpxchg(qword_ptr(rbx), rcx), 0),
    ("cmpxchg8b", |a| a.lock().cmpxchg8b(qword_ptr(rbx)), 0),
    ("stosb", |a| a.stosb(), 0),
    ("stosq", |a| a.stosq(), 0),
    ("movsq", |a| a.movsq(), 0),
    ("rep stosd", |a| a.rep().stosd(), 0),
    ("rep movsb", |a| a.rep().movsb(), 0),
    ("push", |a| a.push(rcx), 8),
    ("push imm", |a| a.push(0x1234), 8),
    ("pushfq", |a| a.pushfq(), 8),
    ("pop", |a| a.pop(qword_ptr(rbx)), 0),
    ("fnstcw", |a| a.fnstcw(word_ptr(rbx)), 0),
    ("stmxcsr", |a| a.stmxcsr(dword_ptr(rbx)), 0),
    ("fxsave", |a| a.fxsave(ptr(rbx)), 0),
    ("sgdt", |a| a.sgdt(ptr(rbx)), 0),
    ("sidt", |a| a.sidt(ptr(rbx)), 0),
];

/// Registers for any of the kinds.
fn arm(regs: &mut kvm_regs, name: &str, at: u64, below: u64) {
    (regs.rax, regs.rcx, regs.rdx) = (0x0123_4567_89ab_cdef, 6, 0);
    (regs.rbx, regs.rdi, regs.rsi) = (at, at, SCRATCH);
    if below != 0 || name.starts_with("push") {
        regs.rsp = at + below;
    }
}

fn each_kind_of_write(lab: &Lab) {
    lab.needs_spp();
    // FXSAVE needs 512 bytes: sub-pages 8 to 11, all of them denied or none.
    let at = DATA + 8 * SUBPAGE_SIZE;
    for &(name, emit, below) in KINDS {
        let mut machine = Machine::spp(lab, |a| {
            emit(a)?;
            a.hlt()
        });
        machine.vm.set_maps(DATA, &[!0xf00]).expect("maps");
        machine.set_qword(SCRATCH, 0xfeed_face_dead_beef);
        machine.change_regs(|r| arm(r, name, at, below));
        machine.write(DATA, &[0x81; PAGE_SIZE as usize]);
        let before = machine.read(DATA, PAGE_SIZE as usize);
        let regs = machine.regs();
        let exit = machine.expect_spp();
        assert_eq!((exit.gpa, exit.denied), (at, 1 << 8), "{name}");
        // A fault sets RFLAGS.RF in the image of RFLAGS (SDM 3C 28.3.3).
        let mut now = machine.regs();
        now.rflags &= !RF;
        assert_eq!(now, regs, "{name}: registers change");
        assert!(
            machine.read(DATA, PAGE_SIZE as usize) == before,
            "{name}: memory changes"
        );
        machine.vm.set_maps(DATA, &[FULL]).expect("maps");
        assert_eq!(machine.run(), Stop::Hlt, "{name}");
        // A failed compare writes back what is there.
        let changes = !name.contains("cmpxchg");
        let after = machine.read(DATA, PAGE_SIZE as usize);
        assert_eq!(after != before, changes, "{name}: not done when allowed");
    }
}

fn repeated_store_stops_in_the_middle(lab: &Lab) {
    let mut machine = Machine::spp(lab, |a| {
        a.rep().stosq()?;
        a.hlt()
    });
    // Sub-pages 0 and 1 may be written, 2 may not.
    machine.vm.set_maps(DATA, &[3]).expect("maps");
    machine.change_regs(|r| (r.rdi, r.rcx, r.rax) = (DATA, 64, u64::MAX));
    let exit = machine.expect_spp();
    assert_eq!(exit.gpa, DATA + 0x100);
    let regs = machine.regs();
    assert_eq!((regs.rip, regs.rdi, regs.rcx), (CODE, DATA + 0x100, 32));
    assert_eq!(machine.read(DATA, 0x100), [0xff; 0x100]);
    assert_eq!(machine.read(DATA + 0x100, 0x100), [0; 0x100]);
    machine.vm.set_maps(DATA, &[7]).expect("maps");
    assert_eq!(machine.expect_spp().gpa, DATA + 0x180);
    machine.vm.set_maps(DATA, &[0xf]).expect("maps");
    machine.expect_hlt();
    assert_eq!(machine.read(DATA, 0x200), [0xff; 0x200]);
    assert_eq!(machine.regs().rcx, 0);
}

fn reads_are_not_denied(lab: &Lab) {
    let mut machine = Machine::spp(lab, |a| {
        let mut again = a.create_label();
        a.mov(ecx, 512)?;
        a.mov(rsi, DATA)?;
        a.xor(edx, edx)?;
        a.set_label(&mut again)?;
        a.lodsq()?;
        a.add(rdx, rax)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.movups(xmm0, xmmword_ptr(rsi - 128))?;
        a.hlt()
    });
    machine.vm.set_maps(DATA, &[0]).expect("maps");
    for n in 0..512 {
        machine.set_qword(DATA + 8 * n, n + 1);
    }
    machine.expect_hlt();
    assert_eq!(machine.regs().rdx, 512 * 513 / 2);
}

fn execution_is_not_denied(lab: &Lab) {
    let mut machine = Machine::spp(lab, |a| {
        a.mov(rax, DATA)?;
        a.call(rax)?;
        a.hlt()
    });
    machine.vm.set_maps(DATA, &[0]).expect("maps");
    // mov ecx, 42; ret
    machine.write(DATA, &[0xb9, 42, 0, 0, 0, 0xc3]);
    machine.expect_hlt();
    assert_eq!(machine.regs().rcx, 42);
}

/// The processor sets accessed flags in paging structures: once they are set it
/// only reads them, which no map denies.
fn page_walks_read_a_denied_page(lab: &Lab) {
    let mut machine = storer(lab);
    assert_eq!(store(&mut machine, DATA, 1), None);
    machine.vm.set_maps(TABLES, &[0; 3]).expect("maps");
    assert_eq!(store(&mut machine, DATA + 1, 2), None);
    assert_eq!(machine.read(DATA, 2), [1, 2]);
    assert!(
        store(&mut machine, TABLES + 0xff8, 2).is_some(),
        "the guest's own write"
    );
}

fn gva_differs_from_gpa(lab: &Lab) {
    let mut machine = storer(lab);
    machine.vm.set_maps(DATA, &[!2]).expect("maps");
    // The second GiB, of the linear addresses, becomes the first again.
    let first_pd = machine.qword(TABLES + PAGE_SIZE);
    machine.set_qword(TABLES + PAGE_SIZE + 8, first_pd);
    let gva = (1 << 30) + DATA + 0x81;
    let exit = store(&mut machine, gva, 9).expect("a denial");
    assert_eq!((exit.gva, exit.gpa), (gva, DATA + 0x81));
    assert_eq!(exit.flags & KVM_SPP_EXIT_EVENT_DELIVERY, 0);
    assert_eq!(store(&mut machine, gva + 0x80, 9), None);
    assert_eq!(machine.read(DATA + 0x101, 1), [9]);
}

fn other_pages_stay_writable(lab: &Lab) {
    let mut machine = storer(lab);
    machine.vm.set_maps(DATA, &[0]).expect("maps");
    for page in [DATA - PAGE_SIZE, DATA + PAGE_SIZE, SCRATCH] {
        check_map(&mut machine, page, FULL);
    }
    check_map(&mut machine, DATA, 0);
}

fn skipping_leaves_memory_alone(lab: &Lab) {
    let mut machine = Machine::spp(lab, |a| {
        a.inc(qword_ptr(rbx))?;
        a.inc(qword_ptr(rbx + 0x80))?;
        a.hlt()
    });
    machine.vm.set_maps(DATA, &[2]).expect("maps");
    machine.change_regs(|r| r.rbx = DATA);
    let exit = machine.expect_spp();
    machine
        .cpu
        .skip(machine.program.len_at(exit.rip).expect("length"))
        .expect("skip");
    machine.expect_hlt();
    assert_eq!((machine.qword(DATA), machine.qword(DATA + 0x80)), (0, 1));
}
