// SPDX-License-Identifier: GPL-2.0

//! Which bytes of an access are written, and which sub-pages they touch.

use ept::Gpa;
use spp::{Mask, SUBPAGE_SIZE};

use super::Fragment;

/// Bytes that a set of 64 bits tells apart; those beyond are all written.
const TOLD_APART: u16 = 64;

/// The written bytes of a fragment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    fragment: Fragment,
    /// Of the first 64 bytes.
    bits: u64,
}

impl Written {
    /// Of a fragment that has `before` bytes of the access before it, those whose bit is
    /// set in `bytes`, which tells the first 64 bytes of the access apart.
    pub(super) fn new(fragment: Fragment, before: u16, bytes: u64) -> Self {
        let bits = following(bytes, before) & first(fragment.len.into());
        Self { fragment, bits }
    }

    /// The sub-pages in which a byte is written.
    ///
    /// Those of the first 64 bytes are two at most, with all bytes from the first written
    /// one to the last between them: none is touched in which nothing is written.
    pub(super) fn touched(self) -> Mask {
        let offset = self.fragment.gpa.page_offset();
        let (from, past) = (self.from(), 64 - self.bits.leading_zeros());
        let near = match self.bits {
            0 => Mask::NONE,
            _ => Mask::touched(offset.saturating_add(from), past.wrapping_sub(from.into())),
        };
        let far = self.fragment.len.saturating_sub(TOLD_APART);
        let far = Mask::touched(offset.saturating_add(TOLD_APART), far.into());
        Mask::from_raw(near.raw() | far.raw())
    }

    /// The first written byte in one of `denied`, sub-pages that are touched.
    pub(super) fn first_in(self, denied: Mask) -> Gpa {
        let start = u64::from(denied.raw().trailing_zeros()).wrapping_mul(SUBPAGE_SIZE);
        let offset = u64::from(self.fragment.gpa.page_offset());
        // In the sub-page that the fragment begins in, or in a later one.
        let from = match start.saturating_sub(offset) {
            0 => u64::from(self.from()),
            skipped @ 1..64 => {
                // Ones come in from above, as in `new`.
                let rest = !(!self.bits >> skipped);
                skipped.saturating_add(rest.trailing_zeros().into())
            }
            skipped => skipped,
        };
        Gpa::new(self.fragment.gpa.get().wrapping_add(from))
    }

    /// How many bytes come before the first written one.
    fn from(self) -> u16 {
        self.bits.trailing_zeros() as u16
    }
}

/// What `bytes`, which tells the first 64 bytes of an access apart, says of the first 64 of
/// those that follow the first `before`.
pub const fn following(bytes: u64, before: u16) -> u64 {
    match before {
        0 => bytes,
        // Ones come in from above: bytes beyond the first 64.
        1..TOLD_APART => !(!bytes >> before),
        _ => u64::MAX,
    }
}

/// The first `len` bits, of 64.
const fn first(len: usize) -> u64 {
    match len {
        0..64 => (1u64 << len).wrapping_sub(1),
        _ => u64::MAX,
    }
}

/// The first `len` bits are set; beyond 64 there are none to look at.
pub(super) const fn all(bytes: u64, len: usize) -> bool {
    bytes & first(len) == first(len)
}
