// SPDX-License-Identifier: GPL-2.0

//! Table frames on their way back to whoever allocated them.
//!
//! ```text
//!   Space::map -> Stale ----> INVEPT arranged -> Stale::spent -> Spent --+
//!              -> Unlinked ----------------------------------------------+-> frames
//! ```

use ept::{Hpa, Idle};

use crate::stale::Spent;

/// Table frames that no table links to any more. A processor may have cached the links (SDM 3C
/// 29.4.1), and walks the frames until it is made to forget them: they come out only
/// against the proof that this has happened.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use = "the frames are lost"]
pub struct Unlinked {
    tables: [Option<Hpa>; 2],
}

/// Tables with nothing in them, in the way of a 2-MiB leaf.
#[derive(Clone, Copy, Default)]
pub(crate) struct Clearing {
    /// Of the EPT.
    pub(crate) leaves: Option<Idle>,
    /// Of the SPPT.
    pub(crate) vectors: Option<Idle>,
}

impl From<Clearing> for Unlinked {
    fn from(clearing: Clearing) -> Self {
        Self {
            tables: [clearing.leaves, clearing.vectors].map(|idle| Some(idle?.table)),
        }
    }
}

impl Unlinked {
    /// No frame at all.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.tables == [None, None]
    }

    /// The frames, for the proof that the [`crate::Stale`] which came with them is spent. Without
    /// one there are none: they are lost rather than walked by a processor.
    #[inline]
    pub fn after(self, spent: Option<Spent>) -> impl Iterator<Item = Hpa> {
        let tables = spent.map_or([None, None], |Spent { .. }| self.tables);
        tables.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stale;
    use ept::Slot;

    #[test]
    fn frames_come_out_against_the_proof_only() {
        let table = Hpa::new(0x3000);
        let link = Slot::new(Hpa::new(0x2000), 1);
        let unlinked = || {
            Unlinked::from(Clearing {
                leaves: None,
                vectors: Some(Idle { link, table }),
            })
        };
        assert!(!unlinked().is_empty() && Unlinked::default().is_empty());
        assert_eq!(unlinked().after(None).next(), None);
        let mut frames = unlinked().after(Some(Stale::new().spent()));
        assert_eq!((frames.next(), frames.next()), (Some(table), None));
    }
}
