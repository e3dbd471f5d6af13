// SPDX-License-Identifier: GPL-2.0

//! What KVM_RUN tells user space: exit reasons and their payloads in kvm_run
//! (KVM api.rst 5).

use super::{
    area::Area,
    entry::Stop,
    vcpu::Guest, //
};
use crate::host::shim;
use emulate::{
    fetch::Fetched,
    insn::MAX_BYTES,
    stop::Denial, //
};
use ioctl_api::{
    run::{
        self,
        EmulationFailure,
        FailEntry,
        InternalError, //
    },
    subpage::{
        SppExit,
        KVM_EXIT_SPP,
        KVM_SPP_EXIT_GVA_VALID,
        KVM_SPP_EXIT_PAGE_WALK,
        KVM_SPP_EXIT_READ,
        KVM_SPP_EXIT_SIZE_VALID, //
    },
};
use vmcore::{
    event::Interruptibility,
    exit::RawExit, //
};
use zerocopy::IntoBytes;

/// Why KVM_RUN returns 0. Small, for it is handed up from where it was found; what is large
/// stays with the vCPU.
pub(crate) enum UserExit {
    /// One that needs nothing more from the kernel.
    Stop(Stop),
    /// A port is to be read or written.
    Io(run::IoExit),
    /// A device is to be read or written.
    Mmio(run::MmioExit),
    /// An instruction that we would have to emulate and cannot.
    Emulation(InsnBytes),
    /// An event could not be delivered without emulation.
    Undeliverable,
    /// A denied write, which is in [`Guest::denied`].
    Spp,
}
static_assertions::const_assert!(size_of::<UserExit>() <= 40);

/// What could be had of an instruction.
pub(crate) struct InsnBytes {
    /// They, the rest 0.
    bytes: [u8; MAX_BYTES],
    len: u8,
}

impl From<&Fetched> for InsnBytes {
    fn from(fetched: &Fetched) -> Self {
        Self {
            bytes: fetched.bytes,
            len: fetched.len,
        }
    }
}

/// What every return from KVM_RUN writes, whatever its reason.
pub(crate) fn publish(area: &Area, guest: &Guest) {
    let now = Interruptibility::new(guest.interruptibility, guest.rflags, 1);
    let ready = guest.events.ready_for_interrupt(&now);
    area.store(run::READY_FOR_INTERRUPT_INJECTION, u8::from(ready));
    area.store(run::IF_FLAG, u8::from(now.if_flag));
    area.store(run::FLAGS, 0u16);
    area.store(run::CR8, guest.cr8);
    area.store(run::APIC_BASE, guest.apic_base());
}

/// KVM_RUN fails with `EINTR` because of a signal.
pub(crate) fn interrupted(area: &Area) {
    area.store(run::EXIT_REASON, run::KVM_EXIT_INTR);
}

/// Writes the exit reason and its payload to kvm_run.
pub(crate) fn report(area: &Area, exit: &UserExit, guest: &Guest) {
    let raw = &guest.exit;
    match exit {
        UserExit::Stop(stop) => report_stop(area, stop, raw),
        UserExit::Io(payload) => area.exit(run::KVM_EXIT_IO, payload.as_bytes()),
        UserExit::Mmio(payload) => area.exit(run::KVM_EXIT_MMIO, payload.as_bytes()),
        UserExit::Emulation(insn) => {
            let payload = EmulationFailure {
                suberror: run::KVM_INTERNAL_ERROR_EMULATION,
                ndata: 3,
                flags: run::KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES,
                insn_size: insn.len,
                insn_bytes: insn.bytes,
            };
            area.exit(run::KVM_EXIT_INTERNAL_ERROR, payload.as_bytes());
        }
        UserExit::Undeliverable => {
            let suberror = run::KVM_INTERNAL_ERROR_DELIVERY_EV;
            let event = u64::from(raw.idt_info);
            let reason = u64::from(raw.reason);
            internal(area, suberror, &[event, reason, raw.qualification, raw.gpa]);
        }
        UserExit::Spp => area.exit(KVM_EXIT_SPP, guest.denied.as_bytes()),
    }
}

fn report_stop(area: &Area, stop: &Stop, raw: &RawExit) {
    match stop {
        Stop::Hlt => area.exit(run::KVM_EXIT_HLT, &[]),
        Stop::InterruptWindow => area.exit(run::KVM_EXIT_IRQ_WINDOW_OPEN, &[]),
        Stop::SetTpr => area.exit(run::KVM_EXIT_SET_TPR, &[]),
        Stop::Shutdown => area.exit(run::KVM_EXIT_SHUTDOWN, &[]),
        Stop::FailEntry(reason) => {
            let payload = FailEntry {
                hardware_entry_failure_reason: *reason,
                cpu: shim::kvm_spp_any_cpu(),
                pad: 0,
            };
            area.exit(run::KVM_EXIT_FAIL_ENTRY, payload.as_bytes());
        }
        Stop::Unexpected => {
            let suberror = run::KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON;
            let cpu = u64::from(shim::kvm_spp_any_cpu());
            internal(area, suberror, &[u64::from(raw.reason), cpu]);
        }
    }
}

/// The payload of KVM_EXIT_SPP for a write that the emulator found denied; the
/// instruction is not in it yet.
pub(crate) fn denied(denial: &Denial, cause: u8) -> SppExit {
    let mut flags = KVM_SPP_EXIT_GVA_VALID | KVM_SPP_EXIT_SIZE_VALID;
    if denial.walk {
        flags |= KVM_SPP_EXIT_PAGE_WALK;
    }
    if denial.read {
        flags |= KVM_SPP_EXIT_READ;
    }
    SppExit {
        flags,
        gpa: denial.gpa.get(),
        gva: denial.gva.get(),
        size: denial.size.into(),
        denied: denial.denied.raw(),
        map: denial.map.raw(),
        cause,
        ..SppExit::default()
    }
}

/// Puts the bytes at RIP into a payload.
pub(crate) fn put_instruction(exit: &mut SppExit, fetched: &Fetched) {
    exit.insn_bytes = fetched.len;
    for (to, from) in exit.insn.iter_mut().zip(fetched.bytes) {
        *to = from;
    }
}

fn internal(area: &Area, suberror: u32, data: &[u64]) {
    let mut payload = InternalError {
        suberror,
        ndata: data.len() as u32,
        ..InternalError::default()
    };
    for (to, from) in payload.data.iter_mut().zip(data) {
        *to = *from;
    }
    area.exit(run::KVM_EXIT_INTERNAL_ERROR, payload.as_bytes());
}
