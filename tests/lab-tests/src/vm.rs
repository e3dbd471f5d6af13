// SPDX-License-Identifier: GPL-2.0

//! ioctls on a VM: memory slots, vCPUs, capabilities, and what takes a guest's
//! writes before user space does.

mod coalesced;
mod ioeventfd;

use crate::harness::{tests, Lab, Test};
use crate::machine::{self, add_slot, set_slot, Machine, Stop, HOLE};
use crate::raw::{self, Mapping, Sys, NOWHERE};
use guest::asm::*;
use guest::PAGE_SIZE;
use ioctl_api::cap;
use ioctl_api::memory::{EnableCap, UserMemoryRegion, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY};
use ioctl_api::number::*;
use libc::{EEXIST, EFAULT, EINVAL, EIO, ENOTTY};
use std::os::fd::AsRawFd;
use vmm::Vm;

/// The tests of all parts.
pub(crate) const ALL: &[&[Test]] = &[TESTS, ioeventfd::TESTS, coalesced::TESTS];

tests![
    unknown_ioctls,
    capabilities_on_the_vm,
    bad_addresses,
    slot_alignment,
    slot_flags,
    slot_numbers,
    slot_ranges,
    slot_overlap,
    slot_changes,
    slot_deletion,
    slots_that_touch,
    many_slots,
    guest_sees_a_slot_come_and_go,
    guest_sees_a_slot_move,
    guest_reads_a_read_only_slot,
    backing_that_is_not_there,
    vcpu_ids,
    enable_cap_refuses_what_is_unknown,
    tss_address,
    identity_map_address,
    tsc_frequency,
    forked_child_gets_eio,
];

const PAGE: usize = PAGE_SIZE as usize;
/// First address behind slot 0.
const FREE: u64 = 0x80_0000;

fn unknown_ioctls(lab: &Lab) {
    let vm = machine::vm(lab);
    let codes = [
        io(0x1f),
        KVM_RUN,
        KVM_GET_REGS,
        KVM_GET_API_VERSION,
        0x5401,
        iow::<u32>(0x46),
    ];
    for code in codes {
        assert_eq!(raw::number(vm.fd(), code, 0), Err(ENOTTY), "{code:#x}");
    }
}

fn capabilities_on_the_vm(lab: &Lab) {
    let vm = machine::vm(lab);
    for number in [
        cap::KVM_CAP_USER_MEMORY,
        cap::KVM_CAP_NR_MEMSLOTS,
        0x7fff_ffff,
    ] {
        let on_device = lab.kvm().check_extension_raw(number.into());
        assert_eq!(
            vm.fd().check_extension_raw(number.into()),
            on_device,
            "{number}"
        );
    }
}

fn bad_addresses(lab: &Lab) {
    let vm = machine::vm(lab);
    for code in [
        KVM_SET_USER_MEMORY_REGION,
        KVM_ENABLE_CAP,
        KVM_SET_IDENTITY_MAP_ADDR,
    ] {
        for address in [NOWHERE, usize::MAX - 7] {
            assert_eq!(
                raw::number(vm.fd(), code, address),
                Err(EFAULT),
                "{code:#x}"
            );
        }
    }
}

/// A slot request that is right, but for what `change` does.
fn request(vm: &Vm, memory: &Mapping, change: impl FnOnce(&mut UserMemoryRegion)) -> Sys {
    let mut region = UserMemoryRegion {
        slot: 1,
        flags: 0,
        guest_phys_addr: FREE,
        memory_size: memory.len() as u64,
        userspace_addr: memory.address() as u64,
    };
    change(&mut region);
    raw::with(vm.fd(), KVM_SET_USER_MEMORY_REGION, &mut region)
}

fn four_pages() -> Mapping {
    Mapping::anonymous(4 * PAGE, PAGE)
}

fn slot_alignment(lab: &Lab) {
    let (vm, memory) = (machine::vm(lab), four_pages());
    for bit in [0, 7, 11] {
        let off = 1 << bit;
        assert_eq!(
            request(&vm, &memory, |r| r.guest_phys_addr += off),
            Err(EINVAL)
        );
        assert_eq!(request(&vm, &memory, |r| r.memory_size -= off), Err(EINVAL));
        assert_eq!(
            request(&vm, &memory, |r| r.userspace_addr += off),
            Err(EINVAL)
        );
    }
    assert_eq!(request(&vm, &memory, |_| ()), Ok(0));
}

fn slot_flags(lab: &Lab) {
    let (vm, memory) = (machine::vm(lab), four_pages());
    for bit in 2..32 {
        assert_eq!(
            request(&vm, &memory, |r| r.flags = 1 << bit),
            Err(EINVAL),
            "flag {bit}"
        );
    }
    assert_eq!(request(&vm, &memory, |r| r.flags = KVM_MEM_READONLY), Ok(0));
    lab.only_ours("KVM can log dirty pages");
    for flags in [
        KVM_MEM_LOG_DIRTY_PAGES,
        KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY,
    ] {
        assert_eq!(
            add_slot(&vm, 2, 2 * FREE, &memory, flags),
            Err(EINVAL),
            "flags {flags}"
        );
    }
}

fn slot_numbers(lab: &Lab) {
    let (vm, memory) = (machine::vm(lab), four_pages());
    let slots = vm.fd().check_extension_raw(cap::KVM_CAP_NR_MEMSLOTS.into()) as u32;
    // The upper half is the address space, of which KVM has two at most.
    for slot in [slots, 0xffff, 2 << 16, 0xffff << 16, u32::MAX] {
        assert_eq!(
            request(&vm, &memory, |r| r.slot = slot),
            Err(EINVAL),
            "slot {slot:#x}"
        );
    }
    assert_eq!(request(&vm, &memory, |r| r.slot = slots - 1), Ok(0));
}

fn slot_ranges(lab: &Lab) {
    let (vm, memory) = (machine::vm(lab), four_pages());
    for gpa in [u64::MAX - 0xfff, u64::MAX - 0x3fff, 1 << 63, 1 << 52] {
        assert_eq!(
            request(&vm, &memory, |r| r.guest_phys_addr = gpa),
            Err(EINVAL),
            "{gpa:#x}"
        );
    }
    for hva in [1 << 47, 1 << 63, u64::MAX - 0xfff, u64::MAX - 0x3fff] {
        assert_eq!(
            request(&vm, &memory, |r| r.userspace_addr = hva),
            Err(EINVAL),
            "{hva:#x}"
        );
    }
    for size in [1 << 43, 1 << 63, u64::MAX - 0xfff] {
        assert_eq!(
            request(&vm, &memory, |r| r.memory_size = size),
            Err(EINVAL),
            "{size:#x}"
        );
    }
    assert_eq!(request(&vm, &memory, |r| r.guest_phys_addr = HOLE), Ok(0));
}

fn slot_overlap(lab: &Lab) {
    let (vm, memory) = (machine::vm(lab), four_pages());
    assert_eq!(request(&vm, &memory, |_| ()), Ok(0));
    for gpa in [
        FREE - 3 * PAGE_SIZE,
        FREE - PAGE_SIZE,
        FREE,
        FREE + 3 * PAGE_SIZE,
        0,
    ] {
        assert_eq!(add_slot(&vm, 2, gpa, &memory, 0), Err(EEXIST), "{gpa:#x}");
    }
    // A slot may overlap with where it is itself, but not with others.
    assert_eq!(
        add_slot(&vm, 1, FREE + PAGE_SIZE, &memory, 0),
        Ok(0),
        "move"
    );
    assert_eq!(
        add_slot(&vm, 1, 0, &memory, 0),
        Err(EEXIST),
        "move onto slot 0"
    );
    assert_eq!(
        add_slot(&vm, 2, FREE, &memory, 0),
        Err(EEXIST),
        "it has not moved"
    );
}

fn slot_changes(lab: &Lab) {
    let (vm, memory) = (machine::vm(lab), four_pages());
    assert_eq!(request(&vm, &memory, |_| ()), Ok(0));
    assert_eq!(request(&vm, &memory, |_| ()), Ok(0), "nothing changes");
    assert_eq!(
        request(&vm, &memory, |r| r.memory_size -= PAGE_SIZE),
        Err(EINVAL)
    );
    assert_eq!(
        request(&vm, &memory, |r| r.userspace_addr += PAGE_SIZE),
        Err(EINVAL)
    );
    assert_eq!(
        request(&vm, &memory, |r| r.flags = KVM_MEM_READONLY),
        Err(EINVAL)
    );
}

fn slot_deletion(lab: &Lab) {
    let (vm, memory) = (machine::vm(lab), four_pages());
    let delete = || set_slot(&vm, 1, 0, &memory, 0, 0);
    assert_eq!(delete(), Err(EINVAL), "not there");
    assert_eq!(request(&vm, &memory, |_| ()), Ok(0));
    assert_eq!(delete(), Ok(0));
    assert_eq!(delete(), Err(EINVAL), "not there any more");
    assert_eq!(request(&vm, &memory, |r| r.flags = KVM_MEM_READONLY), Ok(0));
}

fn slots_that_touch(lab: &Lab) {
    let (vm, memory) = (machine::vm(lab), four_pages());
    for (slot, page) in [(1, 8), (2, 4), (3, 12)] {
        let gpa = FREE + page * PAGE_SIZE;
        assert_eq!(add_slot(&vm, slot, gpa, &memory, 0), Ok(0), "slot {slot}");
    }
}

/// A guest that loads RAX from where RBX points, adds 1 and stores it there.
fn incrementer(lab: &Lab) -> Machine {
    Machine::long(lab, |a| {
        a.mov(rax, qword_ptr(rbx))?;
        a.inc(rax)?;
        a.mov(qword_ptr(rbx), rax)?;
        a.hlt()
    })
}

fn increment(machine: &mut Machine, gpa: u64) -> Stop {
    machine.restart();
    machine.change_regs(|r| (r.rax, r.rbx) = (0, gpa));
    machine.run()
}

fn many_slots(lab: &Lab) {
    let mut machine = incrementer(lab);
    let memory = Mapping::anonymous(64 * PAGE, PAGE);
    // In an order that is not theirs, every other page.
    for n in (0..64_u64).map(|n| n * 37 % 64) {
        let hva = memory.address() as u64 + n * PAGE_SIZE;
        let result = request(&machine.vm, &memory, |r| {
            (r.slot, r.guest_phys_addr) = (1 + n as u32, HOLE + 2 * n * PAGE_SIZE);
            (r.memory_size, r.userspace_addr) = (PAGE_SIZE, hva);
        });
        assert_eq!(result, Ok(0), "slot {n}");
    }
    for n in 0..64_u64 {
        memory.write(n as usize * PAGE, 100 * n);
        assert_eq!(increment(&mut machine, HOLE + 2 * n * PAGE_SIZE), Stop::Hlt);
        assert_eq!(memory.read(n as usize * PAGE), 100 * n + 1);
    }
    for n in 0..64_u64 {
        let gpa = HOLE + (2 * n + 1) * PAGE_SIZE;
        let stop = increment(&mut machine, gpa);
        assert!(stop.is_mmio(gpa), "{stop:x?}");
    }
}

fn guest_sees_a_slot_come_and_go(lab: &Lab) {
    let mut machine = incrementer(lab);
    let memories = [four_pages(), four_pages()];
    for round in 0..4 {
        let memory = &memories[round % 2];
        let stop = increment(&mut machine, HOLE);
        assert!(stop.is_mmio(HOLE), "round {round}: {stop:x?}");
        assert_eq!(add_slot(&machine.vm, 1, HOLE, memory, 0), Ok(0));
        assert_eq!(increment(&mut machine, HOLE), Stop::Hlt);
        assert_eq!(memory.read(0), round as u64 / 2 + 1, "round {round}");
        assert_eq!(set_slot(&machine.vm, 1, 0, memory, 0, 0), Ok(0));
    }
}

fn guest_sees_a_slot_move(lab: &Lab) {
    let mut machine = incrementer(lab);
    let memory = four_pages();
    for round in 0..4 {
        let (here, there) = (HOLE + round * PAGE_SIZE, HOLE + (round + 4) * PAGE_SIZE);
        assert_eq!(add_slot(&machine.vm, 1, here, &memory, 0), Ok(0));
        assert_eq!(increment(&mut machine, here), Stop::Hlt);
        assert_eq!(memory.read(0), round + 1);
        let stop = increment(&mut machine, there);
        assert!(stop.is_mmio(there), "round {round}: {stop:x?}");
    }
}

fn guest_reads_a_read_only_slot(lab: &Lab) {
    let mut machine = incrementer(lab);
    let memory = four_pages();
    memory.write(0, 41);
    assert_eq!(
        add_slot(&machine.vm, 1, HOLE, &memory, KVM_MEM_READONLY),
        Ok(0)
    );
    for value in [41, 99_u64] {
        memory.write(0, value);
        let data = (value + 1).to_le_bytes().to_vec();
        let stop = increment(&mut machine, HOLE);
        assert_eq!(stop, Stop::MmioWrite(HOLE, data), "the read was real");
        assert_eq!(memory.read(0), value, "the write was not");
    }
}

fn backing_that_is_not_there(lab: &Lab) {
    let mut machine = incrementer(lab);
    let memory = four_pages();
    let hva = memory.address() as u64;
    let hole = request(&machine.vm, &memory, |r| {
        // Behind the mapping nothing can be accessed.
        (r.guest_phys_addr, r.memory_size) = (HOLE, PAGE_SIZE);
        r.userspace_addr = hva + 4 * PAGE_SIZE;
    });
    assert_eq!(hole, Ok(0));
    assert_eq!(increment(&mut machine, HOLE), Stop::Error(EFAULT));
    assert_eq!(machine.run(), Stop::Error(EFAULT), "again");
}

fn vcpu_ids(lab: &Lab) {
    let vm = machine::vm(lab);
    let most = vm.fd().check_extension_raw(cap::KVM_CAP_MAX_VCPU_ID.into()) as usize;
    let create = |id: usize| raw::owned(raw::number(vm.fd(), KVM_CREATE_VCPU, id));
    for id in [most, most + 1, 1 << 31, 1 << 32, usize::MAX] {
        assert_eq!(create(id).map(drop), Err(EINVAL), "id {id:#x}");
    }
    let first = create(0).expect("vCPU 0");
    let fourth = create(3).expect("vCPU 3");
    let second = create(1).expect("vCPU 1");
    for id in [0, 1, 3] {
        assert_eq!(create(id).map(drop), Err(EEXIST), "id {id}");
    }
    drop((first, second, fourth));
    assert_eq!(
        create(1).map(drop),
        Err(EEXIST),
        "the file is closed, the vCPU stays"
    );
}

fn enable_cap_refuses_what_is_unknown(lab: &Lab) {
    let vm = machine::vm(lab);
    for cap in [0, 3, 0x7fff_ffff, 0x5350_ffff, u32::MAX] {
        let mut request = EnableCap {
            cap,
            ..EnableCap::default()
        };
        assert_eq!(
            raw::with(vm.fd(), KVM_ENABLE_CAP, &mut request),
            Err(EINVAL),
            "{cap:#x}"
        );
    }
}

fn tss_address(lab: &Lab) {
    let vm = machine::vm(lab);
    assert_eq!(raw::number(vm.fd(), KVM_SET_TSS_ADDR, 0xfffb_d000), Ok(0));
    assert_eq!(
        raw::number(vm.fd(), KVM_SET_TSS_ADDR, 0xffff_e000),
        Err(EINVAL)
    );
}

fn identity_map_address(lab: &Lab) {
    let vm = machine::vm(lab);
    let mut address = 0xfffb_c000_u64;
    assert_eq!(
        raw::with(vm.fd(), KVM_SET_IDENTITY_MAP_ADDR, &mut address),
        Ok(0)
    );
    let _cpu = vm.vcpu(0).expect("a vCPU");
    assert_eq!(
        raw::with(vm.fd(), KVM_SET_IDENTITY_MAP_ADDR, &mut address),
        Err(EINVAL)
    );
}

fn tsc_frequency(lab: &Lab) {
    let vm = machine::vm(lab);
    let cpu = vm.vcpu(0).expect("a vCPU");
    let on_vm = raw::number(vm.fd(), KVM_GET_TSC_KHZ, 0).expect("on the VM");
    assert!(on_vm > 0);
    assert_eq!(raw::number(cpu.fd(), KVM_GET_TSC_KHZ, 0), Ok(on_vm));
}

fn forked_child_gets_eio(lab: &Lab) {
    let mut machine = incrementer(lab);
    let fds = [machine.vm.fd().as_raw_fd(), machine.cpu.fd().as_raw_fd()];
    let calls = [
        (0, KVM_CHECK_EXTENSION),
        (0, KVM_CREATE_VCPU),
        (0, KVM_SET_USER_MEMORY_REGION),
        (0, io(0x1f)),
        (1, KVM_RUN),
        (1, KVM_GET_REGS),
        (1, KVM_SET_REGS),
        (1, io(0x1f)),
    ];
    // SAFETY: the child makes system calls only, on numbers it has copied.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let wrong = calls
            .iter()
            .position(|(fd, code)| raw::number(&fds[*fd], *code, 0) != Err(EIO));
        // SAFETY: leaves at once, without the parent's destructors.
        unsafe { libc::_exit(wrong.map_or(0, |i| 1 + i as i32)) };
    }
    let mut status = 0;
    // SAFETY: `status` is valid; waits for the child made above.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert!(libc::WIFEXITED(status));
    assert_eq!(
        libc::WEXITSTATUS(status),
        0,
        "number of the call that did not give EIO"
    );
    assert_eq!(
        increment(&mut machine, guest::DATA),
        Stop::Hlt,
        "the parent goes on"
    );
}
