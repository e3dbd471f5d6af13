// SPDX-License-Identifier: GPL-2.0

//! CPU identification and MSRs of the host.

use super::{
    ex_table::on_fault,
    shim, //
};
use core::arch::asm;
use kernel::{
    ffi::c_void,
    prelude::*, //
};
use vmcore::cap::{
    Caps,
    Missing,
    VmxMsrs, //
};

/// CPUID of this CPU: EAX, EBX, ECX, EDX.
pub(crate) fn cpuid(leaf: u32, sub: u32) -> [u32; 4] {
    let mut out = [0; 4];
    // SAFETY: `out` has room for the four registers.
    unsafe { shim::kvm_spp_cpuid(leaf, sub, out.as_mut_ptr()) };
    out
}

/// Reads an MSR that this CPU is known to have.
#[inline(always)]
pub(crate) fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: Reading an MSR that exists has no side effect; a fault, which the
    // callers exclude, resumes behind the instruction.
    unsafe {
        asm!(
            "2: rdmsr",
            "3:",
            on_fault!("2b", "3b"),
            in("ecx") msr,
            out("eax") low,
            out("edx") high,
            options(nostack),
        )
    };
    u64::from(low) | u64::from(high) << 32
}

/// Reads an MSR that this CPU may lack.
pub(crate) fn rdmsr_safe(msr: u32) -> Option<u64> {
    let mut value = 0;
    // SAFETY: `value` is a valid place for the result.
    (unsafe { shim::kvm_spp_rdmsr_safe(msr, &mut value) } == 0).then_some(value)
}

/// The time-stamp counter of this CPU.
pub(crate) fn rdtsc() -> u64 {
    // SAFETY: RDTSC has no side effect, and CR4.TSD does not apply at CPL 0.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Writes an MSR that holds user or guest state and that the kernel itself does
/// not depend on while IRQs are off: those of `vmx::host_state`.
#[inline(always)]
pub(crate) fn wrmsr(msr: u32, value: u64) {
    // SAFETY: The callers write `SWITCHED_MSRS` in a window, with values that
    // were validated (guest) or read from the same MSR (host); a fault, which
    // this excludes, resumes behind the instruction.
    unsafe {
        asm!(
            "2: wrmsr",
            "3:",
            on_fault!("2b", "3b"),
            in("ecx") msr,
            in("eax") value as u32,
            in("edx") (value >> 32) as u32,
            options(nostack),
        )
    };
}

/// The VMX capabilities, which all online CPUs must have alike: a vCPU's VMCS
/// moves between them.
pub(crate) fn common_caps() -> Result<Caps> {
    shim::kvm_spp_cpus_read_lock();
    let caps = same_everywhere();
    shim::kvm_spp_cpus_read_unlock();
    caps
}

fn same_everywhere() -> Result<Caps> {
    let mut first = None;
    for cpu in 0..shim::kvm_spp_nr_cpu_ids() {
        if !shim::kvm_spp_cpu_online(cpu) {
            continue;
        }
        let mut msrs = VmxMsrs::default();
        let out: *mut VmxMsrs = &mut msrs;
        // SAFETY: The call waits for `read_vmx_msrs`, which writes to `out` alone.
        let err = unsafe { shim::kvm_spp_call_on_cpu(cpu, read_vmx_msrs, out.cast()) };
        kernel::error::to_result(err)?;
        let caps = Caps::new(&msrs).map_err(|Missing(what)| {
            pr_err!("CPU {} does not offer {}\n", cpu, what);
            EOPNOTSUPP
        })?;
        if *first.get_or_insert(caps) != caps {
            pr_err!("CPU {} differs from CPU 0 in its VMX capabilities\n", cpu);
            return Err(EOPNOTSUPP);
        }
    }
    first.ok_or(ENODEV)
}

/// # Safety
///
/// `out` points to a [`VmxMsrs`] that nobody else uses.
unsafe extern "C" fn read_vmx_msrs(out: *mut c_void) {
    let msrs = VmxMsrs::read(|msr| rdmsr_safe(msr).unwrap_or(0));
    // SAFETY: By the contract of this function.
    unsafe { out.cast::<VmxMsrs>().write(msrs) };
}
