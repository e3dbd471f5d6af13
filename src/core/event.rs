// SPDX-License-Identifier: GPL-2.0

//! Events a vCPU has to take: exceptions, NMIs and interrupts as plain state.
//!
//! ```text
//!   raise / queue_nmi / queue_interrupt          VM exit during delivery
//!              |                                (IDT-vectoring information)
//!              v                                          |
//!        +-----------+  <------- reinject ----------------+
//!        |  Events   |  <------- cancel (entry given up)
//!        +-----------+
//!              | inject: exception > NMI > interrupt
//!              v
//!   VM-entry interruption information; whatever is left asks for a window
//! ```
//!
//! An event is never in two places: `inject` takes it out, and only a VM exit
//! during its delivery or a cancelled entry puts it back.

use crate::exit::RawExit;

/// Bit 31 of the interruption-information fields.
pub(crate) const VALID: u32 = 1 << 31;
/// Bit 11: an error code goes with the event.
pub(crate) const HAS_ERROR_CODE: u32 = 1 << 11;

pub(crate) const EXTERNAL_INTERRUPT: u32 = 0;
pub(crate) const NMI: u32 = 2;
pub(crate) const HARDWARE_EXCEPTION: u32 = 3;
pub(crate) const SOFTWARE_INTERRUPT: u32 = 4;
pub(crate) const PRIVILEGED_SOFTWARE_EXCEPTION: u32 = 5;
pub(crate) const SOFTWARE_EXCEPTION: u32 = 6;

/// Vector of NMIs, which is never an exception.
const NMI_VECTOR: u8 = 2;
const DF: u8 = 8;
const PF: u8 = 14;
/// Exceptions that push an error code (SDM 3A table 6-1).
const ERROR_CODE_VECTORS: u32 = 1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17;

/// Where an exception comes from, which decides how it is injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The processor found it.
    Hardware,
    /// INT3 or INTO of `len` bytes.
    Software {
        /// Instruction length in bytes.
        len: u8,
    },
    /// INT1 of `len` bytes.
    PrivilegedSoftware {
        /// Instruction length in bytes.
        len: u8,
    },
}

/// An exception to deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Vector, 0 to 31 and not 2.
    pub vector: u8,
    /// Error code, for vectors that have one.
    pub error_code: u32,
    /// Who raised it.
    pub origin: Origin,
}

impl Exception {
    /// #UD.
    pub const UD: Self = Self::hardware(6, 0);
    /// #GP(0).
    pub const GP: Self = Self::hardware(13, 0);
    /// #DB; the caller has put the condition into DR6.
    pub const DB: Self = Self::hardware(1, 0);

    /// An exception that the processor raises.
    #[inline]
    pub const fn hardware(vector: u8, error_code: u32) -> Self {
        Self {
            vector,
            error_code,
            origin: Origin::Hardware,
        }
    }

    /// Whether the vector pushes an error code.
    #[inline]
    pub const fn has_error_code(&self) -> bool {
        self.vector < 32 && ERROR_CODE_VECTORS >> self.vector & 1 != 0
    }
}

/// INT n, whose delivery was cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftwareInterrupt {
    /// Vector.
    pub vector: u8,
    /// Instruction length in bytes.
    pub len: u8,
}

/// What the guest's state says about taking events now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interruptibility {
    /// RFLAGS.IF.
    pub if_flag: bool,
    /// Blocking by STI.
    pub blocked_by_sti: bool,
    /// Blocking by MOV SS or POP SS.
    pub mov_ss: bool,
    /// Blocking by NMI (virtual).
    pub nmi_blocked: bool,
    /// CR0.PE: exceptions push error codes.
    pub protected: bool,
}

impl Interruptibility {
    /// Reads the guest interruptibility-state field (SDM 3C table 25-3).
    #[inline]
    pub const fn new(field: u32, rflags: u64, cr0: u64) -> Self {
        Self {
            if_flag: rflags & (1 << 9) != 0,
            blocked_by_sti: field & 1 != 0,
            mov_ss: field & 2 != 0,
            nmi_blocked: field & 8 != 0,
            protected: cr0 & 1 != 0,
        }
    }

    /// A maskable interrupt can be delivered.
    #[inline]
    pub const fn interrupts_open(&self) -> bool {
        self.if_flag && !self.blocked_by_sti && !self.mov_ss
    }

    /// An NMI can be delivered. Some processors refuse one in the shadow of STI
    /// (SDM 3C 27.3.1.5), so it waits there on all of them.
    #[inline]
    pub const fn nmis_open(&self) -> bool {
        !self.nmi_blocked && !self.blocked_by_sti && !self.mov_ss
    }
}

/// Values for the three VM-entry event-injection fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injection {
    /// VM-entry interruption-information field.
    pub intr_info: u32,
    /// VM-entry exception error code.
    pub error_code: u32,
    /// VM-entry instruction length, in bytes.
    pub insn_len: u32,
}

/// Windows to ask the processor for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    /// "Interrupt-window exiting".
    pub interrupt: bool,
    /// "NMI-window exiting".
    pub nmi: bool,
}

/// What to do with virtual-NMI blocking after a VM exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NmiBlocking {
    /// Leave the field as it is.
    Keep,
    /// Set it: an IRET had removed it before it faulted.
    Set,
    /// Clear it: the NMI whose delivery was cut short blocked itself.
    Clear,
}

/// The events one vCPU has not taken yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    pub(crate) exception: Option<Exception>,
    pub(crate) software: Option<SoftwareInterrupt>,
    /// Vector of an external interrupt.
    pub(crate) interrupt: Option<u8>,
    /// An NMI whose delivery was cut short.
    pub(crate) nmi_injected: bool,
    /// NMIs that wait for their turn, at most 2.
    pub(crate) nmi_pending: u8,
    pub(crate) triple_fault: bool,
}

impl Events {
    /// No event.
    #[inline]
    pub const fn new() -> Self {
        Self {
            exception: None,
            software: None,
            interrupt: None,
            nmi_injected: false,
            nmi_pending: 0,
            triple_fault: false,
        }
    }

    /// Adds an exception, merged with one that is still to be delivered as
    /// SDM 3A 6.15 demands: the guest may end with #DF or a triple fault.
    pub fn raise(&mut self, new: Exception) {
        // INT n faulted while it was delivered: RIP still points at it, so the
        // guest runs it again after the exception.
        self.software = None;
        self.exception = match self.exception {
            None => Some(new),
            Some(old) if old.vector == DF && class(new.vector) != Class::Benign => {
                self.triple_fault = true;
                None
            }
            Some(old) if doubles(old.vector, new.vector) => Some(Exception::hardware(DF, 0)),
            Some(_) => Some(new),
        };
    }

    /// Forgets an exception that was not delivered: user space has replaced the
    /// registers it belonged to.
    #[inline]
    pub fn clear_exception(&mut self) {
        self.exception = None;
    }

    /// Queues an external interrupt; a later one replaces an earlier one, as
    /// KVM_INTERRUPT without an in-kernel interrupt controller does.
    #[inline]
    pub fn queue_interrupt(&mut self, vector: u8) {
        self.interrupt = Some(vector);
    }

    /// The external interrupt that waits, for `interrupt_bitmap` of KVM_GET_SREGS.
    #[inline]
    pub const fn external_interrupt(&self) -> Option<u8> {
        self.interrupt
    }

    /// Queues an NMI. The processor latches one more while one is being
    /// handled, and so at most two wait.
    #[inline]
    pub fn queue_nmi(&mut self, blocked: bool) {
        let limit = if blocked || self.nmi_injected { 1 } else { 2 };
        self.nmi_pending = self.nmi_pending.saturating_add(1).min(limit);
    }

    /// The guest has shut down.
    #[inline]
    pub const fn triple_fault(&self) -> bool {
        self.triple_fault
    }

    /// Something waits, so a halted vCPU has a reason to look.
    #[inline]
    pub const fn any(&self) -> bool {
        self.exception.is_some()
            || self.software.is_some()
            || self.interrupt.is_some()
            || self.nmi_injected
            || self.nmi_pending > 0
            || self.triple_fault
    }

    /// Something waits that wakes a halted vCPU in this state.
    #[inline]
    pub const fn wakes(&self, state: &Interruptibility) -> bool {
        (self.interrupt.is_some() && state.interrupts_open())
            || self.nmi_injected
            || (self.nmi_pending > 0 && state.nmis_open())
            || self.exception.is_some()
            || self.software.is_some()
            || self.triple_fault
    }

    /// User space may queue an interrupt that goes in at the next entry
    /// (`ready_for_interrupt_injection` of kvm_run).
    #[inline]
    pub const fn ready_for_interrupt(&self, state: &Interruptibility) -> bool {
        state.interrupts_open()
            && self.exception.is_none()
            && self.software.is_none()
            && self.interrupt.is_none()
            && !self.nmi_injected
    }

    /// Takes the next event out for the coming VM entry.
    pub fn inject(&mut self, state: &Interruptibility) -> Option<Injection> {
        if let Some(exception) = self.exception.take() {
            return Some(exception_injection(&exception, state.protected));
        }
        if self.nmi_injected {
            self.nmi_injected = false;
            return Some(injection(NMI, NMI_VECTOR, 0));
        }
        if let Some(int) = self.software.take() {
            return Some(injection(SOFTWARE_INTERRUPT, int.vector, int.len));
        }
        if self.nmi_pending > 0 && state.nmis_open() {
            self.nmi_pending -= 1;
            return Some(injection(NMI, NMI_VECTOR, 0));
        }
        if !state.interrupts_open() {
            return None;
        }
        let vector = self.interrupt.take()?;
        Some(injection(EXTERNAL_INTERRUPT, vector, 0))
    }

    /// Puts back an event whose VM entry did not happen.
    #[inline]
    pub fn cancel(&mut self, injection: &Injection) {
        self.restore(
            injection.intr_info,
            injection.error_code,
            injection.insn_len,
        );
    }

    /// The windows to request for what is left after [`inject`](Self::inject).
    /// `wanted` is `request_interrupt_window` of kvm_run.
    #[inline]
    pub const fn windows(&self, state: &Interruptibility, wanted: bool) -> Windows {
        let nmi = self.nmi_pending > 0 || self.nmi_injected;
        // STI blocks NMIs for one instruction, but no NMI window opens at its
        // end on every processor; the interrupt window does, as IF is 1.
        let by_sti = nmi && state.blocked_by_sti && !state.nmi_blocked;
        Windows {
            interrupt: self.interrupt.is_some() || wanted || by_sti,
            nmi: nmi && !by_sti,
        }
    }

    /// Takes back the event whose delivery this VM exit interrupted
    /// (SDM 3C 28.2.4), and says what must become of virtual-NMI blocking.
    pub fn reinject(&mut self, raw: &RawExit) -> NmiBlocking {
        if raw.idt_info & VALID == 0 {
            return if raw.iret_unblocked_nmi() {
                NmiBlocking::Set
            } else {
                NmiBlocking::Keep
            };
        }
        self.restore(raw.idt_info, raw.idt_error, raw.insn_len);
        if (raw.idt_info >> 8) & 7 == NMI {
            NmiBlocking::Clear
        } else {
            NmiBlocking::Keep
        }
    }

    fn restore(&mut self, info: u32, error_code: u32, insn_len: u32) {
        let vector = (info & 0xff) as u8;
        let len = (insn_len & 0xf) as u8;
        let origin = match (info >> 8) & 7 {
            EXTERNAL_INTERRUPT => {
                self.queue_interrupt(vector);
                return;
            }
            NMI => {
                self.nmi_injected = true;
                return;
            }
            SOFTWARE_INTERRUPT => {
                self.software = Some(SoftwareInterrupt { vector, len });
                return;
            }
            HARDWARE_EXCEPTION => Origin::Hardware,
            PRIVILEGED_SOFTWARE_EXCEPTION => Origin::PrivilegedSoftware { len },
            SOFTWARE_EXCEPTION => Origin::Software { len },
            _ => return,
        };
        self.exception = Some(Exception {
            vector,
            error_code: if info & HAS_ERROR_CODE != 0 {
                error_code
            } else {
                0
            },
            origin,
        });
    }
}

/// The classes of SDM 3A table 6-4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
}

const fn class(vector: u8) -> Class {
    match vector {
        0 | 10..=13 => Class::Contributory,
        // #DF is no contributor to itself; what follows it is a triple fault.
        PF | 20 => Class::PageFault,
        _ => Class::Benign,
    }
}

/// Whether `second`, raised while `first` is delivered, makes a double fault
/// (SDM 3A table 6-5).
const fn doubles(first: u8, second: u8) -> bool {
    match (class(first), class(second)) {
        (Class::Contributory, Class::Contributory) => true,
        (Class::PageFault, Class::Contributory | Class::PageFault) => true,
        (Class::Contributory, Class::PageFault | Class::Benign) => false,
        (Class::PageFault, Class::Benign) => false,
        (Class::Benign, _) => false,
    }
}

const fn injection(kind: u32, vector: u8, len: u8) -> Injection {
    Injection {
        intr_info: VALID | kind << 8 | vector as u32,
        error_code: 0,
        insn_len: len as u32,
    }
}

fn exception_injection(exception: &Exception, protected: bool) -> Injection {
    let (kind, len) = match exception.origin {
        Origin::Hardware => (HARDWARE_EXCEPTION, 0),
        Origin::Software { len } => (SOFTWARE_EXCEPTION, len),
        Origin::PrivilegedSoftware { len } => (PRIVILEGED_SOFTWARE_EXCEPTION, len),
    };
    let mut injection = injection(kind, exception.vector, len);
    // VM entry fails unless the error code is delivered exactly for the vectors
    // that have one, and never in real mode (SDM 3C 27.2.1.3).
    let hardware = exception.origin == Origin::Hardware;
    if hardware && protected && exception.has_error_code() {
        injection.intr_info |= HAS_ERROR_CODE;
        injection.error_code = exception.error_code & 0xffff;
    }
    injection
}

#[cfg(test)]
#[path = "tests/event.rs"]
mod tests;
