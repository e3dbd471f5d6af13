// SPDX-License-Identifier: GPL-2.0

//! The address space by example: one short story for each rule, told by the entries.

use ept::{Gfn, Hpa, Level, NoFrame};
use model::ram::{Ram, Reserve};
use spp::{frames_for_masks, Mapped, Mask, Space, Stale, MAX_FRAMES_PER_MAP};

const GFN: Gfn = Gfn::new(0x1_2345);
const MAP: Mask = Mask::from_raw(0x0000_00f0);

struct Vm {
    ram: Ram,
    space: Space,
}

impl Vm {
    fn new() -> Self {
        let ram = Ram::default();
        let mut space = Space::new(ram.frame());
        assert_eq!(space.enable_spp(ram.frame()), None);
        Self { ram, space }
    }

    fn map_at(&self, gfn: Gfn, level: Level, hpa: u64, writable: bool) -> Mapped {
        let mut frames = Reserve::new(&self.ram, MAX_FRAMES_PER_MAP as u64);
        let hpa = Hpa::new(hpa);
        let mapped = self
            .space
            .map(&self.ram, &mut frames, gfn, level, hpa, writable);
        mapped.expect("enough frames")
    }

    fn map(&self, writable: bool) -> Mapped {
        self.map_at(GFN, Level::Pt, 0x5000, writable)
    }

    /// Sets the map of one page; whether a `Stale` came of it.
    fn protect(&self, gfn: Gfn, mask: Mask) -> bool {
        let mut frames = Reserve::new(&self.ram, frames_for_masks(1));
        let reserved = self.space.reserve_masks(&self.ram, &mut frames, gfn, 1);
        assert_eq!(reserved, Ok(()));
        let stale = self.space.commit_masks(&self.ram, gfn, 1, |_| mask);
        stale.map(|stale| stale.spent()).is_some()
    }

    /// Level, writable, armed.
    fn leaf(&self, gfn: Gfn) -> Option<(Level, bool, bool)> {
        let leaf = self.space.leaf(&self.ram, gfn)?;
        Some((leaf.level, leaf.writable, leaf.subpage))
    }
}

const WRITABLE: Option<(Level, bool, bool)> = Some((Level::Pt, true, false));
const ARMED: Option<(Level, bool, bool)> = Some((Level::Pt, false, true));
const READ_ONLY: Option<(Level, bool, bool)> = Some((Level::Pt, false, false));

#[test]
fn protecting_a_mapped_page_arms_it_and_back() {
    let vm = Vm::new();
    assert!(vm.map(true).changed);
    assert_eq!(vm.leaf(GFN), WRITABLE);
    assert!(vm.protect(GFN, MAP));
    assert_eq!((vm.leaf(GFN), vm.space.mask(&vm.ram, GFN)), (ARMED, MAP));
    assert!(!vm.protect(GFN, MAP), "nothing changed");
    assert!(
        vm.protect(GFN, Mask::NONE),
        "armed: the vector may be cached"
    );
    assert_eq!(vm.leaf(GFN), ARMED);
    assert!(vm.protect(GFN, Mask::ALL));
    assert_eq!(vm.leaf(GFN), WRITABLE);
}

#[test]
fn the_vector_is_stored_before_the_leaf() {
    let vm = Vm::new();
    vm.protect(GFN, Mask::ALL);
    assert!(vm.map(true).changed);
    for (mask, leaf_bits) in [(MAP, 1 << 61), (Mask::ALL, 2)] {
        vm.ram.take_journal();
        vm.protect(GFN, mask);
        let journal = vm.ram.take_journal();
        let (vector, leaf) = (journal[0], journal[1]);
        assert_eq!((journal.len(), vector.new), (2, mask.vector()));
        assert_eq!(leaf.new & (1 << 61 | 2), leaf_bits);
    }
}

#[test]
fn every_change_of_a_vector_in_use_is_stale() {
    let vm = Vm::new();
    assert!(vm.map(true).changed);
    for mask in [MAP, Mask::NONE, MAP, Mask::from_raw(0xff), MAP, Mask::ALL] {
        assert!(vm.protect(GFN, mask), "{mask:?}");
    }
}

#[test]
fn mapping_a_protected_page_arms_it() {
    let vm = Vm::new();
    assert!(vm.protect(GFN, MAP), "a leaf may have gone a moment ago");
    assert_eq!(vm.leaf(GFN), None);
    let mapped = vm.map(true);
    assert_eq!((mapped.changed, mapped.stale.is_some()), (true, false));
    assert_eq!(vm.leaf(GFN), ARMED);
}

#[test]
fn relaxing_the_map_of_an_absent_page_needs_no_invalidation() {
    let vm = Vm::new();
    vm.protect(GFN, MAP);
    assert!(!vm.protect(GFN, Mask::ALL));
    assert!(!vm.protect(GFN, Mask::ALL));
}

#[test]
fn a_read_only_host_page_is_never_armed_nor_opened() {
    let vm = Vm::new();
    vm.protect(GFN, MAP);
    assert!(vm.map(false).changed);
    assert_eq!(vm.leaf(GFN), READ_ONLY);
    vm.protect(GFN, Mask::ALL);
    assert_eq!(vm.leaf(GFN), READ_ONLY);
}

#[test]
fn write_protection_disarms_and_keeps_the_map() {
    let vm = Vm::new();
    vm.protect(GFN, MAP);
    assert!(vm.map(true).changed);
    assert!(vm.space.write_protect(&vm.ram, GFN, 1).is_some());
    assert_eq!(
        (vm.leaf(GFN), vm.space.mask(&vm.ram, GFN)),
        (READ_ONLY, MAP)
    );
    assert!(vm.space.write_protect(&vm.ram, GFN, 1).is_none());
    vm.protect(GFN, Mask::ALL);
    assert_eq!(vm.leaf(GFN), READ_ONLY, "the host page is still read-only");
    let again = vm.map(true);
    assert_eq!((again.changed, again.stale.is_some()), (true, true));
    assert_eq!(vm.leaf(GFN), WRITABLE);
}

#[test]
fn the_map_outlives_the_mapping() {
    let vm = Vm::new();
    vm.protect(GFN, MAP);
    assert!(vm.map(true).changed);
    assert!(vm.space.zap(&vm.ram, GFN, 1).is_some());
    assert!(vm.space.zap(&vm.ram, GFN, 1).is_none());
    assert_eq!((vm.leaf(GFN), vm.space.mask(&vm.ram, GFN)), (None, MAP));
    assert!(vm.map(true).changed);
    assert_eq!(vm.leaf(GFN), ARMED);
}

#[test]
fn protecting_a_page_takes_the_large_leaf_away_and_keeps_it_away() {
    let vm = Vm::new();
    assert_eq!(vm.space.max_level(&vm.ram, GFN), Level::Pdpt);
    assert!(vm.map_at(GFN, Level::Pd, 0x4000_0000, true).changed);
    assert_eq!(vm.leaf(GFN), Some((Level::Pd, true, false)));
    assert!(!vm.protect(GFN, Mask::ALL), "no page is protected");
    assert_eq!(vm.leaf(GFN), Some((Level::Pd, true, false)));
    assert!(vm.protect(GFN, MAP));
    assert_eq!(vm.leaf(GFN), None);
    assert_eq!(vm.space.max_level(&vm.ram, GFN), Level::Pt);
    let mapped = vm.map_at(GFN, Level::Pd, 0x4000_0000, true);
    let leaf = mapped.leaf.expect("mapped at 4 KiB instead");
    assert_eq!(
        (leaf.level, leaf.hpa),
        (Level::Pt, Hpa::new(0x4000_0000 + 0x145 * 0x1000))
    );
    assert_eq!(vm.leaf(GFN), ARMED);
    let neighbour = Gfn::new(GFN.get() ^ 0x200);
    assert_eq!(vm.space.max_level(&vm.ram, neighbour), Level::Pd);
    let elsewhere = Gfn::new(GFN.get() ^ 1 << 18);
    assert_eq!(vm.space.max_level(&vm.ram, elsewhere), Level::Pdpt);
}

/// The frames of a mapping, given back.
fn give_back(vm: &Vm, mapped: Mapped) -> usize {
    let spent = mapped.stale.map(Stale::spent);
    let frames = mapped.unlinked.after(spent);
    frames.map(|frame| vm.ram.give_back(frame)).count()
}

#[test]
fn a_large_leaf_comes_back_when_nothing_is_protected_or_mapped() {
    let vm = Vm::new();
    let large = || vm.map_at(GFN, Level::Pd, 0x4000_0000, true);
    vm.protect(GFN, MAP);
    assert!(vm.map(true).changed);
    assert_eq!(vm.space.max_level(&vm.ram, GFN), Level::Pt);
    vm.protect(GFN, Mask::ALL);
    assert_eq!(vm.space.max_level(&vm.ram, GFN), Level::Pt, "a leaf");
    assert!(vm.space.zap(&vm.ram, GFN, 1).is_some());
    vm.protect(Gfn::new(GFN.get() ^ 0x1ff), MAP);
    assert_eq!(vm.space.max_level(&vm.ram, GFN), Level::Pt, "a map");
    assert_eq!(give_back(&vm, large()), 0);
    assert_eq!(vm.leaf(GFN), WRITABLE, "4 KiB meanwhile");
    assert!(vm.space.zap(&vm.ram, GFN, 1).is_some());
    vm.protect(Gfn::new(GFN.get() ^ 0x1ff), Mask::ALL);
    assert_eq!(vm.space.max_level(&vm.ram, GFN), Level::Pd);
    let frames = vm.ram.frames().len();
    let mapped = large();
    assert!(mapped.changed && mapped.stale.is_some() && !mapped.unlinked.is_empty());
    assert_eq!(give_back(&vm, mapped), 2, "of the EPT and of the SPPT");
    assert_eq!(vm.ram.frames().len(), frames - 2);
    assert_eq!(vm.leaf(GFN), Some((Level::Pd, true, false)));
    assert_eq!(vm.space.mask(&vm.ram, GFN), Mask::ALL);
    assert!(vm.protect(GFN, MAP), "and all over again");
    assert_eq!(vm.leaf(GFN), None);
}

#[test]
fn a_large_leaf_replaces_a_table_of_holes_alone() {
    let vm = Vm::new();
    assert!(vm.map(true).changed);
    assert!(vm.space.zap(&vm.ram, GFN, 1).is_some());
    vm.ram.take_journal();
    let mapped = vm.map_at(GFN, Level::Pd, 0x4000_0000, true);
    assert_eq!(vm.ram.take_journal().len(), 1, "the leaf over the link");
    assert!(mapped.stale.is_some(), "a processor may know the table");
    assert_eq!(give_back(&vm, mapped), 1);
}

#[test]
fn without_frames_no_table_is_unlinked() {
    let vm = Vm::new();
    vm.protect(GFN, Mask::ALL);
    let mut none = Reserve::new(&vm.ram, 0);
    vm.ram.take_journal();
    let base = Hpa::new(0x4000_0000);
    let failed = vm.space.map(&vm.ram, &mut none, GFN, Level::Pd, base, true);
    assert!(failed.is_err() && vm.ram.take_journal().is_empty());
    assert_eq!(
        give_back(&vm, vm.map_at(GFN, Level::Pd, 0x4000_0000, true)),
        1
    );
}

#[test]
fn a_larger_leaf_in_the_way_is_removed_first() {
    let vm = Vm::new();
    assert!(vm.map_at(GFN, Level::Pdpt, 0x4000_0000, false).changed);
    let blocked = vm.map(true);
    assert_eq!(
        (blocked.leaf, blocked.changed, blocked.stale.is_some()),
        (None, true, true)
    );
    assert_eq!(vm.leaf(GFN), None);
    let clear = vm.map(true);
    assert!(clear.leaf.is_some());
    assert_eq!(clear.stale, None);
    assert_eq!(vm.leaf(GFN), WRITABLE);
}

#[test]
fn the_same_mapping_again_is_spurious() {
    let vm = Vm::new();
    let base = 0x4000_0000;
    assert!(vm.map_at(GFN, Level::Pd, base, true).changed);
    assert!(!vm.map_at(GFN, Level::Pd, base, true).changed);
    let page = base + 0x145 * 0x1000;
    let within = vm.map_at(GFN, Level::Pt, page, true);
    assert_eq!((within.changed, within.stale), (false, None));
    let moved = vm.map_at(GFN, Level::Pd, base << 1, true);
    assert_eq!((moved.changed, moved.stale.is_some()), (true, true));
}

#[test]
fn what_an_entry_cannot_express_is_not_mapped() {
    let vm = Vm::new();
    let beyond = vm.map_at(Gfn::END, Level::Pt, 0x5000, true);
    assert_eq!((beyond.leaf, beyond.changed), (None, false));
    let wide = vm.map_at(GFN, Level::Pt, 1 << 52, true);
    assert_eq!((wide.leaf, wide.changed), (None, false));
    let skewed = vm.map_at(GFN, Level::Pd, 0x1000, true);
    assert_eq!((skewed.leaf, skewed.changed), (None, false));
    assert!(!vm.protect(Gfn::END, MAP));
    assert_eq!(vm.space.mask(&vm.ram, Gfn::END), Mask::ALL);
    assert_eq!(vm.ram.frames().len(), 2, "no table was made");
}

#[test]
fn without_spp_there_are_no_maps() {
    let ram = Ram::default();
    let space = Space::new(ram.frame());
    let mut none = Reserve::new(&ram, 0);
    assert_eq!(space.reserve_masks(&ram, &mut none, GFN, 512), Ok(()));
    assert!(space.commit_masks(&ram, GFN, 512, |_| Mask::NONE).is_none());
    assert_eq!(space.mask(&ram, GFN), Mask::ALL);
    assert_eq!((space.spp_enabled(), space.sppt_root()), (false, None));
}

#[test]
fn spp_is_enabled_once() {
    let mut vm = Vm::new();
    let root = vm.space.sppt_root();
    vm.protect(GFN, MAP);
    let second = vm.ram.frame();
    assert_eq!(vm.space.enable_spp(second), Some(second));
    assert_eq!(
        (vm.space.sppt_root(), vm.space.mask(&vm.ram, GFN)),
        (root, MAP)
    );
}

#[test]
fn frames_for_masks_is_enough_and_no_more_than_the_worst_start_needs() {
    let worst = Gfn::new((1 << 27) - 1);
    for pages in [1, 2, 512, 513, 514, 1024, 1026] {
        let used = |start: Gfn| {
            let vm = Vm::new();
            let mut frames = Reserve::new(&vm.ram, frames_for_masks(pages));
            let reserved = vm.space.reserve_masks(&vm.ram, &mut frames, start, pages);
            assert_eq!(reserved, Ok(()), "{pages} from {start:?}");
            vm.ram.frames().len() as u64 - 2
        };
        assert_eq!(used(worst), frames_for_masks(pages), "{pages}");
        used(Gfn::new(0));
        used(Gfn::new(1));
        used(Gfn::new((1 << 18) - 1));
    }
    assert_eq!((frames_for_masks(0), frames_for_masks(1)), (0, 3));
    assert!(frames_for_masks(u64::MAX) > 1 << 54);
}

#[test]
fn reserve_continues_where_it_ran_dry() {
    let vm = Vm::new();
    let reserve = |frames| {
        let mut frames = Reserve::new(&vm.ram, frames);
        vm.space.reserve_masks(&vm.ram, &mut frames, GFN, 1024)
    };
    assert_eq!(reserve(2), Err(NoFrame));
    assert_eq!(reserve(1), Err(NoFrame));
    assert_eq!(reserve(2), Ok(()));
    assert_eq!(vm.space.mask(&vm.ram, GFN), Mask::ALL);
}

#[test]
fn a_page_that_was_not_reserved_keeps_its_map() {
    let vm = Vm::new();
    assert!(vm.map(true).changed);
    assert!(vm
        .space
        .commit_masks(&vm.ram, GFN, 1, |_| Mask::NONE)
        .is_none());
    assert_eq!(
        (vm.leaf(GFN), vm.space.mask(&vm.ram, GFN)),
        (WRITABLE, Mask::ALL)
    );
}

#[test]
fn maps_are_asked_for_by_position() {
    let vm = Vm::new();
    let mut frames = Reserve::new(&vm.ram, frames_for_masks(4));
    let start = Gfn::new(510);
    assert_eq!(
        vm.space.reserve_masks(&vm.ram, &mut frames, start, 4),
        Ok(())
    );
    let map = |i: u64| Mask::from_raw(i as u32);
    assert!(vm.space.commit_masks(&vm.ram, start, 4, map).is_some());
    for i in 0..4 {
        assert_eq!(vm.space.mask(&vm.ram, Gfn::new(510 + i)), map(i));
    }
}

#[test]
fn masks_are_shown_by_position() {
    let vm = Vm::new();
    vm.protect(Gfn::new(511), MAP);
    vm.protect(Gfn::new((1 << 36) - 1), Mask::NONE);
    let shown = |start, pages| {
        let mut shown = Vec::new();
        vm.space.masks(&vm.ram, Gfn::new(start), pages, |i, mask| {
            assert_eq!(i, shown.len() as u64);
            shown.push(mask);
        });
        shown
    };
    assert_eq!(shown(510, 4), [Mask::ALL, MAP, Mask::ALL, Mask::ALL]);
    let end = [Mask::ALL, Mask::NONE, Mask::ALL, Mask::ALL];
    assert_eq!(shown((1 << 36) - 2, 4), end, "also beyond the end");
    assert_eq!(shown(u64::MAX, 2), [Mask::ALL; 2]);
    assert_eq!(shown(511, 0), []);
}

#[test]
fn a_range_is_walked_once_for_each_table() {
    let vm = Vm::new();
    let (start, pages) = (Gfn::new((1 << 27) - 512), 1024);
    let mut frames = Reserve::new(&vm.ram, frames_for_masks(pages));
    let reserved = vm.space.reserve_masks(&vm.ram, &mut frames, start, pages);
    assert_eq!(reserved, Ok(()));
    for i in 0..pages {
        let gfn = Gfn::new(start.get() + i);
        assert!(vm.map_at(gfn, Level::Pt, 0x5000, true).changed);
    }
    vm.ram.take_loads();
    let stale = vm.space.commit_masks(&vm.ram, start, pages, |_| MAP);
    assert!(stale.is_some());
    assert_eq!(
        vm.ram.take_loads(),
        2 * (pages + 2 * 3),
        "vectors and leaves"
    );
    vm.space
        .masks(&vm.ram, start, pages, |_, mask| assert_eq!(mask, MAP));
    assert_eq!(vm.ram.take_loads(), pages + 2 * 3);
}

#[test]
fn an_exchange_that_fails_is_tried_with_what_was_found() {
    let vm = Vm::new();
    assert!(vm.map(true).changed);
    vm.ram.interfere(0x300);
    assert!(vm.protect(GFN, MAP));
    assert_eq!(vm.leaf(GFN), ARMED);
    vm.ram.interfere(0x100);
    assert!(vm.space.write_protect(&vm.ram, GFN, 1).is_some());
    assert_eq!(vm.leaf(GFN), READ_ONLY);
}
