// SPDX-License-Identifier: GPL-2.0

//! One walker for every four-level table: the format says what an entry is, the tree
//! says how entries hang together.
//!
//! ```text
//!  gfn bits   35..27         26..18         17..9           8..0
//!               |              |              |              |
//!  root --> [ Pml4 ] --+   [ Pdpt ] --+    [ Pd ] --+     [ Pt ]
//!             Table -> +-->  Table -> +--->  Table ->+---->  Leaf     4 KiB
//!             Hole           Leaf 1 GiB      Leaf 2 MiB      Hole
//!                            Hole            Hole
//!
//!  walk ends at the first Hole or Leaf; ensure turns Holes into Tables on its way down.
//! ```

use core::cell::Cell;
use core::marker::PhantomData;

use crate::{Frames, Gfn, Hpa, Level, PhysMem, Slot};

/// What an entry is to the walker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: the walk ends without a translation.
    Hole,
    /// A link to the next table.
    Table(Hpa),
    /// The end of a successful walk.
    Leaf,
}

/// The entry format of one tree.
pub trait Format {
    /// What each word of a new table of level [`Level::Pt`] holds.
    const NEW_LEAF: u64;

    /// What the word `raw`, found at `level`, is. Never [`Kind::Table`] at [`Level::Pt`].
    fn kind(raw: u64, level: Level) -> Kind;

    /// The word that links to `table`.
    fn link(table: Hpa) -> u64;
}

/// Where a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Level of the entry.
    pub level: Level,
    /// Place of the entry.
    pub slot: Slot,
    /// The entry as it was read.
    pub raw: u64,
    /// [`Kind::Hole`] or [`Kind::Leaf`]; a table only where the walk was to end at its link.
    pub kind: Kind,
}

/// Why [`Tree::ensure`] did not get down to its level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// The reserve ran out of frames; the tables made so far stay linked, and empty.
    NoFrame,
    /// A larger leaf, of this level, is in the way.
    Leaf(Level),
    /// The frame number is 2^36 or more, out of reach of four levels.
    Beyond,
}

/// A `Pt` table that holds what a new one holds: no translation, and no word that differs from
/// [`Format::NEW_LEAF`]. Nothing is lost where it is unlinked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idle {
    /// The entry of level [`Level::Pd`] that links to the table.
    pub link: Slot,
    /// The table.
    pub table: Hpa,
}

/// The `Pt` table holds something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InUse;

/// A four-level tree of tables in format `F`. A tree does not own its frames: at the end
/// of its life the owner visits them with [`Tree::for_each_table`].
#[derive(Debug)]
pub struct Tree<F> {
    root: Hpa,
    /// The `Pt` table in which the last walk that came so far has ended.
    last: Cell<Option<Last>>,
    format: PhantomData<F>,
}

/// A `Pt` table, and the number of the 2-MiB region that it covers.
#[derive(Clone, Copy, Debug)]
struct Last {
    region: u64,
    table: Hpa,
}

impl<F: Format> Tree<F> {
    /// A tree whose root table is the zeroed 4-KiB frame `root`.
    #[inline]
    pub const fn new(root: Hpa) -> Self {
        Self {
            root,
            last: Cell::new(None),
            format: PhantomData,
        }
    }

    /// Host-physical address of the root table.
    #[inline]
    pub const fn root(&self) -> Hpa {
        self.root
    }

    /// Follows `gfn` to the entry where the processor's walk would end. A frame that four levels
    /// cannot reach is a hole in the root. Where the last walk has ended in a `Pt` table that
    /// covers the frame too, the entry there is all that is read.
    #[inline]
    pub fn walk<M: PhysMem>(&self, mem: &M, gfn: Gfn) -> Found {
        let region = gfn.get() >> Level::Pt.table_bits();
        match self.last.get() {
            Some(last) if last.region == region => {
                let slot = Slot::new(last.table, Level::Pt.index(gfn));
                let raw = mem.load(slot);
                Found {
                    level: Level::Pt,
                    slot,
                    raw,
                    kind: F::kind(raw, Level::Pt),
                }
            }
            _ => self.walk_from_root(mem, gfn, region),
        }
    }

    // Not inlined: few walks come here, and it is a loop.
    #[inline(never)]
    fn walk_from_root<M: PhysMem>(&self, mem: &M, gfn: Gfn, region: u64) -> Found {
        let found = Self::descend(mem, (self.root, Level::Pml4), Level::Pt, gfn);
        if found.level == Level::Pt {
            let table = found.slot.table();
            self.last.set(Some(Last { region, table }));
        }
        found
    }

    /// A `Pt` table is no longer linked, so no walk may start there.
    #[inline]
    pub fn forget(&self) {
        self.last.set(None);
    }

    /// Walks for many frames, cheapest when they ascend. See [`Cursor`].
    #[inline]
    pub const fn cursor<'a, M: PhysMem>(&'a self, mem: &'a M) -> Cursor<'a, F, M> {
        Cursor {
            tree: self,
            mem,
            table: self.root,
            level: Level::Pml4,
            near: Gfn::new(0),
        }
    }

    /// The part of a walk from one table on, down to an entry of level `target`.
    #[inline]
    fn descend<M: PhysMem>(mem: &M, from: (Hpa, Level), target: Level, gfn: Gfn) -> Found {
        let (mut table, mut level) = from;
        loop {
            let slot = Slot::new(table, level.index(gfn));
            let raw = if gfn.translatable() {
                mem.load(slot)
            } else {
                0
            };
            let kind = F::kind(raw, level);
            match (kind, level.below()) {
                (Kind::Table(next), Some(below)) if level > target => {
                    (table, level) = (next, below);
                }
                (kind, _) => {
                    return Found {
                        level,
                        slot,
                        raw,
                        kind,
                    }
                }
            }
        }
    }

    /// The `Pt` table of the 2-MiB region around `gfn`; `None` where the walk ends above it.
    ///
    /// # Errors
    /// [`InUse`]: the table is more than a new one.
    pub fn idle<M: PhysMem>(&self, mem: &M, gfn: Gfn) -> Result<Option<Idle>, InUse> {
        let found = Self::descend(mem, (self.root, Level::Pml4), Level::Pd, gfn);
        let Kind::Table(table) = found.kind else {
            return Ok(None);
        };
        // Neighbours first: a guest that fills a region is likely to have touched them.
        let near = Level::Pt.index(gfn);
        let new = |i| mem.load(Slot::new(table, near ^ i)) == F::NEW_LEAF;
        if !(0..Level::ENTRIES).all(new) {
            return Err(InUse);
        }
        let link = found.slot;
        Ok(Some(Idle { link, table }))
    }

    /// Makes the tables on the way to the entry of `target` level for `gfn` and returns
    /// that entry's place. What it makes holds no translation.
    ///
    /// # Errors
    /// See [`Blocked`]. Calling again continues where the last call stopped.
    pub fn ensure<M: PhysMem>(
        &self,
        mem: &M,
        frames: &mut impl Frames,
        gfn: Gfn,
        target: Level,
    ) -> Result<Slot, Blocked> {
        if !gfn.translatable() {
            return Err(Blocked::Beyond);
        }
        let mut level = Level::Pml4;
        let mut table = self.root;
        loop {
            let slot = Slot::new(table, level.index(gfn));
            let below = match level.below() {
                Some(below) if level > target => below,
                _ => return Ok(slot),
            };
            table = match F::kind(mem.load(slot), level) {
                Kind::Table(next) => next,
                Kind::Leaf => return Err(Blocked::Leaf(level)),
                Kind::Hole => Self::link_new(mem, frames, slot, below)?,
            };
            level = below;
        }
    }

    fn link_new<M: PhysMem>(
        mem: &M,
        frames: &mut impl Frames,
        slot: Slot,
        below: Level,
    ) -> Result<Hpa, Blocked> {
        let table = frames.take().ok_or(Blocked::NoFrame)?;
        if below == Level::Pt && F::NEW_LEAF != 0 {
            // The processor may walk into the table as soon as it is linked, so the
            // words have to be there before.
            for index in 0..Level::ENTRIES {
                mem.store(Slot::new(table, index), F::NEW_LEAF);
            }
        }
        mem.store(slot, F::link(table));
        Ok(table)
    }

    /// Calls `visit` for each leaf that covers a frame of `[start, start + pages)`, in ascending
    /// order, with the first frame the leaf covers (below `start` for a large leaf that begins
    /// there), its level, place and value. Time grows with the tables present, not with
    /// `pages`. `visit` may change the entry it is shown.
    pub fn for_each_leaf<M: PhysMem>(
        &self,
        mem: &M,
        start: Gfn,
        pages: u64,
        mut visit: impl FnMut(Gfn, Level, Slot, u64),
    ) {
        let end = start.get().saturating_add(pages).min(Gfn::END.get());
        let at = Span {
            table: self.root,
            level: Level::Pml4,
            base: 0,
        };
        if start.get() < end {
            Self::leaves(mem, at, start.get(), end, &mut visit);
        }
    }

    /// `start..end` is not empty and lies where four levels reach; recursion is four deep.
    fn leaves<M: PhysMem>(
        mem: &M,
        at: Span,
        start: u64,
        end: u64,
        visit: &mut impl FnMut(Gfn, Level, Slot, u64),
    ) {
        let pages = at.level.pages();
        let first = start.saturating_sub(at.base) / pages;
        let last = ((end - 1).saturating_sub(at.base) / pages).min(Level::ENTRIES as u64 - 1);
        for index in first..=last {
            let slot = Slot::new(at.table, index as usize);
            let base = at.base + index * pages;
            let raw = mem.load(slot);
            match (F::kind(raw, at.level), at.level.below()) {
                (Kind::Table(table), Some(level)) => {
                    let at = Span { table, level, base };
                    Self::leaves(mem, at, start, end, visit);
                }
                (Kind::Leaf, _) => visit(Gfn::new(base), at.level, slot, raw),
                _ => {}
            }
        }
    }

    /// Calls `visit` for each table frame, the root included, every child before its parent, so
    /// that `visit` may free what it is shown. Only for a tree that no processor walks.
    #[inline]
    pub fn for_each_table<M: PhysMem>(&self, mem: &M, mut visit: impl FnMut(Hpa)) {
        Self::tables(mem, self.root, Level::Pml4, &mut visit);
    }

    #[inline]
    fn tables<M: PhysMem>(mem: &M, table: Hpa, level: Level, visit: &mut impl FnMut(Hpa)) {
        if let Some(below) = level.below() {
            for index in 0..Level::ENTRIES {
                let raw = mem.load(Slot::new(table, index));
                if let Kind::Table(child) = F::kind(raw, level) {
                    Self::tables(mem, child, below, visit);
                }
            }
        }
        visit(table);
    }
}

/// Walks one tree for one frame after another, and starts each walk in the table where the last
/// one ended, if that table covers the frame too: one load a page within a `Pt` table.
///
/// It reads each entry anew, so entries may change between two walks, tables may be linked, and
/// leaves may come and go. No table may be unlinked while a cursor lives.
#[derive(Debug)]
pub struct Cursor<'a, F, M> {
    tree: &'a Tree<F>,
    mem: &'a M,
    table: Hpa,
    level: Level,
    /// A frame that `table` covers.
    near: Gfn,
}

impl<F: Format, M: PhysMem> Cursor<'_, F, M> {
    /// [`Tree::walk`] for `gfn`.
    #[inline]
    pub fn walk(&mut self, gfn: Gfn) -> Found {
        let beyond = (gfn.get() ^ self.near.get()) >> self.level.table_bits();
        if beyond != 0 {
            (self.table, self.level) = (self.tree.root, Level::Pml4);
        }
        let found = Tree::<F>::descend(self.mem, (self.table, self.level), Level::Pt, gfn);
        (self.table, self.level, self.near) = (found.slot.table(), found.level, gfn);
        found
    }
}

/// A table within the tree and the first frame that it covers.
#[derive(Clone, Copy)]
struct Span {
    table: Hpa,
    level: Level,
    base: u64,
}

#[cfg(test)]
#[path = "tests/tree.rs"]
mod tests;
