// SPDX-License-Identifier: GPL-2.0

//! Segmentation: from an offset to a linear address (SDM 3A 3.4 and 5.3 to 5.5).
//!
//! ```text
//!            64-bit mode                      everywhere else
//!   offset + base of FS or GS          type, limit  --> #GP, #SS
//!   canonical?  --> #GP, #SS           offset + base, 32 bits of it
//!        \_____________________________________/
//!                          |
//!                    aligned?  --> #AC
//!                   linear address
//! ```
//!
//! The hidden parts of the segment registers decide, in real mode too: there their
//! limits are 0xffff, or what protected mode has left in them.

use ept::Gva;

use crate::cpu::{mask, rflags, Cpu, Segment};
use crate::insn::Seg;
use crate::stop::Exception;

const CR0_AM: u64 = 1 << 18;

/// The linear address of `len` bytes at an offset in a segment. Outside 64-bit mode an
/// offset beyond 4 GBytes is one that lies so far behind the address of an operand: it
/// exceeds the limit like any other.
///
/// # Errors
///
/// #SS(0) for the stack segment and #GP(0) for others, where the segment or the address
/// does not allow the access.
#[inline]
pub fn linear(cpu: &Cpu, seg: Seg, offset: u64, len: u16, write: bool) -> Result<Gva, Exception> {
    let segment = cpu.segment(seg);
    let address = if cpu.long() {
        let base = match seg {
            Seg::Fs | Seg::Gs => segment.base,
            _ => 0,
        };
        let first = base.wrapping_add(offset);
        let last = first.wrapping_add(u64::from(len).saturating_sub(1));
        (canonical(cpu, first) && canonical(cpu, last)).then_some(first)
    } else {
        let typed = !cpu.protected() || allows(segment, write);
        let inside = within(segment, offset, len);
        (!segment.unusable && typed && inside)
            .then_some(segment.base.wrapping_add(offset) & mask(4))
    };
    address.map(Gva::new).ok_or(match seg {
        Seg::Ss => Exception::ss(0),
        _ => Exception::gp(0),
    })
}

/// Checks that an access begins at a multiple of `align`, a power of two, where the
/// guest has asked for that (SDM 3A 6.15, interrupt 17).
///
/// # Errors
///
/// #AC(0).
pub fn aligned(cpu: &Cpu, gva: Gva, align: u16) -> Result<(), Exception> {
    let offset = u64::from(align).wrapping_sub(1);
    if checks_alignment(cpu) && gva.get() & offset != 0 {
        return Err(Exception::AC);
    }
    Ok(())
}

/// Whether accesses must be aligned at all.
pub const fn checks_alignment(cpu: &Cpu) -> bool {
    cpu.cpl == 3 && cpu.paging.cr0 & CR0_AM != 0 && cpu.rflags & rflags::AC != 0
}

/// Checks the target of a near branch.
///
/// # Errors
///
/// #GP(0) if it is beyond the limit of CS or, in 64-bit mode, not canonical.
pub fn branch(cpu: &Cpu, rip: u64) -> Result<(), Exception> {
    let allowed = if cpu.long() {
        canonical(cpu, rip)
    } else {
        rip <= u64::from(cpu.segment(Seg::Cs).limit)
    };
    if allowed {
        Ok(())
    } else {
        Err(Exception::gp(0))
    }
}

/// The upper bits of a linear address are copies of the highest one that is translated.
pub const fn canonical(cpu: &Cpu, address: u64) -> bool {
    cpu.paging.canonical(address)
}

/// Whether the type of a code or data segment allows the access. A segment register never
/// holds a system segment.
const fn allows(segment: &Segment, write: bool) -> bool {
    if write {
        !segment.is_code() && segment.read_write()
    } else {
        !segment.is_code() || segment.read_write()
    }
}

/// Whether the limit allows `len` bytes at an offset below 4 GBytes. With a limit of
/// 4 GBytes there is nothing to exceed: accesses wrap (SDM 3A 5.3).
pub(crate) fn within(segment: &Segment, offset: u64, len: u16) -> bool {
    let last = offset.wrapping_add(u64::from(len).saturating_sub(1));
    let limit = u64::from(segment.limit);
    if segment.expand_down() {
        let upper = if segment.big() { mask(4) } else { mask(2) };
        offset > limit && last <= upper
    } else {
        last <= limit || limit == mask(4)
    }
}

#[cfg(test)]
#[path = "tests/segment.rs"]
mod tests;
