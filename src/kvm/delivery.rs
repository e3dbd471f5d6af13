// SPDX-License-Identifier: GPL-2.0

//! Events whose frame the processor cannot write although the sub-page maps may allow it.
//!
//! ```text
//!   VM exit --> the event waits again (`vmcore::event`)
//!                  |
//!               take it out, deliver it with all its checks (`emulate::event`)
//!                  |
//!     delivered    | exception    | denied         | not possible
//!        v         v              v                v
//!     registers   with it in its place:
//!     and guest   raise, which    KVM_EXIT_SPP     KVM_EXIT_INTERNAL_ERROR
//!                 may be #DF
//! ```

use super::{
    emulator,
    guest::GuestMemory,
    report::{
        self,
        UserExit, //
    },
    vcpu::{
        Guest,
        State, //
    },
    violation,
    vm::Vm, //
};
use emulate::{
    cpu::rflags,
    event,
    stop::{
        Denial,
        Stop, //
    }, //
};
use ioctl_api::subpage::KVM_SPP_EXIT_EVENT_DELIVERY;
use kernel::prelude::*;
use vmcore::{
    delivery::{
        Delivery,
        Kind, //
    },
    event::{
        Injection,
        Interruptibility, //
    },
};

/// An address that no instruction has: what an event reads of devices is nobody's.
pub(crate) const NO_INSTRUCTION: u64 = 1 << 63;

/// Delivers the next event that waits. `None` enters the guest.
///
/// `cause` is what a denial is told to come from, `KVM_SPP_CAUSE_*`. Errors: those of a
/// page look-up.
pub(crate) fn deliver(vm: &Vm, state: &mut State, cause: u8) -> Result<Option<UserExit>> {
    state.fetch_registers(vm)?;
    let (cpu, _) = state.emulator.instruction();
    let guest = &mut state.guest;
    let now = Interruptibility::new(guest.interruptibility, cpu.rflags, cpu.paging.cr0);
    let Some(injection) = guest.events.inject(&now) else {
        return Ok(None);
    };
    let result = match injection.delivery() {
        Some(delivery) => attempt(vm, state, &delivery),
        None => Ok(Err(Stop::Reenter)),
    };
    state.emulator.forget();
    match result {
        Ok(Ok(())) => Ok(None),
        Ok(Err(stop)) => stopped(vm, state, &injection, &stop, cause),
        Err(error) => {
            state.guest.events.cancel(&injection);
            Err(error)
        }
    }
}

/// Delivers an event, or finds out what stops it.
fn attempt(vm: &Vm, state: &mut State, delivery: &Delivery) -> Result<Result<(), Stop>> {
    let mut memory = GuestMemory::new(vm);
    let mut guest = state.begin(&mut memory, NO_INSTRUCTION);
    let delivered = event::deliver(&mut guest, &to_event(delivery));
    if let Some(error) = memory.failure() {
        return Err(error);
    }
    if delivered.is_ok() {
        take(vm, state, delivery)?;
    }
    Ok(delivered)
}

/// Takes over what the delivery has done to the vCPU.
fn take(vm: &Vm, state: &mut State, delivery: &Delivery) -> Result {
    state.with_emulator(&vm.vmx, |vmcs, guest, emulator| {
        let (cpu, _) = emulator.instruction();
        guest.take_registers(cpu);
        guest.take_segments(vmcs, cpu);
        guest.delivered(delivery);
    })
}

impl Guest {
    /// What delivery changes besides memory and registers.
    pub(crate) fn delivered(&mut self, delivery: &Delivery) {
        let before = self.interruptibility;
        self.interruptibility = delivery.interruptibility(before);
        if delivery.drops_debug_exceptions(before) {
            self.drop_debug_exceptions();
        }
        self.dirty = true;
    }

    /// Debug exceptions that are pending belong to registers that are no more.
    pub(crate) fn drop_debug_exceptions(&mut self) {
        self.single_step = false;
        self.breakpoints = 0;
        self.debug_dropped = true;
    }
}

/// Puts an event back that was not delivered, and carries out what came instead.
pub(crate) fn stopped(
    vm: &Vm,
    state: &mut State,
    injection: &Injection,
    stop: &Stop,
    cause: u8,
) -> Result<Option<UserExit>> {
    state.guest.events.cancel(injection);
    match stop {
        Stop::Exception(exception) => {
            state.guest.rflags |= rflags::RF;
            state.guest.dirty = true;
            Ok(emulator::raise(&mut state.guest, exception))
        }
        Stop::Denied(denial) => denied(vm, state, denial, cause).map(Some),
        Stop::Retry => Ok(None),
        _ => Ok(Some(UserExit::Undeliverable)),
    }
}

/// KVM_EXIT_SPP for the frame of an event.
fn denied(vm: &Vm, state: &mut State, denial: &Denial, cause: u8) -> Result<UserExit> {
    let mut exit = report::denied(denial, cause);
    exit.flags |= KVM_SPP_EXIT_EVENT_DELIVERY;
    exit.rip = state.guest.rip;
    report::put_instruction(&mut exit, &violation::instruction(vm, state)?);
    Ok(state.guest.tell_denied(exit))
}

fn to_event(delivery: &Delivery) -> event::Event {
    event::Event {
        vector: delivery.vector,
        kind: match delivery.kind {
            Kind::External => event::Kind::External,
            Kind::Nmi => event::Kind::Nmi,
            Kind::Exception => event::Kind::Exception,
            Kind::SoftwareInterrupt => event::Kind::SoftwareInterrupt,
            Kind::PrivilegedSoftwareException => event::Kind::PrivilegedSoftwareException,
            Kind::SoftwareException => event::Kind::SoftwareException,
        },
        error_code: delivery.error_code,
        len: delivery.len,
    }
}
