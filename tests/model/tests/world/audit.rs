// SPDX-License-Identifier: GPL-2.0

//! The raw words of all tables, against the invariants of the design.

use std::collections::BTreeMap;

use super::World;

const FRAME: u64 = 0x000f_ffff_ffff_f000;

impl World<'_> {
    pub(super) fn audit(&self) {
        let mut frames = 0;
        let vectors = self.vector_words(&mut frames);
        for (gfn, vector) in &vectors {
            let expected = spread(self.map_of(*gfn));
            assert_eq!(*vector, expected, "I3: vector of {gfn:#x}");
        }
        let mut leaves = Vec::new();
        self.ept_words(self.roots[0].get(), 4, 0, &mut leaves, &mut frames);
        assert_eq!(leaves.len(), self.mappings.len());
        for (gfn, level, raw) in leaves {
            if raw >> 61 & 1 == 1 {
                assert_eq!((raw & 2, level), (0, 1), "I1: {raw:#x} at {gfn:#x}");
                assert!(vectors.contains_key(&gfn), "I1: no vector at {gfn:#x}");
            } else if raw & 2 == 2 {
                let pages = 1 << (9 * (level - 1));
                let protected = self
                    .maps
                    .range(gfn..gfn + pages)
                    .find(|(_, map)| **map != u32::MAX);
                assert_eq!(protected, None, "I2: writable leaf {raw:#x} at {gfn:#x}");
            }
        }
        self.count_frames(frames);
    }

    /// Each frame is in exactly one place of one tree, and the walk that frees them finds it.
    fn count_frames(&self, reachable: usize) {
        let mut visited = Vec::new();
        self.space
            .for_each_table(self.ram, |table| visited.push(table));
        assert_eq!(visited.len(), reachable);
        visited.sort();
        assert_eq!(visited, self.ram.frames());
    }

    fn vector_words(&self, frames: &mut usize) -> BTreeMap<u64, u64> {
        let mut vectors = BTreeMap::new();
        if let Some(root) = self.roots.get(1) {
            self.sppt_words(root.get(), 4, 0, &mut vectors, frames);
        }
        vectors
    }

    fn sppt_words(
        &self,
        table: u64,
        level: u64,
        base: u64,
        vectors: &mut BTreeMap<u64, u64>,
        frames: &mut usize,
    ) {
        *frames += 1;
        for index in 0..512 {
            let raw = self.ram.read(table + index * 8);
            let gfn = base + (index << (9 * (level - 1)));
            if level == 1 {
                vectors.insert(gfn, raw);
            } else if raw & 1 == 1 {
                self.sppt_words(raw & FRAME, level - 1, gfn, vectors, frames);
            }
        }
    }

    fn ept_words(
        &self,
        table: u64,
        level: u64,
        base: u64,
        leaves: &mut Vec<(u64, u64, u64)>,
        frames: &mut usize,
    ) {
        *frames += 1;
        for index in 0..512 {
            let raw = self.ram.read(table + index * 8);
            let gfn = base + (index << (9 * (level - 1)));
            if raw & 7 == 0 {
                continue;
            }
            if level == 1 || raw & 0x80 != 0 {
                leaves.push((gfn, level, raw));
            } else {
                self.ept_words(raw & FRAME, level - 1, gfn, leaves, frames);
            }
        }
    }
}

fn spread(map: u32) -> u64 {
    (0..32)
        .filter(|bit| map >> bit & 1 == 1)
        .map(|bit| 1_u64 << (2 * bit))
        .sum()
}
