// SPDX-License-Identifier: GPL-2.0

//! Maps changed under running stores: when `KVM_SPP_SET_MAPS` has returned, no
//! CPU goes by the old map any more.
//!
//! The guest adds 1 to A, which it may always write, and to B, whose map the
//! host changes. Every denied addition exits once and is skipped, so at the end
//! `rounds = B + exits`.

use crate::host;
use crate::ktap::{Env, Test, Verdict};
use crate::load::{self, rounds_of};
use crate::runner::{Flow, Runner};
use guest::{Program, DATA, PAGE_SIZE};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::Arc;
use vmm::{Exit, Vcpu, Vm};

pub(crate) const TESTS: &[Test] = &[
    Test::new(
        "protect: one sub-page of a shared page, stores stop at once",
        subpage,
    )
    .vmxon(),
    Test::new(
        "protect: whole page to map and back, stores stop at once",
        whole_page,
    ),
    Test::new(
        "protect: page inside a large page, stores stop at once",
        large_page,
    ),
    Test::new(
        "protect: two vCPUs store, stores of both stop at once",
        two_vcpus,
    )
    .vmxon(),
    Test::new(
        "protect: 64 pages at a time, stores stop at once",
        many_pages,
    ),
    Test::new(
        "protect: a denied store retried until allowed happens once",
        retried,
    ),
];

/// Two sub-pages of one page.
const A: u64 = DATA;
const B: u64 = DATA + 0x280;
const B_BIT: u32 = 1 << 5;

/// Exits of a vCPU that were denied stores, all of which were skipped.
type Exits = Arc<AtomicU64>;

/// Runs a guest that skips denied stores.
fn start(vm: &Vm, index: u64, program: Program, cpu: Option<usize>) -> (Runner, Exits) {
    let exits = Exits::default();
    let count = exits.clone();
    let vcpu = load::boot(vm, index, &program);
    let on_exit = move |vcpu: &mut Vcpu, exit: vmm::Result<Exit>| {
        let Exit::Spp(exit) = exit.unwrap() else {
            panic!("not a denied store");
        };
        count.fetch_add(1, SeqCst);
        vcpu.skip(program.len_at(exit.rip).unwrap()).unwrap();
        Flow::Go
    };
    (Runner::start(vm, vcpu, cpu, on_exit), exits)
}

/// Waits until the guest has done `n` more rounds.
fn advance(vm: &Vm, runner: &Runner, index: u64, n: u64) {
    let goal = load::word(vm, rounds_of(index)) + n;
    runner.wait("rounds go on", || load::word(vm, rounds_of(index)) >= goal);
}

/// Denies and allows what `targets` are in, `flips` times, under one or more
/// running guests. `set(deny)` changes the maps.
fn flip(vm: &Vm, runners: &[(Runner, Exits)], targets: &[u64], flips: usize, set: impl Fn(bool)) {
    let sample = || {
        targets
            .iter()
            .map(|&t| load::word(vm, t))
            .collect::<Vec<_>>()
    };
    for flip in 0..flips {
        set(true);
        let stopped = sample();
        for (index, (runner, _)) in (0..).zip(runners) {
            advance(vm, runner, index, 10);
        }
        assert_eq!(sample(), stopped, "a denied store happened, flip {flip}");
        set(false);
        for &target in targets {
            let before = load::word(vm, target);
            runners[0]
                .0
                .wait("allowed stores go on", || load::word(vm, target) > before);
        }
    }
}

/// The host's CPU for the thread that changes maps: the last one, so that
/// vCPU 0 runs elsewhere where there are two.
fn other_cpu() -> usize {
    host::cpus() - 1
}

fn check_sum(vm: &Vm, runner: Runner, exits: &Exits, index: u64, targets: &[u64]) {
    drop(runner.stop());
    let rounds = load::word(vm, rounds_of(index));
    let exits = exits.load(SeqCst);
    let stores: u64 = targets.iter().map(|&t| load::word(vm, t)).sum();
    let all = rounds * targets.len() as u64;
    // The guest may have been stopped in the middle of a round.
    let missing = all.checked_sub(stores + exits).unwrap();
    assert!(
        missing <= targets.len() as u64,
        "{all} stores, but {stores} happened and {exits} were denied"
    );
    assert!(exits > 0, "nothing was denied");
}

fn one_vcpu(vm: &Vm, flips: usize, set: impl Fn(bool)) {
    let _here = host::Pinned::here(other_cpu());
    let running = [start(vm, 0, load::counters(0, &[B]), Some(0))];
    advance(vm, &running[0].0, 0, 10);
    flip(vm, &running, &[B], flips, set);
    let [(runner, exits)] = running;
    check_sum(vm, runner, &exits, 0, &[B]);
}

fn subpage(env: &Env) -> Verdict {
    let vm = env.spp_vm()?;
    // Another sub-page stays denied, so the page keeps its 4-KiB SPP leaf.
    vm.set_maps(DATA, &[!1]).unwrap();
    one_vcpu(&vm, 300, |deny| {
        let map = if deny { !1 & !B_BIT } else { !1 };
        vm.set_maps(DATA, &[map]).unwrap();
    });
    Ok(())
}

fn whole_page(env: &Env) -> Verdict {
    let vm = env.spp_vm()?;
    one_vcpu(&vm, 300, |deny| {
        vm.set_maps(DATA, &[if deny { 0 } else { u32::MAX }])
            .unwrap();
    });
    Ok(())
}

fn large_page(env: &Env) -> Verdict {
    use crate::slot::{self, GPA};
    let vm = env.spp_vm()?;
    let area = slot::add_large(&vm)?;
    let page = GPA + 77 * PAGE_SIZE;
    let (far, near) = (GPA + 500 * PAGE_SIZE, page + 0x280);
    let _here = host::Pinned::here(other_cpu());
    let (runner, exits) = start(&vm, 0, load::counters(0, &[near, far]), Some(0));
    let at = |gpa: u64| usize::try_from(gpa - GPA).unwrap();
    for _ in 0..100 {
        vm.set_maps(page, &[!B_BIT]).unwrap();
        let stopped = area.load(at(near));
        let goal = area.load(at(far)) + 10;
        runner.wait("stores beside go on", || area.load(at(far)) >= goal);
        assert_eq!(area.load(at(near)), stopped, "a denied store happened");
        vm.set_maps(page, &[u32::MAX]).unwrap();
        runner.wait("allowed stores go on", || area.load(at(near)) > stopped + 2);
    }
    drop(runner.stop());
    let rounds = load::word(&vm, rounds_of(0));
    let denied = exits.load(SeqCst);
    assert!(denied > 0 && rounds - area.load(at(near)) - denied <= 1);
    assert!(rounds - area.load(at(far)) <= 1);
    Ok(())
}

fn two_vcpus(env: &Env) -> Verdict {
    let vm = env.spp_vm()?;
    let targets = [B, A + 0x600];
    let running = [0, 1].map(|index| {
        let program = load::counters(index, &[targets[index as usize]]);
        start(&vm, index, program, Some(index as usize % host::cpus()))
    });
    for (index, (runner, _)) in (0..).zip(&running) {
        advance(&vm, runner, index, 10);
    }
    flip(&vm, &running, &targets, 12, |deny| {
        let map = if deny { !(B_BIT | 1 << 12) } else { u32::MAX };
        vm.set_maps(DATA, &[map]).unwrap();
    });
    for (index, (runner, exits)) in (0..).zip(running) {
        check_sum(&vm, runner, &exits, index, &targets[index as usize..][..1]);
    }
    Ok(())
}

fn many_pages(env: &Env) -> Verdict {
    const PAGES: u64 = 64;
    let vm = env.spp_vm()?;
    let targets: Vec<u64> = (0..PAGES).map(|n| DATA + n * PAGE_SIZE + n * 32).collect();
    let _here = host::Pinned::here(other_cpu());
    let running = [start(&vm, 0, load::counters(0, &targets), Some(0))];
    flip(&vm, &running, &targets, 20, |deny| {
        let map = if deny { 0 } else { u32::MAX };
        vm.set_maps(DATA, &[map; PAGES as usize]).unwrap();
    });
    let [(runner, exits)] = running;
    check_sum(&vm, runner, &exits, 0, &targets);
    Ok(())
}

/// Here nothing is skipped: the store is tried until it may happen.
fn retried(env: &Env) -> Verdict {
    let vm = env.spp_vm()?;
    let program = load::counters(0, &[B]);
    let exits = Exits::default();
    let count = exits.clone();
    let _here = host::Pinned::here(other_cpu());
    let runner = Runner::start(
        &vm,
        load::boot(&vm, 0, &program),
        Some(0),
        move |_, exit| {
            assert!(matches!(exit.unwrap(), Exit::Spp(_)));
            count.fetch_add(1, SeqCst);
            host::give_way();
            Flow::Go
        },
    );
    for _ in 0..200 {
        vm.set_maps(DATA, &[!B_BIT]).unwrap();
        let (stopped, before) = (load::word(&vm, B), exits.load(SeqCst));
        runner.wait("the store is denied", || exits.load(SeqCst) > before + 2);
        assert_eq!(load::word(&vm, B), stopped);
        vm.set_maps(DATA, &[u32::MAX]).unwrap();
        runner.wait("the store happens", || load::word(&vm, B) > stopped + 5);
    }
    drop(runner.stop());
    let difference = load::word(&vm, rounds_of(0)) - load::word(&vm, B);
    assert!(difference <= 1, "{difference} stores were lost");
    Ok(())
}
