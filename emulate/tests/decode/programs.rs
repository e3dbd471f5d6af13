// SPDX-License-Identifier: GPL-2.0

//! All executable bytes of this very program and of its libraries, one instruction after
//! the other, against iced-x86.

use std::fs;
use std::string::{String, ToString};
use std::vec::Vec;
use std::{format, println};

use super::compare::{bits, Oracle};
use super::disagreements::LIST;
use super::fuzz::Report;
use crate::insn::CodeSize;

/// The executable mappings of this process that are files: name and bytes.
fn programs() -> Vec<(String, Vec<u8>)> {
    let maps = fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
    let mut programs = Vec::new();
    for line in maps.lines() {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [range, "r-xp", offset, _, _, path] = fields[..] else {
            continue;
        };
        let hex = |text| usize::from_str_radix(text, 16).expect("a number");
        let (from, to) = range.split_once('-').expect("a range");
        let (offset, len) = (hex(offset), hex(to) - hex(from));
        // The vDSO is no file.
        if let Ok(file) = fs::read(path) {
            let end = file.len().min(offset + len);
            programs.push((path.to_string(), file[offset..end].to_vec()));
        }
    }
    programs
}

/// Goes on where the other decoder says the next instruction is.
fn sweep(text: &[u8], code: CodeSize) -> Report {
    let mut oracle = Oracle::new();
    let mut report = Report::default();
    let mut rest = text;
    while !rest.is_empty() {
        // What is cut off at the end is for both no instruction.
        let _ = report.check(&mut oracle, rest, code);
        let len = match oracle.theirs.is_invalid() {
            true => 1,
            false => oracle.theirs.len(),
        };
        rest = &rest[len..];
    }
    report
}

#[test]
fn programs_of_64_bits() {
    let mut total = 0;
    for (name, text) in programs() {
        let report = sweep(&text, CodeSize::Bits64);
        report.assert(&name);
        // Compilers end programs with UD2, and the dynamic linker has an XSAVEC. Nothing
        // else may differ.
        for (class, count) in LIST.iter().zip(report.explained) {
            let expected = ["UD", "XSAVEC"].map(|name| class.reason.starts_with(name));
            assert!(
                count == 0 || expected.contains(&true),
                "{name}: {}",
                class.reason
            );
        }
        total += report.valid;
    }
    println!("{total} instructions");
    assert!(total > 200_000);
}

/// The same bytes as code that they are not.
#[test]
fn programs_of_other_sizes() {
    for code in [CodeSize::Bits16, CodeSize::Bits32] {
        for (name, text) in programs() {
            sweep(&text, code).assert(&format!("{name}, {} bits", bits(code)));
        }
    }
}
