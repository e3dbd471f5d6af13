// SPDX-License-Identifier: GPL-2.0

//! ioctls on the device (KVM api.rst 4.1-4.5, 4.46).

use crate::harness::{tests, Lab};
use crate::raw::{self, NOWHERE};
use ioctl_api::{cap, number::*, regs, run};
use libc::{E2BIG, EFAULT, EINVAL};

tests![
    api_version,
    capability_values,
    unknown_capabilities_are_zero,
    unknown_ioctls,
    vcpu_mmap_size,
    create_vm_type,
    two_vms,
    supported_cpuid_too_small,
    supported_cpuid_content,
    supported_cpuid_bad_address,
    msr_list_too_small,
    msr_list_content,
    msr_list_bad_address,
];

/// Room for more entries than any list has.
const ROOM: usize = 256;

/// `struct kvm_cpuid2` with room.
#[repr(C)]
#[derive(Clone, Copy)]
struct CpuidList {
    head: regs::Cpuid2,
    entries: [regs::CpuidEntry2; ROOM],
}

/// `struct kvm_msr_list` with room.
#[repr(C)]
#[derive(Clone, Copy)]
struct MsrIndices {
    head: regs::MsrList,
    indices: [u32; ROOM],
}

fn cpuid(lab: &Lab, nent: u32) -> (raw::Sys, CpuidList) {
    let mut list = CpuidList {
        head: regs::Cpuid2 { nent, padding: 0 },
        entries: [regs::CpuidEntry2::default(); ROOM],
    };
    let result = raw::with(&lab.kvm(), KVM_GET_SUPPORTED_CPUID, &mut list);
    (result, list)
}

fn msrs(lab: &Lab, nmsrs: u32) -> (raw::Sys, MsrIndices) {
    let mut list = MsrIndices {
        head: regs::MsrList { nmsrs },
        indices: [0; ROOM],
    };
    let result = raw::with(&lab.kvm(), KVM_GET_MSR_INDEX_LIST, &mut list);
    (result, list)
}

fn api_version(lab: &Lab) {
    let kvm = lab.kvm();
    assert_eq!(raw::number(&kvm, KVM_GET_API_VERSION, 0), Ok(12));
    assert_eq!(raw::number(&kvm, KVM_GET_API_VERSION, 1), Err(EINVAL));
}

fn capability_values(lab: &Lab) {
    let kvm = lab.kvm();
    let value = |cap: u32| kvm.check_extension_raw(cap.into());
    for cap in [
        cap::KVM_CAP_USER_MEMORY,
        cap::KVM_CAP_SET_TSS_ADDR,
        cap::KVM_CAP_EXT_CPUID,
        cap::KVM_CAP_MP_STATE,
        cap::KVM_CAP_SYNC_MMU,
        cap::KVM_CAP_DESTROY_MEMORY_REGION_WORKS,
        cap::KVM_CAP_USER_NMI,
        cap::KVM_CAP_JOIN_MEMORY_REGIONS_WORKS,
        cap::KVM_CAP_SET_IDENTITY_MAP_ADDR,
        cap::KVM_CAP_VCPU_EVENTS,
        cap::KVM_CAP_DEBUGREGS,
        cap::KVM_CAP_XSAVE,
        cap::KVM_CAP_XCRS,
        cap::KVM_CAP_GET_TSC_KHZ,
        cap::KVM_CAP_READONLY_MEM,
        cap::KVM_CAP_ENABLE_CAP_VM,
        cap::KVM_CAP_CHECK_EXTENSION_VM,
        cap::KVM_CAP_IMMEDIATE_EXIT,
    ] {
        assert_eq!(value(cap), 1, "capability {cap}");
    }
    assert_eq!(value(cap::KVM_CAP_NR_MEMSLOTS), 32764);
    let (advised, most) = (value(cap::KVM_CAP_NR_VCPUS), value(cap::KVM_CAP_MAX_VCPUS));
    assert!(0 < advised && advised <= most, "{advised} of {most} vCPUs");
    assert!(value(cap::KVM_CAP_MAX_VCPU_ID) >= most);
}

fn unknown_capabilities_are_zero(lab: &Lab) {
    let kvm = lab.kvm();
    let unknown = [
        0x7fff_ffff,
        0x5350_ffff,
        1 << 40,
        1 << 32,
        1 << 63,
        usize::MAX,
    ];
    for cap in unknown {
        assert_eq!(
            raw::number(&kvm, KVM_CHECK_EXTENSION, cap),
            Ok(0),
            "{cap:#x}"
        );
    }
}

fn unknown_ioctls(lab: &Lab) {
    let kvm = lab.kvm();
    // A number that nobody has, one of a VM, one of a vCPU, another type, and
    // the number of a known call with a wrong size.
    for code in [io(0x1f), KVM_CREATE_VCPU, KVM_RUN, 0x5401, ior::<u64>(0x03)] {
        assert_eq!(raw::number(&kvm, code, 0), Err(EINVAL), "{code:#x}");
    }
}

fn vcpu_mmap_size(lab: &Lab) {
    let kvm = lab.kvm();
    let size = run::MMAP_SIZE as i32;
    assert_eq!(raw::number(&kvm, KVM_GET_VCPU_MMAP_SIZE, 0), Ok(size));
    assert_eq!(raw::number(&kvm, KVM_GET_VCPU_MMAP_SIZE, 7), Err(EINVAL));
}

fn create_vm_type(lab: &Lab) {
    let kvm = lab.kvm();
    for bad in [77, 1 << 31, 1 << 40] {
        assert_eq!(
            raw::number(&kvm, KVM_CREATE_VM, bad),
            Err(EINVAL),
            "{bad:#x}"
        );
    }
    assert!(raw::owned(raw::number(&kvm, KVM_CREATE_VM, 0)).is_ok());
}

fn two_vms(lab: &Lab) {
    let kvm = lab.kvm();
    let make = || raw::owned(raw::number(&kvm, KVM_CREATE_VM, 0)).expect("KVM_CREATE_VM");
    let (first, second) = (make(), make());
    for vm in [&first, &second] {
        raw::owned(raw::number(vm, KVM_CREATE_VCPU, 0)).expect("KVM_CREATE_VCPU");
    }
}

fn supported_cpuid_too_small(lab: &Lab) {
    for nent in [0, 1, 3] {
        let (result, list) = cpuid(lab, nent);
        assert_eq!(result, Err(E2BIG), "nent {nent}");
        assert_eq!(list.entries[0], regs::CpuidEntry2::default(), "nent {nent}");
    }
    let exact = cpuid(lab, ROOM as u32).1.head.nent;
    assert_eq!(cpuid(lab, exact - 1).0, Err(E2BIG));
    assert_eq!(cpuid(lab, exact).0, Ok(0));
}

fn supported_cpuid_content(lab: &Lab) {
    let (result, list) = cpuid(lab, ROOM as u32);
    assert_eq!(result, Ok(0));
    let entries = &list.entries[..list.head.nent as usize];
    let find = |function: u32, index: u32| {
        let same = |e: &&regs::CpuidEntry2| e.function == function && e.index == index;
        entries
            .iter()
            .find(same)
            .unwrap_or_else(|| panic!("no leaf {function:#x}.{index}"))
    };
    assert!(find(0, 0).eax >= 0xd);
    let features = find(1, 0);
    if lab.is_ours() {
        assert_eq!(features.ecx & (1 << 5), 0, "no VMX");
    }
    assert_ne!(features.ecx & (1 << 31), 0, "hypervisor");
    // FPU, MSR, PAE, FXSR, SSE, SSE2.
    let base = 1 | (1 << 5) | (1 << 6) | (1 << 24) | (1 << 25) | (1 << 26);
    assert_eq!(features.edx & base, base);
    assert_ne!(find(0x8000_0001, 0).edx & (1 << 29), 0, "long mode");
    let signature = find(0x4000_0000, 0);
    assert_eq!(signature.ebx.to_le_bytes(), *b"KVMK");
    assert_eq!(find(0xd, 0).eax & 3, 3, "x87 and SSE state");
    for (i, entry) in entries.iter().enumerate() {
        let twin = |e: &regs::CpuidEntry2| e.function == entry.function && e.index == entry.index;
        assert!(!entries[..i].iter().any(twin), "twice {entry:?}");
    }
}

fn supported_cpuid_bad_address(lab: &Lab) {
    assert_eq!(
        raw::number(&lab.kvm(), KVM_GET_SUPPORTED_CPUID, NOWHERE),
        Err(EFAULT)
    );
}

fn msr_list_too_small(lab: &Lab) {
    for nmsrs in [0, 1] {
        let (result, list) = msrs(lab, nmsrs);
        assert_eq!(result, Err(E2BIG));
        assert!(list.head.nmsrs > 1, "the length is told");
        assert_eq!(list.indices, [0; ROOM]);
    }
}

fn msr_list_content(lab: &Lab) {
    let exact = msrs(lab, 0).1.head.nmsrs;
    let (result, list) = msrs(lab, exact);
    assert_eq!(result, Ok(0));
    assert_eq!(list.head.nmsrs, exact);
    let indices = &list.indices[..exact as usize];
    for msr in [0x10, 0x174, 0xc000_0081, 0xc000_0102] {
        assert!(indices.contains(&msr), "{msr:#x}");
    }
    // VMX capabilities are not the guest's.
    if lab.is_ours() {
        assert!(!indices.iter().any(|i| (0x480..0x4a0).contains(i)));
    }
}

fn msr_list_bad_address(lab: &Lab) {
    assert_eq!(
        raw::number(&lab.kvm(), KVM_GET_MSR_INDEX_LIST, NOWHERE),
        Err(EFAULT)
    );
}
