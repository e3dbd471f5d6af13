// SPDX-License-Identifier: GPL-2.0

//! The VMX instructions (SDM 3C chapter 31), one function each.
//!
//! All are `unsafe`: they need VMX operation (VMXON itself excepted), which the
//! caller proves with a `Window`. A fault is caught by the exception table and
//! reported like VMfail, so that a CPU that left VMX operation in a crash path
//! cannot take the host down here.

use crate::host::ex_table::on_fault;
use core::arch::asm;
use ept::Hpa;
use kernel::prelude::*;

/// An instruction with a 64-bit memory operand that holds a physical address.
macro_rules! with_address {
    ($(#[$doc:meta])* $name:ident, $insn:literal) => {
        $(#[$doc])*
        pub(super) unsafe fn $name(address: Hpa) -> Result {
            let operand = address.get();
            // SAFETY: The caller guarantees what the instruction needs; its
            // operand is a local; a fault is sent to the failure label.
            unsafe {
                asm!(
                    concat!("2: ", $insn, " qword ptr [{operand}]"),
                    "jbe {failed}",
                    on_fault!("2b", "{failed}"),
                    operand = in(reg) &operand,
                    failed = label { return Err(EIO) },
                )
            };
            Ok(())
        }
    };
}

with_address!(
    /// Enters VMX operation with the VMXON region at `address`.
    ///
    /// # Safety
    ///
    /// CR4.VMXE is set, IRQs are off, and the region is this CPU's own.
    vmxon, "vmxon"
);
with_address!(
    /// Makes the VMCS at `address` current.
    ///
    /// # Safety
    ///
    /// VMX operation is on, IRQs are off, and no other CPU has the VMCS active.
    vmptrld, "vmptrld"
);
with_address!(
    /// Writes the VMCS at `address` back to memory and makes it clear.
    ///
    /// # Safety
    ///
    /// VMX operation is on and IRQs are off.
    vmclear, "vmclear"
);

/// Leaves VMX operation.
///
/// # Safety
///
/// VMX operation is on by our own VMXON in the same window, with no VMCS of ours active.
pub(super) unsafe fn vmxoff() -> Result {
    // SAFETY: The caller guarantees VMX operation; a fault is sent to the label.
    unsafe {
        asm!(
            "2: vmxoff",
            "jbe {failed}",
            on_fault!("2b", "{failed}"),
            failed = label { return Err(EIO) },
        )
    };
    Ok(())
}

/// The address of the current VMCS; all ones where there is none. An error
/// means that the CPU is not in VMX operation.
///
/// # Safety
///
/// CR4.VMXE is set and IRQs are off.
pub(super) unsafe fn vmptrst() -> Result<u64> {
    let mut address = 0u64;
    // SAFETY: The operand is a local; a fault (not in VMX operation) is sent to the label.
    unsafe {
        asm!(
            "2: vmptrst qword ptr [{address}]",
            "jbe {failed}",
            on_fault!("2b", "{failed}"),
            address = in(reg) &mut address,
            failed = label { return Err(EIO) },
        )
    };
    Ok(address)
}

/// Reads a VMCS field; 0 where the processor refuses the encoding.
///
/// # Safety
///
/// A VMCS is current on this CPU and IRQs are off.
#[inline(always)]
pub(super) unsafe fn vmread(encoding: u64) -> u64 {
    let value: u64;
    // SAFETY: The caller guarantees a current VMCS; failure and fault give 0.
    unsafe {
        asm!(
            "2: vmread {value}, {encoding}",
            "ja 4f",
            "3: xor {value:e}, {value:e}",
            "4:",
            on_fault!("2b", "3b"),
            value = out(reg) value,
            encoding = in(reg) encoding,
            options(nostack),
        )
    };
    value
}

/// Writes a VMCS field; false where the processor refuses the encoding.
///
/// # Safety
///
/// A VMCS is current on this CPU, IRQs are off, and the value keeps the host
/// sound (host-state fields hold this CPU's state).
#[inline(always)]
pub(super) unsafe fn vmwrite(encoding: u64, value: u64) -> bool {
    // SAFETY: The caller guarantees a current VMCS; a fault is sent to the label.
    unsafe {
        asm!(
            "2: vmwrite {encoding}, {value}",
            "jbe {failed}",
            on_fault!("2b", "{failed}"),
            encoding = in(reg) encoding,
            value = in(reg) value,
            failed = label { return false },
            options(nostack),
        )
    };
    true
}

/// INVEPT or INVVPID with a 128-bit descriptor.
macro_rules! invalidate {
    ($(#[$doc:meta])* $name:ident, $insn:literal) => {
        $(#[$doc])*
        pub(super) unsafe fn $name(kind: u64, low: u64, high: u64) -> Result {
            let descriptor = [low, high];
            // SAFETY: The operand is a local; a fault is sent to the label.
            unsafe {
                asm!(
                    concat!("2: ", $insn, " {kind}, xmmword ptr [{descriptor}]"),
                    "jbe {failed}",
                    on_fault!("2b", "{failed}"),
                    kind = in(reg) kind,
                    descriptor = in(reg) &descriptor,
                    failed = label { return Err(EIO) },
                )
            };
            Ok(())
        }
    };
}

invalidate!(
    /// Invalidates EPT-derived translations on this CPU. Kind 1: those of the
    /// EPT pointer in `low`; kind 2: all.
    ///
    /// # Safety
    ///
    /// VMX operation is on and IRQs are off.
    invept, "invept"
);
invalidate!(
    /// Invalidates translations by VPID on this CPU. Kind 1: those of the VPID in `low`.
    ///
    /// # Safety
    ///
    /// VMX operation is on and IRQs are off.
    invvpid, "invvpid"
);

/// Reads CR4.
pub(super) fn read_cr4() -> u64 {
    let value;
    // SAFETY: Reading CR4 at CPL 0 has no side effect.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack)) };
    value
}

/// Writes CR4 behind the kernel's shadow copy of it.
///
/// # Safety
///
/// IRQs are off, only VMXE differs from the value read in the same window, and
/// the old value is put back before IRQs are on again.
pub(super) unsafe fn write_cr4(value: u64) {
    // SAFETY: The caller changes VMXE only, which affects nothing but VMX itself.
    unsafe { asm!("mov cr4, {}", in(reg) value, options(nostack)) };
}
