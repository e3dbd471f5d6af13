// SPDX-License-Identifier: GPL-2.0

//! What an instruction that is not emulated would write, for the processor to execute it by
//! itself while the pages that it writes to are open.
//!
//! Which pages its addresses mean can change as long as other virtual CPUs run, and so can
//! which of two open pages is the first. So a page is opened only if its map allows what
//! the instruction writes to the other one, too.

use ept::{Gfn, Gpa};
use spp::Mask;

use crate::descriptor;
use crate::exec::operand;
use crate::guard::{Guest, Intent, Page, Span};
use crate::insn::{Insn, MemAccess, Operand};
use crate::op::{Op, Policy};
use crate::paging::Access;
use crate::stop::Stop;

/// The pages of one instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// The pages that it is fetched from.
    pub code: [Option<Gfn>; 2],
    /// The pages that it writes to.
    pub data: [Option<Gfn>; 2],
    /// The sub-pages that it writes, of either page.
    pub touched: Mask,
}

/// The footprint of an instruction at RIP. `xsave_size` is the size in bytes of the largest
/// XSAVE area that the guest's XCR0 leads to.
///
/// # Errors
///
/// The [`Stop`] that the instruction ends in; [`Stop::Refused`] where it must not be left to
/// the processor.
pub fn footprint(guest: &mut Guest<'_>, insn: &Insn, xsave_size: u16) -> Result<Footprint, Stop> {
    let refused = Err(Stop::Refused(insn.op));
    let Some(span) = written(guest, insn, xsave_size)? else {
        return refused;
    };
    let mut data = [None, None];
    let mut touched = Mask::NONE;
    for (page, fragment) in data.iter_mut().zip(span.fragments()) {
        *page = Some(fragment.gpa.gfn());
        touched = touched.union(Mask::touched(
            fragment.gpa.page_offset(),
            fragment.len.into(),
        ));
    }
    let open = |gfn: &Gfn| matches!(guest.memory.page(*gfn), Page::Ram(map) if map.allows(touched));
    if !data.iter().flatten().all(open) {
        return refused;
    }
    let code = code_pages(guest, insn)?;
    if code.iter().flatten().any(|gfn| data.contains(&Some(*gfn))) {
        return refused;
    }
    Ok(Footprint {
        code,
        data,
        touched,
    })
}

/// All that the instruction writes; `None` if that is not known.
fn written(guest: &mut Guest<'_>, insn: &Insn, xsave_size: u16) -> Result<Option<Span>, Stop> {
    // LTR of a register. Who sets memory could choose another descriptor meanwhile.
    if let (Op::SystemLoad, Operand::Gpr(number)) = (insn.op, insn.dst) {
        let selector = guest.cpu.gpr(number) as u16;
        return descriptor::prepare_busy(guest, selector);
    }
    let size = match (insn.op, insn.mem_size) {
        (Op::Xsave, 0) => xsave_size,
        (_, size) => size,
    };
    let writes = matches!(insn.op.access(), MemAccess::Write | MemAccess::ReadWrite);
    if insn.op.policy() != Policy::SingleStep || !insn.has_mem() || !writes || size == 0 {
        return Ok(None);
    }
    let gva = operand::linear(guest.cpu, insn, size, 1, true)?;
    match guest.prepare_write(gva, size, Intent::Write) {
        // Of these the size is an upper bound: the bytes denied may be none of theirs.
        Err(Stop::Denied(_)) if matches!(insn.op, Op::Xsave | Op::Fxsave) => Ok(None),
        span => span.map(Some),
    }
}

/// The pages that the bytes of the instruction lie in.
fn code_pages(guest: &mut Guest<'_>, insn: &Insn) -> Result<[Option<Gfn>; 2], Stop> {
    let at = guest.cpu.code_location();
    let mut gfn = |offset: u64| {
        let gva = at.linear(offset);
        at.paging
            .translate(guest.memory, gva, Access::FETCH)
            .map(Gpa::gfn)
            .map_err(|_| Stop::Retry)
    };
    let first = gfn(0)?;
    let last = gfn(u64::from(insn.len).saturating_sub(1))?;
    Ok([Some(first), (last != first).then_some(last)])
}

#[cfg(test)]
#[path = "tests/footprint.rs"]
mod tests;
