// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::Ept;
use std::cell::RefCell;
use std::collections::HashMap;
use std::vec::Vec;

/// Tables as a map from frame to words; `log` keeps the order of stores.
#[derive(Default)]
struct Ram {
    words: RefCell<HashMap<(u64, usize), u64>>,
    log: RefCell<Vec<(Slot, u64)>>,
}

impl PhysMem for Ram {
    fn load(&self, at: Slot) -> u64 {
        let words = self.words.borrow();
        words
            .get(&(at.table().get(), at.index()))
            .copied()
            .unwrap_or(0)
    }

    fn store(&self, at: Slot, raw: u64) {
        self.log.borrow_mut().push((at, raw));
        self.words
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

struct Reserve {
    next: u64,
    left: u64,
}

impl Frames for Reserve {
    fn take(&mut self) -> Option<Hpa> {
        self.left = self.left.checked_sub(1)?;
        self.next += 0x1000;
        Some(Hpa::new(self.next))
    }
}

/// A format like the SPPT's: every word of a `Pt` table is a leaf, and none is zero.
enum Filled {}

impl Format for Filled {
    const NEW_LEAF: u64 = 0x5555;

    fn kind(raw: u64, level: Level) -> Kind {
        match (level, raw & 1) {
            (Level::Pt, _) => Kind::Leaf,
            (_, 0) => Kind::Hole,
            _ => Kind::Table(Hpa::new(raw & !0xfff)),
        }
    }

    fn link(table: Hpa) -> u64 {
        table.get() | 1
    }
}

const ROOT: Hpa = Hpa::new(0x10_0000);

fn reserve(left: u64) -> Reserve {
    Reserve {
        next: 0x20_0000,
        left,
    }
}

#[test]
fn empty_tree_is_one_hole() {
    let (ram, tree) = (Ram::default(), Tree::<Ept>::new(ROOT));
    let found = tree.walk(&ram, Gfn::new(0x123 << 27));
    assert_eq!(found.kind, Kind::Hole);
    assert_eq!(
        (found.level, found.slot),
        (Level::Pml4, Slot::new(ROOT, 0x123))
    );
}

#[test]
fn ensure_makes_three_tables_then_none() {
    let (ram, tree) = (Ram::default(), Tree::<Ept>::new(ROOT));
    let (gfn, mut frames) = (Gfn::new(0xf_edcb_a987), reserve(3));
    let slot = tree.ensure(&ram, &mut frames, gfn, Level::Pt).unwrap();
    assert_eq!(slot, Slot::new(Hpa::new(0x20_3000), 0x187));
    assert_eq!(frames.left, 0);
    assert_eq!(tree.ensure(&ram, &mut frames, gfn, Level::Pt), Ok(slot));
    let found = tree.walk(&ram, gfn);
    assert_eq!(
        (found.level, found.slot, found.kind),
        (Level::Pt, slot, Kind::Hole)
    );
}

#[test]
fn walks_begin_in_the_last_table_until_it_is_forgotten() {
    let (ram, tree) = (Ram::default(), Tree::<Ept>::new(ROOT));
    let (gfn, neighbour, beyond) = (Gfn::new(0x3ff), Gfn::new(0x200), Gfn::new(0x400));
    let link = |at, frames: &mut _| tree.ensure(&ram, frames, at, Level::Pd).unwrap();
    let mut frames = reserve(4);
    let slot = tree.ensure(&ram, &mut frames, gfn, Level::Pt).unwrap();
    assert_eq!(tree.walk(&ram, gfn).slot, slot);
    assert_eq!(tree.walk(&ram, beyond).slot, link(beyond, &mut frames));
    ram.store(link(gfn, &mut frames), 0);
    ram.store(slot, 1);
    let found = tree.walk(&ram, gfn);
    assert_eq!((found.slot, found.kind), (slot, Kind::Leaf), "read anew");
    let found = tree.walk(&ram, neighbour);
    assert_eq!(found.slot, Slot::new(slot.table(), 0));
    assert_eq!((found.level, found.kind), (Level::Pt, Kind::Hole));
    tree.forget();
    let found = tree.walk(&ram, gfn);
    assert_eq!((found.level, found.kind), (Level::Pd, Kind::Hole));
}

#[test]
fn ensure_stops_at_the_level_asked_for() {
    let (ram, tree) = (Ram::default(), Tree::<Ept>::new(ROOT));
    for (level, used) in [
        (Level::Pml4, 0),
        (Level::Pdpt, 1),
        (Level::Pd, 1),
        (Level::Pt, 1),
    ] {
        let mut frames = reserve(3);
        frames.next += 0x10_0000 * level as u64;
        tree.ensure(&ram, &mut frames, Gfn::new(5), level).unwrap();
        assert_eq!(3 - frames.left, used, "{level:?}");
    }
}

#[test]
fn ensure_resumes_after_running_dry() {
    let (ram, tree) = (Ram::default(), Tree::<Ept>::new(ROOT));
    let mut frames = reserve(2);
    let gfn = Gfn::new(77);
    assert_eq!(
        tree.ensure(&ram, &mut frames, gfn, Level::Pt),
        Err(Blocked::NoFrame)
    );
    assert_eq!(tree.walk(&ram, gfn).kind, Kind::Hole);
    frames.left = 1;
    assert!(tree.ensure(&ram, &mut frames, gfn, Level::Pt).is_ok());
}

#[test]
fn ensure_reports_a_leaf_in_the_way() {
    let (ram, tree) = (Ram::default(), Tree::<Ept>::new(ROOT));
    let mut frames = reserve(3);
    let slot = tree
        .ensure(&ram, &mut frames, Gfn::new(0), Level::Pd)
        .unwrap();
    ram.store(slot, 0x20_0000 | 0x87);
    let blocked = tree.ensure(&ram, &mut frames, Gfn::new(511), Level::Pt);
    assert_eq!(blocked, Err(Blocked::Leaf(Level::Pd)));
    let found = tree.walk(&ram, Gfn::new(511));
    assert_eq!(
        (found.level, found.kind, found.raw),
        (Level::Pd, Kind::Leaf, 0x20_0087)
    );
}

#[test]
fn frames_beyond_48_bits_do_not_alias() {
    let (ram, tree) = (Ram::default(), Tree::<Ept>::new(ROOT));
    let mut frames = reserve(3);
    let slot = tree
        .ensure(&ram, &mut frames, Gfn::new(0), Level::Pt)
        .unwrap();
    ram.store(slot, 0x7);
    assert_eq!(tree.walk(&ram, Gfn::new(0)).kind, Kind::Leaf);
    assert_eq!(tree.walk(&ram, Gfn::END).kind, Kind::Hole);
    let beyond = tree.ensure(&ram, &mut frames, Gfn::END, Level::Pt);
    assert_eq!(beyond, Err(Blocked::Beyond));
    tree.for_each_leaf(&ram, Gfn::END, u64::MAX, |gfn, _, _, _| panic!("{gfn:?}"));
}

#[test]
fn new_leaves_are_stored_before_the_link() {
    let (ram, tree) = (Ram::default(), Tree::<Filled>::new(ROOT));
    let mut frames = reserve(3);
    tree.ensure(&ram, &mut frames, Gfn::new(9), Level::Pt)
        .unwrap();
    let log = ram.log.borrow();
    assert_eq!(log.len(), 2 + 512 + 1);
    let (at, raw) = log.last().copied().unwrap();
    assert_eq!((at.table(), raw), (Hpa::new(0x20_2000), 0x20_3001));
    assert!(log[2..514]
        .iter()
        .all(|&(at, raw)| at.table().get() == 0x20_3000 && raw == 0x5555));
}

#[test]
fn for_each_leaf_visits_what_the_range_touches() {
    let (ram, tree) = (Ram::default(), Tree::<Ept>::new(ROOT));
    let mut frames = reserve(64);
    let mut map = |gfn: u64, level, raw| {
        let slot = tree
            .ensure(&ram, &mut frames, Gfn::new(gfn), level)
            .unwrap();
        ram.store(slot, raw);
    };
    map(3, Level::Pt, 0x7);
    map(511, Level::Pt, 0x7);
    map(512, Level::Pd, 0x87);
    map(1 << 18, Level::Pdpt, 0x87);
    map((1 << 36) - 1, Level::Pt, 0x7);
    let visit = |start: u64, pages: u64| {
        let mut seen = Vec::new();
        tree.for_each_leaf(&ram, Gfn::new(start), pages, |gfn, level, slot, raw| {
            assert_eq!(ram.load(slot), raw);
            seen.push((gfn.get(), level));
        });
        seen
    };
    let large = (512, Level::Pd);
    let huge = (1 << 18, Level::Pdpt);
    let last = ((1 << 36) - 1, Level::Pt);
    assert_eq!(
        visit(0, u64::MAX),
        [(3, Level::Pt), (511, Level::Pt), large, huge, last]
    );
    assert_eq!(visit(4, 507), []);
    assert_eq!(visit(4, 508), [(511, Level::Pt)]);
    assert_eq!(visit(600, 1), [large]);
    assert_eq!(visit(1023, 2), [large]);
    assert_eq!(visit(1024, 1), []);
    assert_eq!(visit((1 << 18) + 700, 1), [huge]);
    assert_eq!(visit((1 << 36) - 1, 1), [last]);
    assert_eq!(visit(3, 0), []);
}

#[test]
fn a_cursor_finds_what_a_walk_finds() {
    let (ram, tree) = (Ram::default(), Tree::<Ept>::new(ROOT));
    let mut frames = reserve(64);
    let ends = [
        (0, Level::Pt),
        (511, Level::Pt),
        (512, Level::Pd),
        (1 << 18, Level::Pdpt),
        (1 << 27, Level::Pt),
        ((1 << 36) - 1, Level::Pt),
    ];
    for (gfn, level) in ends {
        let slot = tree.ensure(&ram, &mut frames, Gfn::new(gfn), level);
        ram.store(slot.unwrap(), 0x87);
    }
    let near = |gfn: u64| [gfn.saturating_sub(1), gfn, gfn + 1, gfn + 512];
    let gfns: Vec<u64> = ends.iter().flat_map(|(gfn, _)| near(*gfn)).collect();
    for first in &gfns {
        for second in &gfns {
            let mut cursor = tree.cursor(&ram);
            for gfn in [*first, *second, 1 << 36, 1 << 63, *second] {
                let gfn = Gfn::new(gfn);
                assert_eq!(cursor.walk(gfn), tree.walk(&ram, gfn), "{first:#x} {gfn:?}");
            }
        }
    }
}

#[test]
fn a_cursor_sees_what_changes_between_walks() {
    let (ram, tree) = (Ram::default(), Tree::<Ept>::new(ROOT));
    let mut cursor = tree.cursor(&ram);
    let gfn = Gfn::new(7);
    assert_eq!(cursor.walk(gfn).level, Level::Pml4);
    let slot = tree.ensure(&ram, &mut reserve(3), gfn, Level::Pt).unwrap();
    assert_eq!(cursor.walk(gfn).slot, slot);
    ram.store(slot, 7);
    assert_eq!(cursor.walk(gfn).kind, Kind::Leaf);
    ram.store(slot, 0);
    assert_eq!(cursor.walk(gfn).kind, Kind::Hole);
}

#[test]
fn a_table_is_idle_until_a_word_of_it_is_in_use() {
    let (ram, tree) = (Ram::default(), Tree::<Filled>::new(ROOT));
    let (gfn, mut frames) = (Gfn::new(0x2fe), reserve(4));
    assert_eq!(tree.idle(&ram, gfn), Ok(None));
    tree.ensure(&ram, &mut frames, gfn, Level::Pd).unwrap();
    assert_eq!(tree.idle(&ram, gfn), Ok(None));
    tree.ensure(&ram, &mut frames, gfn, Level::Pt).unwrap();
    let idle = Idle {
        link: Slot::new(Hpa::new(0x20_2000), 1),
        table: Hpa::new(0x20_3000),
    };
    for index in 0..512 {
        assert_eq!(tree.idle(&ram, gfn), Ok(Some(idle)));
        let slot = Slot::new(idle.table, index);
        ram.store(slot, 0);
        assert_eq!(tree.idle(&ram, gfn), Err(InUse), "{index}");
        ram.store(slot, Filled::NEW_LEAF);
    }
    assert_eq!(tree.idle(&ram, Gfn::new(0x1fe)), Ok(None));
    assert_eq!(tree.idle(&ram, Gfn::END), Ok(None));
}

#[test]
fn a_large_leaf_is_no_idle_table() {
    let (ram, tree) = (Ram::default(), Tree::<Ept>::new(ROOT));
    for level in [Level::Pd, Level::Pdpt] {
        let slot = tree.ensure(&ram, &mut reserve(3), Gfn::new(0), level);
        ram.store(slot.unwrap(), 0x87);
        assert_eq!(tree.idle(&ram, Gfn::new(9)), Ok(None));
    }
}

#[test]
fn for_each_table_shows_children_first_and_each_once() {
    let (ram, tree) = (Ram::default(), Tree::<Filled>::new(ROOT));
    let mut frames = reserve(64);
    for gfn in [0, 511, 512, 1 << 18, 1 << 27] {
        tree.ensure(&ram, &mut frames, Gfn::new(gfn), Level::Pt)
            .unwrap();
    }
    let mut seen = Vec::new();
    tree.for_each_table(&ram, |table| seen.push(table));
    assert_eq!(seen.len() as u64, 1 + 64 - frames.left);
    assert_eq!(seen.last(), Some(&ROOT));
    for (position, table) in seen.iter().enumerate() {
        assert!(!seen[..position].contains(table), "{table:?} twice");
        for index in 0..512 {
            let raw = ram.load(Slot::new(*table, index));
            if raw & 1 == 1 && raw != 0x5555 {
                let child = Hpa::new(raw & !0xfff);
                assert!(
                    seen[..position].contains(&child),
                    "{table:?} before {child:?}"
                );
            }
        }
    }
}
