// SPDX-License-Identifier: GPL-2.0

//! Concurrency, coexistence and lifetime: what needs threads, processes, a
//! second hypervisor or the module itself to come and go. Runs as root inside
//! the lab, best with two CPUs; KTAP on stdout.

mod area;
mod bus;
mod coexist;
mod emulate;
mod host;
mod hotplug;
mod ktap;
mod lifetime;
mod load;
mod mmu;
mod module;
mod nmi;
mod protect;
mod reclaim;
mod runner;
mod signals;
mod slot;
mod slots;
mod smp;
mod uffd;

use ktap::{Env, Test};
use std::process::ExitCode;

const HELP: &str = "\
Usage: spp-stress [OPTION]... [FILTER]...
Stress the hypervisor with threads, processes and modules. A FILTER is a part of
a test's name; without one all tests run. Tests that need something this machine
has not (a second CPU, kvm_intel, swap) are skipped and say so.

  --device PATH   device of the hypervisor (default /dev/kvm-spp)
  --module PATH   module to load and unload (default kvm_spp.ko); loaded first
                  when /dev/kvm-spp is missing
  --own-vmxon     only the tests that matter where kvm_intel is not loaded
  --list          print the names of the tests
  --help          print this

Exit status: 0 if no test failed, 1 if one did, 2 if it could not run.
";

/// All tests, in the order in which they run.
fn tests() -> Vec<Test> {
    [
        smp::TESTS,
        protect::TESTS,
        emulate::TESTS,
        slots::TESTS,
        mmu::TESTS,
        uffd::TESTS,
        reclaim::TESTS,
        bus::TESTS,
        signals::TESTS,
        hotplug::TESTS,
        coexist::TESTS,
        lifetime::TESTS,
        module::TESTS,
        nmi::TESTS,
    ]
    .concat()
}

enum Action {
    Help,
    List,
    Run(Env, Vec<String>),
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Action, String> {
    let mut env = Env::new();
    let mut filters = Vec::new();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--help" | "-h" => return Ok(Action::Help),
            "--list" => return Ok(Action::List),
            "--device" => env.device = value()?,
            "--module" => env.module = value()?.into(),
            "--own-vmxon" => env.own_vmxon = true,
            option if option.starts_with('-') => return Err(format!("unknown option {option}")),
            _ => filters.push(arg),
        }
    }
    Ok(Action::Run(env, filters))
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok(Action::Help) => print!("{HELP}"),
        Ok(Action::List) => tests().iter().for_each(|test| println!("{}", test.name)),
        Ok(Action::Run(env, filters)) => {
            if let Err(error) = host::ensure_module(&env) {
                eprintln!("spp-stress: {error}");
                return ExitCode::from(2);
            }
            return ktap::run(&tests(), &env, &filters);
        }
        Err(error) => {
            eprintln!("spp-stress: {error}\n{HELP}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
