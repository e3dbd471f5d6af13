// SPDX-License-Identifier: GPL-2.0

//! The bytes of the instruction that the guest is about to execute.

use ept::{Gpa, Gva, PAGE_SIZE};

use crate::insn::MAX_BYTES;
use crate::paging::{Access, Fault, Paging};
use crate::stop::Exception;
use crate::GuestPhys;

/// Where the next instruction is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CodeLocation {
    /// RIP.
    pub rip: u64,
    /// Base of CS, which 64-bit code ignores.
    pub cs_base: u64,
    /// Last offset in CS, which 64-bit code ignores.
    pub cs_limit: u32,
    /// 64-bit code.
    pub long: bool,
    /// The translation in force.
    pub paging: Paging,
}

/// Why no more bytes of an instruction can be had. An instruction that needs them ends
/// in this; one that does not is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchStop {
    /// The guest's own fetch would raise this.
    Exception(Exception),
    /// There is no memory at this address. No processor says what it would fetch there.
    NoMemory(Gpa),
}

/// What was read at RIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The bytes, the rest 0.
    pub bytes: [u8; MAX_BYTES],
    /// How many there are.
    pub len: u8,
    /// Why there are no more; `None` where all 15 are.
    pub end: Option<FetchStop>,
}

impl Fetched {
    /// Nothing.
    pub const NOTHING: Self = Self {
        bytes: [0; MAX_BYTES],
        len: 0,
        end: None,
    };

    /// The bytes that are there.
    pub fn get(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }
}

impl CodeLocation {
    /// The linear address of the byte `offset` bytes on.
    #[inline]
    pub const fn linear(&self, offset: u64) -> Gva {
        let rip = self.rip.wrapping_add(offset);
        if self.long {
            Gva::new(rip)
        } else {
            Gva::new(self.cs_base.wrapping_add(rip & 0xffff_ffff) & 0xffff_ffff)
        }
    }

    /// How many bytes from the one `offset` bytes on lie in the code segment, and in the
    /// part of it up to where offsets wrap.
    #[inline]
    const fn in_segment(&self, offset: u64) -> u64 {
        if self.long {
            return u64::MAX;
        }
        let rip = self.rip.wrapping_add(offset) & 0xffff_ffff;
        (self.cs_limit as u64 + 1).saturating_sub(rip)
    }

    /// Where the byte `offset` bytes on is in memory.
    fn translate(
        &self,
        memory: &mut (impl GuestPhys + ?Sized),
        offset: u64,
    ) -> Result<Gpa, Exception> {
        if self.in_segment(offset) == 0 {
            return Err(Exception::gp(0));
        }
        let gva = self.linear(offset);
        let gpa = self.paging.translate(memory, gva, Access::FETCH);
        gpa.map_err(|fault| match fault {
            Fault::Page(code) => Exception::pf(gva, code),
            Fault::NonCanonical => Exception::gp(0),
            // As for data: KVM has it so, too.
            Fault::NoTable(_) | Fault::Stop(_) => {
                Exception::pf(gva, self.paging.not_present(Access::FETCH))
            }
        })
    }
}

/// Reads the bytes at RIP: up to 15, and fewer where the next one lies outside the code
/// segment, or has no translation or no memory. They may have changed since the
/// processor fetched them.
pub fn instruction(memory: &mut (impl GuestPhys + ?Sized), at: &CodeLocation) -> Fetched {
    let mut fetched = Fetched::NOTHING;
    again(memory, at, &mut fetched);
    fetched
}

/// As [`instruction`], where others were fetched before.
#[inline]
pub fn again(memory: &mut (impl GuestPhys + ?Sized), at: &CodeLocation, fetched: &mut Fetched) {
    // Most lie in one page.
    if at.in_segment(0) >= MAX_BYTES as u64 {
        if let Ok(gpa) = at.translate(memory, 0) {
            let in_page = PAGE_SIZE.wrapping_sub(gpa.page_offset().into());
            if in_page >= MAX_BYTES as u64 && memory.read(gpa, &mut fetched.bytes) {
                fetched.len = MAX_BYTES as u8;
                fetched.end = None;
                return;
            }
        }
    }
    *fetched = by_pages(memory, at);
}

/// The same, page by page.
// Neither inlined nor expected: of all that it computes ahead of its loop, most
// instructions need nothing.
#[cold]
#[inline(never)]
fn by_pages(memory: &mut (impl GuestPhys + ?Sized), at: &CodeLocation) -> Fetched {
    let mut fetched = Fetched::NOTHING;
    let mut rest = &mut fetched.bytes[..];
    // Fifteen bytes touch two pages at most, and offsets wrap in between once at most.
    for _ in 0..3 {
        if rest.is_empty() {
            break;
        }
        let offset = u64::from(fetched.len);
        let gpa = match at.translate(memory, offset) {
            Ok(gpa) => gpa,
            Err(exception) => {
                fetched.end = Some(FetchStop::Exception(exception));
                break;
            }
        };
        let in_page = PAGE_SIZE.wrapping_sub(gpa.page_offset().into());
        let len = in_page.min(at.in_segment(offset)).min(rest.len() as u64);
        let Some((part, others)) = rest.split_at_mut_checked(len as usize) else {
            break;
        };
        if !memory.read(gpa, part) {
            part.fill(0);
            fetched.end = Some(FetchStop::NoMemory(gpa));
            break;
        }
        rest = others;
        fetched.len = fetched.len.wrapping_add(len as u8);
    }
    fetched
}

#[cfg(test)]
#[path = "tests/fetch.rs"]
mod tests;
