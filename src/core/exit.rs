// SPDX-License-Identifier: GPL-2.0

//! VM exits: raw field values in, a typed exit out.
//!
//! Decoding is total: whatever the processor reports has a value here, and a
//! reason this module does not know is [`Exit::Other`]. Sources: exit reasons
//! SDM 3D appendix C, exit qualifications SDM 3C 28.2.1.

mod decode;

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

/// EPT violations, page-modification log and SPP: an IRET had unblocked NMIs.
const NMI_UNBLOCKED: u64 = 1 << 12;
/// Valid bit of interruption-information fields.
const VALID: u32 = 1 << 31;

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

#[cfg(test)]
#[path = "tests/exit.rs"]
mod tests;
