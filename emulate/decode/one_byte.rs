// SPDX-License-Identifier: GPL-2.0

//! The one-byte opcode map (SDM 2D table A-2).

use super::entry::{At, Entry, Size, Width};
use super::operand::Decoder;
use super::{evex, two_byte, vex, x87, xop, DecodeError};
use crate::insn::CodeSize;
use crate::op::Op;

const B: Size = Size::Fixed(1);
const V: Size = Size::V;

/// The entry of an opcode of one byte; of longer ones, the rest is read.
// Not inlined, for a small stack frame.
#[inline(never)]
pub(super) fn entry(d: &mut Decoder<'_>, opcode: u8) -> Result<Entry, DecodeError> {
    d.opcode = opcode;
    match opcode {
        0x0f => two_byte::entry(d),
        0x00..=0x3f => low(d, opcode),
        0x40..=0x7f => registers(d, opcode),
        0x80..=0x8f => moves(d, opcode),
        0x90..=0xbf => strings(d, opcode),
        0xd8..=0xdf => x87::entry(d, opcode),
        0xc0..=0xd7 => returns(d, opcode),
        0xe0..=0xef => branches(d, opcode),
        _ => high(d, opcode),
    }
}

/// B for even opcodes and `wide` for odd ones.
const fn by_parity(opcode: u8, wide: Size) -> Size {
    if opcode & 1 == 0 {
        B
    } else {
        wide
    }
}

/// An immediate that matters only for the length.
const fn immediate(size: Size, at: At) -> Entry {
    Entry::new(Op::NoMemory, size, At::None, at)
}

/// Only outside 64-bit mode.
fn legacy(d: &Decoder<'_>, entry: Entry) -> Result<Entry, DecodeError> {
    if d.long() {
        Err(DecodeError::Undefined)
    } else {
        Ok(entry)
    }
}

/// The operation that bits 5:3 of an opcode or ModRM.reg name.
const fn arithmetic(number: u8) -> Op {
    match number & 7 {
        0 => Op::Add,
        1 => Op::Or,
        2 => Op::Adc,
        3 => Op::Sbb,
        4 => Op::And,
        5 => Op::Sub,
        6 => Op::Xor,
        _ => Op::Cmp,
    }
}

/// `entry`, lockable unless it only compares.
const fn lock_unless_cmp(entry: Entry) -> Entry {
    if matches!(entry.op, Op::Cmp) {
        entry
    } else {
        entry.lock()
    }
}

fn low(d: &Decoder<'_>, opcode: u8) -> Result<Entry, DecodeError> {
    let op = arithmetic(opcode >> 3);
    let size = by_parity(opcode, V);
    let seg = At::Fixed(opcode >> 3);
    Ok(match opcode & 7 {
        0 | 1 => lock_unless_cmp(Entry::new(op, size, At::Rm, At::Reg)),
        2 | 3 => Entry::new(op, size, At::Reg, At::Rm),
        4 => immediate(B, At::SignedByte),
        5 => immediate(V, At::Z),
        // DAA, DAS, AAA, AAS.
        7 if opcode >= 0x20 => return legacy(d, Entry::NONE),
        6 => return legacy(d, Entry::new(Op::PushSreg, V, seg, At::None).implicit()),
        _ => return legacy(d, Entry::implied(Op::LoadSreg, V)),
    })
}

fn registers(d: &mut Decoder<'_>, opcode: u8) -> Result<Entry, DecodeError> {
    let size = by_parity(opcode, Size::Z);
    Ok(match opcode {
        // INC and DEC; prefixes in 64-bit mode.
        0x40..=0x4f => Entry::NONE,
        0x50..=0x57 => Entry::new(Op::Push, Size::D64, At::Opcode, At::None).implicit(),
        0x58..=0x5f => Entry::new(Op::Pop, Size::D64, At::Opcode, At::None).implicit(),
        0x60 => return legacy(d, Entry::implied(Op::Pusha, V)),
        0x61 => return legacy(d, Entry::implied(Op::Popa, V)),
        0x62 => return evex::bound_or_evex(d),
        0x63 if d.long() => Entry::new(Op::Movsxd, V, At::Reg, At::Rm).width(movsxd(d)),
        0x63 => Entry::new(Op::Arpl, Size::Fixed(2), At::Rm, At::Reg),
        0x68 => Entry::new(Op::Push, Size::D64, At::Z, At::None).implicit(),
        0x69 => Entry::new(Op::Imul2, V, At::Reg, At::Rm).third(At::Z),
        0x6a => Entry::new(Op::Push, Size::D64, At::SignedByte, At::None).implicit(),
        0x6b => Entry::new(Op::Imul2, V, At::Reg, At::Rm).third(At::SignedByte),
        0x6c | 0x6d => Entry::string(Op::Ins, size),
        0x6e | 0x6f => Entry::string(Op::Outs, size),
        _ => immediate(B, At::SignedByte),
    })
}

fn movsxd(d: &Decoder<'_>) -> Width {
    Width::Bytes(if d.size(V) == 2 { 2 } else { 4 })
}

fn moves(d: &mut Decoder<'_>, opcode: u8) -> Result<Entry, DecodeError> {
    let size = by_parity(opcode, V);
    Ok(match opcode {
        0x80..=0x83 => {
            if opcode == 0x82 && d.long() {
                return Err(DecodeError::Undefined);
            }
            let at = if opcode == 0x81 {
                At::Z
            } else {
                At::SignedByte
            };
            let op = arithmetic(d.modrm()?.reg());
            lock_unless_cmp(Entry::new(op, size, At::Rm, at))
        }
        0x84 | 0x85 => Entry::new(Op::Test, size, At::Rm, At::Reg),
        0x86 | 0x87 => Entry::new(Op::Xchg, size, At::Rm, At::Reg).lock(),
        0x88 | 0x89 => Entry::new(Op::Mov, size, At::Rm, At::Reg),
        0x8a | 0x8b => Entry::new(Op::MovLoad, size, At::Reg, At::Rm),
        0x8c => Entry::new(Op::MovFromSreg, V, At::Rm, At::Sreg).bytes(2),
        // LEA.
        0x8d => Entry::new(Op::NoMemory, V, At::Reg, At::Mem),
        // CS cannot be loaded.
        0x8e if d.modrm()?.reg() == 1 => return Err(DecodeError::Undefined),
        0x8e => Entry::new(Op::LoadSreg, Size::Fixed(2), At::Sreg, At::Rm).implicit(),
        _ => return xop::pop_or_xop(d),
    })
}

fn strings(d: &Decoder<'_>, opcode: u8) -> Result<Entry, DecodeError> {
    let size = by_parity(opcode, V);
    Ok(match opcode {
        0x9a => {
            let call = Entry::new(Op::CallFar, V, At::Far, At::None).implicit();
            return legacy(d, call);
        }
        0x9c => Entry::implied(Op::Pushf, Size::D64),
        0x9d => Entry::implied(Op::Popf, Size::D64),
        0x90..=0x9f => Entry::NONE,
        0xa0 | 0xa1 => Entry::new(Op::MovLoad, size, At::Gpr(0), At::Moffs),
        0xa2 | 0xa3 => Entry::new(Op::Mov, size, At::Moffs, At::Gpr(0)),
        0xa4 | 0xa5 => Entry::string(Op::Movs, size),
        0xa6 | 0xa7 => Entry::string(Op::Cmps, size),
        0xa8 => immediate(B, At::SignedByte),
        0xa9 => immediate(V, At::Z),
        0xaa | 0xab => Entry::string(Op::Stos, size),
        0xac | 0xad => Entry::string(Op::Lods, size),
        0xae | 0xaf => Entry::string(Op::Scas, size),
        0xb0..=0xb7 => immediate(B, At::SignedByte),
        _ => immediate(V, At::V),
    })
}

fn returns(d: &mut Decoder<'_>, opcode: u8) -> Result<Entry, DecodeError> {
    let size = by_parity(opcode, V);
    Ok(match opcode {
        0xc0 | 0xc1 => shift(d.modrm()?.reg(), size, At::Byte),
        0xc2 => Entry::new(Op::RetNear, Size::F64, At::Word, At::None).implicit(),
        0xc3 => Entry::implied(Op::RetNear, Size::F64),
        0xc4 | 0xc5 => return vex::load_far_or_vex(d, opcode),
        0xc6 | 0xc7 => return move_immediate(d, size),
        0xc8 => Entry::new(Op::Enter, Size::D64, At::Word, At::Level).implicit(),
        0xc9 => Entry::implied(Op::Leave, Size::D64),
        0xca => Entry::new(Op::RetFar, V, At::Word, At::None).implicit(),
        0xcb => Entry::implied(Op::RetFar, V),
        0xcc => Entry::implied(Op::Int, V),
        0xcd => Entry::new(Op::Int, V, At::Byte, At::None).implicit(),
        0xce => return legacy(d, Entry::implied(Op::Int, V)),
        0xcf => Entry::implied(Op::Iret, V),
        0xd0 | 0xd1 => shift(d.modrm()?.reg(), size, At::One),
        0xd2 | 0xd3 => shift(d.modrm()?.reg(), size, At::Gpr(1)),
        // AAM, AAD.
        0xd4 | 0xd5 => return legacy(d, immediate(B, At::Byte)),
        // SALC, which the manual does not list.
        0xd6 => return legacy(d, Entry::NONE),
        _ => Entry::new(Op::Xlat, B, At::Gpr(0), At::Based(3)),
    })
}

/// Group 2.
const fn shift(reg: u8, size: Size, count: At) -> Entry {
    let op = match reg {
        0 => Op::Rol,
        1 => Op::Ror,
        2 => Op::Rcl,
        3 => Op::Rcr,
        5 => Op::Shr,
        7 => Op::Sar,
        // 6 is an alias that the manual does not list.
        _ => Op::Shl,
    };
    Entry::new(op, size, At::Rm, count)
}

/// Group 11: MOV, and XABORT and XBEGIN.
fn move_immediate(d: &mut Decoder<'_>, size: Size) -> Result<Entry, DecodeError> {
    let at = if size == B { At::SignedByte } else { At::Z };
    let modrm = d.modrm()?;
    match modrm.reg() {
        0 => Ok(Entry::new(Op::Mov, size, At::Rm, at)),
        7 if modrm.0 == 0xf8 => Ok(immediate(size, at)),
        _ => Err(DecodeError::Undefined),
    }
}

fn branches(d: &Decoder<'_>, opcode: u8) -> Result<Entry, DecodeError> {
    Ok(match opcode {
        0xe8 => Entry::new(Op::CallNear, Size::F64, At::Z, At::None).implicit(),
        0xe9 => immediate(Size::F64, At::Z),
        0xea => {
            let jump = Entry::new(Op::JmpFar, V, At::Far, At::None).implicit();
            return legacy(d, jump);
        }
        // IN and OUT of DX.
        0xec..=0xef => Entry::NONE,
        // LOOP, JCXZ, JMP, IN and OUT.
        _ => immediate(B, At::SignedByte),
    })
}

fn high(d: &mut Decoder<'_>, opcode: u8) -> Result<Entry, DecodeError> {
    let size = by_parity(opcode, V);
    Ok(match opcode {
        0xf1 => Entry::implied(Op::Int, V),
        0xf6 | 0xf7 => unary(d.modrm()?.reg(), size),
        0xfe | 0xff => return increment(d, size),
        _ => Entry::NONE,
    })
}

/// Group 3.
const fn unary(reg: u8, size: Size) -> Entry {
    let op = match reg {
        0 | 1 => {
            let at = if matches!(size, B) {
                At::SignedByte
            } else {
                At::Z
            };
            return Entry::new(Op::Test, size, At::Rm, at);
        }
        2 => return Entry::new(Op::Not, size, At::Rm, At::None).lock(),
        3 => return Entry::new(Op::Neg, size, At::Rm, At::None).lock(),
        4 => Op::Mul,
        5 => Op::Imul,
        6 => Op::Div,
        _ => Op::Idiv,
    };
    Entry::new(op, size, At::Rm, At::None)
}

/// Groups 4 and 5.
fn increment(d: &mut Decoder<'_>, size: Size) -> Result<Entry, DecodeError> {
    let reg = d.modrm()?.reg();
    let near = |op| Entry::new(op, Size::F64, At::Rm, At::None);
    let far = |op| Entry::new(op, V, At::Mem, At::None).width(Width::Far);
    Ok(match reg {
        0 => Entry::new(Op::Inc, size, At::Rm, At::None).lock(),
        1 => Entry::new(Op::Dec, size, At::Rm, At::None).lock(),
        _ if size == B => return Err(DecodeError::Undefined),
        2 => near(Op::CallNear).implicit(),
        3 => far(Op::CallFar),
        4 => near(Op::JmpNear),
        5 => far(Op::JmpFar),
        6 => Entry::new(Op::Push, Size::D64, At::Rm, At::None).implicit(),
        _ => return Err(DecodeError::Undefined),
    })
}

/// Code of 16 bits has no VEX, EVEX or XOP prefixes in real mode, but in protected mode.
pub(super) const fn is_escape(code: CodeSize, next: u8) -> bool {
    matches!(code, CodeSize::Bits64) || next >= 0xc0
}
