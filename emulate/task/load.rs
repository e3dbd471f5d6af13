// SPDX-License-Identifier: GPL-2.0

//! The segments of a new task (SDM 3A table 7-1).

use ept::Gva;

use super::state::State;
use super::Reason;
use crate::cpu::gpr::RSP;
use crate::cpu::{rflags, Cpu, Segment};
use crate::descriptor::{error_code, is_null, rpl, system, Descriptor};
use crate::guard::{Guest, Intent, Span};
use crate::insn::Seg;
use crate::segment;
use crate::stack::{null_stack, Stack};
use crate::stop::{Exception, Stop};

/// All segment registers, in the order of a TSS.
const SEGMENTS: [Seg; 6] = [Seg::Es, Seg::Cs, Seg::Ss, Seg::Ds, Seg::Fs, Seg::Gs];
/// Flat code, readable and accessed, without its privilege level.
const FLAT_CODE: u16 = 0xc09b;
/// A segment of virtual-8086 mode (SDM 3C 27.3.1.2).
const VIRTUAL_8086: u16 = 0xf3;

/// What loading has prepared.
#[derive(Default)]
pub(super) struct Loaded {
    /// The descriptors were checked, and their accessed flags may be set.
    descriptors: [Option<u16>; 6],
    /// The error code on the new stack.
    error: Option<(Span, u32)>,
}

impl Loaded {
    /// Sets the accessed flags of the segments that were loaded.
    ///
    /// # Errors
    ///
    /// The [`Stop`] of a write that was found possible before: its memory has changed.
    #[inline(never)]
    pub(super) fn set_accessed(&self, guest: &mut Guest<'_>) -> Result<(), Stop> {
        for selector in self.descriptors.iter().flatten() {
            // Read again: two registers may have the same descriptor.
            let set = Descriptor::read(guest, *selector, Exception::gp(0))
                .and_then(|descriptor| descriptor.prepare_accessed(guest))
                .and_then(|flag| flag.map_or(Ok(()), |flag| flag.set(guest)));
            set.map_err(|stop| match stop {
                Stop::Exception(_) => Stop::Retry,
                stop => stop,
            })?;
        }
        Ok(())
    }

    /// Pushes the error code.
    ///
    /// # Errors
    ///
    /// As for [`Guest::commit`].
    #[inline(never)]
    pub(super) fn push(&mut self, guest: &mut Guest<'_>) -> Result<(), Stop> {
        let Some((span, code)) = self.error.take() else {
            return Ok(());
        };
        let bytes = code.to_le_bytes();
        let len = span.len();
        let data = bytes.get(..len).ok_or(Stop::Host)?;
        guest.commit(span, data)?;
        let stack = Stack::current(guest.cpu);
        let pointer = stack.pointer.wrapping_sub(len as u64);
        guest.cpu.set_gpr_sized(RSP, stack.width, pointer);
        Ok(())
    }
}

/// Loads LDTR and the segment registers, checks where the task begins, and prepares the
/// push of its error code.
///
/// # Errors
///
/// [`Stop::Exception`]: the new task gets it, with those segments that were loaded by
/// then. Other [`Stop`]s: there can be no switch.
#[inline(never)]
pub(super) fn segments(
    guest: &mut Guest<'_>,
    state: &State,
    reason: Reason,
    loaded: &mut Loaded,
) -> Result<(), Stop> {
    let external = reason.external();
    let v86 = guest.cpu.rflags & rflags::VM != 0;
    place(guest.cpu, state, v86);
    load_ldt(guest, state.ldt(), external)?;
    if !v86 {
        load_code(guest, state.selector(1), external, loaded)?;
        load_stack(guest, state.selector(2), external, loaded)?;
        for (n, seg) in SEGMENTS.into_iter().enumerate() {
            if !matches!(seg, Seg::Cs | Seg::Ss) {
                load_data(guest, seg, state.selector(n), external, loaded)?;
            }
        }
    }
    segment::branch(guest.cpu, guest.cpu.rip)?;
    if let Reason::Event {
        error_code: Some(code),
        ..
    } = reason
    {
        let size = if state.is_wide() { 4 } else { 2 };
        loaded.error = Some((prepare_push(guest, size, external)?, code));
    }
    Ok(())
}

/// Gives all segment registers their selectors and what is behind these before their
/// descriptors are loaded: in virtual-8086 mode that is all there is.
fn place(cpu: &mut Cpu, state: &State, v86: bool) {
    let cpl = if v86 { 3 } else { rpl(state.selector(1)) };
    cpu.set_cpl(cpl);
    for (n, seg) in SEGMENTS.into_iter().enumerate() {
        let selector = state.selector(n);
        let segment = match (v86, seg) {
            (true, _) => Segment {
                selector,
                base: u64::from(selector) << 4,
                limit: 0xffff,
                attributes: VIRTUAL_8086,
                unusable: false,
            },
            (false, Seg::Cs) => Segment {
                selector,
                base: 0,
                limit: u32::MAX,
                attributes: FLAT_CODE | u16::from(cpl) << 5,
                unusable: false,
            },
            (false, Seg::Ss) => Segment {
                selector,
                ..null_stack(cpl)
            },
            (false, _) => Segment {
                selector,
                unusable: true,
                ..Segment::default()
            },
        };
        match seg {
            Seg::Cs => cpu.set_code_segment(segment),
            _ => cpu.set_segment(seg, segment),
        }
    }
}

fn load_ldt(guest: &mut Guest<'_>, selector: u16, external: bool) -> Result<(), Stop> {
    guest.cpu.ldtr = Segment {
        selector,
        unusable: true,
        ..Segment::default()
    };
    if is_null(selector) {
        return Ok(());
    }
    let wrong = Exception::ts(error_code(selector, external));
    if selector & 4 != 0 {
        return Err(wrong.into());
    }
    let descriptor = Descriptor::read(guest, selector, wrong)?;
    let ldt = descriptor.is_system() && descriptor.kind() == system::LDT;
    if !ldt || !descriptor.is_present() {
        return Err(wrong.into());
    }
    guest.cpu.ldtr = descriptor.segment();
    Ok(())
}

/// Reads the descriptor of a segment register, which is not null.
fn read(guest: &mut Guest<'_>, selector: u16, wrong: Exception) -> Result<Descriptor, Stop> {
    if is_null(selector) {
        return Err(wrong.into());
    }
    Descriptor::read(guest, selector, wrong)
}

/// Notes a segment whose descriptor is in order, if its accessed flag can be set.
fn note(
    guest: &mut Guest<'_>,
    seg: Seg,
    descriptor: &Descriptor,
    loaded: &mut Loaded,
) -> Result<(), Stop> {
    let _ = descriptor.prepare_accessed(guest)?;
    if let Some(place) = loaded.descriptors.get_mut(seg as usize) {
        *place = Some(descriptor.selector);
    }
    Ok(())
}

fn load_code(
    guest: &mut Guest<'_>,
    selector: u16,
    external: bool,
    loaded: &mut Loaded,
) -> Result<(), Stop> {
    let code = error_code(selector, external);
    let wrong = Exception::ts(code);
    let descriptor = read(guest, selector, wrong)?;
    let level = match descriptor.is_conforming() {
        true => descriptor.dpl() <= rpl(selector),
        false => descriptor.dpl() == rpl(selector),
    };
    if !descriptor.is_code() || !level {
        return Err(wrong.into());
    }
    if !descriptor.is_present() {
        return Err(Exception::np(code).into());
    }
    note(guest, Seg::Cs, &descriptor, loaded)?;
    guest.cpu.set_code_segment(descriptor.segment());
    Ok(())
}

fn load_stack(
    guest: &mut Guest<'_>,
    selector: u16,
    external: bool,
    loaded: &mut Loaded,
) -> Result<(), Stop> {
    let code = error_code(selector, external);
    let wrong = Exception::ts(code);
    let descriptor = read(guest, selector, wrong)?;
    let cpl = guest.cpu.cpl;
    let level = rpl(selector) == cpl && descriptor.dpl() == cpl;
    if !descriptor.is_writable_data() || !level {
        return Err(wrong.into());
    }
    if !descriptor.is_present() {
        return Err(Exception::ss(code).into());
    }
    note(guest, Seg::Ss, &descriptor, loaded)?;
    guest.cpu.set_segment(Seg::Ss, descriptor.segment());
    Ok(())
}

fn load_data(
    guest: &mut Guest<'_>,
    seg: Seg,
    selector: u16,
    external: bool,
    loaded: &mut Loaded,
) -> Result<(), Stop> {
    if is_null(selector) {
        return Ok(());
    }
    let code = error_code(selector, external);
    let wrong = Exception::ts(code);
    let descriptor = read(guest, selector, wrong)?;
    let readable = !descriptor.is_system() && (!descriptor.is_code() || descriptor.kind() & 2 != 0);
    let level = rpl(selector).max(guest.cpu.cpl) <= descriptor.dpl();
    if !readable || !(level || descriptor.is_conforming()) {
        return Err(wrong.into());
    }
    if !descriptor.is_present() {
        return Err(Exception::np(code).into());
    }
    note(guest, seg, &descriptor, loaded)?;
    guest.cpu.set_segment(seg, descriptor.segment());
    Ok(())
}

/// Prepares the push of an error code onto the new task's stack.
fn prepare_push(guest: &mut Guest<'_>, size: u16, external: bool) -> Result<Span, Stop> {
    let pushed = Stack::current(guest.cpu).push(guest.cpu, 1, size);
    let pushed = pushed.ok_or(Exception::ss(external.into()))?;
    let (gva, len): (Gva, u16) = pushed.at;
    guest.prepare_write(gva, len, Intent::Write)
}
