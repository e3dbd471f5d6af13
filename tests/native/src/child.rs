// SPDX-License-Identifier: GPL-2.0

//! A process of a test: it does some batches and tells its parent what it found.
//!
//! ```text
//!   batch N              begins
//!   case N BYTES         is executed next, with --trace
//!   | TEXT               a failure
//!   op ..., rule ..., failures ...      counts: see Stats
//!   skip REASON          this system cannot do it
//!   done                 the end
//! ```

use std::io::{self, Write};

use crate::case::Case;
use crate::cpu;
use crate::mode::Mode;
use crate::options::Options;
use crate::report;
use crate::session::{Failure, Session, BATCH};

/// Seconds of processor time for one batch, many times what it takes.
const SECONDS: u64 = 20;

/// Does what the options say.
///
/// # Errors
///
/// That the parent does not listen, or that no limits could be set.
pub fn run(options: &Options) -> Result<(), String> {
    let mut out = io::stdout().lock();
    let mode = options.mode.unwrap_or(Mode::ALL[0]);
    let mut session = match Session::new(mode, options.seed) {
        Ok(session) => session,
        Err(reason) => return say(&mut out, &format!("skip {reason}")),
    };
    cpu::confine(SECONDS.saturating_mul(options.batches))?;
    let first = options.batch.unwrap_or(0);
    let mut shown = 0;
    for batch in first..first.saturating_add(options.batches) {
        say(&mut out, &format!("batch {batch}"))?;
        let up_to = options.case.unwrap_or(BATCH - 1);
        let mut trace = |number: u64, case: &Case| {
            if options.trace {
                let line = format!("case {number} {:02x?}", case.code());
                // The parent may be gone; then nobody wants to know.
                let _ = say(&mut out, &line);
            }
        };
        for failure in session.batch(batch, up_to, &mut trace) {
            shown += 1;
            show(&mut out, &failure, mode, options)?;
            if shown >= options.failures {
                break;
            }
        }
        if shown >= options.failures {
            break;
        }
    }
    say(&mut out, session.stats.lines().trim_end())?;
    say(&mut out, "done")
}

fn show(
    out: &mut impl Write,
    failure: &Failure,
    mode: Mode,
    options: &Options,
) -> Result<(), String> {
    let text = report::failure(failure, mode, options.seed);
    for line in text.lines() {
        say(out, &format!("| {line}"))?;
    }
    say(out, "|")
}

fn say(out: &mut impl Write, line: &str) -> Result<(), String> {
    let mut write = || writeln!(out, "{line}").and_then(|()| out.flush());
    write().map_err(|error| format!("stdout: {error}"))
}
