// SPDX-License-Identifier: GPL-2.0

//! VM exits: raw field values in, a typed exit out.
//!
//! Decoding is total: whatever the processor reports has a value here, and a
//! reason this module does not know is [`Exit::Other`]. Sources: exit reasons
//! SDM 3D appendix C, exit qualifications SDM 3C 28.2.1.

use ept::{Gpa, Gva};

pub use crate::reason;

/// The exit information of one VM exit, as read from the VMCS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawExit {
    /// `VM_EXIT_REASON`.
    pub reason: u32,
    /// `EXIT_QUALIFICATION`.
    pub qualification: u64,
    /// `GUEST_PHYSICAL_ADDRESS`.
    pub gpa: u64,
    /// `GUEST_LINEAR_ADDRESS`.
    pub gla: u64,
    /// `VM_EXIT_INTR_INFO`.
    pub intr_info: u32,
    /// `VM_EXIT_INTR_ERROR_CODE`.
    pub intr_error: u32,
    /// `IDT_VECTORING_INFO`.
    pub idt_info: u32,
    /// `IDT_VECTORING_ERROR_CODE`.
    pub idt_error: u32,
    /// `VM_EXIT_INSTRUCTION_LEN`, in bytes.
    pub insn_len: u32,
    /// `VM_EXIT_INSTRUCTION_INFO`.
    pub insn_info: u32,
}

/// A port access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoExit {
    /// Port number.
    pub port: u16,
    /// Bytes of one element: 1, 2 or 4.
    pub size: u8,
    /// IN or INS; otherwise OUT or OUTS.
    pub input: bool,
    /// INS or OUTS.
    pub string: bool,
    /// With a REP prefix.
    pub rep: bool,
}

/// An access to a control register; `gpr` is the number of a general register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrAccess {
    /// MOV to CR.
    To {
        /// Control register number.
        cr: u8,
        /// Source register, 0 (RAX) to 15.
        gpr: u8,
    },
    /// MOV from CR.
    From {
        /// Control register number.
        cr: u8,
        /// Destination register, 0 (RAX) to 15.
        gpr: u8,
    },
    /// CLTS.
    Clts,
    /// LMSW with its operand.
    Lmsw(u16),
}

/// MOV to or from a debug register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrAccess {
    /// Debug register number, 0 to 7.
    pub dr: u8,
    /// General register, 0 (RAX) to 15.
    pub gpr: u8,
    /// MOV from DR; otherwise MOV to DR.
    pub from: bool,
}

/// An exception or NMI that left the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExceptionOrNmi {
    /// An NMI of the host.
    Nmi,
    /// #MC of the host.
    MachineCheck,
    /// #DB with the conditions to put into DR6; `icebp` if INT1 raised it.
    Debug {
        /// B0 to B3, BD, BS and RTM as in the exit qualification.
        conditions: u64,
        /// INT1, which is a trap: its delivery advances RIP by the length.
        icebp: bool,
    },
    /// Another exception, to be reflected.
    Exception {
        /// Vector.
        vector: u8,
        /// Error code if the exception has one.
        error_code: Option<u32>,
    },
}

/// What asks for a task switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskSource {
    /// CALL.
    Call,
    /// IRET with RFLAGS.NT set.
    Iret,
    /// JMP.
    Jmp,
    /// A task gate in the IDT, for the event in the IDT-vectoring information.
    Gate,
}

/// A task switch that the processor has not begun (SDM 3C 26.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskSwitch {
    /// Selector of the new task's TSS.
    pub selector: u16,
    /// What asks for it.
    pub source: TaskSource,
}

/// An EPT violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The guest-physical address accessed.
    pub gpa: Gpa,
    /// The linear address translated, if the processor knows one.
    pub gla: Option<Gva>,
    /// Data read.
    pub read: bool,
    /// Data write.
    pub write: bool,
    /// Instruction fetch.
    pub fetch: bool,
    /// The access was to the translation of the linear address; otherwise to a
    /// guest paging structure on the way to it.
    pub final_translation: bool,
    /// The access was not by the instruction at RIP (trace, PEBS and the like).
    pub asynchronous: bool,
    /// The access happened while an event was delivered.
    pub event_delivery: bool,
}

/// An SPP-related event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SppEvent {
    /// The guest-physical address whose sub-page vector was looked for.
    pub gpa: Gpa,
    /// The linear address.
    pub gla: Gva,
    /// The access was not by the instruction at RIP.
    pub asynchronous: bool,
}

/// Why a VM entry failed after it had begun to load the guest (SDM 3C 27.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryFailure {
    /// Invalid guest state; the qualification is one of SDM 3C 27.8 or 0.
    GuestState(u64),
    /// Entry `.0` (from 1) of the MSR-load area.
    MsrLoading(u64),
    /// A machine check during entry.
    MachineCheck,
    /// Any other basic reason with bit 31 set.
    Other(u16),
}

/// A decoded VM exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// VM entry failed; the guest did not run.
    EntryFailure(EntryFailure),
    /// An exception or NMI.
    ExceptionOrNmi(ExceptionOrNmi),
    /// A host interrupt, still pending.
    ExternalInterrupt,
    /// The guest shut down.
    TripleFault,
    /// INIT signal.
    Init,
    /// SIPI.
    Sipi,
    /// The guest can take an interrupt now.
    InterruptWindow,
    /// The guest can take an NMI now.
    NmiWindow,
    /// Hardware task switch.
    TaskSwitch(TaskSwitch),
    /// CPUID.
    Cpuid,
    /// HLT.
    Hlt,
    /// INVD.
    Invd,
    /// WBINVD or WBNOINVD.
    Wbinvd,
    /// INVLPG of a linear address.
    Invlpg(Gva),
    /// RDPMC.
    Rdpmc,
    /// RDTSC.
    Rdtsc,
    /// RDTSCP.
    Rdtscp,
    /// INVPCID.
    Invpcid,
    /// VMCALL.
    Vmcall,
    /// Any other VMX instruction, GETSEC or ENCLS: #UD in this guest.
    Undefined,
    /// Control-register access.
    Cr(CrAccess),
    /// Debug-register access.
    Dr(DrAccess),
    /// Port access.
    Io(IoExit),
    /// RDMSR.
    RdMsr,
    /// WRMSR.
    WrMsr,
    /// MWAIT.
    Mwait,
    /// MONITOR.
    Monitor,
    /// Monitor trap flag.
    Mtf,
    /// PAUSE.
    Pause,
    /// LGDT, LIDT, SGDT or SIDT.
    GdtrIdtr,
    /// LLDT, LTR, SLDT or STR.
    LdtrTr,
    /// EPT violation.
    EptViolation(Violation),
    /// EPT misconfiguration at this guest-physical address.
    EptMisconfig(Gpa),
    /// The SPPT walk met an entry that is not valid.
    SppMiss(SppEvent),
    /// The SPPT walk met an entry with reserved bits.
    SppMisconfig(SppEvent),
    /// The preemption timer ran out.
    PreemptionTimer,
    /// XSETBV.
    Xsetbv,
    /// A basic reason that has no meaning here.
    Other(u16),
}

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
/// EPT violations, page-modification log and SPP: an IRET had unblocked NMIs.
const NMI_UNBLOCKED: u64 = 1 << 12;
/// EPT violations and SPP: not by the instruction at RIP.
const ASYNCHRONOUS: u64 = 1 << 16;
/// Valid bit of interruption-information fields.
const VALID: u32 = 1 << 31;

const NMI: u32 = 2;
const PRIVILEGED_SOFTWARE_EXCEPTION: u32 = 5;

impl RawExit {
    /// Basic exit reason.
    #[inline]
    pub const fn basic(&self) -> u16 {
        (self.reason & 0xffff) as u16
    }

    /// VM entry failed.
    #[inline]
    pub const fn entry_failed(&self) -> bool {
        self.reason & (1 << 31) != 0
    }

    /// The exit happened while an event was delivered.
    #[inline]
    pub const fn event_delivery(&self) -> bool {
        self.idt_info & VALID != 0
    }

    /// The instruction that exited was an IRET that had already removed NMI
    /// blocking, which must be put back (SDM 3C 28.2.3). Meaningless, and false
    /// here, when an event was being delivered or the exit is a double fault.
    #[inline]
    pub const fn iret_unblocked_nmi(&self) -> bool {
        if self.event_delivery() || self.entry_failed() {
            return false;
        }
        match self.basic() {
            reason::EXCEPTION_OR_NMI => {
                let info = self.intr_info;
                let double_fault = info & 0xff == 8;
                info & VALID != 0 && info & (1 << 12) != 0 && !double_fault
            }
            reason::EPT_VIOLATION | reason::SPP => self.qualification & NMI_UNBLOCKED != 0,
            _ => false,
        }
    }

    /// Length in bytes of the instruction that exited, where the processor
    /// defines it (SDM 3C 28.2.5): fault-like exits of memory accesses do not.
    #[inline]
    pub const fn instruction_len(&self) -> Option<u8> {
        let defined = match self.basic() {
            10..=16 | 18..=32 | 36 | 39 | 40 | 46 | 47 | 50 | 51 | 53..=55 | 57..=61 => true,
            63 | 64 | 67 | 68 => true,
            reason::EXCEPTION_OR_NMI => matches!((self.intr_info >> 8) & 7, 4..=6),
            reason::TASK_SWITCH => {
                !self.event_delivery() || matches!((self.idt_info >> 8) & 7, 4..=6)
            }
            _ => false,
        };
        if !defined || self.insn_len == 0 || self.insn_len > 15 {
            return None;
        }
        Some(self.insn_len as u8)
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
            reason::IO => Self::Io(io(raw.qualification)),
            reason::INVLPG => Self::Invlpg(Gva::new(raw.qualification)),
            reason::EPT_VIOLATION => Self::EptViolation(ept_violation(raw)),
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

const fn io(qualification: u64) -> IoExit {
    IoExit {
        port: ((qualification >> 16) & 0xffff) as u16,
        // Encoded as size - 1: 0, 1 or 3; 2 and above 3 do not occur.
        size: ((qualification & 3) + 1) as u8,
        input: qualification & (1 << 3) != 0,
        string: qualification & (1 << 4) != 0,
        rep: qualification & (1 << 5) != 0,
    }
}

fn ept_violation(raw: &RawExit) -> Violation {
    let has = |bit: u64| raw.qualification & bit != 0;
    let gla_valid = has(violation::GLA_VALID);
    Violation {
        gpa: Gpa::new(raw.gpa),
        gla: gla_valid.then_some(Gva::new(raw.gla)),
        read: has(violation::READ),
        write: has(violation::WRITE),
        fetch: has(violation::FETCH),
        // Bit 8 is undefined without a linear address; only the accesses of
        // PDPTE loads and of trace have none, and no guest data goes that way.
        final_translation: gla_valid && has(violation::FINAL_TRANSLATION),
        asynchronous: has(ASYNCHRONOUS),
        event_delivery: raw.event_delivery(),
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

#[cfg(test)]
#[path = "tests/exit.rs"]
mod tests;
