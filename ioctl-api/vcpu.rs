// SPDX-License-Identifier: GPL-2.0

//! Run state and pending events of a vCPU.

/// Bytes of the kernel's signal set, the only [`SignalMask::len`] accepted.
pub const SIGSET_SIZE: u32 = 8;

/// MP state: the vCPU executes.
pub const KVM_MP_STATE_RUNNABLE: u32 = 0;
/// MP state: an application processor before INIT.
pub const KVM_MP_STATE_UNINITIALIZED: u32 = 1;
/// MP state: INIT arrived, it waits for a SIPI.
pub const KVM_MP_STATE_INIT_RECEIVED: u32 = 2;
/// MP state: it executed HLT and waits for an interrupt.
pub const KVM_MP_STATE_HALTED: u32 = 3;
/// MP state: a SIPI arrived.
pub const KVM_MP_STATE_SIPI_RECEIVED: u32 = 4;

/// Event flag: [`NmiEvent::pending`] is meant to be set.
pub const KVM_VCPUEVENT_VALID_NMI_PENDING: u32 = 1 << 0;
/// Event flag: [`VcpuEvents::sipi_vector`] is meant to be set.
pub const KVM_VCPUEVENT_VALID_SIPI_VECTOR: u32 = 1 << 1;
/// Event flag: [`InterruptEvent::shadow`] is meant to be set.
pub const KVM_VCPUEVENT_VALID_SHADOW: u32 = 1 << 2;
/// Event flag: [`VcpuEvents::smi`] is meant to be set.
pub const KVM_VCPUEVENT_VALID_SMM: u32 = 1 << 3;
/// Event flag: the exception payload is meant to be set.
pub const KVM_VCPUEVENT_VALID_PAYLOAD: u32 = 1 << 4;
/// Event flag: [`VcpuEvents::triple_fault_pending`] is meant to be set.
pub const KVM_VCPUEVENT_VALID_TRIPLE_FAULT: u32 = 1 << 5;

/// Interrupt shadow: the last instruction loaded SS.
pub const KVM_X86_SHADOW_INT_MOV_SS: u8 = 1;
/// Interrupt shadow: the last instruction was STI.
pub const KVM_X86_SHADOW_INT_STI: u8 = 2;

abi! {
    /// Argument of `KVM_INTERRUPT` (KVM api.rst 4.16).
    pub struct Interrupt: 4 {
        /// The vector, 0 to 255.
        pub irq: u32,
    }

    /// Argument of `KVM_GET_MP_STATE` and its pair (KVM api.rst 4.38).
    pub struct MpState: 4 {
        /// One of `KVM_MP_STATE_*`.
        pub mp_state: u32,
    }

    /// Head of `struct kvm_signal_mask`; `len` bytes follow (KVM api.rst 4.21).
    pub struct SignalMask: 4 {
        /// Must be [`SIGSET_SIZE`].
        pub len: u32,
    }

    /// The exception part of [`VcpuEvents`].
    pub struct ExceptionEvent: 8 {
        /// 1 if it is being delivered.
        pub injected: u8,
        /// Vector.
        pub nr: u8,
        /// 1 if it pushes `error_code`.
        pub has_error_code: u8,
        /// 1 if delivery has not begun.
        pub pending: u8,
        /// Error code.
        pub error_code: u32,
    }

    /// The interrupt part of [`VcpuEvents`].
    pub struct InterruptEvent: 4 {
        /// 1 if it is being delivered.
        pub injected: u8,
        /// Vector.
        pub nr: u8,
        /// 1 if an INT instruction raised it.
        pub soft: u8,
        /// `KVM_X86_SHADOW_INT_*`.
        pub shadow: u8,
    }

    /// The NMI part of [`VcpuEvents`].
    pub struct NmiEvent: 4 {
        /// 1 if it is being delivered.
        pub injected: u8,
        /// How many wait.
        pub pending: u8,
        /// 1 if NMIs are blocked until IRET.
        pub masked: u8,
        /// Ignored.
        pub pad: u8,
    }

    /// The system-management part of [`VcpuEvents`]; always 0 here.
    pub struct SmiEvent: 4 {
        /// 1 in system-management mode.
        pub smm: u8,
        /// 1 if an SMI waits.
        pub pending: u8,
        /// 1 if NMIs were blocked on entry to that mode.
        pub smm_inside_nmi: u8,
        /// 1 if INIT waits.
        pub latched_init: u8,
    }

    /// Argument of `KVM_GET_VCPU_EVENTS` and its pair (KVM api.rst 4.31).
    pub struct VcpuEvents: 64 {
        /// Exception being delivered or pending.
        pub exception: ExceptionEvent,
        /// Interrupt being delivered, and what blocks interrupts.
        pub interrupt: InterruptEvent,
        /// NMIs being delivered, pending and blocked.
        pub nmi: NmiEvent,
        /// Start page of an application processor.
        pub sipi_vector: u32,
        /// `KVM_VCPUEVENT_VALID_*`.
        pub flags: u32,
        /// System-management mode.
        pub smi: SmiEvent,
        /// 1 if a triple fault waits.
        pub triple_fault_pending: u8,
        /// Ignored, 0 when read.
        pub reserved: [u8; 26],
        /// 1 if `exception_payload` is valid.
        pub exception_has_payload: u8,
        /// CR2 of a #PF, DR6 of a #DB.
        pub exception_payload: u64,
    }
}
