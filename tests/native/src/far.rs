// SPDX-License-Identifier: GPL-2.0

//! Far branches: where they go to, and what CS holds then.
//!
//! They end in a single step, before anything is executed where they went to: so that may
//! be anywhere, in any mode. Selectors are those of the process, most of which must not be
//! loaded.

use emulate::cpu::{mask, Cpu, Segment};
use emulate::insn::CodeSize;
use emulate::op::Op;

use crate::cpu::{Choice, Descriptor, DESCRIPTORS, USER_CS32, USER_CS64};
use crate::layout::{pad, CODE, LOW, PAD_COUNT};
use crate::rng::Rng;
use crate::setup;

/// A far branch.
pub const fn is_far(op: Op) -> bool {
    matches!(op, Op::CallFar | Op::JmpFar | Op::RetFar)
}

/// What CS holds after it was loaded with a selector; `None` if that cannot be.
pub fn code_segment(selector: u16) -> Option<Segment> {
    let segment = match selector {
        USER_CS64 => setup::CS64,
        USER_CS32 => setup::CS32,
        _ => {
            let number = usize::from(selector >> 3);
            let descriptor = DESCRIPTORS.get(number)?;
            let local = selector == Descriptor::selector(number);
            let code = matches!(descriptor.choice, Choice::Code16 | Choice::Code32);
            (local && code).then(|| descriptor.segment(number))?
        }
    };
    Some(segment)
}

/// What a code segment makes of code.
pub const fn code_size(segment: &Segment) -> CodeSize {
    match (segment.attributes & 1 << 13 != 0, segment.big()) {
        (true, _) => CodeSize::Bits64,
        (false, true) => CodeSize::Bits32,
        (false, false) => CodeSize::Bits16,
    }
}

/// A selector and an offset of `size` bytes.
pub fn pointer(rng: &mut Rng, cpu: &Cpu, size: u8) -> (u16, u64) {
    let selector = selector(rng);
    let base = code_segment(selector).map_or(0, |segment| segment.base);
    let linear = match rng.below(100) {
        0..60 => pad(1 + rng.below(PAD_COUNT - 1)),
        60..70 => CODE + rng.below(0x2020),
        70..80 => LOW + rng.below(0x1_0000),
        80..90 => base.wrapping_add(rng.below(0x1_0020)),
        _ => rng.next(),
    };
    let offset = linear.wrapping_sub(base) & mask(size.min(8));
    // Where it began, a single step would be taken for one that goes there.
    let offset = if offset == cpu.rip {
        offset ^ 1
    } else {
        offset
    };
    (selector, offset)
}

/// Code segments mostly, all the others of the GDT and the LDT, and what is behind them.
fn selector(rng: &mut Rng) -> u16 {
    let number = rng.below(DESCRIPTORS.len() as u64 + 2) as u16;
    let selector = match rng.below(100) {
        0..20 => USER_CS64,
        20..40 => USER_CS32,
        40..80 => number << 3 | 7,
        80..95 => (rng.below(18) as u16) << 3 | 3,
        _ => rng.next() as u16,
    };
    match rng.chance(8) {
        true => selector & !3 | rng.below(4) as u16,
        false => selector,
    }
}
