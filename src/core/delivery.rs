// SPDX-License-Identifier: GPL-2.0

//! Events that are delivered without the processor: what the VM-entry fields say of them,
//! and what their delivery changes besides the stack and the registers.

use crate::event::{
    Injection, EXTERNAL_INTERRUPT, HARDWARE_EXCEPTION, HAS_ERROR_CODE, NMI,
    PRIVILEGED_SOFTWARE_EXCEPTION, SOFTWARE_EXCEPTION, SOFTWARE_INTERRUPT, VALID,
};
use crate::step::SHADOW;

/// Interruptibility state: blocking by MOV SS (SDM 3C table 25-3).
const MOV_SS: u32 = 1 << 1;
/// Blocking by NMI.
pub const NMI_BLOCKED: u32 = 1 << 3;

/// The interruption types (SDM 3C 25.8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// External interrupt.
    External,
    /// NMI.
    Nmi,
    /// Hardware exception.
    Exception,
    /// INT n.
    SoftwareInterrupt,
    /// INT1.
    PrivilegedSoftwareException,
    /// INT3 or INTO.
    SoftwareException,
}

/// An event to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Vector.
    pub vector: u8,
    /// Type.
    pub kind: Kind,
    /// Error code, if one is pushed.
    pub error_code: Option<u32>,
    /// Bytes of the instruction that asked for it, 0 if none did.
    pub len: u8,
}

impl Injection {
    /// What a VM entry with these fields would deliver; `None` if nothing, or something
    /// else than an event.
    pub const fn delivery(&self) -> Option<Delivery> {
        if self.intr_info & VALID == 0 {
            return None;
        }
        let kind = match self.intr_info >> 8 & 7 {
            EXTERNAL_INTERRUPT => Kind::External,
            NMI => Kind::Nmi,
            HARDWARE_EXCEPTION => Kind::Exception,
            SOFTWARE_INTERRUPT => Kind::SoftwareInterrupt,
            PRIVILEGED_SOFTWARE_EXCEPTION => Kind::PrivilegedSoftwareException,
            SOFTWARE_EXCEPTION => Kind::SoftwareException,
            _ => return None,
        };
        let error_code = match self.intr_info & HAS_ERROR_CODE {
            0 => None,
            _ => Some(self.error_code),
        };
        let len = match kind {
            Kind::External | Kind::Nmi | Kind::Exception => 0,
            _ => (self.insn_len & 15) as u8,
        };
        Some(Delivery {
            vector: self.intr_info as u8,
            kind,
            error_code,
            len,
        })
    }
}

impl Delivery {
    /// The interruptibility state in the handler, after `before`: the shadow of STI or
    /// MOV SS is over, and an NMI blocks others.
    pub const fn interruptibility(&self, before: u32) -> u32 {
        let after = before & !SHADOW;
        match self.kind {
            Kind::Nmi => after | NMI_BLOCKED,
            _ => after,
        }
    }

    /// Whether debug exceptions that are pending get lost. Only an instruction in the
    /// shadow of MOV SS takes them along to its handler (SDM 3C 27.7.3).
    pub const fn drops_debug_exceptions(&self, before: u32) -> bool {
        match self.kind {
            Kind::SoftwareInterrupt | Kind::SoftwareException => before & MOV_SS == 0,
            _ => true,
        }
    }
}

#[cfg(test)]
#[path = "tests/delivery.rs"]
mod tests;
