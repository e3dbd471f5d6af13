// SPDX-License-Identifier: GPL-2.0

//! Host pages that may not be written although a map allows it: the zero page,
//! pages shared after fork, merged pages, read-only mappings. SPP must not open
//! what the host has closed.

use crate::harness::{tests, Lab};
use crate::machine::{add_slot, Machine, Stop};
use crate::raw::Mapping;
use guest::asm::*;
use guest::{PAGE_SIZE, SUBPAGES, SUBPAGE_SIZE};

tests![
    page_that_was_only_read,
    page_shared_with_a_child,
    mapping_made_read_only,
    file_mapped_shared,
    merged_pages,
];

const PAGE: usize = PAGE_SIZE as usize;
const SLOT: u64 = 0x40_0000;
const MAP: u32 = 0xff00_0ff0;

/// A guest that reads where RBX points, exits, and stores AL there.
fn reader(lab: &Lab, memory: &Mapping) -> Machine {
    let machine = Machine::spp(lab, |a| {
        a.mov(rcx, qword_ptr(rbx))?;
        a.out(0x40, al)?;
        a.mov(byte_ptr(rbx), al)?;
        a.hlt()
    });
    machine.vm.set_maps(SLOT, &[MAP; 4]).expect("maps");
    add_slot(&machine.vm, 1, SLOT, memory, 0).expect("a slot");
    machine
}

/// Reads, then stores; whether the store was done.
fn read_then_store(machine: &mut Machine, gpa: u64, value: u8) -> bool {
    machine.restart();
    machine.change_regs(|r| (r.rbx, r.rax) = (gpa, value.into()));
    assert!(matches!(machine.run(), Stop::Out(0x40, _)));
    match machine.run() {
        Stop::Hlt => true,
        Stop::Spp(exit) => {
            assert_eq!(exit.gpa, gpa);
            false
        }
        other => panic!("store to {gpa:#x}: {other:x?}"),
    }
}

/// All sub-pages of the first page of the slot, one after the other.
fn check_all(machine: &mut Machine, memory: &Mapping, value: u8) {
    for n in 0..SUBPAGES {
        let offset = (n * SUBPAGE_SIZE) as usize;
        let old = memory.read(offset);
        let done = read_then_store(machine, SLOT + offset as u64, value);
        assert_eq!(done, (MAP >> n) & 1 != 0, "sub-page {n}");
        let expected = if done {
            old & !0xff | u64::from(value)
        } else {
            old
        };
        assert_eq!(memory.read(offset), expected, "sub-page {n}");
    }
}

/// A read maps the zero page, which all processes share.
fn page_that_was_only_read(lab: &Lab) {
    let memory = Mapping::anonymous(4 * PAGE, PAGE);
    let other = Mapping::anonymous(4 * PAGE, PAGE);
    let mut machine = reader(lab, &memory);
    let first_allowed = u64::from(MAP.trailing_zeros()) * SUBPAGE_SIZE;
    assert!(read_then_store(&mut machine, SLOT + first_allowed, 0x66));
    assert_eq!(memory.read(first_allowed as usize), 0x66);
    assert_eq!(
        other.read(first_allowed as usize),
        0,
        "the zero page is zero"
    );
    check_all(&mut machine, &memory, 0x77);
}

/// What the guest writes after fork is its own process's alone.
fn page_shared_with_a_child(lab: &Lab) {
    let memory = Mapping::anonymous(4 * PAGE, PAGE);
    (0..PAGE / 8).for_each(|n| memory.write(8 * n, 0x1111));
    let mut machine = reader(lab, &memory);
    check_all(&mut machine, &memory, 0x22);
    let before = memory.checksum();
    let (wait, go) = std::os::unix::net::UnixStream::pair().expect("socketpair");
    // SAFETY: the child reads a pipe and memory, and leaves.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop(go);
        let closed = std::io::Read::read(&mut &wait, &mut [0]);
        let same = closed.is_ok() && memory.checksum() == before;
        // SAFETY: leaves at once, without the parent's destructors.
        unsafe { libc::_exit(if same { 0 } else { 1 }) };
    }
    check_all(&mut machine, &memory, 0x33);
    assert_ne!(memory.checksum(), before);
    drop(go);
    let mut status = 0;
    // SAFETY: `status` is valid; waits for the child made above.
    unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(status, 0, "the child's copy has changed");
    check_all(&mut machine, &memory, 0x44);
}

fn mapping_made_read_only(lab: &Lab) {
    let memory = Mapping::anonymous(4 * PAGE, PAGE);
    let mut machine = reader(lab, &memory);
    check_all(&mut machine, &memory, 0x22);
    memory.protect(libc::PROT_READ);
    let before = memory.checksum();
    for n in 0..SUBPAGES {
        machine.restart();
        machine.change_regs(|r| (r.rbx, r.rax) = (SLOT + n * SUBPAGE_SIZE, 0x99));
        assert!(matches!(machine.run(), Stop::Out(0x40, _)));
        match machine.run() {
            Stop::Error(libc::EFAULT) | Stop::Spp(_) => {}
            other => panic!("sub-page {n}: {other:x?}"),
        }
    }
    assert_eq!(memory.checksum(), before);
    memory.protect(libc::PROT_READ | libc::PROT_WRITE);
    check_all(&mut machine, &memory, 0x33);
}

/// Memory of a file, of which a part is cut out and filled again.
fn file_mapped_shared(lab: &Lab) {
    let file = crate::raw::memfd(4 * PAGE);
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let memory = Mapping::file(&file, 4 * PAGE, prot, 0).expect("mmap");
    let mut machine = reader(lab, &memory);
    for value in [0x22, 0x33] {
        check_all(&mut machine, &memory, value);
        crate::raw::punch_hole(&file, 0, PAGE);
        assert_eq!(memory.read(0x200), 0);
        check_all(&mut machine, &memory, value + 1);
    }
}

const KSM: &str = "/sys/kernel/mm/ksm/run";

/// Waits until KSM has merged `pages` pages of the process, for some rounds.
fn wait_for_merge(pages: usize) -> bool {
    let merged = || {
        let stat = std::fs::read_to_string("/proc/self/ksm_stat").unwrap_or_default();
        let line = stat
            .lines()
            .find_map(|l| l.strip_prefix("ksm_merging_pages "));
        line.and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(2));
        merged() >= pages
    })
}

/// Pages with the same content become one, until one is written.
fn merged_pages(lab: &Lab) {
    let memory = Mapping::anonymous(4 * PAGE, PAGE);
    let mut machine = reader(lab, &memory);
    let fill = || (0..4 * PAGE / 8).for_each(|n| memory.write(8 * n, 0x5151_5151));
    fill();
    check_all(&mut machine, &memory, 0x22);
    fill();
    let mode = std::fs::read_to_string(KSM).unwrap_or_default();
    let on = memory.advise(0, 4 * PAGE, libc::MADV_MERGEABLE).is_ok()
        && std::fs::write("/sys/kernel/mm/ksm/sleep_millisecs", "1").is_ok()
        && std::fs::write(KSM, "1").is_ok();
    let merged = on && wait_for_merge(4);
    if on {
        // 2 would unmerge them.
        let _ = std::fs::write(KSM, if mode.trim() == "1" { "1" } else { "0" });
    }
    if !merged {
        lab.skip("KSM merges nothing");
    }
    check_all(&mut machine, &memory, 0x33);
    for offset in (PAGE..4 * PAGE).step_by(8) {
        assert_eq!(
            memory.read(offset),
            0x5151_5151,
            "{offset:#x} is not written"
        );
    }
}
