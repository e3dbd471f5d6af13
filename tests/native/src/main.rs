// SPDX-License-Identifier: GPL-2.0

//! Compares the emulator with the processor: see the library.

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use native::features::Features;
use native::options::{self, Action, Options};
use native::{child, parent};

fn main() -> ExitCode {
    let result = match options::parse(std::env::args().skip(1)) {
        Ok(Action::Help) => {
            print!("{}", options::HELP);
            Ok(true)
        }
        Ok(Action::Child(options)) => child::run(&options).map(|()| true),
        Ok(Action::Run(options)) => test(&options),
        Err(error) => Err(format!("{error}\nTry --help.")),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("native-diff: {error}");
            ExitCode::from(2)
        }
    }
}

/// Tests, and says whether all is the same.
fn test(options: &Options) -> Result<bool, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let missing = Features::read()?.missing();
    let began = Instant::now();
    let outcome = parent::run(&program, options, &|line| eprintln!("{line}"))?;
    let mut out = std::io::stdout().lock();
    parent::summary(&mut out, &outcome, options, &missing)
        .and_then(|()| {
            let seconds = began.elapsed().as_secs_f64();
            let rate = outcome.cases() as f64 / seconds;
            let cases = outcome.cases();
            writeln!(out, "{cases} cases in {seconds:.1} s, {rate:.0}/s")
        })
        .map_err(|error| format!("stdout: {error}"))?;
    let complete = !options.strict || outcome.skipped.is_empty();
    Ok(outcome.failures.is_empty() && complete && outcome.cases() > 0)
}
