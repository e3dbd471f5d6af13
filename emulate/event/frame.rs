// SPDX-License-Identifier: GPL-2.0

//! The bytes of the stack that a delivery writes.

use ept::{Gva, PAGE_SIZE};

use crate::cpu::Cpu;
use crate::guard::{Guest, Intent, Span};
use crate::insn::CodeSize;
use crate::op::Op;
use crate::segment;
use crate::stack::Pushed;
use crate::stop::{Exception, Stop};

/// Who writes a frame.
#[derive(Clone, Copy)]
pub(super) struct Writer {
    /// The handler's privilege level.
    pub(super) cpl: u8,
    /// Bytes of a slot; 8 for a handler in 64-bit mode.
    pub(super) slot: u8,
    /// EXT of error codes.
    pub(super) external: bool,
}

/// A frame that may be written: proof for all of its bytes.
#[must_use = "a frame that was prepared is written"]
pub(super) struct Frame {
    /// From the new stack pointer on.
    low: Span,
    /// What is above, where the stack pointer wraps around on the way.
    high: Option<Span>,
}

impl Frame {
    /// Prepares it with the rights of the handler.
    ///
    /// # Errors
    ///
    /// The [`Stop`] that the write ends in.
    pub(super) fn prepare(
        guest: &mut Guest<'_>,
        pushed: &Pushed,
        writer: Writer,
    ) -> Result<Self, Stop> {
        let Cpu { code, paging, .. } = *guest.cpu;
        guest.cpu.paging.user = writer.cpl == 3;
        if writer.slot == 8 {
            guest.cpu.code = CodeSize::Bits64;
        }
        let frame = Self::spans(guest, pushed, writer);
        guest.cpu.code = code;
        guest.cpu.paging = paging;
        frame
    }

    /// The first push is the first to fail.
    fn spans(guest: &mut Guest<'_>, pushed: &Pushed, writer: Writer) -> Result<Self, Stop> {
        let high = match pushed.wrapped {
            Some(at) => Some(prepare_span(guest, at, writer)?),
            None => None,
        };
        let low = prepare_span(guest, pushed.at, writer)?;
        Ok(Self { low, high })
    }

    /// Writes it; `bytes` are as many as were pushed.
    ///
    /// # Errors
    ///
    /// The [`Stop`] that the write ends in.
    pub(super) fn write(self, guest: &mut Guest<'_>, bytes: &[u8]) -> Result<(), Stop> {
        let (low, high) = bytes
            .split_at_checked(self.low.len())
            .ok_or(Stop::Refused(Op::Unknown))?;
        if let Some(span) = self.high {
            guest.commit(span, high)?;
        }
        guest.commit(self.low, low)
    }
}

fn prepare_span(guest: &mut Guest<'_>, at: (Gva, u16), writer: Writer) -> Result<Span, Stop> {
    let (gva, len) = at;
    if writer.cpl == 3 {
        segment::aligned(guest.cpu, gva, writer.slot.into()).map_err(|exception| Exception {
            error_code: Some(writer.external.into()),
            ..exception
        })?;
    }
    probe(guest, gva, len, writer.slot.into())?;
    let span = guest.prepare_write(gva, len, Intent::Write)?;
    match span.device() {
        // The processor could tell a device word by word; here nobody would wait for it.
        true => Err(Stop::Refused(Op::Unknown)),
        false => Ok(span),
    }
}

/// Asks the guest's page tables in the order of the pushes, so that a page fault names the
/// push that has failed: the highest one in either page.
fn probe(guest: &mut Guest<'_>, gva: Gva, len: u16, slot: u16) -> Result<(), Stop> {
    let highest = len.saturating_sub(slot);
    let in_page = (PAGE_SIZE as u16).wrapping_sub((gva.get() & (PAGE_SIZE - 1)) as u16);
    let slots = in_page.wrapping_sub(1).checked_div(slot).unwrap_or(0);
    let border = slots.saturating_mul(slot).min(highest);
    for offset in [highest, border] {
        let gva = guest.cpu.linear(gva, offset.into());
        // None of its bytes is to be written yet.
        let span = guest.prepare_bytes(gva, slot, Intent::Write, 0, false);
        span.map(drop)?;
    }
    Ok(())
}
