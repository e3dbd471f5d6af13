// SPDX-License-Identifier: GPL-2.0

//! The shared page `struct kvm_run` (KVM api.rst section 5).
//!
//! User space can write it at any time, so the module never holds a reference
//! to it: it reads and writes single words at the offsets given here, each at
//! most once per run, and copies whole payloads out.
//!
//! ```text
//!  mapping of a vCPU file
//!  page 0   0 request_interrupt_window   in
//!           1 immediate_exit             in
//!           8 exit_reason                out
//!          12 ready_for_injection, if_flag, flags  out
//!          16 cr8, apic_base             in and out
//!          32 payload of the exit, 256 bytes
//!         288 kvm_valid_regs, kvm_dirty_regs       in
//!  page 1   port data, at IoExit::data_offset
//!  page 2   ring of coalesced writes, see [`bus`](crate::bus)
//! ```

/// Bytes of a vCPU file that can be mapped: three pages.
pub const MMAP_SIZE: usize = 3 * 4096;
/// Where the data of port I/O begins in the mapping.
pub const PIO_DATA: usize = 4096;
/// How many bytes of port data there are.
pub const PIO_DATA_SIZE: usize = 4096;

/// `u8`, in: leave with `KVM_EXIT_IRQ_WINDOW_OPEN` when an interrupt can go in.
pub const REQUEST_INTERRUPT_WINDOW: usize = 0;
/// `u8`, in: finish the pending operation, then return `EINTR`.
pub const IMMEDIATE_EXIT: usize = 1;
/// `u32`, out: one of `KVM_EXIT_*`.
pub const EXIT_REASON: usize = 8;
/// `u8`, out: 1 if `KVM_INTERRUPT` would be delivered now.
pub const READY_FOR_INTERRUPT_INJECTION: usize = 12;
/// `u8`, out: RFLAGS.IF.
pub const IF_FLAG: usize = 13;
/// `u16`, out: `KVM_RUN_X86_*`.
pub const FLAGS: usize = 14;
/// `u64`, in and out: CR8.
pub const CR8: usize = 16;
/// `u64`, out: IA32_APIC_BASE.
pub const APIC_BASE: usize = 24;
/// Where the payload of the exit begins.
pub const PAYLOAD: usize = 32;
/// Where [`MmioExit::data`] is, which user space fills for a read.
pub const MMIO_DATA: usize = PAYLOAD + 8;
/// How many bytes of payload there are.
pub const PAYLOAD_SIZE: usize = 256;
/// `u64`, in: register sets to copy out; must be 0 here.
pub const VALID_REGS: usize = 288;
/// `u64`, in: register sets to copy in; must be 0 here.
pub const DIRTY_REGS: usize = 296;

/// Exit that no other number describes; payload [`HwExit`].
pub const KVM_EXIT_UNKNOWN: u32 = 0;
/// Port I/O; payload [`IoExit`].
pub const KVM_EXIT_IO: u32 = 2;
/// A debug event user space asked for.
pub const KVM_EXIT_DEBUG: u32 = 4;
/// The guest executed HLT.
pub const KVM_EXIT_HLT: u32 = 5;
/// Access outside of all memslots; payload [`MmioExit`].
pub const KVM_EXIT_MMIO: u32 = 6;
/// The requested interrupt window is open.
pub const KVM_EXIT_IRQ_WINDOW_OPEN: u32 = 7;
/// Triple fault.
pub const KVM_EXIT_SHUTDOWN: u32 = 8;
/// The processor refused to enter the guest; payload [`FailEntry`].
pub const KVM_EXIT_FAIL_ENTRY: u32 = 9;
/// A signal is pending; `KVM_RUN` returned `EINTR`.
pub const KVM_EXIT_INTR: u32 = 10;
/// The guest lowered CR8.
pub const KVM_EXIT_SET_TPR: u32 = 11;
/// The module cannot go on; payload [`InternalError`].
pub const KVM_EXIT_INTERNAL_ERROR: u32 = 17;

/// [`IoExit::direction`]: the guest reads the port.
pub const KVM_EXIT_IO_IN: u8 = 0;
/// [`IoExit::direction`]: the guest writes the port.
pub const KVM_EXIT_IO_OUT: u8 = 1;

/// Suberror: an instruction could not be emulated; payload [`EmulationFailure`].
pub const KVM_INTERNAL_ERROR_EMULATION: u32 = 1;
/// Suberror: two exceptions met where they cannot.
pub const KVM_INTERNAL_ERROR_SIMUL_EX: u32 = 2;
/// Suberror: an exit came during event delivery that cannot come there.
pub const KVM_INTERNAL_ERROR_DELIVERY_EV: u32 = 3;
/// Suberror: an exit reason that nothing asked for.
pub const KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: u32 = 4;

/// [`EmulationFailure::flags`]: the instruction bytes are valid.
pub const KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES: u64 = 1 << 0;

abi! {
    /// Payload of [`KVM_EXIT_UNKNOWN`].
    pub struct HwExit: 8 {
        /// VMX exit reason.
        pub hardware_exit_reason: u64,
    }

    /// Payload of [`KVM_EXIT_FAIL_ENTRY`].
    pub struct FailEntry: 16 {
        /// VMX exit reason with bit 31 set, or the VM-instruction error.
        pub hardware_entry_failure_reason: u64,
        /// Host CPU on which it failed.
        pub cpu: u32,
        /// 0.
        pub pad: u32,
    }

    /// Payload of [`KVM_EXIT_IO`].
    pub struct IoExit: 16 {
        /// [`KVM_EXIT_IO_IN`] or [`KVM_EXIT_IO_OUT`].
        pub direction: u8,
        /// Bytes of one access: 1, 2 or 4.
        pub size: u8,
        /// Port.
        pub port: u16,
        /// How many accesses.
        pub count: u32,
        /// Where the data is, from the start of the mapping.
        pub data_offset: u64,
    }

    /// Payload of [`KVM_EXIT_MMIO`].
    pub struct MmioExit: 24 {
        /// Guest-physical address.
        pub phys_addr: u64,
        /// What is written, or where user space puts what is read.
        pub data: [u8; 8],
        /// Bytes, 1 to 8.
        pub len: u32,
        /// 1 for a write.
        pub is_write: u8,
        /// 0.
        pub pad: [u8; 3],
    }

    /// Payload of [`KVM_EXIT_INTERNAL_ERROR`].
    pub struct InternalError: 136 {
        /// One of `KVM_INTERNAL_ERROR_*`.
        pub suberror: u32,
        /// How many words of `data` are valid.
        pub ndata: u32,
        /// What they mean depends on `suberror`.
        pub data: [u64; 16],
    }

    /// [`InternalError`] of [`KVM_INTERNAL_ERROR_EMULATION`], which has a
    /// layout of its own (KVM api.rst section 5, `emulation_failure`).
    pub struct EmulationFailure: 32 {
        /// [`KVM_INTERNAL_ERROR_EMULATION`].
        pub suberror: u32,
        /// 3 if the instruction bytes are valid, else 1.
        pub ndata: u32,
        /// [`KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES`] or 0.
        pub flags: u64,
        /// How many of `insn_bytes` are valid.
        pub insn_size: u8,
        /// Bytes at RIP.
        pub insn_bytes: [u8; 15],
    }
}
