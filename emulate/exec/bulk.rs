// SPDX-License-Identifier: GPL-2.0

//! Many elements of a repeated string instruction at once, with the same result as one by
//! one.
//!
//! This is for memory only, in one page on either side, and up to the first sub-page that
//! may not be written. Wherever anything else is the case, there is no bulk, and the
//! element in question is executed alone and finds out.

use ept::{Gva, PAGE_SIZE};

use super::string::advance;
use crate::cpu::gpr::{RAX, RDI, RSI};
use crate::cpu::mask;
use crate::cpu::rflags::{DF, TF};
use crate::guard::{Guest, Intent, Source, Span};
use crate::insn::{Insn, Rep, Seg};
use crate::segment;
use crate::stop::Stop;

/// Bytes that MOVS and STOS write at once.
const CHUNK: u16 = 256;

/// MOVS: how many elements were moved, 1 to `count`.
// Not inlined: the bytes take stack only while they are in use.
#[inline(never)]
pub(super) fn movs(guest: &mut Guest<'_>, insn: &Insn, count: u16) -> Result<Option<u16>, Stop> {
    let Some((source, span, count)) = both_sides(guest, insn, count) else {
        return Ok(None);
    };
    let mut bytes = [0; CHUNK as usize];
    let len = usize::from(count.wrapping_mul(insn.size.into()));
    let part = bytes.get_mut(..len).ok_or(Stop::Host)?;
    guest.load(&source, part)?;
    guest.commit(span, part)?;
    advance(guest.cpu, insn, RSI, count);
    advance(guest.cpu, insn, RDI, count);
    Ok(Some(count))
}

/// STOS: how many elements were written, 1 to `count`.
// Not inlined, as above.
#[inline(never)]
pub(super) fn stos(guest: &mut Guest<'_>, insn: &Insn, count: u16) -> Result<Option<u16>, Stop> {
    let Some((span, count)) = destination(guest, insn, count, CHUNK) else {
        return Ok(None);
    };
    let mut bytes = [0; CHUNK as usize];
    let value = guest.cpu.gpr(RAX).to_le_bytes();
    for (to, from) in bytes
        .iter_mut()
        .zip(value.iter().take(insn.size.into()).cycle())
    {
        *to = *from;
    }
    let part = bytes.get(..span.len()).ok_or(Stop::Host)?;
    guest.commit(span, part)?;
    advance(guest.cpu, insn, RDI, count);
    Ok(Some(count))
}

/// The elements at RDI that may be written at once, 1 to `count`, in `bytes` bytes at most.
pub(super) fn destination(
    guest: &mut Guest<'_>,
    insn: &Insn,
    count: u16,
    bytes: u16,
) -> Option<(Span, u16)> {
    let (gva, count) = run(guest, insn, RDI, count, bytes)?;
    writable(guest, insn, gva, count)
}

/// Source and destination of MOVS, and how many elements they are.
fn both_sides(guest: &mut Guest<'_>, insn: &Insn, count: u16) -> Option<(Source, Span, u16)> {
    let (from, count) = run(guest, insn, RSI, count, CHUNK)?;
    let (to, count) = run(guest, insn, RDI, count, CHUNK)?;
    let (source, span, count) = pair(guest, insn, from, to, count)?;
    // Where the destination begins inside the source, elements that were moved are moved
    // again: only as many as lie between are independent of each other.
    let apart = span.gpa().get().wrapping_sub(source.gpa().get());
    let bytes = u64::from(count.wrapping_mul(insn.size.into()));
    if apart == 0 || apart >= bytes {
        return Some((source, span, count));
    }
    let count = apart.checked_div(insn.size.into())? as u16;
    if count < 2 {
        return None;
    }
    pair(guest, insn, from, to, count)
}

/// Prepares both sides of MOVS. The source may be longer than what is written of it.
fn pair(
    guest: &mut Guest<'_>,
    insn: &Insn,
    from: Gva,
    to: Gva,
    count: u16,
) -> Option<(Source, Span, u16)> {
    let len = count.wrapping_mul(insn.size.into());
    let source = guest.prepare_read(from, len, false).ok()?;
    let (span, count) = writable(guest, insn, to, count)?;
    (!source.device()).then_some((source, span, count))
}

/// Prepares writing `count` elements, or those in front of the first that is denied.
fn writable(guest: &mut Guest<'_>, insn: &Insn, gva: Gva, count: u16) -> Option<(Span, u16)> {
    let size = u16::from(insn.size);
    let mut prepare =
        |count: u16| guest.prepare_write(gva, count.wrapping_mul(size), Intent::Write);
    let (span, count) = match prepare(count) {
        Ok(span) => (span, count),
        Err(Stop::Denied(denial)) if !denial.walk => {
            let bytes = denial.gva.get().wrapping_sub(gva.get());
            let count = bytes.checked_div(size.into())? as u16;
            (count > 0).then(|| prepare(count))?.ok().zip(Some(count))?
        }
        Err(_) => return None,
    };
    (!span.device()).then_some((span, count))
}

/// The address of the element at RSI or RDI, and how many elements from there on, 2 to
/// `count`, lie in one page, in `bytes` bytes and in the segment.
fn run(guest: &Guest<'_>, insn: &Insn, register: u8, count: u16, bytes: u16) -> Option<(Gva, u16)> {
    let cpu = &*guest.cpu;
    // A breakpoint is due behind the element that meets it.
    if insn.rep == Rep::None || cpu.rflags & (DF | TF) != 0 || cpu.breakpoints.any() {
        return None;
    }
    let (seg, write) = match register {
        RDI => (Seg::Es, true),
        _ => (insn.mem.seg, false),
    };
    let offset = cpu.gpr_sized(register, insn.addr_size);
    let first = segment::linear(cpu, seg, offset, insn.size.into(), write).ok()?;
    let in_page = PAGE_SIZE.wrapping_sub(first.get() & PAGE_SIZE.wrapping_sub(1));
    // Behind that, the offset would wrap.
    let in_segment = mask(insn.addr_size).wrapping_sub(offset);
    let bytes = in_page.min(in_segment).min(bytes.into());
    let count = bytes.checked_div(insn.size.into())?.min(count.into()) as u16;
    if count < 2 {
        return None;
    }
    let len = count.wrapping_mul(insn.size.into());
    let gva = segment::linear(cpu, seg, offset, len, write).ok()?;
    segment::aligned(cpu, gva, insn.size.into()).ok()?;
    Some((gva, count))
}
