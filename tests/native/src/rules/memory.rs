// SPDX-License-Identifier: GPL-2.0

//! What is left in memory, and which of its bytes that concerns.

use std::ops::Range;

use emulate::cpu::{mask, Cpu};
use emulate::insn::{Insn, Rep, Seg};
use emulate::op::Op;
use emulate::stop::Stop;

use super::Judged;
use crate::allowed::{self, linear, RBP, RCX, RDI, RSI, RSP};
use crate::case::Case;
use crate::layout::{GUARD, HIGH, LOW, MID, WINDOW};

/// It pushes several elements.
pub const fn pushes_frame(insn: &Insn) -> bool {
    matches!(insn.op, Op::Pusha | Op::Enter | Op::CallFar)
}

/// It pushes a segment register as 4 bytes.
const fn pushes_selector(insn: &Insn) -> bool {
    matches!(insn.op, Op::PushSreg) && insn.size == 4
}

/// The bytes that an instruction of [`pushes_frame`] pushes; the whole window where they
/// do not follow each other.
pub(super) fn frame(case: &Case) -> Range<usize> {
    let (cpu, insn) = (&case.start, &case.insn);
    let elements = match insn.op {
        Op::Pusha => 8,
        Op::Enter => u64::from(insn.imm2 & 31) + 1,
        _ => 2,
    };
    let bytes = elements * u64::from(insn.size);
    let sp = cpu.gpr_sized(RSP, cpu.stack_size());
    match sp.checked_sub(bytes) {
        Some(lowest) if insn.op != Op::CallFar => window(linear(cpu, Seg::Ss, lowest), bytes),
        // That may be by another stack pointer: the one that the new code has.
        _ => 0..WINDOW,
    }
}

/// Bits 31:16 of the element that PUSH of a segment register writes.
pub(super) fn above_selector(case: &Case) -> Range<usize> {
    let cpu = &case.start;
    let sp = cpu.gpr(RSP).wrapping_sub(4) & mask(cpu.stack_size());
    // Inside the element offsets do not wrap.
    window(linear(cpu, Seg::Ss, sp.wrapping_add(2)), 2)
}

/// The memory operand.
pub(super) fn operand(case: &Case) -> Range<usize> {
    let (cpu, insn) = (&case.start, &case.insn);
    let address = linear(cpu, insn.mem.seg, allowed::operand(cpu, insn));
    window(address, insn.mem_size.into())
}

/// The bytes of the window that are at an address.
fn window(address: u64, bytes: u64) -> Range<usize> {
    let Some(offset) = offset(address) else {
        return 0..0;
    };
    let inside = |offset: u64| offset.saturating_sub(GUARD).min(WINDOW as u64) as usize;
    inside(offset)..inside(offset + bytes)
}

/// The offset of an address from where the surroundings of the window begin.
fn offset(address: u64) -> Option<u64> {
    [LOW, MID, HIGH]
        .into_iter()
        .map(|base| address.wrapping_sub(base - GUARD))
        .find(|offset| *offset < WINDOW as u64 + 2 * GUARD)
}

impl Judged<'_, '_> {
    pub(super) fn part_of_frame(&self) -> bool {
        self.both_stopped() && pushes_frame(self.insn())
    }

    pub(super) fn part_of_registers(&self) -> bool {
        self.context.amd && self.both_stopped() && self.insn().op == Op::Popa
    }

    pub(super) fn wrapped_frame(&self) -> bool {
        let (cpu, insn) = (self.cpu(), self.insn());
        let refused = self.emulated.stop == Some(Stop::Refused(insn.op));
        let near_end = cpu.gpr_sized(RSP, cpu.stack_size().min(4)) < 0x100;
        refused && pushes_frame(insn) && near_end
    }

    pub(super) fn pushed_selector(&self) -> bool {
        self.context.amd && self.both_retired() && pushes_selector(self.insn())
    }

    pub(super) fn aliases(&self) -> bool {
        let ended = self.both_retired() || self.both_stopped();
        ended && overlaps(self.cpu(), self.insn())
    }
}

/// What it reads and what it writes overlap, seen from the window, and do not, seen from
/// linear addresses.
fn overlaps(cpu: &Cpu, insn: &Insn) -> bool {
    let stack = |register| cpu.gpr_sized(register, cpu.stack_size());
    let (from, to, len) = match insn.op {
        Op::Movs if insn.rep != Rep::None => {
            let offset = |register| cpu.gpr_sized(register, insn.addr_size);
            let count = cpu.gpr_sized(RCX, insn.addr_size).min(WINDOW as u64);
            let from = linear(cpu, insn.mem.seg, offset(RSI));
            let to = linear(cpu, Seg::Es, offset(RDI));
            (from, to, count * u64::from(insn.size))
        }
        Op::Enter => (
            linear(cpu, Seg::Ss, stack(RBP)),
            linear(cpu, Seg::Ss, stack(RSP)),
            256,
        ),
        _ => return false,
    };
    let near = |a: u64, b: u64| a.abs_diff(b) < len;
    let (a, b) = (offset(from), offset(to));
    !near(from, to) && a.zip(b).is_some_and(|(a, b)| near(a, b))
}
