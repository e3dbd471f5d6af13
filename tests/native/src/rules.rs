// SPDX-License-Identifier: GPL-2.0

//! Where the processor and the emulator may differ: every exception to "the same", with
//! its reason. A rule is looked at only where a difference was found.

use emulate::cpu::{mask, rflags, Cpu};
use emulate::exec::execute;
use emulate::guard::Guest;
use emulate::insn::{Insn, Operand, Rep, Seg};
use emulate::journal::Journal;
use emulate::op::Op;
use emulate::stop::{Exception, Stop};

use crate::allowed::{self, faults, linear, RBP, RCX, RDI, RSI, RSP};
use crate::case::Case;
use crate::compare::{Emulated, Native};
use crate::far;
use crate::flags;
use crate::layout::{GUARD, HIGH, LOW, MID, WINDOW};
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
    /// Far RET that faults at the stack: the address may be that of either of the two
    /// elements. Far CALL that is denied: the emulator looks at both together.
    FarStack,
    /// Far RET with a wrong selector whose RPL is another one: AMD's processors read the
    /// outer stack first, and fault there.
    FarOuterStack,
    /// Far RET on a 16-bit stack: SP wraps (SDM 2B, RET), but on AMD's
    /// processors bits 31:16 of ESP change.
    FarRelease,
    /// Far CALL to beyond the limit of the new segment or with a stack beyond its limit,
    /// which faults too: the limits come first (SDM 2A, CALL), but not on AMD's processors.
    FarOrder,
    /// A far pointer in memory over the end of a segment or of canonical addresses: AMD's
    /// processors look at its halves one after the other, and wrap between them.
    FarPointer,
    /// A write that crosses from a page which a sub-page map denies into one that is not
    /// present: the guest's own faults come before denials. Here, natively, the denied
    /// page is one that the page tables protect, and comes first.
    FaultBeforeDenial,
}

/// What is not compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ignored {
    /// These flags.
    pub flags: u64,
    /// The exception.
    pub exception: bool,
    /// General registers but RSP.
    pub gprs: bool,
    /// Bits 31:16 of RSP.
    pub upper_sp: bool,
    /// Memory; the processor's becomes the emulator's.
    pub memory: bool,
    /// Anything.
    pub all: bool,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 18] = [
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
        Self::FarStack,
        Self::FarOuterStack,
        Self::FarRelease,
        Self::FarOrder,
        Self::FarPointer,
        Self::FaultBeforeDenial,
    ];

    /// What is not compared.
    const fn ignores(self, ignored: &mut Ignored) {
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
            Self::PartOfFrame | Self::PushedSelector | Self::UndefinedResult | Self::Aliases => {
                ignored.memory = true
            }
            Self::FarRelease => ignored.upper_sp = true,
            Self::WrappedFrame | Self::MaskedDenial | Self::MaskedEnd | Self::FarPointer => {
                ignored.all = true;
            }
        }
    }
}

impl Ignored {
    /// What none of some rules lets compare.
    pub fn by(rules: &[Rule]) -> Self {
        let mut ignored = Self::default();
        for rule in rules {
            rule.ignores(&mut ignored);
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
    let mut rules = Rule::ALL.to_vec();
    rules.retain(|rule| rule.holds(context, case, native, emulated));
    rules
}

impl Rule {
    fn holds(
        self,
        context: &mut Context<'_>,
        case: &Case,
        native: &Native,
        emulated: &Emulated,
    ) -> bool {
        let (cpu, insn) = (&case.start, &case.insn);
        let faulted = native.exception.is_some() && emulated.stop.is_some();
        let retired = native.exception.is_none() && emulated.stop.is_none();
        match self {
            Self::ReplayedFlags => {
                let compares = matches!(insn.op, Op::Cmps | Op::Scas);
                context.amd && faulted && compares && insn.rep != Rep::None
            }
            Self::OtherOperand => faulted && other_operand(context, case, native, emulated),
            Self::PartOfFrame => faulted && pushes_frame(insn),
            Self::PartOfRegisters => context.amd && faulted && insn.op == Op::Popa,
            Self::WrappedFrame => {
                let refused = emulated.stop == Some(Stop::Refused(insn.op));
                refused && pushes_frame(insn) && wraps(cpu)
            }
            Self::PushedSelector => context.amd && retired && pushes_selector(insn),
            Self::UndefinedResult => insn.dst == Operand::Mem && flags::undefined_result(cpu, insn),
            Self::MisalignedStack => {
                let stops = (native.exception, emulated.stop);
                (insn.aligned || insn.op == Op::Cmpxchg16b)
                    && stops == (Some(Exception::gp(0)), Some(Exception::ss(0).into()))
            }
            Self::Aliases => (retired || faulted) && overlaps(cpu, insn),
            Self::MaskedFault => {
                insn.op == Op::VmaskmovStore && masked_fault(case, native, emulated)
            }
            Self::MaskedDenial => {
                let denied = match emulated.stop {
                    None => context.denied,
                    Some(Stop::Denied(_)) => true,
                    _ => false,
                };
                denied && insn.op == Op::Maskmovdqu && write_fault(case, native).is_some()
            }
            Self::MaskedEnd => {
                let masked = matches!(insn.op, Op::Maskmovdqu | Op::VmaskmovStore);
                masked && crosses_end(cpu, insn) && segment_fault(emulated)
            }
            Self::FarStack => {
                let others = [Exception::ss(0), Exception::AC];
                let fault = |exception: Option<Exception>| {
                    exception.is_some_and(|e| others.contains(&e) || far_stack_fault(case, e))
                };
                let both = fault(native.exception) && fault(emulated.exception());
                let call = insn.op == Op::CallFar && context.denied;
                (insn.op == Op::RetFar || call) && both
            }
            Self::FarOuterStack => {
                let selector = emulated.exception().is_some_and(|e| e.vector == 13);
                let early = [Exception::ss(0), Exception::AC];
                let outer = native
                    .exception
                    .is_some_and(|e| early.contains(&e) || outer_stack_fault(case, e));
                context.amd && insn.op == Op::RetFar && selector && outer
            }
            Self::FarRelease => {
                let narrow = cpu.stack_size() == 2;
                context.amd && insn.op == Op::RetFar && narrow && retired
            }
            Self::FarOrder => {
                let limits = [Exception::gp(0), Exception::ss(0)].map(Some);
                let limit = limits.contains(&emulated.exception());
                let stack = native
                    .exception
                    .is_some_and(|e| e == Exception::AC || far_stack_fault(case, e));
                context.amd && insn.op == Op::CallFar && limit && stack
            }
            Self::FarPointer => {
                context.amd && far::is_far(insn.op) && insn.has_mem() && crosses_end(cpu, insn)
            }
            Self::FaultBeforeDenial => fault_before_denial(native, emulated),
        }
    }
}

/// It pushes several elements.
pub const fn pushes_frame(insn: &Insn) -> bool {
    matches!(insn.op, Op::Pusha | Op::Enter | Op::CallFar)
}

/// It pushes a segment register as 4 bytes.
const fn pushes_selector(insn: &Insn) -> bool {
    matches!(insn.op, Op::PushSreg) && insn.size == 4
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

/// A stack that ends soon.
fn wraps(cpu: &Cpu) -> bool {
    cpu.gpr_sized(RSP, cpu.stack_size().min(4)) < 0x100
}

/// Some of the operand is in its segment, or canonical, and some is not.
fn crosses_end(cpu: &Cpu, insn: &Insn) -> bool {
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

fn segment_fault(emulated: &Emulated) -> bool {
    let faults = [Exception::gp(0), Exception::ss(0)].map(|e| Some(e.into()));
    faults.contains(&emulated.stop)
}

/// A page fault at what a far branch pushes or pops.
fn far_stack_fault(case: &Case, exception: Exception) -> bool {
    let (cpu, insn) = (&case.start, &case.insn);
    let frame = 2 * u64::from(insn.size);
    let sp = cpu.gpr_sized(RSP, cpu.stack_size());
    let lowest = match insn.op {
        Op::RetFar => sp,
        Op::CallFar => sp.wrapping_sub(frame) & mask(cpu.stack_size()),
        _ => return false,
    };
    let lowest = linear(cpu, Seg::Ss, lowest);
    // Where 64-bit mode is left, half of RSP counts.
    let inside = |cr2: u64| {
        let ahead = cr2.wrapping_sub(lowest);
        ahead < frame || (insn.op == Op::CallFar && ahead & mask(4) < frame)
    };
    exception.cr2.is_some_and(|cr2| inside(cr2.get()))
}

/// A page fault at SS:RSP of an outer level, which lie behind what RET releases.
fn outer_stack_fault(case: &Case, exception: Exception) -> bool {
    let (cpu, insn) = (&case.start, &case.insn);
    let frame = 2 * u64::from(insn.size);
    let sp = cpu.gpr_sized(RSP, cpu.stack_size());
    let sp = sp
        .wrapping_add(frame)
        .wrapping_add(insn.imm as u64 & 0xffff);
    let outer = linear(cpu, Seg::Ss, sp & mask(cpu.stack_size()));
    exception
        .cr2
        .is_some_and(|cr2| cr2.get().wrapping_sub(outer) < frame)
}

/// What it reads and what it writes overlap, seen from the window, and do not, seen from
/// linear addresses.
fn overlaps(cpu: &Cpu, insn: &Insn) -> bool {
    let stack = |register| cpu.gpr_sized(register, cpu.stack_size());
    let (from, to, len) = match insn.op {
        Op::Movs if insn.rep != Rep::None => {
            let offset = |register| cpu.gpr_sized(register, insn.addr_size);
            let count = cpu.gpr_sized(RCX, insn.addr_size).min(WINDOW as u64);
            let from = linear(cpu, insn.mem.seg, offset(RSI));
            let to = linear(cpu, Seg::Es, offset(RDI));
            (from, to, count * u64::from(insn.size))
        }
        Op::Enter => (
            linear(cpu, Seg::Ss, stack(RBP)),
            linear(cpu, Seg::Ss, stack(RSP)),
            256,
        ),
        _ => return false,
    };
    let near = |a: u64, b: u64| a.abs_diff(b) < len;
    let (a, b) = (window_offset(from), window_offset(to));
    !near(from, to) && a.zip(b).is_some_and(|(a, b)| near(a, b))
}

/// The offset of an address in or around the window.
fn window_offset(address: u64) -> Option<u64> {
    [LOW, MID, HIGH]
        .into_iter()
        .map(|base| address.wrapping_sub(base - GUARD))
        .find(|offset| *offset < WINDOW as u64 + 2 * GUARD)
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
        let insn = Insn {
            op,
            rep: Rep::None,
            ..case.insn
        };
        let mut cpu = emulated.cpu;
        let stop = execute(
            &mut Guest::new(&mut cpu, &mut [], context.ram, context.devices),
            &insn,
        );
        match (stop, native.exception) {
            (Err(Stop::Exception(one)), Some(exception)) => one == exception,
            _ => false,
        }
    })
}

/// The address of a page fault for a write to the memory operand.
fn write_fault(case: &Case, native: &Native) -> Option<u64> {
    const WRITE: u32 = 1 << 1;
    let exception = native.exception?;
    let write = exception.error_code? & WRITE != 0;
    let cr2 = exception.cr2?.get();
    let insn = &case.insn;
    let operand = linear(
        &case.start,
        insn.mem.seg,
        allowed::operand(&case.start, insn),
    );
    let inside = cr2.wrapping_sub(operand) < u64::from(insn.mem_size);
    (write && inside).then_some(cr2)
}

/// Both sides fault for a write in the same page of the operand.
fn masked_fault(case: &Case, native: &Native, emulated: &Emulated) -> bool {
    let Some(stop) = emulated.exception() else {
        return false;
    };
    let same = native
        .exception
        .is_some_and(|e| e.error_code == stop.error_code);
    match (write_fault(case, native), stop.cr2) {
        (Some(native), Some(emulated)) => same && native >> 12 == emulated.get() >> 12,
        _ => false,
    }
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
        // In the same access, in the second page of which the emulator's fault is.
        (Some(first), Some(second)) => (second & !0xfff).wrapping_sub(first) < 4096,
        _ => false,
    }
}
