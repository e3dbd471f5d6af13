// SPDX-License-Identifier: GPL-2.0

//! Random encodings against iced-x86: validity, length, operands.
//!
//! `CASES=n` sets how many for each mode, `SEED=n` which. The long run is
//! `cargo test --release -p emulate -- --ignored --nocapture hundred_million`.

use std::collections::BTreeMap;
use std::string::String;
use std::{env, format, println};

use super::compare::{bits, Oracle};
use super::disagreements::{Case, LIST};
use super::generate::{case, Random};
use crate::decode::{decode, DecodeError};
use crate::insn::{CodeSize, Insn, MemAccess, Operand, MAX_BYTES};
use crate::op::Op;

/// What a run found.
#[derive(Default)]
pub(super) struct Report {
    pub(super) cases: u64,
    pub(super) valid: u64,
    /// Cases of each class that may differ.
    pub(super) explained: [u64; LIST.len()],
    /// How often what else differs, and an example.
    found: BTreeMap<String, (u64, String)>,
}

impl Report {
    /// Compares both decoders on `bytes`.
    pub(super) fn check(
        &mut self,
        oracle: &mut Oracle,
        bytes: &[u8],
        code: CodeSize,
    ) -> Result<Insn, DecodeError> {
        let (ours, difference) = oracle.compare(bytes, code);
        self.cases += 1;
        if let Ok(insn) = &ours {
            self.valid += 1;
            invariants(insn, bytes);
        }
        let Some(difference) = difference else {
            return ours;
        };
        let case = Case {
            kind: difference.kind,
            ours: &ours,
            theirs: &oracle.theirs,
            bytes,
            code,
        };
        match LIST.iter().position(|class| (class.matches)(&case)) {
            Some(class) => self.explained[class] += 1,
            None => {
                let key = format!("{:?} {:?}", difference.kind, oracle.theirs.code());
                let example = || (0, format!("{bytes:02x?}: {}", difference.text));
                self.found.entry(key).or_insert_with(example).0 += 1;
            }
        }
        ours
    }

    pub(super) fn print(&self, title: &str) {
        println!("{title}: {} of {} cases are valid", self.valid, self.cases);
        for (class, count) in LIST.iter().zip(self.explained) {
            if count != 0 {
                println!("{count:10} differ: {}", class.reason);
            }
        }
        for (key, (count, example)) in &self.found {
            println!("{count:10} differ: {key}: {example}");
        }
    }

    /// Nothing differs that is not on the list.
    pub(super) fn assert(&self, title: &str) {
        self.print(title);
        assert!(self.found.is_empty(), "{title}: decoders differ");
    }
}

/// What the users of an instruction may rely on.
fn invariants(insn: &Insn, bytes: &[u8]) {
    let op = insn.op;
    let check = |what: &str, holds: bool| assert!(holds, "{what}: {bytes:02x?} {insn:?}");
    check("length", (1..=MAX_BYTES).contains(&insn.len.into()));
    if !op.is_detailed() {
        let len = insn.len;
        let want = Insn {
            op,
            len,
            ..Insn::default()
        };
        check("no details", *insn == want);
        return;
    }
    let no_size = matches!(op, Op::Xsave | Op::Amx | Op::LoadSreg);
    check("size", matches!(insn.size, 1 | 2 | 4 | 8 | 16 | 64));
    check("address size", matches!(insn.addr_size, 2 | 4 | 8));
    check("scale", matches!(insn.mem.scale, 1 | 2 | 4 | 8));
    check(
        "memory size",
        insn.has_mem() == (insn.mem_size != 0) || no_size,
    );
    check("LOCK", !insn.lock || insn.access() == MemAccess::ReadWrite);
    let explicit = matches!(insn.access(), MemAccess::Write | MemAccess::ReadWrite);
    check("destination", !explicit || insn.dst == Operand::Mem);
    let conditional = matches!(op, Op::Setcc | Op::Cmovcc);
    check(
        "condition",
        insn.condition < 16 && (conditional || insn.condition == 0),
    );
    check(
        "aligned",
        !insn.aligned || matches!(op, Op::VectorStore | Op::VectorLoad),
    );
    let relative = insn.mem.rip_relative;
    check(
        "RIP",
        !relative || insn.mem.base.is_none() && insn.mem.index.is_none(),
    );
}

/// Every beginning of an instruction needs more bytes, and what follows it is ignored.
fn truncate(bytes: &[u8], insn: &Insn, code: CodeSize) {
    let len = usize::from(insn.len);
    for end in 0..len {
        let want = Err(DecodeError::NeedMore);
        assert_eq!(decode(&bytes[..end], code), want, "{end} of {bytes:02x?}");
    }
    assert_eq!(
        decode(&bytes[..len], code).as_ref(),
        Ok(insn),
        "{bytes:02x?}"
    );
}

/// Bytes that are no instruction, or too long a one, are that with 15 bytes, and with
/// fewer if what is wrong is among them.
fn truncate_invalid(bytes: &[u8], error: DecodeError, code: CodeSize) {
    assert_ne!(error, DecodeError::NeedMore, "{bytes:02x?}");
    assert_eq!(decode(&bytes[..MAX_BYTES], code), Err(error));
    let mut needs_more = true;
    for end in 0..MAX_BYTES {
        let got = decode(&bytes[..end], code);
        let more = got == Err(DecodeError::NeedMore);
        assert!(more || got == Err(error), "{end} of {bytes:02x?}");
        assert!(needs_more || !more, "{end} of {bytes:02x?}");
        assert!(
            more || error == DecodeError::Undefined,
            "{end} of {bytes:02x?}"
        );
        needs_more = more;
    }
}

fn run(code: CodeSize, count: u64) -> Report {
    let seed = env::var("SEED").map_or(1, |text| text.parse().expect("SEED is a number"));
    let mut random = Random::new(seed * 3 + u64::from(bits(code)) / 32);
    let mut oracle = Oracle::new();
    let mut report = Report::default();
    for number in 0..count {
        let bytes = case(&mut random, code);
        let ours = report.check(&mut oracle, &bytes, code);
        if number % 8 == 0 {
            match &ours {
                Ok(insn) => truncate(&bytes, insn, code),
                Err(error) => truncate_invalid(&bytes, *error, code),
            }
        }
    }
    report
}

fn count() -> u64 {
    env::var("CASES").map_or(2_000_000, |text| text.parse().expect("CASES is a number"))
}

#[test]
fn random_16() {
    run(CodeSize::Bits16, count()).assert("16 bits");
}

#[test]
fn random_32() {
    run(CodeSize::Bits32, count()).assert("32 bits");
}

#[test]
fn random_64() {
    run(CodeSize::Bits64, count()).assert("64 bits");
}

/// The long run, which must need every class of the list.
fn hundred_million(code: CodeSize) {
    let report = run(code, 100_000_000);
    report.assert(&format!("{code:?}"));
    for (class, count) in LIST.iter().zip(report.explained) {
        assert_ne!(count, 0, "nothing differs: {}", class.reason);
    }
}

#[test]
#[ignore = "minutes"]
fn hundred_million_16() {
    hundred_million(CodeSize::Bits16);
}

#[test]
#[ignore = "minutes"]
fn hundred_million_32() {
    hundred_million(CodeSize::Bits32);
}

#[test]
#[ignore = "minutes"]
fn hundred_million_64() {
    hundred_million(CodeSize::Bits64);
}
