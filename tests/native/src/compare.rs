// SPDX-License-Identifier: GPL-2.0

//! What both sides ended with, and where they differ.

use std::fmt;

use emulate::cpu::{mask, rflags, Cpu};
use emulate::exec::{execute, Done};
use emulate::guard::Guest;
use emulate::insn::{Operand, Rep, Seg};
use emulate::journal::Journal;
use emulate::op::Op;
use emulate::stop::{Denial, Exception, Stop};
use ept::Gva;

use crate::allowed::RSP;
use crate::case::Case;
use crate::cpu::{End, Trap};
use crate::far;
use crate::flags;
use crate::layout::{self, PAGE, XSAVE_BYTES};
use crate::model::Ram;
use crate::rules::Ignored;
use crate::xsave;

/// How often the emulator is called for one instruction: it returns now and then from a
/// repeated one.
const CALLS: usize = 200_000;

/// What the emulator ended with.
#[derive(Clone, Debug)]
pub struct Emulated {
    /// Registers.
    pub cpu: Cpu,
    /// XSAVE area.
    pub xsave: Option<Box<[u8; XSAVE_BYTES]>>,
    /// Why the instruction did not retire.
    pub stop: Option<Stop>,
    /// It paused in between, as for an interrupt, and began anew with the flags of then.
    pub paused: bool,
}

impl Emulated {
    /// The exception that stopped it; a denial is one where page tables deny.
    pub const fn exception(&self) -> Option<Exception> {
        match self.stop {
            Some(Stop::Exception(exception)) => Some(exception),
            Some(Stop::Denied(denial)) => Some(denied(&denial)),
            _ => None,
        }
    }
}

/// Lets the emulator execute a case.
pub fn emulate(case: &Case, ram: &mut Ram, devices: &mut Journal) -> Emulated {
    let mut cpu = case.start;
    let mut xsave = case.xsave.clone();
    let fpu: &mut [u8] = match &mut xsave {
        Some(area) => &mut area[..],
        None => &mut [],
    };
    let mut guest = Guest::new(&mut cpu, fpu, ram, devices);
    let mut done = execute(&mut guest, &case.insn);
    let paused = done == Ok(Done::Partial);
    for _ in 0..CALLS {
        if done != Ok(Done::Partial) {
            break;
        }
        done = execute(&mut guest, &case.insn);
    }
    let stop = match done {
        Ok(Done::Retired) => None,
        Ok(Done::Partial) => Some(Stop::Retry),
        Err(stop) => Some(stop),
    };
    Emulated {
        cpu,
        xsave,
        stop,
        paused,
    }
}

/// How the processor ended, in the emulator's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Native {
    /// The exception, CR2 left out where it has none.
    pub exception: Option<Exception>,
    /// RIP.
    pub rip: u64,
    /// Selector of CS.
    pub cs: u16,
    /// Registers, as they were found.
    pub end: End,
}

impl Native {
    /// Reads the end of a case.
    pub fn new(case: &Case, end: End) -> Self {
        let start = &case.start;
        let base = match start.long() {
            true => 0,
            false => start.segment(Seg::Cs).base,
        };
        let rip = end.rip.unwrap_or(match end.pad {
            0 => start.rip.wrapping_add(case.insn.len.into()),
            pad => layout::pad(pad).wrapping_sub(base),
        });
        let mut exception = end.trap.map(exception);
        // A branch to where no code is has retired; the next fetch has faulted.
        const FETCH: u32 = 1 << 4;
        let fetch = end
            .trap
            .is_some_and(|trap| trap.vector == 14 && trap.error & FETCH != 0);
        if fetch && rip != start.rip {
            exception = None;
        }
        Self {
            exception,
            rip,
            cs: end.cs.unwrap_or(start.segment(Seg::Cs).selector),
            end,
        }
    }
}

fn exception(trap: Trap) -> Exception {
    let page_fault = trap.vector == 14;
    let mut error = trap.error;
    // Linux does not tell users what is mapped above what they may have, and sets the
    // flag for protection there. The last page below what is not canonical is such a one.
    if page_fault && trap.cr2 >= TASK_SIZE {
        error &= !1;
    }
    Exception {
        vector: trap.vector,
        error_code: has_code(trap.vector).then_some(error),
        cr2: page_fault.then_some(Gva::new(trap.cr2)),
    }
}

/// `TASK_SIZE_MAX` of Linux, with four levels of page tables.
const TASK_SIZE: u64 = (1 << 47) - PAGE;

const fn has_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21)
}

/// A difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// How the instruction ended.
    Stop,
    /// Where it ended.
    Rip,
    /// This general register.
    Gpr(u8),
    /// CS, hidden part included, or what it makes of code.
    Cs,
    /// A register that no instruction of the list changes.
    Other,
    /// These flags.
    Flags(u64),
    /// This vector register, or what is above it.
    Vector(String),
    /// Memory, from this byte of the window on.
    Memory(usize),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stop => f.write_str("end"),
            Self::Rip => f.write_str("RIP"),
            Self::Cs => f.write_str("CS"),
            Self::Other => f.write_str("other registers"),
            Self::Gpr(number) => f.write_str(GPRS[usize::from(number & 15)]),
            Self::Flags(flags) => write!(f, "flags {flags:#x}"),
            Self::Vector(name) => f.write_str(name),
            Self::Memory(at) => write!(f, "memory at byte {at:#x} of the window"),
        }
    }
}

/// Names of the general registers.
pub const GPRS: [&str; 16] = [
    "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13",
    "R14", "R15",
];

/// Flags that are compared: those that instructions set, and some that they must not.
const FLAGS: u64 = rflags::ARITHMETIC | rflags::DF | rflags::AC | rflags::IOPL;

/// The registers that differ, but for what is ignored.
pub fn registers(
    case: &Case,
    native: &Native,
    emulated: &Emulated,
    ignored: &Ignored,
) -> Vec<Difference> {
    let mut found = Vec::new();
    if !same_end(native, emulated, ignored) {
        found.push(Difference::Stop);
    }
    let cpu = &emulated.cpu;
    // Where 64-bit mode is left, upper halves mean nothing (SDM 1 3.4.1.1).
    let width = match case.start.long() && cpu.long() {
        true => u64::MAX,
        false => mask(4),
    };
    if (native.rip ^ cpu.rip) & width != 0 {
        found.push(Difference::Rip);
    }
    let cs = far::code_segment(native.cs);
    if Some(*cpu.segment(Seg::Cs)) != cs || cs.map(|cs| far::code_size(&cs)) != Some(cpu.code) {
        found.push(Difference::Cs);
    }
    if !same_others(&case.start, cpu) {
        found.push(Difference::Other);
    }
    let flags = flags(case, native, cpu) & !ignored.flags | replayed(case, emulated);
    if flags != 0 {
        found.push(Difference::Flags(flags));
    }
    let result = flags::undefined_result(&case.start, &case.insn);
    for (n, (native, emulated)) in native.end.gprs.iter().zip(cpu.gprs).enumerate() {
        let number = n as u8;
        let meaningless = result && case.insn.dst == Operand::Gpr(number);
        let skipped = meaningless || (ignored.gprs && number != RSP);
        let width = match ignored.upper_sp && number == RSP {
            true => mask(2),
            false => width,
        };
        if (native ^ emulated) & width != 0 && !skipped {
            found.push(Difference::Gpr(number));
        }
    }
    found
}

/// All but general registers, RIP, RFLAGS and CS is as it was.
fn same_others(start: &Cpu, end: &Cpu) -> bool {
    let mut expected = *start;
    expected.gprs = end.gprs;
    expected.rip = end.rip;
    expected.rflags = end.rflags;
    expected.code = end.code;
    expected.set_segment(Seg::Cs, *end.segment(Seg::Cs));
    expected == *end
}

/// The flags that a repeated comparison which faulted has changed: it must not, whatever
/// this processor does (see [`Rule::ReplayedFlags`](crate::rules::Rule)).
fn replayed(case: &Case, emulated: &Emulated) -> u64 {
    let insn = &case.insn;
    let compares = matches!(insn.op, Op::Cmps | Op::Scas) && insn.rep != Rep::None;
    match compares && emulated.exception().is_some() && !emulated.paused {
        true => (case.start.rflags ^ emulated.cpu.rflags) & FLAGS,
        false => 0,
    }
}

/// The flags that differ and mean something.
fn flags(case: &Case, native: &Native, cpu: &Cpu) -> u64 {
    let compared = match native.exception {
        // Nothing is undefined after an instruction that was not executed.
        Some(_) => FLAGS | rflags::RF,
        None => FLAGS & !flags::undefined(&case.start, &case.insn),
    };
    (native.end.rflags ^ cpu.rflags) & compared
}

fn same_end(native: &Native, emulated: &Emulated, ignored: &Ignored) -> bool {
    if native.exception.is_none() || emulated.stop.is_none() {
        return native.exception.is_none() && emulated.stop.is_none();
    }
    match emulated.exception() {
        Some(_) if ignored.exception => true,
        exception => exception == native.exception,
    }
}

/// What a page that is denied looks like where the page tables deny it.
const fn denied(denial: &Denial) -> Exception {
    const PROTECTION_WRITE_USER: u32 = 7;
    Exception::pf(denial.gva, PROTECTION_WRITE_USER)
}

/// The vector registers that differ.
pub fn vectors(case: &Case, available: u64, native: &[u8], emulated: &Emulated) -> Vec<Difference> {
    match (&case.xsave, &emulated.xsave) {
        (Some(_), Some(area)) => xsave::compare(available, native, &area[..])
            .into_iter()
            .map(Difference::Vector)
            .collect(),
        _ => Vec::new(),
    }
}
