// SPDX-License-Identifier: GPL-2.0

//! `KVM_ENABLE_CAP(KVM_CAP_SPP)`, `KVM_SPP_SET_MAPS` and `KVM_SPP_GET_MAPS`.

use super::check_map;
use crate::harness::{tests, Lab};
use crate::machine::{self, spp_vm, Machine};
use crate::raw::{self, Mapping, Sys, NOWHERE};
use guest::{Mode, DATA, PAGE_SIZE};
use ioctl_api::memory::EnableCap;
use ioctl_api::number::{KVM_ENABLE_CAP, KVM_SPP_GET_MAPS, KVM_SPP_SET_MAPS};
use ioctl_api::subpage::{
    Maps, FULL, KVM_CAP_SPP, KVM_SPP_CAP_HW, KVM_SPP_CAP_SW, KVM_SPP_CAUSE_EMULATED,
    KVM_SPP_CAUSE_HARDWARE, KVM_SPP_MAX_PAGES,
};
use libc::{E2BIG, EBUSY, EFAULT, EINVAL, EIO, ENODEV};
use vmm::Vm;

tests![
    capability_is_the_same_on_both_files,
    calls_fail_while_the_capability_is_off,
    enable_refuses_flags_and_arguments,
    backend_is_chosen,
    enable_twice,
    enable_after_a_vcpu,
    pages_without_a_map_are_full,
    maps_read_back,
    ranges_overlay_each_other,
    malformed_ranges_change_nothing,
    bad_addresses_change_nothing,
    longest_range,
    last_pages_of_the_address_space,
    maps_of_two_vms_are_apart,
    two_vcpus_obey_one_map,
    forked_child_gets_eio,
];

/// Both calls with the same argument.
fn both(vm: &Vm, maps: &Maps) -> [Sys; 2] {
    let mut maps = *maps;
    [KVM_SPP_SET_MAPS, KVM_SPP_GET_MAPS].map(|code| raw::with(vm.fd(), code, &mut maps))
}

fn range(gpa: u64, maps: &mut [u32]) -> Maps {
    Maps {
        gpa,
        npages: maps.len() as u64,
        maps: maps.as_mut_ptr().expose_provenance() as u64,
        ..Maps::default()
    }
}

fn capability_is_the_same_on_both_files(lab: &Lab) {
    lab.needs_spp();
    let mask = lab.spp_mask();
    assert_eq!(mask & !(KVM_SPP_CAP_HW | KVM_SPP_CAP_SW), 0);
    assert_ne!(mask & KVM_SPP_CAP_SW, 0, "software needs nothing");
    let vm = machine::vm(lab);
    let of_vm = vm.fd().check_extension_raw(KVM_CAP_SPP.into());
    assert_eq!(of_vm, mask as i32);
}

fn calls_fail_while_the_capability_is_off(lab: &Lab) {
    lab.needs_spp();
    let vm = machine::vm(lab);
    let mut maps = [7; 2];
    assert_eq!(both(&vm, &range(DATA, &mut maps)), [Err(ENODEV); 2]);
    assert_eq!(maps, [7; 2]);
}

fn enable(vm: &Vm, change: impl FnOnce(&mut EnableCap)) -> Sys {
    let mut cap = EnableCap {
        cap: KVM_CAP_SPP,
        ..EnableCap::default()
    };
    change(&mut cap);
    raw::with(vm.fd(), KVM_ENABLE_CAP, &mut cap)
}

fn enable_refuses_flags_and_arguments(lab: &Lab) {
    lab.needs_spp();
    let vm = machine::vm(lab);
    for bit in [0, 1, 31] {
        assert_eq!(
            enable(&vm, |c| c.flags = 1 << bit),
            Err(EINVAL),
            "flag {bit}"
        );
    }
    let two = u64::from(KVM_SPP_CAP_HW | KVM_SPP_CAP_SW);
    for backend in [two, 4, 1 << 32, 1 << 63, u64::MAX] {
        let result = enable(&vm, |c| c.args[0] = backend);
        assert_eq!(result, Err(EINVAL), "backend {backend:#x}");
    }
    for n in 1..4 {
        assert_eq!(enable(&vm, |c| c.args[n] = 1), Err(EINVAL), "args[{n}]");
    }
    let mut maps = [7];
    assert_eq!(
        both(&vm, &range(DATA, &mut maps)),
        [Err(ENODEV); 2],
        "still off"
    );
}

/// Each backend that the capability names, and no other, and the best for 0.
fn backend_is_chosen(lab: &Lab) {
    lab.needs_spp();
    let mask = lab.spp_mask();
    for backend in [0, KVM_SPP_CAP_HW, KVM_SPP_CAP_SW] {
        let vm = machine::vm(lab);
        let there = backend & !mask == 0;
        let expected = if there { Ok(0) } else { Err(ENODEV) };
        assert_eq!(enable(&vm, |c| c.args[0] = backend.into()), expected);
        let maps = vm.set_maps(DATA, &[5]).map_err(|e| e.errno());
        assert_eq!(maps, if there { Ok(()) } else { Err(Some(ENODEV)) });
        if !there {
            continue;
        }
        let mut machine = Machine::load(vm, machine::program(Mode::Long, super::one_store));
        let exit = super::store(&mut machine, DATA + 0x80, 1).expect("a denial");
        let software = backend == KVM_SPP_CAP_SW || mask & KVM_SPP_CAP_HW == 0;
        let cause = match software {
            true => KVM_SPP_CAUSE_EMULATED,
            false => KVM_SPP_CAUSE_HARDWARE,
        };
        assert_eq!(exit.cause, cause, "backend {backend}");
    }
}

fn enable_twice(lab: &Lab) {
    let vm = spp_vm(lab);
    vm.set_maps(DATA, &[5]).expect("maps");
    assert_eq!(enable(&vm, |_| ()), Ok(0));
    assert_eq!(vm.maps(DATA, 1).expect("maps"), [5]);
}

fn enable_after_a_vcpu(lab: &Lab) {
    lab.needs_spp();
    let vm = machine::vm(lab);
    let cpu = vm.vcpu(0).expect("a vCPU");
    assert_eq!(enable(&vm, |_| ()), Err(EBUSY));
    drop(cpu);
    assert_eq!(enable(&vm, |_| ()), Err(EBUSY), "a closed vCPU stays");
}

fn pages_without_a_map_are_full(lab: &Lab) {
    let vm = spp_vm(lab);
    for gpa in [0, DATA, 1 << 30, 1 << 35] {
        assert_eq!(vm.maps(gpa, 3).expect("maps"), [FULL; 3], "{gpa:#x}");
    }
}

fn maps_read_back(lab: &Lab) {
    let vm = spp_vm(lab);
    let maps: Vec<u32> = (0..1200_u32).map(|n| n.wrapping_mul(0x9e37_79b9)).collect();
    // Across a 2-MiB border, in memory and where there is none.
    for gpa in [DATA, (1 << 30) - 7 * PAGE_SIZE] {
        vm.set_maps(gpa, &maps).expect("maps");
        assert_eq!(vm.maps(gpa, maps.len()).expect("maps"), maps);
        assert_eq!(vm.maps(gpa - PAGE_SIZE, 1).expect("maps"), [FULL]);
        let behind = gpa + PAGE_SIZE * maps.len() as u64;
        assert_eq!(vm.maps(behind, 1).expect("maps"), [FULL]);
    }
}

fn ranges_overlay_each_other(lab: &Lab) {
    let vm = spp_vm(lab);
    vm.set_maps(DATA, &[1, 2, 3, 4, 5, 6]).expect("maps");
    vm.set_maps(DATA + 2 * PAGE_SIZE, &[FULL, 0]).expect("maps");
    assert_eq!(vm.maps(DATA, 7).expect("maps"), [1, 2, FULL, 0, 5, 6, FULL]);
    vm.set_maps(DATA, &[FULL; 6]).expect("maps");
    assert_eq!(vm.maps(DATA, 7).expect("maps"), [FULL; 7]);
}

fn malformed_ranges_change_nothing(lab: &Lab) {
    let vm = spp_vm(lab);
    let mut maps = [0x1111_1111, 0x2222_2222];
    let good = range(DATA, &mut maps);
    let bad = |change: &dyn Fn(&mut Maps)| {
        let mut maps = good;
        change(&mut maps);
        both(&vm, &maps)
    };
    for offset in [1, 127, 128, 2048, 4095] {
        assert_eq!(
            bad(&|m| m.gpa += offset),
            [Err(EINVAL); 2],
            "gpa + {offset}"
        );
    }
    assert_eq!(bad(&|m| m.npages = 0), [Err(EINVAL); 2]);
    assert_eq!(bad(&|m| m.npages = KVM_SPP_MAX_PAGES + 1), [Err(E2BIG); 2]);
    assert_eq!(bad(&|m| m.npages = u64::MAX), [Err(E2BIG); 2]);
    for bit in [0, 1, 32, 63] {
        assert_eq!(bad(&|m| m.flags = 1 << bit), [Err(EINVAL); 2], "flag {bit}");
    }
    for word in 0..4 {
        assert_eq!(
            bad(&|m| m.reserved[word] = 1),
            [Err(EINVAL); 2],
            "reserved {word}"
        );
    }
    let beyond = [
        1 << 48,
        (1 << 48) - PAGE_SIZE,
        1 << 52,
        1 << 63,
        !(PAGE_SIZE - 1),
        !(2 * PAGE_SIZE - 1),
    ];
    for gpa in beyond {
        assert_eq!(bad(&|m| m.gpa = gpa), [Err(EINVAL); 2], "gpa {gpa:#x}");
    }
    assert_eq!(vm.maps(DATA, 3).expect("maps"), [FULL; 3]);
    assert_eq!(maps, [0x1111_1111, 0x2222_2222], "nothing read back");
}

fn bad_addresses_change_nothing(lab: &Lab) {
    let vm = spp_vm(lab);
    for code in [KVM_SPP_SET_MAPS, KVM_SPP_GET_MAPS] {
        assert_eq!(raw::number(vm.fd(), code, NOWHERE), Err(EFAULT));
        assert_eq!(raw::number(vm.fd(), code, usize::MAX - 63), Err(EFAULT));
    }
    for address in [0, NOWHERE as u64, 1 << 47, 1 << 63, u64::MAX, u64::MAX - 3] {
        let maps = Maps {
            gpa: DATA,
            npages: 2,
            maps: address,
            ..Maps::default()
        };
        assert_eq!(both(&vm, &maps), [Err(EFAULT); 2], "{address:#x}");
    }
    // The array ends where the memory does, in the middle.
    let memory = Mapping::anonymous(PAGE_SIZE as usize, PAGE_SIZE as usize);
    let maps = Maps {
        gpa: DATA,
        npages: 4,
        maps: (memory.address() + memory.len() - 8) as u64,
        ..Maps::default()
    };
    assert_eq!(both(&vm, &maps), [Err(EFAULT); 2]);
    assert_eq!(vm.maps(DATA, 4).expect("maps"), [FULL; 4]);
}

fn longest_range(lab: &Lab) {
    let vm = spp_vm(lab);
    let maps: Vec<u32> = (0..KVM_SPP_MAX_PAGES as u32).map(|n| !n).collect();
    vm.set_maps(0, &maps).expect("maps");
    assert!(vm.maps(0, maps.len()).expect("maps") == maps);
    vm.set_maps(0, &vec![FULL; maps.len()]).expect("maps");
    assert!(vm
        .maps(0, maps.len())
        .expect("maps")
        .iter()
        .all(|m| *m == FULL));
}

/// First guest-physical address that does not exist.
fn gpa_limit(lab: &Lab) -> u64 {
    let cpuid = lab.kvm().get_supported_cpuid(256).expect("CPUID");
    let leaf = |e: &&kvm_bindings::kvm_cpuid_entry2| e.function == 0x8000_0008;
    let sizes = cpuid.as_slice().iter().find(leaf).expect("leaf 0x80000008");
    1 << (sizes.eax & 0xff).min(48)
}

fn last_pages_of_the_address_space(lab: &Lab) {
    let vm = spp_vm(lab);
    let end = gpa_limit(lab);
    vm.set_maps(end - 2 * PAGE_SIZE, &[3, 4]).expect("maps");
    assert_eq!(vm.maps(end - 2 * PAGE_SIZE, 2).expect("maps"), [3, 4]);
    let mut three = [0; 3];
    let mut one = [0; 1];
    let over = range(end - 2 * PAGE_SIZE, &mut three);
    assert_eq!(both(&vm, &over), [Err(EINVAL); 2], "one page too many");
    let behind = range(end, &mut one);
    assert_eq!(both(&vm, &behind), [Err(EINVAL); 2]);
    assert_eq!(vm.maps(end - 2 * PAGE_SIZE, 2).expect("maps"), [3, 4]);
}

fn maps_of_two_vms_are_apart(lab: &Lab) {
    let (mut first, mut second) = (super::storer(lab), super::storer(lab));
    first.vm.set_maps(DATA, &[0x0f0f_0f0f]).expect("maps");
    assert_eq!(second.vm.maps(DATA, 1).expect("maps"), [FULL]);
    check_map(&mut first, DATA, 0x0f0f_0f0f);
    check_map(&mut second, DATA, FULL);
    second.vm.set_maps(DATA, &[0xff00_ff00]).expect("maps");
    check_map(&mut first, DATA, 0x0f0f_0f0f);
    check_map(&mut second, DATA, 0xff00_ff00);
    drop(first);
    check_map(&mut second, DATA, 0xff00_ff00);
}

fn two_vcpus_obey_one_map(lab: &Lab) {
    let mut machine = super::storer(lab);
    let program = machine.program.clone();
    let second = machine.vm.vcpu(1).expect("a second vCPU");
    second.enter(program.mode, program.address).expect("enter");
    // Both have the page in their TLBs before it is protected.
    check_map(&mut machine, DATA, FULL);
    let first = std::mem::replace(&mut machine.cpu, second);
    check_map(&mut machine, DATA, FULL);
    machine.vm.set_maps(DATA, &[0x8000_0001]).expect("maps");
    check_map(&mut machine, DATA, 0x8000_0001);
    machine.cpu = first;
    check_map(&mut machine, DATA, 0x8000_0001);
}

fn forked_child_gets_eio(lab: &Lab) {
    let vm = spp_vm(lab);
    let mut maps = [0];
    let good = range(DATA, &mut maps);
    // SAFETY: the child makes two system calls and leaves.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let status = i32::from(both(&vm, &good) != [Err(EIO); 2]);
        // SAFETY: leaves at once, without the parent's destructors.
        unsafe { libc::_exit(status) };
    }
    let mut status = -1;
    // SAFETY: `status` is valid; waits for the child made above.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
    assert_eq!(vm.maps(DATA, 1).expect("maps"), [FULL]);
}
