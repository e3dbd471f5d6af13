// SPDX-License-Identifier: GPL-2.0

//! KVM_RUN (KVM api.rst 4.10): complete what was pending, run, and say why the
//! guest stopped.
//!
//! ```text
//!   complete pending accesses -> immediate_exit? EINTR
//!        |
//!        v
//!   +-> entry::enter (IRQs off) -----------------------> UserExit -> kvm_run
//!   |        |
//!   +--------+-- Violation: fixed
//!   |        |
//!   +--------+-- Host: signal? EINTR -> host work (IRQs on)
//! ```

use super::{
    area::Area,
    devices,
    emulator,
    entry::{
        self,
        Leave,
        Stop, //
    },
    report::{
        self,
        UserExit, //
    },
    tasks,
    vcpu::{
        Guest,
        Pending,
        State,
        Vcpu, //
    },
    violation,
    vm::Vm, //
};
use crate::host::shim;
use ioctl_api::{
    run,
    subpage::KVM_SPP_CAUSE_EMULATED, //
};
use kernel::prelude::*;
use vmcore::{
    exit::{
        Exit,
        IoExit, //
    },
    step, //
};

/// KVM_RUN. `EINTR`: a signal is pending, or immediate_exit is set; `EINVAL`:
/// bad fields in kvm_run; else what a page look-up says.
pub(crate) fn run(vm: &Vm, vcpu: &Vcpu) -> Result<isize> {
    let mut state = vcpu.state.lock();
    let mask = state.guest.signal_mask;
    if let Some(mask) = &mask {
        // SAFETY: The pointer is to a signal set of 8 bytes.
        unsafe { shim::kvm_spp_sigmask_begin(mask) };
    }
    let result = run_locked(vm, &vcpu.area, &mut state);
    if mask.is_some() {
        shim::kvm_spp_sigmask_end();
    }
    report::publish(&vcpu.area, &state.guest);
    match result {
        Ok(exit) => {
            report::report(&vcpu.area, &exit, &state.guest);
            Ok(0)
        }
        Err(err) => Err(err),
    }
}

fn run_locked(vm: &Vm, area: &Area, state: &mut State) -> Result<UserExit> {
    // KVM_CAP_SYNC_REGS is not offered, so no register set is known.
    if area.load::<u64>(run::VALID_REGS) | area.load::<u64>(run::DIRTY_REGS) != 0 {
        return Err(EINVAL);
    }
    let cr8 = area.load::<u64>(run::CR8);
    if cr8 > 15 {
        return Err(EINVAL);
    }
    state.guest.cr8 = cr8;
    if let Some(exit) = complete(vm, area, state)? {
        return Ok(exit);
    }
    if area.load::<u8>(run::IMMEDIATE_EXIT) != 0 {
        return Err(EINTR);
    }
    state.guest.ran = true;
    let result = run_loop(vm, area, state);
    if matches!(&result, Err(err) if *err == EINTR) {
        report::interrupted(area);
    }
    result
}

fn run_loop(vm: &Vm, area: &Area, state: &mut State) -> Result<UserExit> {
    loop {
        let exit = match entry::enter(vm, area, state)? {
            // The guest is not entered while there is work of the host's.
            Leave::Host if shim::kvm_spp_signal_pending() || shim::kvm_spp_guest_work() != 0 => {
                return Err(EINTR);
            }
            Leave::Host => None,
            Leave::LoadPdptes => {
                state.load_pdptes(vm)?;
                None
            }
            leave @ (Leave::Violation | Leave::Io | Leave::TaskSwitch) => {
                slow_exit(vm, area, state, &leave)?
            }
            Leave::User(stop) => Some(UserExit::Stop(stop)),
        };
        if let Some(exit) = exit {
            return Ok(exit);
        }
    }
}

/// An exit that needs IRQs on: guest memory, or user space's devices.
// Not inlined: exits that need nothing of it are more frequent.
#[inline(never)]
fn slow_exit(vm: &Vm, area: &Area, state: &mut State, leave: &Leave) -> Result<Option<UserExit>> {
    let raw = &state.guest.exit;
    match leave {
        Leave::Violation => {
            let violation = raw.violation();
            violation::resolve(vm, area, state, &violation)
        }
        Leave::Io => match raw.io() {
            io if io.string => emulator::emulate(vm, area, state, KVM_SPP_CAUSE_EMULATED, None),
            io => Ok(begin_io(vm, area, &mut state.guest, io)),
        },
        _ => match Exit::decode(raw) {
            Exit::TaskSwitch(asked) => tasks::switch(vm, state, asked),
            _ => Ok(Some(UserExit::Stop(Stop::Unexpected))),
        },
    }
}

/// Starts an IN or OUT: user space does it, the next KVM_RUN completes it. An OUT
/// that the bus takes is finished now.
fn begin_io(vm: &Vm, area: &Area, guest: &mut Guest, io: IoExit) -> Option<UserExit> {
    let Some(len) = guest.exit.instruction_len() else {
        return Some(UserExit::Stop(Stop::Unexpected));
    };
    if !io.input {
        let [rax, ..] = guest.regs.gprs;
        let written = rax.to_le_bytes();
        let written = written.get(..usize::from(io.size)).unwrap_or(&written);
        if vm.bus.port_write(io.port, written, area) {
            guest.skip(u64::from(len));
            return None;
        }
        area.store(run::PIO_DATA, rax);
    }
    guest.pending = Some(Pending::Port {
        linear_rip: guest.linear_rip(),
        len,
        input: io.input.then_some(io.size),
    });
    Some(UserExit::Io(run::IoExit {
        direction: match io.input {
            true => run::KVM_EXIT_IO_IN,
            false => run::KVM_EXIT_IO_OUT,
        },
        size: io.size,
        port: io.port,
        count: 1,
        data_offset: run::PIO_DATA as u64,
    }))
}

/// Completes what the last exit left; an emulated instruction may need another exit.
fn complete(vm: &Vm, area: &Area, state: &mut State) -> Result<Option<UserExit>> {
    if state.guest.pending.is_none() {
        return Ok(None);
    }
    let here = state.guest.linear_rip();
    match state.guest.pending.take() {
        Some(Pending::Port {
            linear_rip,
            len,
            input,
        }) if linear_rip == here => complete_port(area, &mut state.guest, len, input),
        Some(Pending::Device { linear_rip, read }) if linear_rip == here => {
            return devices::resume(vm, area, state, read)
        }
        Some(Pending::Ports { linear_rip, read }) if linear_rip == here => {
            return devices::resume_port(vm, area, state, read)
        }
        Some(Pending::Writes) => return Ok(devices::tell(vm, area, state)),
        _ => {}
    }
    Ok(None)
}

/// Completes an IN or OUT of `len` bytes; `input` are the bytes that RAX gets.
fn complete_port(area: &Area, guest: &mut Guest, len: u8, input: Option<u8>) {
    if let Some(size) = input {
        let data = area.load::<u32>(run::PIO_DATA);
        let [rax, ..] = &mut guest.regs.gprs;
        *rax = step::merge_in(*rax, data, size);
    }
    guest.skip(u64::from(len));
}
