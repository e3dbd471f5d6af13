// SPDX-License-Identifier: GPL-2.0

//! The four levels of a table tree. EPT and the SPPT cut a guest-physical address at
//! the same bits (SDM 3C 29.3.2 and 29.3.4.2).

use crate::{Gfn, PAGE_SHIFT};

/// A level of the tree, named after the table whose entries it describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// Entries cover 4 KiB: EPT PTE, SPP vector.
    Pt = 1,
    /// Entries cover 2 MiB: EPT PDE, SPPL2E.
    Pd = 2,
    /// Entries cover 1 GiB: EPT PDPTE, SPPL3E.
    Pdpt = 3,
    /// Entries cover 512 GiB: EPT PML4E, SPPL4E.
    Pml4 = 4,
}

impl Level {
    /// Entries in one table.
    pub const ENTRIES: usize = 512;
    const INDEX_BITS: u32 = 9;

    /// Lowest address bit that indexes a table of this level: 12, 21, 30 or 39.
    #[inline]
    pub const fn shift(self) -> u32 {
        PAGE_SHIFT + Self::INDEX_BITS * (self as u32 - 1)
    }

    /// 4-KiB pages that one entry covers.
    #[inline]
    pub const fn pages(self) -> u64 {
        1 << (self.shift() - PAGE_SHIFT)
    }

    /// Low bits of a frame number that a table of this level decodes: two frames that
    /// differ in no higher bit share the table.
    #[inline]
    pub(crate) const fn table_bits(self) -> u32 {
        Self::INDEX_BITS * self as u32
    }

    /// Index of the entry for `gfn` in a table of this level, 0 to 511.
    #[inline]
    pub const fn index(self, gfn: Gfn) -> usize {
        (gfn.get() >> (self.shift() - PAGE_SHIFT)) as usize & (Self::ENTRIES - 1)
    }

    /// The level that an entry of this one links to.
    #[inline]
    pub const fn below(self) -> Option<Level> {
        match self {
            Level::Pml4 => Some(Level::Pdpt),
            Level::Pdpt => Some(Level::Pd),
            Level::Pd => Some(Level::Pt),
            Level::Pt => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Level; 4] = [Level::Pt, Level::Pd, Level::Pdpt, Level::Pml4];

    #[test]
    fn shifts_and_pages() {
        assert_eq!(ALL.map(Level::shift), [12, 21, 30, 39]);
        assert_eq!(ALL.map(Level::pages), [1, 1 << 9, 1 << 18, 1 << 27]);
    }

    #[test]
    fn indices_take_the_address_apart() {
        let gfn = Gfn::new(0x123 << 27 | 0x0f1 << 18 | 0x1ab << 9 | 0x055);
        assert_eq!(ALL.map(|l| l.index(gfn)), [0x055, 0x1ab, 0x0f1, 0x123]);
        assert!(ALL.iter().all(|l| l.index(Gfn::new(u64::MAX)) == 511));
    }

    #[test]
    fn below_descends_to_pt() {
        assert_eq!(Level::Pml4.below(), Some(Level::Pdpt));
        assert_eq!(Level::Pdpt.below(), Some(Level::Pd));
        assert_eq!(Level::Pd.below(), Some(Level::Pt));
        assert_eq!(Level::Pt.below(), None);
    }
}
