// SPDX-License-Identifier: GPL-2.0

//! PUSHA, POPA and ENTER: several elements of the stack in one instruction.
//!
//! Every element is checked in the order in which the processor gets to it, so that the
//! first fault is the same; then all of them are written at once.

use super::operand;
use super::stack::{below, pointer, prepare_pop, prepare_push, set_pointer};
use super::{retire, Done};
use crate::cpu::gpr::{RBP, RSP};
use crate::cpu::mask;
use crate::guard::{Guest, Intent, Span};
use crate::insn::{Insn, Seg};
use crate::segment;
use crate::stop::Stop;

/// Bytes of the longest frame: ENTER with 31 levels in 64-bit mode.
const MAX_FRAME: usize = 256;
/// General registers that PUSHA pushes.
const ALL: u8 = 8;

/// Executes PUSHA.
pub(super) fn pusha(guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    let size = insn.size;
    let sp = pointer(guest.cpu);
    for count in 1..=ALL {
        check_slot(guest, sp, count, size)?;
    }
    let total = u16::from(ALL).wrapping_mul(size.into());
    let span = prepare_frame(guest, insn, total)?;
    let mut frame = Frame::new(sp, guest.cpu.stack_size());
    for number in 0..ALL {
        frame.push(guest.cpu.gpr(number), size);
    }
    guest.commit(span, frame.bytes())?;
    let sp = below(guest.cpu, total.into());
    set_pointer(guest.cpu, sp);
    Ok(retire(guest, insn))
}

/// Executes POPA.
pub(super) fn popa(guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    let (size, width) = (insn.size, guest.cpu.stack_size());
    let sp = pointer(guest.cpu);
    let at = |index: u8| {
        let bytes = u64::from(index).wrapping_mul(size.into());
        sp.wrapping_add(bytes) & mask(width)
    };
    // No device is asked before all are known to be readable.
    for index in 0..ALL {
        prepare_pop(guest, at(index), size)?;
    }
    let mut values = [0; ALL as usize];
    for (index, value) in (0..ALL).zip(&mut values) {
        let source = prepare_pop(guest, at(index), size)?;
        *value = operand::load(guest, &source, size)?;
    }
    for (number, value) in (0..ALL).rev().zip(values) {
        // What was pushed of the stack pointer is thrown away.
        if number != RSP {
            guest.cpu.set_gpr_sized(number, size, value);
        }
    }
    set_pointer(guest.cpu, at(ALL));
    Ok(retire(guest, insn))
}

/// Executes ENTER.
///
/// ```text
///   RSP before --> +------------------+
///                  | RBP              | <-- RBP after
///   level - 1      | copies of what   |
///   pointers       | lies below RBP   |
///   level > 0      | RBP after        |
///                  +------------------+
///                  | space            | the processor wants the right to write there
///   RSP after  --> +------------------+
/// ```
pub(super) fn enter(guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    let size = insn.size;
    let level = (insn.imm2 & 31) as u8;
    let total = u16::from(elements(level)).wrapping_mul(size.into());
    let sp = pointer(guest.cpu);
    let frame_pointer = below(guest.cpu, size.into());
    let space = insn.imm as u64 & 0xffff;
    let end = below(guest.cpu, space.wrapping_add(total.into()));
    check_enter(guest, level, size)?;
    // Nothing is written there, but the processor asks.
    prepare_push(guest, end, size).map(drop)?;
    let span = prepare_frame(guest, insn, total)?;
    let mut frame = Frame::new(sp, guest.cpu.stack_size());
    fill_frame(guest, &mut frame, level, size)?;
    guest.commit(span, frame.bytes())?;
    set_pointer(guest.cpu, frame_pointer);
    let rbp = guest.cpu.gpr(RSP);
    guest.cpu.set_gpr_sized(RBP, size, rbp);
    set_pointer(guest.cpu, end);
    Ok(retire(guest, insn))
}

/// Checks all that ENTER reads and pushes.
// Not inlined: it takes no part in the stack of the frame.
#[inline(never)]
fn check_enter(guest: &mut Guest<'_>, level: u8, size: u8) -> Result<(), Stop> {
    let sp = pointer(guest.cpu);
    for index in 0..elements(level) {
        if copied(index, level) {
            let at = outer_pointer(guest, index, size);
            prepare_pop(guest, at, size)?;
        }
        check_slot(guest, sp, index.wrapping_add(1), size)?;
    }
    Ok(())
}

/// Reads all that ENTER reads, and makes up the frame.
// Not inlined, as above.
#[inline(never)]
fn fill_frame(guest: &mut Guest<'_>, frame: &mut Frame, level: u8, size: u8) -> Result<(), Stop> {
    for index in 0..elements(level) {
        let value = if copied(index, level) {
            let at = outer_pointer(guest, index, size);
            let source = prepare_pop(guest, at, size)?;
            frame.seen(at, operand::load(guest, &source, size)?)
        } else if index == 0 {
            guest.cpu.gpr(RBP)
        } else {
            // All of it, also where the stack segment uses a half.
            let above = !mask(guest.cpu.stack_size());
            guest.cpu.gpr(RSP) & above | below(guest.cpu, size.into())
        };
        frame.push(value, size);
    }
    Ok(())
}

/// How many elements ENTER pushes.
fn elements(level: u8) -> u8 {
    match level {
        0 => 1,
        level => level.wrapping_add(1),
    }
}

/// The element that ENTER pushes after `index` others is copied from an outer frame.
fn copied(index: u8, level: u8) -> bool {
    index != 0 && index != level
}

/// Where the element that ENTER pushes after `index` others is copied from.
fn outer_pointer(guest: &Guest<'_>, index: u8, size: u8) -> u64 {
    let width = guest.cpu.stack_size();
    let back = u64::from(index).wrapping_mul(size.into());
    guest.cpu.gpr_sized(RBP, width).wrapping_sub(back) & mask(width)
}

/// What PUSHA or ENTER has pushed; nothing of it is in memory yet.
struct Frame {
    /// The last bytes are in use.
    array: [u8; MAX_FRAME],
    used: u16,
    /// Offset in the stack segment of the byte behind the array.
    top: u64,
    /// Bytes of the stack pointer.
    width: u8,
}

impl Frame {
    fn new(top: u64, width: u8) -> Self {
        Self {
            array: [0; MAX_FRAME],
            used: 0,
            top,
            width,
        }
    }

    fn push(&mut self, value: u64, size: u8) {
        self.used = self.used.saturating_add(size.into());
        let slot = self.array.iter_mut().rev().take(self.used.into()).rev();
        for (to, from) in slot.zip(value.to_le_bytes()).take(size.into()) {
            *to = from;
        }
    }

    fn bytes(&self) -> &[u8] {
        let unused = MAX_FRAME.saturating_sub(self.used.into());
        self.array.get(unused..).unwrap_or(&[])
    }

    /// What the program finds at the offset `at`, where memory still has `value`.
    fn seen(&self, at: u64, value: u64) -> u64 {
        let mut bytes = value.to_le_bytes();
        for (ahead, byte) in (0..).zip(&mut bytes) {
            let back = self.top.wrapping_sub(at).wrapping_sub(ahead) & mask(self.width);
            let pushed = usize::try_from(back)
                .ok()
                .filter(|back| *back <= self.used.into());
            let index = pushed.and_then(|back| MAX_FRAME.checked_sub(back));
            if let Some(pushed) = index.and_then(|index| self.array.get(index)) {
                *byte = *pushed;
            }
        }
        u64::from_le_bytes(bytes)
    }
}

/// Checks that the element that is pushed as number `count` may be written.
fn check_slot(guest: &mut Guest<'_>, sp: u64, count: u8, size: u8) -> Result<(), Stop> {
    let bytes = u64::from(count).wrapping_mul(size.into());
    let offset = sp.wrapping_sub(bytes) & mask(guest.cpu.stack_size());
    prepare_push(guest, offset, size).map(drop)
}

/// Prepares writing `total` bytes below the stack pointer, all of which may be written.
/// Refused are a stack that wraps in them, and several elements in a device: it would see
/// other writes than the processor makes.
fn prepare_frame(guest: &mut Guest<'_>, insn: &Insn, total: u16) -> Result<Span, Stop> {
    let sp = pointer(guest.cpu);
    if sp != 0 && sp < total.into() {
        return Err(Stop::Refused(insn.op));
    }
    let offset = below(guest.cpu, total.into());
    let gva = segment::linear(guest.cpu, Seg::Ss, offset, total, true)?;
    let span = guest.prepare_write(gva, total, Intent::Write)?;
    if span.device() && total > insn.size.into() {
        return Err(Stop::Refused(insn.op));
    }
    Ok(span)
}
