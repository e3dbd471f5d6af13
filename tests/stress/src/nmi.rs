// SPDX-License-Identifier: GPL-2.0

//! Non-maskable interrupts of the host while a guest runs: each must reach the
//! host's handler and leave NMIs unblocked, and the guest must not notice.

use crate::host;
use crate::ktap::{Env, Skip, Test, Verdict};
use crate::load;
use crate::runner::{Flow, Runner};
use guest::DATA;
use std::fs;
use std::path::Path;
use vmm::Exit;

pub(crate) const TESTS: &[Test] = &[Test::new(
    "nmi: the host takes NMIs on a CPU that runs a guest",
    backtraces,
)
.vmxon()];

const TRIGGER: &str = "/proc/sysrq-trigger";

/// NMIs that CPU `cpu` has taken.
fn taken(cpu: usize) -> u64 {
    let text = fs::read_to_string("/proc/interrupts").unwrap();
    let line = text
        .lines()
        .find(|line| line.trim_start().starts_with("NMI:"))
        .expect("/proc/interrupts counts no NMIs");
    line.split_whitespace()
        .nth(1 + cpu)
        .unwrap()
        .parse()
        .unwrap()
}

/// The kernel sends NMIs to the other CPUs to print where they are.
fn backtraces(env: &Env) -> Verdict {
    env.need_cpus(2)?;
    // Where there is no switch for it, it is on.
    host::set("/proc/sys/kernel/sysrq", "1");
    if !Path::new(TRIGGER).exists() {
        return Err(Skip("the kernel has no magic SysRq".into()));
    }
    let vm = env.vm();
    let vcpu = load::boot(&vm, 0, &load::counters(0, &[DATA]));
    let runner = Runner::start(&vm, vcpu, Some(1), |_, exit| {
        assert!(!matches!(exit, Ok(Exit::Shutdown)), "the guest got the NMI");
        Flow::Go
    });
    host::pin(host::thread(), &[0]);
    let before = taken(1);
    for _ in 0..10 {
        let goal = load::word(&vm, DATA) + 50;
        runner.wait("the guest goes on", || load::word(&vm, DATA) >= goal);
        host::set(TRIGGER, "l");
    }
    let goal = load::word(&vm, DATA) + 50;
    runner.wait("the guest goes on", || load::word(&vm, DATA) >= goal);
    assert_eq!(taken(1) - before, 10, "NMIs of CPU 1");
    drop(runner.stop());
    Ok(())
}
