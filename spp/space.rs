// SPDX-License-Identifier: GPL-2.0

//! One VM's guest-physical address space: the EPT that maps it and the SPPT that restricts writes
//! to it. The SPPT is the store of the maps; there is no second copy to fall out of step.
//!
//! ```text
//!  map of the page   host page      EPT leaf            SPP vector
//!  ALL               writable       R X  W=1  61=0      all writable, or no table
//!  less than ALL     writable       R X  W=0  61=1      the map          ("armed")
//!  any               read-only      R X  W=0  61=0      the map
//!  any               not mapped     hole                the map
//!
//!  A large leaf covers only pages whose map is ALL.
//! ```
//!
//! Each method takes the tables from one such state to another by single words, in
//! an order in which a processor that walks in between sees the old or the new
//! permissions of each byte, and never an armed leaf without a vector. Callers hold
//! the VM's lock over the tables.

use ept::{
    Bits, Blocked, Cursor, Ept, Found, Frames, Gfn, Hpa, InUse, Kind, Leaf, Level, NoFrame,
    PhysMem, Slot, Tree, PAGE_SIZE,
};

use crate::unlinked::Clearing;
use crate::{Mask, Sppt, Stale, Unlinked};

/// Frames that one call of [`Space::map`] takes at most: a table for each level below the root.
pub const MAX_FRAMES_PER_MAP: usize = 3;

/// Frames that [`Space::reserve_masks`] takes at most for `pages` consecutive pages, wherever
/// they start.
#[inline]
pub const fn frames_for_masks(pages: u64) -> u64 {
    regions(pages, Level::Pd) + regions(pages, Level::Pdpt) + regions(pages, Level::Pml4)
}

/// Naturally aligned regions of one entry of `level` that a run of `pages` can touch.
const fn regions(pages: u64, level: Level) -> u64 {
    match pages.checked_sub(1) {
        None => 0,
        Some(rest) => rest.div_ceil(level.pages()) + 1,
    }
}

/// The result of [`Space::map`].
#[derive(Debug)]
#[must_use]
pub struct Mapped {
    /// The leaf that covers the frame now. `None`: nothing does. Either a larger leaf was in
    /// the way and has been removed, and the guest's next fault finds the way clear;
    /// or the frame or the host address is beyond what an entry can express.
    pub leaf: Option<Leaf>,
    /// Whether an entry was written. A fault that changes nothing is spurious: another CPU
    /// was faster.
    pub changed: bool,
    /// Set when a translation that was present has changed, or a table was unlinked.
    pub stale: Option<Stale>,
    /// The tables that a 2-MiB leaf has replaced.
    pub unlinked: Unlinked,
}

/// The guest-physical address space of one VM.
#[derive(Debug)]
pub struct Space {
    ept: Tree<Ept>,
    sppt: Option<Tree<Sppt>>,
}

impl Space {
    /// An empty address space without sub-page permissions, on the zeroed frame `ept_root`.
    #[inline]
    pub const fn new(ept_root: Hpa) -> Self {
        Self {
            ept: Tree::new(ept_root),
            sppt: None,
        }
    }

    /// Adds sub-page permissions, all of them writable, on the zeroed frame `sppt_root`. Once
    /// they are there the call changes nothing and hands the frame back.
    #[inline]
    pub fn enable_spp(&mut self, sppt_root: Hpa) -> Option<Hpa> {
        if self.sppt.is_some() {
            return Some(sppt_root);
        }
        self.sppt = Some(Tree::new(sppt_root));
        None
    }

    /// Whether the address space has sub-page permissions.
    #[inline]
    pub const fn spp_enabled(&self) -> bool {
        self.sppt.is_some()
    }

    /// The root of the EPT, for [`ept::eptp`].
    #[inline]
    pub const fn ept_root(&self) -> Hpa {
        self.ept.root()
    }

    /// The root of the SPPT, for the VMCS field SPPTP (SDM 3C 25.6.22).
    #[inline]
    pub fn sppt_root(&self) -> Option<Hpa> {
        self.sppt.as_ref().map(Tree::root)
    }

    /// The map of one page; [`Mask::ALL`] where none was set.
    #[inline]
    pub fn mask<M: PhysMem>(&self, mem: &M, gfn: Gfn) -> Mask {
        self.restriction(mem, gfn).1
    }

    /// Shows `visit` the map of page `start + i`, for each `i` below `pages` in ascending order,
    /// with one walk for each table of the range. [`Mask::ALL`] as for [`Space::mask`].
    #[inline]
    pub fn masks<M: PhysMem>(
        &self,
        mem: &M,
        start: Gfn,
        pages: u64,
        mut visit: impl FnMut(u64, Mask),
    ) {
        let mut cursor = self.sppt.as_ref().map(|sppt| sppt.cursor(mem));
        for i in 0..pages {
            let found = match (&mut cursor, start.checked_add(i)) {
                (Some(cursor), Some(gfn)) => Some(cursor.walk(gfn)),
                _ => None,
            };
            visit(i, found.map_or(Mask::ALL, |found| in_force(&found)));
        }
    }

    /// The largest leaf that may cover the frame: none may reach across a 2-MiB region that has
    /// a vector table, because a page in it may be protected. Where nothing is
    /// protected or mapped any more, [`Space::map`] removes the tables for a 2-MiB leaf.
    #[inline]
    pub fn max_level<M: PhysMem>(&self, mem: &M, gfn: Gfn) -> Level {
        match self.restriction(mem, gfn).0 {
            Level::Pt if self.clearing(mem, gfn).is_ok() => Level::Pd,
            level => level,
        }
    }

    /// The leaf that covers the frame.
    #[inline]
    pub fn leaf<M: PhysMem>(&self, mem: &M, gfn: Gfn) -> Option<Leaf> {
        let found = self.ept.walk(mem, gfn);
        Leaf::parse(found.raw, found.level)
    }

    /// The largest leaf and the map that the SPPT leaves to a frame, from one walk.
    #[inline]
    fn restriction<M: PhysMem>(&self, mem: &M, gfn: Gfn) -> (Level, Mask) {
        let Some(sppt) = &self.sppt else {
            return (Level::Pdpt, Mask::ALL);
        };
        let found = sppt.walk(mem, gfn);
        (found.level.min(Level::Pdpt), in_force(&found))
    }

    /// Maps the naturally aligned region of `level` around `gfn` to the host memory from `hpa` on,
    /// writable as far as `writable` and the map of the page allow. Where `level` is not possible
    /// (above [`Space::max_level`], or smaller leaves or tables are in place), only the
    /// 4-KiB page `gfn` is mapped. A 2-MiB leaf replaces tables that hold nothing any more.
    ///
    /// # Errors
    /// [`NoFrame`]: no translation has changed. At most [`MAX_FRAMES_PER_MAP`] frames are needed.
    pub fn map<M: PhysMem>(
        &self,
        mem: &M,
        frames: &mut impl Frames,
        gfn: Gfn,
        level: Level,
        hpa: Hpa,
        writable: bool,
    ) -> Result<Mapped, NoFrame> {
        let present = self.ept.walk(mem, gfn);
        let asked = Leaf {
            hpa,
            level,
            writable,
            subpage: false,
        };
        let (leaf, clearing) = self.fit(mem, gfn, asked, present.level);
        match Leaf::parse(present.raw, present.level) {
            Some(old) if same_access(&old, &leaf, gfn) => Ok(Mapped::unchanged(Some(old))),
            _ => self.install(mem, frames, gfn, leaf, (present, clearing)),
        }
    }

    /// `asked` as far as the map of `gfn` and the tables present, down to level `down_to`, allow,
    /// and what has to go for it.
    fn fit<M: PhysMem>(&self, mem: &M, gfn: Gfn, asked: Leaf, down_to: Level) -> (Leaf, Clearing) {
        let (max_level, map) = self.restriction(mem, gfn);
        let open = map == Mask::ALL;
        let clearing = match asked.level {
            level if level <= max_level.min(down_to) => Ok(Clearing::default()),
            Level::Pd => self.clearing(mem, gfn),
            _ => Err(InUse),
        };
        let (level, hpa) = match clearing {
            Ok(_) => (asked.level, asked.hpa),
            Err(InUse) => (Level::Pt, translate(&asked, gfn)),
        };
        let leaf = Leaf {
            hpa,
            level,
            writable: asked.writable && open,
            subpage: asked.writable && !open,
        };
        (leaf, clearing.unwrap_or_default())
    }

    /// The tables that a 2-MiB leaf around `gfn` may replace, as nothing is in them.
    fn clearing<M: PhysMem>(&self, mem: &M, gfn: Gfn) -> Result<Clearing, InUse> {
        Ok(Clearing {
            leaves: self.ept.idle(mem, gfn)?,
            vectors: match &self.sppt {
                Some(sppt) => sppt.idle(mem, gfn)?,
                None => None,
            },
        })
    }

    fn install<M: PhysMem>(
        &self,
        mem: &M,
        frames: &mut impl Frames,
        gfn: Gfn,
        leaf: Leaf,
        (present, clearing): (Found, Clearing),
    ) -> Result<Mapped, NoFrame> {
        let Some(raw) = leaf.raw() else {
            return Ok(Mapped::unchanged(None));
        };
        match self.ept.ensure(mem, frames, gfn, leaf.level) {
            Ok(slot) => {
                // No leaf of the region is armed, so no processor needs the vectors. The
                // link to the EPT's table goes with the store of the leaf.
                if let Some(vectors) = clearing.vectors {
                    mem.store(vectors.link, 0);
                    self.sppt.as_ref().inspect(|sppt| sppt.forget());
                }
                if clearing.leaves.is_some() {
                    self.ept.forget();
                }
                mem.store(slot, raw);
                Ok(Mapped::changed(Some(leaf), present.kind, clearing.into()))
            }
            // Splitting the large leaf would take frames for pages that nobody asked for.
            Err(Blocked::Leaf(_)) => {
                mem.store(present.slot, 0);
                Ok(Mapped::changed(None, present.kind, Unlinked::default()))
            }
            Err(Blocked::NoFrame) => Err(NoFrame),
            Err(Blocked::Beyond) => Ok(Mapped::unchanged(None)),
        }
    }

    /// Removes the leaves that cover any part of the range; a large leaf goes as a whole.
    #[inline]
    pub fn zap<M: PhysMem>(&self, mem: &M, start: Gfn, pages: u64) -> Option<Stale> {
        let mut stale = None;
        self.ept.for_each_leaf(mem, start, pages, |_, _, slot, _| {
            mem.store(slot, 0);
            stale = Some(Stale::new());
        });
        stale
    }

    /// Makes the leaves that cover any part of the range read-only, armed ones included: their
    /// host pages are no longer writable.
    #[inline]
    pub fn write_protect<M: PhysMem>(&self, mem: &M, start: Gfn, pages: u64) -> Option<Stale> {
        let mut stale = None;
        self.ept
            .for_each_leaf(mem, start, pages, |_, _, slot, raw| {
                let grants = Bits::WRITE | Bits::SPP;
                if Bits::from_bits_retain(raw).intersects(grants) {
                    edit(mem, slot, raw, |bits| bits - grants);
                    stale = Some(Stale::new());
                }
            });
        stale
    }

    /// First phase of setting maps: makes the SPPT tables that the range needs. No permission
    /// changes, as new vectors say "all writable". Without SPP there is nothing to make.
    ///
    /// # Errors
    /// [`NoFrame`]: call again with more frames; [`frames_for_masks`] bounds how many.
    pub fn reserve_masks<M: PhysMem>(
        &self,
        mem: &M,
        frames: &mut impl Frames,
        start: Gfn,
        pages: u64,
    ) -> Result<(), NoFrame> {
        let Some(sppt) = &self.sppt else {
            return Ok(());
        };
        let end = start.get().saturating_add(pages).min(Gfn::END.get());
        let mut gfn = start.get();
        while gfn < end {
            match sppt.ensure(mem, frames, Gfn::new(gfn), Level::Pt) {
                Err(Blocked::NoFrame) => return Err(NoFrame),
                // An SPPT has no large leaves, and `end` is within its reach.
                Ok(_) | Err(Blocked::Leaf(_) | Blocked::Beyond) => {}
            }
            gfn = Gfn::new(gfn).align_down(Level::Pd).get() + Level::Pd.pages();
        }
        Ok(())
    }

    /// Second phase: gives page `start + i` the map `map(i)`, for each `i` below `pages`. It
    /// cannot fail on pages for which [`Space::reserve_masks`] has succeeded since the lock was
    /// taken, and leaves any other page as it is.
    ///
    /// A `Stale` comes back also where a map was tightened and no leaf is present: the leaf may
    /// have gone a moment ago, with its invalidation still on the way.
    pub fn commit_masks<M: PhysMem>(
        &self,
        mem: &M,
        start: Gfn,
        pages: u64,
        mut map: impl FnMut(u64) -> Mask,
    ) -> Option<Stale> {
        let mut vectors = self.sppt.as_ref()?.cursor(mem);
        let mut leaves = self.ept.cursor(mem);
        let mut stale = None;
        for i in 0..pages {
            let Some(gfn) = start.checked_add(i).filter(|gfn| gfn.translatable()) else {
                break;
            };
            let found = vectors.walk(gfn);
            if found.kind == Kind::Leaf {
                let changed = commit(mem, &found, &mut leaves, gfn, map(i));
                stale = Stale::merge(stale, changed);
            }
        }
        stale
    }

    /// Calls `visit` for each table frame of both trees, roots included, every child before its
    /// parent. Only for an address space that no processor walks any more.
    #[inline]
    pub fn for_each_table<M: PhysMem>(&self, mem: &M, mut visit: impl FnMut(Hpa)) {
        self.ept.for_each_table(mem, &mut visit);
        if let Some(sppt) = &self.sppt {
            sppt.for_each_table(mem, &mut visit);
        }
    }
}

impl Mapped {
    #[inline]
    fn unchanged(leaf: Option<Leaf>) -> Self {
        Self {
            leaf,
            changed: false,
            stale: None,
            unlinked: Unlinked::default(),
        }
    }

    #[inline]
    fn changed(leaf: Option<Leaf>, was: Kind, unlinked: Unlinked) -> Self {
        let stale = was == Kind::Leaf || !unlinked.is_empty();
        Self {
            leaf,
            changed: true,
            stale: stale.then(Stale::new),
            unlinked,
        }
    }
}

/// The map that a walk of the SPPT found. A vector that the processor would refuse denies
/// everything.
#[inline]
fn in_force(found: &Found) -> Mask {
    match found.kind {
        Kind::Leaf => Mask::from_vector(found.raw).unwrap_or(Mask::NONE),
        _ => Mask::ALL,
    }
}

/// The vector first, the leaf second: an armed leaf must find its vector, and while the leaf
/// still says W=1 no processor looks at the vector.
#[inline]
fn commit<M: PhysMem>(
    mem: &M,
    vector: &Found,
    leaves: &mut Cursor<'_, Ept, M>,
    gfn: Gfn,
    map: Mask,
) -> Option<Stale> {
    let (old, new) = (vector.raw, map.vector());
    if old != new {
        mem.store(vector.slot, new);
    }
    let tightened = old & !new != 0;
    let (armed, changed) = rearm(mem, &leaves.walk(gfn), map == Mask::ALL);
    let vector_in_use = armed && old != new;
    (changed || tightened || vector_in_use).then(Stale::new)
}

/// Makes the leaf agree with a map that is `open` (ALL) or not. Returns whether it was armed
/// before and whether it was changed. Only an armed leaf becomes writable: bit 61 is the
/// proof that the host page is.
#[inline]
fn rearm<M: PhysMem>(mem: &M, found: &Found, open: bool) -> (bool, bool) {
    let Some(leaf) = Leaf::parse(found.raw, found.level) else {
        return (false, false);
    };
    let (set, clear) = match (leaf.level, leaf.writable, leaf.subpage) {
        (Level::Pt, true, _) if !open => (Bits::SPP, Bits::WRITE),
        (Level::Pt, _, true) if open => (Bits::WRITE, Bits::SPP),
        (Level::Pt, _, armed) => return (armed, false),
        (_, _, _) if open => return (false, false),
        (_, _, _) => (Bits::empty(), Bits::all()),
    };
    edit(mem, found.slot, found.raw, |bits| (bits - clear) | set);
    (leaf.subpage, true)
}

/// Where `leaf` puts the first byte of `gfn`, a frame that it covers.
fn translate(leaf: &Leaf, gfn: Gfn) -> Hpa {
    let offset = (gfn.get() & (leaf.level.pages() - 1)) * PAGE_SIZE;
    Hpa::new(leaf.hpa.get().wrapping_add(offset))
}

/// Whether two leaves give `gfn` the same memory with the same permissions.
fn same_access(one: &Leaf, other: &Leaf, gfn: Gfn) -> bool {
    translate(one, gfn) == translate(other, gfn)
        && (one.writable, one.subpage) == (other.writable, other.subpage)
}

/// Changes a present leaf and keeps what the processor adds meanwhile: it sets the accessed and
/// the dirty flag, so the exchange fails twice at most.
fn edit<M: PhysMem>(mem: &M, slot: Slot, mut raw: u64, change: impl Fn(Bits) -> Bits) {
    while let Err(found) =
        mem.compare_exchange(slot, raw, change(Bits::from_bits_retain(raw)).bits())
    {
        raw = found;
    }
}
