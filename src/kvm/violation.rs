// SPDX-License-Identifier: GPL-2.0

//! EPT violations: fault memory in, or tell user space about a denied write.
//! What a violation means is `vmcore::fault`'s to say; this carries it out.

use super::{
    report::UserExit,
    vcpu::State,
    vm::Vm, //
};
use crate::host::user;
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
use spp::Mask;
use vmcore::{
    exit::Violation,
    fault::{
        self,
        Access,
        Outcome, //
    },
    slots, //
};

/// Resolves the violation that `guest.exit` holds; `None` enters the guest again.
pub(crate) fn resolve(
    vm: &Vm,
    state: &mut State,
    violation: &Violation,
) -> Result<Option<UserExit>> {
    let (outcome, map) = judge(vm, state, violation);
    match outcome {
        Outcome::Spurious | Outcome::Retry => Ok(None),
        Outcome::Map { write } => {
            let gfn = violation.gpa.gfn();
            vm.fault(&mut state.guest.reserve, gfn, write)?;
            Ok(None)
        }
        Outcome::Denied { mask } => denied(vm, state, violation, mask, map).map(Some),
        Outcome::Ineligible | Outcome::Mmio => emulation_failure(vm, state).map(Some),
        Outcome::Undeliverable => Ok(Some(UserExit::Undeliverable)),
    }
}

/// What the violation means, and the map that says so.
fn judge(vm: &Vm, state: &mut State, violation: &Violation) -> (Outcome, Mask) {
    let gfn = violation.gpa.gfn();
    let mmu = vm.mmu.lock();
    let slots = mmu.slots();
    let access = Access {
        violation: *violation,
        rip: state.guest.rip,
        slot: slots::find(&slots.slots, gfn),
        leaf: mmu.space.leaf(&mmu.tables, gfn),
        map: mmu.space.mask(&mmu.tables, gfn),
        len: None,
        generation: vm.tlb.generation(),
    };
    drop(mmu);
    let outcome = fault::resolve(&access, &mut state.guest.repeat);
    (outcome, access.map)
}

/// KVM_EXIT_SPP: the write did not happen and RIP is still at the instruction.
fn denied(
    vm: &Vm,
    state: &mut State,
    violation: &Violation,
    mask: Mask,
    map: Mask,
) -> Result<UserExit> {
    let (insn, insn_bytes) = instruction(vm, state)?;
    let mut exit = SppExit {
        gpa: violation.gpa.get(),
        rip: state.guest.rip,
        denied: mask.raw(),
        map: map.raw(),
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
    Ok(UserExit::Emulation(insn, len))
}

/// The bytes at RIP, as far as they can be read, and how many they are.
fn instruction(vm: &Vm, state: &mut State) -> Result<([u8; 15], u8)> {
    let at = state.with_vmcs(&vm.vmx, |vmcs, guest| guest.code_location(vmcs))?;
    let fetched = emulate::fetch::instruction(&mut GuestMemory::new(vm), &at);
    Ok((fetched.bytes, fetched.len))
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
