// SPDX-License-Identifier: GPL-2.0

//! What the host does to the page behind an emulated write: it has to be copied, cannot be
//! written, is missing, or is another one.
//!
//! ```text
//!   window   0        1, 2
//!            device   pages with maps, of a slot whose memory the tests change
//! ```
//! The program loads what is there, stores there in one of several ways, and loads what is
//! there then, through the processor.

use super::backend;
use super::bus::{contents, stream};
use super::rig::{Page, Rig, WINDOW};
use crate::harness::{tests, Lab};
use crate::machine::{add_slot, Assembled, Stop, HOLE};
use crate::raw::{memfd, Mapping};
use guest::asm::*;
use guest::PAGE_SIZE;
use ioctl_api::memory::KVM_MEM_READONLY;
use libc::{EFAULT, PROT_NONE, PROT_READ, PROT_WRITE};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

tests![
    private_file_is_copied,
    zero_page_is_replaced,
    shared_with_a_child,
    memory_that_is_read_only,
    memory_without_access,
    memory_that_is_unmapped,
    second_page_is_missing,
    missing_in_the_middle_of_a_string,
    slot_that_is_read_only,
    replaced_between_runs,
    replaced_before_the_answer,
];

const PAGE: usize = PAGE_SIZE as usize;
/// The slot, two pages in front of devices.
const SLOT: u64 = HOLE + 2 * PAGE_SIZE;
/// Where the program stores, in the slot.
const AT: usize = 0x200;
/// A sub-page that no test touches is denied, so that the pages have maps.
const MAP: u32 = !(1 << 16);
const VALUE: u64 = 0x8796_a5b4_c3d2_e1f0;

/// A way to make the module store to RDI.
struct Way {
    name: &'static str,
    emit: fn(&mut CodeAssembler) -> Assembled,
    /// What is stored.
    data: fn() -> Vec<u8>,
    /// How many questions to devices it takes.
    asks: usize,
}

const WAYS: [Way; 7] = [
    way("mov", |a| a.mov(qword_ptr(rdi), rax), value, 0),
    way("xchg", |a| a.xchg(qword_ptr(rdi), r9), value, 0),
    way("movs", |a| a.movsq(), || contents(1)[..8].to_vec(), 1),
    way(
        "rep movs",
        |a| a.rep().movsw(),
        || contents(1)[..6].to_vec(),
        3,
    ),
    way("ins", |a| a.insd(), || (1..=4).map(stream).collect(), 1),
    way(
        "rep ins",
        |a| a.rep().insw(),
        || (1..=6).map(stream).collect(),
        1,
    ),
    // One step on a private view.
    way("fnstcw", |a| a.fnstcw(word_ptr(rdi)), || vec![0x7f, 3], 0),
];

const fn way(
    name: &'static str,
    emit: fn(&mut CodeAssembler) -> Assembled,
    data: fn() -> Vec<u8>,
    asks: usize,
) -> Way {
    Way {
        name,
        emit,
        data,
        asks,
    }
}

fn value() -> Vec<u8> {
    VALUE.to_le_bytes().to_vec()
}

/// Calls `test` for each way and each backend.
fn each_way(lab: &Lab, test: impl Fn(&Lab, &Way, &str)) {
    for lab in backend::each(lab) {
        for way in &WAYS {
            test(&lab, way, &format!("{}, {:?}", way.name, lab.backend()));
        }
    }
}

/// Instructions of the program.
const LOAD: usize = 1;
const STORE: usize = 2;

/// A guest that is about to store to byte `offset` of `memory`.
fn guest(lab: &Lab, way: &Way, memory: &Mapping, offset: usize) -> Rig {
    let rig = Rig::spp(lab, |a| {
        a.fninit()?;
        a.mov(rbx, qword_ptr(r10))?;
        (way.emit)(a)?;
        a.mov(rbp, qword_ptr(r10))
    });
    rig.map(&[Page::Device(0), Page::Device(2), Page::Device(3)]);
    add_slot(&rig.machine.vm, 1, SLOT, memory, 0).expect("a slot");
    rig.machine.vm.set_maps(SLOT, &[MAP; 2]).expect("maps");
    start(&rig, offset);
    rig
}

fn start(rig: &Rig, offset: usize) {
    let to = WINDOW + PAGE_SIZE + offset as u64;
    rig.machine.change_regs(|r| {
        r.rip = rig.machine.program.address;
        (r.rax, r.rcx, r.rdx) = (VALUE, 3, 0x3f8);
        (r.rsi, r.rdi, r.r9, r.r10) = (WINDOW, to, VALUE, to);
    });
}

/// Leaves out the instructions before this one.
fn skip_to(rig: &Rig, instruction: usize) {
    let at = rig.machine.program.instructions().nth(instruction);
    rig.machine
        .change_regs(|r| r.rip = at.expect("an instruction"));
}

/// Two pages with other bytes everywhere.
fn fill(memory: &Mapping) {
    memory.write_bytes(0, &contents(2)[..memory.len()]);
}

fn all_of(memory: &Mapping) -> Vec<u8> {
    memory.read_bytes(0, memory.len())
}

/// `before` with what the program stores.
fn stored(way: &Way, before: &[u8], offset: usize) -> Vec<u8> {
    let (mut after, data) = (before.to_vec(), (way.data)());
    after[offset..offset + data.len()].copy_from_slice(&data);
    after
}

/// Runs to the end: the bytes are stored, no other ones, and the guest sees them.
fn finish(rig: &mut Rig, way: &Way, memory: &Mapping, before: &[u8], what: &str) {
    assert_eq!(rig.run(), Stop::Hlt, "{what}");
    let regs = rig.machine.regs();
    let offset = (regs.r10 - WINDOW - PAGE_SIZE) as usize;
    let expected = stored(way, before, offset);
    assert!(all_of(memory) == expected, "{what}: memory");
    let seen = expected[offset..offset + 8].to_vec();
    assert_eq!(regs.rbp.to_le_bytes().to_vec(), seen, "{what}: seen");
    assert_eq!(rig.log().len(), way.asks, "{what}: questions");
}

fn private_file_is_copied(lab: &Lab) {
    each_way(lab, |lab, way, what| {
        for first in [LOAD, STORE] {
            let file = memfd(2 * PAGE);
            let shared = Mapping::file(&file, 2 * PAGE, PROT_READ | PROT_WRITE, 0).expect("mmap");
            fill(&shared);
            let memory = Mapping::private(&file, 2 * PAGE).expect("mmap");
            let before = all_of(&memory);
            let mut rig = guest(lab, way, &memory, AT);
            if first == STORE {
                skip_to(&rig, STORE);
            }
            finish(&mut rig, way, &memory, &before, what);
            assert!(all_of(&shared) == before, "{what}: the file has changed");
        }
    });
}

/// The page of zeros that all processes share.
fn zero_page_is_replaced(lab: &Lab) {
    each_way(lab, |lab, way, what| {
        for first in [LOAD, STORE] {
            let [memory, other] = [(); 2].map(|()| Mapping::anonymous(2 * PAGE, PAGE));
            let zeros = all_of(&memory);
            assert!(zeros == all_of(&other));
            let mut rig = guest(lab, way, &memory, AT);
            if first == STORE {
                skip_to(&rig, STORE);
            }
            finish(&mut rig, way, &memory, &zeros, what);
            assert!(all_of(&other) == zeros, "{what}: the page of zeros");
        }
    });
}

/// A process with a copy of this one's memory, which it looks at when it is let go.
struct Child {
    pid: libc::pid_t,
    gate: OwnedFd,
}

impl Child {
    /// Its look is whether the word at `offset` of `memory` still is what it is now.
    fn new(memory: &Mapping, offset: usize) -> Self {
        let before = memory.read(offset);
        let mut ends = [0; 2];
        // SAFETY: the kernel writes two descriptors.
        assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
        // SAFETY: the kernel has just made them, and nobody else has them.
        let [wait, gate] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        // SAFETY: the child makes system calls and looks at memory that it has a copy of.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            drop(gate);
            let mut byte = 0_u8;
            // SAFETY: nothing is written: the call ends when nobody has the other end.
            unsafe { libc::read(wait.as_raw_fd(), (&raw mut byte).cast(), 1) };
            let status = i32::from(memory.read(offset) != before);
            // SAFETY: leaves at once, without the parent's destructors.
            unsafe { libc::_exit(status) };
        }
        Self { pid, gate }
    }

    /// Lets it look.
    fn sees_no_change(self) -> bool {
        drop(self.gate);
        let mut status = -1;
        // SAFETY: `status` is valid; waits for the child made above.
        assert_eq!(unsafe { libc::waitpid(self.pid, &mut status, 0) }, self.pid);
        status == 0
    }
}

fn shared_with_a_child(lab: &Lab) {
    each_way(lab, |lab, way, what| {
        let memory = Mapping::anonymous(2 * PAGE, PAGE);
        fill(&memory);
        let before = all_of(&memory);
        let mut rig = guest(lab, way, &memory, AT);
        // The guest has stored there before, so that its page is mapped writable.
        finish(&mut rig, way, &memory, &before, what);
        fill(&memory);
        rig.fill();
        start(&rig, AT);
        let child = Child::new(&memory, AT);
        finish(&mut rig, way, &memory, &before, what);
        assert!(child.sees_no_change(), "{what}");
    });
}

/// The store fails with `EFAULT` after `take`, and changes nothing; after `give` it is made.
fn fails_until(lab: &Lab, take: impl Fn(&Mapping), give: impl Fn(&Mapping)) {
    each_way(lab, |lab, way, what| {
        for touched in [false, true] {
            let memory = Mapping::anonymous(2 * PAGE, PAGE);
            fill(&memory);
            let mut rig = guest(lab, way, &memory, AT);
            if touched {
                assert_eq!(rig.run(), Stop::Hlt, "{what}");
                rig.fill();
                start(&rig, AT);
            }
            skip_to(&rig, STORE);
            take(&memory);
            let before = rig.state();
            for _ in 0..2 {
                assert_eq!(rig.run(), Stop::Error(EFAULT), "{what}");
                let mut now = rig.state();
                now.regs.rflags = before.regs.rflags;
                assert_eq!(now.difference(&before), None, "{what}");
            }
            give(&memory);
            let before = all_of(&memory);
            finish(&mut rig, way, &memory, &before, what);
        }
    });
}

fn memory_that_is_read_only(lab: &Lab) {
    fails_until(
        lab,
        |memory| memory.protect(PROT_READ),
        |memory| memory.protect(PROT_READ | PROT_WRITE),
    );
}

fn memory_without_access(lab: &Lab) {
    fails_until(
        lab,
        |memory| memory.protect(PROT_NONE),
        |memory| memory.protect(PROT_READ | PROT_WRITE),
    );
}

fn memory_that_is_unmapped(lab: &Lab) {
    fails_until(
        lab,
        |memory| memory.unmap(0, 2 * PAGE),
        |memory| memory.replace(0, 2 * PAGE),
    );
}

/// All or nothing: what there is of the destination does not change.
fn second_page_is_missing(lab: &Lab) {
    each_way(lab, |lab, way, what| {
        if way.name.starts_with("rep") {
            return;
        }
        let memory = Mapping::anonymous(2 * PAGE, PAGE);
        fill(&memory);
        let mut rig = guest(lab, way, &memory, PAGE - 1);
        skip_to(&rig, STORE);
        memory.unmap(PAGE, PAGE);
        let first = memory.read_bytes(0, PAGE);
        let before = rig.state();
        for _ in 0..2 {
            assert_eq!(rig.run(), Stop::Error(EFAULT), "{what}");
            assert!(memory.read_bytes(0, PAGE) == first, "{what}");
            let mut now = rig.state();
            now.regs.rflags = before.regs.rflags;
            assert_eq!(now.difference(&before), None, "{what}");
        }
        memory.replace(PAGE, PAGE);
        let before = all_of(&memory);
        finish(&mut rig, way, &memory, &before, what);
    });
}

/// Whole elements are done, and the others later; each is asked for once.
fn missing_in_the_middle_of_a_string(lab: &Lab) {
    for lab in backend::each(lab) {
        let way = way(
            "rep movs",
            |a| a.rep().movsw(),
            || contents(1)[..14].to_vec(),
            7,
        );
        let memory = Mapping::anonymous(2 * PAGE, PAGE);
        fill(&memory);
        let mut rig = guest(&lab, &way, &memory, PAGE - 5);
        rig.machine.change_regs(|r| r.rcx = 7);
        skip_to(&rig, STORE);
        memory.unmap(PAGE, PAGE);
        for _ in 0..2 {
            assert_eq!(rig.run(), Stop::Error(EFAULT));
            // Two are before the border, and one is over it.
            let regs = rig.machine.regs();
            assert_eq!((regs.rcx, regs.rsi), (5, WINDOW + 4));
            let expected = [&contents(1)[..4], &contents(1)[PAGE - 1..]].concat();
            assert_eq!(memory.read_bytes(PAGE - 5, 5), expected);
        }
        memory.replace(PAGE, PAGE);
        let before = all_of(&memory);
        finish(&mut rig, &way, &memory, &before, "rep movs");
    }
}

/// Memory for reads, and a device for writes; nobody steps over those.
fn slot_that_is_read_only(lab: &Lab) {
    each_way(lab, |lab, way, what| {
        let memory = Mapping::anonymous(2 * PAGE, PAGE);
        fill(&memory);
        let before = all_of(&memory);
        let mut rig = guest(lab, way, &memory, AT);
        crate::machine::set_slot(&rig.machine.vm, 1, 0, &memory, 0, 0).expect("deleted");
        add_slot(&rig.machine.vm, 1, SLOT, &memory, KVM_MEM_READONLY).expect("a slot");
        let registers = rig.bus.registers().to_vec();
        match (rig.run(), way.name) {
            (Stop::Emulate(bytes), "fnstcw") => assert_eq!(bytes[..2], [0xd9, 0x3f], "{what}"),
            (Stop::Hlt, _) => {
                let in_bus = 2 * PAGE + AT;
                let expected = stored(way, &registers, in_bus);
                assert!(rig.bus.registers() == expected, "{what}: the device");
            }
            (other, _) => panic!("{what}: {other:x?}"),
        }
        assert!(all_of(&memory) == before, "{what}: memory has changed");
    });
}

/// Two files; memory of the guest is the first.
fn two_files() -> ([OwnedFd; 2], [Mapping; 2], Mapping) {
    let files = [(); 2].map(|()| memfd(2 * PAGE));
    let map = |file| Mapping::file(file, 2 * PAGE, PROT_READ | PROT_WRITE, 0).expect("mmap");
    let [first, second] = [map(&files[0]), map(&files[1])];
    fill(&first);
    let memory = map(&files[0]);
    (files, [first, second], memory)
}

fn replaced_between_runs(lab: &Lab) {
    each_way(lab, |lab, way, what| {
        let (files, [first, second], memory) = two_files();
        let before = all_of(&first);
        let mut rig = guest(lab, way, &memory, AT);
        finish(&mut rig, way, &first, &before, what);
        fill(&first);
        memory.place(&files[1]);
        let zeros = all_of(&second);
        rig.fill();
        start(&rig, AT);
        finish(&mut rig, way, &second, &zeros, what);
        assert!(all_of(&first) == before, "{what}: memory that was there");
    });
}

/// The destination is another page when the device has answered.
fn replaced_before_the_answer(lab: &Lab) {
    each_way(lab, |lab, way, what| {
        if way.asks == 0 {
            return;
        }
        let (files, [first, second], memory) = two_files();
        let before = all_of(&first);
        let mut rig = guest(lab, way, &memory, AT);
        let stop = rig.machine.run();
        memory.place(&files[1]);
        assert!(rig.bus.serve(&mut rig.machine, &stop), "{what}: {stop:x?}");
        let zeros = all_of(&second);
        finish(&mut rig, way, &second, &zeros, what);
        assert!(all_of(&first) == before, "{what}: memory that was there");
    });
}
