// SPDX-License-Identifier: GPL-2.0

//! The memory that tables live in. An entry is a word that the processor reads, and
//! sometimes writes, at any moment: there are verbs on words here, never references.

use crate::{Hpa, Level};

/// One 8-byte entry of a table: its address, always inside the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    table: Hpa,
    // INVARIANT: below 512, so that no implementation of `PhysMem` has to check it.
    index: u16,
}

impl Slot {
    /// Entry `index` of the 4-KiB table at `table`. The index wraps at 512.
    #[inline]
    pub const fn new(table: Hpa, index: usize) -> Self {
        Self {
            table,
            index: (index & (Level::ENTRIES - 1)) as u16,
        }
    }

    /// Host-physical address of the table.
    #[inline]
    pub const fn table(self) -> Hpa {
        self.table
    }

    /// Index in the table, 0 to 511.
    #[inline]
    pub const fn index(self) -> usize {
        self.index as usize
    }
}

/// Access to table words that the processor walks at the same time.
///
/// `load` has acquire and the two writing verbs have release semantics (or stronger), each
/// on the whole word at once: a walker that sees a link also sees the words stored
/// in the linked table before it.
pub trait PhysMem {
    /// Reads the word.
    fn load(&self, at: Slot) -> u64;

    /// Replaces the word.
    fn store(&self, at: Slot, raw: u64);

    /// Replaces the word if it still is `old`.
    ///
    /// # Errors
    /// The word found instead; nothing was written.
    fn compare_exchange(&self, at: Slot, old: u64, new: u64) -> Result<(), u64>;
}

/// Zeroed 4-KiB frames, set aside before the lock over the tables was taken, because
/// nothing may be allocated under it.
pub trait Frames {
    /// Hands over one frame; `None` when the reserve is used up.
    fn take(&mut self) -> Option<Hpa>;
}

/// The reserve of table frames ran out. Nothing that a guest can observe has changed: unlock,
/// refill and call again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoFrame;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_index_stays_in_the_table() {
        assert_eq!(Slot::new(Hpa::new(0x1000), 511).index(), 511);
        assert_eq!(Slot::new(Hpa::new(0x1000), 512).index(), 0);
        assert_eq!(Slot::new(Hpa::new(0x1000), usize::MAX).index(), 511);
    }
}
