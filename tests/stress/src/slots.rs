// SPDX-License-Identifier: GPL-2.0

//! Memslots deleted, moved and added again under a running guest: when the
//! ioctl has returned, the guest does not reach the old memory any more.

use crate::area::Area;
use crate::ktap::{Env, Test, Verdict};
use crate::load::{self, rounds_of, Hasher};
use crate::runner::{Flow, Runner};
use crate::slot::{self, GPA};
use crate::{host, smp};
use guest::PAGE_SIZE;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::Arc;
use vmm::{Exit, Vm};

pub(crate) const TESTS: &[Test] = &[
    Test::new(
        "slots: deleted and added again, stores stop at once",
        deleted,
    ),
    Test::new("slots: moved away and back, stores stop at once", moved),
    Test::new(
        "slots: other memory in its place, no store reaches the old",
        exchanged,
    ),
    Test::new(
        "slots: a map survives deletion under a running guest",
        map_survives,
    ),
    Test::new(
        "slots: 200 others come and go, the guest does not notice",
        others,
    ),
];

/// Bytes of the second memslot.
const BYTES: usize = 16 * PAGE_SIZE as usize;
/// The word the guest counts in.
const AT: usize = 3 * PAGE_SIZE as usize + 8;

/// A guest that counts at `GPA + AT`, and how often it found no memory there, but
/// a device.
struct Counting {
    runner: Runner,
    gone: Arc<AtomicU64>,
}

impl Counting {
    fn start(vm: &Vm) -> Self {
        let gone = Arc::new(AtomicU64::new(0));
        let count = gone.clone();
        let vcpu = load::boot(vm, 0, &load::counters(0, &[GPA + AT as u64]));
        let runner = Runner::start(vm, vcpu, Some(0), move |_, exit| {
            match exit.unwrap() {
                Exit::MmioWrite(..) => {}
                Exit::Other(what) if what.starts_with("MmioRead") => {}
                other => panic!("{other:?}"),
            }
            count.fetch_add(1, SeqCst);
            host::give_way();
            Flow::Go
        });
        Self { runner, gone }
    }

    fn finds_nothing(&self) {
        let goal = self.gone.load(SeqCst) + 3;
        self.runner
            .wait("there is no memory", || self.gone.load(SeqCst) >= goal);
    }

    fn counts_in(&self, area: &Area) {
        let before = area.load(AT);
        self.runner
            .wait("the guest counts", || area.load(AT) > before + 5);
    }
}

fn deleted(env: &Env) -> Verdict {
    let vm = env.vm();
    let area = slot::add(&vm, BYTES);
    let guest = Counting::start(&vm);
    for _ in 0..150 {
        guest.counts_in(&area);
        slot::delete(&vm, &area);
        let stopped = area.load(AT);
        guest.finds_nothing();
        assert_eq!(area.load(AT), stopped, "a store after the deletion");
        slot::place(&vm, GPA, &area);
    }
    drop(guest.runner.stop());
    Ok(())
}

fn moved(env: &Env) -> Verdict {
    let vm = env.vm();
    let area = slot::add(&vm, BYTES);
    let guest = Counting::start(&vm);
    for _ in 0..150 {
        guest.counts_in(&area);
        slot::place(&vm, GPA + 0x100_0000, &area);
        let stopped = area.load(AT);
        guest.finds_nothing();
        assert_eq!(area.load(AT), stopped, "a store after the move");
        slot::place(&vm, GPA, &area);
    }
    // One page further down the guest counts in the page before.
    let other = AT - PAGE_SIZE as usize;
    let before = area.load(other);
    slot::place(&vm, GPA + PAGE_SIZE, &area);
    let stopped = area.load(AT);
    let counts = || area.load(other) > before + 5;
    guest
        .runner
        .wait("the guest counts one page before", counts);
    assert_eq!(area.load(AT), stopped);
    drop(guest.runner.stop());
    Ok(())
}

fn exchanged(env: &Env) -> Verdict {
    let vm = env.vm();
    let mut old = slot::add(&vm, BYTES);
    let guest = Counting::start(&vm);
    for _ in 0..150 {
        guest.counts_in(&old);
        slot::delete(&vm, &old);
        let new = slot::add(&vm, BYTES);
        let stopped = old.load(AT);
        guest.counts_in(&new);
        assert_eq!(old.load(AT), stopped, "a store to the old memory");
        old = new;
    }
    drop(guest.runner.stop());
    Ok(())
}

fn map_survives(env: &Env) -> Verdict {
    let vm = env.spp_vm()?;
    let area = slot::add(&vm, BYTES);
    let denied = Arc::new(AtomicU64::new(0));
    let count = denied.clone();
    let vcpu = load::boot(&vm, 0, &load::counters(0, &[GPA + AT as u64]));
    let runner = Runner::start(&vm, vcpu, Some(0), move |_, exit| {
        match exit.unwrap() {
            Exit::Spp(_) => drop(count.fetch_add(1, SeqCst)),
            // While the memory is away it is a device.
            Exit::MmioWrite(..) => {}
            Exit::Other(what) if what.starts_with("MmioRead") => {}
            other => panic!("{other:?}"),
        }
        host::give_way();
        Flow::Go
    });
    runner.wait("the guest counts", || area.load(AT) > 5);
    vm.set_maps(GPA + (AT as u64 & !(PAGE_SIZE - 1)), &[0])
        .unwrap();
    let stopped = area.load(AT);
    for _ in 0..100 {
        slot::delete(&vm, &area);
        slot::place(&vm, GPA, &area);
        let goal = denied.load(SeqCst) + 2;
        runner.wait("the store is denied", || denied.load(SeqCst) >= goal);
        assert_eq!(area.load(AT), stopped, "a denied store");
    }
    drop(runner.stop());
    Ok(())
}

fn others(env: &Env) -> Verdict {
    let hasher = Hasher {
        seed: 5,
        rounds: 3_000,
        cpuid: true,
    };
    let vm = env.vm();
    let leaf = load::max_leaf(&vm);
    let vcpu = load::boot(&vm, 0, &hasher.program(0));
    let runner = Runner::start(&vm, vcpu, Some(0), smp::until_hlt);
    for _ in 0..200 {
        let area = slot::add(&vm, BYTES);
        slot::delete(&vm, &area);
    }
    drop(runner.join());
    assert_eq!(load::word(&vm, rounds_of(0)), hasher.value(leaf, 1));
    Ok(())
}
