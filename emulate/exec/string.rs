// SPDX-License-Identifier: GPL-2.0

//! String instructions, element by element or many at once (SDM 1 7.3.9, SDM 2B, REP).
//!
//! ```text
//!        .----------------------------------------------.
//!        v                                              |
//!   RCX == 0? --> next instruction                      |
//!        |                                              |
//!     element, or as many as memory allows at once      |
//!        |  stop: RIP stays, the registers count        |
//!        v        what is finished                      |
//!   RCX, RSI, RDI; end of REPE or REPNE?                |
//!        |                                              |
//!   a device was told, single step, 1024 elements? -----'
//!        |                                          no
//!        v yes
//!   RIP stays, RFLAGS.RF is set
//! ```

use ept::Gva;

use super::arithmetic;
use super::operand::{self, load};
use super::{bulk, port, retire, Done};
use crate::cpu::gpr::{RAX, RCX, RDI, RSI};
use crate::cpu::rflags::{ARITHMETIC, DF, RF, TF, ZF};
use crate::cpu::{mask, Cpu};
use crate::guard::{Guest, Intent, Source, Span};
use crate::insn::{Insn, Rep, Seg};
use crate::op::Op;
use crate::segment;
use crate::stop::Stop;

/// Between so many elements interrupts are taken: where RCX is a multiple of it.
const PAUSE: u64 = 1024;

/// Executes a string instruction.
pub(super) fn execute(guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    if insn.rep == Rep::None {
        step(guest, insn, 1)?;
        return Ok(retire(guest, insn));
    }
    let rflags = guest.cpu.rflags;
    // Every turn leaves fewer elements, and there are at most `PAUSE` before the next pause.
    loop {
        let count = guest.cpu.gpr_sized(RCX, insn.addr_size);
        if count == 0 {
            return Ok(retire(guest, insn));
        }
        let finished = match step(guest, insn, at_once(insn, count)) {
            Ok(finished) => finished,
            Err(stop) => return Err(interrupted(guest.cpu, insn, rflags, stop)),
        };
        let count = count.wrapping_sub(finished.into());
        guest.cpu.set_gpr_sized(RCX, insn.addr_size, count);
        guest.devices.retire();
        if count == 0 || ended(insn, guest.cpu.rflags) {
            return Ok(retire(guest, insn));
        }
        if pauses(guest, insn, count) {
            guest.cpu.rflags |= RF;
            return Ok(Done::Partial);
        }
    }
}

/// How many elements may be finished without a pause. INS pauses where no more data is
/// at hand.
fn at_once(insn: &Insn, count: u64) -> u16 {
    let most = match insn.op {
        Op::Ins => PAUSE,
        _ => (count.wrapping_sub(1) & PAUSE.wrapping_sub(1)).wrapping_add(1),
    };
    count.min(most) as u16
}

fn pauses(guest: &Guest<'_>, insn: &Insn, count: u64) -> bool {
    let enough = match insn.op {
        Op::Ins => port::at_hand(guest, insn) == 0,
        _ => count & PAUSE.wrapping_sub(1) == 0,
    };
    let due = guest.cpu.rflags & TF != 0 || guest.breakpoints_met() != 0;
    enough || guest.devices.has_posted() || due
}

/// REPE or REPNE has found what it looked for.
fn ended(insn: &Insn, rflags: u64) -> bool {
    let equal = rflags & ZF != 0;
    matches!(insn.op, Op::Cmps | Op::Scas) && equal == (insn.rep == Rep::Repne)
}

/// A fault in a comparison takes back the flags of those before (SDM 2B, REP).
fn interrupted(cpu: &mut Cpu, insn: &Insn, rflags: u64, stop: Stop) -> Stop {
    let fault = matches!(stop, Stop::Exception(_) | Stop::Denied(_));
    if fault && matches!(insn.op, Op::Cmps | Op::Scas) {
        cpu.rflags = rflags;
    }
    stop
}

/// Finishes one element or more, `count` at most, and says how many.
fn step(guest: &mut Guest<'_>, insn: &Insn, count: u16) -> Result<u16, Stop> {
    match insn.op {
        Op::Movs => {
            let source = source(guest, insn)?;
            // What a device has comes by elements.
            if !source.device() {
                if let Some(count) = bulk::movs(guest, insn, count)? {
                    return Ok(count);
                }
            }
            movs(guest, insn, &source)?;
        }
        Op::Stos => match bulk::stos(guest, insn, count)? {
            Some(count) => return Ok(count),
            None => stos(guest, insn)?,
        },
        Op::Lods => lods(guest, insn)?,
        Op::Cmps => cmps(guest, insn)?,
        Op::Scas => scas(guest, insn)?,
        Op::Ins => return port::ins(guest, insn, count),
        Op::Outs => port::outs(guest, insn)?,
        op => return Err(Stop::Refused(op)),
    }
    Ok(1)
}

fn movs(guest: &mut Guest<'_>, insn: &Insn, source: &Source) -> Result<(), Stop> {
    // A device is read when it is clear that the data has a place.
    let span = destination(guest, insn)?;
    let value = load(guest, source, insn.size)?;
    operand::store(guest, span, insn.size, value)?;
    advance(guest.cpu, insn, RSI, 1);
    advance(guest.cpu, insn, RDI, 1);
    Ok(())
}

fn stos(guest: &mut Guest<'_>, insn: &Insn) -> Result<(), Stop> {
    let span = destination(guest, insn)?;
    let value = guest.cpu.gpr_sized(RAX, insn.size);
    operand::store(guest, span, insn.size, value)?;
    advance(guest.cpu, insn, RDI, 1);
    Ok(())
}

fn lods(guest: &mut Guest<'_>, insn: &Insn) -> Result<(), Stop> {
    let source = source(guest, insn)?;
    let value = load(guest, &source, insn.size)?;
    guest.cpu.set_gpr_sized(RAX, insn.size, value);
    advance(guest.cpu, insn, RSI, 1);
    Ok(())
}

fn cmps(guest: &mut Guest<'_>, insn: &Insn) -> Result<(), Stop> {
    // In this order, which the manual leaves open and most processors seem to keep.
    let source = source(guest, insn)?;
    let other = compared(guest, insn)?;
    let value = load(guest, &source, insn.size)?;
    let other = load(guest, &other, insn.size)?;
    compare(guest.cpu, value, other, insn.size);
    advance(guest.cpu, insn, RSI, 1);
    advance(guest.cpu, insn, RDI, 1);
    Ok(())
}

fn scas(guest: &mut Guest<'_>, insn: &Insn) -> Result<(), Stop> {
    let other = compared(guest, insn)?;
    let other = load(guest, &other, insn.size)?;
    let value = guest.cpu.gpr_sized(RAX, insn.size);
    compare(guest.cpu, value, other, insn.size);
    advance(guest.cpu, insn, RDI, 1);
    Ok(())
}

fn compare(cpu: &mut Cpu, value: u64, other: u64, size: u8) {
    let (_, flags) = arithmetic::sub(value, other, false, size);
    cpu.rflags = cpu.rflags & !ARITHMETIC | flags;
}

/// The element at RSI, to be read.
pub(super) fn source(guest: &mut Guest<'_>, insn: &Insn) -> Result<Source, Stop> {
    let gva = element(guest.cpu, insn, insn.mem.seg, RSI, false)?;
    guest.prepare_read(gva, insn.size.into(), false)
}

/// The element at RDI, to be read.
fn compared(guest: &mut Guest<'_>, insn: &Insn) -> Result<Source, Stop> {
    let gva = element(guest.cpu, insn, Seg::Es, RDI, false)?;
    guest.prepare_read(gva, insn.size.into(), false)
}

/// The element at RDI, to be written.
pub(super) fn destination(guest: &mut Guest<'_>, insn: &Insn) -> Result<Span, Stop> {
    let gva = element(guest.cpu, insn, Seg::Es, RDI, true)?;
    guest.prepare_write(gva, insn.size.into(), Intent::Write)
}

fn element(cpu: &Cpu, insn: &Insn, seg: Seg, register: u8, write: bool) -> Result<Gva, Stop> {
    let offset = cpu.gpr_sized(register, insn.addr_size);
    let gva = segment::linear(cpu, seg, offset, insn.size.into(), write)?;
    segment::aligned(cpu, gva, insn.size.into())?;
    Ok(gva)
}

/// Moves RSI or RDI over `count` elements.
pub(super) fn advance(cpu: &mut Cpu, insn: &Insn, register: u8, count: u16) {
    let bytes = u64::from(count).wrapping_mul(insn.size.into());
    let old = cpu.gpr_sized(register, insn.addr_size);
    let new = match cpu.rflags & DF {
        0 => old.wrapping_add(bytes),
        _ => old.wrapping_sub(bytes),
    };
    cpu.set_gpr_sized(register, insn.addr_size, new & mask(insn.addr_size));
}
