// SPDX-License-Identifier: GPL-2.0

//! The command line, the lines between processes, and what happens where a process ends
//! as it should not.

use std::path::Path;
use std::process::Command;

use native::mode::Mode;
use native::options::{parse, Action, Options};
use native::stats::{Count, Stats};

fn args(line: &str) -> Result<Action, String> {
    parse(line.split_whitespace().map(str::to_owned))
}

#[test]
fn options_are_read() {
    assert_eq!(args(""), Ok(Action::Run(Options::default())));
    assert_eq!(args("--seed 3 --help"), Ok(Action::Help));
    let wanted = Options {
        cases: 5,
        seed: 9,
        mode: Some(Mode::ALL[2]),
        jobs: 2,
        failures: 1,
        coverage: true,
        strict: true,
        batch: Some(7),
        case: Some(8),
        ..Options::default()
    };
    let line = "--cases 5 --seed 9 --mode 16 --jobs 2 --failures 1 --coverage --strict \
                --batch 7 --case 8";
    assert_eq!(args(line), Ok(Action::Run(wanted)));
    assert!(matches!(args("--child --trace"), Ok(Action::Child(_))));
}

#[test]
fn wrong_options_are_told() {
    for line in [
        "--seed",
        "--seed x",
        "--mode 17",
        "--cases -1",
        "--batch 1",
        "--mode 32 --case 1",
        "what",
    ] {
        assert!(args(line).is_err(), "{line}");
    }
}

#[test]
fn counts_pass_from_process_to_process() {
    let mut stats = Stats::default();
    stats.case("MOV (load)", true);
    stats.case("MOV (load)", false);
    stats.case("ADD", false);
    stats.rule("ReplayedFlags");
    stats.failures = 4;
    stats.unrepeatable = 5;
    let mut read = Stats::default();
    for line in stats.lines().lines() {
        assert_eq!(read.read(line), Some(()));
    }
    assert_eq!(read, stats);
    assert_eq!(read.read("something else"), None);
    read.add(&stats);
    assert_eq!(
        read.total(),
        Count {
            cases: 6,
            faults: 2
        }
    );
    assert_eq!(read.rules["ReplayedFlags"], 2);
}

fn run(line: &str) -> (Option<i32>, String) {
    let program = Path::new(env!("CARGO_BIN_EXE_native-diff"));
    let output = Command::new(program)
        .args(line.split_whitespace())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), text)
}

#[test]
fn the_program_tells_what_it_tested() {
    let (status, text) = run("--help");
    assert_eq!(status, Some(0));
    assert!(text.contains("--cases N"));
    assert_eq!(run("--wrong").0, Some(2));
    let (status, text) = run("--cases 4096 --mode 64 --coverage");
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("64-bit code: 4096 cases"), "{text}");
    assert!(text.contains("faults: MOV (load)"), "{text}");
}

/// A case alone is the same as in its batch.
#[test]
fn one_case_can_be_repeated() {
    let last = |text: &str, kind: &str| {
        let mut lines = text.lines().rev();
        let line = lines.find(|line| line.starts_with(kind));
        line.map(str::to_owned)
    };
    let child = "--child --trace --mode 64 --seed 3 --batch 5";
    let (_, whole) = run(&format!("{child} --batches 2 --case 100"));
    let (_, part) = run(&format!("{child} --batches 1 --case 100"));
    let wanted = whole.lines().nth(101);
    assert!(wanted.is_some_and(|line| line.starts_with("case 100 ")));
    assert_eq!(last(&part, "case").as_deref(), wanted);
    assert_eq!(last(&part, "done").as_deref(), Some("done"));
}
