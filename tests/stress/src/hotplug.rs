// SPDX-License-Identifier: GPL-2.0

//! CPUs go and come while guests run, and the system sleeps.

use crate::host;
use crate::ktap::{Env, Skip, Test, Verdict};
use crate::load::{self, Hasher};
use crate::runner::{Flow, Runner};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::Arc;
use vmm::{Exit, Vm};

pub(crate) const TESTS: &[Test] = &[
    Test::new("hotplug: CPU 1 goes and comes under two guests", cpu_one).vmxon(),
    Test::new(
        "hotplug: maps changed while a CPU was away hold there",
        maps_meanwhile,
    ),
];

const ONLINE: &str = "/sys/devices/system/cpu/cpu1/online";

/// Switches CPU 1 off and on again, even after a failure.
struct Away;

impl Away {
    fn new() -> Self {
        assert!(host::set(ONLINE, "0"));
        Self
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        host::set(ONLINE, "1");
    }
}

fn need_hotplug(env: &Env) -> Verdict {
    env.need_cpus(2)?;
    match std::path::Path::new(ONLINE).exists() {
        true => Ok(()),
        false => Err(Skip("the kernel cannot switch CPUs off".into())),
    }
}

/// A guest that computes for ever, on `cpu` first.
fn computing(vm: &Vm, index: u64, cpu: usize) -> (Runner, Arc<AtomicU64>) {
    let hasher = Hasher {
        seed: 3 + index as u32,
        rounds: 30,
        cpuid: true,
    };
    let leaf = load::max_leaf(vm);
    let halts = Arc::new(AtomicU64::new(0));
    let count = halts.clone();
    let vcpu = load::boot(vm, index, &hasher.program(index));
    let mut value = hasher.value(leaf, 0);
    let runner = Runner::start(vm, vcpu, None, move |vcpu, exit| {
        assert_eq!(exit.unwrap(), Exit::Hlt);
        value = hasher.next(leaf, value);
        assert_eq!(vcpu.regs().unwrap().r8, value, "the guest miscalculates");
        count.fetch_add(1, SeqCst);
        Flow::Go
    });
    host::pin(runner.thread(), &[cpu]);
    (runner, halts)
}

fn advance((runner, halts): &(Runner, Arc<AtomicU64>)) {
    let goal = halts.load(SeqCst) + 20;
    runner.wait("the guest goes on", || halts.load(SeqCst) >= goal);
}

fn cpu_one(env: &Env) -> Verdict {
    need_hotplug(env)?;
    let vm = env.vm();
    let guests = [computing(&vm, 0, 0), computing(&vm, 1, 1)];
    for _ in 0..3 {
        guests.iter().for_each(advance);
        let away = Away::new();
        guests.iter().for_each(advance);
        drop(away);
        host::pin(guests[1].0.thread(), &[1]);
        guests.iter().for_each(advance);
    }
    for (runner, _) in guests {
        drop(runner.stop());
    }
    Ok(())
}

/// CPU 1 has used the page as writable; while it is off the page gets a map, and
/// nobody can tell it then.
fn maps_meanwhile(env: &Env) -> Verdict {
    use guest::DATA;
    need_hotplug(env)?;
    let vm = env.spp_vm()?;
    let vcpu = load::boot(&vm, 0, &load::counters(0, &[DATA]));
    let start = |vcpu| {
        Runner::start(&vm, vcpu, Some(1), |_, exit| {
            assert!(matches!(exit.unwrap(), Exit::Spp(_)));
            Flow::Done
        })
    };
    let runner = start(vcpu);
    runner.wait("the guest counts", || load::word(&vm, DATA) > 10);
    let vcpu = runner.stop();
    let away = Away::new();
    vm.set_maps(DATA, &[!1]).unwrap();
    let stopped = load::word(&vm, DATA);
    drop(away);
    drop(start(vcpu).join());
    assert_eq!(load::word(&vm, DATA), stopped, "a denied store happened");
    Ok(())
}
