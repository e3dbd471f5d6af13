// SPDX-License-Identifier: GPL-2.0

use super::*;

fn example(color: bool) -> String {
    let maps = [
        NamedMap {
            name: "one",
            map: 1,
        },
        NamedMap {
            name: "wrong",
            map: 0,
        },
    ];
    let mut one = [Cell::Denied; 32];
    one[0] = Cell::Written;
    let mut wrong = [Cell::Denied; 32];
    wrong[31] = Cell::Wrong;
    draw(&maps, &[one, wrong], color)
}

/// Text as a terminal shows it.
fn without_escapes(text: &str) -> String {
    let mut shown = String::new();
    let mut parts = text.split('\x1b');
    shown += parts.next().unwrap();
    for part in parts {
        shown += part.split_once('m').unwrap().1;
    }
    shown
}

#[test]
fn plain_rows_show_every_cell() {
    let text = example(false);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[1], format!("one          w{}", " .".repeat(31)));
    assert_eq!(lines[2], format!("wrong       {}!!", " .".repeat(31)));
    assert!(lines.iter().all(|line| line.len() < 80));
    assert!(!text.contains('\x1b'));
}

#[test]
fn numbers_stand_over_their_cells() {
    let header = header();
    for n in (0..32).step_by(4) {
        let column = 12 + 2 * n;
        assert_eq!(header[column..column + 2].trim(), n.to_string());
    }
}

#[test]
fn colours_change_nothing_but_colours() {
    assert!(example(true).contains("\x1b[30;42m"));
    assert_eq!(without_escapes(&example(true)), example(false));
}

#[test]
fn every_line_ends_without_colour() {
    for line in example(true).lines().filter(|line| line.contains('\x1b')) {
        let last = line.rfind('\x1b').unwrap();
        assert!(line[last..].starts_with(RESET), "{line:?}");
    }
}
