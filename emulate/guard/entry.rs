// SPDX-License-Identifier: GPL-2.0

//! The spans of the page walk: accessed and dirty flags are writes like all others.

use ept::{Gpa, Gva};
use spp::Mask;

use super::{Fragment, Fragments, Memory, Page, Span};
use crate::stop::{Denial, Stop};

impl Span {
    /// A paging-structure entry of `len` bytes, aligned, at `gpa`, in which the walk for
    /// `gva` sets flags. `None`: it lies in read-only memory, where they stay.
    ///
    /// # Errors
    ///
    /// [`Stop::Denied`] by the sub-page map; [`Stop::Retry`] where memory went since the
    /// entry was read.
    pub(crate) fn for_entry(
        memory: &mut dyn Memory,
        gva: Gva,
        gpa: Gpa,
        len: u8,
    ) -> Result<Option<Span>, Stop> {
        let len = u16::from(len);
        match memory.page(gpa.gfn()) {
            Page::Rom => Ok(None),
            Page::Device => Err(Stop::Retry),
            Page::Ram(map) => {
                let denied = map.denied(Mask::touched(gpa.page_offset(), len.into()));
                if denied != Mask::NONE {
                    return Err(Stop::Denied(Denial {
                        gpa,
                        gva,
                        size: len,
                        denied,
                        map,
                        read: true,
                        walk: true,
                    }));
                }
                let first = Fragment {
                    gpa,
                    len,
                    device: false,
                };
                let fragments = Fragments {
                    first,
                    second: None,
                };
                Ok(Some(Span { fragments, gva }))
            }
        }
    }
}
