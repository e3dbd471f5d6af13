// SPDX-License-Identifier: GPL-2.0

//! Random sequences of everything that can happen to an address space. After each step the
//! modelled processor, with whatever its TLB was allowed to keep, must do what the record
//! of the requests says; on the way to it, no state may be worse than both ends.

mod world;

use model::ram::Ram;
use proptest::prelude::*;
use world::{op, probe, Op, World};

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 192,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn processor_does_what_was_asked(
        enabled in prop::bool::weighted(0.8),
        crossing: bool,
        accessed_dirty: bool,
        steps in prop::collection::vec((op(), prop::collection::vec(probe(), 3)), 1..24),
    ) {
        let ram = Ram::default();
        let mut world = World::new(&ram, crossing, accessed_dirty);
        if enabled {
            world.apply(&Op::Enable);
        }
        for (op, probes) in &steps {
            world.apply(op);
            world.check(probes);
        }
    }
}
