// SPDX-License-Identifier: GPL-2.0

//! From an entry of an opcode map to an instruction.

use super::cursor::Cursor;
use super::entry::{At, Entry, Size, Width};
use super::modrm::ModRm;
use super::prefix::{Pp, Prefixes};
use super::DecodeError;
use crate::insn::{CodeSize, Insn, Mem, Operand, Seg};
use crate::op::Op;

/// What VEX, EVEX and XOP prefixes hold beyond what REX does.
#[derive(Clone, Copy)]
pub(super) struct Vex {
    /// Bits 4:0, not inverted.
    pub(super) v: u8,
    /// The register that they name in this mode.
    pub(super) register: u8,
    /// 0 is 128 bits, 1 is 256, 2 is 512; 3 is valid for scalars.
    pub(super) len: u8,
    /// The mandatory prefix.
    pub(super) pp: Pp,
    /// W as it is encoded; outside 64-bit mode it means no operand size.
    pub(super) w: bool,
}

/// An instruction whose prefixes and opcode are read.
pub(super) struct Decoder<'a> {
    pub(super) cursor: Cursor<'a>,
    pub(super) code: CodeSize,
    pub(super) prefixes: Prefixes,
    pub(super) vex: Option<Vex>,
    /// What an 8-bit displacement counts in.
    pub(super) unit: u16,
    /// The last byte of the opcode.
    pub(super) opcode: u8,
    modrm: Option<ModRm>,
}

impl<'a> Decoder<'a> {
    pub(super) const fn new(cursor: Cursor<'a>, code: CodeSize, prefixes: Prefixes) -> Self {
        Self {
            cursor,
            code,
            prefixes,
            vex: None,
            unit: 1,
            opcode: 0,
            modrm: None,
        }
    }

    /// The ModRM byte, read when first asked for.
    pub(super) fn modrm(&mut self) -> Result<ModRm, DecodeError> {
        if let Some(modrm) = self.modrm {
            return Ok(modrm);
        }
        let modrm = ModRm(self.cursor.u8()?);
        self.modrm = Some(modrm);
        Ok(modrm)
    }

    pub(super) fn long(&self) -> bool {
        self.code == CodeSize::Bits64
    }

    /// Bytes of an address (SDM 1 3.6).
    pub(super) fn addr_size(&self) -> u8 {
        match (self.code, self.prefixes.address) {
            (CodeSize::Bits64, false) => 8,
            (CodeSize::Bits16, false) | (CodeSize::Bits32, true) => 2,
            _ => 4,
        }
    }

    /// Bytes of an operation (SDM 1 3.6).
    pub(super) fn size(&self, size: Size) -> u8 {
        let long = self.long();
        let small = (self.code == CodeSize::Bits16) != self.prefixes.operand;
        match size {
            Size::Fixed(bytes) => bytes,
            Size::F64 if long => 8,
            Size::D64 if long && !small => 8,
            Size::V | Size::Y | Size::D64 | Size::F64 if self.prefixes.w => 8,
            Size::Y => 4,
            Size::Z if self.prefixes.w => 4,
            _ if small => 2,
            _ => 4,
        }
    }

    fn width(&self, width: Width, size: u8, vector_len: u8) -> u16 {
        let small = size == 2;
        match width {
            Width::Same => u16::from(size),
            Width::Bytes(bytes) => bytes,
            Width::Far => u16::from(size).wrapping_add(2),
            Width::Table if self.long() => 10,
            Width::Table => 6,
            Width::Environment if small => 14,
            Width::Environment => 28,
            Width::State if small => 94,
            Width::State => 108,
            Width::Vector(shift) => u16::from(vector_len) >> (shift & 7),
        }
    }

    /// A general register: with no REX, 4 to 7 of one byte are AH, CH, DH and BH.
    fn general(&self, number: u8, size: u8) -> Operand {
        if size == 1 && !self.prefixes.rex && matches!(number, 4..=7) {
            Operand::High(number & 3)
        } else {
            Operand::Gpr(number)
        }
    }

    fn operand(&mut self, at: At, insn: &mut Insn) -> Result<Operand, DecodeError> {
        match at {
            At::Rm | At::Mem | At::RmReg | At::VecRm | At::VecReg | At::MmxRm => self.rm(at, insn),
            At::Reg | At::Sreg | At::Vec | At::Mmx => self.reg(at, insn),
            At::None => Ok(Operand::None),
            At::Opcode => Ok(self.general(self.opcode & 7 | self.prefixes.base, insn.size)),
            At::Gpr(number) => Ok(Operand::Gpr(number)),
            At::Fixed(number) => Self::segment(number),
            At::VecV => Ok(Operand::Vector(self.vex.map_or(0, |vex| vex.register))),
            At::Moffs => {
                insn.mem.disp = match insn.addr_size {
                    2 => i64::from(self.cursor.u16()?),
                    4 => i64::from(self.cursor.u32()?),
                    _ => self.cursor.u64()? as i64,
                };
                Ok(Operand::Mem)
            }
            At::Based(number) => {
                insn.mem.base = Some(number);
                Ok(Operand::Mem)
            }
            _ => self.immediate(at, insn),
        }
    }

    fn immediate(&mut self, at: At, insn: &mut Insn) -> Result<Operand, DecodeError> {
        insn.imm = match at {
            At::One => 1,
            At::SignedByte => self.cursor.signed(1)?,
            At::Byte => i64::from(self.cursor.u8()?),
            At::Word => i64::from(self.cursor.u16()?),
            At::Dword => self.cursor.signed(4)?,
            At::Z => self.cursor.signed(insn.size.min(4))?,
            At::V => self.cursor.signed(insn.size)?,
            At::Level => {
                insn.imm2 = u16::from(self.cursor.u8()?);
                return Ok(Operand::None);
            }
            _ => {
                let offset = match insn.size {
                    2 => u32::from(self.cursor.u16()?),
                    _ => self.cursor.u32()?,
                };
                insn.imm2 = self.cursor.u16()?;
                i64::from(offset)
            }
        };
        Ok(Operand::Imm)
    }

    fn rm(&mut self, at: At, insn: &mut Insn) -> Result<Operand, DecodeError> {
        let modrm = self.modrm()?;
        if !modrm.is_reg() {
            if matches!(at, At::RmReg | At::VecReg | At::MmxRm) {
                return Err(DecodeError::Undefined);
            }
            insn.mem = self.memory(modrm)?;
            return Ok(Operand::Mem);
        }
        let number = modrm.rm() | self.prefixes.base;
        match at {
            At::Mem => Err(DecodeError::Undefined),
            At::VecRm | At::VecReg => Ok(Operand::Vector(number)),
            At::MmxRm => Ok(Operand::Mmx(modrm.rm())),
            _ => Ok(self.general(number, insn.size)),
        }
    }

    fn reg(&mut self, at: At, insn: &Insn) -> Result<Operand, DecodeError> {
        let reg = self.modrm()?.reg();
        let number = reg | self.prefixes.reg;
        match at {
            At::Sreg => Self::segment(reg),
            At::Vec => Ok(Operand::Vector(number)),
            At::Mmx => Ok(Operand::Mmx(reg)),
            _ => Ok(self.general(number, insn.size)),
        }
    }

    fn segment(number: u8) -> Result<Operand, DecodeError> {
        Seg::from_number(number)
            .map(Operand::Sreg)
            .ok_or(DecodeError::Undefined)
    }

    /// Bytes of a vector register in use; 0 if `entry` names none.
    fn vector_len(&self, entry: &Entry) -> u8 {
        let vector = |at| matches!(at, At::Vec | At::VecRm | At::VecReg | At::VecV);
        if entry.scalar {
            16
        } else if vector(entry.dst) || vector(entry.src) || vector(entry.third) {
            16 << self.vex.map_or(0, |vex| vex.len & 3)
        } else {
            0
        }
    }

    /// The fields of a VEX or EVEX prefix are as `entry` wants them.
    fn fields_are_valid(&self, entry: &Entry) -> bool {
        let Some(vex) = self.vex else {
            return true;
        };
        let fields = &entry.fields;
        !(fields.no_v && vex.v != 0)
            && fields.lens >> (vex.len & 3) & 1 != 0
            && fields.w.is_none_or(|w| w == vex.w)
    }

    /// Reads the operands of `entry`.
    // Not inlined, for a small stack frame.
    #[inline(never)]
    pub(super) fn finish(&mut self, entry: &Entry) -> Result<Insn, DecodeError> {
        let mut insn = Insn {
            op: entry.op,
            size: self.size(entry.size),
            addr_size: self.addr_size(),
            mem: Mem {
                seg: self.prefixes.seg.unwrap_or(Seg::Ds),
                ..Mem::default()
            },
            condition: entry.condition,
            lock: self.prefixes.lock,
            vector_len: self.vector_len(entry),
            vex: self.vex.is_some(),
            aligned: entry.aligned,
            ..Insn::default()
        };
        if let Some(unit) = entry.unit {
            self.unit = self.width(unit, insn.size, insn.vector_len);
        }
        insn.dst = self.operand(entry.dst, &mut insn)?;
        insn.src = self.operand(entry.src, &mut insn)?;
        insn.third = self.operand(entry.third, &mut insn)?;
        insn.len = self.cursor.consumed();
        let lock_is_valid = !insn.lock || entry.lock && insn.dst == Operand::Mem;
        if !lock_is_valid || !self.fields_are_valid(entry) {
            return Err(DecodeError::Undefined);
        }
        if insn.has_mem() {
            insn.mem_size = self.width(entry.width, insn.size, insn.vector_len);
        } else if !entry.implicit {
            insn.op = Op::NoMemory;
        }
        if entry.repeats {
            insn.rep = self.prefixes.rep;
        }
        Ok(insn.without_untold())
    }
}
