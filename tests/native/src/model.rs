// SPDX-License-Identifier: GPL-2.0

//! The emulated guest's physical memory.
//!
//! ```text
//!   frame   0 .. 15   window
//!          16, 17     code
//!          18         GDT, LDT
//!          19 ..      page tables
//! ```

use emulate::guard::{Memory, Page, Span, Trouble};
use emulate::GuestPhys;
use ept::{Gfn, Gpa};
use spp::Mask;

use crate::layout::{PAGE, PAGES, WINDOW};

/// Frame of the first code page.
pub const CODE_FRAME: u64 = PAGES as u64;
/// Frame of the descriptor tables.
pub const TABLES_FRAME: u64 = CODE_FRAME + 2;
/// First frame for page tables.
pub const PAGING_FRAME: u64 = TABLES_FRAME + 1;
/// All frames.
const FRAMES: u64 = 96;

/// Memory, with a sub-page map for each page of the window.
#[derive(Clone, Debug)]
pub struct Ram {
    bytes: Vec<u8>,
    maps: [Mask; PAGES],
    touched: u32,
}

impl Default for Ram {
    fn default() -> Self {
        Self::new()
    }
}

impl Ram {
    /// Zeroed memory that may be written everywhere.
    pub fn new() -> Self {
        Self {
            bytes: vec![0; (FRAMES * PAGE) as usize],
            maps: [Mask::ALL; PAGES],
            touched: 0,
        }
    }

    /// Sets the sub-page map of a page of the window.
    pub fn set_map(&mut self, page: usize, map: Mask) {
        self.maps[page] = map;
    }

    /// The window.
    pub fn window(&mut self) -> &mut [u8] {
        &mut self.bytes[..WINDOW]
    }

    /// One frame.
    pub fn frame(&mut self, frame: u64) -> &mut [u8] {
        &mut self.bytes[(frame * PAGE) as usize..][..PAGE as usize]
    }

    /// The pages of the window that were read or written since this was last called, as
    /// bits.
    pub fn take_touched(&mut self) -> u32 {
        std::mem::take(&mut self.touched)
    }

    fn place(&mut self, gpa: Gpa, len: usize) -> Option<&mut [u8]> {
        let offset = usize::from(gpa.page_offset());
        assert!(
            offset + len <= PAGE as usize,
            "crosses a page: {gpa:?}, {len}"
        );
        let frame = gpa.gfn().get();
        if frame < PAGES as u64 {
            self.touched |= 1 << frame;
        }
        self.bytes.get_mut(gpa.get() as usize..)?.get_mut(..len)
    }

    /// Whether the maps still allow what the span wants.
    fn check(&mut self, span: &Span, bytes: u64) {
        let mut done = 0;
        for fragment in span.fragments() {
            for n in 0..u64::from(fragment.len) {
                let at = Gpa::new(fragment.gpa.get() + n);
                let written = done >= 64 || bytes >> done & 1 != 0;
                let map = match self.page(at.gfn()) {
                    Page::Ram(map) => map,
                    _ => Mask::NONE,
                };
                let touched = Mask::touched(at.page_offset(), 1);
                assert!(
                    !written || map.allows(touched),
                    "writes a denied byte at {at:?}"
                );
                done += 1;
            }
        }
    }
}

impl GuestPhys for Ram {
    fn read(&mut self, gpa: Gpa, out: &mut [u8]) -> bool {
        match self.place(gpa, out.len()) {
            Some(bytes) => out.copy_from_slice(bytes),
            None => return false,
        }
        true
    }
}

impl Memory for Ram {
    fn page(&mut self, gfn: Gfn) -> Page {
        let map = self.maps.get(gfn.get() as usize);
        Page::Ram(map.copied().unwrap_or(Mask::ALL))
    }

    fn write(&mut self, span: &Span, data: &[u8], bytes: u64) -> Result<(), Trouble> {
        assert_eq!(span.len(), data.len());
        self.check(span, bytes);
        let mut done = 0;
        for fragment in span.fragments() {
            let len = usize::from(fragment.len);
            let place = self.place(fragment.gpa, len).ok_or(Trouble::Host)?;
            for (to, from) in place.iter_mut().zip(&data[done..]) {
                if done >= 64 || bytes >> done & 1 != 0 {
                    *to = *from;
                }
                done += 1;
            }
        }
        Ok(())
    }

    fn exchange(&mut self, span: &Span, old: &[u8], new: &[u8]) -> Result<bool, Trouble> {
        let mut done = 0;
        for fragment in span.fragments() {
            let len = usize::from(fragment.len);
            let place = self.place(fragment.gpa, len).ok_or(Trouble::Host)?;
            if *place != old[done..][..len] {
                return Ok(false);
            }
            done += len;
        }
        self.write(span, new, u64::MAX)?;
        Ok(true)
    }
}
