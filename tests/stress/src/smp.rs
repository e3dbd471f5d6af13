// SPDX-License-Identifier: GPL-2.0

//! Several vCPUs and VMs at the same time.

use crate::ktap::{Env, Test, Verdict};
use crate::load::Hasher;
use crate::runner::{Flow, Runner};
use crate::{host, load};
use guest::asm::{qword_ptr, rbx, rcx, rdx};
use guest::{Program, SCRATCH};
use vmm::{Exit, Vcpu, Vm};

pub(crate) const TESTS: &[Test] = &[
    Test::new("smp: two vCPUs pinned to two CPUs take turns", pinned_turns).vmxon(),
    Test::new("smp: two vCPUs on any CPU take turns", free_turns),
    Test::new("smp: two vCPUs moved between CPUs take turns", moved_turns).vmxon(),
    Test::new(
        "smp: locked additions of two vCPUs all count",
        locked_additions,
    ),
    Test::new("smp: two VMs compute at the same time", two_vms).vmxon(),
    Test::new("smp: eight vCPUs on two CPUs compute", eight_vcpus),
];

/// Whose turn it is: the number of the vCPU.
const TURN: u64 = SCRATCH + 0x800;
/// How many turns there have been.
const TURNS: u64 = SCRATCH + 0x840;

/// Waits for its turn, counts it, gives it to `other`; `rounds` times.
fn turns(index: u64, other: i32, rounds: u64) -> Program {
    load::program(index, |a| {
        let mut wait = a.create_label();
        a.mov(rbx, TURN)?;
        a.mov(rdx, TURNS)?;
        a.mov(rcx, rounds)?;
        a.set_label(&mut wait)?;
        a.pause()?;
        a.cmp(qword_ptr(rbx), index as i32)?;
        a.jne(wait)?;
        a.inc(qword_ptr(rdx))?;
        a.mov(qword_ptr(rbx), other)?;
        a.dec(rcx)?;
        a.jnz(wait)?;
        a.hlt()?;
        Ok(vec![])
    })
}

/// For a guest that runs until it halts.
pub(crate) fn until_hlt(_vcpu: &mut Vcpu, exit: vmm::Result<Exit>) -> Flow {
    assert_eq!(exit.unwrap(), Exit::Hlt);
    Flow::Done
}

fn start_turns(vm: &Vm, rounds: u64, cpus: [Option<usize>; 2]) -> [Runner; 2] {
    let first = load::boot(vm, 0, &turns(0, 1, rounds));
    let second = load::boot(vm, 1, &turns(1, 0, rounds));
    [
        Runner::start(vm, first, cpus[0], until_hlt),
        Runner::start(vm, second, cpus[1], until_hlt),
    ]
}

fn pinned_turns(env: &Env) -> Verdict {
    env.need_cpus(2)?;
    let vm = env.vm();
    let runners = start_turns(&vm, 20_000, [Some(0), Some(1)]);
    drop(runners.map(Runner::join));
    assert_eq!(load::word(&vm, TURNS), 40_000);
    Ok(())
}

fn free_turns(env: &Env) -> Verdict {
    // On one CPU each turn lasts a time slice.
    let rounds = if host::cpus() > 1 { 5_000 } else { 5 };
    let vm = env.vm();
    let runners = start_turns(&vm, rounds, [None, None]);
    drop(runners.map(Runner::join));
    assert_eq!(load::word(&vm, TURNS), 2 * rounds);
    Ok(())
}

fn moved_turns(env: &Env) -> Verdict {
    env.need_cpus(2)?;
    let vm = env.vm();
    let rounds = u64::MAX;
    let runners = start_turns(&vm, rounds, [Some(0), Some(1)]);
    let threads = runners.each_ref().map(Runner::thread);
    for round in 0..60 {
        let before = load::word(&vm, TURNS);
        host::pin(threads[0], &[(round + 1) % 2]);
        host::pin(threads[1], &[round % 2]);
        runners[0].wait("turns are taken after a move", || {
            load::word(&vm, TURNS) > before + 4
        });
    }
    drop(runners.map(Runner::stop));
    Ok(())
}

fn locked_additions(env: &Env) -> Verdict {
    const ROUNDS: u32 = 50_000;
    let vm = env.vm();
    let program = |index| load::locked_adder(index, TURNS, ROUNDS);
    let vcpus = [0, 1].map(|index| load::boot(&vm, index, &program(index)));
    let runners = vcpus.map(|vcpu| Runner::start(&vm, vcpu, None, until_hlt));
    drop(runners.map(Runner::join));
    assert_eq!(load::word(&vm, TURNS), u64::from(2 * ROUNDS));
    Ok(())
}

/// Runs `vcpus` hashers in each of `vms` and checks what they compute.
fn hash_all(vms: &[Vm], vcpus: u64, rounds: u64) {
    let leaf = load::max_leaf(&vms[0]);
    let hasher = |vm: usize, index: u64| Hasher {
        seed: 1 + vm as u32 * 1000 + index as u32,
        rounds,
        cpuid: true,
    };
    let mut runners = Vec::new();
    for (number, vm) in vms.iter().enumerate() {
        for index in 0..vcpus {
            let vcpu = load::boot(vm, index, &hasher(number, index).program(index));
            runners.push(Runner::start(vm, vcpu, None, until_hlt));
        }
    }
    runners.into_iter().for_each(|runner| drop(runner.join()));
    for (number, vm) in vms.iter().enumerate() {
        for index in 0..vcpus {
            let got = load::word(vm, load::rounds_of(index));
            let want = hasher(number, index).value(leaf, 1);
            assert_eq!(got, want, "VM {number}, vCPU {index}");
        }
    }
}

fn two_vms(env: &Env) -> Verdict {
    hash_all(&[env.vm(), env.vm()], 1, 10_000);
    Ok(())
}

fn eight_vcpus(env: &Env) -> Verdict {
    hash_all(&[env.vm()], 8, 2_000);
    Ok(())
}
