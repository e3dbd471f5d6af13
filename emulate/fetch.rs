// SPDX-License-Identifier: GPL-2.0

//! The bytes of the instruction that the guest is about to execute.

use ept::{Gva, PAGE_SIZE};

use crate::insn::MAX_BYTES;
use crate::paging::{Access, Paging};
use crate::GuestPhys;

/// Where the next instruction is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CodeLocation {
    /// RIP.
    pub rip: u64,
    /// Base of CS, which 64-bit code ignores.
    pub cs_base: u64,
    /// 64-bit code.
    pub long: bool,
    /// The translation in force.
    pub paging: Paging,
}

impl CodeLocation {
    /// The linear address of the byte `offset` bytes on.
    pub const fn linear(&self, offset: u64) -> Gva {
        let rip = self.rip.wrapping_add(offset);
        if self.long {
            Gva::new(rip)
        } else {
            Gva::new(self.cs_base.wrapping_add(rip & 0xffff_ffff) & 0xffff_ffff)
        }
    }
}

/// Reads the bytes at RIP, and says how many could be read: up to 15, and fewer
/// where the next page has no translation or no memory. They may have changed
/// since the processor fetched them.
pub fn instruction(
    memory: &mut (impl GuestPhys + ?Sized),
    at: &CodeLocation,
) -> ([u8; MAX_BYTES], u8) {
    let mut bytes = [0; MAX_BYTES];
    let mut count = 0;
    // Fifteen bytes touch at most two pages.
    for _ in 0..2 {
        let linear = at.linear(count as u64);
        let Ok(gpa) = at.paging.translate(memory, linear, Access::FETCH) else {
            break;
        };
        let in_page = PAGE_SIZE - u64::from(gpa.page_offset());
        let Some(rest) = bytes.get_mut(count..) else {
            break;
        };
        let len = rest.len().min(in_page as usize);
        let Some(part) = rest.get_mut(..len) else {
            break;
        };
        if !memory.read(gpa, part) {
            part.fill(0);
            break;
        }
        count += len;
        if count == MAX_BYTES {
            break;
        }
    }
    (bytes, count as u8)
}

#[cfg(test)]
#[path = "tests/fetch.rs"]
mod tests;
