// SPDX-License-Identifier: GPL-2.0

//! The command line of `native-diff`.

use std::str::FromStr;

use crate::mode::Mode;

/// What `--help` prints.
pub const HELP: &str = "\
Usage: native-diff [OPTION]...
Execute random instructions on this processor and in the emulator, and compare.

  --cases N      how many, in all modes together (default 10000000)
  --seed S       which ones (default 1)
  --mode M       only 16-, 32- or 64-bit code (default all)
  --jobs N       processes at a time (default 1)
  --failures N   stop after so many differences (default 10)
  --coverage     print how often each operation was executed
  --strict       fail where a mode is not available, instead of skipping it
  --batch B      only this batch of 4096 cases; needs --mode
  --case N       only up to this case of the batch
  --help         print this

Exit status: 0 if nothing differs, 1 if something does, 2 if it could not run.
Modes that this system does not have are skipped, and that is said.
";

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Print [`HELP`].
    Help,
    /// Test.
    Run(Options),
    /// Be a process of a test.
    Child(Options),
}

/// How to do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How many cases.
    pub cases: u64,
    /// Which ones.
    pub seed: u64,
    /// The only mode.
    pub mode: Option<Mode>,
    /// Processes at a time.
    pub jobs: usize,
    /// Differences to stop after.
    pub failures: u64,
    /// Print counts of all operations.
    pub coverage: bool,
    /// Missing modes are failures.
    pub strict: bool,
    /// The first batch.
    pub batch: Option<u64>,
    /// The last case.
    pub case: Option<u64>,
    /// Child: how many batches.
    pub batches: u64,
    /// Child: say which case is next.
    pub trace: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cases: 10_000_000,
            seed: 1,
            mode: None,
            jobs: 1,
            failures: 10,
            coverage: false,
            strict: false,
            batch: None,
            case: None,
            batches: 1,
            trace: false,
        }
    }
}

/// Reads the arguments, without the program's name.
///
/// # Errors
///
/// What is wrong with them.
pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Action, String> {
    let mut options = Options::default();
    let mut child = false;
    while let Some(option) = args.next() {
        match option.as_str() {
            "--help" | "-h" => return Ok(Action::Help),
            "--cases" => options.cases = value(&option, &mut args)?,
            "--seed" => options.seed = value(&option, &mut args)?,
            "--mode" => options.mode = Some(value(&option, &mut args)?),
            "--jobs" => options.jobs = value(&option, &mut args)?,
            "--failures" => options.failures = value(&option, &mut args)?,
            "--coverage" => options.coverage = true,
            "--strict" => options.strict = true,
            "--batch" => options.batch = Some(value(&option, &mut args)?),
            "--case" => options.case = Some(value(&option, &mut args)?),
            "--child" => child = true,
            "--batches" => options.batches = value(&option, &mut args)?,
            "--trace" => options.trace = true,
            _ => return Err(format!("unknown option {option}")),
        }
    }
    if options.batch.is_some() && options.mode.is_none() {
        return Err("--batch needs --mode".into());
    }
    if options.case.is_some() && options.batch.is_none() {
        return Err("--case needs --batch".into());
    }
    Ok(match child {
        true => Action::Child(options),
        false => Action::Run(options),
    })
}

fn value<T: FromStr>(name: &str, args: &mut impl Iterator<Item = String>) -> Result<T, String>
where
    T::Err: ToString,
{
    let value = args.next().ok_or(format!("{name} needs a value"))?;
    value
        .parse()
        .map_err(|error: T::Err| format!("{name}: {}", error.to_string()))
}
