// SPDX-License-Identifier: GPL-2.0

//! Executes decoded instructions.
//!
//! Registers change last: an instruction prepares its accesses, reads, computes, writes,
//! and only then lets the registers know. So where it stops, nothing has happened.

mod far;
mod moves;
mod operand;
mod system;
mod vector;

use crate::cpu::{mask, rflags};
use crate::guard::Guest;
use crate::insn::{CodeSize, Insn};
use crate::op::{Op, Policy};
use crate::stop::Stop;

/// How far an instruction came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It is finished, and RIP is at the next one.
    Retired,
    /// Some elements of a repeated string instruction are finished: the registers count
    /// them, and RIP is still at it.
    Partial,
}

/// Executes an instruction.
///
/// # Errors
///
/// The [`Stop`] that it ends in. RFLAGS.RF is set where that is an exception or a denial,
/// as the processor sets it in what it saves then.
pub fn execute(guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    let done = dispatch(guest, insn);
    if let Err(Stop::Exception(_) | Stop::Denied(_)) = done {
        guest.cpu.rflags |= rflags::RF;
    }
    done
}

fn dispatch(guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    match insn.op {
        Op::Mov | Op::MovLoad => moves::execute(guest, insn),
        Op::VectorStore
        | Op::VectorLoad
        | Op::ScalarLoad
        | Op::ScalarStore
        | Op::HighStore
        | Op::LowLoad
        | Op::HighLoad
        | Op::Maskmovdqu
        | Op::VmaskmovStore => vector::execute(guest, insn),
        Op::CallFar | Op::JmpFar | Op::RetFar => far::execute(guest, insn),
        Op::Sgdt | Op::Sidt | Op::Sldt | Op::Str | Op::Smsw | Op::MovFromSreg | Op::Movdir64b => {
            system::execute(guest, insn)
        }
        op => Err(match op.policy() {
            Policy::Reenter => Stop::Reenter,
            _ => Stop::Refused(op),
        }),
    }
}

/// The instruction is finished: RIP goes to the next one.
fn retire(guest: &mut Guest<'_>, insn: &Insn) -> Done {
    let next = next_rip(guest, insn);
    retire_at(guest, next)
}

/// The instruction is finished: RIP goes to `rip`.
fn retire_at(guest: &mut Guest<'_>, rip: u64) -> Done {
    guest.cpu.rip = rip;
    guest.cpu.rflags &= !rflags::RF;
    guest.devices.retire();
    Done::Retired
}

/// Where the next instruction is.
fn next_rip(guest: &Guest<'_>, insn: &Insn) -> u64 {
    let next = guest.cpu.rip.wrapping_add(insn.len.into());
    match guest.cpu.code {
        CodeSize::Bits16 => next & mask(2),
        CodeSize::Bits32 => next & mask(4),
        CodeSize::Bits64 => next,
    }
}
