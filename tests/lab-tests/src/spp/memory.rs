// SPDX-License-Identifier: GPL-2.0

//! Protected pages whose memory slot or host memory changes.

use super::{check_map, store, storer};
use crate::harness::{tests, Lab};
use crate::machine::{add_slot, Machine, Stop, HOLE};
use crate::raw::Mapping;
use guest::{DATA, PAGE_SIZE, SUBPAGE_SIZE};
use ioctl_api::memory::KVM_MEM_READONLY;
use ioctl_api::subpage::FULL;

tests![
    map_before_the_page_is_touched,
    map_after_the_page_is_in_the_tlb,
    map_where_there_is_no_memory,
    slot_deleted_and_added_again,
    slot_moved,
    read_only_slot,
    large_page_is_split,
    large_page_after_unprotecting,
    backing_is_replaced,
    backing_is_discarded,
    same_memory_in_two_slots,
];

const MIB2: usize = 2 << 20;
/// Where the second slot begins: behind the first, on a 2-MiB border.
const SLOT: u64 = 0x40_0000;
const MAP: u32 = 0xffff_00f0;

fn map_before_the_page_is_touched(lab: &Lab) {
    let mut machine = storer(lab);
    let memory = Mapping::anonymous(MIB2, MIB2);
    machine.vm.set_maps(SLOT + PAGE_SIZE, &[MAP]).expect("maps");
    add_slot(&machine.vm, 1, SLOT, &memory, 0).expect("a slot");
    check_page(&mut machine, &memory, 1, MAP);
    check_page(&mut machine, &memory, 0, FULL);
    check_page(&mut machine, &memory, 2, FULL);
}

fn map_after_the_page_is_in_the_tlb(lab: &Lab) {
    let mut machine = storer(lab);
    for map in [MAP, !MAP, 0] {
        machine.vm.set_maps(DATA, &[FULL]).expect("maps");
        assert_eq!(store(&mut machine, DATA + 0x80, 1), None);
        assert_eq!(store(&mut machine, DATA, 1), None);
        machine.vm.set_maps(DATA, &[map]).expect("maps");
        check_map(&mut machine, DATA, map);
    }
}

/// A map says nothing where no slot is: the access is one to a device.
fn map_where_there_is_no_memory(lab: &Lab) {
    let mut machine = storer(lab);
    machine.vm.set_maps(HOLE, &[0]).expect("maps");
    machine.restart();
    machine.change_regs(|r| (r.rbx, r.rax) = (HOLE, 0x42));
    assert_eq!(machine.run(), Stop::MmioWrite(HOLE, vec![0x42]));
    machine.expect_hlt();
}

fn slot_deleted_and_added_again(lab: &Lab) {
    let mut machine = storer(lab);
    let memory = Mapping::anonymous(MIB2, MIB2);
    add_slot(&machine.vm, 1, SLOT, &memory, 0).expect("a slot");
    machine.vm.set_maps(SLOT, &[MAP]).expect("maps");
    for _ in 0..3 {
        check(&mut machine, &memory, MAP);
        delete_slot(&machine, 1);
        machine.restart();
        machine.change_regs(|r| (r.rbx, r.rax) = (SLOT, 0x42));
        let stop = machine.run();
        assert_eq!(stop, Stop::MmioWrite(SLOT, vec![0x42]), "no memory there");
        assert_eq!(machine.vm.maps(SLOT, 1).expect("maps"), [MAP]);
        add_slot(&machine.vm, 1, SLOT, &memory, 0).expect("a slot");
    }
    // Changed while there is no slot.
    delete_slot(&machine, 1);
    machine.vm.set_maps(SLOT, &[!MAP]).expect("maps");
    add_slot(&machine.vm, 1, SLOT, &memory, 0).expect("a slot");
    check(&mut machine, &memory, !MAP);
}

fn delete_slot(machine: &Machine, slot: u32) {
    let nothing = Mapping::anonymous(0x1000, 0x1000);
    crate::machine::set_slot(&machine.vm, slot, SLOT, &nothing, 0, 0).expect("deletion");
}

/// Like `check_map` for the first page of [`SLOT`], by way of the host's memory.
fn check(machine: &mut Machine, memory: &Mapping, map: u32) {
    check_page(machine, memory, 0, map);
}

/// The same for any page of the slot.
fn check_page(machine: &mut Machine, memory: &Mapping, page: u64, map: u32) {
    for n in 0..guest::SUBPAGES {
        let offset = page * PAGE_SIZE + n * SUBPAGE_SIZE;
        memory.write(offset as usize, 0);
        let exit = store(machine, SLOT + offset, 0x99);
        let allowed = (map >> n) & 1 != 0;
        assert_eq!(
            exit.is_none(),
            allowed,
            "sub-page {n} of page {page}, map {map:#x}"
        );
        let expected = if allowed { 0x99 } else { 0 };
        let found = memory.read(offset as usize);
        assert_eq!(found, expected, "sub-page {n} of page {page}, map {map:#x}");
    }
}

/// The map belongs to the guest-physical page, not to the memory.
fn slot_moved(lab: &Lab) {
    let mut machine = storer(lab);
    let memory = Mapping::anonymous(MIB2, MIB2);
    let away = SLOT + 2 * MIB2 as u64;
    add_slot(&machine.vm, 1, SLOT, &memory, 0).expect("a slot");
    machine.vm.set_maps(SLOT, &[MAP]).expect("maps");
    machine
        .vm
        .set_maps(away + PAGE_SIZE, &[!MAP])
        .expect("maps");
    check(&mut machine, &memory, MAP);
    add_slot(&machine.vm, 1, away, &memory, 0).expect("moved");
    for n in 0..guest::SUBPAGES {
        assert_eq!(store(&mut machine, away + n * SUBPAGE_SIZE, 1), None);
        let second = away + PAGE_SIZE + n * SUBPAGE_SIZE;
        assert_eq!(
            store(&mut machine, second, 1).is_none(),
            (!MAP >> n) & 1 != 0
        );
    }
    add_slot(&machine.vm, 1, SLOT, &memory, 0).expect("moved back");
    check(&mut machine, &memory, MAP);
}

/// A map cannot make read-only memory writable, and such a write is a device's.
fn read_only_slot(lab: &Lab) {
    let mut machine = storer(lab);
    let memory = Mapping::anonymous(MIB2, MIB2);
    memory.write(0, 0x1111);
    add_slot(&machine.vm, 1, SLOT, &memory, KVM_MEM_READONLY).expect("a slot");
    machine.vm.set_maps(SLOT, &[MAP]).expect("maps");
    for n in 0..guest::SUBPAGES {
        let gpa = SLOT + n * SUBPAGE_SIZE;
        machine.restart();
        machine.change_regs(|r| (r.rbx, r.rax) = (gpa, 0x22));
        assert_eq!(machine.run(), Stop::MmioWrite(gpa, vec![0x22]));
        machine.expect_hlt();
    }
    assert_eq!(memory.read(0), 0x1111);
}

const THP: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// Huge pages for who asks for them, until this is dropped.
struct HugePages {
    before: Option<String>,
}

impl HugePages {
    fn on() -> Self {
        let modes = std::fs::read_to_string(THP).unwrap_or_default();
        let mode = modes.split(['[', ']']).nth(1).filter(|m| *m == "never");
        if mode.is_some() {
            // Where it is refused the test is skipped for want of a huge page.
            let _ = std::fs::write(THP, "madvise");
        }
        Self {
            before: mode.map(str::to_owned),
        }
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = std::fs::write(THP, before);
        }
    }
}

/// Memory that the host maps with a 2-MiB page, or a skipped test.
fn huge(lab: &Lab) -> Mapping {
    let _on = HugePages::on();
    let memory = Mapping::anonymous(MIB2, MIB2);
    if memory.advise(0, MIB2, libc::MADV_HUGEPAGE).is_err() {
        lab.skip("no transparent huge pages");
    }
    memory.write(0, 1);
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let start = format!("{:x}-", memory.address());
    let entry = smaps.split_once(&start).map_or("", |(_, rest)| rest);
    let line = entry.lines().find(|l| l.starts_with("AnonHugePages:"));
    if !line.is_some_and(|l| l.contains("2048 kB")) {
        lab.skip("the host gave no huge page");
    }
    memory
}

fn large_page_is_split(lab: &Lab) {
    let mut machine = storer(lab);
    let memory = huge(lab);
    add_slot(&machine.vm, 1, SLOT, &memory, 0).expect("a slot");
    // Mapped whole, before any of it is protected.
    assert_eq!(store(&mut machine, SLOT, 1), None);
    machine
        .vm
        .set_maps(SLOT + 0x77 * PAGE_SIZE, &[MAP])
        .expect("maps");
    check_page(&mut machine, &memory, 0x77, MAP);
    for page in [0, 0x76, 0x78, 0x1ff] {
        check_page(&mut machine, &memory, page, FULL);
    }
    machine.vm.set_maps(SLOT, &[!MAP]).expect("maps");
    machine
        .vm
        .set_maps(SLOT + 0x1ff * PAGE_SIZE, &[0])
        .expect("maps");
    check_page(&mut machine, &memory, 0, !MAP);
    check_page(&mut machine, &memory, 0x77, MAP);
    check_page(&mut machine, &memory, 0x1ff, 0);
}

fn large_page_after_unprotecting(lab: &Lab) {
    let mut machine = storer(lab);
    let memory = huge(lab);
    add_slot(&machine.vm, 1, SLOT, &memory, 0).expect("a slot");
    let pages = (MIB2 as u64 / PAGE_SIZE) as usize;
    for _ in 0..2 {
        machine.vm.set_maps(SLOT, &vec![0; pages]).expect("maps");
        for n in [0, 1, 255, 511] {
            assert!(store(&mut machine, SLOT + n * PAGE_SIZE, 1).is_some());
        }
        machine.vm.set_maps(SLOT, &vec![FULL; pages]).expect("maps");
        for n in 0..pages as u64 {
            assert_eq!(store(&mut machine, SLOT + n * PAGE_SIZE + 7, 0x5a), None);
        }
        assert_eq!(
            memory.read(511 << 12),
            (0x5a << 56) | (memory.read(511 << 12) << 8 >> 8)
        );
    }
}

fn backing_is_replaced(lab: &Lab) {
    let mut machine = storer(lab);
    let memory = Mapping::anonymous(MIB2, MIB2);
    add_slot(&machine.vm, 1, SLOT, &memory, 0).expect("a slot");
    machine.vm.set_maps(SLOT, &[MAP]).expect("maps");
    for round in 0..3 {
        check(&mut machine, &memory, MAP);
        let denied = store(&mut machine, SLOT, 7);
        assert!(denied.is_some(), "round {round}");
        memory.write(8, 0x4242);
        memory.replace(0, MIB2);
        assert_eq!(memory.read(8), 0);
        assert_eq!(store(&mut machine, SLOT + 0x200, 7), None, "round {round}");
        assert_eq!(memory.read(0x200), 7, "the guest writes the new page");
    }
}

fn backing_is_discarded(lab: &Lab) {
    let mut machine = storer(lab);
    let memory = Mapping::anonymous(MIB2, MIB2);
    add_slot(&machine.vm, 1, SLOT, &memory, 0).expect("a slot");
    machine.vm.set_maps(SLOT, &[MAP]).expect("maps");
    for _ in 0..3 {
        check(&mut machine, &memory, MAP);
        memory
            .advise(0, 0x1000, libc::MADV_DONTNEED)
            .expect("madvise");
        assert_eq!(memory.read(0x200), 0);
        check(&mut machine, &memory, MAP);
    }
}

/// Two guest-physical pages of the same memory have maps of their own.
fn same_memory_in_two_slots(lab: &Lab) {
    let mut machine = storer(lab);
    let memory = Mapping::anonymous(MIB2, MIB2);
    let alias = SLOT + MIB2 as u64;
    add_slot(&machine.vm, 1, SLOT, &memory, 0).expect("a slot");
    add_slot(&machine.vm, 2, alias, &memory, 0).expect("a slot");
    machine.vm.set_maps(SLOT, &[0]).expect("maps");
    assert!(store(&mut machine, SLOT, 1).is_some());
    assert_eq!(store(&mut machine, alias, 1), None);
    machine.vm.set_maps(alias, &[MAP]).expect("maps");
    check_aliases(&mut machine, alias);
    memory.replace(0, MIB2);
    check_aliases(&mut machine, alias);
}

fn check_aliases(machine: &mut Machine, alias: u64) {
    for n in 0..guest::SUBPAGES {
        let offset = n * SUBPAGE_SIZE;
        assert!(store(machine, SLOT + offset, 3).is_some());
        assert_eq!(
            store(machine, alias + offset, 3).is_none(),
            (MAP >> n) & 1 != 0
        );
    }
}
