// SPDX-License-Identifier: GPL-2.0

//! What an EPT violation by a write means on a page that has a map.
//!
//! The exit qualification has no SPP bit: a denied sub-page, a write that the processor chose
//! not to put to the SPPT and a stale translation all look the same (SDM 3C 28.2.1 and
//! 29.3.4.1), so the map decides.
//!
//! ```text
//!  leaf armed (W=0, bit 61)?  no  -> NotSubPage   the ordinary fault path has work to do
//!     | yes
//!  final translation?         no  -> Ineligible   guest page walk: never put to the SPPT
//!     | yes
//!  touched sub-pages allowed? no  -> Denied
//!     | yes
//!  same fault just before?    no  -> Retry        a stale translation cures itself
//!       yes -> Ineligible                         the processor will not do it
//! ```

use ept::{Gpa, Leaf};

use crate::Mask;

/// An EPT violation caused by a write (exit qualification bit 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteFault {
    /// The guest-physical address of the exit. Of a write that touches several sub-pages it is one
    /// byte, and the manual does not say which.
    pub gpa: Gpa,
    /// Exit qualification bit 8: the access was to the translation of the linear address, not to a
    /// paging structure on the way to it.
    pub final_translation: bool,
    /// Bytes that the instruction writes from `gpa` on, if a decoder knows.
    pub len: Option<u32>,
}

/// The answer to a [`WriteFault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The sub-page map has no part in this fault.
    NotSubPage,
    /// The map denies the write.
    Denied {
        /// The sub-pages that are touched and denied; at least one.
        mask: Mask,
    },
    /// The map allows the write: invalidate on this CPU and enter the guest again.
    Retry,
    /// The map does not decide or allows the write, and the processor will not do it: emulate or
    /// single-step the instruction, and check every sub-page it really touches.
    Ineligible,
}

impl WriteFault {
    /// Judges the fault by the leaf and the map in force when it is looked at. `again` says that
    /// the last fault of this virtual CPU had the same instruction and address and got
    /// [`Verdict::Retry`]: one retry is enough for a stale translation, and more would never end
    /// (SDM 3C 29.4.3.1: an EPT violation drops the mappings of its address).
    ///
    /// Where the length is not known, one byte is judged: what it denies is denied, and what
    /// it allows may still turn out to be denied further on.
    pub fn verdict(self, leaf: Option<Leaf>, map: Mask, again: bool) -> Verdict {
        if !leaf.is_some_and(|leaf| leaf.subpage) {
            return Verdict::NotSubPage;
        }
        if !self.final_translation {
            return Verdict::Ineligible;
        }
        let len = self.len.unwrap_or(1).max(1);
        let denied = map.denied(Mask::touched(self.gpa.page_offset(), len));
        match (denied, again) {
            (Mask::NONE, false) => Verdict::Retry,
            (Mask::NONE, true) => Verdict::Ineligible,
            (mask, _) => Verdict::Denied { mask },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ept::{Hpa, Level};

    const SECOND: Mask = Mask::from_raw(1 << 1);

    fn leaf(writable: bool, subpage: bool) -> Option<Leaf> {
        Some(Leaf {
            hpa: Hpa::new(0x7000),
            level: Level::Pt,
            writable,
            subpage,
        })
    }

    fn fault(gpa: u64, final_translation: bool, len: Option<u32>) -> WriteFault {
        WriteFault {
            gpa: Gpa::new(gpa),
            final_translation,
            len,
        }
    }

    #[test]
    fn only_an_armed_leaf_makes_it_a_sub_page_fault() {
        for again in [false, true] {
            for leaf in [None, leaf(false, false), leaf(true, false)] {
                let write = fault(0x5000, true, Some(8));
                assert_eq!(write.verdict(leaf, Mask::NONE, again), Verdict::NotSubPage);
            }
        }
    }

    #[test]
    fn page_walks_are_never_denied() {
        for (map, again) in [(Mask::ALL, false), (Mask::NONE, false), (Mask::NONE, true)] {
            let walk = fault(0x5000, false, Some(8));
            assert_eq!(
                walk.verdict(leaf(false, true), map, again),
                Verdict::Ineligible
            );
        }
    }

    #[test]
    fn denial_names_the_denied_sub_pages_and_needs_no_retry() {
        for again in [false, true] {
            let write = fault(0x507c, true, Some(8));
            let map = Mask::from_raw(!SECOND.raw());
            let verdict = write.verdict(leaf(false, true), map, again);
            assert_eq!(verdict, Verdict::Denied { mask: SECOND });
        }
    }

    #[test]
    fn an_allowed_write_is_retried_once() {
        let write = fault(0x5080, true, Some(8));
        assert_eq!(
            write.verdict(leaf(false, true), SECOND, false),
            Verdict::Retry
        );
        assert_eq!(
            write.verdict(leaf(false, true), SECOND, true),
            Verdict::Ineligible
        );
    }

    #[test]
    fn unknown_or_zero_length_counts_as_one_byte() {
        for len in [None, Some(0), Some(1)] {
            let map = Mask::from_raw(!SECOND.raw());
            assert_eq!(
                fault(0x507f, true, len).verdict(leaf(false, true), map, false),
                Verdict::Retry
            );
            let denied = fault(0x5080, true, len).verdict(leaf(false, true), map, false);
            assert_eq!(denied, Verdict::Denied { mask: SECOND });
        }
    }
}
