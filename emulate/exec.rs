// SPDX-License-Identifier: GPL-2.0

//! Executes decoded instructions.
//!
//! Registers change last: an instruction prepares its accesses, reads, computes, writes,
//! and only then lets the registers know. So where it stops, nothing has happened.

mod arithmetic;
mod bit;
mod branch;
mod bulk;
mod exchange;
mod far;
mod frame;
mod modify;
mod moves;
mod multiply;
pub(crate) mod operand;
mod port;
mod shift;
mod stack;
mod string;
mod system;
mod vector;

use crate::cpu::{mask, rflags};
use crate::guard::Guest;
use crate::insn::Insn;
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
    let posted = guest.devices.posted();
    let done = dispatch(guest, insn);
    if done.is_err() {
        guest.devices.take_back(posted);
    }
    if let Err(Stop::Exception(_) | Stop::Denied(_)) = done {
        guest.cpu.rflags |= rflags::RF;
    }
    done
}

fn dispatch(guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    match insn.op {
        Op::Mov | Op::Movnti | Op::Movdiri | Op::MovbeStore | Op::Setcc => {
            moves::store(guest, insn)
        }
        Op::MovLoad | Op::Movzx | Op::Movsx | Op::Movsxd | Op::MovbeLoad | Op::Cmovcc => {
            moves::load(guest, insn)
        }
        Op::Bsf | Op::Bsr | Op::Tzcnt | Op::Lzcnt | Op::Popcnt | Op::Crc32 => {
            moves::load(guest, insn)
        }
        Op::Xlat => moves::xlat(guest, insn),
        Op::Flush => moves::flush(guest, insn),
        Op::Xchg | Op::Xadd | Op::Cmpxchg => exchange::execute(guest, insn),
        Op::Cmpxchg8b | Op::Cmpxchg16b => exchange::double(guest, insn),
        Op::Add | Op::Or | Op::Adc | Op::Sbb | Op::And | Op::Sub | Op::Xor => {
            modify::execute(guest, insn)
        }
        Op::Inc | Op::Dec | Op::Not | Op::Neg => modify::execute(guest, insn),
        Op::Rol | Op::Ror | Op::Rcl | Op::Rcr | Op::Shl | Op::Shr | Op::Sar => {
            modify::execute(guest, insn)
        }
        Op::Shld | Op::Shrd => modify::execute(guest, insn),
        Op::Cmp | Op::Test => modify::compare(guest, insn),
        Op::Bt | Op::Bts | Op::Btr | Op::Btc => modify::bit(guest, insn),
        Op::Mul | Op::Imul | Op::Div | Op::Idiv => multiply::wide(guest, insn),
        Op::Imul2 => multiply::narrow(guest, insn),
        Op::Movs | Op::Stos | Op::Lods | Op::Cmps | Op::Scas | Op::Ins | Op::Outs => {
            string::execute(guest, insn)
        }
        Op::Push | Op::PushSreg | Op::Pushf => stack::push(guest, insn),
        Op::Pop => stack::pop(guest, insn),
        Op::Leave => stack::leave(guest, insn),
        Op::Pusha => frame::pusha(guest, insn),
        Op::Popa => frame::popa(guest, insn),
        Op::Enter => frame::enter(guest, insn),
        Op::CallNear => branch::call(guest, insn),
        Op::JmpNear => branch::jump(guest, insn),
        Op::RetNear => branch::ret(guest, insn),
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

/// Where the next instruction is. EIP has 32 bits in 16-bit code too: behind FFFFH comes
/// 10000H, and the limit of CS decides (SDM 3A 6.15, #GP). Only branches cut it.
fn next_rip(guest: &Guest<'_>, insn: &Insn) -> u64 {
    let next = guest.cpu.rip.wrapping_add(insn.len.into());
    match guest.cpu.long() {
        true => next,
        false => next & mask(4),
    }
}

#[cfg(test)]
#[path = "tests/exec/mod.rs"]
mod tests;
