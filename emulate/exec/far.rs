// SPDX-License-Identifier: GPL-2.0

//! Far CALL, JMP and RET (SDM 2A and 2B CALL, JMP, RET; SDM 3A 5.8).
//!
//! ```text
//!   selector --+-- real, virtual-8086 mode: base = selector * 16
//!              |
//!              '-- descriptor --+-- code: same level                 here
//!                               +-- call gate: same or inner level   gate.rs
//!                               '-- task gate, TSS                   refused
//! ```
//!
//! All that is pushed is one span, which is prepared before anything changes. The
//! accessed flag of a descriptor is set first: a processor may leave it set when an
//! instruction starts over.
//!
//! The steps are not inlined into each other, so that none has the stack of all.

mod gate;
mod ret;

use super::{next_rip, operand, retire_at, Done};
use crate::cpu::gpr::RSP;
use crate::cpu::{mask, Cpu};
use crate::descriptor::{error_code, is_null, rpl, system, Descriptor, Flag};
use crate::guard::{Guest, Intent, Span};
use crate::insn::{Insn, Seg};
use crate::op::Op;
use crate::segment;
use crate::stack::{Image, Pushed, Stack};
use crate::stop::{Exception, Stop};

const CR4_CET: u64 = 1 << 23;

/// Executes one of them.
#[inline(never)]
pub(super) fn execute(guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    // The shadow stack would be written too.
    if guest.cpu.paging.cr4 & CR4_CET != 0 {
        return Err(Stop::Refused(insn.op));
    }
    let call = insn.op == Op::CallFar;
    let rip = match (insn.op, guest.cpu.protected()) {
        (Op::RetFar, false) => ret::real(guest, insn)?,
        (Op::RetFar, true) => ret::protected(guest, insn)?,
        (Op::CallFar | Op::JmpFar, protected) => {
            let to = pointer(guest, insn)?;
            match protected {
                false => real(guest, insn, to, call)?,
                true => protected_mode(guest, insn, to, call)?,
            }
        }
        (op, _) => return Err(Stop::Refused(op)),
    };
    Ok(retire_at(guest, rip))
}

/// A far pointer.
#[derive(Clone, Copy)]
struct Far {
    selector: u16,
    offset: u64,
}

/// The operand: an offset and, behind it, a selector.
#[inline(never)]
fn pointer(guest: &mut Guest<'_>, insn: &Insn) -> Result<Far, Stop> {
    let size = insn.size;
    if !insn.has_mem() {
        return Ok(Far {
            selector: insn.imm2,
            offset: insn.imm as u64 & mask(size),
        });
    }
    let len = u16::from(size).wrapping_add(2);
    let gva = operand::linear(guest.cpu, insn, len, size.into(), false)?;
    let source = guest.prepare_read(gva, len, false)?;
    let mut bytes = [0; 10];
    let data = bytes.get_mut(..usize::from(len)).ok_or(Stop::Host)?;
    guest.load(&source, data)?;
    let (offset, selector) = data.split_last_chunk::<2>().ok_or(Stop::Refused(insn.op))?;
    let mut wide = [0; 8];
    for (to, from) in wide.iter_mut().zip(offset) {
        *to = *from;
    }
    Ok(Far {
        selector: u16::from_le_bytes(*selector),
        offset: u64::from_le_bytes(wide),
    })
}

/// Real and virtual-8086 mode.
#[inline(never)]
fn real(guest: &mut Guest<'_>, insn: &Insn, to: Far, call: bool) -> Result<u64, Stop> {
    let back = Far {
        selector: guest.cpu.segment(Seg::Cs).selector,
        offset: next_rip(guest, insn),
    };
    let pushed = match call {
        true => Some(Stack::current(guest.cpu).push(guest.cpu, 2, insn.size.into()))
            .map(|pushed| pushed.ok_or(Exception::ss(0)))
            .transpose()?,
        false => None,
    };
    if to.offset > u64::from(guest.cpu.segment(Seg::Cs).limit) {
        return Err(Exception::gp(0).into());
    }
    if let Some(pushed) = pushed {
        segment::aligned(guest.cpu, pushed.at.0, insn.size.into())?;
        let span = prepare(guest, insn, &pushed, insn.size.into())?;
        let mut image = Return::new(insn.size);
        image.far(back);
        let width = guest.cpu.stack_size();
        guest.commit(span, image.bytes())?;
        guest.cpu.set_gpr_sized(RSP, width, pushed.pointer);
    }
    guest.cpu.set_real_code_segment(to.selector);
    Ok(to.offset)
}

/// Finds out what the selector of a CALL or JMP stands for.
#[inline(never)]
fn protected_mode(guest: &mut Guest<'_>, insn: &Insn, to: Far, call: bool) -> Result<u64, Stop> {
    if is_null(to.selector) {
        return Err(Exception::gp(0).into());
    }
    let wrong = Exception::gp(error_code(to.selector, false));
    let target = Descriptor::read(guest, to.selector, wrong)?;
    if target.is_code() {
        return code(guest, insn, &target, to, call);
    }
    match (
        target.is_system(),
        target.kind(),
        guest.cpu.paging.long_mode(),
    ) {
        (true, system::CALL_GATE32, _) | (true, system::CALL_GATE16, false) => {
            gate::enter(guest, insn, &target, call)
        }
        (true, system::TASK_GATE | system::TSS16 | system::TSS32, false) => {
            Err(Stop::Refused(insn.op))
        }
        _ => Err(wrong.into()),
    }
}

/// CALL or JMP to a code segment: the privilege level stays.
#[inline(never)]
fn code(
    guest: &mut Guest<'_>,
    insn: &Insn,
    target: &Descriptor,
    to: Far,
    call: bool,
) -> Result<u64, Stop> {
    let cpl = guest.cpu.cpl;
    let error = error_code(to.selector, false);
    let denied = match target.is_conforming() {
        true => target.dpl() > cpl,
        false => rpl(to.selector) > cpl || target.dpl() != cpl,
    };
    if denied || is_mixed(guest.cpu, target) {
        return Err(Exception::gp(error).into());
    }
    if !target.is_present() {
        return Err(Exception::np(error).into());
    }
    // What is entered decides, as it does on processors: 64-bit code pushes by RSP, and
    // all other code in the stack segment, also where it is called from the other.
    let mut stack = Stack::current(guest.cpu);
    stack.width = match (enters_64_bit(guest.cpu, target), stack.segment.big()) {
        (true, _) => 8,
        (false, true) => 4,
        (false, false) => 2,
    };
    Transfer {
        target: *target,
        offset: to.offset,
        size: insn.size,
        stack,
        cpl,
        call,
    }
    .same_level(guest, insn)
}

/// Code of IA-32e mode cannot have both L and D set.
fn is_mixed(cpu: &Cpu, target: &Descriptor) -> bool {
    cpu.paging.long_mode() && target.is_long() && target.is_big()
}

/// Whether code is of 64 bits.
const fn enters_64_bit(cpu: &Cpu, target: &Descriptor) -> bool {
    cpu.paging.long_mode() && target.is_long()
}

/// Checks an offset in a segment that is about to be CS.
#[inline(never)]
fn check_offset(cpu: &Cpu, target: &Descriptor, offset: u64) -> Result<(), Exception> {
    let inside = match enters_64_bit(cpu, target) {
        true => cpu.paging.canonical(offset),
        false => offset <= target.limit().into(),
    };
    match inside {
        true => Ok(()),
        false => Err(Exception::gp(0)),
    }
}

/// A transfer whose target is checked.
struct Transfer {
    target: Descriptor,
    offset: u64,
    /// Bytes of what is pushed.
    size: u8,
    /// The stack in use.
    stack: Stack,
    cpl: u8,
    call: bool,
}

impl Transfer {
    /// Makes a transfer that stays at its level.
    #[inline(never)]
    fn same_level(&self, guest: &mut Guest<'_>, insn: &Insn) -> Result<u64, Stop> {
        let pushed = match self.call {
            true => {
                let pushed = self.stack.push(guest.cpu, 2, self.size.into());
                Some(pushed.ok_or(Exception::ss(0))?)
            }
            false => None,
        };
        check_offset(guest.cpu, &self.target, self.offset)?;
        let span = match &pushed {
            Some(pushed) => {
                segment::aligned(guest.cpu, pushed.at.0, self.size.into())?;
                Some(prepare(guest, insn, pushed, self.size.into())?)
            }
            None => None,
        };
        let accessed = self.target.prepare_accessed(guest)?;
        let back = Far {
            selector: guest.cpu.segment(Seg::Cs).selector,
            offset: next_rip(guest, insn),
        };
        set_flag(guest, accessed)?;
        if let (Some(pushed), Some(span)) = (pushed, span) {
            let mut image = Return::new(self.size);
            image.far(back);
            guest.commit(span, image.bytes())?;
            let width = self.stack.width;
            guest.cpu.set_gpr_sized(RSP, width, pushed.pointer);
        }
        guest.cpu.enter_code(&self.target, self.cpl);
        Ok(self.offset)
    }
}

/// Prepares what is pushed in slots of `size` bytes. The guest's page tables are asked in
/// the order of the pushes, so that the first fault is the processor's.
#[inline(never)]
fn prepare(guest: &mut Guest<'_>, insn: &Insn, pushed: &Pushed, size: u16) -> Result<Span, Stop> {
    let (gva, len) = pushed.at;
    // Two spans could not be written at once.
    if pushed.wrapped.is_some() {
        return Err(Stop::Refused(insn.op));
    }
    for slot in (0..len.checked_div(size).unwrap_or(0)).rev() {
        let at = guest.cpu.linear(gva, slot.wrapping_mul(size).into());
        if let Err(stop @ Stop::Exception(_)) = guest.prepare_write(at, size, Intent::Write) {
            return Err(stop);
        }
    }
    guest.prepare_write(gva, len, Intent::Write)
}

fn set_flag(guest: &mut Guest<'_>, flag: Option<Flag>) -> Result<(), Stop> {
    flag.map_or(Ok(()), |flag| flag.set(guest))
}

/// CS:RIP.
type Return = Image<16>;

impl<const N: usize> Image<N> {
    fn far(&mut self, pointer: Far) {
        self.slot(pointer.offset);
        self.slot(pointer.selector.into());
    }
}

#[cfg(test)]
#[path = "../tests/far.rs"]
mod tests;
