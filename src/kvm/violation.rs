// SPDX-License-Identifier: GPL-2.0

//! EPT violations: fault memory in, or tell user space about a denied write.
//! What a violation means is `vmcore::fault`'s to say; this carries it out.

use super::{
    area::Area,
    delivery,
    emulator,
    guest::GuestMemory,
    report::{
        self,
        UserExit, //
    },
    vcpu::State,
    vm::Vm, //
};
use emulate::{
    fetch::{
        self,
        Fetched, //
    },
    guard::Page,
    paging::Fault,
    stop::Stop, //
};
use ioctl_api::subpage::{
    SppExit,
    KVM_SPP_CAUSE_EMULATED,
    KVM_SPP_CAUSE_HARDWARE,
    KVM_SPP_EXIT_EVENT_DELIVERY,
    KVM_SPP_EXIT_GVA_VALID,
    KVM_SPP_EXIT_INSN_LEN_VALID, //
};
use kernel::prelude::*;
use spp::Mask;
use vmcore::{
    exit::Violation,
    fault::{
        self,
        Access,
        Backend,
        Outcome, //
    },
    slots, //
};

/// Resolves the violation that `guest.exit` holds; `None` enters the guest again.
pub(crate) fn resolve(
    vm: &Vm,
    area: &Area,
    state: &mut State,
    violation: &Violation,
) -> Result<Option<UserExit>> {
    let Judgement {
        outcome,
        map,
        page,
        cause,
    } = judge(vm, state, violation);
    match outcome {
        Outcome::Spurious | Outcome::Retry => Ok(None),
        Outcome::Map { write } => {
            let gfn = violation.gpa.gfn();
            vm.fault(&mut state.guest.reserve, gfn, write)?;
            Ok(None)
        }
        // As for an instruction, below.
        Outcome::Denied { mask } if violation.event_delivery => {
            match delivery::deliver(vm, state, cause)? {
                Some(UserExit::Undeliverable) => {
                    let exit = denied(vm, state, violation, mask, map, cause)?;
                    Ok(Some(state.guest.tell_denied(exit)))
                }
                exit => Ok(exit),
            }
        }
        // Whether the instruction still is the one that was stopped, and all that it
        // writes, the emulator finds out; it stops at the same write. What it does not
        // know is told as the processor tells it.
        Outcome::Denied { mask } => match emulator::emulate(vm, area, state, cause, page)? {
            Some(UserExit::Emulation(_)) => {
                let mut exit = denied(vm, state, violation, mask, map, cause)?;
                if let Some(len) = state.emulator.length() {
                    exit.insn_len = len;
                    exit.flags |= KVM_SPP_EXIT_INSN_LEN_VALID;
                }
                Ok(Some(state.guest.tell_denied(exit)))
            }
            exit => Ok(exit),
        },
        Outcome::Mmio if violation.fetch => emulation_failure(vm, state).map(Some),
        Outcome::Ineligible if violation.event_delivery => {
            delivery::deliver(vm, state, KVM_SPP_CAUSE_EMULATED)
        }
        Outcome::Ineligible | Outcome::Mmio => {
            emulator::emulate(vm, area, state, KVM_SPP_CAUSE_EMULATED, page)
        }
        Outcome::Walk => walk(vm, state, violation),
        Outcome::Undeliverable => Ok(Some(UserExit::Undeliverable)),
    }
}

/// What a violation means.
struct Judgement {
    outcome: Outcome,
    /// The map that says so.
    map: Mask,
    /// What is at the frame, if that was asked.
    page: Option<Page>,
    /// Who has found out, `KVM_SPP_CAUSE_*`.
    cause: u8,
}

fn judge(vm: &Vm, state: &mut State, violation: &Violation) -> Judgement {
    let gfn = violation.gpa.gfn();
    let mmu = vm.mmu.lock();
    let slot = slots::find(mmu.slots_now(), gfn);
    // The tables count where there is memory, and maps where it is written.
    let memory = slot.is_some();
    let access = Access {
        violation: *violation,
        rip: state.guest.rip,
        slot,
        leaf: match memory {
            true => mmu.space.leaf(&mmu.tables, gfn),
            false => None,
        },
        map: match memory && violation.write {
            true => mmu.space.mask(&mmu.tables, gfn),
            false => Mask::ALL,
        },
        len: None,
        generation: vm.tlb.generation(),
        backend: mmu.backend,
    };
    let cause = match mmu.backend {
        Backend::Hardware => KVM_SPP_CAUSE_HARDWARE,
        Backend::Software => KVM_SPP_CAUSE_EMULATED,
    };
    Judgement {
        outcome: fault::resolve(&access, &mut state.guest.repeat),
        map: access.map,
        page: match slot {
            None => Some(Page::Device),
            Some(slot) if slot.readonly() => Some(Page::Rom),
            Some(_) => violation.write.then_some(Page::Ram(access.map)),
        },
        cause,
    }
}

/// Sets the accessed or dirty flag of the guest's paging structure that the processor
/// was about to set.
fn walk(vm: &Vm, state: &mut State, violation: &Violation) -> Result<Option<UserExit>> {
    let Some(gva) = violation.gla else {
        return emulation_failure(vm, state).map(Some);
    };
    let at = state.with_vmcs(&vm.vmx, |vmcs, guest| guest.code_location(vmcs))?;
    let mut memory = GuestMemory::new(vm);
    let set = at.paging.set_flag(&mut memory, gva, violation.gpa);
    if let Some(error) = memory.failure() {
        return Err(error);
    }
    match set {
        Err(Fault::Stop(Stop::Denied(denial))) => {
            let mut exit = report::denied(&denial, KVM_SPP_CAUSE_HARDWARE);
            exit.rip = state.guest.rip;
            if violation.event_delivery {
                exit.flags |= KVM_SPP_EXIT_EVENT_DELIVERY;
            }
            report::put_instruction(&mut exit, &instruction(vm, state)?);
            Ok(Some(state.guest.tell_denied(exit)))
        }
        // Whatever else the walk meets, the processor will meet when it walks again.
        _ => Ok(None),
    }
}

/// What KVM_EXIT_SPP tells: the write did not happen and RIP is still at the instruction.
fn denied(
    vm: &Vm,
    state: &mut State,
    violation: &Violation,
    mask: Mask,
    map: Mask,
    cause: u8,
) -> Result<SppExit> {
    let mut exit = SppExit {
        gpa: violation.gpa.get(),
        rip: state.guest.rip,
        denied: mask.raw(),
        map: map.raw(),
        cause,
        ..SppExit::default()
    };
    report::put_instruction(&mut exit, &instruction(vm, state)?);
    if let Some(gla) = violation.gla {
        exit.gva = gla.get();
        exit.flags |= KVM_SPP_EXIT_GVA_VALID;
    }
    if violation.event_delivery {
        exit.flags |= KVM_SPP_EXIT_EVENT_DELIVERY;
    }
    Ok(exit)
}

/// The exit for an instruction that somebody must emulate.
pub(crate) fn emulation_failure(vm: &Vm, state: &mut State) -> Result<UserExit> {
    Ok(UserExit::Emulation((&instruction(vm, state)?).into()))
}

/// The bytes at RIP, as far as they can be read.
pub(crate) fn instruction(vm: &Vm, state: &mut State) -> Result<Fetched> {
    let at = state.with_vmcs(&vm.vmx, |vmcs, guest| guest.code_location(vmcs))?;
    Ok(fetch::instruction(&mut GuestMemory::new(vm), &at))
}
