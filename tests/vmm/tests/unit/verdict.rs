// SPDX-License-Identifier: GPL-2.0

use super::*;
use guest::StorePattern;

const PATTERN: StorePattern = StorePattern {
    base: 0x10_0000,
    pages: 2,
    scratch: 0x2_0000,
};
const MAPS: [u32; 2] = [0x5555_5555, 1];
const WHOLE: [u32; 2] = [0, 0];

fn experiment(enforced: &'static [u32]) -> Experiment<'static> {
    Experiment {
        pattern: PATTERN,
        granted: &MAPS,
        enforced,
    }
}

/// What a processor that follows the manual does.
fn outcome(experiment: &Experiment<'_>) -> Outcome {
    let denied = PATTERN.stores().filter(|&store| experiment.denies(store));
    let denials: std::collections::BTreeMap<_, _> = denied.map(|store| (store, 1)).collect();
    Outcome {
        exits: denials.len(),
        denials,
        problems: Vec::new(),
        memory: PATTERN.image(|store| experiment.grants(store)),
    }
}

fn wrong_cells(verdict: &Verdict) -> Vec<(usize, usize)> {
    let rows = verdict.cells.iter().enumerate();
    rows.flat_map(|(page, row)| {
        let wrong = row
            .iter()
            .enumerate()
            .filter(|(_, &cell)| cell == Cell::Wrong);
        wrong.map(move |(subpage, _)| (page, subpage))
    })
    .collect()
}

#[test]
fn the_manual_is_right() {
    for enforced in [&MAPS, &WHOLE] {
        let experiment = experiment(enforced);
        let verdict = Verdict::new(&experiment, &outcome(&experiment));
        assert_eq!(verdict.problems, [""; 0]);
        for (row, map) in verdict.cells.iter().zip(MAPS) {
            for (n, &cell) in row.iter().enumerate() {
                let expected = if map & (1 << n) != 0 {
                    Cell::Written
                } else {
                    Cell::Denied
                };
                assert_eq!(cell, expected);
            }
        }
    }
}

#[test]
fn a_changed_byte_makes_its_cell_wrong() {
    let experiment = experiment(&MAPS);
    for (byte, cell) in [(0, (0, 0)), (127, (0, 0)), (128, (0, 1)), (8191, (1, 31))] {
        let mut outcome = outcome(&experiment);
        outcome.memory[byte] ^= 1;
        let verdict = Verdict::new(&experiment, &outcome);
        assert_eq!(wrong_cells(&verdict), [cell]);
        assert_eq!(verdict.problems.len(), 1);
    }
}

#[test]
fn missing_and_needless_exits_make_their_cell_wrong() {
    let experiment = experiment(&MAPS);
    let denied = Store {
        page: 1,
        subpage: 7,
        width: Width::Movs,
    };
    let allowed = Store {
        page: 0,
        subpage: 2,
        width: Width::Byte,
    };
    let mut outcome = outcome(&experiment);
    outcome.denials.remove(&denied);
    outcome.denials.insert(allowed, 1);
    assert_eq!(
        wrong_cells(&Verdict::new(&experiment, &outcome)),
        [(0, 2), (1, 7)]
    );
}

#[test]
fn a_second_exit_for_one_store_makes_its_cell_wrong() {
    let experiment = experiment(&MAPS);
    let mut outcome = outcome(&experiment);
    outcome.denials.insert(
        Store {
            page: 1,
            subpage: 31,
            width: Width::Xmm,
        },
        2,
    );
    assert_eq!(wrong_cells(&Verdict::new(&experiment, &outcome)), [(1, 31)]);
}

#[test]
fn a_lying_exit_makes_its_cell_wrong() {
    let experiment = experiment(&MAPS);
    let mut outcome = outcome(&experiment);
    let store = Store {
        page: 0,
        subpage: 3,
        width: Width::Word,
    };
    outcome.problems.push((store, "a lie".into()));
    let verdict = Verdict::new(&experiment, &outcome);
    assert_eq!(wrong_cells(&verdict), [(0, 3)]);
    assert_eq!(verdict.problems, ["page 0 sub-page 3, Word: a lie"]);
}
