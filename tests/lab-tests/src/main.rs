// SPDX-License-Identifier: GPL-2.0

//! Tests of the device from user space, on one CPU: every ioctl with its
//! errors and every VM exit. What is plain KVM passes with `/dev/kvm` too, which
//! says that the expectation is KVM's and not just ours.
//!
//! ```text
//!   system ── vm ── vcpu      ioctls, by the file they are made on
//!   modes ── exits ── events  guests that run, through machine
//!   spp                       sub-page write permissions
//! ```

mod emulate;
mod events;
mod exits;
mod harness;
mod machine;
mod modes;
mod raw;
mod spp;
mod system;
mod vcpu;
mod vm;

use harness::{Backend, Lab, Test};
use std::process::ExitCode;

const USAGE: &str = "\
usage: spp-tests [--device PATH] [--backend hw|sw] [--list] [FILTER]...

  --device PATH    the device to test (/dev/kvm-spp)
  --backend hw|sw  who checks sub-page maps: the processor or the module
                   (the best there is)
  --list           print the names of the tests
  FILTER           run the tests whose name contains it

Output is KTAP; the exit status is 0 if no test failed.";

/// What the command line asks for.
struct Args {
    device: String,
    backend: Option<Backend>,
    list: bool,
    filters: Vec<String>,
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut parsed = Args {
        device: vmm::DEVICE.to_owned(),
        backend: None,
        list: false,
        filters: Vec::new(),
    };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--device" => parsed.device = args.next().ok_or("--device needs a path")?,
            "--backend" => {
                parsed.backend = match args.next().as_deref() {
                    Some("hw") => Some(Backend::Hardware),
                    Some("sw") => Some(Backend::Software),
                    _ => return Err("--backend needs hw or sw".to_owned()),
                }
            }
            "--list" => parsed.list = true,
            "--help" | "-h" => return Err(String::new()),
            option if option.starts_with('-') => return Err(format!("unknown option {option}")),
            filter => parsed.filters.push(filter.to_owned()),
        }
    }
    Ok(parsed)
}

fn tests() -> impl Iterator<Item = &'static Test> {
    [
        &[system::TESTS],
        vm::ALL,
        vcpu::ALL,
        &[modes::TESTS],
        exits::ALL,
        events::ALL,
        emulate::ALL,
        emulate::COMPLETION,
        emulate::GUARDED,
        emulate::BACKEND,
        spp::ALL,
    ]
    .into_iter()
    .flatten()
    .copied()
    .flatten()
}

fn main() -> ExitCode {
    let args = match parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(error) if error.is_empty() => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("spp-tests: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let wanted = |test: &&Test| {
        args.filters.is_empty()
            || args
                .filters
                .iter()
                .any(|f| test.name().contains(f.as_str()))
    };
    let selected: Vec<&Test> = tests().filter(wanted).collect();
    if selected.is_empty() {
        eprintln!("spp-tests: no test has such a name");
        return ExitCode::from(2);
    }
    if args.list {
        for test in selected {
            println!("{}", test.name());
        }
        return ExitCode::SUCCESS;
    }
    if let Err(error) = std::fs::File::open(&args.device) {
        println!("Bail out! {}: {error}", args.device);
        return ExitCode::from(2);
    }
    match harness::run(&selected, &Lab::new(args.device, args.backend)) {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
