// SPDX-License-Identifier: GPL-2.0

//! What happened, compared with what the manual says: a store is denied if and
//! only if the bit of its sub-page is clear (SDM 3C 29.3.4).

use crate::experiment::{Experiment, Outcome};
use guest::{Store, Width, SUBPAGES, SUBPAGE_SIZE};

/// One sub-page of one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// All stores were made.
    Written,
    /// All stores were denied, and no byte changed.
    Denied,
    /// Anything else.
    Wrong,
}

/// All cells, and what is wrong with them.
pub(crate) struct Verdict {
    pub(crate) cells: Vec<[Cell; SUBPAGES as usize]>,
    pub(crate) problems: Vec<String>,
}

impl Verdict {
    pub(crate) fn new(experiment: &Experiment<'_>, outcome: &Outcome) -> Self {
        let image = experiment.pattern.image(|store| experiment.grants(store));
        let mut verdict = Self {
            cells: Vec::new(),
            problems: Vec::new(),
        };
        for page in 0..experiment.pattern.pages {
            let mut cells = [Cell::Wrong; SUBPAGES as usize];
            for (cell, subpage) in cells.iter_mut().zip(0..) {
                let problems = problems(experiment, outcome, &image, page, subpage);
                let any = Store {
                    page,
                    subpage,
                    width: Width::Byte,
                };
                *cell = match (problems.is_empty(), experiment.grants(any)) {
                    (true, true) => Cell::Written,
                    (true, false) => Cell::Denied,
                    (false, _) => Cell::Wrong,
                };
                verdict.problems.extend(problems);
            }
            verdict.cells.push(cells);
        }
        verdict
    }
}

fn problems(
    experiment: &Experiment<'_>,
    outcome: &Outcome,
    image: &[u8],
    page: u64,
    subpage: u64,
) -> Vec<String> {
    let place = format!("page {page} sub-page {subpage}");
    let told = outcome
        .problems
        .iter()
        .filter(|(s, _)| s.page == page && s.subpage == subpage);
    let mut problems: Vec<String> = told
        .map(|(store, text)| format!("{place}, {:?}: {text}", store.width))
        .collect();
    for width in Width::ALL {
        let store = Store {
            page,
            subpage,
            width,
        };
        let expected = usize::from(experiment.denies(store));
        let exits = outcome.denials.get(&store).copied().unwrap_or_default();
        if exits != expected {
            problems.push(format!(
                "{place}, {width:?}: {exits} exits instead of {expected}"
            ));
        }
    }
    let start = ((page * SUBPAGES + subpage) * SUBPAGE_SIZE) as usize;
    let range = start..start + SUBPAGE_SIZE as usize;
    if outcome.memory.get(range.clone()) != image.get(range) {
        problems.push(format!("{place}: memory is not what it should be"));
    }
    problems
}

#[cfg(test)]
#[path = "../../../tests/unit/verdict.rs"]
mod tests;
