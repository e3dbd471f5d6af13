// SPDX-License-Identifier: GPL-2.0

//! What the processor offers in VMX operation, and the controls computed from it.
//!
//! A capability MSR of a control field says which bits must be 1 (low half) and
//! which may be 1 (high half), SDM 3D A.3. Everything here is a function of MSR
//! values, so that a host test can present any processor.

pub use crate::control::{EntryCtls, EptVpid, ExitCtls, Pin, Proc, Proc2};

/// Exceptions that always leave the guest: #DB and #AC because a guest can make
/// their delivery raise them again without end inside one instruction, and #MC
/// because it belongs to the host.
pub const EXCEPTION_BITMAP: u32 = 1 << 1 | 1 << 17 | 1 << 18;

/// Values of the VMX capability MSRs 0x480 to 0x491 (SDM 3D appendix A).
///
/// An MSR that the processor does not have is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmxMsrs {
    /// IA32_VMX_BASIC, 0x480.
    pub basic: u64,
    /// IA32_VMX_MISC, 0x485.
    pub misc: u64,
    /// IA32_VMX_CR0_FIXED0, 0x486.
    pub cr0_fixed0: u64,
    /// IA32_VMX_CR0_FIXED1, 0x487.
    pub cr0_fixed1: u64,
    /// IA32_VMX_CR4_FIXED0, 0x488.
    pub cr4_fixed0: u64,
    /// IA32_VMX_CR4_FIXED1, 0x489.
    pub cr4_fixed1: u64,
    /// IA32_VMX_PROCBASED_CTLS2, 0x48b.
    pub proc2: u64,
    /// IA32_VMX_EPT_VPID_CAP, 0x48c.
    pub ept_vpid: u64,
    /// IA32_VMX_TRUE_PINBASED_CTLS, 0x48d.
    pub pin: u64,
    /// IA32_VMX_TRUE_PROCBASED_CTLS, 0x48e.
    pub proc: u64,
    /// IA32_VMX_TRUE_EXIT_CTLS, 0x48f.
    pub exit: u64,
    /// IA32_VMX_TRUE_ENTRY_CTLS, 0x490.
    pub entry: u64,
}

/// IA32_VMX_BASIC: physical addresses are limited to 32 bits.
const BASIC_32BIT_ADDRESSES: u64 = 1 << 48;
/// IA32_VMX_BASIC: the TRUE capability MSRs exist.
const BASIC_TRUE_CONTROLS: u64 = 1 << 55;
/// IA32_VMX_MISC: Intel PT can be used in VMX operation.
const MISC_INTEL_PT: u64 = 1 << 14;

impl VmxMsrs {
    /// Reads the MSRs through `rdmsr`, asking only for those that the MSRs read
    /// before say exist: a read of any other one faults.
    pub fn read(mut rdmsr: impl FnMut(u32) -> u64) -> Self {
        let basic = rdmsr(0x480);
        let mut msrs = Self {
            basic,
            misc: rdmsr(0x485),
            cr0_fixed0: rdmsr(0x486),
            cr0_fixed1: rdmsr(0x487),
            cr4_fixed0: rdmsr(0x488),
            cr4_fixed1: rdmsr(0x489),
            ..Self::default()
        };
        if basic & BASIC_TRUE_CONTROLS == 0 {
            return msrs;
        }
        msrs.pin = rdmsr(0x48d);
        msrs.proc = rdmsr(0x48e);
        msrs.exit = rdmsr(0x48f);
        msrs.entry = rdmsr(0x490);
        if allowed(msrs.proc) & Proc::ACTIVATE_SECONDARY_CONTROLS.bits() != 0 {
            msrs.proc2 = rdmsr(0x48b);
        }
        let paging = Proc2::ENABLE_EPT | Proc2::ENABLE_VPID;
        if allowed(msrs.proc2) & paging.bits() != 0 {
            msrs.ept_vpid = rdmsr(0x48c);
        }
        msrs
    }
}

/// A feature the module cannot do without, by the name the manual gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing(pub &'static str);

/// What the processor can do for this module, and the controls to use on it.
///
/// All CPUs of a host must have equal `Caps`: a vCPU moves between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    msrs: VmxMsrs,
    pin: u32,
    proc: u32,
    proc2: u32,
    exit: u32,
    entry: u32,
    ept_vpid: EptVpid,
}

/// Controls that may be 1.
const fn allowed(msr: u64) -> u32 {
    (msr >> 32) as u32
}

/// Controls that must be 1.
const fn forced(msr: u64) -> u32 {
    (msr & 0xffff_ffff) as u32
}

/// The value of a control field: `required` and what is offered of `optional`.
fn adjust(msr: u64, required: u32, optional: u32, name: &'static str) -> Result<u32, Missing> {
    if required & !allowed(msr) != 0 {
        return Err(Missing(name));
    }
    Ok(required | (optional & allowed(msr)) | forced(msr))
}

/// Says that `name` is missing unless `offered`.
fn need(offered: bool, name: &'static str) -> Result<(), Missing> {
    if offered {
        Ok(())
    } else {
        Err(Missing(name))
    }
}

impl Caps {
    /// Chooses the controls for a processor with these MSRs.
    ///
    /// # Errors
    ///
    /// [`Missing`] names the first thing that the processor lacks.
    pub fn new(msrs: &VmxMsrs) -> Result<Self, Missing> {
        check_basic(msrs.basic)?;
        let proc2 = proc2_controls(msrs)?;
        let ept_vpid = EptVpid::from_bits_retain(msrs.ept_vpid);
        check_ept(ept_vpid)?;
        let (exit, entry) = transition_controls(msrs)?;
        Ok(Self {
            msrs: *msrs,
            pin: pin_controls(msrs)?,
            proc: proc_controls(msrs)?,
            proc2,
            exit,
            entry,
            ept_vpid,
        })
    }

    /// The identifier that a VMCS or VMXON region starts with.
    #[inline]
    pub const fn revision(&self) -> u32 {
        (self.msrs.basic & 0x7fff_ffff) as u32
    }

    /// Bytes of a VMCS or VMXON region, at most 4096.
    #[inline]
    pub const fn region_size(&self) -> u32 {
        ((self.msrs.basic >> 32) & 0x1fff) as u32
    }

    /// Pin-based controls.
    #[inline]
    pub const fn pin(&self) -> u32 {
        self.pin
    }

    /// Primary processor-based controls; the two window controls are 0 and are
    /// set at run time.
    #[inline]
    pub const fn proc(&self) -> u32 {
        self.proc
    }

    /// Secondary processor-based controls, with sub-page write permissions for
    /// a VM that asked for them.
    #[inline]
    pub fn proc2(&self, spp: bool) -> u32 {
        if spp && self.spp() {
            self.proc2 | Proc2::SUB_PAGE_WRITE_PERMISSIONS.bits()
        } else {
            self.proc2
        }
    }

    /// VM-exit controls.
    #[inline]
    pub const fn exit(&self) -> u32 {
        self.exit
    }

    /// VM-entry controls for a guest that is (`long`) or is not in IA-32e mode.
    #[inline]
    pub const fn entry(&self, long: bool) -> u32 {
        if long {
            self.entry | EntryCtls::IA32E_MODE_GUEST.bits()
        } else {
            self.entry
        }
    }

    /// The guest can be made to exit after one instruction.
    #[inline]
    pub const fn monitor_trap(&self) -> bool {
        allowed(self.msrs.proc) & Proc::MONITOR_TRAP_FLAG.bits() != 0
    }

    /// Sub-page write permissions are offered.
    #[inline]
    pub const fn spp(&self) -> bool {
        allowed(self.msrs.proc2) & Proc2::SUB_PAGE_WRITE_PERMISSIONS.bits() != 0
    }

    /// What EPT, INVEPT and INVVPID can do.
    #[inline]
    pub const fn ept_vpid(&self) -> EptVpid {
        self.ept_vpid
    }

    /// VPIDs are used: the control is offered and INVVPID can drop one or all.
    #[inline]
    pub const fn vpid(&self) -> bool {
        self.proc2 & Proc2::ENABLE_VPID.bits() != 0
    }

    /// RDTSCP and RDPID work in the guest.
    #[inline]
    pub const fn rdtscp(&self) -> bool {
        self.proc2 & Proc2::ENABLE_RDTSCP.bits() != 0
    }

    /// INVPCID works in the guest.
    #[inline]
    pub const fn invpcid(&self) -> bool {
        self.proc2 & Proc2::ENABLE_INVPCID.bits() != 0
    }

    /// ENCLS exits, so `ENCLS_EXITING_BITMAP` exists and must be written.
    #[inline]
    pub const fn encls_exiting(&self) -> bool {
        self.proc2 & Proc2::ENCLS_EXITING.bits() != 0
    }

    /// IA32_PERF_GLOBAL_CTRL is switched by VM entry and VM exit.
    #[inline]
    pub const fn perf_global_ctrl(&self) -> bool {
        self.entry & EntryCtls::LOAD_PERF_GLOBAL_CTRL.bits() != 0
    }

    /// Intel PT may stay on across VMXON.
    #[inline]
    pub const fn intel_pt_in_vmx(&self) -> bool {
        self.msrs.misc & MISC_INTEL_PT != 0
    }

    /// Bits of CR4 that VM entry accepts in a guest.
    #[inline]
    pub const fn guest_cr4_limit(&self) -> u64 {
        self.msrs.cr4_fixed1
    }

    /// Bits of CR0 that VM entry demands from every guest: NE today.
    #[inline]
    pub const fn guest_cr0_fixed(&self) -> u64 {
        const PE_PG: u64 = 1 << 31 | 1;
        self.msrs.cr0_fixed0 & self.msrs.cr0_fixed1 & !PE_PG
    }

    /// Bits of CR4 that VM entry demands from every guest: VMXE today.
    #[inline]
    pub const fn guest_cr4_fixed(&self) -> u64 {
        self.msrs.cr4_fixed0 & self.msrs.cr4_fixed1
    }
}

/// The primary processor-based controls `proc` with or without exits for MOV DR
/// (SDM 3C 25.6.2).
#[inline]
pub const fn with_mov_dr_exiting(proc: u32, exiting: bool) -> u32 {
    if exiting {
        proc | Proc::MOV_DR_EXITING.bits()
    } else {
        proc & !Proc::MOV_DR_EXITING.bits()
    }
}

/// The primary processor-based controls `proc` with an exit after one instruction, which
/// [`Caps::monitor_trap`] says is possible.
#[inline]
pub const fn with_monitor_trap(proc: u32) -> u32 {
    proc | Proc::MONITOR_TRAP_FLAG.bits()
}

/// The primary processor-based controls `proc` with the windows to request.
#[inline]
pub const fn with_windows(proc: u32, interrupt: bool, nmi: bool) -> u32 {
    let mut controls = proc;
    if interrupt {
        controls |= Proc::INTERRUPT_WINDOW_EXITING.bits();
    }
    if nmi {
        controls |= Proc::NMI_WINDOW_EXITING.bits();
    }
    controls
}

fn check_basic(basic: u64) -> Result<(), Missing> {
    const WRITE_BACK: u64 = 6;
    let size = (basic >> 32) & 0x1fff;
    need(basic & BASIC_TRUE_CONTROLS != 0, "true VMX controls")?;
    need(basic & BASIC_32BIT_ADDRESSES == 0, "64-bit VMX addresses")?;
    need((basic >> 50) & 0xf == WRITE_BACK, "write-back VMCS")?;
    need(size > 0 && size <= 4096, "VMCS of at most 4096 bytes")
}

fn check_ept(cap: EptVpid) -> Result<(), Missing> {
    need(cap.contains(EptVpid::WALK_4), "4-level EPT")?;
    need(cap.contains(EptVpid::WRITE_BACK), "write-back EPT")?;
    need(cap.contains(EptVpid::INVEPT), "INVEPT")?;
    need(
        cap.intersects(EptVpid::INVEPT_SINGLE | EptVpid::INVEPT_ALL),
        "INVEPT types",
    )
}

fn pin_controls(msrs: &VmxMsrs) -> Result<u32, Missing> {
    let required = Pin::EXTERNAL_INTERRUPT_EXITING | Pin::NMI_EXITING | Pin::VIRTUAL_NMIS;
    adjust(msrs.pin, required.bits(), 0, "pin-based controls")
}

fn proc_controls(msrs: &VmxMsrs) -> Result<u32, Missing> {
    let switched = Proc::INTERRUPT_WINDOW_EXITING | Proc::NMI_WINDOW_EXITING | Proc::MOV_DR_EXITING;
    need(
        allowed(msrs.proc) & switched.bits() == switched.bits(),
        "interrupt-window, NMI-window and MOV-DR exiting",
    )?;
    let required = Proc::USE_TSC_OFFSETTING
        | Proc::HLT_EXITING
        | Proc::MWAIT_EXITING
        | Proc::RDPMC_EXITING
        | Proc::CR8_LOAD_EXITING
        | Proc::CR8_STORE_EXITING
        | Proc::UNCONDITIONAL_IO_EXITING
        | Proc::USE_MSR_BITMAPS
        | Proc::MONITOR_EXITING
        | Proc::ACTIVATE_SECONDARY_CONTROLS;
    adjust(msrs.proc, required.bits(), 0, "processor-based controls")
}

fn proc2_controls(msrs: &VmxMsrs) -> Result<u32, Missing> {
    let offered = allowed(msrs.proc2);
    need(offered & Proc2::ENABLE_EPT.bits() != 0, "EPT")?;
    need(
        offered & Proc2::UNRESTRICTED_GUEST.bits() != 0,
        "unrestricted guest",
    )?;
    let required = Proc2::ENABLE_EPT | Proc2::UNRESTRICTED_GUEST | Proc2::WBINVD_EXITING;
    let mut optional = Proc2::ENABLE_RDTSCP | Proc2::ENABLE_INVPCID | Proc2::ENCLS_EXITING;
    let cap = EptVpid::from_bits_retain(msrs.ept_vpid);
    // A VPID that cannot be flushed is worse than none.
    if cap.contains(EptVpid::INVVPID)
        && cap.intersects(EptVpid::INVVPID_SINGLE | EptVpid::INVVPID_ALL)
    {
        optional |= Proc2::ENABLE_VPID;
    }
    let name = "secondary processor-based controls";
    adjust(msrs.proc2, required.bits(), optional.bits(), name)
}

fn transition_controls(msrs: &VmxMsrs) -> Result<(u32, u32), Missing> {
    let exit = ExitCtls::SAVE_DEBUG_CONTROLS
        | ExitCtls::HOST_ADDRESS_SPACE_SIZE
        | ExitCtls::SAVE_PAT
        | ExitCtls::LOAD_PAT
        | ExitCtls::SAVE_EFER
        | ExitCtls::LOAD_EFER;
    let entry = EntryCtls::LOAD_DEBUG_CONTROLS | EntryCtls::LOAD_PAT | EntryCtls::LOAD_EFER;
    need(
        allowed(msrs.entry) & EntryCtls::IA32E_MODE_GUEST.bits() != 0,
        "IA-32e mode guest",
    )?;
    // One without the other would leave the guest's value in the host.
    let both = allowed(msrs.exit) & ExitCtls::LOAD_PERF_GLOBAL_CTRL.bits() != 0
        && allowed(msrs.entry) & EntryCtls::LOAD_PERF_GLOBAL_CTRL.bits() != 0;
    let (exit_perf, entry_perf) = if both {
        (
            ExitCtls::LOAD_PERF_GLOBAL_CTRL.bits(),
            EntryCtls::LOAD_PERF_GLOBAL_CTRL.bits(),
        )
    } else {
        (0, 0)
    };
    Ok((
        adjust(msrs.exit, exit.bits(), exit_perf, "VM-exit controls")?,
        adjust(msrs.entry, entry.bits(), entry_perf, "VM-entry controls")?,
    ))
}

#[cfg(test)]
#[path = "tests/cap.rs"]
mod tests;
