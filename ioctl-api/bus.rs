// SPDX-License-Identifier: GPL-2.0

//! Guest writes that the kernel takes in the place of user space: coalesced
//! MMIO and ioeventfd (KVM api.rst 4.116, 4.59).
//!
//! ```text
//!  page 2 of a vCPU's mapping, the same page for all vCPUs of a VM
//!     0  u32 first    user space: the next entry to take
//!     4  u32 last     the kernel: the next entry to fill
//!     8  entry[170]   24 bytes each, CoalescedWrite
//! ```
//! The ring is empty when `first == last`, and full with one entry free.

/// Page of a vCPU's mapping with the ring; the value of `KVM_CAP_COALESCED_MMIO`.
pub const RING_PAGE: usize = 2;
/// Where the ring begins in the mapping.
pub const RING: usize = RING_PAGE * 4096;
/// `u32`, written by user space: index of the oldest entry.
pub const RING_FIRST: usize = RING;
/// `u32`, written by the kernel: index of the entry to fill next.
pub const RING_LAST: usize = RING + 4;
/// Where the entries begin.
pub const RING_ENTRIES: usize = RING + 8;
/// How many entries there are (`KVM_COALESCED_MMIO_MAX`).
pub const RING_LEN: u32 = 170;

/// [`IoEventFd::flags`]: fires only for the value `datamatch`.
pub const KVM_IOEVENTFD_FLAG_DATAMATCH: u32 = 1 << 0;
/// [`IoEventFd::flags`]: `addr` is a port.
pub const KVM_IOEVENTFD_FLAG_PIO: u32 = 1 << 1;
/// [`IoEventFd::flags`]: take it back.
pub const KVM_IOEVENTFD_FLAG_DEASSIGN: u32 = 1 << 2;

abi! {
    /// Addresses whose writes are collected in the ring (`kvm_coalesced_mmio_zone`).
    pub struct CoalescedZone: 16 {
        /// First guest-physical address, or port.
        pub addr: u64,
        /// Bytes.
        pub size: u32,
        /// 1 for ports, 0 for memory.
        pub pio: u32,
    }

    /// An entry of the ring (`kvm_coalesced_mmio`).
    pub struct CoalescedWrite: 24 {
        /// Guest-physical address, or port.
        pub phys_addr: u64,
        /// How many bytes of `data` were written.
        pub len: u32,
        /// 1 for a port, 0 for memory.
        pub pio: u32,
        /// What was written; the rest is 0.
        pub data: [u8; 8],
    }

    /// An eventfd that a write signals (`kvm_ioeventfd`).
    pub struct IoEventFd: 64 {
        /// The value to look for, with [`KVM_IOEVENTFD_FLAG_DATAMATCH`].
        pub datamatch: u64,
        /// Guest-physical address, or port.
        pub addr: u64,
        /// Bytes of the write: 1, 2, 4 or 8, or 0 for any.
        pub len: u32,
        /// The eventfd.
        pub fd: i32,
        /// `KVM_IOEVENTFD_FLAG_*`.
        pub flags: u32,
        /// KVM does not look at it.
        pub pad: [u32; 9],
    }
}

static_assertions::const_assert!(
    RING_ENTRIES - RING + RING_LEN as usize * core::mem::size_of::<CoalescedWrite>() <= 4096
);
