// SPDX-License-Identifier: GPL-2.0

//! Instructions as bytes, executed on a model of memory. What comes out is compared with
//! formulas that are written down another way than in the executor.

mod alu;
mod bits;
mod branch;
mod exchange;
mod frame;
mod moves;
mod multiply;
mod port;
mod property;
mod repeat;
mod shifts;
mod stack;
mod string;

use super::*;
use crate::cpu::Segment;
use crate::decode::decode;
use crate::insn::{Rep, Seg};
use crate::machine::Machine;
use crate::stop::{Denial, Exception};

/// Where the tests have their operands; RBX points there.
const DATA: u64 = 0x3000;
const SIZES: [u8; 4] = [1, 2, 4, 8];

/// 64-bit mode, level 0, RBX at [`DATA`].
fn machine() -> Machine {
    let mut machine = Machine::ia32e(0, true);
    machine.cpu.gprs[3] = DATA;
    machine
}

/// Pages of 4 KBytes instead of a large one in 64-bit mode, at their own addresses; `entry`
/// may say otherwise.
fn small_pages(machine: &mut Machine, entry: impl Fn(u64) -> u64) {
    for page in 0..512 {
        machine
            .model
            .ram
            .write_u64(0x10_3000 + page * 8, entry(page));
    }
    machine.model.ram.write_u64(0x10_2000, 0x10_3067);
}

#[track_caller]
fn decoded(machine: &Machine, bytes: &[u8]) -> Insn {
    let insn = decode(bytes, machine.cpu.code);
    let insn = insn.unwrap_or_else(|error| panic!("{bytes:02x?}: {error:?}"));
    assert_eq!(usize::from(insn.len), bytes.len(), "{bytes:02x?}");
    insn
}

/// Executes an instruction. RIP stays where it is, so that the next one can follow.
#[track_caller]
fn run(machine: &mut Machine, bytes: &[u8]) -> Result<(), Stop> {
    let insn = decoded(machine, bytes);
    let rip = machine.cpu.rip;
    let done = machine.run(&insn)?;
    assert_eq!(done, Done::Retired);
    assert_eq!(machine.cpu.rip, rip + bytes.len() as u64);
    machine.cpu.rip = rip;
    Ok(())
}

/// An opcode with the prefixes that make it `size` bytes wide in 64-bit mode; `opcode` is
/// the one for words, and one less is that for bytes.
fn wide(size: u8, opcode: &[u8], rest: &[u8]) -> std::vec::Vec<u8> {
    let mut bytes = std::vec::Vec::new();
    match size {
        2 => bytes.push(0x66),
        8 => bytes.push(0x48),
        _ => (),
    }
    bytes.extend(opcode);
    if size == 1 {
        *bytes.last_mut().unwrap() -= 1;
    }
    bytes.extend(rest);
    bytes
}

/// The same numbers each time, all sorts of them.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Any number of `size` bytes, those with few ones or zeros more often.
    fn value(&mut self, size: u8) -> u64 {
        let value = match self.below(4) {
            0 => self.next(),
            1 => self.next() >> self.below(64),
            2 => 1 << self.below(64),
            _ => !(self.next() >> self.below(64)),
        };
        value & mask(size)
    }
}

#[track_caller]
fn denial(result: Result<impl core::fmt::Debug, Stop>) -> Denial {
    match result {
        Err(Stop::Denied(denial)) => denial,
        other => panic!("{other:x?}"),
    }
}

fn page_fault(gva: u64, code: u32) -> Stop {
    Exception::pf(ept::Gva::new(gva), code).into()
}

fn gp() -> Stop {
    Exception::gp(0).into()
}

fn ss() -> Stop {
    Exception::ss(0).into()
}
