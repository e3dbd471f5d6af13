// SPDX-License-Identifier: GPL-2.0

//! Where the processor and the emulator may differ: every exception to "the same", with
//! its reason. A rule is looked at only where a difference was found.

use emulate::cpu::rflags;
use emulate::exec::execute;
use emulate::guard::Guest;
use emulate::insn::{Operand, Rep};
use emulate::journal::Journal;
use emulate::op::Op;
use emulate::stop::{Exception, Stop};

use crate::case::Case;
use crate::compare::{Emulated, Native};
use crate::flags;
use crate::model::Ram;

/// An exception to "the same".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// REP CMPS and REP SCAS that fault: the flags are those from before the instruction
    /// (SDM 2B, REP), which the emulator has implemented. AMD's processors keep those of
    /// the last element that was compared.
    ReplayedFlags,
    /// CMPS of which both operands fault: no manual says which one is read first. The
    /// processor's fault must be that of the other operand.
    OtherOperand,
    /// PUSHA and ENTER that fault: the processor may have written some of what they push
    /// (SDM 3A 6.5 leaves that open); the emulator writes all or nothing.
    PartOfFrame,
    /// SHLD and SHRD of 16 bits by more than 16: the destination is undefined (SDM 2B).
    UndefinedResult,
    /// A write that crosses from a page which a sub-page map denies into one that is not
    /// present: the guest's own faults come before denials. Here, natively, the denied
    /// page is one that the page tables protect, and comes first.
    FaultBeforeDenial,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::ReplayedFlags,
        Self::OtherOperand,
        Self::PartOfFrame,
        Self::UndefinedResult,
        Self::FaultBeforeDenial,
    ];

    /// Flags that are not compared.
    pub const fn flags(self) -> u64 {
        match self {
            Self::ReplayedFlags => rflags::ARITHMETIC,
            _ => 0,
        }
    }

    /// Memory is not compared, and the processor's becomes the emulator's.
    pub const fn ignores_memory(self) -> bool {
        matches!(self, Self::PartOfFrame | Self::UndefinedResult)
    }

    /// The processor's exception may be another one.
    pub const fn ignores_exception(self) -> bool {
        matches!(self, Self::OtherOperand | Self::FaultBeforeDenial)
    }
}

/// What a case is judged in.
#[derive(Debug)]
pub struct Context<'a> {
    /// The processor is AMD's.
    pub amd: bool,
    /// The emulator's memory.
    pub ram: &'a mut Ram,
    /// Its devices.
    pub devices: &'a mut Journal,
}

/// The rules that a case comes under.
pub fn applicable(
    context: &mut Context<'_>,
    case: &Case,
    native: &Native,
    emulated: &Emulated,
) -> Vec<Rule> {
    let insn = &case.insn;
    let faulted = native.exception.is_some() && emulated.stop.is_some();
    let holds = |rule: &Rule, context: &mut Context<'_>| match rule {
        Rule::ReplayedFlags => {
            let compares = matches!(insn.op, Op::Cmps | Op::Scas);
            context.amd && faulted && compares && insn.rep != Rep::None
        }
        Rule::OtherOperand => faulted && other_operand(context, case, native, emulated),
        Rule::PartOfFrame => faulted && matches!(insn.op, Op::Pusha | Op::Enter),
        Rule::UndefinedResult => {
            insn.dst == Operand::Mem && flags::undefined_result(&case.start, insn)
        }
        Rule::FaultBeforeDenial => fault_before_denial(native, emulated),
    };
    let mut rules = Rule::ALL.to_vec();
    rules.retain(|rule| holds(rule, context));
    rules
}

/// Reads each operand of a CMPS alone, where the emulator stopped.
fn other_operand(
    context: &mut Context<'_>,
    case: &Case,
    native: &Native,
    emulated: &Emulated,
) -> bool {
    if case.insn.op != Op::Cmps {
        return false;
    }
    [Op::Lods, Op::Scas].into_iter().any(|op| {
        let insn = emulate::insn::Insn {
            op,
            rep: Rep::None,
            ..case.insn
        };
        let mut cpu = emulated.cpu;
        let stop = execute(
            &mut Guest {
                cpu: &mut cpu,
                fpu: &mut [],
                memory: context.ram,
                devices: context.devices,
            },
            &insn,
        );
        match (stop, native.exception) {
            (Err(Stop::Exception(one)), Some(exception)) => one == exception,
            _ => false,
        }
    })
}

fn fault_before_denial(native: &Native, emulated: &Emulated) -> bool {
    const NOT_PRESENT: u32 = 6;
    const PROTECTED: u32 = 7;
    let fault = |exception: Option<Exception>, code| {
        let exception = exception.filter(|e| e.vector == 14 && e.error_code == Some(code))?;
        exception.cr2.map(|cr2| cr2.get())
    };
    let emulated = match emulated.stop {
        Some(Stop::Exception(exception)) => Some(exception),
        _ => None,
    };
    match (
        fault(native.exception, PROTECTED),
        fault(emulated, NOT_PRESENT),
    ) {
        // In the same access, the second page of which begins at the emulator's fault.
        (Some(first), Some(second)) => second & 0xfff == 0 && second.wrapping_sub(first) < 4096,
        _ => false,
    }
}
