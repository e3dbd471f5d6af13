// SPDX-License-Identifier: GPL-2.0

//! Documentation/instructions.md is made of the table of operations:
//! `UPDATE=1 cargo test -p emulate instructions` writes it.

use std::string::String;
use std::{env, format, fs};

use super::*;

const PATH: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../Documentation/instructions.md"
);

const HEAD: &str = "\
<!-- SPDX-License-Identifier: GPL-2.0 -->
<!-- Made of emulate/op.rs by `UPDATE=1 cargo test -p emulate instructions`. -->
# Instructions

What becomes of an instruction that the processor cannot finish by itself: it touches a
device, or a sub-page whose map the processor does not consult, or reads or writes a port
from memory. All forms with an operand in memory are meant, with every operand and address
size, in 16-, 32- and 64-bit code. Forms without one are entered again, unless they use
the stack.

Implied memory is the stack, or where a register points that is no address.
";

const SECTIONS: [(Policy, &str, &str); 4] = [
    (
        Policy::Emulated,
        "Emulated",
        "The module executes them. Every byte that they write is checked first.",
    ),
    (
        Policy::SingleStep,
        "Left to the processor, one step",
        "The processor executes them with the pages open that they write to, if the maps \
         allow\nevery sub-page that they may touch. Otherwise they are refused.",
    ),
    (
        Policy::Refused,
        "Refused",
        "User space gets them, as an instruction that is not emulated.",
    ),
    (
        Policy::Reenter,
        "Entered again",
        "They need no memory, so that the guest executes them itself.",
    ),
];

const fn access(access: MemAccess) -> &'static str {
    match access {
        MemAccess::None => "",
        MemAccess::Read => "reads",
        MemAccess::Write => "writes",
        MemAccess::ReadWrite => "reads and writes",
    }
}

fn document() -> String {
    let mut text = String::from(HEAD);
    for (policy, title, what) in SECTIONS {
        text += &format!("\n## {title}\n\n{what}\n\n");
        text += "| instruction | operand in memory | implied memory |\n|---|---|---|\n";
        for op in Op::ALL.iter().filter(|op| op.policy() == policy) {
            let (operand, implied) = (access(op.access()), access(op.implied()));
            text += &format!("| {} | {operand} | {implied} |\n", op.name());
        }
    }
    text
}

#[test]
fn instructions_are_documented() {
    let want = document();
    if env::var_os("UPDATE").is_some() {
        fs::write(PATH, &want).expect("the file can be written");
    }
    let text = fs::read_to_string(PATH).unwrap_or_default();
    assert!(
        text == want,
        "Documentation/instructions.md is out of date: \
         UPDATE=1 cargo test -p emulate instructions"
    );
}

#[test]
fn names_are_unique() {
    for (number, op) in Op::ALL.iter().enumerate() {
        for other in &Op::ALL[number + 1..] {
            assert_ne!(op.name(), other.name());
        }
    }
}

/// What the processor or user space gets must write, or be of no interest.
#[test]
fn writers_are_told_from_readers() {
    for op in Op::ALL {
        let writes = matches!(op.access(), MemAccess::Write | MemAccess::ReadWrite);
        assert!(writes || op.policy() != Policy::SingleStep, "{op:?}");
        assert!(op.policy() != Policy::Reenter || op.access() == MemAccess::None);
    }
}
