// SPDX-License-Identifier: GPL-2.0

//! Where operands are: near the ends of pages and segments, mostly.

use emulate::cpu::{mask, Segment};
use emulate::insn::Seg;

use super::Aim;
use crate::allowed;
use crate::layout::{HIGH, LOW, MID, PAGE, PAGES, WINDOW};

impl Aim<'_> {
    /// An offset in a segment where `len` bytes begin, near a boundary mostly.
    pub(super) fn offset(&mut self, seg: Seg, len: u64, aligned: bool) -> u64 {
        let segment = *self.cpu.segment(seg);
        if !self.cpu.long() && self.rng.chance(12) {
            if let Some(offset) = self.edge(&segment, len) {
                return offset;
            }
        }
        let mut offset = 0;
        // Most of what is outside of the segment is drawn again.
        for _ in 0..6 {
            let mut address = self.address(len);
            if aligned && self.rng.chance(75) {
                address &= !len.next_power_of_two().wrapping_sub(1);
            }
            offset = match (self.cpu.long(), seg) {
                (true, Seg::Fs | Seg::Gs) => return address.wrapping_sub(segment.base),
                (true, _) => return address,
                (false, _) => address.wrapping_sub(segment.base) & mask(4),
            };
            let last = offset.wrapping_add(len).wrapping_sub(1);
            if !allowed::faults(&segment, offset) && !allowed::faults(&segment, last) {
                break;
            }
        }
        offset
    }

    /// An offset near the limit of a segment that has one.
    fn edge(&mut self, segment: &Segment, len: u64) -> Option<u64> {
        if segment.limit == u32::MAX || segment.unusable {
            return None;
        }
        let limit = u64::from(segment.limit);
        let edge = match (segment.expand_down(), self.rng.chance(50)) {
            (true, true) if !segment.big() => 0xffff,
            // Where 16-bit offsets end.
            (false, true) if limit > 0xffff => 0xffff,
            (false, true) if self.rng.chance(20) => 0,
            _ => limit,
        };
        let offset = (edge + 16).wrapping_sub(self.rng.below(32 + len));
        Some(offset & mask(4))
    }

    /// A linear address where `len` bytes begin.
    fn address(&mut self, len: u64) -> u64 {
        let long = self.cpu.long();
        let base = match self.rng.below(100) {
            0..40 if long => HIGH,
            0..60 => LOW,
            _ => MID,
        };
        let size = len.min(PAGE);
        match self.rng.below(200) {
            // Nothing is below 64 KiB, and nothing above what is canonical.
            0 => self.rng.below(0x8000),
            1 if long => (1 << 47) + self.rng.below(32) - self.rng.below(32 + size),
            2 if long => (self.rng.next() | 1 << 62) & !(1 << 63),
            3..60 => base + self.rng.below(WINDOW as u64),
            60..110 => base + self.rng.below(WINDOW as u64 / 64) * 64,
            _ => {
                let boundary = base + self.rng.below(PAGES as u64 + 1) * PAGE;
                boundary + 16 - self.rng.below(32 + size)
            }
        }
    }
}
