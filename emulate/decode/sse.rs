// SPDX-License-Identifier: GPL-2.0

//! MMX and SSE in the opcode map 0F (SDM 2D table A-3).

use super::entry::{At, Entry, Size, Width};
use super::operand::Decoder;
use super::prefix::Pp;
use super::DecodeError;
use crate::op::Op;
use Pp::{Np, F2, F3, P66};

const V: Size = Size::V;
const UNDEFINED: Result<Entry, DecodeError> = Err(DecodeError::Undefined);

/// A vector register to memory, as wide as it is.
pub(super) const fn store() -> Entry {
    Entry::new(Op::VectorStore, V, At::VecRm, At::Vec)
        .width(Width::Vector(0))
        .no_v()
}

/// Memory to a vector register.
pub(super) const fn load() -> Entry {
    Entry::new(Op::VectorLoad, V, At::Vec, At::VecRm)
        .width(Width::Vector(0))
        .no_v()
}

/// The low bytes of a vector register to memory.
pub(super) const fn scalar_store(op: Op, bytes: u16) -> Entry {
    Entry::new(op, V, At::VecRm, At::Vec)
        .bytes(bytes)
        .scalar()
        .no_v()
}

/// Memory to the low bytes of a vector register.
pub(super) const fn scalar_load(bytes: u16) -> Entry {
    Entry::new(Op::ScalarLoad, V, At::Vec, At::VecRm)
        .bytes(bytes)
        .scalar()
        .no_v()
}

/// `entry`, with memory as its only form.
pub(super) const fn only_mem(mut entry: Entry) -> Entry {
    if matches!(entry.dst, At::VecRm) {
        entry.dst = At::Mem;
    } else {
        entry.src = At::Mem;
    }
    entry
}

/// An MMX register to memory.
const fn mmx_store(at: At, width: Width) -> Entry {
    Entry::new(Op::MmxStore, Size::Y, at, At::Mmx).width(width)
}

/// The entry of an SSE or MMX opcode.
pub(super) fn entry(d: &mut Decoder<'_>, opcode: u8) -> Result<Entry, DecodeError> {
    let pp = d.prefixes.mandatory();
    match opcode {
        0x10..=0x17 => halves(opcode, pp),
        0x28..=0x2f => aligned(opcode, pp),
        0x6e | 0x6f | 0x7e | 0x7f => moves(opcode, pp),
        0x50..=0x7f => arithmetic(d, opcode, pp),
        0xc2 | 0xc4..=0xc6 => shuffles(opcode, pp),
        0xd0..=0xff => integers(opcode, pp),
        _ => UNDEFINED,
    }
}

/// Bytes of a scalar of F3 and F2.
const fn scalar(pp: Pp) -> u16 {
    match pp {
        F3 => 4,
        _ => 8,
    }
}

const fn halves(opcode: u8, pp: Pp) -> Result<Entry, DecodeError> {
    Ok(match (opcode, pp) {
        (0x10, Np | P66) => load(),
        (0x10, F3 | F2) => scalar_load(scalar(pp)),
        (0x11, Np | P66) => store(),
        (0x11, F3 | F2) => scalar_store(Op::ScalarStore, scalar(pp)),
        // The register forms are MOVHLPS and MOVLHPS.
        (0x12, Np) => half_load(Op::LowLoad, At::VecRm),
        (0x16, Np) => half_load(Op::HighLoad, At::VecRm),
        (0x12, P66) => half_load(Op::LowLoad, At::Mem),
        (0x16, P66) => half_load(Op::HighLoad, At::Mem),
        (0x13, Np | P66) => only_mem(scalar_store(Op::ScalarStore, 8)),
        (0x17, Np | P66) => only_mem(scalar_store(Op::HighStore, 8)),
        (0x12, F3 | F2) | (0x14 | 0x15, Np | P66) | (0x16, F3) => Entry::READ,
        _ => return UNDEFINED,
    })
}

const fn half_load(op: Op, at: At) -> Entry {
    Entry::new(op, V, At::Vec, at).bytes(8)
}

const fn aligned(opcode: u8, pp: Pp) -> Result<Entry, DecodeError> {
    Ok(match (opcode, pp) {
        (0x28, Np | P66) => load().aligned(),
        (0x29, Np | P66) => store().aligned(),
        (0x2b, Np | P66) => only_mem(store()).aligned(),
        // MOVNTSS, MOVNTSD of AMD.
        (0x2b, F3 | F2) => Entry::new(Op::OtherWrite, V, At::Mem, At::None),
        (0x2a | 0x2c | 0x2d, _) | (0x2e | 0x2f, Np | P66) => Entry::READ,
        _ => return UNDEFINED,
    })
}

/// MOVD, MOVQ, MOVDQA, MOVDQU.
const fn moves(opcode: u8, pp: Pp) -> Result<Entry, DecodeError> {
    Ok(match (opcode, pp) {
        (0x6e | 0x6f, Np) => Entry::READ,
        (0x6e, P66) => vector_from_general(),
        (0x6f, P66) => load().aligned(),
        (0x6f, F3) => load(),
        (0x7e, Np) => mmx_store(At::Rm, Width::Same),
        (0x7e, P66) => general_from_vector(),
        (0x7e, F3) => scalar_load(8),
        (0x7f, Np) => mmx_store(At::Rm, Width::Bytes(8)),
        (0x7f, P66) => store().aligned(),
        (0x7f, F3) => store(),
        _ => return UNDEFINED,
    })
}

/// MOVD, MOVQ from a general register or memory.
pub(super) const fn vector_from_general() -> Entry {
    Entry::new(Op::ScalarLoad, Size::Y, At::Vec, At::Rm).no_v()
}

/// MOVD, MOVQ to a general register or memory.
pub(super) const fn general_from_vector() -> Entry {
    Entry::new(Op::ScalarStore, Size::Y, At::Rm, At::Vec).no_v()
}

fn arithmetic(d: &mut Decoder<'_>, opcode: u8, pp: Pp) -> Result<Entry, DecodeError> {
    Ok(match (opcode, pp) {
        (0x50, Np | P66) => Entry::REGISTER,
        (0x51 | 0x58..=0x5a | 0x5c..=0x5f, _)
        | (0x52 | 0x53, Np | F3)
        | (0x54..=0x57 | 0x60..=0x6b | 0x74..=0x76, Np | P66)
        | (0x5b, Np | P66 | F3)
        | (0x6c | 0x6d, P66)
        | (0x7c | 0x7d, P66 | F2) => Entry::READ,
        (0x70, _) => Entry::READ.byte(),
        (0x71..=0x73, Np | P66) => return vector_shift(d, opcode, pp),
        // EMMS.
        (0x77, Np) => Entry::NONE,
        // VMREAD, VMWRITE.
        (0x78, Np) => Entry::new(Op::Vmx, vmx_size(d), At::Rm, At::None),
        (0x79, Np) => Entry::READ,
        // EXTRQ, INSERTQ of AMD.
        (0x78, P66) if d.modrm()?.reg() == 0 => Entry::REGISTER.third(At::Word),
        (0x78, F2) => Entry::REGISTER.third(At::Word),
        (0x79, P66 | F2) => Entry::REGISTER,
        _ => return UNDEFINED,
    })
}

fn vmx_size(d: &Decoder<'_>) -> Size {
    Size::Fixed(if d.long() { 8 } else { 4 })
}

/// Groups 12 to 14.
fn vector_shift(d: &mut Decoder<'_>, opcode: u8, pp: Pp) -> Result<Entry, DecodeError> {
    match (opcode, d.modrm()?.reg(), pp) {
        (0x71 | 0x72, 2 | 4 | 6, _) | (0x73, 2 | 6, _) | (0x73, 3 | 7, P66) => {
            Ok(Entry::REGISTER.byte())
        }
        _ => UNDEFINED,
    }
}

const fn shuffles(opcode: u8, pp: Pp) -> Result<Entry, DecodeError> {
    match (opcode, pp) {
        (0xc2, _) | (0xc4 | 0xc6, Np | P66) => Ok(Entry::READ.byte()),
        (0xc5, Np | P66) => Ok(Entry::REGISTER.byte()),
        _ => UNDEFINED,
    }
}

const fn integers(opcode: u8, pp: Pp) -> Result<Entry, DecodeError> {
    Ok(match (opcode, pp) {
        (0xd6, P66) => scalar_store(Op::ScalarStore, 8),
        // MOVQ2DQ, MOVDQ2Q, PMOVMSKB.
        (0xd6, F3 | F2) | (0xd7, Np | P66) => Entry::REGISTER,
        (0xe7, Np) => mmx_store(At::Mem, Width::Bytes(8)),
        (0xe7, P66) => only_mem(store()).aligned(),
        (0xf0, F2) => only_mem(load()),
        (0xf7, Np) => Entry::new(Op::Maskmovq, V, At::Based(7), At::Mmx)
            .third(At::MmxRm)
            .bytes(8),
        (0xf7, P66) => masked_store(),
        (0xd0, P66 | F2) | (0xe6, P66 | F3 | F2) => Entry::READ,
        (0xff, _) | (0xd0 | 0xd6 | 0xe6 | 0xf0, _) => return UNDEFINED,
        (_, Np | P66) => Entry::READ,
        _ => return UNDEFINED,
    })
}

/// MASKMOVDQU.
pub(super) const fn masked_store() -> Entry {
    Entry::new(Op::Maskmovdqu, V, At::Based(7), At::Vec)
        .third(At::VecReg)
        .bytes(16)
        .no_v()
}
