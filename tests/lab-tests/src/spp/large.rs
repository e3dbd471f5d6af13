// SPDX-License-Identifier: GPL-2.0

//! Large pages come back once nothing in them is protected any more. No call tells how a
//! page is mapped, but its price does: 512 small leaves are 512 faults.

use crate::harness::{tests, Lab};
use crate::machine::{add_slot, set_slot, Machine, Stop};
use crate::raw::Mapping;
use guest::asm::*;
use guest::PAGE_SIZE;
use ioctl_api::subpage::FULL;
use std::time::{Duration, Instant};

tests![large_page_comes_back];

const MIB2: usize = 2 << 20;
const PAGES: u64 = MIB2 as u64 / PAGE_SIZE;
/// Where the slot begins, on a 2-MiB border.
const SLOT: u64 = 0x40_0000;
const PROTECTED: u64 = 0x77;
const THP: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

fn large_page_comes_back(lab: &Lab) {
    let memory = huge(lab);
    let mut machine = toucher(lab);
    add_slot(&machine.vm, 1, SLOT, &memory, 0).expect("a slot");
    check_large(&mut machine);
    for _ in 0..3 {
        let page = SLOT + PROTECTED * PAGE_SIZE;
        machine.vm.set_maps(page, &[0]).expect("maps");
        match touch(&mut machine) {
            Stop::Spp(exit) => assert_eq!(exit.gpa, page),
            other => panic!("{other:x?}"),
        }
        machine.vm.set_maps(page, &[FULL]).expect("maps");
        assert!(matches!(touch(&mut machine), Stop::Hlt));
        // The small leaves go with the slot.
        set_slot(&machine.vm, 1, SLOT, &memory, 0, 0).expect("deletion");
        add_slot(&machine.vm, 1, SLOT, &memory, 0).expect("a slot");
        check_large(&mut machine);
        assert_eq!(machine.vm.maps(page, 1).expect("maps"), [FULL]);
    }
}

/// A guest that writes to each page of the slot, and halts.
fn toucher(lab: &Lab) -> Machine {
    Machine::spp(lab, |a| {
        let mut next = a.create_label();
        a.set_label(&mut next)?;
        a.inc(dword_ptr(rbx))?;
        a.add(rbx, PAGE_SIZE as i32)?;
        a.dec(rcx)?;
        a.jnz(next)?;
        a.hlt()
    })
}

fn touch(machine: &mut Machine) -> Stop {
    machine.restart();
    machine.change_regs(|r| (r.rbx, r.rcx) = (SLOT, PAGES));
    machine.run()
}

fn timed_touch(machine: &mut Machine) -> Duration {
    let start = Instant::now();
    assert!(matches!(touch(machine), Stop::Hlt));
    start.elapsed()
}

/// The first touch of the slot's pages costs about as much as the second.
fn check_large(machine: &mut Machine) {
    let (first, second) = (timed_touch(machine), timed_touch(machine));
    assert!(first < 20 * second, "{first:?}, then {second:?}");
}

/// Memory that the host maps with a 2-MiB page, or a skipped test.
fn huge(lab: &Lab) -> Mapping {
    let before = std::fs::read_to_string(THP).unwrap_or_default();
    if before.contains("[never]") {
        // Where it is refused the test is skipped for want of a huge page.
        let _ = std::fs::write(THP, "madvise");
    }
    let memory = Mapping::anonymous(MIB2, MIB2);
    let advised = memory.advise(0, MIB2, libc::MADV_HUGEPAGE);
    memory.write(0, 1);
    if before.contains("[never]") {
        let _ = std::fs::write(THP, "never");
    }
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let start = format!("{:x}-", memory.address());
    let entry = smaps.split_once(&start).map_or("", |(_, rest)| rest);
    let line = entry.lines().find(|l| l.starts_with("AnonHugePages:"));
    if advised.is_err() || !line.is_some_and(|l| l.contains("2048 kB")) {
        lab.skip("the host gave no huge page");
    }
    memory
}
