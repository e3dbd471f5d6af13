// SPDX-License-Identifier: GPL-2.0

//! Emulated writes while others write, and while permissions change: everything here runs
//! on the software backend, so that the module makes every write to the pages.

use crate::host;
use crate::ktap::{Env, Skip, Test, Verdict};
use crate::load;
use crate::runner::{Flow, Runner};
use crate::slot::{self, GPA};
use crate::smp::until_hlt;
use guest::asm::*;
use guest::{AssembleError, Program, DATA, PAGE_SIZE};
use ioctl_api::subpage::KVM_SPP_CAP_SW;
use vmm::{Exit, Vcpu, Vm};

pub(crate) const TESTS: &[Test] = &[
    Test::new(
        "emulate: locked additions of two vCPUs all count",
        additions,
    ),
    Test::new(
        "emulate: locked additions across cache lines all count",
        split_additions,
    ),
    Test::new(
        "emulate: an emulated and an executed locked addition all count",
        mixed_additions,
    ),
    Test::new(
        "emulate: a stepped instruction obeys a map that comes and goes",
        stepped,
    ),
    Test::new("emulate: a string stops where a map comes and goes", string),
];

/// Additions of each vCPU.
const ROUNDS: u32 = 3_000;
/// The map that makes a page one with a map: its last sub-page is denied.
const OTHERS: u32 = !(1 << 31);

/// A VM whose writes to pages with a map are emulated.
fn vm(env: &Env) -> Result<Vm, Skip> {
    env.need_ours()?;
    let vm = env.vm();
    vm.enable_spp_with(KVM_SPP_CAP_SW)
        .expect("a software backend");
    Ok(vm)
}

fn add_all(vm: &Vm, targets: [u64; 2]) {
    let vcpus =
        [0, 1].map(|n| load::boot(vm, n, &load::locked_adder(n, targets[n as usize], ROUNDS)));
    let runners = vcpus.map(|vcpu| Runner::start(vm, vcpu, None, until_hlt));
    drop(runners.map(Runner::join));
}

fn additions(env: &Env) -> Verdict {
    let vm = vm(env)?;
    vm.set_maps(DATA, &[OTHERS]).unwrap();
    add_all(&vm, [DATA + 0x80; 2]);
    assert_eq!(load::word(&vm, DATA + 0x80), u64::from(2 * ROUNDS));
    Ok(())
}

fn unaligned(vm: &Vm, gpa: u64) -> u64 {
    let bytes = vm.read(gpa, 8).unwrap();
    u64::from_le_bytes(bytes.try_into().unwrap())
}

/// Across cache lines, and across pages, no instruction of the host's does it at once.
fn split_additions(env: &Env) -> Verdict {
    for target in [DATA + 0x7d, DATA + PAGE_SIZE - 3] {
        let vm = vm(env)?;
        vm.set_maps(DATA, &[OTHERS ^ 1 << 31 ^ 1 << 30, !(1 << 9)])
            .unwrap();
        add_all(&vm, [target; 2]);
        assert_eq!(unaligned(&vm, target), u64::from(2 * ROUNDS), "{target:#x}");
    }
    Ok(())
}

/// Two guest frames show one page of the host's; only one of them has a map.
fn mixed_additions(env: &Env) -> Verdict {
    const ALIAS: u64 = GPA + PAGE_SIZE;
    let vm = vm(env)?;
    let area = slot::add(&vm, PAGE_SIZE as usize);
    slot::show_again(&vm, ALIAS, &area);
    vm.set_maps(ALIAS, &[OTHERS]).unwrap();
    add_all(&vm, [GPA + 0x80, ALIAS + 0x80]);
    assert_eq!(area.load(0x80), u64::from(2 * ROUNDS));
    Ok(())
}

/// Runs `program` on one CPU while maps are set on the other; denied instructions are tried
/// again.
fn start(vm: &Vm, program: &Program) -> Runner {
    let vcpu = load::boot(vm, 0, program);
    Runner::start(vm, vcpu, Some(0), |_: &mut Vcpu, exit| {
        assert!(matches!(exit.unwrap(), Exit::Spp(_)));
        host::give_way();
        Flow::Go
    })
}

/// For ever: adds 1 to RCX, and has `store` bring it to memory.
fn endless(store: impl FnOnce(&mut CodeAssembler) -> Result<(), AssembleError>) -> Program {
    load::program(0, |a| {
        let mut again = a.create_label();
        a.mov(rbx, DATA)?;
        a.xor(ecx, ecx)?;
        a.set_label(&mut again)?;
        a.inc(rcx)?;
        store(a)?;
        a.jmp(again)?;
        Ok(vec![])
    })
}

/// Denies and allows in turn the sub-page of the word at `target`, and watches it.
fn flip(vm: &Vm, runner: &Runner, target: u64, denying: u32, flips: u32) {
    let _here = host::Pinned::here(host::cpus() - 1);
    for flip in 0..flips {
        runner.wait("allowed writes are made", {
            let before = load::word(vm, target);
            move || load::word(vm, target) != before
        });
        vm.set_maps(DATA, &[denying]).unwrap();
        let sub_page = || vm.read(target & !0x7f, 0x80).unwrap();
        let stopped = sub_page();
        for _ in 0..20 {
            host::give_way();
        }
        let now = sub_page();
        assert!(now == stopped, "a denied write happened, flip {flip}");
        vm.set_maps(DATA, &[OTHERS]).unwrap();
    }
}

/// FISTP is not emulated: the processor executes them on a private view.
fn stepped(env: &Env) -> Verdict {
    let vm = vm(env)?;
    vm.set_maps(DATA, &[OTHERS]).unwrap();
    let program = endless(|a| {
        a.mov(qword_ptr(rsp - 8), rcx)?;
        a.fild(qword_ptr(rsp - 8))?;
        a.fistp(qword_ptr(rbx + 0x200))
    });
    let runner = start(&vm, &program);
    flip(&vm, &runner, DATA + 0x200, OTHERS & !(1 << 4), 60);
    drop(runner.stop());
    Ok(())
}

/// REP STOSQ over three sub-pages, the one in the middle of which is denied at times.
fn string(env: &Env) -> Verdict {
    let vm = vm(env)?;
    vm.set_maps(DATA, &[OTHERS]).unwrap();
    let program = endless(|a| {
        a.mov(rax, rcx)?;
        a.mov(r8, rcx)?;
        a.mov(rdi, rbx)?;
        a.mov(ecx, 48)?;
        a.rep().stosq()?;
        a.mov(rcx, r8)
    });
    let runner = start(&vm, &program);
    flip(&vm, &runner, DATA + 0x80, OTHERS & !(1 << 1), 60);
    drop(runner.stop());
    Ok(())
}
