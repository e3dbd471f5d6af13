// SPDX-License-Identifier: GPL-2.0

//! Delivers interrupts and exceptions (SDM 3A 6.12 to 6.14 and 20.1 to 20.3, SDM 2A
//! INT n).
//!
//! ```text
//!   real mode: IVT        protected mode: gate --> code segment --> level --> stack
//!         \                                                                  /
//!          '--------- frame, accessed flags of CS and SS: prepared ---------'
//!                                     |            exceptions, denied: nothing changed
//!                                  commit
//!                                     |
//!                    CS, RIP, SS, RSP, RFLAGS, and the privilege level
//!
//!   real mode             32-bit gate, same level    64-bit gate
//!   SP -> | FLAGS |       ESP -> | EFLAGS |          RSP & ~15 -> | SS     |
//!         | CS    |              | CS     |                       | RSP    |
//!         | IP    |              | EIP    |                       | RFLAGS |
//!                                | error  |                       | CS     |
//!                                                                 | RIP    |
//!   from another level: ESP of the TSS, and SS, ESP above;        | error  |
//!   from virtual-8086 mode: GS, FS, DS, ES above these too
//! ```
//!
//! The processor delivers events itself. What it cannot write of a frame that the
//! sub-page maps allow, is written here.

mod frame;
mod gate;
mod protected;
mod real;

use crate::cpu::{mask, rflags, Cpu};
use crate::guard::Guest;
use crate::op::Op;
use crate::stop::Stop;

const CR0_PE: u64 = 1 << 0;
const CR4_CET: u64 = 1 << 23;
/// IDT: the error code names an entry of the IDT (SDM 3A 6.13).
const IN_IDT: u32 = 1 << 1;

/// What an event is, in the order of the VM-entry interruption types (SDM 3C 25.8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An interrupt from outside.
    External,
    /// A non-maskable interrupt.
    Nmi,
    /// An exception that an instruction did not ask for.
    Exception,
    /// INT n.
    SoftwareInterrupt,
    /// INT1.
    PrivilegedSoftwareException,
    /// INT3 or INTO.
    SoftwareException,
}

impl Kind {
    /// The program asks for it, and so needs the right to enter the gate.
    const fn is_software(self) -> bool {
        matches!(self, Self::SoftwareInterrupt | Self::SoftwareException)
    }
}

/// An event that is to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Vector.
    pub vector: u8,
    /// What it is.
    pub kind: Kind,
    /// The error code that is pushed with it, if one is. In real mode none is, whatever
    /// this says.
    pub error_code: Option<u32>,
    /// Bytes of INT n, INT1, INT3 and INTO, behind which their handler returns; 0 for
    /// others.
    pub len: u8,
}

impl Event {
    /// EXT of the error codes of what goes wrong on its delivery.
    const fn external(&self) -> bool {
        !self.kind.is_software()
    }

    /// The error code that names its gate.
    const fn gate_code(&self) -> u32 {
        (self.vector as u32) << 3 | IN_IDT | self.external() as u32
    }

    /// Where its handler returns to.
    const fn return_address(&self, cpu: &Cpu) -> u64 {
        let next = cpu.rip.wrapping_add(self.len as u64);
        match cpu.long() {
            true => next,
            false => next & mask(4),
        }
    }
}

/// Delivers an event: writes its frame and enters its handler. RFLAGS is pushed as it is;
/// whoever has found a fault has set RF in it.
///
/// # Errors
///
/// The [`Stop`] that the delivery ends in: [`Stop::Refused`] if it needs a task switch, a
/// shadow stack, or a stack that is a device. No register has changed then, and of
/// memory no more than accessed flags, of pages and descriptors. A stack pointer that
/// wraps around within the frame makes two writes of it, the first of which stays where
/// the second ends in [`Stop::Retry`] or [`Stop::Host`].
pub fn deliver(guest: &mut Guest<'_>, event: &Event) -> Result<(), Stop> {
    if guest.cpu.paging.cr0 & CR0_PE == 0 {
        return real::deliver(guest, event);
    }
    // The shadow stack would be written too.
    if guest.cpu.paging.cr4 & CR4_CET != 0 {
        return Err(Stop::Refused(Op::Unknown));
    }
    let in_v86 = guest.cpu.rflags & rflags::VM != 0;
    if in_v86 && event.kind == Kind::SoftwareInterrupt && real::redirected(guest, event.vector)? {
        return real::redirect(guest, event);
    }
    protected::deliver(guest, event)
}

#[cfg(test)]
#[path = "tests/event/mod.rs"]
mod tests;
