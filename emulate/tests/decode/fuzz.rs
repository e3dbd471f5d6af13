// SPDX-License-Identifier: GPL-2.0

//! Random encodings.

use std::collections::BTreeMap;
use std::string::String;
use std::{env, format, println};

use super::compare::{bits, Oracle};
use super::generate::{case, Random};
use crate::insn::CodeSize;

fn run(code: CodeSize, count: u64, seed: u64) {
    let mut random = Random::new(seed ^ u64::from(bits(code)));
    let mut oracle = Oracle::new();
    let mut found: BTreeMap<String, (u64, String)> = BTreeMap::new();
    let mut valid = 0u64;
    for _ in 0..count {
        let bytes = case(&mut random, code);
        let (ours, difference) = oracle.compare(&bytes, code);
        valid += u64::from(ours.is_ok());
        if let Some(difference) = difference {
            let key = format!("{:?} {:?}", difference.kind, oracle.theirs.code());
            let key = if oracle.theirs.code() == iced_x86::Code::INVALID {
                let mut i = 0;
                let mut pp = ' ';
                while [
                    0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3,
                ]
                .contains(&bytes[i])
                    || code == CodeSize::Bits64 && bytes[i] & 0xf0 == 0x40
                {
                    match bytes[i] {
                        0xf2 => pp = '2',
                        0xf3 => pp = '3',
                        0x66 if pp == ' ' => pp = '6',
                        _ => {}
                    };
                    i += 1;
                }
                let op = match bytes[i..] {
                    [0xf, 0x38, x, ..] => format!("0f38 {x:02x}"),
                    [0xf, 0x3a, x, ..] => format!("0f3a {x:02x}"),
                    [0xf, x, y, ..] => format!("0f {x:02x} /{} {}", y >> 3 & 7, y >> 6 == 3),
                    [0xc5, _, _, ..] => format!("vex"),
                    [0xc4, m, _, _, ..] => format!("vex{}", m & 31),
                    [0x62, m, _, _, _, ..] => format!("evex{}", m & 7),
                    [0x8f, ..] => format!("xop"),
                    [x, y, ..] => format!("{x:02x} /{}", y >> 3 & 7),
                    [..] => String::new(),
                };
                format!("{key} {op} {pp} {}", difference.text)
            } else {
                key
            };
            let entry = found
                .entry(key)
                .or_insert_with(|| (0, format!("{bytes:02x?} {}", difference.text)));
            entry.0 += 1;
        }
    }
    println!("{} bits: {valid} of {count} valid", bits(code));
    for (key, (count, text)) in &found {
        println!("{count:8} {key} {text}");
    }
    assert!(found.is_empty());
}

fn count() -> u64 {
    env::var("CASES").map_or(1_000_000, |text| text.parse().expect("a number"))
}

#[test]
fn random_16() {
    run(CodeSize::Bits16, count(), 1);
}

#[test]
fn random_32() {
    run(CodeSize::Bits32, count(), 1);
}

#[test]
fn random_64() {
    run(CodeSize::Bits64, count(), 1);
}
