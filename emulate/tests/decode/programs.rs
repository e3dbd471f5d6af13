// SPDX-License-Identifier: GPL-2.0

//! All executable bytes of this very program and of its libraries, one instruction after
//! the other, against iced-x86.

use std::fs;
use std::ops::Range;
use std::string::{String, ToString};
use std::vec::Vec;
use std::{format, println};

use super::compare::{bits, Oracle};
use super::disagreements::LIST;
use super::fuzz::Report;
use crate::insn::CodeSize;

/// The files of the executable mappings of this process.
fn files() -> Vec<String> {
    let maps = fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
    let executable = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        match fields[..] {
            [_, "r-xp", _, _, _, path] => Some(path.to_string()),
            _ => None,
        }
    };
    maps.lines().filter_map(executable).collect()
}

/// The little-endian number at `range` of `bytes`.
fn number(bytes: &[u8], range: Range<usize>) -> usize {
    let digits = bytes[range].iter().rev();
    digits.fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// The executable sections of a 64-bit ELF file, if it is one.
fn sections(file: &[u8]) -> Vec<&[u8]> {
    const EXECUTABLE: usize = 4;
    const PROGRAM_BITS: usize = 1;
    if !file.starts_with(b"\x7fELF\x02\x01") {
        return Vec::new();
    }
    let table = number(file, 40..48);
    let size = number(file, 58..60);
    let count = number(file, 60..62);
    let headers = file[table..].chunks(size).take(count);
    headers
        .filter(|header| number(header, 4..8) == PROGRAM_BITS)
        .filter(|header| number(header, 8..16) & EXECUTABLE != 0)
        .map(|header| {
            let at = number(header, 24..32);
            &file[at..at + number(header, 32..40)]
        })
        .collect()
}

/// Sweeps the executable sections of this program and its libraries, and says how many
/// instructions they have.
fn sweep_all(code: CodeSize, mut each: impl FnMut(&str, &Report)) {
    let mut total = 0;
    for name in files() {
        // The vDSO is no file.
        let Ok(file) = fs::read(&name) else { continue };
        let mut report = Report::default();
        for text in sections(&file) {
            sweep(text, code, &mut report);
        }
        let title = format!("{name}, {} bits", bits(code));
        report.assert(&title);
        each(&title, &report);
        total += report.valid;
    }
    println!("{total} instructions of {} bits", bits(code));
    assert!(total > 200_000);
}

/// Goes on where the other decoder says the next instruction is.
fn sweep(text: &[u8], code: CodeSize, report: &mut Report) {
    let mut oracle = Oracle::new();
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
}

#[test]
fn programs_of_64_bits() {
    sweep_all(CodeSize::Bits64, |title, report| {
        // Compilers end programs with UD2, and the dynamic linker has an XSAVEC. Nothing
        // else may differ.
        for (class, count) in LIST.iter().zip(report.explained) {
            let expected = ["UD", "XSAVEC"].map(|name| class.reason.starts_with(name));
            let fine = count == 0 || expected.contains(&true);
            assert!(fine, "{title}: {}", class.reason);
        }
    });
}

/// The same bytes as code that they are not.
#[test]
fn programs_of_other_sizes() {
    for code in [CodeSize::Bits16, CodeSize::Bits32] {
        sweep_all(code, |_, _| {});
    }
}
