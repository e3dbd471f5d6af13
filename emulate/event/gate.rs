// SPDX-License-Identifier: GPL-2.0

//! Interrupt and trap gates (SDM 3A 6.11, 6.12.1 and 6.14.1).

use ept::Gva;

use super::Event;
use crate::descriptor::{error_code, is_null, read_system, system, Descriptor};
use crate::guard::Guest;
use crate::op::Op;
use crate::stop::{Exception, Stop};

/// An interrupt or trap gate.
pub(super) struct Gate {
    /// Of the code segment.
    selector: u16,
    /// Of the handler.
    pub(super) offset: u64,
    /// Bytes of a slot of the frame: 2, 4 or 8.
    pub(super) slot: u8,
    /// Entry of the interrupt stack table, 0 for none.
    pub(super) ist: u8,
    /// An interrupt gate: the handler begins with interrupts off.
    pub(super) interrupt: bool,
}

impl Gate {
    /// Reads and checks the gate of an event.
    ///
    /// # Errors
    ///
    /// #GP and #NP, which name the gate; [`Stop::Refused`] for a task gate; the [`Stop`]
    /// of the read.
    pub(super) fn read(guest: &mut Guest<'_>, event: &Event) -> Result<Self, Stop> {
        let long = guest.cpu.paging.long_mode();
        let code = event.gate_code();
        let (at, last) = match long {
            true => (u32::from(event.vector) << 4, 15),
            false => (u32::from(event.vector) << 3, 7),
        };
        if at | last > guest.cpu.idtr.limit.into() {
            return Err(Exception::gp(code).into());
        }
        let base = Gva::new(guest.cpu.idtr.base);
        let at = guest.cpu.linear(base, at.into());
        let raw = u64::from_le_bytes(read_system(guest, at)?);
        // S is 0 in all of these.
        let kind = (raw >> 40 & 31) as u8;
        let slot = match (kind, long) {
            (system::INTERRUPT_GATE32 | system::TRAP_GATE32, true) => Some(8),
            (system::INTERRUPT_GATE32 | system::TRAP_GATE32, false) => Some(4),
            (system::INTERRUPT_GATE16 | system::TRAP_GATE16, false) => Some(2),
            (system::TASK_GATE, false) => None,
            _ => return Err(Exception::gp(code).into()),
        };
        let dpl = (raw >> 45 & 3) as u8;
        if event.kind.is_software() && dpl < guest.cpu.cpl {
            return Err(Exception::gp(code).into());
        }
        if raw & 1 << 47 == 0 {
            return Err(Exception::np(code).into());
        }
        let slot = slot.ok_or(Stop::Refused(Op::Unknown))?;
        Ok(Self {
            selector: (raw >> 16) as u16,
            offset: offset(guest, at, raw, slot)?,
            slot,
            ist: match long {
                true => (raw >> 32 & 7) as u8,
                false => 0,
            },
            interrupt: kind & 1 == 0,
        })
    }

    /// Reads and checks its code segment.
    ///
    /// # Errors
    ///
    /// #GP and #NP, which name the segment; the [`Stop`] of the read.
    pub(super) fn code_segment(
        &self,
        guest: &mut Guest<'_>,
        external: bool,
    ) -> Result<Descriptor, Stop> {
        let code = error_code(self.selector, external);
        if is_null(self.selector) {
            return Err(Exception::gp(external.into()).into());
        }
        let segment = Descriptor::read(guest, self.selector, Exception::gp(code))?;
        let wrong = !segment.is_code() || segment.dpl() > guest.cpu.cpl;
        let narrow = self.slot == 8 && (!segment.is_long() || segment.is_big());
        if wrong || narrow {
            return Err(Exception::gp(code).into());
        }
        if !segment.is_present() {
            return Err(Exception::np(code).into());
        }
        Ok(segment)
    }
}

/// The offset in a gate at `at`, whose lower 8 bytes are `raw`.
fn offset(guest: &mut Guest<'_>, at: Gva, raw: u64, slot: u8) -> Result<u64, Stop> {
    let low = raw & 0xffff;
    Ok(match slot {
        2 => low,
        4 => low | raw >> 32 & 0xffff_0000,
        _ => {
            let upper = guest.cpu.linear(at, 8);
            let upper = u32::from_le_bytes(read_system(guest, upper)?);
            low | raw >> 32 & 0xffff_0000 | u64::from(upper) << 32
        }
    })
}
