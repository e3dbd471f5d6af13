// SPDX-License-Identifier: GPL-2.0

//! `kvm_intel` and `kvm_spp` at the same time. Each guest checks its own
//! registers, MSR and CPUID by what it computes: see [`Hasher`].

use crate::host::{self, KVM};
use crate::ktap::{Env, Test, Verdict};
use crate::load::{self, Hasher, MEMORY};
use crate::runner::{Flow, Runner};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::Arc;
use vmm::{Exit, Vm};

pub(crate) const TESTS: &[Test] = &[
    Test::new("coexist: 3000 turns with kvm_intel on one CPU", one_cpu),
    Test::new("coexist: preempting each other on one CPU", preempting),
    Test::new("coexist: with kvm_intel on another CPU", two_cpus),
    Test::new("coexist: both moved between CPUs", moved),
    Test::new(
        "coexist: KVM's VMs come and go beside ours",
        kvm_comes_and_goes,
    ),
    Test::new(
        "coexist: our VMs come and go beside KVM's",
        ours_come_and_go,
    ),
    Test::new("coexist: kvm_intel cannot be unloaded", kvm_stays),
    Test::new("coexist: KVM's guest outlives kvm_spp", outlives),
];

/// A guest that computes for ever, checked at every HLT.
struct Computing {
    runner: Runner,
    halts: Arc<AtomicU64>,
    // Dropped last.
    _vm: Vm,
}

impl Computing {
    fn start(device: &str, hasher: Hasher, cpu: Option<usize>) -> Self {
        let vm = Vm::open(device, MEMORY).unwrap();
        let leaf = load::max_leaf(&vm);
        let halts = Arc::new(AtomicU64::new(0));
        let count = halts.clone();
        let vcpu = load::boot(&vm, 0, &hasher.program(0));
        let mut value = hasher.value(leaf, 0);
        let runner = Runner::start(&vm, vcpu, cpu, move |vcpu, exit| {
            assert_eq!(exit.unwrap(), Exit::Hlt);
            value = hasher.next(leaf, value);
            assert_eq!(vcpu.regs().unwrap().r8, value, "the guest miscalculates");
            count.fetch_add(1, SeqCst);
            host::give_way();
            Flow::Go
        });
        Self {
            runner,
            halts,
            _vm: vm,
        }
    }

    fn halts(&self) -> u64 {
        self.halts.load(SeqCst)
    }

    fn advance(&self, halts: u64) {
        let goal = self.halts() + halts;
        self.runner
            .wait("the guest goes on", || self.halts() >= goal);
    }

    fn stop(self) {
        drop(self.runner.stop());
    }
}

const QUICK: Hasher = Hasher {
    seed: 0x1234_5678,
    rounds: 5,
    cpuid: true,
};
const OTHER: Hasher = Hasher {
    seed: 0x0bad_cafe,
    rounds: 7,
    cpuid: true,
};
/// Longer than a time slice from one HLT to the next.
const LONG: u64 = 1_500_000;

fn both(env: &Env, hashers: [Hasher; 2], cpus: [usize; 2]) -> [Computing; 2] {
    [
        Computing::start(&env.device, hashers[0], Some(cpus[0])),
        Computing::start(KVM, hashers[1], Some(cpus[1])),
    ]
}

fn one_cpu(env: &Env) -> Verdict {
    env.need_kvm()?;
    let guests = both(env, [QUICK, OTHER], [0, 0]);
    while guests.iter().any(|guest| guest.halts() < 3000) {
        guests.iter().for_each(|guest| guest.advance(100));
    }
    guests.into_iter().for_each(Computing::stop);
    Ok(())
}

fn preempting(env: &Env) -> Verdict {
    env.need_kvm()?;
    let long = |hasher| Hasher {
        rounds: LONG,
        cpuid: false,
        ..hasher
    };
    let guests = both(env, [long(QUICK), long(OTHER)], [0, 0]);
    guests.iter().for_each(|guest| guest.advance(4));
    guests.into_iter().for_each(Computing::stop);
    Ok(())
}

fn two_cpus(env: &Env) -> Verdict {
    env.need_kvm()?;
    env.need_cpus(2)?;
    let guests = both(env, [QUICK, OTHER], [0, 1]);
    guests.iter().for_each(|guest| guest.advance(1000));
    guests.into_iter().for_each(Computing::stop);
    Ok(())
}

fn moved(env: &Env) -> Verdict {
    env.need_kvm()?;
    env.need_cpus(2)?;
    let guests = both(env, [QUICK, OTHER], [0, 0]);
    let threads = guests.each_ref().map(|guest| guest.runner.thread());
    for round in 0..100 {
        // All four ways for two threads on two CPUs, in turn.
        host::pin(threads[0], &[round % 2]);
        host::pin(threads[1], &[round / 2 % 2]);
        guests.iter().for_each(|guest| guest.advance(5));
    }
    guests.into_iter().for_each(Computing::stop);
    Ok(())
}

/// One VM from creation to its end, with a vCPU that halts twice on `cpu`.
fn whole_life(device: &str, hasher: Hasher, cpu: usize) {
    let guest = Computing::start(device, hasher, Some(cpu));
    guest.advance(2);
    guest.stop();
}

fn kvm_comes_and_goes(env: &Env) -> Verdict {
    env.need_kvm()?;
    let last = host::cpus() - 1;
    let ours = [0, last].map(|cpu| Computing::start(&env.device, QUICK, Some(cpu)));
    for round in 0..10 {
        whole_life(KVM, OTHER, round % (last + 1));
        ours.iter().for_each(|guest| guest.advance(1));
    }
    ours.into_iter().for_each(Computing::stop);
    Ok(())
}

fn ours_come_and_go(env: &Env) -> Verdict {
    env.need_kvm()?;
    let last = host::cpus() - 1;
    let theirs = [0, last].map(|cpu| Computing::start(KVM, OTHER, Some(cpu)));
    for round in 0..10 {
        whole_life(&env.device, QUICK, round % (last + 1));
        theirs.iter().for_each(|guest| guest.advance(1));
    }
    theirs.into_iter().for_each(Computing::stop);
    Ok(())
}

fn kvm_stays(env: &Env) -> Verdict {
    env.need_ours()?;
    env.need_kvm()?;
    let refused = host::unload_module("kvm_intel").unwrap_err();
    // With O_NONBLOCK the kernel says so at once, instead of waiting.
    assert_eq!(refused.raw_os_error(), Some(libc::EWOULDBLOCK));
    assert!(host::loaded("kvm_intel"));
    whole_life(&env.device, QUICK, 0);
    whole_life(KVM, OTHER, 0);
    Ok(())
}

fn outlives(env: &Env) -> Verdict {
    env.need_ours()?;
    env.need_kvm()?;
    let theirs = Computing::start(KVM, OTHER, Some(0));
    for _ in 0..3 {
        whole_life(&env.device, QUICK, 0);
        theirs.advance(5);
        host::unload_module("kvm_spp").unwrap();
        theirs.advance(5);
        host::load_module(&env.module, "").unwrap();
    }
    theirs.stop();
    Ok(())
}
