// SPDX-License-Identifier: GPL-2.0

//! A view of the address space for one instruction of one virtual CPU, which the processor
//! then executes by itself.
//!
//! ```text
//!            the VM's EPT              the view: tables on the way to its pages are copies
//!
//!   code     R X  W=0 or 1             R X  W=0   a copy of the page, which nobody changes
//!   open     R X  W=0  61=1  "armed"   R    W=1   all that is to be written is allowed
//!   others   R X  ...                  R    ...   as they are, but nothing is executed
//! ```
//!
//! Opening a page opens all of its sub-pages, so only the instruction that was looked at may
//! be executed: other virtual CPUs can change its bytes, and the guest's page tables, at any
//! time. So it is fetched from a copy, and from nowhere else.

use ept::{Bits, Ept, Format, Gfn, Hpa, Kind, Leaf, Level, PhysMem, Slot, PAGE_SIZE};

use crate::Space;

/// Frames that a view takes at most: the root, and three tables for each of four pages.
pub const VIEW_FRAMES: usize = 13;

/// What a page is in a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Code, executed from the copy at this address.
    Code(Hpa),
    /// May be written everywhere.
    Open,
}

/// A page cannot be had: it is not mapped, may not be written, or there are too many of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsuitable;

/// The frames of a view under construction.
struct Tables<'a> {
    frames: &'a [Hpa; VIEW_FRAMES],
    used: usize,
}

impl Tables<'_> {
    fn take(&mut self) -> Result<Hpa, Unsuitable> {
        let frame = self.frames.get(self.used).copied().ok_or(Unsuitable)?;
        self.used = self.used.saturating_add(1);
        Ok(frame)
    }

    fn owns(&self, table: Hpa) -> bool {
        self.frames.iter().take(self.used).any(|f| *f == table)
    }
}

impl Space {
    /// Builds a view from `frames`, which nobody uses and whose contents do not matter, and
    /// returns its root. `pages` differ from each other.
    ///
    /// The view is right as long as no table of the address space changes: it must not be used
    /// once a `Stale` was spent after this call.
    ///
    /// # Errors
    /// [`Unsuitable`].
    pub fn view<M: PhysMem>(
        &self,
        mem: &M,
        frames: &[Hpa; VIEW_FRAMES],
        pages: &[(Gfn, Use)],
    ) -> Result<Hpa, Unsuitable> {
        let mut tables = Tables { frames, used: 0 };
        let root = tables.take()?;
        copy(mem, self.ept_root(), root);
        for (gfn, usage) in pages {
            let slot = private_path(mem, &mut tables, root, *gfn)?;
            let leaf = Leaf::parse(mem.load(slot), Level::Pt).ok_or(Unsuitable)?;
            mem.store(slot, private_leaf(leaf, *usage)?);
        }
        Ok(root)
    }
}

/// Makes the tables down to the entry of a page the view's own.
fn private_path<M: PhysMem>(
    mem: &M,
    tables: &mut Tables<'_>,
    root: Hpa,
    gfn: Gfn,
) -> Result<Slot, Unsuitable> {
    let mut table = root;
    let mut level = Level::Pml4;
    while let Some(below) = level.below() {
        let slot = Slot::new(table, level.index(gfn));
        let raw = mem.load(slot);
        table = match Ept::kind(raw, level) {
            Kind::Table(next) if tables.owns(next) => next,
            Kind::Table(next) => {
                let own = tables.take()?;
                copy(mem, next, own);
                own
            }
            Kind::Leaf => {
                let own = tables.take()?;
                let leaf = Leaf::parse(raw, level).ok_or(Unsuitable)?;
                split(mem, leaf, below, own)?;
                own
            }
            Kind::Hole => return Err(Unsuitable),
        };
        // Code is fetched through this link, so it executes again.
        mem.store(slot, Ept::link(table));
        level = below;
    }
    Ok(Slot::new(table, level.index(gfn)))
}

/// Copies a table without the right to execute.
fn copy<M: PhysMem>(mem: &M, from: Hpa, to: Hpa) {
    for index in 0..Level::ENTRIES {
        let raw = mem.load(Slot::new(from, index));
        mem.store(Slot::new(to, index), raw & !Bits::EXEC.bits());
    }
}

/// Fills a table of level `below` with what a larger leaf maps, without the right to execute.
fn split<M: PhysMem>(mem: &M, leaf: Leaf, below: Level, to: Hpa) -> Result<(), Unsuitable> {
    let bytes = below.pages().wrapping_mul(PAGE_SIZE);
    for index in 0..Level::ENTRIES {
        let offset = bytes.wrapping_mul(index as u64);
        let part = Leaf {
            hpa: Hpa::new(leaf.hpa.get().wrapping_add(offset)),
            level: below,
            ..leaf
        };
        let raw = part.raw().ok_or(Unsuitable)?;
        mem.store(Slot::new(to, index), raw & !Bits::EXEC.bits());
    }
    Ok(())
}

fn private_leaf(leaf: Leaf, usage: Use) -> Result<u64, Unsuitable> {
    let (hpa, writable) = match usage {
        Use::Code(copy) => (copy, false),
        // Bit 61 says that the host page may be written.
        Use::Open if leaf.writable || leaf.subpage => (leaf.hpa, true),
        Use::Open => return Err(Unsuitable),
    };
    let private = Leaf {
        hpa,
        level: Level::Pt,
        writable,
        subpage: false,
    };
    let raw = private.raw().ok_or(Unsuitable)?;
    Ok(match usage {
        Use::Code(_) => raw,
        Use::Open => raw & !Bits::EXEC.bits(),
    })
}

#[cfg(test)]
#[path = "tests/view.rs"]
mod tests;
