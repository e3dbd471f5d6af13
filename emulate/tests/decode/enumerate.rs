// SPDX-License-Identifier: GPL-2.0

//! Every opcode of every map, with every prefix that selects among them.

use std::collections::BTreeMap;
use std::format;
use std::vec::Vec;

use super::compare::{bits, Oracle};
use super::fuzz::Report;
use crate::decode::decode;
use crate::insn::CodeSize;
use crate::op::Op;

const MODES: [CodeSize; 3] = [CodeSize::Bits16, CodeSize::Bits32, CodeSize::Bits64];

/// What may stand before an opcode.
const PREFIXES: [&[u8]; 12] = [
    &[],
    &[0x66],
    &[0xf2],
    &[0xf3],
    &[0xf0],
    &[0x67],
    &[0x48],
    &[0x66, 0x48],
    &[0xf3, 0x4f],
    &[0xf2, 0x66, 0x41],
    &[0x48, 0x66],
    &[0x64, 0x3e],
];

/// Displacements and immediates that differ in all bytes, signs among them.
const TAIL: [u8; 12] = [
    0x8b, 0x91, 0xa3, 0x17, 0xc5, 0x29, 0xf1, 0x33, 0x45, 0x57, 0x69, 0x7d,
];

fn with_tail(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = parts.concat();
    bytes.extend(TAIL);
    bytes
}

#[test]
fn legacy_maps() {
    let maps: [&[u8]; 4] = [&[], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]];
    for code in MODES {
        let mut oracle = Oracle::new();
        let mut report = Report::default();
        for map in maps {
            for opcode in 0..=255 {
                for modrm in 0..=255 {
                    for prefixes in PREFIXES {
                        let bytes = with_tail(&[prefixes, map, &[opcode, modrm]]);
                        let _ = report.check(&mut oracle, &bytes, code);
                    }
                }
            }
        }
        report.assert(&format!("legacy maps, {} bits", bits(code)));
    }
}

/// ModRM bytes with every reg: memory with and without SIB and displacement, registers.
fn modrms() -> impl Iterator<Item = u8> {
    (0..8).flat_map(|reg| [0x00, 0x04, 0x05, 0x46, 0x84, 0xc0, 0xc5].map(|rest| rest | reg << 3))
}

/// An opcode of a VEX or EVEX map.
type Slot = (u8, u8, u8);

/// In which slots ours and theirs find an instruction, whatever the other fields are.
#[derive(Default)]
struct Assigned {
    slots: BTreeMap<Slot, (bool, bool)>,
}

impl Assigned {
    fn note(&mut self, slot: Slot, bytes: &[u8], oracle: &Oracle, code: CodeSize) {
        let ours = decode(bytes, code).is_ok_and(|insn| insn.op != Op::Unknown);
        let entry = self.slots.entry(slot).or_default();
        entry.0 |= ours;
        entry.1 |= !oracle.theirs.is_invalid();
    }

    /// Ours takes no opcode for assigned that theirs does not know, and misses none. In
    /// 16-bit code gathers are missed, for the addresses here have no SIB byte.
    fn assert(&self, title: &str) {
        let differ: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, (ours, theirs))| ours != theirs)
            .collect();
        assert!(differ.is_empty(), "{title}: {differ:02x?}");
        let count = self.slots.values().filter(|(ours, _)| *ours).count();
        std::println!("{title}: {count} opcodes");
    }
}

#[test]
fn vex_maps() {
    for code in MODES {
        let mut oracle = Oracle::new();
        let mut report = Report::default();
        let mut assigned = Assigned::default();
        for map in [0, 1, 2, 3, 4, 7, 31u8] {
            for opcode in 0..=255 {
                // W, vvvv of 15 and 1, L, pp.
                for wvlp in (0..=0x87).filter(|byte| byte & 0x78 == 0) {
                    for v in [0x78, 0x70] {
                        for modrm in modrms() {
                            let prefix = [0xc4, 0xe0 | map, wvlp | v, opcode, modrm];
                            let bytes = with_tail(&[&prefix]);
                            let _ = report.check(&mut oracle, &bytes, code);
                            if (1..=3).contains(&map) {
                                let slot = (map, opcode, wvlp & 3);
                                assigned.note(slot, &bytes, &oracle, code);
                            }
                        }
                    }
                }
            }
        }
        let title = format!("VEX maps, {} bits", bits(code));
        report.assert(&title);
        if code != CodeSize::Bits16 {
            assigned.assert(&title);
        }
    }
}

#[test]
fn xop_maps() {
    for code in MODES {
        let mut oracle = Oracle::new();
        let mut report = Report::default();
        for map in [7, 8, 9, 10, 11, 31u8] {
            for opcode in 0..=255 {
                for wvlp in [0x78, 0xf8, 0x7c, 0x70, 0xf0, 0x79] {
                    for modrm in modrms() {
                        let prefix = [0x8f, 0xe0 | map, wvlp, opcode, modrm];
                        let bytes = with_tail(&[&prefix]);
                        let _ = report.check(&mut oracle, &bytes, code);
                    }
                }
            }
        }
        report.assert(&format!("XOP maps, {} bits", bits(code)));
    }
}

#[test]
fn evex_maps() {
    // z, L'L, b, V', aaa.
    let p2 = [
        0x08, 0x28, 0x48, 0x68, 0x09, 0x49, 0x89, 0xc9, 0x18, 0x58, 0x00,
    ];
    for code in MODES {
        let mut oracle = Oracle::new();
        let mut report = Report::default();
        let mut assigned = Assigned::default();
        for map in 0..=7u8 {
            for opcode in 0..=255 {
                for wp in [0, 1, 2, 3, 0x80, 0x81, 0x82, 0x83] {
                    for (v, p2) in p2.map(|p2| (0x78, p2)).into_iter().chain([(0x70, 8)]) {
                        for modrm in modrms().step_by(3) {
                            let prefix = [0x62, 0xf0 | map, wp | v | 4, p2, opcode, modrm];
                            let bytes = with_tail(&[&prefix]);
                            let _ = report.check(&mut oracle, &bytes, code);
                            if matches!(map, 1..=3 | 5 | 6) {
                                let slot = (map, opcode, wp & 3);
                                assigned.note(slot, &bytes, &oracle, code);
                            }
                        }
                    }
                }
            }
        }
        let title = format!("EVEX maps, {} bits", bits(code));
        report.assert(&title);
        if code != CodeSize::Bits16 {
            assigned.assert(&title);
        }
    }
}
