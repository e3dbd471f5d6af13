// SPDX-License-Identifier: GPL-2.0

//! The contents of a new VMCS: controls (SDM 3C 25.6-25.8) and the processor's
//! state after reset (SDM 3A table 10-1).

use super::vcpu::Guest;
use crate::{
    host::frame::Frame,
    vmx::window::Current, //
};
use ept::Hpa;
use vmcore::{
    cap::{
        self,
        Caps, //
    },
    field::{
        self,
        VmcsExt, //
    },
    msr, //
};

/// Clears the bits of the MSRs that the guest may reach without an exit; all
/// others exit. Returns the bitmap's address.
pub(crate) fn fill_msr_bitmap(frame: &Frame) -> Hpa {
    let base = frame.as_ptr();
    for offset in 0..4096 {
        // SAFETY: `offset` is below the frame's 4096 bytes, which are ours.
        let byte = unsafe { base.add(offset) };
        // SAFETY: As above; no processor uses the bitmap yet.
        unsafe { byte.write(msr::bitmap_byte(offset)) };
    }
    frame.hpa()
}

/// Execution, exit and entry controls.
pub(crate) fn controls(
    vmcs: &Current<'_>,
    caps: &Caps,
    guest: &Guest,
    sppt: Option<Hpa>,
    msr_bitmap: Hpa,
) {
    vmcs.write(field::PIN_BASED_VM_EXEC_CONTROL, caps.pin());
    vmcs.write(field::CPU_BASED_VM_EXEC_CONTROL, guest.proc);
    vmcs.write(field::SECONDARY_VM_EXEC_CONTROL, caps.proc2(sppt.is_some()));
    vmcs.write(field::VM_EXIT_CONTROLS, caps.exit());
    vmcs.write(field::VM_ENTRY_CONTROLS, caps.entry(false));
    vmcs.write(field::EXCEPTION_BITMAP, cap::EXCEPTION_BITMAP);
    vmcs.write(field::PAGE_FAULT_ERROR_CODE_MASK, 0);
    vmcs.write(field::PAGE_FAULT_ERROR_CODE_MATCH, 0);
    vmcs.write(field::CR3_TARGET_COUNT, 0);
    vmcs.write(field::VM_EXIT_MSR_STORE_COUNT, 0);
    vmcs.write(field::VM_EXIT_MSR_LOAD_COUNT, 0);
    vmcs.write(field::VM_ENTRY_MSR_LOAD_COUNT, 0);
    vmcs.write(field::MSR_BITMAP, msr_bitmap.get());
    vmcs.write(field::TSC_OFFSET, 0);
    vmcs.write(field::EPT_POINTER, guest.eptp);
    vmcs.write(field::VMCS_LINK_POINTER, u64::MAX);
    if caps.vpid() {
        vmcs.write(field::VPID, guest.vpid);
    }
    if caps.encls_exiting() {
        vmcs.write(field::ENCLS_EXITING_BITMAP, u64::MAX);
    }
    if caps.perf_global_ctrl() {
        vmcs.write(field::GUEST_IA32_PERF_GLOBAL_CTRL, 0);
    }
    // Every guest write of CR0 and CR4 exits, so that the shadow is what it sees.
    vmcs.write(field::CR0_GUEST_HOST_MASK, u64::MAX);
    vmcs.write(field::CR4_GUEST_HOST_MASK, u64::MAX);
    if let Some(root) = sppt {
        vmcs.write(field::SPPTP, root.get());
    }
}
