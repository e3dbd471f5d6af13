// SPDX-License-Identifier: GPL-2.0

//! EPT violations: fault memory in, or tell user space about a denied write.
//!
//! ```text
//!  guest access --EPT violation--> asynchronous? -> fault memory in, enter again
//!      | write to an armed leaf                    (nothing names an instruction)
//!      v
//!  spp verdict --Denied--------> KVM_EXIT_SPP, RIP stays
//!      |       --Retry---------> enter again: the violation dropped the stale entry
//!      |       --Ineligible----> needs emulation
//!      v NotSubPage
//!  Vm::fault --Fixed--> enter again
//!            --Mmio---> needs emulation
//! ```

use super::{
    memory::Fault,
    run::UserExit,
    vcpu::State,
    vm::Vm, //
};
use crate::host::{
    frame::Tables,
    user, //
};
use ept::{
    Gpa,
    PAGE_SIZE, //
};
use ioctl_api::subpage::{
    SppExit,
    KVM_SPP_CAUSE_HARDWARE,
    KVM_SPP_EXIT_EVENT_DELIVERY,
    KVM_SPP_EXIT_GVA_VALID, //
};
use kernel::prelude::*;
use spp::{
    Mask,
    Verdict,
    WriteFault, //
};
use vmcore::exit::Violation;

/// Resolves a violation; `None` enters the guest again.
pub(crate) fn resolve(
    vm: &Vm,
    state: &mut State,
    violation: &Violation,
) -> Result<Option<UserExit>> {
    if violation.write && !violation.asynchronous {
        match judge(vm, state, violation) {
            Verdict::NotSubPage => {}
            Verdict::Denied { mask } => return denied(vm, state, violation, mask).map(Some),
            Verdict::Retry => return Ok(None),
            Verdict::Ineligible => return emulation_failure(vm, state).map(Some),
        }
    }
    let gfn = violation.gpa.gfn();
    match vm.fault(&mut state.guest.reserve, gfn, violation.write)? {
        Fault::Fixed => Ok(None),
        Fault::Mmio => emulation_failure(vm, state).map(Some),
    }
}

/// Whether the sub-page map stopped the write.
fn judge(vm: &Vm, state: &mut State, violation: &Violation) -> Verdict {
    let gfn = violation.gpa.gfn();
    let (leaf, map) = {
        let mmu = vm.mmu.lock();
        (mmu.space.leaf(&Tables, gfn), mmu.space.mask(&Tables, gfn))
    };
    let here = (state.guest.rip, violation.gpa);
    let again = state.guest.spurious == Some(here);
    let fault = WriteFault {
        gpa: violation.gpa,
        final_translation: violation.final_translation,
        len: None,
    };
    let verdict = fault.verdict(leaf, map, again);
    state.guest.spurious = matches!(verdict, Verdict::Retry).then_some(here);
    verdict
}

/// KVM_EXIT_SPP: the write did not happen and RIP is still at the instruction.
fn denied(vm: &Vm, state: &mut State, violation: &Violation, mask: Mask) -> Result<UserExit> {
    let (insn, insn_bytes) = instruction(vm, state)?;
    let mut exit = SppExit {
        gpa: violation.gpa.get(),
        rip: state.guest.rip,
        denied: mask.raw(),
        map: vm.mask(violation.gpa.gfn()).raw(),
        cause: KVM_SPP_CAUSE_HARDWARE,
        insn_bytes,
        ..SppExit::default()
    };
    for (to, from) in exit.insn.iter_mut().zip(insn) {
        *to = from;
    }
    if let Some(gla) = violation.gla {
        exit.gva = gla.get();
        exit.flags |= KVM_SPP_EXIT_GVA_VALID;
    }
    if violation.event_delivery {
        exit.flags |= KVM_SPP_EXIT_EVENT_DELIVERY;
    }
    Ok(UserExit::Spp(exit))
}

/// The exit for an instruction that somebody must emulate.
pub(crate) fn emulation_failure(vm: &Vm, state: &mut State) -> Result<UserExit> {
    let (insn, len) = instruction(vm, state)?;
    Ok(UserExit::Emulation { insn, len })
}

/// The bytes at RIP, as far as they can be read, and how many they are.
fn instruction(vm: &Vm, state: &mut State) -> Result<([u8; 15], u8)> {
    let at = state.with_vmcs(&vm.vmx, |vmcs, guest| guest.code_location(vmcs))?;
    Ok(emulate::fetch::instruction(&mut GuestMemory::new(vm), &at))
}

/// Reads guest memory for page walks and fetches, through the VMM's mapping.
pub(crate) struct GuestMemory<'a> {
    vm: &'a Vm,
}

impl<'a> GuestMemory<'a> {
    /// The memory of `vm`, which belongs to the calling process.
    pub(crate) fn new(vm: &'a Vm) -> Self {
        Self { vm }
    }
}

impl emulate::GuestPhys for GuestMemory<'_> {
    fn read(&mut self, gpa: Gpa, out: &mut [u8]) -> bool {
        let offset = u64::from(gpa.page_offset());
        if offset + out.len() as u64 > PAGE_SIZE {
            return false;
        }
        let slot = self.vm.slot_of(gpa.gfn());
        let Some(hva) = slot.and_then(|slot| slot.hva(gpa.gfn())) else {
            return false;
        };
        let bytes = user::slice((hva + offset) as usize, out.len());
        bytes.reader().read_slice(out).is_ok()
    }
}
