// SPDX-License-Identifier: GPL-2.0

//! Runs tests and reports in KTAP (Documentation/dev-tools/ktap.rst of Linux).

use crate::host;
use std::io::Write;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;
use vmm::Vm;

/// Why a test cannot run on this machine.
pub(crate) struct Skip(pub(crate) String);

/// A failure is a panic.
pub(crate) type Verdict = Result<(), Skip>;

/// One test.
#[derive(Clone, Copy)]
pub(crate) struct Test {
    /// Group and what is claimed.
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Env) -> Verdict,
    /// It depends on whose VMXON the module runs under.
    pub(crate) vmxon: bool,
}

impl Test {
    pub(crate) const fn new(name: &'static str, run: fn(&Env) -> Verdict) -> Self {
        Self {
            name,
            run,
            vmxon: false,
        }
    }

    /// Also worth running where the module does its own VMXON.
    pub(crate) const fn vmxon(mut self) -> Self {
        self.vmxon = true;
        self
    }
}

/// What the tests run on.
pub(crate) struct Env {
    pub(crate) device: String,
    pub(crate) module: PathBuf,
    pub(crate) own_vmxon: bool,
}

impl Env {
    pub(crate) fn new() -> Self {
        Self {
            device: vmm::DEVICE.into(),
            module: "kvm_spp.ko".into(),
            own_vmxon: false,
        }
    }

    /// Whether `device` is the module's.
    pub(crate) fn ours(&self) -> bool {
        self.device == vmm::DEVICE
    }

    pub(crate) fn need_ours(&self) -> Verdict {
        match self.ours() {
            true => Ok(()),
            false => Err(Skip("is about kvm_spp".into())),
        }
    }

    pub(crate) fn need_cpus(&self, cpus: usize) -> Verdict {
        match host::cpus() >= cpus {
            true => Ok(()),
            false => Err(Skip(format!("needs {cpus} CPUs"))),
        }
    }

    pub(crate) fn need_kvm(&self) -> Verdict {
        match std::path::Path::new(host::KVM).exists() {
            true => Ok(()),
            false => Err(Skip("kvm_intel is not loaded".into())),
        }
    }

    /// A VM with `MEMORY` bytes.
    pub(crate) fn vm(&self) -> Vm {
        Vm::open(&self.device, crate::load::MEMORY).unwrap()
    }

    /// The same with sub-page write permissions.
    pub(crate) fn spp_vm(&self) -> Result<Vm, Skip> {
        let vm = self.vm();
        match vm.enable_spp() {
            Ok(()) => Ok(vm),
            Err(vmm::Error::NoSpp) => Err(Skip("no sub-page write permissions".into())),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Prints a panic as comment lines, whatever thread it happens on.
fn comment_panics() {
    std::panic::set_hook(Box::new(|what| {
        for line in what.to_string().lines() {
            println!("# {line}");
        }
    }));
}

/// Runs the tests that match and says how many failed.
pub(crate) fn run(tests: &[Test], env: &Env, filters: &[String]) -> ExitCode {
    let wanted = |test: &&Test| {
        (filters.is_empty() || filters.iter().any(|part| test.name.contains(part)))
            && (!env.own_vmxon || test.vmxon)
    };
    let tests: Vec<&Test> = tests.iter().filter(wanted).collect();
    comment_panics();
    println!("KTAP version 1\n1..{}", tests.len());
    let mut failed = 0;
    for (number, test) in (1..).zip(&tests) {
        let name = test.name;
        let start = Instant::now();
        match catch_unwind(AssertUnwindSafe(|| (test.run)(env))) {
            Ok(Ok(())) => println!("ok {number} {name}"),
            Ok(Err(Skip(why))) => println!("ok {number} {name} # SKIP {why}"),
            Err(_) => {
                failed += 1;
                println!("not ok {number} {name}");
            }
        }
        println!("# {} ms of the machine's time", start.elapsed().as_millis());
        let _ = std::io::stdout().flush();
    }
    println!("# {} of {} tests failed", failed, tests.len());
    match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
