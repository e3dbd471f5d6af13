// SPDX-License-Identifier: GPL-2.0

//! Our decoder and iced-x86 on the same bytes.

use std::string::String;
use std::vec::Vec;
use std::{format, vec};

use iced_x86::{
    Code, Decoder, DecoderError, DecoderOptions, Instruction, InstructionInfoFactory, MemorySize,
    OpAccess, OpKind, Register, UsedMemory,
};

use super::super::{decode, DecodeError};
use crate::insn::{CodeSize, Insn, Mem, MemAccess, Operand, Seg};
use crate::op::{Op, Policy};

/// In what two decoders differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    /// Ours takes it for an instruction, the other does not.
    OnlyOurs,
    /// The other way round.
    OnlyTheirs,
    /// Ours says that it is too long, or not.
    TooLong,
    Length,
    /// Ours does not know it.
    Unknown,
    /// The operand in memory.
    Memory,
    MemorySize,
    /// Whether it reads or writes memory.
    Access,
    /// Registers and immediates.
    Operands,
    Lock,
}

pub(super) struct Difference {
    pub(super) kind: Kind,
    pub(super) text: String,
}

pub(super) const fn bits(code: CodeSize) -> u32 {
    match code {
        CodeSize::Bits16 => 16,
        CodeSize::Bits32 => 32,
        CodeSize::Bits64 => 64,
    }
}

pub(super) struct Oracle {
    info: InstructionInfoFactory,
    pub(super) theirs: Instruction,
}

impl Oracle {
    pub(super) fn new() -> Self {
        Self {
            info: InstructionInfoFactory::new(),
            theirs: Instruction::default(),
        }
    }

    /// Decodes `bytes` with both, and says what ours is and in what they differ.
    pub(super) fn compare(
        &mut self,
        bytes: &[u8],
        code: CodeSize,
    ) -> (Result<Insn, DecodeError>, Option<Difference>) {
        let ours = decode(bytes, code);
        let mut decoder = Decoder::with_ip(bits(code), bytes, 0, DecoderOptions::MPX);
        decoder.decode_out(&mut self.theirs);
        let difference = self.difference(&ours, decoder.last_error(), code);
        (ours, difference)
    }

    fn difference(
        &mut self,
        ours: &Result<Insn, DecodeError>,
        error: DecoderError,
        code: CodeSize,
    ) -> Option<Difference> {
        let differ = |kind, text| Some(Difference { kind, text });
        let theirs = &self.theirs;
        let insn = match (ours, theirs.code()) {
            (Err(_), Code::INVALID) => return None,
            (Ok(insn), Code::INVALID) => {
                return differ(Kind::OnlyOurs, format!("{:?} {error:?}", insn.op))
            }
            (Err(error), _) => return differ(Kind::OnlyTheirs, format!("{error:?}")),
            (Ok(insn), _) => insn,
        };
        if usize::from(insn.len) != theirs.len() {
            return differ(Kind::Length, format!("{} {}", insn.len, theirs.len()));
        }
        let memory = self.info.info(theirs).used_memory();
        if let Some(text) = access(insn, memory) {
            return differ(Kind::Access, text);
        }
        if insn.op == Op::Unknown {
            return differ(Kind::Unknown, String::new());
        }
        if !matches!(insn.op.policy(), Policy::Emulated | Policy::SingleStep) {
            return None;
        }
        if insn.lock != theirs.has_lock_prefix() {
            return differ(Kind::Lock, String::new());
        }
        if let Some(text) = memory_operand(insn, theirs, code) {
            return differ(Kind::Memory, text);
        }
        if let Some(text) = memory_size(insn, theirs) {
            return differ(Kind::MemorySize, text);
        }
        operands(insn, theirs).and_then(|text| differ(Kind::Operands, text))
    }
}

const fn reads(access: OpAccess) -> bool {
    matches!(
        access,
        OpAccess::Read | OpAccess::CondRead | OpAccess::ReadWrite | OpAccess::ReadCondWrite
    )
}

const fn writes(access: OpAccess) -> bool {
    matches!(
        access,
        OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
    )
}

/// Emulated operations that write where no operand of theirs is.
const fn writes_implicitly(op: Op) -> bool {
    matches!(
        op,
        Op::Push
            | Op::PushSreg
            | Op::Pusha
            | Op::Pushf
            | Op::Enter
            | Op::CallNear
            | Op::CallFar
            | Op::Movdir64b
            | Op::Movs
            | Op::Stos
            | Op::Ins
            | Op::Int
            | Op::Enqcmd
    )
}

/// Emulated operations that read where no operand of theirs is.
const fn reads_implicitly(op: Op) -> bool {
    matches!(
        op,
        Op::Pop
            | Op::Popa
            | Op::Leave
            | Op::RetNear
            | Op::RetFar
            | Op::Movs
            | Op::Lods
            | Op::Cmps
            | Op::Scas
            | Op::Outs
    )
}

/// Operations that write memory.
fn may_write(op: Op) -> bool {
    matches!(op.access(), MemAccess::Write | MemAccess::ReadWrite) || writes_implicitly(op)
}

fn access(insn: &Insn, memory: &[UsedMemory]) -> Option<String> {
    let any = |wanted: fn(OpAccess) -> bool| memory.iter().any(|used| wanted(used.access()));
    let theirs = (any(reads), any(writes));
    let wrong = match insn.op {
        Op::NoMemory => theirs != (false, false),
        Op::OtherRead => theirs.1,
        // It may or may not.
        Op::Unknown => false,
        op if op.policy() == Policy::Refused => theirs.1 && !may_write(op),
        op => {
            let explicit = match insn.access() {
                MemAccess::None => (false, false),
                MemAccess::Read => (true, false),
                MemAccess::Write => (false, true),
                MemAccess::ReadWrite => (true, true),
            };
            let implicit = (reads_implicitly(op), writes_implicitly(op));
            theirs != (explicit.0 || implicit.0, explicit.1 || implicit.1)
        }
    };
    wrong.then(|| {
        let theirs: Vec<_> = memory.iter().map(UsedMemory::access).collect();
        format!("{:?} {:?} {theirs:?}", insn.op, insn.access())
    })
}

fn segment(register: Register) -> Seg {
    match register {
        Register::ES => Seg::Es,
        Register::CS => Seg::Cs,
        Register::SS => Seg::Ss,
        Register::FS => Seg::Fs,
        Register::GS => Seg::Gs,
        _ => Seg::Ds,
    }
}

fn number(register: Register) -> Option<u8> {
    (register != Register::None).then(|| register.full_register().number() as u8)
}

fn memory_kind(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Memory | OpKind::MemorySegDI | OpKind::MemorySegEDI | OpKind::MemorySegRDI
    )
}

fn has_memory(theirs: &Instruction) -> bool {
    theirs.op_kinds().any(memory_kind)
}

/// What theirs says of the operand in memory.
fn their_memory(theirs: &Instruction, code: CodeSize) -> (Mem, Option<u8>) {
    let prefix = match theirs.segment_prefix() {
        prefix @ (Register::FS | Register::GS) => prefix,
        _ if code == CodeSize::Bits64 => Register::None,
        prefix => prefix,
    };
    let base = theirs.memory_base();
    let stack = matches!(
        base,
        Register::BP | Register::EBP | Register::RBP | Register::SP | Register::ESP | Register::RSP
    );
    let seg = match prefix {
        Register::None if stack => Seg::Ss,
        prefix => segment(prefix),
    };
    let implied = |base, size| {
        let mem = Mem {
            seg,
            base: Some(base),
            ..Mem::default()
        };
        (mem, Some(size))
    };
    for kind in theirs.op_kinds() {
        match kind {
            OpKind::MemorySegDI => return implied(7, 2),
            OpKind::MemorySegEDI => return implied(7, 4),
            OpKind::MemorySegRDI => return implied(7, 8),
            _ => {}
        }
    }
    if theirs.is_ip_rel_memory_operand() {
        let long = base == Register::RIP;
        let mut disp = theirs
            .ip_rel_memory_address()
            .wrapping_sub(theirs.len() as u64) as i64;
        if !long {
            disp = i64::from(disp as i32);
        }
        let mem = Mem {
            seg,
            disp,
            rip_relative: true,
            ..Mem::default()
        };
        return (mem, Some(if long { 8 } else { 4 }));
    }
    let index = theirs.memory_index();
    let xlat = theirs.code() == Code::Xlat_m8;
    let register = if base == Register::None { index } else { base };
    let size = match register {
        Register::None => None,
        register => Some(register.size() as u8),
    };
    let displacement = theirs.memory_displacement64();
    let mem = Mem {
        seg,
        base: number(base),
        index: number(index).filter(|_| !xlat),
        scale: theirs.memory_index_scale() as u8,
        disp: displacement as i64,
        rip_relative: false,
    };
    (mem, size)
}

/// Displacements are compared as addresses are: modulo the address size.
fn truncated(mem: &Mem, addr_size: u8) -> Mem {
    let disp = match addr_size {
        2 => i64::from(mem.disp as u16),
        4 if !mem.rip_relative => i64::from(mem.disp as u32),
        _ => mem.disp,
    };
    let scale = if mem.index.is_some() { mem.scale } else { 1 };
    Mem {
        disp,
        scale,
        ..*mem
    }
}

fn memory_operand(insn: &Insn, theirs: &Instruction, code: CodeSize) -> Option<String> {
    if insn.has_mem() != has_memory(theirs) {
        // Theirs are operands that ours implies.
        let string = matches!(
            insn.op,
            Op::Movs | Op::Stos | Op::Lods | Op::Cmps | Op::Scas | Op::Ins | Op::Outs
        );
        return (!string).then(|| format!("{} {}", insn.has_mem(), has_memory(theirs)));
    }
    if !insn.has_mem() {
        return None;
    }
    let (mem, size) = their_memory(theirs, code);
    let size_differs = size.is_some_and(|size| size != insn.addr_size);
    let differs = truncated(&insn.mem, insn.addr_size) != truncated(&mem, insn.addr_size);
    (size_differs || differs)
        .then(|| format!("{:?} {} / {mem:?} {size:?}", insn.mem, insn.addr_size))
}

fn memory_size(insn: &Insn, theirs: &Instruction) -> Option<String> {
    let size = theirs.memory_size();
    let want = match size {
        MemorySize::Unknown => 0,
        size => size.size(),
    };
    let ours = if insn.has_mem() {
        usize::from(insn.mem_size)
    } else {
        0
    };
    let string = !insn.has_mem() && has_memory(theirs) || insn.op == Op::Xsave;
    (ours != want && !string && has_memory(theirs)).then(|| format!("{ours} {want} {size:?}"))
}

/// An operand of theirs as ours, and its bytes if it is a general register.
fn operand(theirs: &Instruction, index: u32) -> Option<(Operand, Option<usize>)> {
    let operand = match theirs.op_kind(index) {
        OpKind::Register => {
            let register = theirs.op_register(index);
            let number = register.number() as u8;
            return Some(match register {
                Register::AH | Register::CH | Register::DH | Register::BH => {
                    (Operand::High(number & 3), Some(1))
                }
                r if r.is_gpr() => {
                    let number = r.full_register().number() as u8;
                    (Operand::Gpr(number), Some(r.size()))
                }
                r if r.is_segment_register() => (Operand::Sreg(segment(r)), None),
                r if r.is_vector_register() => (Operand::Vector(number), None),
                r if r.is_mm() => (Operand::Mmx(number), None),
                // x87 and mask registers.
                _ => return None,
            });
        }
        OpKind::Memory | OpKind::MemorySegDI | OpKind::MemorySegEDI | OpKind::MemorySegRDI => {
            Operand::Mem
        }
        _ => Operand::Imm,
    };
    Some((operand, None))
}

/// The immediate of theirs in the form of ours.
fn immediate(insn: &Insn, theirs: &Instruction) -> Option<i64> {
    let kind = theirs.op_kinds().find(|kind| {
        !matches!(
            kind,
            OpKind::Register
                | OpKind::Memory
                | OpKind::MemorySegDI
                | OpKind::MemorySegEDI
                | OpKind::MemorySegRDI
        )
    })?;
    let index = theirs.op_kinds().position(|other| other == kind)? as u32;
    Some(match kind {
        OpKind::NearBranch16 => {
            i64::from(theirs.near_branch16().wrapping_sub(insn.len.into()) as i16)
        }
        OpKind::NearBranch32 => {
            i64::from(theirs.near_branch32().wrapping_sub(insn.len.into()) as i32)
        }
        OpKind::NearBranch64 => theirs.near_branch64().wrapping_sub(insn.len.into()) as i64,
        OpKind::FarBranch16 => i64::from(theirs.far_branch16()),
        OpKind::FarBranch32 => i64::from(theirs.far_branch32()),
        OpKind::Immediate8
            if insn.size == 1
                && !matches!(
                    insn.op,
                    Op::Rol | Op::Ror | Op::Rcl | Op::Rcr | Op::Shl | Op::Shr | Op::Sar
                ) =>
        {
            i64::from(theirs.immediate8() as i8)
        }
        OpKind::Immediate16 if !matches!(insn.op, Op::RetNear | Op::RetFar | Op::Enter) => {
            i64::from(theirs.immediate16() as i16)
        }
        OpKind::Immediate32 => i64::from(theirs.immediate32() as i32),
        _ => theirs.immediate(index) as i64,
    })
}

fn operands(insn: &Insn, theirs: &Instruction) -> Option<String> {
    let string = matches!(
        insn.op,
        Op::Movs | Op::Stos | Op::Lods | Op::Cmps | Op::Scas | Op::Ins | Op::Outs
    );
    let ours: Vec<_> = [insn.dst, insn.src, insn.third]
        .into_iter()
        .filter(|&operand| operand != Operand::None)
        .collect();
    let mut want = vec![];
    let mut registers = vec![];
    for index in 0..theirs.op_count() {
        if let Some((operand, size)) = operand(theirs, index) {
            want.push(operand);
            registers.extend(size);
        }
    }
    if string {
        let far = theirs.memory_segment();
        let source = matches!(insn.op, Op::Movs | Op::Lods | Op::Cmps | Op::Outs);
        let prefixed = theirs.segment_prefix();
        let seg_differs = source
            && (prefixed == far)
            && segment(far) != insn.mem.seg
            && matches!(far, Register::FS | Register::GS);
        let size = theirs.memory_size().size();
        return (seg_differs || size != usize::from(insn.size))
            .then(|| format!("{:?} {} {far:?} {size}", insn.mem.seg, insn.size));
    }
    let imm = immediate(insn, theirs);
    let has_imm = ours.contains(&Operand::Imm);
    let differs = ours != want || has_imm && imm != Some(insn.imm);
    differs.then(|| format!("{ours:?} {:#x} / {want:?} {imm:x?}", insn.imm))
}
