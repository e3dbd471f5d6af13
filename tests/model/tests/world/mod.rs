// SPDX-License-Identifier: GPL-2.0

//! A `Space`, the model of a processor that runs on it, and a naive record of what was
//! asked for. Each operation is followed by all checks.

use std::collections::{BTreeMap, BTreeSet};

use ept::{eptp, Gfn, Gpa, Hpa, Level};
use model::oracle::{Access, Cpu, Outcome, Sight};
use model::ram::{Change, Ram, Reserve};
use proptest::prelude::*;
use spp::{frames_for_masks, Mask, Space, Spent, Stale, Verdict, WriteFault, MAX_FRAMES_PER_MAP};

mod audit;

/// Pages around every kind of boundary between tables.
const REGIONS: [u64; 6] = [
    0,
    512,
    (1 << 18) - 512,
    1 << 18,
    (1 << 27) - 512,
    (1 << 36) - 512,
];
const OFFSETS: [u64; 5] = [0, 1, 2, 255, 511];

pub(crate) fn universe() -> Vec<u64> {
    let pages = |base| OFFSETS.map(|offset| base + offset);
    REGIONS.into_iter().flat_map(pages).collect()
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Map {
        gfn: u64,
        level: Level,
        host: u64,
        writable: bool,
        budget: u64,
    },
    Zap {
        gfn: u64,
        pages: u64,
    },
    WriteProtect {
        gfn: u64,
        pages: u64,
    },
    SetMasks {
        gfn: u64,
        pages: u64,
        mask: u32,
        turn: bool,
        budget: u64,
    },
    Enable,
}

/// A write of `len` bytes at `offset` of a page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    pub offset: u64,
    pub len: u64,
}

/// Mostly a few pages, so that one operation meets the traces of another.
fn page() -> impl Strategy<Value = u64> {
    let hot = [0, 1, 511, (1 << 18) - 1, (1 << 18) + 255];
    prop_oneof![3 => prop::sample::select(hot.to_vec()), 1 => prop::sample::select(universe())]
}

/// Maps that often are subsets of one another.
fn mask() -> impl Strategy<Value = u32> {
    let nested = vec![0, 0xff, 0xffff, 0xffff_ff00];
    prop_oneof![2 => Just(u32::MAX), 3 => prop::sample::select(nested), 2 => any::<u32>()]
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    let gfn = page;
    let pages = || prop_oneof![8 => 1_u64..4, 1 => Just(511), 1 => Just(700), 1 => Just(1 << 19)];
    let level = prop_oneof![
        3 => Just(Level::Pt),
        2 => Just(Level::Pd),
        1 => prop::sample::select(vec![Level::Pdpt, Level::Pml4]),
    ];
    let mask = mask();
    let few = prop_oneof![16 => 1_u64..4, 1 => Just(520)];
    prop_oneof![
        6 => (gfn(), level, 0_u64..3, any::<bool>(), 0_u64..6).prop_map(
            |(gfn, level, host, writable, budget)| Op::Map { gfn, level, host, writable, budget }
        ),
        1 => (gfn(), pages()).prop_map(|(gfn, pages)| Op::Zap { gfn, pages }),
        1 => (gfn(), pages()).prop_map(|(gfn, pages)| Op::WriteProtect { gfn, pages }),
        4 => (gfn(), few, mask, any::<bool>(), 0_u64..6).prop_map(
            |(gfn, pages, mask, turn, budget)| Op::SetMasks { gfn, pages, mask, turn, budget }
        ),
        1 => Just(Op::Enable),
    ]
}

pub(crate) fn probe() -> impl Strategy<Value = Probe> {
    let near_edge = (0_u64..32, 0_u64..64).prop_map(|(n, back)| (n + 1) * 128 - 1 - back);
    (
        near_edge,
        prop::sample::select(vec![1_u64, 2, 4, 8, 16, 32, 64, 300]),
    )
        .prop_map(|(offset, len)| Probe { offset, len })
}

/// What was mapped: `writable` is the host page's side, without the sub-page map.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Mapping {
    pages: u64,
    hpa: u64,
    writable: bool,
}

pub(crate) struct World<'a> {
    ram: &'a Ram,
    pub space: Space,
    cpu: Cpu<'a>,
    crossing: bool,
    accessed_dirty: bool,
    roots: Vec<Hpa>,
    maps: BTreeMap<u64, u32>,
    mappings: BTreeMap<u64, Mapping>,
    /// Regions below which a table was made: of the EPT and of the SPPT.
    split: BTreeSet<(Level, u64)>,
    vectors: BTreeSet<(Level, u64)>,
}

impl<'a> World<'a> {
    pub(crate) fn new(ram: &'a Ram, crossing: bool, accessed_dirty: bool) -> Self {
        let root = ram.frame();
        let cpu = Cpu::new(ram, eptp(root, accessed_dirty), None, crossing);
        Self {
            ram,
            space: Space::new(root),
            cpu,
            crossing,
            accessed_dirty,
            roots: vec![root],
            maps: BTreeMap::new(),
            mappings: BTreeMap::new(),
            split: BTreeSet::new(),
            vectors: BTreeSet::new(),
        }
    }

    pub(crate) fn apply(&mut self, op: &Op) {
        self.warm();
        if self.accessed_dirty {
            self.ram.interfere(0x300);
        }
        match *op {
            Op::Map {
                gfn,
                level,
                host,
                writable,
                budget,
            } => {
                self.map(gfn, level, host, writable, budget);
            }
            Op::Zap { gfn, pages } => self.zap(gfn, pages),
            Op::WriteProtect { gfn, pages } => self.write_protect(gfn, pages),
            Op::SetMasks {
                gfn,
                pages,
                mask,
                turn,
                budget,
            } => {
                let turned = |i: u64| {
                    if turn {
                        mask.rotate_left(i as u32)
                    } else {
                        mask
                    }
                };
                self.set_masks(gfn, pages, turned, budget);
            }
            Op::Enable => self.enable(),
        }
    }

    /// Fills the TLB with everything that it may hold.
    pub(crate) fn warm(&mut self) {
        for gfn in universe() {
            self.cpu.access(Access::Read, gfn << 12, 1);
        }
    }

    fn flush(&mut self, stale: Option<Stale>) -> Option<Spent> {
        let spent = stale?.spent();
        self.cpu.invept();
        Some(spent)
    }

    fn enable(&mut self) {
        let frame = self
            .roots
            .get(1)
            .copied()
            .unwrap_or_else(|| self.ram.frame());
        let handed_back = self.space.enable_spp(frame);
        assert_eq!(handed_back.is_some(), self.roots.len() == 2);
        if self.roots.len() == 1 {
            self.roots.push(frame);
            self.cpu.load_sppt(frame.get());
        }
        assert_eq!(self.space.sppt_root(), Some(frame));
    }

    fn map(&mut self, gfn: u64, level: Level, host: u64, writable: bool, budget: u64) {
        let hpa = |gfn: u64| ((host + 1) << 44) + ((gfn << 12) & 0xfff_ffff_ffff);
        let start = Hpa::new(hpa(Gfn::new(gfn).align_down(level).get()));
        let call = |world: &Self, budget| {
            let mut frames = Reserve::new(world.ram, budget);
            world.space.map(
                world.ram,
                &mut frames,
                Gfn::new(gfn),
                level,
                start,
                writable,
            )
        };
        let vacant = level == Level::Pd && self.is_vacant(gfn);
        let possible = level <= self.max_level(gfn) && (vacant || !self.is_split(gfn, level));
        let result = self.watch(|world| call(world, budget));
        let mapped = result.unwrap_or_else(|_| {
            assert!(budget < MAX_FRAMES_PER_MAP as u64);
            self.watch(|world| call(world, MAX_FRAMES_PER_MAP as u64))
                .expect("enough frames")
        });
        let old = self.mapping(gfn);
        if mapped.changed {
            assert_eq!(
                mapped.stale.is_some(),
                old.is_some() || !mapped.unlinked.is_empty(),
                "Stale iff a leaf or a table was there"
            );
            if let Some((base, _)) = old {
                self.mappings.remove(&base);
            }
        }
        let spent = self.flush(mapped.stale);
        let given_back = mapped.unlinked.after(spent).map(|f| self.ram.give_back(f));
        let given_back = given_back.count();
        let Some(leaf) = mapped.leaf else {
            let (_, old) = old.expect("only a larger leaf stops a mapping");
            assert!(mapped.changed && old.pages > 1);
            return self.map(gfn, level, host, writable, MAX_FRAMES_PER_MAP as u64);
        };
        let base = Gfn::new(gfn).align_down(leaf.level).get();
        assert_eq!(leaf.hpa.get(), hpa(base));
        assert_eq!(leaf.writable, writable && self.map_of(gfn) == u32::MAX);
        assert_eq!(leaf.subpage, writable && self.map_of(gfn) != u32::MAX);
        let new = Mapping {
            pages: leaf.level.pages(),
            hpa: leaf.hpa.get(),
            writable,
        };
        if !mapped.changed {
            assert_eq!(given_back, 0);
            assert_eq!(old, Some((base, new)), "spurious");
            return;
        }
        assert_eq!(leaf.level, if possible { level } else { Level::Pt });
        if leaf.level == Level::Pd {
            let region = (Level::Pd, base);
            let replaced = [&mut self.split, &mut self.vectors].map(|set| set.remove(&region));
            assert_eq!(given_back, replaced.into_iter().filter(|had| *had).count());
        } else {
            assert_eq!(given_back, 0);
        }
        for above in [Level::Pd, Level::Pdpt, Level::Pml4] {
            if above > leaf.level {
                self.split
                    .insert((above, Gfn::new(gfn).align_down(above).get()));
            }
        }
        assert!(
            self.within(base, new.pages).is_empty(),
            "nothing lies below a new leaf"
        );
        self.mappings.insert(base, new);
    }

    fn zap(&mut self, gfn: u64, pages: u64) {
        let stale = self.watch(|world| world.space.zap(world.ram, Gfn::new(gfn), pages));
        let gone = self.within(gfn, pages);
        assert_eq!(stale.is_some(), !gone.is_empty());
        for base in gone {
            self.mappings.remove(&base);
        }
        self.flush(stale);
    }

    fn write_protect(&mut self, gfn: u64, pages: u64) {
        let stale = self.watch(|world| world.space.write_protect(world.ram, Gfn::new(gfn), pages));
        let mut changed = false;
        for base in self.within(gfn, pages) {
            if let Some(mapping) = self.mappings.get_mut(&base) {
                changed |= mapping.writable;
                mapping.writable = false;
            }
        }
        assert_eq!(stale.is_some(), changed);
        self.flush(stale);
    }

    fn set_masks(&mut self, gfn: u64, pages: u64, mask: impl Fn(u64) -> u32, budget: u64) {
        let call = |world: &Self, budget| {
            let mut frames = Reserve::new(world.ram, budget);
            world
                .space
                .reserve_masks(world.ram, &mut frames, Gfn::new(gfn), pages)
        };
        let sights = self.sights();
        if self.watch(|world| call(world, budget)).is_err() {
            assert_eq!(self.sights(), sights);
            let enough = frames_for_masks(pages);
            assert!(budget < enough);
            self.watch(|world| call(world, enough))
                .expect("enough frames");
        }
        assert_eq!(
            self.sights(),
            sights,
            "phase 1 changes nothing that a guest can see"
        );
        let map = |i| Mask::from_raw(mask(i));
        let stale = self.watch(|world| {
            world
                .space
                .commit_masks(world.ram, Gfn::new(gfn), pages, map)
        });
        let mut expect_stale = false;
        if self.space.spp_enabled() {
            for i in 0..pages.min((1 << 36) - gfn) {
                expect_stale |= self.record_mask(gfn + i, mask(i));
            }
        }
        assert_eq!(stale.is_some(), expect_stale);
        self.flush(stale);
    }

    fn record_mask(&mut self, gfn: u64, new: u32) -> bool {
        self.vectors
            .insert((Level::Pd, Gfn::new(gfn).align_down(Level::Pd).get()));
        self.vectors
            .insert((Level::Pdpt, Gfn::new(gfn).align_down(Level::Pdpt).get()));
        let old = self.maps.insert(gfn, new).unwrap_or(u32::MAX);
        let present = self.mapping(gfn);
        if let (Some((base, Mapping { pages: 2.., .. })), true) = (present, new != u32::MAX) {
            self.mappings.remove(&base);
        }
        let in_use = present.is_some_and(|(_, mapping)| mapping.writable);
        old & !new != 0 || (old != new && in_use)
    }

    fn map_of(&self, gfn: u64) -> u32 {
        self.maps.get(&gfn).copied().unwrap_or(u32::MAX)
    }

    fn max_level(&self, gfn: u64) -> Level {
        let has = |level| {
            self.vectors
                .contains(&(level, Gfn::new(gfn).align_down(level).get()))
        };
        match (has(Level::Pd), has(Level::Pdpt)) {
            (true, _) if !self.is_vacant(gfn) => Level::Pt,
            (true, _) | (false, true) => Level::Pd,
            (false, false) => Level::Pdpt,
        }
    }

    /// Nothing in the 2-MiB region around a page is protected or mapped by a smaller leaf.
    fn is_vacant(&self, gfn: u64) -> bool {
        let base = Gfn::new(gfn).align_down(Level::Pd).get();
        let region = base..base + Level::Pd.pages();
        let mut maps = self.maps.range(region.clone());
        let mut mappings = self.mappings.range(region);
        maps.all(|(_, map)| *map == u32::MAX) && mappings.all(|(_, mapping)| mapping.pages > 1)
    }

    fn is_split(&self, gfn: u64, level: Level) -> bool {
        self.split
            .contains(&(level, Gfn::new(gfn).align_down(level).get()))
    }

    fn mapping(&self, gfn: u64) -> Option<(u64, Mapping)> {
        let (base, mapping) = self.mappings.range(..=gfn).next_back()?;
        (gfn - base < mapping.pages).then_some((*base, *mapping))
    }

    /// Bases of the mappings that cover any part of a range.
    fn within(&self, gfn: u64, pages: u64) -> Vec<u64> {
        let first = self.mapping(gfn).map_or(gfn, |(base, _)| base);
        self.mappings
            .range(first..gfn.saturating_add(pages))
            .map(|(base, _)| *base)
            .collect()
    }

    fn sights(&self) -> Vec<Sight> {
        universe()
            .iter()
            .map(|gfn| self.cpu.sight(gfn << 12))
            .collect()
    }

    /// Runs one call and then looks at each state of memory that it went through: a processor
    /// may have walked there.
    fn watch<T>(&mut self, call: impl FnOnce(&Self) -> T) -> T {
        self.ram.take_journal();
        let before = self.sights();
        let result = call(self);
        let after = self.sights();
        let journal = self.ram.take_journal();
        for change in journal.iter().rev() {
            self.ram.write(change.at, change.old);
        }
        assert_eq!(self.sights(), before);
        let mut unlinked = fresh(&journal);
        for change in &journal {
            self.ram.write(change.at, change.new);
            unlinked.remove(&(change.new & 0x000f_ffff_ffff_f000));
            if !unlinked.contains(&(change.at & !0xfff)) {
                for (i, sight) in self.sights().iter().enumerate() {
                    between(&before[i], sight, &after[i]);
                }
            }
        }
        result
    }

    /// Everything that a guest can find out, against the record. Each access is one by a processor
    /// of its own, as a violation would drop what the next access should find stale.
    pub(crate) fn check(&self, probes: &[Probe]) {
        for gfn in universe() {
            let number = Gfn::new(gfn);
            assert_eq!(self.space.mask(self.ram, number).raw(), self.map_of(gfn));
            assert_eq!(self.space.max_level(self.ram, number), self.max_level(gfn));
            let armed = self.armed(gfn);
            let leaf = self.space.leaf(self.ram, number);
            assert_eq!(leaf.is_some_and(|leaf| leaf.subpage), armed);
            self.check_reads(gfn);
            for probe in probes {
                self.check_write(gfn, *probe);
            }
        }
        self.check_ranges();
        self.audit();
    }

    /// A range shows what its pages show, also across tables and the end of the address space.
    fn check_ranges(&self) {
        for base in REGIONS {
            let start = base.saturating_sub(3);
            self.space.masks(self.ram, Gfn::new(start), 519, |i, mask| {
                assert_eq!(mask.raw(), self.map_of(start + i));
            });
        }
    }

    fn armed(&self, gfn: u64) -> bool {
        let writable = self
            .mapping(gfn)
            .is_some_and(|(_, mapping)| mapping.writable);
        writable && self.map_of(gfn) != u32::MAX
    }

    fn check_reads(&self, gfn: u64) {
        let gpa = gfn << 12;
        let done = self
            .mapping(gfn)
            .map(|(base, m)| m.hpa + ((gfn - base) << 12));
        let found = if done.is_some() { 0x28 } else { 0 };
        let outcome = |kind: u64, ok: bool| match done {
            Some(hpa) if ok => Outcome::Done(hpa),
            _ => Outcome::Violation(gpa, kind | found | 0x80),
        };
        let writable = self.mapping(gfn).is_some_and(|(_, m)| m.writable) && !self.armed(gfn);
        let walk = if self.accessed_dirty { 3 } else { 1 };
        let accesses = [
            (Access::Read, outcome(0x101, true)),
            (Access::Fetch, outcome(0x104, true)),
            (
                Access::Walk,
                outcome(walk, writable || !self.accessed_dirty),
            ),
            (Access::FlagUpdate, outcome(0x2, writable)),
        ];
        for (access, expected) in accesses {
            let outcome = self.cpu.clone().access(access, gpa, 1);
            assert_eq!(outcome, expected, "{access:?} {gpa:#x}");
            if let (Outcome::Violation(_, qualification), Access::FlagUpdate) = (outcome, access) {
                self.check_verdict(gfn, gpa, 1, qualification);
            }
        }
    }

    fn check_write(&self, gfn: u64, probe: Probe) {
        let gpa = (gfn << 12) + probe.offset;
        let room = 4096 - probe.offset;
        let crosses = probe.len > room;
        let mut expected = self.expect_write(gpa, probe.len.min(room), crosses);
        if crosses && matches!(expected, Outcome::Done(_)) {
            if let exit @ Outcome::Violation(..) =
                self.expect_write(gpa + room, probe.len - room, crosses)
            {
                expected = exit;
            }
        }
        let outcome = self.cpu.clone().access(Access::Write, gpa, probe.len);
        assert_eq!(outcome, expected, "{probe:?} at {gpa:#x}");
        if let Outcome::Violation(at, qualification) = outcome {
            let len = if at == gpa {
                probe.len
            } else {
                probe.len - room
            };
            self.check_verdict(at >> 12, at, len, qualification);
        }
    }

    /// One page's part of a write.
    fn expect_write(&self, gpa: u64, len: u64, crosses: bool) -> Outcome {
        let gfn = gpa >> 12;
        let Some((base, mapping)) = self.mapping(gfn) else {
            return Outcome::Violation(gpa, 0x182);
        };
        let denied = denied(self.map_of(gfn), gpa, len) != 0;
        let skipped = self.armed(gfn) && crosses && !self.crossing;
        if mapping.writable && !denied && !skipped {
            Outcome::Done(mapping.hpa + gpa - (base << 12))
        } else {
            Outcome::Violation(gpa, 0x1aa)
        }
    }

    fn check_verdict(&self, gfn: u64, gpa: u64, len: u64, qualification: u64) {
        let fault = WriteFault {
            gpa: Gpa::new(gpa),
            final_translation: qualification & 0x100 != 0,
            len: Some(len as u32),
        };
        let leaf = self.space.leaf(self.ram, Gfn::new(gfn));
        let map = self.space.mask(self.ram, Gfn::new(gfn));
        let denied = denied(self.map_of(gfn), gpa, len.min(4096 - gpa % 4096));
        for again in [false, true] {
            let expected = match (self.armed(gfn), fault.final_translation, denied) {
                (false, _, _) => Verdict::NotSubPage,
                (true, false, _) => Verdict::Ineligible,
                (true, true, 0) if again => Verdict::Ineligible,
                (true, true, 0) => Verdict::Retry,
                (true, true, mask) => Verdict::Denied {
                    mask: Mask::from_raw(mask),
                },
            };
            assert_eq!(fault.verdict(leaf, map, again), expected);
        }
    }
}

/// Sub-pages that a write touches and `map` denies, byte by byte.
fn denied(map: u32, gpa: u64, len: u64) -> u32 {
    (gpa..gpa + len)
        .map(|byte| 1 << (byte % 4096 / 128))
        .fold(0, |set, bit| set | bit)
        & !map
}

/// Frames that some store of the journal links: until then nothing in them can be seen.
fn fresh(journal: &[Change]) -> BTreeSet<u64> {
    let linked = |change: &Change| (change.old == 0).then_some(change.new & 0x000f_ffff_ffff_f000);
    journal.iter().filter_map(linked).collect()
}

/// A state in between gives no byte more than one of the ends gives, and takes none that both give.
fn between(before: &Sight, now: &Sight, after: &Sight) {
    let context = || format!("{before:x?} .. {now:x?} .. {after:x?}");
    assert!(!now.broken, "exit 49 or 66 on the way: {}", context());
    let mut most = 0;
    for end in [before, after] {
        if end.frame == now.frame {
            most |= end.writable;
        }
    }
    assert_eq!(
        now.writable & !most,
        0,
        "writable on the way: {}",
        context()
    );
    if before.frame == after.frame {
        let least = before.writable & after.writable;
        assert_eq!(least & !now.writable, 0, "denied on the way: {}", context());
        assert!(
            now.readable || !before.readable,
            "gone on the way: {}",
            context()
        );
    }
}
