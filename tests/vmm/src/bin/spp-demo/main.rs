// SPDX-License-Identifier: GPL-2.0

//! Demonstration of sub-page write permissions.
//!
//! A 64-bit guest stores to all sub-pages of several pages, each page under
//! another map. Every denied store must leave the guest once and change
//! nothing, every allowed one must write and not leave it. The result is drawn
//! as a grid and compared, cell by cell, with what the manual says
//! (SDM 3C 29.3.4). The same work is then done under whole-page protection, to
//! count how many exits that takes.

mod args;
mod experiment;
mod grid;
mod maps;
mod verdict;

use args::{Action, Options};
use experiment::{Experiment, Outcome};
use guest::{StorePattern, DATA, SCRATCH};
use std::error::Error;
use std::process::ExitCode;
use verdict::{Cell, Verdict};

const FAILED: u8 = 1;
const COULD_NOT_RUN: u8 = 2;

fn main() -> ExitCode {
    let options = match args::parse(std::env::args().skip(1)) {
        Ok(Action::Run(options)) => options,
        Ok(Action::Help) => {
            print!("{}", args::HELP);
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            eprintln!("spp-demo: {why}\nTry --help.");
            return ExitCode::from(COULD_NOT_RUN);
        }
    };
    match demonstrate(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(why) => {
            eprintln!("spp-demo: {}: {why}", options.device.display());
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}

/// Runs both experiments and prints them; whether all was as it should be.
fn demonstrate(options: &Options) -> Result<bool, Box<dyn Error>> {
    let maps = maps::all(options.seed);
    let granted: Vec<u32> = maps.iter().map(|m| m.map).collect();
    let pattern = StorePattern {
        base: DATA,
        pages: maps.len() as u64,
        scratch: SCRATCH,
    };
    println!(
        "A guest on {} stores to {} pages:\n",
        options.device.display(),
        pattern.pages
    );

    let subpage = Experiment {
        pattern,
        granted: &granted,
        enforced: &granted,
    };
    let fine = subpage.run(&options.device)?;
    let verdict = Verdict::new(&subpage, &fine);
    print!(
        "{}",
        grid::draw(&maps, &verdict.cells, options.color.wanted())
    );

    let coarse_maps: Vec<u32> = granted.iter().map(|&map| maps::whole_page(map)).collect();
    let page = Experiment {
        pattern,
        granted: &granted,
        enforced: &coarse_maps,
    };
    let coarse = page.run(&options.device)?;
    let coarse_verdict = Verdict::new(&page, &coarse);

    report(&subpage, &fine, &coarse);
    let passed = conclude("sub-page permissions", &verdict);
    Ok(conclude("whole-page protection", &coarse_verdict) && passed)
}

fn report(experiment: &Experiment<'_>, fine: &Outcome, coarse: &Outcome) {
    let stores = experiment.pattern.stores().count();
    let allowed = experiment
        .pattern
        .stores()
        .filter(|&s| experiment.grants(s))
        .count();
    let needless = coarse.exits.saturating_sub(stores - allowed);
    println!("\n{stores} stores of 1, 2, 4, 8, 16 bytes and REP MOVS of 32:");
    println!("  {allowed} allowed, {} denied", stores - allowed);
    println!("Exits with sub-page permissions:  {:5}", fine.exits);
    println!(
        "Exits with whole-page protection: {:5}, {needless} of them for allowed stores\n",
        coarse.exits
    );
}

/// Says whether every cell was as the manual says.
fn conclude(name: &str, verdict: &Verdict) -> bool {
    const SHOWN: usize = 10;
    let all = verdict.cells.len() * 32;
    let wrong = verdict
        .cells
        .iter()
        .flatten()
        .filter(|&&cell| cell == Cell::Wrong)
        .count();
    println!(
        "With {name}, {} of {all} cells are as the manual says.",
        all - wrong
    );
    for problem in verdict.problems.iter().take(SHOWN) {
        println!("  {problem}");
    }
    if verdict.problems.len() > SHOWN {
        println!("  ... and {} more", verdict.problems.len() - SHOWN);
    }
    verdict.problems.is_empty()
}
