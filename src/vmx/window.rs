// SPDX-License-Identifier: GPL-2.0

//! The window: one stretch of IRQ-off time in VMX operation.
//!
//! ```text
//!   IRQs on        Window::open                       drop(Window)     IRQs on
//!  -----------+-----------------------------------------------+-----------------
//!             | CR4.VMXE set by kvm_intel: VMPTRST -> foreign |
//!             | CR4.VMXE clear: set it, VMXON                 |
//!             |      load(): VMPTRLD ours -> Current          |
//!             |          VMREAD/VMWRITE/VMLAUNCH/VMRESUME     |
//!             |      drop(Current): VMCLEAR, VMPTRLD foreign  |
//!             | own VMXON: VMXOFF, CR4 as it was              |
//!             +-----------------------------------------------+
//! ```
//!
//! CR4 is written by its CPU only, and on Linux 7.3 no handler that can run with
//! IRQs off writes it from the kernel's shadow copy, except on the way to a
//! crash. So our VMXE and VMXON, which that shadow does not know, are never
//! seen outside; and kvm_intel, which caches which VMCS is current, finds it so.
//! CPU hotplug, suspend, reboot and task migration cannot happen inside.

use super::{
    ops,
    region::Region, //
};
use crate::host::shim;
use core::{
    cell::Cell,
    marker::PhantomData, //
};
use ept::Hpa;
use kernel::prelude::*;
use vmcore::{
    cap::{
        Caps,
        EptVpid, //
    },
    field::Vmcs, //
};

/// CR4.VMXE, SDM 3A 2.5.
const CR4_VMXE: u64 = 1 << 13;

/// VMPTRST's answer where no VMCS is current, SDM 3C 31.3.
const NO_VMCS: u64 = u64::MAX;

/// What the module needs of the CPUs' VMX, found once at load.
pub(crate) struct Vmx {
    /// What all CPUs offer alike.
    pub(crate) caps: Caps,
    /// The processor's sub-page write permissions are used.
    pub(crate) spp: bool,
    /// A VMXON region for each possible CPU, for where nobody has VMX on.
    vmxon: KVec<Option<Region>>,
}

impl Vmx {
    /// Allocates a VMXON region for every possible CPU. `spp`: use sub-page write
    /// permissions, which the CPUs must have.
    pub(crate) fn new(caps: Caps, spp: bool) -> Result<Self> {
        let mut vmxon = KVec::new();
        for cpu in 0..shim::kvm_spp_nr_cpu_ids() {
            let region = match shim::kvm_spp_cpu_possible(cpu) {
                true => Some(Region::new(caps.revision())?),
                false => None,
            };
            vmxon.push(region, GFP_KERNEL)?;
        }
        Ok(Self { caps, spp, vmxon })
    }

    fn vmxon_region(&self, cpu: u32) -> Result<Hpa> {
        let region = self.vmxon.get(cpu as usize).ok_or(ENODEV)?;
        Ok(region.as_ref().ok_or(ENODEV)?.hpa())
    }
}

/// Proof that IRQs are off and this CPU is in VMX operation.
///
/// # Invariants
///
/// From construction to drop IRQs are off on CPU `cpu`, which is in VMX
/// operation: by our VMXON if `own_cr4` holds the CR4 to return to, else by
/// somebody else's, whose current VMCS is `foreign`.
pub(crate) struct Window<'a> {
    vmx: &'a Vmx,
    cpu: u32,
    own_cr4: Option<u64>,
    foreign: u64,
    _this_cpu_only: PhantomData<*mut ()>,
}

impl<'a> Window<'a> {
    /// Turns IRQs off and VMX on. Errors: `ENODEV`, `EIO` (the CPU refuses VMXON).
    pub(crate) fn open(vmx: &'a Vmx) -> Result<Self> {
        shim::kvm_spp_irq_disable();
        Self::enter_vmx(vmx).inspect_err(|_| shim::kvm_spp_irq_enable())
    }

    fn enter_vmx(vmx: &'a Vmx) -> Result<Self> {
        let cpu = shim::kvm_spp_cpu();
        let cr4 = ops::read_cr4();
        let (own_cr4, foreign) = if cr4 & CR4_VMXE != 0 {
            // SAFETY: VMXE is set and IRQs are off; a fault comes back as an error.
            (None, unsafe { ops::vmptrst() }?)
        } else {
            // Such CPUs fail VMXON's guests or lose the trace (SDM 3C 26.5.6).
            if shim::kvm_spp_tracing() && !vmx.caps.intel_pt_in_vmx() {
                return Err(EBUSY);
            }
            let region = vmx.vmxon_region(cpu)?;
            // SAFETY: IRQs are off, only VMXE is added, and `drop` restores it.
            unsafe { ops::write_cr4(cr4 | CR4_VMXE) };
            // SAFETY: VMXE is set, IRQs are off, and the region is this CPU's.
            if let Err(err) = unsafe { ops::vmxon(region) } {
                // SAFETY: This is the value that CR4 had.
                unsafe { ops::write_cr4(cr4) };
                return Err(err);
            }
            (Some(cr4), NO_VMCS)
        };
        // INVARIANT: IRQs are off and VMX is on, as found or as done above.
        Ok(Self {
            vmx,
            cpu,
            own_cr4,
            foreign,
            _this_cpu_only: PhantomData,
        })
    }

    /// Prepares a new region for its first use (SDM 3C 25.11.3).
    pub(crate) fn clear(&mut self, region: &Region) -> Result {
        // SAFETY: The window proves VMX operation and IRQs off.
        unsafe { ops::vmclear(region.hpa()) }
    }

    /// Makes a VMCS of ours current for a part of the window.
    pub(crate) fn load<'w>(&'w mut self, region: &'w Region) -> Result<Current<'w>> {
        let hpa = region.hpa();
        // SAFETY: The window proves VMX operation and IRQs off. `region` was
        // cleared when its last window ended, so no CPU has it active, and the
        // borrow of its owner (locked by the vCPU's mutex) keeps others away.
        unsafe { ops::vmptrld(hpa) }?;
        Ok(Current {
            caps: &self.vmx.caps,
            cpu: self.cpu,
            hpa,
            foreign: self.foreign,
            launched: Cell::new(false),
            refused: Cell::new(0),
            _window: PhantomData,
        })
    }
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        if let Some(cr4) = self.own_cr4 {
            // SAFETY: Our own VMXON, and `Current` has cleared its VMCS: it
            // borrows the window, so it is gone.
            if unsafe { ops::vmxoff() }.is_ok() {
                // SAFETY: The value that CR4 had when the window opened.
                unsafe { ops::write_cr4(cr4) };
            }
        }
        shim::kvm_spp_irq_enable();
    }
}

/// What VM entry and exit exchange with the guest's registers; `enter.S` knows
/// the layout.
#[repr(C)]
#[derive(Default)]
pub(crate) struct Registers {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub(crate) gprs: [u64; 16],
    /// HOST_RSP as the VMCS holds it.
    host_rsp: u64,
    /// The exit reason field of the last exit.
    pub(crate) exit_reason: u32,
}
static_assertions::const_assert_eq!(core::mem::offset_of!(Registers, host_rsp), 0x80);
static_assertions::const_assert_eq!(core::mem::offset_of!(Registers, exit_reason), 0x88);

/// Proof that a VMCS of ours is current on this CPU, in a window.
///
/// # Invariants
///
/// The VMCS at `hpa` is current from construction to drop, which clears it and
/// makes `foreign` current again.
pub(crate) struct Current<'w> {
    caps: &'w Caps,
    cpu: u32,
    hpa: Hpa,
    foreign: u64,
    launched: Cell<bool>,
    refused: Cell<u32>,
    _window: PhantomData<&'w mut ()>,
}

impl Current<'_> {
    /// What the CPU offers.
    pub(crate) fn caps(&self) -> &Caps {
        self.caps
    }

    /// The CPU that the VMCS is current on.
    pub(crate) fn cpu(&self) -> u32 {
        self.cpu
    }

    /// The first encoding that VMWRITE refused, 0 if none: the set-up is then unusable.
    pub(crate) fn refused(&self) -> u32 {
        self.refused.get()
    }

    /// Runs the guest until a VM exit. False: the entry failed (VMfail), and
    /// the VM-instruction error field says why.
    pub(crate) fn run(&self, regs: &mut Registers) -> bool {
        let launched = i32::from(self.launched.get());
        // SAFETY: A VMCS of ours is current with this CPU's host state (the
        // caller synchronised it in this window); `regs` is laid out for `enter.S`.
        let failed = unsafe { shim::kvm_spp_guest_run(regs, launched) };
        if failed == 0 {
            self.launched.set(true);
        }
        failed == 0
    }

    /// Drops what this CPU cached of the translations of an EPT pointer
    /// (SDM 3C 29.4.3.4).
    pub(crate) fn invept(&self, eptp: u64) -> Result {
        let (kind, low) = match self.caps.ept_vpid().contains(EptVpid::INVEPT_SINGLE) {
            true => (1, eptp),
            false => (2, 0),
        };
        // SAFETY: The value proves VMX operation and IRQs off.
        unsafe { ops::invept(kind, low, 0) }
    }

    /// Drops what this CPU cached for a VPID; all EPT-derived entries where
    /// the CPU lacks INVVPID by context.
    pub(crate) fn invvpid(&self, vpid: u16, eptp: u64) -> Result {
        let single = EptVpid::INVVPID | EptVpid::INVVPID_SINGLE;
        if !self.caps.ept_vpid().contains(single) {
            return self.invept(eptp);
        }
        // SAFETY: The value proves VMX operation and IRQs off.
        unsafe { ops::invvpid(1, u64::from(vpid), 0) }
    }
}

impl Vmcs for Current<'_> {
    #[inline(always)]
    fn read_raw(&self, encoding: u32) -> u64 {
        // SAFETY: By the invariant a VMCS is current and IRQs are off.
        unsafe { ops::vmread(u64::from(encoding)) }
    }

    #[inline(always)]
    fn write_raw(&self, encoding: u32, value: u64) {
        // SAFETY: By the invariant a VMCS is current and IRQs are off. Host
        // fields are written by `host_state` only, from this CPU's state.
        if !unsafe { ops::vmwrite(u64::from(encoding), value) } && self.refused.get() == 0 {
            self.refused.set(encoding);
        }
    }
}

impl Drop for Current<'_> {
    fn drop(&mut self) {
        // SAFETY: The window outlives this value: VMX is on and IRQs are off.
        let cleared = unsafe { ops::vmclear(self.hpa) };
        if cleared.is_err() {
            kernel::pr_err_once!("VMCLEAR failed\n");
        }
        if self.foreign != NO_VMCS {
            // SAFETY: The VMCS was current here when the window opened, and
            // with IRQs off nobody could have freed or moved it.
            if unsafe { ops::vmptrld(Hpa::new(self.foreign)) }.is_err() {
                kernel::pr_err_once!("VMPTRLD of the other hypervisor's VMCS failed\n");
            }
        }
    }
}
