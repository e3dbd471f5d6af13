// SPDX-License-Identifier: GPL-2.0

//! What iced-x86 says of operands, in our terms.

use std::string::{String, ToString};
use std::vec::Vec;
use std::{format, vec};

use iced_x86::{
    ConditionCode, EncodingKind, Instruction, MemorySize, Mnemonic, OpKind, Register, UsedMemory,
};

use crate::insn::{CodeSize, Insn, Mem, MemAccess, Operand, Rep, Seg};
use crate::op::Op;

/// Operands of string instructions are implied in ours and operands in theirs.
pub(super) const fn is_string(op: Op) -> bool {
    matches!(
        op,
        Op::Movs | Op::Stos | Op::Lods | Op::Cmps | Op::Scas | Op::Ins | Op::Outs
    )
}

/// Theirs must be among the names of ours.
pub(super) fn name(insn: &Insn, theirs: &Instruction) -> Option<String> {
    let full = format!("{:?}", theirs.mnemonic()).to_uppercase();
    let conditional = matches!(insn.op, Op::Setcc | Op::Cmovcc);
    let mut name = match insn.op {
        Op::Setcc => full.strip_prefix("SET").map(|_| "SETCC".to_string())?,
        Op::Cmovcc => full.strip_prefix("CMOV").map(|_| "CMOVCC".to_string())?,
        Op::Evex if theirs.encoding() == EncodingKind::EVEX => "EVEX".to_string(),
        _ => full,
    };
    if is_string(insn.op) {
        name.pop();
    }
    let ours = insn.op.name().to_uppercase();
    let any = |name: &str| {
        ours.split(|c: char| !c.is_alphanumeric())
            .any(|word| word == name)
    };
    let aliases = alias(theirs.mnemonic());
    let known = any(&name)
        || aliases.is_some_and(any)
        || theirs.encoding() != EncodingKind::Legacy && name.strip_prefix('V').is_some_and(any);
    (!known && !conditional).then(|| format!("{ours} {name}"))
}

/// Names of theirs for what ours and the manual call something else.
const fn alias(mnemonic: Mnemonic) -> Option<&'static str> {
    Some(match mnemonic {
        Mnemonic::Sal => "SHL",
        Mnemonic::Pushfd | Mnemonic::Pushfq => "PUSHF",
        Mnemonic::Pushad => "PUSHA",
        Mnemonic::Popad => "POPA",
        Mnemonic::Retf => "RET",
        Mnemonic::Xlatb => "XLAT",
        Mnemonic::Fxsave64 => "FXSAVE",
        Mnemonic::Xsave64 => "XSAVE",
        Mnemonic::Xsaveopt64 => "XSAVEOPT",
        Mnemonic::Xsavec64 => "XSAVEC",
        Mnemonic::Xsaves64 => "XSAVES",
        Mnemonic::Pextrb | Mnemonic::Pextrw | Mnemonic::Pextrd | Mnemonic::Pextrq => "PEXTR",
        Mnemonic::Vpextrb | Mnemonic::Vpextrw | Mnemonic::Vpextrd | Mnemonic::Vpextrq => "PEXTR",
        Mnemonic::Kmovb | Mnemonic::Kmovw | Mnemonic::Kmovd | Mnemonic::Kmovq => "KMOV",
        Mnemonic::Movntps | Mnemonic::Movntpd | Mnemonic::Movntdq => "MOVNTPS",
        Mnemonic::Vmovntps | Mnemonic::Vmovntpd | Mnemonic::Vmovntdq => "MOVNTPS",
        Mnemonic::Movupd | Mnemonic::Vmovupd => "MOVUPS",
        Mnemonic::Movapd | Mnemonic::Vmovapd => "MOVAPS",
        _ => return None,
    })
}

const fn segment(register: Register) -> Seg {
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

/// The address size of an operand in memory that no ModRM byte encodes.
const fn implied(kind: OpKind) -> Option<u8> {
    match kind {
        OpKind::MemorySegDI => Some(2),
        OpKind::MemorySegEDI => Some(4),
        OpKind::MemorySegRDI => Some(8),
        _ => None,
    }
}

const fn is_memory(kind: OpKind) -> bool {
    matches!(kind, OpKind::Memory) || implied(kind).is_some()
}

/// The segment of an operand: in 64-bit mode the prefixes CS, DS, ES and SS are ignored.
fn their_segment(theirs: &Instruction, base: Register, code: CodeSize) -> Seg {
    let stack = matches!(base.full_register(), Register::RBP | Register::RSP);
    let default = if stack { Seg::Ss } else { Seg::Ds };
    match theirs.segment_prefix() {
        Register::None => default,
        prefix @ (Register::FS | Register::GS) => segment(prefix),
        _ if code == CodeSize::Bits64 => default,
        prefix => segment(prefix),
    }
}

/// The operand in memory, and its address size where registers tell.
fn their_memory(theirs: &Instruction, code: CodeSize) -> (Mem, Option<u8>) {
    let base = theirs.memory_base();
    let index = theirs.memory_index();
    let mut mem = Mem {
        seg: their_segment(theirs, base, code),
        ..Mem::default()
    };
    if let Some(size) = theirs.op_kinds().find_map(implied) {
        mem.base = Some(7);
        return (mem, Some(size));
    }
    if theirs.is_ip_rel_memory_operand() {
        let disp = theirs
            .ip_rel_memory_address()
            .wrapping_sub(theirs.len() as u64);
        mem.rip_relative = true;
        if base == Register::EIP {
            mem.disp = i64::from(disp as i32);
            return (mem, Some(4));
        }
        mem.disp = disp as i64;
        return (mem, Some(8));
    }
    // Ours leaves it to the operation that AL is added.
    let xlat = theirs.mnemonic() == Mnemonic::Xlatb;
    mem.base = number(base);
    mem.index = number(index).filter(|_| !xlat);
    mem.scale = theirs.memory_index_scale() as u8;
    mem.disp = theirs.memory_displacement64() as i64;
    let register = if base == Register::None { index } else { base };
    let size = (register != Register::None).then(|| register.size() as u8);
    (mem, size)
}

/// Displacements are compared as they are added: modulo the address size.
fn normal(mem: &Mem, addr_size: u8) -> Mem {
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

pub(super) fn memory(insn: &Insn, theirs: &Instruction, code: CodeSize) -> Option<String> {
    if is_string(insn.op) {
        return string(insn, theirs, code);
    }
    let has_memory = theirs.op_kinds().any(is_memory);
    if insn.has_mem() != has_memory {
        return Some(format!("{} {has_memory}", insn.has_mem()));
    }
    if !has_memory {
        return None;
    }
    let (mem, size) = their_memory(theirs, code);
    let same_size = size.is_none_or(|size| size == insn.addr_size);
    let same = normal(&insn.mem, insn.addr_size) == normal(&mem, insn.addr_size);
    (!same || !same_size).then(|| format!("{:?} {} {mem:?} {size:?}", insn.mem, insn.addr_size))
}

/// The segment of the source, and the address size.
fn string(insn: &Insn, theirs: &Instruction, code: CodeSize) -> Option<String> {
    let source = matches!(insn.op, Op::Movs | Op::Lods | Op::Cmps | Op::Outs);
    let seg = their_segment(theirs, Register::None, code);
    let size = theirs.op_kinds().find_map(|kind| match kind {
        OpKind::MemorySegSI | OpKind::MemoryESDI => Some(2),
        OpKind::MemorySegESI | OpKind::MemoryESEDI => Some(4),
        OpKind::MemorySegRSI | OpKind::MemoryESRDI => Some(8),
        _ => None,
    });
    (source && insn.mem.seg != seg || Some(insn.addr_size) != size)
        .then(|| format!("{:?} {} {seg:?} {size:?}", insn.mem.seg, insn.addr_size))
}

/// XSAVE areas have no size in theirs either.
pub(super) fn memory_size(insn: &Insn, theirs: &Instruction) -> Option<String> {
    let size = match theirs.memory_size() {
        MemorySize::Unknown | MemorySize::Xsave | MemorySize::Xsave64 => 0,
        size => size.size(),
    };
    let ours = match insn.op {
        op if is_string(op) => usize::from(insn.size),
        _ => usize::from(insn.mem_size),
    };
    let has_memory = theirs.memory_size() != MemorySize::Unknown && insn.has_mem();
    (ours != size && (has_memory || is_string(insn.op)))
        .then(|| format!("{ours} {size} {:?}", theirs.memory_size()))
}

/// A register of theirs; none if ours does not tell it (x87, mask registers).
fn register(register: Register) -> Option<Operand> {
    let number = register.number() as u8;
    Some(match register {
        Register::AH | Register::CH | Register::DH | Register::BH => Operand::High(number & 3),
        r if r.is_gpr() => Operand::Gpr(r.full_register().number() as u8),
        r if r.is_segment_register() => Operand::Sreg(segment(r)),
        r if r.is_vector_register() => Operand::Vector(number),
        r if r.is_mm() => Operand::Mmx(number),
        _ => return None,
    })
}

/// The operands of theirs, and the immediate that ours tells.
fn their_operands(insn: &Insn, theirs: &Instruction) -> (Vec<Operand>, i64) {
    let mut operands = vec![];
    let mut imm = None;
    for index in 0..theirs.op_count() {
        match theirs.op_kind(index) {
            OpKind::Register => operands.extend(register(theirs.op_register(index))),
            kind if is_memory(kind) => operands.push(Operand::Mem),
            kind => {
                // The second one is the nesting level of ENTER.
                if imm.is_none() {
                    operands.push(Operand::Imm);
                    imm = Some(immediate(insn, theirs, kind, index));
                }
            }
        }
    }
    (operands, imm.unwrap_or_default())
}

fn immediate(insn: &Insn, theirs: &Instruction, kind: OpKind, index: u32) -> i64 {
    let len = u64::from(insn.len);
    let from = |target: u64| target.wrapping_sub(len);
    let count = matches!(
        insn.op,
        Op::Rol | Op::Ror | Op::Rcl | Op::Rcr | Op::Shl | Op::Shr | Op::Sar
    );
    let unsigned = matches!(insn.op, Op::RetNear | Op::RetFar | Op::Enter) || count;
    match kind {
        OpKind::NearBranch16 => i64::from(from(theirs.near_branch16().into()) as i16),
        OpKind::NearBranch32 => i64::from(from(theirs.near_branch32().into()) as i32),
        OpKind::NearBranch64 => from(theirs.near_branch64()) as i64,
        OpKind::FarBranch16 => theirs.far_branch16().into(),
        OpKind::FarBranch32 => theirs.far_branch32().into(),
        OpKind::Immediate8 if insn.size == 1 && !unsigned => i64::from(theirs.immediate8() as i8),
        OpKind::Immediate16 if !unsigned => i64::from(theirs.immediate16() as i16),
        OpKind::Immediate32 => i64::from(theirs.immediate32() as i32),
        _ => theirs.immediate(index) as i64,
    }
}

pub(super) fn operands(insn: &Insn, theirs: &Instruction) -> Option<String> {
    if is_string(insn.op) {
        return None;
    }
    let ours = [insn.dst, insn.src, insn.third];
    // XLAT has AL as an operand only in ours.
    let skip = usize::from(insn.op == Op::Xlat);
    let ours: Vec<_> = ours
        .into_iter()
        .skip(skip)
        .filter(|&operand| operand != Operand::None)
        .collect();
    let (operands, imm) = their_operands(insn, theirs);
    let imm2 = match theirs.op_kinds().last() {
        Some(OpKind::FarBranch16 | OpKind::FarBranch32) => theirs.far_branch_selector(),
        Some(OpKind::Immediate8_2nd) => theirs.immediate8_2nd().into(),
        _ => 0,
    };
    let imm_differs = ours.contains(&Operand::Imm) && imm != insn.imm;
    (ours != operands || imm_differs || imm2 != insn.imm2).then(|| {
        format!(
            "{ours:?} {:#x} {} {operands:?} {imm:#x} {imm2}",
            insn.imm, insn.imm2
        )
    })
}

/// Bytes of the first general or vector register among the operands of theirs.
fn register_size(theirs: &Instruction, wanted: fn(Register) -> bool) -> Option<usize> {
    (0..theirs.op_count())
        .filter(|&index| theirs.op_kind(index) == OpKind::Register)
        .map(|index| theirs.op_register(index))
        .find(|&register| wanted(register))
        .map(Register::size)
}

/// The size of what is pushed or popped, and of elements under a mask.
pub(super) fn implied_size(insn: &Insn, memory: &[UsedMemory]) -> Option<String> {
    let size = usize::from(insn.size);
    let stack = |used: &&UsedMemory| {
        let base = used.base().full_register();
        matches!(base, Register::RSP | Register::RBP)
    };
    let wrong = match insn.op {
        Op::VmaskmovStore => memory
            .iter()
            .any(|used| used.memory_size().element_size() != size),
        Op::Movdir64b => false,
        op if op.implied() == MemAccess::None => false,
        _ => !memory
            .iter()
            .filter(stack)
            .any(|used| used.memory_size().size() == size),
    };
    wrong.then(|| format!("{size} {memory:?}"))
}

/// Instructions whose operand in memory must be aligned, of those that are emulated.
const fn is_aligned(mnemonic: Mnemonic) -> bool {
    use Mnemonic::{
        Movapd, Movaps, Movdqa, Movntdq, Movntdqa, Movntpd, Movntps, Vmovapd, Vmovaps, Vmovdqa,
        Vmovntdq, Vmovntdqa, Vmovntpd, Vmovntps,
    };
    matches!(
        mnemonic,
        Movapd
            | Movaps
            | Movdqa
            | Movntdq
            | Movntdqa
            | Movntpd
            | Movntps
            | Vmovapd
            | Vmovaps
            | Vmovdqa
            | Vmovntdq
            | Vmovntdqa
            | Vmovntpd
            | Vmovntps
    )
}

pub(super) fn attributes(insn: &Insn, theirs: &Instruction) -> Option<String> {
    let rep = match insn.rep {
        Rep::None => (false, false),
        Rep::Rep => (true, false),
        Rep::Repne => (false, true),
    };
    // In theirs they may also be XACQUIRE, XRELEASE, BND or nothing.
    let their_rep = match is_string(insn.op) {
        true => (theirs.has_rep_prefix(), theirs.has_repne_prefix()),
        false => (false, false),
    };
    let condition = match theirs.condition_code() {
        ConditionCode::None => 0,
        condition => condition as u8 - 1,
    };
    let wide = |register: Register| register.is_vector_register() && !register.is_mm();
    let vector_len = register_size(theirs, wide).unwrap_or(0);
    // A count in CL and an address have their own width.
    let own_width = matches!(
        insn.op,
        Op::Rol | Op::Ror | Op::Rcl | Op::Rcr | Op::Shl | Op::Shr | Op::Sar | Op::Movdir64b
    );
    let size = match register_size(theirs, Register::is_gpr) {
        Some(size) if !own_width && !is_string(insn.op) => size,
        _ => usize::from(insn.size),
    };
    let vex = theirs.encoding() != EncodingKind::Legacy;
    let aligned = is_aligned(theirs.mnemonic()) && insn.op != Op::Evex;
    let same = insn.lock == theirs.has_lock_prefix()
        && rep == their_rep
        && insn.condition == condition
        && usize::from(insn.vector_len) == vector_len
        && usize::from(insn.size) == size
        && insn.vex == vex
        && insn.aligned == aligned;
    (!same).then(|| format!("{insn:?} {their_rep:?} {condition} {vector_len} {size} {vex}"))
}
