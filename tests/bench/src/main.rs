// SPDX-License-Identifier: GPL-2.0

//! Ticks per round trip, on the module and on `kvm_intel` in the same boot.
//!
//! In the lab the time-stamp counter counts instructions, so the figures repeat
//! to the digit, whatever else the host does. They say nothing about how long
//! an instruction takes: no test may depend on them.
//!
//! ```text
//!   rows ──► subject ──► vmm           one guest on one device, timed
//!    │          └──────► program       what it runs
//!    └─────► table                     the results
//!   counters ──► subject               VMX instructions, where they are counted
//! ```

mod counters;
mod program;
mod rows;
mod subject;
mod table;
mod ticks;

use counters::{Counters, Trip, TRIPS};
use rows::{Row, ROWS};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use table::Line;

/// Result of a measurement.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const HELP: &str = "\
usage: spp-bench [OPTION]...

Measures ticks of the time-stamp counter per round trip of a guest, the least of
3 rounds. In the lab one tick is one instruction, and its emulator counts the VMX
instructions among them.

  --device PATH  the module's device (/dev/kvm-spp)
  --peer PATH    what to compare with (/dev/kvm); its column is empty without it
  --json FILE    write the figures to FILE, too
  --help         print this

Exit status: 0 if everything ran, however long it took; 1 if something did not;
2 for a usage error.
";

struct Options {
    device: PathBuf,
    peer: PathBuf,
    json: Option<PathBuf>,
}

fn parse(mut args: impl Iterator<Item = String>) -> std::result::Result<Option<Options>, String> {
    let mut options = Options {
        device: vmm::DEVICE.into(),
        peer: "/dev/kvm".into(),
        json: None,
    };
    while let Some(arg) = args.next() {
        let mut value = || args.next().map(PathBuf::from).ok_or(format!("{arg} what?"));
        match arg.as_str() {
            "--device" => options.device = value()?,
            "--peer" => options.peer = value()?,
            "--json" => options.json = Some(value()?),
            "--help" | "-h" => return Ok(None),
            _ => return Err(format!("unknown argument {arg}")),
        }
    }
    Ok(Some(options))
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok(Some(options)) => bench(&options),
        Ok(None) => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("spp-bench: {why}\nTry --help.");
            ExitCode::from(2)
        }
    }
}

fn bench(options: &Options) -> ExitCode {
    let mut failures = 0;
    let device = options.device.as_path();
    let peer = options.peer.exists().then_some(options.peer.as_path());
    let lines = time_rows(device, peer, &mut failures);
    println!(
        "Ticks of the time-stamp counter, the least of {} rounds. In the lab 1 tick is\n\
         1 instruction. ratio: kvm_spp / kvm_intel; issue: kvm_intel when it was planned.\n",
        ticks::ROUNDS
    );
    print!("{}", table::text("ticks per round trip", &lines));
    let mut tables = vec![("ticks", lines)];
    tables.extend(count_trips(device, peer, &mut failures));
    if let Some(path) = &options.json {
        if let Err(why) = std::fs::write(path, table::json(&tables)) {
            eprintln!("spp-bench: {}: {why}", path.display());
            failures += 1;
        }
    }
    if failures == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn time_rows(device: &Path, peer: Option<&Path>, failures: &mut u32) -> Vec<Line> {
    let mut time = |row: &Row, device: &Path| {
        let ticks = (row.ticks)(device).map_err(|why| why.to_string());
        *failures += u32::from(ticks.is_err());
        Some(ticks)
    };
    let line = |row: &Row| Line {
        name: row.name,
        ours: time(row, device),
        theirs: peer.filter(|_| !row.spp).and_then(|peer| time(row, peer)),
        planned: row.planned,
    };
    ROWS.iter().map(line).collect()
}

fn count_trips(
    device: &Path,
    peer: Option<&Path>,
    failures: &mut u32,
) -> Vec<(&'static str, Vec<Line>)> {
    let Some(counters) = Counters::find() else {
        println!("\nThis machine does not count VMX instructions.");
        return Vec::new();
    };
    let mut count = |trip: &Trip| {
        let lines = value_of(trip.lines(&counters, device, peer), trip.name, failures)?;
        print!(
            "\n{}",
            table::text(&format!("instructions per {}", trip.name), &lines)
        );
        Some((trip.name, lines))
    };
    TRIPS.iter().filter_map(&mut count).collect()
}

/// The value, or a complaint and one more failure.
fn value_of<T>(result: Result<T>, what: &str, failures: &mut u32) -> Option<T> {
    result
        .map_err(|why| {
            eprintln!("spp-bench: {what}: {why}");
            *failures += 1;
        })
        .ok()
}
