// SPDX-License-Identifier: GPL-2.0

//! The EPT entry format (SDM 3C 29.3.2, tables 29-1 to 29-7) and the EPT pointer.

use bitflags::bitflags;
use static_assertions::const_assert;
use static_assertions::const_assert_eq;

use crate::{Format, Hpa, Kind, Level, PAGE_SIZE};

bitflags! {
    /// The bits of an EPT entry that have a name here; all others are kept as they are.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Bits: u64 {
        /// Data reads allowed.
        const READ = 1 << 0;
        /// Data writes allowed.
        const WRITE = 1 << 1;
        /// Instruction fetches allowed.
        const EXEC = 1 << 2;
        /// Memory type write-back (6) in bits 5:3 of a leaf.
        const WRITE_BACK = 6 << 3;
        /// Leaf: the guest's PAT is ignored.
        const IPAT = 1 << 6;
        /// The entry of a PDPT or PD is a leaf.
        const LARGE = 1 << 7;
        /// Set by the processor on use, if the EPT pointer enables it.
        const ACCESSED = 1 << 8;
        /// Set by the processor on a write through a leaf, if the EPT pointer enables it.
        const DIRTY = 1 << 9;
        /// 4-KiB leaf: a write that `WRITE` refuses is put to the SPPT (SDM 3C 29.3.4.1).
        const SPP = 1 << 61;
        /// An EPT violation here is never turned into a virtualization exception.
        const SUPPRESS_VE = 1 << 63;

        const _ = !0;
    }
}

/// Bits 51:12, the host-physical address of a table or of a 4-KiB page.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const RWX: Bits = Bits::READ.union(Bits::WRITE).union(Bits::EXEC);
/// What each leaf has. IPAT: guest memory is the host's write-back memory, and a guest that
/// maps it uncached would otherwise alias the host's view.
const LEAF: Bits = Bits::READ
    .union(Bits::EXEC)
    .union(Bits::WRITE_BACK)
    .union(Bits::IPAT);

// No named bit lies in the address, and no two share a position: 3 + 2 + 6 of them.
const _: () = {
    let named = LEAF
        .union(RWX)
        .union(Bits::LARGE)
        .union(Bits::ACCESSED)
        .union(Bits::DIRTY)
        .union(Bits::SPP)
        .union(Bits::SUPPRESS_VE)
        .bits();
    assert!(named & ADDRESS == 0);
    assert!(named.count_ones() == 11);
};
const_assert_eq!(ADDRESS & (PAGE_SIZE - 1), 0);
const_assert!(LEAF.bits() & Bits::LARGE.bits() == 0);

/// The EPT entry format.
#[derive(Clone, Copy, Debug)]
pub enum Ept {}

impl Format for Ept {
    const NEW_LEAF: u64 = 0;

    #[inline]
    fn kind(raw: u64, level: Level) -> Kind {
        let bits = Bits::from_bits_retain(raw);
        if !bits.intersects(RWX) {
            Kind::Hole
        } else if level == Level::Pt || bits.contains(Bits::LARGE) {
            Kind::Leaf
        } else {
            Kind::Table(Hpa::new(raw & ADDRESS))
        }
    }

    /// Upper levels allow everything: the leaf alone restricts.
    #[inline]
    fn link(table: Hpa) -> u64 {
        table.get() & ADDRESS | RWX.bits()
    }
}

/// A present leaf: always readable and executable, write-back.
///
/// ```text
///  writable  subpage   W  61   a write is
///  true      false     1   0   allowed
///  false     true      0   1   put to the page's SPP vector (4-KiB leaves only)
///  false     false     0   0   an EPT violation
///  true      true      -   -   cannot be encoded
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Host-physical address of the first byte, aligned to the size of `level`.
    pub hpa: Hpa,
    /// Level of the table that holds the entry.
    pub level: Level,
    /// Writes are allowed everywhere in the page.
    pub writable: bool,
    /// Writes are put to the SPP vector.
    pub subpage: bool,
}

impl Leaf {
    /// The entry, or `None` where the processor has none: `subpage` on a large or a
    /// writable leaf, a leaf in the PML4, an address that is misaligned or needs
    /// more than 52 bits.
    #[inline]
    pub fn raw(self) -> Option<u64> {
        let offset = (PAGE_SIZE * self.level.pages()) - 1;
        let fits = self.hpa.get() & !(ADDRESS & !offset) == 0;
        let armable = self.level == Level::Pt && !self.writable;
        if !fits || self.level == Level::Pml4 || (self.subpage && !armable) {
            return None;
        }
        let mut bits = LEAF;
        bits.set(Bits::LARGE, self.level != Level::Pt);
        bits.set(Bits::WRITE, self.writable);
        bits.set(Bits::SPP, self.subpage);
        Some(bits.bits() | self.hpa.get())
    }

    /// Reads the entry `raw` of a table of `level`; `None` if it is no leaf. Bit 61 counts
    /// only where the processor looks at it.
    #[inline]
    pub fn parse(raw: u64, level: Level) -> Option<Leaf> {
        if level == Level::Pml4 || Ept::kind(raw, level) != Kind::Leaf {
            return None;
        }
        let bits = Bits::from_bits_retain(raw);
        let writable = bits.contains(Bits::WRITE);
        let offset = (PAGE_SIZE * level.pages()) - 1;
        Some(Leaf {
            hpa: Hpa::new(raw & ADDRESS & !offset),
            level,
            writable,
            subpage: level == Level::Pt && !writable && bits.contains(Bits::SPP),
        })
    }
}

/// The EPT pointer for a four-level tree at `root`, walked with write-back memory type (SDM 3C
/// 25.6.11); `accessed_dirty` makes the processor maintain [`Bits::ACCESSED`] and
/// [`Bits::DIRTY`].
#[inline]
pub const fn eptp(root: Hpa, accessed_dirty: bool) -> u64 {
    const WRITE_BACK: u64 = 6;
    const FOUR_LEVELS: u64 = (4 - 1) << 3;
    const ACCESSED_DIRTY: u64 = 1 << 6;
    let flags = if accessed_dirty { ACCESSED_DIRTY } else { 0 };
    root.get() & ADDRESS | WRITE_BACK | FOUR_LEVELS | flags
}

#[cfg(test)]
#[path = "tests/entry.rs"]
mod tests;
