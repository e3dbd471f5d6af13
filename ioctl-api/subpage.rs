// SPDX-License-Identifier: GPL-2.0

//! Sub-page write permissions: the part of the ABI that KVM does not have.
//!
//! A guest page has 32 sub-pages of 128 bytes. Bit `n` of its map tells whether
//! the guest may write bytes `128 * n ..= 128 * n + 127` (SDM 3C 29.3.4). A page
//! for which no map was set has [`FULL`].
//!
//! ```text
//!  CHECK_EXTENSION(KVM_CAP_SPP) > 0
//!        │
//!  ENABLE_CAP(KVM_CAP_SPP) on the VM, before its first vCPU
//!        │
//!  KVM_SPP_SET_MAPS ──► KVM_RUN ──► KVM_EXIT_SPP ─┬─ set maps, KVM_RUN: retry
//!                          ▲                      └─ SET_REGS new RIP,
//!                          └───────────────────────  KVM_RUN: skip
//! ```
//!
//! The numbers lie far from those upstream hands out in order (capability,
//! exit) and at the end of KVM's ioctl range with the size of the structure in
//! the code, so that no program takes them for something else.

/// `KVM_CHECK_EXTENSION`: a mask of `KVM_SPP_CAP_*`, 0 if not available.
///
/// `KVM_ENABLE_CAP` on the VM takes `flags` 0 and must precede the first vCPU.
/// `args[0]` chooses who checks the maps: [`KVM_SPP_CAP_HW`],
/// [`KVM_SPP_CAP_SW`], or 0 for the best there is. Errors: `EINVAL` for other
/// arguments, `ENODEV` if what is asked for is not available, `EBUSY` if the VM
/// has a vCPU.
pub const KVM_CAP_SPP: u32 = 0x5350_0001;

/// [`KVM_CAP_SPP`] bit: the processor checks the maps (VM-execution control
/// "sub-page write permissions for EPT").
pub const KVM_SPP_CAP_HW: u32 = 1 << 0;
/// [`KVM_CAP_SPP`] bit: the module checks the maps. It emulates each write to a
/// page that has one.
pub const KVM_SPP_CAP_SW: u32 = 1 << 1;

/// Exit reason of a denied write; payload [`SppExit`].
pub const KVM_EXIT_SPP: u32 = 0x5350_0001;

/// Most pages in one [`Maps`]: the maps then fill 16 pages of memory.
pub const KVM_SPP_MAX_PAGES: u64 = 16384;

/// Map of a page that may be written everywhere.
pub const FULL: u32 = u32::MAX;

/// [`SppExit::flags`]: `gva` is valid.
pub const KVM_SPP_EXIT_GVA_VALID: u64 = 1 << 0;
/// [`SppExit::flags`]: `size` is valid.
pub const KVM_SPP_EXIT_SIZE_VALID: u64 = 1 << 1;
/// [`SppExit::flags`]: `insn_len` is valid.
pub const KVM_SPP_EXIT_INSN_LEN_VALID: u64 = 1 << 2;
/// [`SppExit::flags`]: the write was made to deliver an event to the guest,
/// which the next `KVM_RUN` delivers again. Moving RIP does not skip it.
pub const KVM_SPP_EXIT_EVENT_DELIVERY: u64 = 1 << 3;
/// [`SppExit::flags`]: what was denied is setting an accessed or dirty flag of
/// a guest paging structure; `gpa` is that of the entry, `gva` the address that
/// was being translated.
pub const KVM_SPP_EXIT_PAGE_WALK: u64 = 1 << 4;
/// [`SppExit::flags`]: the denied write is that of a read-modify-write.
pub const KVM_SPP_EXIT_READ: u64 = 1 << 5;

/// [`SppExit::cause`]: the processor denied the write (EPT violation).
pub const KVM_SPP_CAUSE_HARDWARE: u8 = 0;
/// [`SppExit::cause`]: the module denied it while it emulated an instruction.
pub const KVM_SPP_CAUSE_EMULATED: u8 = 1;

/// `EINVAL` of `<asm-generic/errno-base.h>`.
pub const EINVAL: i32 = 22;
/// `E2BIG` of `<asm-generic/errno-base.h>`.
pub const E2BIG: i32 = 7;

const PAGE_SHIFT: u32 = 12;
const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// Guest-physical addresses have at most 48 bits under a 4-level EPT.
const GPA_END: u64 = 1 << 48;

abi! {
    /// Argument of `KVM_SPP_SET_MAPS` and `KVM_SPP_GET_MAPS`: the maps of
    /// `npages` pages that follow each other.
    pub struct Maps: 64 {
        /// Guest-physical address of the first page, page aligned.
        pub gpa: u64,
        /// How many pages, 1 to [`KVM_SPP_MAX_PAGES`].
        pub npages: u64,
        /// Address in the caller's memory of `npages` `u32` maps.
        pub maps: u64,
        /// Must be 0.
        pub flags: u64,
        /// Must be 0.
        pub reserved: [u64; 4],
    }

    /// Payload of [`KVM_EXIT_SPP`]. No byte of guest memory has changed by the
    /// denied access and RIP is still at the instruction.
    pub struct SppExit: 128 {
        /// `KVM_SPP_EXIT_*`: which of the fields below are valid.
        pub flags: u64,
        /// Guest-physical address of the first byte that was denied, as far as
        /// the processor tells it.
        pub gpa: u64,
        /// Guest-linear address that belongs to `gpa`.
        pub gva: u64,
        /// Guest RIP.
        pub rip: u64,
        /// Bytes of the access.
        pub size: u32,
        /// Sub-pages that the access touches and may not write: the one of
        /// `gpa`, and others on its page if `size` is valid.
        pub denied: u32,
        /// The map of the page when the write was denied.
        pub map: u32,
        /// One of `KVM_SPP_CAUSE_*`.
        pub cause: u8,
        /// Length of the instruction at `rip`, in bytes.
        pub insn_len: u8,
        /// How many bytes of `insn` are valid, 0 to 15.
        pub insn_bytes: u8,
        /// 0.
        pub pad: u8,
        /// Bytes at `rip`.
        pub insn: [u8; 16],
        /// 0.
        pub reserved: [u64; 8],
    }
}

/// Why [`Maps::check`] refused a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRange {
    /// Flags or reserved words are set, the address is not page aligned, there
    /// are no pages, or the range ends beyond the guest-physical addresses.
    Invalid,
    /// More than [`KVM_SPP_MAX_PAGES`] pages.
    TooLong,
}

impl BadRange {
    /// The errno user space gets, positive: [`EINVAL`] or [`E2BIG`].
    pub const fn errno(self) -> i32 {
        match self {
            Self::Invalid => EINVAL,
            Self::TooLong => E2BIG,
        }
    }
}

impl Maps {
    /// The range as (first gfn, number of pages).
    ///
    /// `gpa_limit` is the first guest-physical address that does not exist.
    ///
    /// # Errors
    /// [`BadRange::TooLong`] (`E2BIG`) if the range is well formed but has more
    /// than [`KVM_SPP_MAX_PAGES`] pages; [`BadRange::Invalid`] (`EINVAL`) for
    /// everything else that is wrong with the fields. `maps` is not looked at:
    /// a bad pointer shows as `EFAULT` when it is used.
    pub fn check(&self, gpa_limit: u64) -> Result<(u64, u64), BadRange> {
        if self.flags != 0 || self.reserved != [0; 4] {
            return Err(BadRange::Invalid);
        }
        if self.npages == 0 || self.gpa & (PAGE_SIZE - 1) != 0 {
            return Err(BadRange::Invalid);
        }
        if self.npages > KVM_SPP_MAX_PAGES {
            return Err(BadRange::TooLong);
        }
        // Cannot overflow after the check above, but the sum below can.
        let bytes = self.npages << PAGE_SHIFT;
        match self.gpa.checked_add(bytes) {
            Some(end) if end <= gpa_limit.min(GPA_END) => Ok((self.gpa >> PAGE_SHIFT, self.npages)),
            _ => Err(BadRange::Invalid),
        }
    }
}
