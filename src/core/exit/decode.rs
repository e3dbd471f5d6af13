// SPDX-License-Identifier: GPL-2.0

//! From the exit information to a typed exit.

use ept::{Gpa, Gva};

use super::{
    reason, CrAccess, DrAccess, EntryFailure, ExceptionOrNmi, Exit, IoExit, RawExit, SppEvent,
    TaskSource, TaskSwitch, Violation,
};

/// Bits of the exit qualification of EPT violations (SDM 3C table 28-7).
mod violation {
    pub(super) const READ: u64 = 1 << 0;
    pub(super) const WRITE: u64 = 1 << 1;
    pub(super) const FETCH: u64 = 1 << 2;
    pub(super) const GLA_VALID: u64 = 1 << 7;
    pub(super) const FINAL_TRANSLATION: u64 = 1 << 8;
}

/// SPP-related event: miss, otherwise misconfiguration (SDM 3C 28.2.1).
const SPP_MISS: u64 = 1 << 11;
/// EPT violations and SPP: not by the instruction at RIP.
const ASYNCHRONOUS: u64 = 1 << 16;

const NMI: u32 = 2;
const PRIVILEGED_SOFTWARE_EXCEPTION: u32 = 5;

impl RawExit {
    /// The port access that the exit is for, if its reason is [`reason::IO`].
    pub const fn io(&self) -> IoExit {
        let qualification = self.qualification;
        IoExit {
            port: ((qualification >> 16) & 0xffff) as u16,
            // Encoded as size - 1: 0, 1 or 3; 2 and above 3 do not occur.
            size: ((qualification & 3) + 1) as u8,
            input: qualification & (1 << 3) != 0,
            string: qualification & (1 << 4) != 0,
            rep: qualification & (1 << 5) != 0,
        }
    }

    /// The access that EPT has stopped, if the reason is [`reason::EPT_VIOLATION`].
    pub fn violation(&self) -> Violation {
        let has = |bit: u64| self.qualification & bit != 0;
        let gla_valid = has(violation::GLA_VALID);
        Violation {
            gpa: Gpa::new(self.gpa),
            gla: gla_valid.then_some(Gva::new(self.gla)),
            read: has(violation::READ),
            write: has(violation::WRITE),
            fetch: has(violation::FETCH),
            // Bit 8 is undefined without a linear address; only the accesses of
            // PDPTE loads and of trace have none, and no guest data goes that way.
            final_translation: gla_valid && has(violation::FINAL_TRANSLATION),
            asynchronous: has(ASYNCHRONOUS),
            event_delivery: self.event_delivery(),
        }
    }
}

impl Exit {
    /// Decodes a VM exit.
    pub fn decode(raw: &RawExit) -> Self {
        if raw.entry_failed() {
            return Self::EntryFailure(entry_failure(raw));
        }
        match raw.basic() {
            reason::EXCEPTION_OR_NMI => Self::ExceptionOrNmi(exception(raw)),
            reason::TASK_SWITCH => Self::TaskSwitch(task_switch(raw.qualification)),
            reason::CR_ACCESS => cr_access(raw),
            reason::DR_ACCESS => Self::Dr(dr_access(raw.qualification)),
            reason::IO => Self::Io(raw.io()),
            reason::INVLPG => Self::Invlpg(Gva::new(raw.qualification)),
            reason::EPT_VIOLATION => Self::EptViolation(raw.violation()),
            reason::EPT_MISCONFIG => Self::EptMisconfig(Gpa::new(raw.gpa)),
            reason::SPP => spp(raw),
            basic => Self::plain(basic),
        }
    }

    /// Exits whose reason says everything.
    const fn plain(basic: u16) -> Self {
        match basic {
            reason::EXTERNAL_INTERRUPT => Self::ExternalInterrupt,
            reason::TRIPLE_FAULT => Self::TripleFault,
            reason::INIT => Self::Init,
            reason::SIPI => Self::Sipi,
            reason::INTERRUPT_WINDOW => Self::InterruptWindow,
            reason::NMI_WINDOW => Self::NmiWindow,
            reason::CPUID => Self::Cpuid,
            reason::HLT => Self::Hlt,
            reason::INVD => Self::Invd,
            reason::WBINVD => Self::Wbinvd,
            reason::RDPMC => Self::Rdpmc,
            reason::RDTSC => Self::Rdtsc,
            reason::RDTSCP => Self::Rdtscp,
            reason::INVPCID => Self::Invpcid,
            reason::VMCALL => Self::Vmcall,
            reason::GETSEC | reason::VMCLEAR..=reason::VMXON => Self::Undefined,
            reason::INVEPT | reason::INVVPID | reason::VMFUNC | reason::ENCLS => Self::Undefined,
            reason::RDMSR => Self::RdMsr,
            reason::WRMSR => Self::WrMsr,
            reason::MWAIT => Self::Mwait,
            reason::MONITOR => Self::Monitor,
            reason::MTF => Self::Mtf,
            reason::PAUSE => Self::Pause,
            reason::GDTR_IDTR => Self::GdtrIdtr,
            reason::LDTR_TR => Self::LdtrTr,
            reason::PREEMPTION_TIMER => Self::PreemptionTimer,
            reason::XSETBV => Self::Xsetbv,
            other => Self::Other(other),
        }
    }
}

const fn entry_failure(raw: &RawExit) -> EntryFailure {
    match raw.basic() {
        reason::ENTRY_GUEST_STATE => EntryFailure::GuestState(raw.qualification),
        reason::ENTRY_MSR_LOADING => EntryFailure::MsrLoading(raw.qualification),
        reason::ENTRY_MACHINE_CHECK => EntryFailure::MachineCheck,
        other => EntryFailure::Other(other),
    }
}

const fn exception(raw: &RawExit) -> ExceptionOrNmi {
    let vector = (raw.intr_info & 0xff) as u8;
    let kind = (raw.intr_info >> 8) & 7;
    match vector {
        _ if kind == NMI => ExceptionOrNmi::Nmi,
        18 => ExceptionOrNmi::MachineCheck,
        1 => ExceptionOrNmi::Debug {
            conditions: raw.qualification,
            icebp: kind == PRIVILEGED_SOFTWARE_EXCEPTION,
        },
        vector => ExceptionOrNmi::Exception {
            vector,
            error_code: if raw.intr_info & (1 << 11) != 0 {
                Some(raw.intr_error)
            } else {
                None
            },
        },
    }
}

/// SDM 3C table 28-2.
const fn task_switch(qualification: u64) -> TaskSwitch {
    TaskSwitch {
        selector: (qualification & 0xffff) as u16,
        source: match (qualification >> 30) & 3 {
            0 => TaskSource::Call,
            1 => TaskSource::Iret,
            2 => TaskSource::Jmp,
            _ => TaskSource::Gate,
        },
    }
}

const fn cr_access(raw: &RawExit) -> Exit {
    let qualification = raw.qualification;
    let cr = (qualification & 0xf) as u8;
    let gpr = ((qualification >> 8) & 0xf) as u8;
    Exit::Cr(match (qualification >> 4) & 3 {
        0 => CrAccess::To { cr, gpr },
        1 => CrAccess::From { cr, gpr },
        2 => CrAccess::Clts,
        _ => CrAccess::Lmsw(((qualification >> 16) & 0xffff) as u16),
    })
}

const fn dr_access(qualification: u64) -> DrAccess {
    DrAccess {
        dr: (qualification & 7) as u8,
        gpr: ((qualification >> 8) & 0xf) as u8,
        from: qualification & (1 << 4) != 0,
    }
}

fn spp(raw: &RawExit) -> Exit {
    let event = SppEvent {
        gpa: Gpa::new(raw.gpa),
        gla: Gva::new(raw.gla),
        asynchronous: raw.qualification & ASYNCHRONOUS != 0,
    };
    if raw.qualification & SPP_MISS != 0 {
        Exit::SppMiss(event)
    } else {
        Exit::SppMisconfig(event)
    }
}
