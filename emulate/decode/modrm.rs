// SPDX-License-Identifier: GPL-2.0

//! ModRM, SIB and displacement (SDM 2A 2.1.3 to 2.1.5, 2.2.1).

use super::operand::Decoder;
use super::DecodeError;
use crate::insn::{CodeSize, Mem, Seg};

/// The ModRM byte.
#[derive(Clone, Copy)]
pub(super) struct ModRm(pub(super) u8);

impl ModRm {
    pub(super) const fn mode(self) -> u8 {
        self.0 >> 6
    }

    pub(super) const fn reg(self) -> u8 {
        self.0 >> 3 & 7
    }

    pub(super) const fn rm(self) -> u8 {
        self.0 & 7
    }

    /// rm is a register.
    pub(super) const fn is_reg(self) -> bool {
        self.mode() == 3
    }
}

const BX: u8 = 3;
const SP: u8 = 4;
const BP: u8 = 5;
const SI: u8 = 6;
const DI: u8 = 7;

impl Decoder<'_> {
    /// Reads SIB and displacement of a ModRM byte whose rm is no register.
    pub(super) fn memory(&mut self, modrm: ModRm) -> Result<Mem, DecodeError> {
        let mut mem = if self.addr_size() == 2 {
            self.memory16(modrm)?
        } else {
            self.memory32(modrm)?
        };
        // SDM 1 table 3-5.
        let stack = matches!(mem.base, Some(SP | BP));
        let default = if stack { Seg::Ss } else { Seg::Ds };
        mem.seg = self.prefixes.seg.unwrap_or(default);
        Ok(mem)
    }

    /// SDM 2A table 2-1.
    fn memory16(&mut self, modrm: ModRm) -> Result<Mem, DecodeError> {
        let (base, index) = match modrm.rm() {
            0 => (Some(BX), Some(SI)),
            1 => (Some(BX), Some(DI)),
            2 => (Some(BP), Some(SI)),
            3 => (Some(BP), Some(DI)),
            4 => (Some(SI), None),
            5 => (Some(DI), None),
            6 if modrm.mode() == 0 => (None, None),
            6 => (Some(BP), None),
            _ => (Some(BX), None),
        };
        let disp = match modrm.mode() {
            0 if base.is_none() => self.cursor.signed(2)?,
            0 => 0,
            1 => self.disp8()?,
            _ => self.cursor.signed(2)?,
        };
        Ok(Mem {
            base,
            index,
            disp,
            ..Mem::default()
        })
    }

    /// SDM 2A tables 2-2, 2-3 and 2-7.
    fn memory32(&mut self, modrm: ModRm) -> Result<Mem, DecodeError> {
        let mut mem = Mem::default();
        let mut base = modrm.rm();
        if base == 4 {
            let sib = self.cursor.u8()?;
            let index = sib >> 3 & 7 | self.prefixes.index;
            mem.index = (index != 4).then_some(index);
            mem.scale = 1 << (sib >> 6);
            base = sib & 7;
        }
        mem.base = Some(base | self.prefixes.base);
        mem.disp = match modrm.mode() {
            0 if base == 5 => {
                mem.base = None;
                mem.rip_relative = modrm.rm() == 5 && self.code == CodeSize::Bits64;
                self.cursor.signed(4)?
            }
            0 => 0,
            1 => self.disp8()?,
            _ => self.cursor.signed(4)?,
        };
        Ok(mem)
    }

    /// A byte of displacement; EVEX counts it in units (SDM 2A 2.7.5).
    fn disp8(&mut self) -> Result<i64, DecodeError> {
        Ok(self.cursor.signed(1)?.wrapping_mul(i64::from(self.unit)))
    }
}
