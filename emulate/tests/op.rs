// SPDX-License-Identifier: GPL-2.0

//! Documentation/instructions.md is made of the table of operations:
//! `UPDATE=1 cargo test -p emulate instructions` writes it.

use std::string::String;
use std::vec::Vec;
use std::{env, format, fs};

use super::*;
use crate::cpu::gpr::RCX;
use crate::cpu::{Segment, Table};
use crate::decode::decode;
use crate::insn::{CodeSize, Insn, Seg};
use crate::machine::Machine;

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

/// 64-bit code with garbage in all that `Op::reads_tables` names.
fn without_tables(mut machine: Machine) -> Machine {
    let cpu = &mut machine.cpu;
    for (n, segment) in cpu.segments.iter_mut().enumerate() {
        segment.selector = 0xbad8;
        segment.limit = 0x3;
        // FS and GS have bases, CS and SS have attributes.
        if n < 4 {
            segment.base = 0xbad_0000;
        }
        if n != Seg::Cs as usize && n != Seg::Ss as usize {
            segment.attributes = 0;
            segment.unusable = true;
        }
    }
    let garbage = Segment {
        selector: 0xbad0,
        base: 0xbad_0000,
        ..Segment::default()
    };
    (cpu.ldtr, cpu.tr) = (garbage, garbage);
    let table = Table {
        base: 0xbad_0000,
        limit: 7,
    };
    (cpu.gdtr, cpu.idtr) = (table, table);
    machine
}

fn machine(cpl: u8) -> Machine {
    let mut machine = Machine::ia32e(cpl, true);
    machine.cpu.gprs = core::array::from_fn(|n| 0x8010 + 0x100 * n as u64);
    machine.cpu.gprs[usize::from(RCX)] = 3;
    machine.cpu.paging.cr4 |= 1 << 9 | 1 << 18;
    machine.cpu.xcr0 = 7;
    machine.cpu.segments[Seg::Fs as usize].base = 0x400;
    machine
}

/// All that the instruction has done: registers, memory, what was told to ports.
fn done(mut machine: Machine, insn: &Insn) -> impl PartialEq + core::fmt::Debug {
    let result = machine.run(insn);
    let ports = machine.journal.take_port_write();
    let Machine {
        cpu, fpu, model, ..
    } = machine;
    let registers = (cpu.gprs, cpu.rip, cpu.rflags, fpu.to_vec());
    (result, registers, model.ram, ports)
}

/// Each operation that says so does without, in all forms of legacy opcodes.
#[test]
fn what_does_without_tables() {
    let mut met = Vec::new();
    let prefixes: [&[u8]; 8] = [
        &[],
        &[0x66],
        &[0xf3],
        &[0xf2],
        &[0x48],
        &[0x64],
        &[0x66, 0x48],
        &[0xf3, 0x48],
    ];
    let maps: [&[u8]; 3] = [&[], &[0x0f], &[0x0f, 0x38]];
    for (prefix, map) in prefixes
        .iter()
        .flat_map(|p| maps.iter().map(move |m| (p, m)))
    {
        for (opcode, reg) in (0..=255u8).flat_map(|op| (0..8u8).map(move |reg| (op, reg))) {
            let tail = [opcode, reg << 3, 1, 0, 0, 0, 0, 0, 0, 0];
            let bytes = [prefix, *map, &tail].concat();
            let Ok(insn) = decode(&bytes, CodeSize::Bits64) else {
                continue;
            };
            let ports = matches!(insn.op, Op::Ins | Op::Outs);
            if insn.op.reads_tables() {
                continue;
            }
            met.push(insn.op);
            for cpl in [0, 3].into_iter().take(if ports { 1 } else { 2 }) {
                let with = done(machine(cpl), &insn);
                let without = done(without_tables(machine(cpl)), &insn);
                assert_eq!(with, without, "{bytes:02x?} {insn:?}");
            }
        }
    }
    for op in Op::ALL.iter().filter(|op| !op.reads_tables()) {
        assert!(met.contains(op), "{op:?} has no such form");
    }
}
