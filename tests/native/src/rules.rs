// SPDX-License-Identifier: GPL-2.0

//! Where the processor and the emulator may differ: every exception to "the same", with
//! its reason. A rule is looked at only where a difference was found.

mod far;
mod integer;
mod memory;
mod vector;

use std::ops::Range;

use emulate::cpu::{mask, rflags, Cpu};
use emulate::insn::{Insn, Seg};
use emulate::journal::Journal;
use emulate::op::Op;

use crate::allowed::{self, faults, linear, RSP};
use crate::case::Case;
use crate::compare::{Emulated, Native};
use crate::layout::WINDOW;
use crate::model::Ram;

pub use memory::pushes_frame;

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
    /// PUSHA, ENTER and far CALL that fault: the processor may have written some of what
    /// they push; the emulator writes all or nothing.
    PartOfFrame,
    /// POPA that faults: AMD's processors have loaded some of the registers.
    PartOfRegisters,
    /// PUSHA, ENTER and far CALL whose frame goes over the end of the stack segment and
    /// goes on at its other end: the emulator refuses them.
    WrappedFrame,
    /// PUSH of a segment register as 4 bytes: recent processors of Intel's write 2 of them
    /// (SDM 2B, PUSH), and so does the emulator; AMD's write 4.
    PushedSelector,
    /// SHLD and SHRD of 16 bits by more than 16: the destination is undefined (SDM 2B).
    UndefinedResult,
    /// A misaligned operand whose address is not canonical, in the stack segment: the
    /// emulator says #SS, AMD's processors say #GP. The manual does not say which.
    MisalignedStack,
    /// REP MOVS and ENTER, source and destination of which overlap, at different linear
    /// addresses of the same memory: the processor does not always see that they do.
    Aliases,
    /// VMASKMOV and the like that fault: the address may be any byte of the operand in the
    /// page at fault. The emulator says the first of them, AMD's processors the first of
    /// an element that is written.
    MaskedFault,
    /// MASKMOVDQU: the processor wants the right to write 16 bytes, whatever the mask says.
    /// So does the emulator of the guest's page tables, but of sub-page maps for the
    /// bytes that are written only.
    MaskedDenial,
    /// MASKMOVDQU and VMASKMOV over the end of a segment or of canonical addresses: which
    /// of the bytes that are not written are looked at, and whether the segment or the
    /// pages come first, is the processor's choice (SDM 2B, MASKMOVDQU).
    MaskedEnd,
    /// MASKMOVDQU at 16-bit addresses over 64 KiB, in a segment that goes on there: AMD's
    /// processors look for the second half of the operand by a 16-bit address of its own.
    MaskedHalves,
    /// Far RET that faults at the stack: the address may be that of either of the two
    /// elements. Far CALL that is denied: the emulator looks at both together.
    FarStack,
    /// Far RET with a wrong selector whose RPL is another one: AMD's processors read the
    /// outer stack first, and fault there.
    FarOuterStack,
    /// Far RET over the end of a 16-bit stack: SP wraps (SDM 2B, RET), but on AMD's
    /// processors bits 31:16 of ESP change.
    FarRelease,
    /// Far CALL to beyond the limit of the new segment or with a stack beyond its limit,
    /// which faults too: the limits come first (SDM 2A, CALL), but not on AMD's processors.
    FarOrder,
    /// A far pointer in memory over the end of a segment, of 16-bit addresses or of canonical
    /// ones: AMD's processors look at its halves one after the other, and wrap between them.
    FarPointer,
    /// A write that crosses from a page which a sub-page map denies into one that is not
    /// present: the guest's own faults come before denials. Here, natively, the denied
    /// page is one that the page tables protect, and comes first.
    FaultBeforeDenial,
}

/// What is not compared.
#[derive(Clone, Debug, Default)]
pub struct Ignored {
    /// These flags.
    pub flags: u64,
    /// The exception.
    pub exception: bool,
    /// General registers but RSP.
    pub gprs: bool,
    /// Bits 31:16 of RSP.
    pub upper_sp: bool,
    /// These bytes of the window; the processor's become the emulator's.
    pub memory: Vec<Range<usize>>,
    /// Anything.
    pub all: bool,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::ReplayedFlags,
        Self::OtherOperand,
        Self::PartOfFrame,
        Self::PartOfRegisters,
        Self::WrappedFrame,
        Self::PushedSelector,
        Self::UndefinedResult,
        Self::MisalignedStack,
        Self::Aliases,
        Self::MaskedFault,
        Self::MaskedDenial,
        Self::MaskedEnd,
        Self::MaskedHalves,
        Self::FarStack,
        Self::FarOuterStack,
        Self::FarRelease,
        Self::FarOrder,
        Self::FarPointer,
        Self::FaultBeforeDenial,
    ];

    /// What is not compared of a case that comes under the rule.
    fn ignores(self, case: &Case, ignored: &mut Ignored) {
        match self {
            Self::ReplayedFlags => ignored.flags |= rflags::ARITHMETIC,
            Self::OtherOperand
            | Self::MisalignedStack
            | Self::MaskedFault
            | Self::FarStack
            | Self::FarOuterStack
            | Self::FarOrder
            | Self::FaultBeforeDenial => ignored.exception = true,
            Self::PartOfRegisters => ignored.gprs = true,
            Self::PartOfFrame => ignored.memory.push(memory::frame(case)),
            Self::PushedSelector => ignored.memory.push(memory::above_selector(case)),
            Self::UndefinedResult => ignored.memory.push(memory::operand(case)),
            Self::Aliases => ignored.memory.push(0..WINDOW),
            Self::FarRelease => ignored.upper_sp = true,
            Self::WrappedFrame
            | Self::MaskedDenial
            | Self::MaskedEnd
            | Self::MaskedHalves
            | Self::FarPointer => ignored.all = true,
        }
    }
}

impl Ignored {
    /// What none of some rules lets compare.
    pub fn by(rules: &[Rule], case: &Case) -> Self {
        let mut ignored = Self::default();
        for rule in rules {
            rule.ignores(case, &mut ignored);
        }
        ignored
    }
}

/// What a case is judged in.
#[derive(Debug)]
pub struct Context<'a> {
    /// The processor is AMD's.
    pub amd: bool,
    /// The emulator's memory.
    pub ram: &'a mut Ram,
    /// Its sub-page maps deny what page tables do not allow natively.
    pub denied: bool,
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
    let mut judged = Judged {
        context,
        case,
        native,
        emulated,
    };
    let mut rules = Rule::ALL.to_vec();
    rules.retain(|rule| judged.comes_under(*rule));
    rules
}

/// A case with its ends.
struct Judged<'a, 'b> {
    context: &'a mut Context<'b>,
    case: &'a Case,
    native: &'a Native,
    emulated: &'a Emulated,
}

impl Judged<'_, '_> {
    fn comes_under(&mut self, rule: Rule) -> bool {
        match rule {
            Rule::ReplayedFlags => self.replayed_flags(),
            Rule::OtherOperand => self.other_operand(),
            Rule::PartOfFrame => self.part_of_frame(),
            Rule::PartOfRegisters => self.part_of_registers(),
            Rule::WrappedFrame => self.wrapped_frame(),
            Rule::PushedSelector => self.pushed_selector(),
            Rule::UndefinedResult => self.undefined_result(),
            Rule::MisalignedStack => self.misaligned_stack(),
            Rule::Aliases => self.aliases(),
            Rule::MaskedFault => self.masked_fault(),
            Rule::MaskedDenial => self.masked_denial(),
            Rule::MaskedEnd => self.masked_end(),
            Rule::MaskedHalves => self.masked_halves(),
            Rule::FarStack => self.far_stack(),
            Rule::FarOuterStack => self.far_outer_stack(),
            Rule::FarRelease => self.far_release(),
            Rule::FarOrder => self.far_order(),
            Rule::FarPointer => self.far_pointer(),
            Rule::FaultBeforeDenial => self.fault_before_denial(),
        }
    }

    const fn insn(&self) -> &Insn {
        &self.case.insn
    }

    const fn cpu(&self) -> &Cpu {
        &self.case.start
    }

    /// Both sides have stopped.
    const fn both_stopped(&self) -> bool {
        self.native.exception.is_some() && self.emulated.stop.is_some()
    }

    /// Both sides have retired the instruction.
    const fn both_retired(&self) -> bool {
        self.native.exception.is_none() && self.emulated.stop.is_none()
    }

    /// Some of the operand is in its segment, or canonical, and some is not.
    fn crosses_end(&self) -> bool {
        let (cpu, insn) = (self.cpu(), self.insn());
        let first = allowed::operand(cpu, insn);
        let last = first.wrapping_add(u64::from(insn.mem_size) - 1);
        let segment = cpu.segment(insn.mem.seg);
        match cpu.long() {
            true => {
                let high = |offset| linear(cpu, insn.mem.seg, offset) >> 47;
                high(first) != high(last)
            }
            false => faults(segment, first) != faults(segment, last),
        }
    }

    /// The operand begins where 16-bit addresses end, and has bytes behind that.
    fn crosses_64_kib(&self) -> bool {
        let insn = self.insn();
        let last = allowed::operand(self.cpu(), insn) + u64::from(insn.mem_size) - 1;
        insn.addr_size == 2 && last > mask(2)
    }
}

/// Cases that are not drawn where the processor is AMD's: those that depend on how many
/// bytes there are, 2 or 4, of the selector that PUSH writes (SDM 2B, PUSH: 2, as in the
/// emulator) and of the operand that MOVSXD to 16 bits reads (SDM 2B, MOVSXD: 2).
pub fn has_other_size(cpu: &Cpu, insn: &Insn) -> bool {
    let (seg, offset) = match insn.op {
        Op::PushSreg if insn.size == 4 => {
            let sp = cpu.gpr(RSP).wrapping_sub(4);
            (Seg::Ss, sp & mask(cpu.stack_size()))
        }
        Op::Movsxd if insn.size == 2 => (insn.mem.seg, allowed::operand(cpu, insn)),
        _ => return false,
    };
    // The last of 2 and the last of 4 bytes.
    let (near, far) = (offset.wrapping_add(1), offset.wrapping_add(3));
    let segment = cpu.segment(seg);
    let limit = !cpu.long() && faults(segment, near) != faults(segment, far);
    let (near, far) = (linear(cpu, seg, near), linear(cpu, seg, far));
    let page = near >> 12 != far >> 12;
    let aligned = cpu.rflags & rflags::AC == 0 || near & 3 == 1;
    limit || page || !aligned
}
