// SPDX-License-Identifier: GPL-2.0

//! The grid: a row for each page, a cell for each of its 32 sub-pages.

use crate::maps::NamedMap;
use crate::verdict::Cell;

const NAME_WIDTH: usize = 12;
const RESET: &str = "\x1b[0m";
/// Every how many sub-pages the header has a number.
const NUMBER_STEP: usize = 4;

/// Two columns of text, the same with and without colours.
fn glyph(cell: Cell) -> &'static str {
    match cell {
        Cell::Written => " w",
        Cell::Denied => " .",
        Cell::Wrong => "!!",
    }
}

fn escape(cell: Cell) -> &'static str {
    match cell {
        Cell::Written => "\x1b[30;42m",
        Cell::Denied => "\x1b[97;41m",
        Cell::Wrong => "\x1b[30;103m",
    }
}

/// The grid and its legend, as lines.
pub(crate) fn draw(maps: &[NamedMap], cells: &[[Cell; 32]], color: bool) -> String {
    let mut text = header();
    for (map, row) in maps.iter().zip(cells) {
        text += &format!("{:<NAME_WIDTH$}", map.name);
        text += &row_text(row, color);
        text.push('\n');
    }
    text + &legend(color)
}

fn header() -> String {
    let mut numbers = String::new();
    for n in (0..32).step_by(NUMBER_STEP) {
        numbers += &format!("{n:>2}{:1$}", "", 2 * (NUMBER_STEP - 1));
    }
    format!("{:<NAME_WIDTH$}{}\n", "sub-page", numbers.trim_end())
}

/// Cells side by side; neighbours that look alike share their escapes.
fn row_text(row: &[Cell], color: bool) -> String {
    let mut text = String::new();
    for run in row.chunk_by(|a, b| a == b) {
        let Some(&cell) = run.first() else { continue };
        let glyphs = glyph(cell).repeat(run.len());
        text += &paint(cell, &glyphs, color);
    }
    text
}

fn paint(cell: Cell, glyphs: &str, color: bool) -> String {
    match color {
        true => format!("{}{glyphs}{RESET}", escape(cell)),
        false => glyphs.to_string(),
    }
}

fn legend(color: bool) -> String {
    let mut text = String::from("\n");
    for (cell, meaning) in [
        (
            Cell::Written,
            "allowed: all stores were made, without an exit",
        ),
        (
            Cell::Denied,
            "denied: each store left the guest once, no byte changed",
        ),
        (Cell::Wrong, "not as the manual says"),
    ] {
        text += &format!("{} {meaning}\n", paint(cell, glyph(cell), color));
    }
    text
}

#[cfg(test)]
#[path = "../../../tests/unit/grid.rs"]
mod tests;
