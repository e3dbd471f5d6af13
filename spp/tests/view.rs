// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::Mask;
use ept::Frames;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Words of tables; those never written are 0.
#[derive(Default)]
struct Words(RefCell<BTreeMap<(u64, usize), u64>>);

impl PhysMem for Words {
    fn load(&self, at: Slot) -> u64 {
        let key = (at.table().get(), at.index());
        self.0.borrow().get(&key).copied().unwrap_or(0)
    }

    fn store(&self, at: Slot, raw: u64) {
        self.0
            .borrow_mut()
            .insert((at.table().get(), at.index()), raw);
    }

    fn compare_exchange(&self, at: Slot, old: u64, new: u64) -> Result<(), u64> {
        match self.load(at) {
            found if found == old => {
                self.store(at, new);
                Ok(())
            }
            found => Err(found),
        }
    }
}

struct Fresh(u64);

impl Frames for Fresh {
    fn take(&mut self) -> Option<Hpa> {
        self.0 += 0x1000;
        Some(Hpa::new(self.0))
    }
}

const OPEN: Gfn = Gfn::new(0x40_0003);
const CODE: Gfn = Gfn::new(0x8);
const COPY: Hpa = Hpa::new(0xc0de_0000);

/// R, W and X of the page and where it is, all levels of the walk taken together.
fn access(words: &Words, root: Hpa, gfn: Gfn) -> Option<(u64, Hpa)> {
    let mut table = root;
    let mut level = Level::Pml4;
    let mut rights = 7;
    loop {
        let raw = words.load(Slot::new(table, level.index(gfn)));
        rights &= raw;
        match Ept::kind(raw, level) {
            Kind::Hole => return None,
            Kind::Leaf => {
                let leaf = Leaf::parse(raw, level)?;
                let inside = (gfn.get() & (level.pages() - 1)) * PAGE_SIZE;
                return Some((rights, Hpa::new(leaf.hpa.get() + inside)));
            }
            Kind::Table(next) => (table, level) = (next, level.below()?),
        }
    }
}

/// A page with a map, code in a 2-MiB leaf, and others beside them.
fn space(words: &Words) -> Space {
    let mut fresh = Fresh(0x10_0000);
    let mut space = Space::new(Hpa::new(0x1000));
    assert!(space.enable_spp(Hpa::new(0x2000)).is_none());
    let reserved = space.reserve_masks(words, &mut fresh, OPEN, 1);
    assert_eq!(reserved, Ok(()));
    let stale = space.commit_masks(words, OPEN, 1, |_| Mask::from_raw(0xff));
    let _spent = stale.map(crate::Stale::spent);
    for (gfn, level, writable) in [
        (OPEN.get(), Level::Pt, true),
        (OPEN.get() + 1, Level::Pt, true),
        (OPEN.get() + 2, Level::Pt, false),
        (0, Level::Pd, true),
        (0x8_0000, Level::Pdpt, true),
    ] {
        let hpa = Hpa::new(0x80_0000_0000 + gfn * PAGE_SIZE);
        let mapped = space
            .map(words, &mut fresh, Gfn::new(gfn), level, hpa, writable)
            .expect("frames");
        assert_eq!(mapped.leaf.map(|leaf| leaf.level), Some(level));
        let _spent = mapped.stale.map(crate::Stale::spent);
    }
    space
}

fn frames() -> [Hpa; VIEW_FRAMES] {
    std::array::from_fn(|n| Hpa::new(0x70_0000 + n as u64 * 0x1000))
}

#[test]
fn only_the_code_executes_and_only_the_open_page_opens() {
    let words = Words::default();
    let space = space(&words);
    // What the frames held before does not matter.
    for frame in frames() {
        for index in 0..Level::ENTRIES {
            words.store(Slot::new(frame, index), 7);
        }
    }
    let before = words.0.borrow().clone();
    let pages = [(CODE, Use::Code(COPY)), (OPEN, Use::Open)];
    let root = space.view(&words, &frames(), &pages).expect("a view");
    let host = |gfn: u64| Hpa::new(0x80_0000_0000 + gfn * PAGE_SIZE);
    for (gfn, want) in [
        (CODE.get(), Some((0b101, COPY))),
        (CODE.get() + 1, Some((0b011, host(CODE.get() + 1)))),
        (OPEN.get(), Some((0b011, host(OPEN.get())))),
        (OPEN.get() + 1, Some((0b011, host(OPEN.get() + 1)))),
        (OPEN.get() + 2, Some((0b001, host(OPEN.get() + 2)))),
        (OPEN.get() + 3, None),
        (0x8_0005, Some((0b011, host(0x8_0005)))),
        (0x100_0000, None),
    ] {
        assert_eq!(access(&words, root, Gfn::new(gfn)), want, "{gfn:#x}");
    }
    // The address space is as it was.
    let ours = |table: u64| frames().iter().any(|f| f.get() == table);
    for (key, raw) in words.0.borrow().iter().filter(|(key, _)| !ours(key.0)) {
        assert_eq!(before.get(key), Some(raw), "{key:x?}");
    }
}

#[test]
fn pages_that_cannot_be_opened() {
    let words = Words::default();
    let space = space(&words);
    for (gfn, usage) in [
        (OPEN.get() + 2, Use::Open),
        (OPEN.get() + 3, Use::Open),
        (0x100_0000, Use::Code(COPY)),
        (CODE.get(), Use::Code(Hpa::new(0x123))),
    ] {
        let view = space.view(&words, &frames(), &[(Gfn::new(gfn), usage)]);
        assert_eq!(view, Err(Unsuitable), "{gfn:#x}");
    }
}

#[test]
fn four_pages_at_most_need_all_frames() {
    let words = Words::default();
    let mut fresh = Fresh(0x10_0000);
    let space = Space::new(Hpa::new(0x1000));
    let pages: [_; 5] = std::array::from_fn(|n| (Gfn::new((n as u64) << 27), Use::Open));
    for (gfn, _) in pages {
        let hpa = Hpa::new(0x5000);
        let mapped = space.map(&words, &mut fresh, gfn, Level::Pt, hpa, true);
        let _stale = mapped.expect("frames").stale;
    }
    assert!(space.view(&words, &frames(), &pages[..4]).is_ok());
    assert_eq!(space.view(&words, &frames(), &pages), Err(Unsuitable));
}
