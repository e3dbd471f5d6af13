// SPDX-License-Identifier: GPL-2.0

//! From linear addresses to where the pages of an access are.

use ept::{Gfn, Gpa, Gva, PAGE_SIZE};

use super::span::{Fragment, Fragments};
use super::{Guest, Page, MAX_SPAN};
use crate::paging::{Access, Fault, Paging};
use crate::stop::{Exception, Stop};

/// The translations that an instruction has used, of a source and a destination, as a
/// processor may keep them (SDM 3A 4.10.2): until the guest executes something else.
#[derive(Clone, Copy, Debug)]
pub struct Translations([Option<Translated>; 2]);

/// A page and where it is, for accesses of one kind.
#[derive(Clone, Copy, Debug)]
struct Translated {
    /// Linear address, without the offset in the page.
    page: u64,
    cr3: u64,
    user: bool,
    access: Access,
    gfn: Gfn,
}

impl Translations {
    /// None is known.
    pub const NONE: Self = Self([None, None]);

    /// What the processor found out about the data read that it was stopped at by EPT:
    /// `gva` is at `gpa`. It may have been an access of its own to a table, which user code
    /// is not free to make; so this is for supervisor code.
    pub fn of_stopped_read(paging: &Paging, gva: Gva, gpa: Gpa) -> Self {
        let mut found = Self::NONE;
        if !paging.user {
            found.add(paging, gva, Access::READ, gpa);
        }
        found
    }

    pub(super) const fn any(&self) -> bool {
        let [last, _] = &self.0;
        last.is_some()
    }

    pub(super) fn find(&self, paging: &Paging, gva: Gva, access: Access) -> Option<Gpa> {
        let offset = gva.get() & (PAGE_SIZE - 1);
        let page = gva.get() ^ offset;
        let same = |t: &&Translated| {
            t.page == page && t.cr3 == paging.cr3 && t.user == paging.user && t.access == access
        };
        let found = self.0.iter().flatten().find(same)?;
        Some(Gpa::new(found.gfn.gpa().get() | offset))
    }

    /// Takes the place of the older one.
    pub(super) fn add(&mut self, paging: &Paging, gva: Gva, access: Access, gpa: Gpa) {
        let [last, before] = &mut self.0;
        *before = last.replace(Translated {
            page: gva.get() & !(PAGE_SIZE - 1),
            cr3: paging.cr3,
            user: paging.user,
            access,
            gfn: gpa.gfn(),
        });
    }
}

impl Guest<'_> {
    /// Translates each page of an access, and says what is at the first.
    #[inline(always)]
    pub(super) fn fragments(
        &mut self,
        gva: Gva,
        len: u16,
        access: Access,
    ) -> Result<(Fragments, Page), Stop> {
        let in_page = (PAGE_SIZE as u16).wrapping_sub((gva.get() & (PAGE_SIZE - 1)) as u16);
        let len = len.clamp(1, MAX_SPAN as u16);
        if len > in_page {
            return self.crossing(gva, len, in_page, access);
        }
        let (first, page) = self.fragment(gva, len, access)?;
        let fragments = Fragments {
            first,
            second: None,
        };
        Ok((fragments, page))
    }

    /// The same for an access of which `first_len` bytes lie in the first of two pages.
    #[cold]
    #[inline(never)]
    fn crossing(
        &mut self,
        gva: Gva,
        len: u16,
        first_len: u16,
        access: Access,
    ) -> Result<(Fragments, Page), Stop> {
        let next = self.cpu.linear(gva, first_len.into());
        // The guest's own faults come before flags are set, and before denials of that.
        let paging = self.cpu.paging;
        for gva in [gva, next] {
            let gpa = paging.translate(self.memory, gva, access);
            gpa.map_err(|fault| fault_stop(&paging, gva, access, fault))?;
        }
        let (first, page) = self.fragment(gva, first_len, access)?;
        let (second, _) = self.fragment(next, len.wrapping_sub(first_len), access)?;
        let fragments = Fragments {
            first,
            second: Some(second),
        };
        Ok((fragments, page))
    }

    #[inline]
    fn translate(&mut self, gva: Gva, access: Access) -> Result<Gpa, Stop> {
        let paging = &self.cpu.paging;
        if let Some(gpa) = self.translated.find(paging, gva, access) {
            return Ok(gpa);
        }
        let gpa = paging
            .translate_and_mark(self.memory, gva, access)
            .map_err(|fault| fault_stop(paging, gva, access, fault))?;
        self.translated.add(paging, gva, access, gpa);
        Ok(gpa)
    }

    // Inlined, or else its result would be copied from place to place.
    #[inline(always)]
    fn fragment(&mut self, gva: Gva, len: u16, access: Access) -> Result<(Fragment, Page), Stop> {
        let gpa = self.translate(gva, access)?;
        let page = self.memory.page(gpa.gfn());
        let device = page == Page::Device;
        Ok((Fragment { gpa, len, device }, page))
    }
}

/// What a fault of the walk means to the instruction.
#[cold]
fn fault_stop(paging: &Paging, gva: Gva, access: Access, fault: Fault) -> Stop {
    match fault {
        Fault::Page(code) => Exception::pf(gva, code).into(),
        Fault::NonCanonical => Exception::gp(0).into(),
        Fault::NoTable(_) => Exception::pf(gva, paging.not_present(access)).into(),
        Fault::Stop(stop) => stop,
    }
}
