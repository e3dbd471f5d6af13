// SPDX-License-Identifier: GPL-2.0

use super::*;

const LINES: [Line; 2] = [
    Line {
        name: "one",
        ours: Some(Ok(500)),
        theirs: Some(Ok(1000)),
        planned: Some(972),
    },
    Line {
        name: "another",
        ours: Some(Ok(7)),
        theirs: None,
        planned: None,
    },
];

#[test]
fn columns_are_aligned_and_empty_cells_marked() {
    let expected = "\
trip                                 kvm_spp kvm_intel  ratio  issue
one                                      500      1000   0.50    972
another                                    7         -      -      -
";
    assert_eq!(text("trip", &LINES), expected);
}

#[test]
fn a_column_that_no_line_has_is_left_out() {
    let table = text("trip", &LINES[1..]);
    assert!(!table.contains("issue"));
    assert_eq!(table.lines().nth(1).map(str::len), Some(61));
}

#[test]
fn what_failed_is_told_below() {
    let failed = Line {
        ours: Some(Err("not emulated".into())),
        theirs: Some(Ok(1000)),
        ..LINES[0]
    };
    let expected = "\
trip                                 kvm_spp kvm_intel  ratio  issue
one                                   failed      1000      -    972
! one on kvm_spp: not emulated
";
    assert_eq!(text("trip", &[failed]), expected);
}

#[test]
fn nothing_divided_by_zero() {
    let line = Line {
        ours: Some(Ok(7)),
        theirs: Some(Ok(0)),
        ..LINES[1]
    };
    assert!(text("trip", &[line]).ends_with("0      -\n"));
}

#[test]
fn json_has_null_for_what_is_missing() {
    let expected = "{\"t\": [
  {\"name\": \"one\", \"kvm_spp\": 500, \"kvm_intel\": 1000, \"issue\": 972},
  {\"name\": \"another\", \"kvm_spp\": 7, \"kvm_intel\": null, \"issue\": null}
]}
";
    assert_eq!(json(&[("t", &LINES)]), expected);
}
