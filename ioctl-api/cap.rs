// SPDX-License-Identifier: GPL-2.0

//! Capability numbers of `<linux/kvm.h>` that the module has an answer for,
//! and some that it must say no to knowingly. Ours is
//! [`KVM_CAP_SPP`](crate::subpage::KVM_CAP_SPP).

/// The interrupt controllers can live in the kernel.
pub const KVM_CAP_IRQCHIP: u32 = 0;
/// HLT is known.
pub const KVM_CAP_HLT: u32 = 1;
/// Guest memory is the caller's memory.
pub const KVM_CAP_USER_MEMORY: u32 = 3;
/// `KVM_SET_TSS_ADDR` exists.
pub const KVM_CAP_SET_TSS_ADDR: u32 = 4;
/// `KVM_SET_CPUID2` exists.
pub const KVM_CAP_EXT_CPUID: u32 = 7;
/// Value: how many vCPUs of a VM are advisable.
pub const KVM_CAP_NR_VCPUS: u32 = 9;
/// Value: how many memslots a VM can have.
pub const KVM_CAP_NR_MEMSLOTS: u32 = 10;
/// `KVM_GET_MP_STATE` and its pair exist.
pub const KVM_CAP_MP_STATE: u32 = 14;
/// Value: the page of a vCPU's mapping that holds the ring of coalesced writes.
pub const KVM_CAP_COALESCED_MMIO: u32 = 15;
/// Changes of the caller's mappings show in the guest.
pub const KVM_CAP_SYNC_MMU: u32 = 16;
/// Deleting a memslot works.
pub const KVM_CAP_DESTROY_MEMORY_REGION_WORKS: u32 = 21;
/// `KVM_NMI` exists.
pub const KVM_CAP_USER_NMI: u32 = 22;
/// Memslots may touch each other.
pub const KVM_CAP_JOIN_MEMORY_REGIONS_WORKS: u32 = 30;
/// `KVM_IOEVENTFD` exists.
pub const KVM_CAP_IOEVENTFD: u32 = 36;
/// `KVM_SET_IDENTITY_MAP_ADDR` exists.
pub const KVM_CAP_SET_IDENTITY_MAP_ADDR: u32 = 37;
/// `KVM_EXIT_INTERNAL_ERROR` carries data.
pub const KVM_CAP_INTERNAL_ERROR_DATA: u32 = 40;
/// `KVM_GET_VCPU_EVENTS` and its pair exist.
pub const KVM_CAP_VCPU_EVENTS: u32 = 41;
/// The interrupt shadow is part of the events.
pub const KVM_CAP_INTR_SHADOW: u32 = 49;
/// `KVM_GET_DEBUGREGS` and its pair exist.
pub const KVM_CAP_DEBUGREGS: u32 = 50;
/// `KVM_ENABLE_CAP` exists on a vCPU.
pub const KVM_CAP_ENABLE_CAP: u32 = 54;
/// `KVM_GET_XSAVE` and its pair exist.
pub const KVM_CAP_XSAVE: u32 = 55;
/// `KVM_GET_XCRS` and its pair exist.
pub const KVM_CAP_XCRS: u32 = 56;
/// `KVM_GET_TSC_KHZ` exists.
pub const KVM_CAP_GET_TSC_KHZ: u32 = 61;
/// Value: how many vCPUs a VM can have.
pub const KVM_CAP_MAX_VCPUS: u32 = 66;
/// Value: the register sets `struct kvm_run` can carry.
pub const KVM_CAP_SYNC_REGS: u32 = 74;
/// `KVM_MEM_READONLY` is known.
pub const KVM_CAP_READONLY_MEM: u32 = 81;
/// `KVM_ENABLE_CAP` exists on a VM.
pub const KVM_CAP_ENABLE_CAP_VM: u32 = 98;
/// `KVM_IOEVENTFD` takes length 0 for ports.
pub const KVM_CAP_IOEVENTFD_NO_LENGTH: u32 = 100;
/// `KVM_CHECK_EXTENSION` exists on a VM.
pub const KVM_CAP_CHECK_EXTENSION_VM: u32 = 105;
/// `KVM_IOEVENTFD` takes length 0 for memory, too.
pub const KVM_CAP_IOEVENTFD_ANY_LENGTH: u32 = 122;
/// Value: one more than the largest vCPU id.
pub const KVM_CAP_MAX_VCPU_ID: u32 = 128;
/// `immediate_exit` of `struct kvm_run` is honoured.
pub const KVM_CAP_IMMEDIATE_EXIT: u32 = 136;
/// `KVM_GET_MSR_FEATURE_INDEX_LIST` exists.
pub const KVM_CAP_GET_MSR_FEATURES: u32 = 153;
/// Writes to ports can be collected in the ring.
pub const KVM_CAP_COALESCED_PIO: u32 = 162;
/// Value: a mask of machine types for `KVM_CREATE_VM`.
pub const KVM_CAP_VM_TYPES: u32 = 235;
