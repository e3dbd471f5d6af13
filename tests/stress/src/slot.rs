// SPDX-License-Identifier: GPL-2.0

//! A second memslot, over an [`Area`].

use crate::area::{Area, LARGE};
use crate::host;
use crate::ktap::Skip;
use kvm_bindings::kvm_userspace_memory_region;
use std::fs;
use std::sync::Arc;
use vmm::Vm;

/// Where the second memslot begins, unless it is moved.
pub(crate) const GPA: u64 = 0x4000_0000;

fn region(gpa: u64, area: &Area, bytes: usize) -> kvm_userspace_memory_region {
    kvm_userspace_memory_region {
        slot: 1,
        flags: 0,
        guest_phys_addr: gpa,
        memory_size: bytes as u64,
        userspace_addr: area.address(),
    }
}

fn change(vm: &Vm, region: kvm_userspace_memory_region) {
    // SAFETY: The guest may write to the area at any time, but so may other
    // threads: nothing but atomics refers to it. An area that is gone leaves a
    // hole, which the guest cannot reach.
    unsafe { vm.fd().set_user_memory_region(region) }.unwrap();
}

/// Adds the memslot, or moves it, to `gpa`.
pub(crate) fn place(vm: &Vm, gpa: u64, area: &Area) {
    change(vm, region(gpa, area, area.bytes()));
}

/// Shows the area at `gpa`, too.
pub(crate) fn show_again(vm: &Vm, gpa: u64, area: &Area) {
    let second = kvm_userspace_memory_region {
        slot: 2,
        ..region(gpa, area, area.bytes())
    };
    change(vm, second);
}

/// Deletes it.
pub(crate) fn delete(vm: &Vm, area: &Area) {
    change(vm, region(GPA, area, 0));
}

/// An area as the second memslot at `GPA`.
pub(crate) fn add(vm: &Vm, bytes: usize) -> Arc<Area> {
    let area = Arc::new(Area::new(bytes));
    place(vm, GPA, &area);
    area
}

/// Kilobytes of large pages in this process's anonymous memory.
pub(crate) fn large_kilobytes() -> u64 {
    let text = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find(|line| line.starts_with("AnonHugePages:"));
    let number = line.unwrap().split_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}

/// One large page as the second memslot.
pub(crate) fn add_large(vm: &Vm) -> Result<Arc<Area>, Skip> {
    // Machines with little memory have it switched off.
    host::set("/sys/kernel/mm/transparent_hugepage/enabled", "madvise");
    let area = add(vm, LARGE);
    if area.advise(0, LARGE, libc::MADV_HUGEPAGE).is_err() {
        return Err(Skip("no transparent large pages".into()));
    }
    area.store(0, 0);
    assert!(large_kilobytes() > 0, "no large page");
    Ok(area)
}
