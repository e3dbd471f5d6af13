// SPDX-License-Identifier: GPL-2.0

//! The emulator against this processor: a moderate number of cases in each mode, and what
//! they cover. `cargo run --release -p native` runs more of them.

use std::io::Write;
use std::path::Path;

use emulate::insn::CodeSize;
use emulate::op::Op;
use native::allowed::OPS;
use native::features::Features;
use native::mode::Mode;
use native::options::Options;
use native::parent;

/// Cases of each mode: enough that each operation occurs.
const CASES: u64 = 60_000;

/// Says it even where the output of tests is captured.
fn say(line: &str) {
    // Nobody can be told if this fails.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Operations that a mode or this processor does not have.
fn absent(op: Op, mode: Mode, missing: &[&str]) -> bool {
    let long = mode.0 == CodeSize::Bits64;
    let feature = match op {
        Op::Pusha | Op::Popa => return long,
        Op::Movsxd | Op::Cmpxchg16b if !long => return true,
        Op::Cmpxchg16b => "CMPXCHG16B",
        Op::Movdiri => "MOVDIRI",
        Op::Movdir64b => "MOVDIR64B",
        Op::MovbeLoad | Op::MovbeStore => "MOVBE",
        Op::Crc32 => "SSE4.2",
        Op::Popcnt => "POPCNT",
        Op::Lzcnt => "LZCNT",
        Op::Tzcnt => "BMI1",
        Op::VmaskmovStore => "AVX2",
        _ => return false,
    };
    missing.contains(&feature)
}

#[test]
fn the_emulator_does_what_the_processor_does() {
    let program = Path::new(env!("CARGO_BIN_EXE_native-diff"));
    let missing = Features::read().unwrap().missing();
    for mode in Mode::ALL {
        let options = Options {
            cases: CASES,
            mode: Some(mode),
            ..Options::default()
        };
        let outcome = parent::run(program, &options, &|line| say(line)).unwrap();
        assert!(
            outcome.failures.is_empty(),
            "{}",
            outcome.failures.join("\n")
        );
        if let Some(reason) = outcome.skipped.get(&mode.bits()) {
            say(&format!("SKIPPED: {mode}-bit code, NOT TESTED: {reason}"));
            continue;
        }
        let stats = &outcome.stats[&mode.bits()];
        assert!(stats.total().cases >= CASES);
        for op in OPS.iter().filter(|op| !absent(**op, mode, &missing)) {
            let count = stats.ops.get(op.name()).copied().unwrap_or_default();
            let retired = count.cases - count.faults;
            assert!(count.cases >= 20, "{}, {mode}: {count:?}", op.name());
            assert!(
                retired >= 5 && count.faults >= 1,
                "{}, {mode}: {count:?}",
                op.name()
            );
        }
    }
    if !missing.is_empty() {
        say(&format!("NOT TESTED, not here: {}", missing.join(", ")));
    }
}

/// The same seed tests the same.
#[test]
fn a_seed_repeats_a_test() {
    let program = Path::new(env!("CARGO_BIN_EXE_native-diff"));
    let count = |seed| {
        let options = Options {
            cases: 8192,
            seed,
            mode: Some(Mode(CodeSize::Bits64)),
            ..Options::default()
        };
        let mut outcome = parent::run(program, &options, &|_| ()).unwrap();
        outcome.stats.remove(&64).unwrap()
    };
    assert_eq!(count(7), count(7));
    assert_ne!(count(7), count(8));
}
