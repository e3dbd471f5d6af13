// SPDX-License-Identifier: GPL-2.0

//! The host-state area of the VMCS, and what VM exits clobber beyond it.
//!
//! VM exits load the host from the VMCS (SDM 3C 28.5). Most of it never
//! changes for a task on one CPU, so each field is written only when it differs
//! from what this VMCS holds already.

use super::window::Current;
use crate::host::{
    cpu,
    shim,
    shim::HostState, //
};
use vmcore::field::{
    self,
    VmcsExt, //
};

pub(crate) use vmcore::msr::SWITCHED as SWITCHED_MSRS;

/// IA32_PERF_GLOBAL_CTRL: the host's counters stand still in the guest and go on
/// after the exit.
const PERF_GLOBAL_CTRL: u32 = 0x38f;
/// Older CPUs lack it.
const IA32_TSC_AUX: u32 = 0xc000_0103;
/// Index in [`SWITCHED_MSRS`] of IA32_KERNEL_GS_BASE, which SWAPGS changes unseen.
pub(crate) const KERNEL_GS_BASE: usize = 5;

/// What a VMCS holds of the host, so that unchanged fields are not written again.
#[derive(Default)]
pub(crate) struct HostFields {
    /// The host in the last window, read in its place: it is large.
    host: HostState,
    cpu: Option<u32>,
}

impl HostFields {
    /// The VMCS was last used on another CPU, or never.
    pub(crate) fn moved(&self, vmcs: &Current<'_>) -> bool {
        self.cpu != Some(vmcs.cpu())
    }

    /// Has the next run start as on a new CPU, wherever it is.
    pub(crate) fn forget(&mut self) {
        self.cpu = None;
    }

    /// Brings the host-state area up to date.
    pub(crate) fn sync(&mut self, vmcs: &Current<'_>) {
        let moved = self.moved(vmcs);
        let now = &mut self.host;
        let (cr0, cr3, cr4) = (now.cr0, now.cr3, now.cr4);
        let (fs_base, efer) = (now.fs_base, now.efer);
        // SAFETY: IRQs are off (there is a current VMCS); `now` is writable.
        unsafe { shim::kvm_spp_host_read(now) };
        if moved {
            // SAFETY: As above.
            unsafe { shim::kvm_spp_host_read_cpu(now) };
            Self::write_cpu(vmcs, now);
            self.cpu = Some(vmcs.cpu());
        }
        if moved || cr0 != now.cr0 {
            vmcs.write(field::HOST_CR0, now.cr0);
        }
        if moved || cr3 != now.cr3 {
            vmcs.write(field::HOST_CR3, now.cr3);
        }
        if moved || cr4 != now.cr4 {
            vmcs.write(field::HOST_CR4, now.cr4);
        }
        if moved || fs_base != now.fs_base {
            vmcs.write(field::HOST_FS_BASE, now.fs_base);
        }
        if moved || efer != now.efer {
            vmcs.write(field::HOST_IA32_EFER, now.efer);
        }
        if vmcs.caps().perf_global_ctrl() {
            let counters = cpu::rdmsr(PERF_GLOBAL_CTRL);
            vmcs.write(field::HOST_IA32_PERF_GLOBAL_CTRL, counters);
        }
    }

    /// Undoes what the VM exits of a window did to the host beyond the host-state area.
    ///
    /// # Safety
    ///
    /// IRQs are off since [`HostFields::sync`] on this CPU.
    pub(crate) unsafe fn restore(&self) {
        // SAFETY: This is the state that `sync` read, which still holds.
        unsafe { shim::kvm_spp_host_restore(&self.host) };
    }

    fn write_cpu(vmcs: &Current<'_>, now: &HostState) {
        vmcs.write(field::HOST_CS_SELECTOR, now.kernel_cs);
        vmcs.write(field::HOST_SS_SELECTOR, now.kernel_ss);
        vmcs.write(field::HOST_DS_SELECTOR, 0);
        vmcs.write(field::HOST_ES_SELECTOR, 0);
        vmcs.write(field::HOST_FS_SELECTOR, 0);
        vmcs.write(field::HOST_GS_SELECTOR, 0);
        vmcs.write(field::HOST_TR_SELECTOR, now.tr);
        vmcs.write(field::HOST_GS_BASE, now.gs_base);
        vmcs.write(field::HOST_TR_BASE, now.tr_base);
        vmcs.write(field::HOST_GDTR_BASE, now.gdt_base);
        vmcs.write(field::HOST_IDTR_BASE, now.idt_base);
        vmcs.write(field::HOST_SYSENTER_CS, now.sysenter_cs as u32);
        vmcs.write(field::HOST_IA32_SYSENTER_ESP, now.sysenter_esp);
        vmcs.write(field::HOST_IA32_SYSENTER_EIP, now.sysenter_eip);
        vmcs.write(field::HOST_IA32_PAT, now.pat);
    }
}

/// The registers of a guest that VM entry and exit do not switch, while they are not in
/// the CPU.
pub(crate) struct Unswitched {
    /// In the order of [`SWITCHED_MSRS`].
    pub(crate) msrs: [u64; SWITCHED_MSRS.len()],
    pub(crate) debug: DebugRegs,
}

impl Unswitched {
    /// After reset.
    pub(crate) const RESET: Self = Self {
        msrs: [0; SWITCHED_MSRS.len()],
        debug: DebugRegs::RESET,
    };
}

/// The guest's values of the MSRs that VMX does not switch are in the CPU;
/// dropping this puts back what the host had.
pub(crate) struct MsrLoan<'a> {
    guest: &'a mut [u64; SWITCHED_MSRS.len()],
    host: [u64; SWITCHED_MSRS.len()],
    count_tsc_aux: bool,
}

impl<'a> MsrLoan<'a> {
    /// Loads the guest's values. The host's are read here, never remembered:
    /// kvm_intel may have left a guest's there until its task returns to user space.
    #[inline(always)]
    pub(crate) fn new(_vmcs: &Current<'_>, guest: &'a mut [u64; SWITCHED_MSRS.len()]) -> Self {
        let count_tsc_aux = shim::kvm_spp_cpu_has_tsc_aux();
        let mut host = *guest;
        for (msr, (host, guest)) in SWITCHED_MSRS.iter().zip(host.iter_mut().zip(&*guest)) {
            if *msr == IA32_TSC_AUX && !count_tsc_aux {
                continue;
            }
            *host = cpu::rdmsr(*msr);
            if *host != *guest {
                cpu::wrmsr(*msr, *guest);
            }
        }
        Self {
            guest,
            host,
            count_tsc_aux,
        }
    }

    /// Changes the guest's value of the MSR at `index` while the guest's are loaded.
    pub(crate) fn set(&mut self, index: usize, value: u64) {
        let (Some(guest), Some(msr)) = (self.guest.get_mut(index), SWITCHED_MSRS.get(index)) else {
            return;
        };
        *guest = value;
        if *msr != IA32_TSC_AUX || self.count_tsc_aux {
            cpu::wrmsr(*msr, value);
        } else if let Some(host) = self.host.get_mut(index) {
            // The MSR does not exist, so `drop` must find nothing to put back.
            *host = value;
        }
    }

    /// The guest's value of the MSR at `index`.
    pub(crate) fn get(&self, index: usize) -> u64 {
        if index == KERNEL_GS_BASE {
            return cpu::rdmsr(0xc000_0102);
        }
        self.guest.get(index).copied().unwrap_or(0)
    }
}

impl Drop for MsrLoan<'_> {
    fn drop(&mut self) {
        let gs_base = cpu::rdmsr(0xc000_0102);
        if let Some(guest) = self.guest.get_mut(KERNEL_GS_BASE) {
            *guest = gs_base;
        }
        let pairs = SWITCHED_MSRS
            .iter()
            .zip(self.host.iter().zip(self.guest.iter()));
        for (msr, (host, guest)) in pairs {
            if *host != *guest {
                cpu::wrmsr(*msr, *host);
            }
        }
    }
}

/// DR0-DR3 and DR6; DR7 is in the VMCS.
#[derive(Clone, Copy)]
pub(crate) struct DebugRegs {
    pub(crate) db: [u64; 4],
    pub(crate) dr6: u64,
    /// The guest has used debug registers, so that they are switched. Until then
    /// its accesses exit ("MOV-DR exiting").
    pub(crate) in_use: bool,
    /// The host's DR0-DR3 while the guest is in the CPU, if the host has breakpoints.
    host: [u64; 4],
}

impl DebugRegs {
    /// After reset.
    pub(crate) const RESET: Self = Self {
        db: [0; 4],
        dr6: vmcore::sregs::RESET_DR6,
        in_use: false,
        host: [0; 4],
    };
}

/// The guest's debug registers are in the CPU if it uses them; dropping this
/// stores them and puts back the host's where the host uses any.
pub(crate) struct DebugLoan<'a> {
    guest: &'a mut DebugRegs,
    loaded: bool,
    /// The host's DR7; 0: it has no breakpoints.
    host_dr7: u64,
}

impl<'a> DebugLoan<'a> {
    /// Saves the host's debug registers, and loads the guest's if it uses them.
    #[inline(always)]
    pub(crate) fn new(_vmcs: &Current<'_>, guest: &'a mut DebugRegs) -> Self {
        let mut loan = Self {
            guest,
            loaded: false,
            host_dr7: shim::kvm_spp_host_dr7(),
        };
        if loan.host_dr7 != 0 {
            // SAFETY: The array has room for four registers; IRQs are off.
            unsafe { shim::kvm_spp_read_debugregs(loan.guest.host.as_mut_ptr()) };
            // SAFETY: The host's breakpoints are saved above and come back in `drop`.
            unsafe { shim::kvm_spp_write_dr7(0) };
        }
        if loan.guest.in_use {
            loan.load();
        }
        loan
    }

    /// Loads the guest's debug registers: it has begun to use them.
    pub(crate) fn load(&mut self) {
        if self.loaded {
            return;
        }
        self.guest.in_use = true;
        self.loaded = true;
        // SAFETY: Breakpoints are disabled in DR7 until VM entry loads the guest's.
        unsafe { shim::kvm_spp_write_debugregs(self.guest.db.as_ptr()) };
        // SAFETY: DR6 only records conditions; `drop` resets it for the host.
        unsafe { shim::kvm_spp_write_dr6(self.guest.dr6) };
    }

    /// The guest's DR6.
    pub(crate) fn dr6(&self) -> u64 {
        match self.loaded {
            // SAFETY: Reading DR6 has no side effect.
            true => unsafe { shim::kvm_spp_read_dr6() },
            false => self.guest.dr6,
        }
    }

    /// Changes the guest's DR6.
    pub(crate) fn set_dr6(&mut self, dr6: u64) {
        self.guest.dr6 = dr6;
        if self.loaded {
            // SAFETY: As in `load`.
            unsafe { shim::kvm_spp_write_dr6(dr6) };
        }
    }
}

impl Drop for DebugLoan<'_> {
    fn drop(&mut self) {
        if self.loaded {
            self.guest.dr6 = self.dr6();
            // SAFETY: The array has room for four registers.
            unsafe { shim::kvm_spp_read_debugregs(self.guest.db.as_mut_ptr()) };
            // SAFETY: This is the reset value, which the host's #DB handler expects.
            unsafe { shim::kvm_spp_write_dr6(vmcore::sregs::RESET_DR6) };
        }
        if self.host_dr7 != 0 {
            // SAFETY: The host's own addresses, with DR7 disabled by the VM exit.
            unsafe { shim::kvm_spp_write_debugregs(self.guest.host.as_ptr()) };
            // SAFETY: The host's own value.
            unsafe { shim::kvm_spp_write_dr7(self.host_dr7) };
        }
    }
}
