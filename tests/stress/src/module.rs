// SPDX-License-Identifier: GPL-2.0

//! The module comes and goes.

use crate::host;
use crate::ktap::{Env, Skip, Test, Verdict};
use crate::lifetime::Machine;
use crate::load::{self, Hasher};
use crate::runner::{Flow, Runner};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::Arc;
use vmm::Exit;

pub(crate) const TESTS: &[Test] = &[
    Test::new("module: loaded and unloaded 100 times", hundred_times).vmxon(),
    Test::new(
        "module: not unloaded while a file or mapping exists",
        refused,
    )
    .vmxon(),
    Test::new(
        "module: kvm_intel comes and goes under our guest",
        kvm_under_ours,
    )
    .vmxon(),
];

const NAME: &str = "kvm_spp";

fn hundred_times(env: &Env) -> Verdict {
    env.need_ours()?;
    for round in 0..100 {
        host::unload_module(NAME).unwrap();
        assert!(!Path::new(&env.device).exists(), "the device stays");
        host::load_module(&env.module, "").unwrap();
        if round % 5 == 0 {
            Machine::new(env).run();
        }
    }
    Ok(())
}

fn refused(env: &Env) -> Verdict {
    env.need_ours()?;
    for kept in 0..Machine::PARTS {
        let mut machine = Machine::new(env);
        machine.run();
        (0..Machine::PARTS)
            .filter(|&part| part != kept)
            .for_each(|part| machine.close(part));
        let error = host::unload_module(NAME).expect_err("unloaded in use");
        assert_eq!(error.raw_os_error(), Some(libc::EWOULDBLOCK));
    }
    // Nothing is in use any more.
    host::unload_module(NAME).unwrap();
    host::load_module(&env.module, "").unwrap();
    Ok(())
}

/// Where `kvm_intel` was not there when we were loaded, it does not stay for us:
/// VMX operation begins and ends between two stays in our guest.
fn kvm_under_ours(env: &Env) -> Verdict {
    env.need_ours()?;
    if host::loaded("kvm_intel") {
        return Err(Skip("kvm_intel is loaded, and must stay".into()));
    }
    let modules = ["irqbypass", "kvm", "kvm-intel"];
    let file = |name: &str| format!("/lib/modules/{name}.ko");
    if !modules.iter().all(|name| Path::new(&file(name)).exists()) {
        return Err(Skip("no kvm-intel.ko".into()));
    }
    let vm = env.vm();
    let leaf = load::max_leaf(&vm);
    let hasher = Hasher {
        seed: 77,
        rounds: 20,
        cpuid: true,
    };
    let mut value = hasher.value(leaf, 0);
    let halts = Arc::new(AtomicU64::new(0));
    let count = halts.clone();
    let vcpu = load::boot(&vm, 0, &hasher.program(0));
    let runner = Runner::start(&vm, vcpu, None, move |vcpu, exit| {
        assert_eq!(exit.unwrap(), Exit::Hlt);
        value = hasher.next(leaf, value);
        assert_eq!(vcpu.regs().unwrap().r8, value);
        count.fetch_add(1, SeqCst);
        Flow::Go
    });
    let advance = || {
        let goal = halts.load(SeqCst) + 20;
        runner.wait("the guest goes on", || halts.load(SeqCst) >= goal);
    };
    for _ in 0..3 {
        for name in modules {
            host::load_module(Path::new(&file(name)), "").unwrap();
        }
        advance();
        for name in modules.iter().rev() {
            host::unload_module(&name.replace('-', "_")).unwrap();
        }
        advance();
    }
    drop(runner.stop());
    Ok(())
}
