// SPDX-License-Identifier: GPL-2.0

//! From linear addresses to where the pages of an access are.

use ept::{Gfn, Gpa, Gva, PAGE_SIZE};

use super::span::{Fragment, Fragments};
use super::{Guest, Page, MAX_SPAN};
use crate::paging::{Access, Fault, Paging};
use crate::stop::{Exception, Stop};

/// A page and where it is, for accesses of one kind.
#[derive(Clone, Copy)]
pub(super) struct Translated {
    /// Linear address, without the offset in the page.
    page: u64,
    cr3: u64,
    user: bool,
    access: Access,
    gfn: Gfn,
}

impl Guest<'_> {
    /// Translates each page of an access.
    pub(super) fn fragments(
        &mut self,
        gva: Gva,
        len: u16,
        access: Access,
    ) -> Result<Fragments, Stop> {
        let in_page = (PAGE_SIZE as u16).wrapping_sub((gva.get() & (PAGE_SIZE - 1)) as u16);
        let len = len.clamp(1, MAX_SPAN as u16);
        let first_len = len.min(in_page);
        let rest = len.wrapping_sub(first_len);
        if rest == 0 {
            let first = self.fragment(gva, len, access)?;
            return Ok(Fragments {
                first,
                second: None,
            });
        }
        let next = self.cpu.linear(gva, first_len.into());
        // The guest's own faults come before flags are set, and before denials of that.
        let paging = self.cpu.paging;
        for gva in [gva, next] {
            let gpa = paging.translate(self.memory, gva, access);
            gpa.map_err(|fault| fault_stop(&paging, gva, access, fault))?;
        }
        Ok(Fragments {
            first: self.fragment(gva, first_len, access)?,
            second: Some(self.fragment(next, rest, access)?),
        })
    }

    fn translate(&mut self, gva: Gva, access: Access) -> Result<Gpa, Stop> {
        let paging = &self.cpu.paging;
        let offset = gva.get() & (PAGE_SIZE - 1);
        let (page, cr3, user) = (gva.get() ^ offset, paging.cr3, paging.user);
        let same = |t: &Translated| (t.page, t.cr3, t.user, t.access) == (page, cr3, user, access);
        let gfn = match self.translated.iter().flatten().find(|t| same(t)) {
            Some(translated) => translated.gfn,
            None => {
                let gpa = paging
                    .translate_and_mark(self.memory, gva, access)
                    .map_err(|fault| fault_stop(paging, gva, access, fault))?;
                let new = Translated {
                    page,
                    cr3,
                    user,
                    access,
                    gfn: gpa.gfn(),
                };
                let [last, before] = &mut self.translated;
                *before = last.replace(new);
                new.gfn
            }
        };
        Ok(Gpa::new(gfn.gpa().get() | offset))
    }

    fn fragment(&mut self, gva: Gva, len: u16, access: Access) -> Result<Fragment, Stop> {
        let gpa = self.translate(gva, access)?;
        Ok(Fragment {
            gpa,
            len,
            device: self.memory.page(gpa.gfn()) == Page::Device,
        })
    }
}

/// What a fault of the walk means to the instruction.
fn fault_stop(paging: &Paging, gva: Gva, access: Access, fault: Fault) -> Stop {
    match fault {
        Fault::Page(code) => Exception::pf(gva, code).into(),
        Fault::NonCanonical => Exception::gp(0).into(),
        Fault::NoTable(_) => Exception::pf(gva, paging.not_present(access)).into(),
        Fault::Stop(stop) => stop,
    }
}
