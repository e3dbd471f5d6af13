// SPDX-License-Identifier: GPL-2.0

//! Task switches, which the processor leaves to its hypervisor before it has changed
//! anything (SDM 3C 26.4.2). What a switch does is `emulate::task`'s to say.
//!
//! ```text
//!   VM exit      CALL, JMP, IRET                 task gate in the IDT
//!                     |                               |
//!                     |                           take the event out
//!                     +------- task::switch ----------+
//!     switched        |  exception      denied          not possible
//!        v               v              v               v
//!     registers,      as if the       KVM_EXIT_SPP    KVM_EXIT_INTERNAL_ERROR
//!     #DB if T is 1   instruction, or the event in its place, had met it
//! ```

use super::{
    control,
    delivery,
    emulator,
    entry,
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
use crate::vmx::window::Current;
use emulate::{
    cpu::{
        rflags,
        Cpu, //
    },
    stop::{
        Exception,
        Stop, //
    },
    task::{
        self,
        Reason,
        Switch,
        Switched, //
    }, //
};
use ioctl_api::subpage::{
    KVM_SPP_CAUSE_EMULATED,
    KVM_SPP_EXIT_INSN_LEN_VALID, //
};
use kernel::prelude::*;
use vmcore::{
    cap::Caps,
    cr::Cr0,
    delivery::{
        Delivery,
        Kind,
        NMI_BLOCKED, //
    },
    event,
    exit::{
        TaskSource,
        TaskSwitch, //
    },
    field::{
        self,
        VmcsExt, //
    },
    step, //
};

/// What is left of a switch, or what has stopped it.
type Outcome = Result<Result<Switched, Stop>>;

/// Makes the task switch that the last exit asks for. `None` enters the guest.
///
/// Errors: those of a page look-up.
pub(crate) fn switch(vm: &Vm, state: &mut State, asked: TaskSwitch) -> Result<Option<UserExit>> {
    state.fetch_registers(vm)?;
    let reason = match asked.source {
        TaskSource::Call => Reason::Call,
        TaskSource::Iret => Reason::Iret,
        TaskSource::Jmp => Reason::Jmp,
        TaskSource::Gate => return for_event(vm, state, asked.selector),
    };
    let Some(len) = state.guest.exit.instruction_len() else {
        return Ok(Some(UserExit::Stop(entry::Stop::Unexpected)));
    };
    for_instruction(vm, state, asked.selector, reason, len)
}

/// CALL, JMP or IRET of `len` bytes.
fn for_instruction(
    vm: &Vm,
    state: &mut State,
    selector: u16,
    reason: Reason,
    len: u8,
) -> Result<Option<UserExit>> {
    let result = attempt(vm, state, selector, reason, len, |guest| {
        guest.interruptibility &= !step::SHADOW;
    });
    state.emulator.forget();
    // IRET lets NMIs in again, even if it faults, and whether the processor has got so far
    // or not (SDM 3C 26.3).
    let over = matches!(result, Ok(Ok(_) | Err(Stop::Exception(_))));
    if over && reason == Reason::Iret {
        state.guest.interruptibility &= !NMI_BLOCKED;
    }
    let stop = match result? {
        Ok(switched) => return Ok(begin(&mut state.guest, &switched)),
        Err(stop) => stop,
    };
    match stop {
        Stop::Exception(exception) => Ok(fault(&mut state.guest, &exception)),
        Stop::Denied(denial) => {
            let mut exit = report::denied(&denial, KVM_SPP_CAUSE_EMULATED);
            exit.rip = state.guest.rip;
            exit.insn_len = len;
            exit.flags |= KVM_SPP_EXIT_INSN_LEN_VALID;
            report::put_instruction(&mut exit, &violation::instruction(vm, state)?);
            Ok(Some(state.guest.tell_denied(exit)))
        }
        Stop::Retry => Ok(None),
        _ => violation::emulation_failure(vm, state).map(Some),
    }
}

/// The event whose gate names a task: it waits again since the exit.
fn for_event(vm: &Vm, state: &mut State, selector: u16) -> Result<Option<UserExit>> {
    let (cpu, _) = state.emulator.instruction();
    let guest = &mut state.guest;
    let blocking = guest.interruptibility;
    let now = event::Interruptibility::new(blocking, cpu.rflags, cpu.paging.cr0);
    let Some(injection) = guest.events.inject(&now) else {
        return Ok(Some(UserExit::Stop(entry::Stop::Unexpected)));
    };
    let Some(event) = injection.delivery() else {
        guest.events.cancel(&injection);
        return Ok(Some(UserExit::Undeliverable));
    };
    let result = attempt(vm, state, selector, reason(&event), event.len, |guest| {
        guest.delivered(&event);
    });
    state.emulator.forget();
    match result {
        Ok(Ok(switched)) => Ok(begin(&mut state.guest, &switched)),
        Ok(Err(stop)) => delivery::stopped(vm, state, &injection, &stop, KVM_SPP_CAUSE_EMULATED),
        Err(error) => {
            state.guest.events.cancel(&injection);
            Err(error)
        }
    }
}

fn reason(event: &Delivery) -> Reason {
    Reason::Event {
        external: !matches!(
            event.kind,
            Kind::SoftwareInterrupt | Kind::SoftwareException
        ),
        error_code: event.error_code,
    }
}

/// Makes the switch, or finds out what stops it. The old task goes on `len` bytes behind
/// RIP: 0 if it is at no instruction that is over then. `after` is done if there was a
/// switch.
fn attempt(
    vm: &Vm,
    state: &mut State,
    selector: u16,
    reason: Reason,
    len: u8,
    after: impl FnOnce(&mut Guest),
) -> Outcome {
    let guest = &state.guest;
    let next = step::finish(guest.rip, guest.rflags, 0, len.into(), guest.long);
    let mut memory = GuestMemory::new(vm);
    let mut guest = state.begin(&mut memory, delivery::NO_INSTRUCTION);
    if len != 0 {
        guest.cpu.rflags = next.rflags;
    }
    let switch = Switch {
        selector,
        reason,
        next_rip: next.rip,
    };
    let switched = task::switch(&mut guest, &switch);
    if let Some(error) = memory.failure() {
        return Err(error);
    }
    if let Ok(switched) = &switched {
        let mut debug = state.unswitched.debug;
        state.with_emulator(&vm.vmx, |vmcs, guest, emulator| {
            let (cpu, _) = emulator.instruction();
            guest.take_task(vmcs, &vm.vmx.caps, cpu);
            if traps(switched) {
                let dr7 = vmcs.read(field::GUEST_DR7);
                let (dr6, dr7) = step::debug_registers(debug.dr6, dr7, step::DR6_BT);
                debug.dr6 = dr6;
                vmcs.write(field::GUEST_DR7, dr7);
            }
            after(guest);
        })?;
        state.unswitched.debug = debug;
    }
    Ok(switched)
}

impl Guest {
    /// Takes over the registers of a new task.
    fn take_task(&mut self, vmcs: &Current<'_>, caps: &Caps, cpu: &Cpu) {
        self.take_registers(cpu);
        self.take_segments(vmcs, cpu);
        control::LDTR.take(vmcs, &cpu.ldtr);
        control::TR.take(vmcs, &cpu.tr);
        let mut control = self.control(vmcs);
        control.cr0 = Cr0::from_bits_retain(cpu.paging.cr0);
        control.cr3 = cpu.paging.cr3;
        self.set_control(vmcs, caps, &control);
        if control.pae_paging() {
            control::write_pdptes(vmcs, &cpu.paging.pdptes);
        }
        let dr7 = vmcs.read(field::GUEST_DR7);
        vmcs.write(field::GUEST_DR7, dr7 & !step::DR7_LOCAL);
    }
}

/// Gives the new task what comes before its first instruction.
fn begin(guest: &mut Guest, switched: &Switched) -> Option<UserExit> {
    match &switched.exception {
        Some(exception) => fault(guest, exception),
        None => {
            if traps(switched) {
                guest.events.raise(event::Exception::DB);
            }
            None
        }
    }
}

/// The trap at the end of the switch. A fault in the middle of it comes first.
fn traps(switched: &Switched) -> bool {
    switched.trap && switched.exception.is_none()
}

/// A fault at the instruction at RIP.
fn fault(guest: &mut Guest, exception: &Exception) -> Option<UserExit> {
    guest.rflags |= rflags::RF;
    guest.dirty = true;
    emulator::raise(guest, exception)
}
