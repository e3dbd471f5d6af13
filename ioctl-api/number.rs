// SPDX-License-Identifier: GPL-2.0

//! ioctl codes, all 32 bits of them.
//!
//! ```text
//!   31 30 29            16 15        8 7         0
//!  ┌─────┬────────────────┬───────────┬───────────┐
//!  │ dir │ size of struct │ type 0xAE │  number   │
//!  └─────┴────────────────┴───────────┴───────────┘
//! ```
//! Calls are told apart by the whole code, never by the low byte: on x86 0xa2,
//! 0xa3 and 0xa5 each belong to two calls of KVM. Source: `<linux/kvm.h>`,
//! `<asm-generic/ioctl.h>`.

use crate::{bus, memory, regs, subpage, vcpu};
use core::mem::size_of;

/// The type byte of all KVM ioctls, `KVMIO`.
pub const KVMIO: u32 = 0xAE;

/// The API version which `KVM_GET_API_VERSION` returns (KVM api.rst 4.1).
pub const KVM_API_VERSION: u32 = 12;

const WRITE: u32 = 1;
const READ: u32 = 2;

const fn code(dir: u32, nr: u32, size: usize) -> u32 {
    // A size that does not fit its 14 bits would change the direction bits.
    assert!(size < 1 << 14 && nr < 1 << 8);
    (dir << 30) | ((size as u32) << 16) | (KVMIO << 8) | nr
}

/// `_IO(KVMIO, nr)`: the argument is a number or unused.
pub const fn io(nr: u32) -> u32 {
    code(0, nr, 0)
}

/// `_IOR(KVMIO, nr, T)`: the kernel writes a `T`.
pub const fn ior<T>(nr: u32) -> u32 {
    code(READ, nr, size_of::<T>())
}

/// `_IOW(KVMIO, nr, T)`: the kernel reads a `T`.
pub const fn iow<T>(nr: u32) -> u32 {
    code(WRITE, nr, size_of::<T>())
}

/// `_IOWR(KVMIO, nr, T)`: the kernel reads a `T` and writes it back.
pub const fn iowr<T>(nr: u32) -> u32 {
    code(READ | WRITE, nr, size_of::<T>())
}

// On /dev/kvm-spp.

/// Returns [`KVM_API_VERSION`].
pub const KVM_GET_API_VERSION: u32 = io(0x00);
/// Makes a VM and returns its file; the argument is the machine type, 0.
pub const KVM_CREATE_VM: u32 = io(0x01);
/// Lists the MSRs that save and restore must copy.
pub const KVM_GET_MSR_INDEX_LIST: u32 = iowr::<regs::MsrList>(0x02);
/// Returns the value of a capability, 0 for an unknown one. Also on a VM.
pub const KVM_CHECK_EXTENSION: u32 = io(0x03);
/// Returns how many bytes of a vCPU file can be mapped.
pub const KVM_GET_VCPU_MMAP_SIZE: u32 = io(0x04);
/// Lists the CPUID leaves a guest can be given.
pub const KVM_GET_SUPPORTED_CPUID: u32 = iowr::<regs::Cpuid2>(0x05);
/// Lists the MSRs that describe features of the host.
pub const KVM_GET_MSR_FEATURE_INDEX_LIST: u32 = iowr::<regs::MsrList>(0x0a);

// On a VM.

/// Makes a vCPU and returns its file; the argument is its id.
pub const KVM_CREATE_VCPU: u32 = io(0x41);
/// Adds, changes, moves or deletes a memslot.
pub const KVM_SET_USER_MEMORY_REGION: u32 = iow::<memory::UserMemoryRegion>(0x46);
/// Names three guest pages for real-mode emulation; accepted and not needed.
pub const KVM_SET_TSS_ADDR: u32 = io(0x47);
/// Names a guest page for real-mode emulation; accepted and not needed.
pub const KVM_SET_IDENTITY_MAP_ADDR: u32 = iow::<u64>(0x48);
/// Collects writes to a range of addresses or ports in the ring.
pub const KVM_REGISTER_COALESCED_MMIO: u32 = iow::<bus::CoalescedZone>(0x67);
/// Takes back the zones around a range.
pub const KVM_UNREGISTER_COALESCED_MMIO: u32 = iow::<bus::CoalescedZone>(0x68);
/// Lets writes to an address or port signal an eventfd, or no longer.
pub const KVM_IOEVENTFD: u32 = iow::<bus::IoEventFd>(0x79);
/// Turns on a capability.
pub const KVM_ENABLE_CAP: u32 = iow::<memory::EnableCap>(0xa3);
/// Sets the sub-page maps of a range of pages, all or none.
pub const KVM_SPP_SET_MAPS: u32 = iow::<subpage::Maps>(0xf0);
/// Reads the sub-page maps of a range of pages.
pub const KVM_SPP_GET_MAPS: u32 = iow::<subpage::Maps>(0xf1);

// On a vCPU.

/// Runs the guest until something needs user space.
pub const KVM_RUN: u32 = io(0x80);
/// Reads the general registers.
pub const KVM_GET_REGS: u32 = ior::<regs::Regs>(0x81);
/// Writes the general registers.
pub const KVM_SET_REGS: u32 = iow::<regs::Regs>(0x82);
/// Reads segments, tables and control registers.
pub const KVM_GET_SREGS: u32 = ior::<regs::Sregs>(0x83);
/// Writes segments, tables and control registers.
pub const KVM_SET_SREGS: u32 = iow::<regs::Sregs>(0x84);
/// Queues an external interrupt.
pub const KVM_INTERRUPT: u32 = iow::<vcpu::Interrupt>(0x86);
/// Reads MSRs.
pub const KVM_GET_MSRS: u32 = iowr::<regs::Msrs>(0x88);
/// Writes MSRs.
pub const KVM_SET_MSRS: u32 = iow::<regs::Msrs>(0x89);
/// Sets the signal mask in force during [`KVM_RUN`].
pub const KVM_SET_SIGNAL_MASK: u32 = iow::<vcpu::SignalMask>(0x8b);
/// Reads the x87 and SSE registers.
pub const KVM_GET_FPU: u32 = ior::<regs::Fpu>(0x8c);
/// Writes the x87 and SSE registers.
pub const KVM_SET_FPU: u32 = iow::<regs::Fpu>(0x8d);
/// Sets what CPUID answers in the guest.
pub const KVM_SET_CPUID2: u32 = iow::<regs::Cpuid2>(0x90);
/// Reads what CPUID answers in the guest.
pub const KVM_GET_CPUID2: u32 = iowr::<regs::Cpuid2>(0x91);
/// Reads whether the vCPU runs, halts or waits for a SIPI.
pub const KVM_GET_MP_STATE: u32 = ior::<vcpu::MpState>(0x98);
/// Writes whether the vCPU runs, halts or waits for a SIPI.
pub const KVM_SET_MP_STATE: u32 = iow::<vcpu::MpState>(0x99);
/// Queues an NMI.
pub const KVM_NMI: u32 = io(0x9a);
/// Reads pending exceptions, interrupts and NMIs.
pub const KVM_GET_VCPU_EVENTS: u32 = ior::<vcpu::VcpuEvents>(0x9f);
/// Writes pending exceptions, interrupts and NMIs.
pub const KVM_SET_VCPU_EVENTS: u32 = iow::<vcpu::VcpuEvents>(0xa0);
/// Reads the debug registers.
pub const KVM_GET_DEBUGREGS: u32 = ior::<regs::Debugregs>(0xa1);
/// Writes the debug registers.
pub const KVM_SET_DEBUGREGS: u32 = iow::<regs::Debugregs>(0xa2);
/// Returns the frequency of the guest's TSC in kHz. Also on a VM.
pub const KVM_GET_TSC_KHZ: u32 = io(0xa3);
/// Reads the XSAVE area, [`regs::XSAVE_SIZE`] bytes.
pub const KVM_GET_XSAVE: u32 = ior::<[u8; regs::XSAVE_SIZE]>(0xa4);
/// Writes the XSAVE area, [`regs::XSAVE_SIZE`] bytes.
pub const KVM_SET_XSAVE: u32 = iow::<[u8; regs::XSAVE_SIZE]>(0xa5);
/// Reads the extended control registers.
pub const KVM_GET_XCRS: u32 = ior::<regs::Xcrs>(0xa6);
/// Writes the extended control registers.
pub const KVM_SET_XCRS: u32 = iow::<regs::Xcrs>(0xa7);
