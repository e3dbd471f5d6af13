// SPDX-License-Identifier: GPL-2.0

//! Distributes the cases to processes, watches them, and sums up.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::mode::Mode;
use crate::options::Options;
use crate::session::BATCH;
use crate::stats::Stats;

/// Batches that one process does.
const TASK: u64 = 64;
/// A process that says nothing for so long hangs.
const PATIENCE: Duration = Duration::from_secs(120);
/// From one line of progress to the next.
const PROGRESS: Duration = Duration::from_secs(5);

/// What came of a test.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Counts by mode.
    pub stats: BTreeMap<u8, Stats>,
    /// Modes that are not available here, and why.
    pub skipped: BTreeMap<u8, String>,
    /// Failures and crashes, as text.
    pub failures: Vec<String>,
}

impl Outcome {
    /// Cases of all modes.
    pub fn cases(&self) -> u64 {
        self.stats.values().map(|stats| stats.total().cases).sum()
    }
}

/// Some batches of one mode.
#[derive(Clone, Copy, Debug)]
struct Task {
    mode: Mode,
    first: u64,
    batches: u64,
}

/// Runs a test with `program`, which is native-diff. Progress goes to `progress`.
///
/// # Errors
///
/// That no process could be started.
pub fn run(
    program: &Path,
    options: &Options,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Outcome, String> {
    let shared = Mutex::new(Shared {
        tasks: tasks(options),
        outcome: Outcome::default(),
        began: Instant::now(),
        said: Instant::now(),
        error: None,
    });
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| work(program, options, &shared, progress));
        }
    });
    let shared = shared.into_inner().map_err(|_| "a thread has failed")?;
    match shared.error {
        Some(error) => Err(error),
        None => Ok(shared.outcome),
    }
}

struct Shared {
    tasks: VecDeque<Task>,
    outcome: Outcome,
    began: Instant,
    said: Instant,
    error: Option<String>,
}

/// Half of the cases are 64-bit code, a quarter each 32- and 16-bit code.
fn tasks(options: &Options) -> VecDeque<Task> {
    if let (Some(first), Some(mode)) = (options.batch, options.mode) {
        let task = Task {
            mode,
            first,
            batches: 1,
        };
        return [task].into();
    }
    let share = |mode: Mode| match (options.mode, mode.bits()) {
        (Some(only), _) if only != mode => 0,
        (Some(_), _) => options.cases,
        (None, 64) => options.cases - 2 * (options.cases / 4),
        (None, _) => options.cases / 4,
    };
    let mut tasks = Vec::new();
    for mode in Mode::ALL {
        let batches = share(mode).div_ceil(BATCH);
        let mut first = 0;
        while first < batches {
            let count = TASK.min(batches - first);
            let place = (first as f64 / batches as f64, mode.bits());
            let task = Task {
                mode,
                first,
                batches: count,
            };
            tasks.push((place, task));
            first += count;
        }
    }
    // All modes go on at the same pace.
    tasks.sort_by(|(a, _), (b, _)| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
    tasks.into_iter().map(|(_, task)| task).collect()
}

fn work(
    program: &Path,
    options: &Options,
    shared: &Mutex<Shared>,
    progress: &(dyn Fn(&str) + Sync),
) {
    while let Some(task) = next(options, shared) {
        let report = Report::of(program, options, task);
        let Ok(mut shared) = shared.lock() else {
            return;
        };
        shared.take(task, report);
        if shared.said.elapsed() > PROGRESS {
            shared.said = Instant::now();
            progress(&shared.line(options));
        }
    }
}

fn next(options: &Options, shared: &Mutex<Shared>) -> Option<Task> {
    let mut shared = shared.lock().ok()?;
    if shared.error.is_some() || shared.outcome.failures.len() as u64 >= options.failures {
        return None;
    }
    loop {
        let task = shared.tasks.pop_front()?;
        if !shared.outcome.skipped.contains_key(&task.mode.bits()) {
            return Some(task);
        }
    }
}

impl Shared {
    fn take(&mut self, task: Task, report: Result<Report, String>) {
        let bits = task.mode.bits();
        match report {
            Err(error) => self.error = Some(error),
            Ok(report) => {
                if let Some(reason) = report.skip {
                    self.outcome.skipped.insert(bits, reason);
                    return;
                }
                self.outcome
                    .stats
                    .entry(bits)
                    .or_default()
                    .add(&report.stats);
                self.outcome.failures.extend(report.failures);
            }
        }
    }

    fn line(&self, options: &Options) -> String {
        let cases = self.outcome.cases();
        let seconds = self.began.elapsed().as_secs_f64();
        format!(
            "{cases} of {} cases, {:.0}/s, {} failures",
            options.cases,
            cases as f64 / seconds,
            self.outcome.failures.len()
        )
    }
}

/// What a process told.
#[derive(Default)]
struct Report {
    stats: Stats,
    skip: Option<String>,
    failures: Vec<String>,
    /// The last failure has more lines.
    open: bool,
    batch: u64,
    case: String,
    done: bool,
}

impl Report {
    /// Lets a process do a task. If it dies, another one finds out where.
    fn of(program: &Path, options: &Options, task: Task) -> Result<Self, String> {
        let (mut report, status) = Self::once(program, options, task, false)?;
        if report.done || report.skip.is_some() {
            return Ok(report);
        }
        let again = Task {
            first: report.batch,
            batches: 1,
            ..task
        };
        let (traced, _) = Self::once(program, options, again, true)?;
        let place = match traced.done {
            true => "and not a second time".to_owned(),
            false => format!("at case {}", traced.case),
        };
        report.failures.push(format!(
            "the process ended with {status}, {place}\n\
             repeat: native-diff --seed {} --mode {} --batch {}\n",
            options.seed, task.mode, report.batch
        ));
        Ok(report)
    }

    fn once(
        program: &Path,
        options: &Options,
        task: Task,
        trace: bool,
    ) -> Result<(Self, String), String> {
        let mut child = spawn(program, options, task, trace)?;
        let mut report = Self::default();
        let status = report.listen(&mut child);
        Ok((report, status))
    }

    /// Reads lines until there are no more. Returns how the process ended.
    fn listen(&mut self, child: &mut Child) -> String {
        let (sender, receiver) = mpsc::channel();
        let output = child.stdout.take();
        let reader = std::thread::spawn(move || {
            let lines = output.into_iter().flat_map(|o| BufReader::new(o).lines());
            for line in lines.map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let hangs = loop {
            match receiver.recv_timeout(PATIENCE) {
                Ok(line) => self.line(&line),
                Err(RecvTimeoutError::Disconnected) => break false,
                Err(RecvTimeoutError::Timeout) => break true,
            }
        };
        if hangs {
            // It may have ended by itself at last.
            let _ = child.kill();
        }
        let status = child.wait();
        let _ = reader.join();
        match status {
            Ok(_) if hangs => format!("silence for {} s", PATIENCE.as_secs()),
            Ok(status) => describe(status),
            Err(error) => error.to_string(),
        }
    }

    fn line(&mut self, line: &str) {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        match kind {
            "batch" => self.batch = rest.parse().unwrap_or(self.batch),
            "case" => rest.clone_into(&mut self.case),
            "skip" => self.skip = Some(rest.to_owned()),
            "done" => self.done = true,
            "|" if rest.is_empty() => self.open = false,
            "|" => self.text(rest),
            _ => {
                if self.stats.read(line).is_none() {
                    self.text(line);
                }
            }
        }
    }

    /// A line of the failure that is being told.
    fn text(&mut self, line: &str) {
        if !self.open {
            self.failures.push(String::new());
            self.open = true;
        }
        if let Some(failure) = self.failures.last_mut() {
            failure.push_str(line);
            failure.push('\n');
        }
    }
}

fn spawn(program: &Path, options: &Options, task: Task, trace: bool) -> Result<Child, String> {
    let mut command = Command::new(program);
    let number = |n: u64| n.to_string();
    command
        .arg("--child")
        .args(["--seed", &number(options.seed)])
        .args(["--mode", &task.mode.to_string()])
        .args(["--batch", &number(task.first)])
        .args(["--batches", &number(task.batches)])
        .args(["--failures", &number(options.failures)]);
    if let Some(case) = options.case {
        command.args(["--case", &number(case)]);
    }
    if trace {
        command.arg("--trace");
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", program.display()))
}

fn describe(status: ExitStatus) -> String {
    match status.code() {
        Some(crate::cpu::BROKEN) => "a fault of the harness itself".to_owned(),
        _ => status.to_string(),
    }
}

/// Writes what came of a test, for people.
///
/// # Errors
///
/// Those of writing.
pub fn summary(
    out: &mut impl Write,
    outcome: &Outcome,
    options: &Options,
    missing: &[&str],
) -> std::io::Result<()> {
    for failure in &outcome.failures {
        writeln!(out, "DIFFERENT: {failure}")?;
    }
    for (bits, stats) in outcome.stats.iter().rev() {
        let total = stats.total();
        writeln!(
            out,
            "{bits}-bit code: {} cases, {} of them faults, {} differ",
            total.cases, total.faults, stats.failures
        )?;
        if options.coverage {
            for (op, count) in &stats.ops {
                writeln!(
                    out,
                    "    {:9} cases, {:9} faults: {op}",
                    count.cases, count.faults
                )?;
            }
        }
        for (rule, count) in &stats.rules {
            writeln!(out, "    {count} cases under the rule {rule}")?;
        }
        if stats.unrepeatable > 0 {
            let count = stats.unrepeatable;
            writeln!(out, "    {count} DIFFERED ONCE and not when repeated")?;
        }
    }
    for (bits, reason) in outcome.skipped.iter().rev() {
        writeln!(out, "SKIPPED: {bits}-bit code, NOT TESTED: {reason}")?;
    }
    if !missing.is_empty() {
        writeln!(out, "NOT TESTED, not here: {}", missing.join(", "))?;
    }
    Ok(())
}
