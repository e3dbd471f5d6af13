// SPDX-License-Identifier: GPL-2.0

//! Structures of the calls on a VM.

abi! {
    /// A memslot: guest-physical memory backed by the caller's own memory
    /// (KVM api.rst 4.35). `memory_size` 0 deletes the slot.
    pub struct UserMemoryRegion: 32 {
        /// Slot id in bits 15:0, address space in bits 31:16.
        pub slot: u32,
        /// [`KVM_MEM_LOG_DIRTY_PAGES`], [`KVM_MEM_READONLY`].
        pub flags: u32,
        /// First guest-physical address, page aligned.
        pub guest_phys_addr: u64,
        /// Bytes, page aligned.
        pub memory_size: u64,
        /// First address in the caller's memory, page aligned.
        pub userspace_addr: u64,
    }

    /// Argument of `KVM_ENABLE_CAP` (KVM api.rst 4.37).
    pub struct EnableCap: 104 {
        /// The capability.
        pub cap: u32,
        /// Must be 0.
        pub flags: u32,
        /// What they mean depends on the capability.
        pub args: [u64; 4],
        /// Room to grow; KVM does not look at it.
        pub pad: [u64; 8],
    }
}

/// Memslot flag: log which pages the guest writes.
pub const KVM_MEM_LOG_DIRTY_PAGES: u32 = 1 << 0;
/// Memslot flag: guest writes leave as `KVM_EXIT_MMIO`.
pub const KVM_MEM_READONLY: u32 = 1 << 1;
