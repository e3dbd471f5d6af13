// SPDX-License-Identifier: GPL-2.0

//! KVM_RUN (KVM api.rst 4.10): complete what was pending, run, and say why the
//! guest stopped.
//!
//! ```text
//!   complete pending PIO -> immediate_exit? EINTR
//!        |
//!        v
//!   +-> signal? EINTR -> host work (IRQs on) -> entry::enter (IRQs off)
//!   |                                                 |
//!   +-- handled: Host, Violation fixed <--------------+--> UserExit -> kvm_run
//! ```

use super::{
    area::Area,
    entry::{
        self,
        Leave, //
    },
    vcpu::{
        Pending,
        State,
        Vcpu, //
    },
    vm::Vm, //
};
use crate::host::shim;
use ioctl_api::{
    run::{
        self,
        EmulationFailure,
        FailEntry,
        InternalError, //
    },
    subpage::{
        SppExit,
        KVM_EXIT_SPP, //
    },
    vcpu::KVM_MP_STATE_RUNNABLE, //
};
use kernel::prelude::*;
use vmcore::exit::IoExit;
use zerocopy::IntoBytes;

/// Why KVM_RUN returns 0.
pub(crate) enum UserExit {
    Hlt,
    Io {
        io: IoExit,
        count: u32,
    },
    InterruptWindow,
    SetTpr,
    Shutdown,
    /// Hardware's reason, or the VM-instruction error.
    FailEntry(u64),
    /// An instruction that we would have to emulate and cannot.
    Emulation {
        insn: [u8; 15],
        len: u8,
    },
    /// The suberror and what describes it.
    Internal {
        suberror: u32,
        data: [u64; 4],
    },
    Spp(SppExit),
}

/// KVM_RUN. `EINTR`: a signal is pending, or immediate_exit is set.
pub(crate) fn run(vm: &Vm, vcpu: &Vcpu) -> Result<isize> {
    let mut state = vcpu.state.lock();
    if let Some(mask) = state.guest.signal_mask {
        // SAFETY: The pointer is to a local.
        unsafe { shim::kvm_spp_sigmask_begin(&mask) };
    }
    let result = run_locked(vm, vcpu, &mut state);
    if state.guest.signal_mask.is_some() {
        shim::kvm_spp_sigmask_end();
    }
    publish(vcpu, &state);
    match result? {
        None => Err(EINTR),
        Some(exit) => {
            report(&vcpu.area, &exit);
            Ok(0)
        }
    }
}

/// `None`: interrupted before the guest did anything that user space must see.
fn run_locked(vm: &Vm, vcpu: &Vcpu, state: &mut State) -> Result<Option<UserExit>> {
    let cr8 = vcpu.area.read_u64(run::CR8);
    if cr8 > 15 {
        return Err(EINVAL);
    }
    state.guest.cr8 = cr8;
    complete(&vcpu.area, state);
    if vcpu.area.read_u8(run::IMMEDIATE_EXIT) != 0 {
        return Ok(None);
    }
    if state.guest.mp_state != KVM_MP_STATE_RUNNABLE {
        state.guest.mp_state = KVM_MP_STATE_RUNNABLE;
    }
    state.guest.ran = true;
    loop {
        if shim::kvm_spp_guest_work_pending() {
            if shim::kvm_spp_signal_pending() || shim::kvm_spp_guest_work() != 0 {
                interrupted(&vcpu.area);
                return Ok(None);
            }
        }
        match entry::enter(vm, vcpu, state)? {
            Leave::Host => {}
            Leave::LoadPdptes(control, len) => state.load_pdptes(vm, &control, len)?,
            Leave::MachineCheck => shim::kvm_spp_machine_check(),
            Leave::Violation(violation, raw) => {
                match super::violation::resolve(vm, state, &violation, &raw) {
                    Ok(None) => {}
                    Ok(Some(exit)) => return Ok(Some(exit)),
                    Err(err) if err == EINTR => {
                        interrupted(&vcpu.area);
                        return Ok(None);
                    }
                    Err(err) => return Err(err),
                }
            }
            Leave::Io(io, len) => return begin_io(vm, vcpu, state, io, len).map(Some),
            Leave::User(exit) => return Ok(Some(exit)),
        }
    }
}

fn interrupted(area: &Area) {
    area.write(run::EXIT_REASON, &run::KVM_EXIT_INTR.to_ne_bytes());
}

/// Starts an IN or OUT: user space does it, the next KVM_RUN completes it.
fn begin_io(vm: &Vm, vcpu: &Vcpu, state: &mut State, io: IoExit, len: u8) -> Result<UserExit> {
    if io.string {
        return super::violation::emulation_failure(vm, state);
    }
    let linear_rip = state.guest.linear_rip();
    let len = u64::from(len);
    state.guest.pending = Some(if io.input {
        let size = io.size;
        Pending::In {
            linear_rip,
            len,
            size,
        }
    } else {
        let data = state.guest.gprs[0].to_le_bytes();
        let data = data.get(..usize::from(io.size)).unwrap_or(&data);
        vcpu.area.write(run::PIO_DATA, data);
        Pending::Out { linear_rip, len }
    });
    Ok(UserExit::Io { io, count: 1 })
}

/// Completes what the last exit left: unless user space has moved RIP, which
/// says that it has dealt with the instruction itself.
fn complete(area: &Area, state: &mut State) {
    let (linear_rip, len) = match state.guest.pending {
        None => return,
        Some(
            Pending::Out { linear_rip, len }
            | Pending::In {
                linear_rip, len, ..
            },
        ) => (linear_rip, len),
    };
    let pending = state.guest.pending.take();
    if state.guest.linear_rip() != linear_rip {
        return;
    }
    if let Some(Pending::In { size, .. }) = pending {
        let mut data = [0; 4];
        if let Some(data) = data.get_mut(..usize::from(size)) {
            area.read(run::PIO_DATA, data);
        }
        state.guest.gprs[0] =
            vmcore::step::merge_in(state.guest.gprs[0], u32::from_le_bytes(data), size);
    }
    state.guest.skip(len);
}

/// What every return from KVM_RUN writes, whatever its reason.
fn publish(vcpu: &Vcpu, state: &State) {
    let guest = &state.guest;
    let now = vmcore::event::Interruptibility::new(guest.interruptibility, guest.rflags, 1);
    let ready = guest.events.ready_for_interrupt(&now);
    let area = &vcpu.area;
    area.write(run::READY_FOR_INTERRUPT_INJECTION, &[u8::from(ready)]);
    area.write(run::IF_FLAG, &[u8::from(now.if_flag)]);
    area.write(run::FLAGS, &0u16.to_ne_bytes());
    area.write(run::CR8, &guest.cr8.to_ne_bytes());
    area.write(run::APIC_BASE, &guest.apic_base().to_ne_bytes());
}

/// Writes the exit reason and its payload to kvm_run.
fn report(area: &Area, exit: &UserExit) {
    match exit {
        UserExit::Hlt => area.exit(run::KVM_EXIT_HLT, &[]),
        UserExit::InterruptWindow => area.exit(run::KVM_EXIT_IRQ_WINDOW_OPEN, &[]),
        UserExit::SetTpr => area.exit(run::KVM_EXIT_SET_TPR, &[]),
        UserExit::Shutdown => area.exit(run::KVM_EXIT_SHUTDOWN, &[]),
        UserExit::Io { io, count } => {
            let payload = run::IoExit {
                direction: match io.input {
                    true => run::KVM_EXIT_IO_IN,
                    false => run::KVM_EXIT_IO_OUT,
                },
                size: io.size,
                port: io.port,
                count: *count,
                data_offset: run::PIO_DATA as u64,
            };
            area.exit(run::KVM_EXIT_IO, payload.as_bytes());
        }
        UserExit::FailEntry(reason) => {
            let payload = FailEntry {
                hardware_entry_failure_reason: *reason,
                ..FailEntry::default()
            };
            area.exit(run::KVM_EXIT_FAIL_ENTRY, payload.as_bytes());
        }
        UserExit::Emulation { insn, len } => {
            let payload = EmulationFailure {
                suberror: run::KVM_INTERNAL_ERROR_EMULATION,
                ndata: 3,
                flags: run::KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES,
                insn_size: *len,
                insn_bytes: *insn,
            };
            area.exit(run::KVM_EXIT_INTERNAL_ERROR, payload.as_bytes());
        }
        UserExit::Internal { suberror, data } => {
            let mut payload = InternalError {
                suberror: *suberror,
                ndata: data.len() as u32,
                ..InternalError::default()
            };
            for (to, from) in payload.data.iter_mut().zip(data) {
                *to = *from;
            }
            area.exit(run::KVM_EXIT_INTERNAL_ERROR, payload.as_bytes());
        }
        UserExit::Spp(payload) => area.exit(KVM_EXIT_SPP, payload.as_bytes()),
    }
}
