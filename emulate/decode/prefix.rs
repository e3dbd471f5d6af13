// SPDX-License-Identifier: GPL-2.0

//! Legacy prefixes and REX (SDM 2A 2.1.1 and 2.2.1).

use super::cursor::Cursor;
use super::DecodeError;
use crate::insn::{CodeSize, Rep, Seg};

/// What the prefixes of an instruction add up to; those of VEX and EVEX too.
#[derive(Clone, Copy, Default)]
pub(super) struct Prefixes {
    /// F0.
    pub(super) lock: bool,
    /// The last of F2 and F3.
    pub(super) rep: Rep,
    /// 66.
    pub(super) operand: bool,
    /// 67.
    pub(super) address: bool,
    /// The segment override in force.
    pub(super) seg: Option<Seg>,
    /// There is a REX prefix.
    pub(super) rex: bool,
    /// REX.W, VEX.W.
    pub(super) w: bool,
    /// What extends ModRM.reg: 0 or 8, with EVEX also 16 and 24.
    pub(super) reg: u8,
    /// What extends SIB.index: 0 or 8.
    pub(super) index: u8,
    /// What extends ModRM.rm and SIB.base: 0 or 8.
    pub(super) base: u8,
}

/// A mandatory prefix: the column of an opcode map.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pp {
    /// None of the others.
    Np,
    /// 66.
    P66,
    /// F3.
    F3,
    /// F2.
    F2,
}

impl Pp {
    /// That of a VEX or EVEX prefix.
    pub(super) const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Np,
            1 => Self::P66,
            2 => Self::F3,
            _ => Self::F2,
        }
    }
}

impl Prefixes {
    /// F2 and F3 go before 66.
    pub(super) const fn mandatory(&self) -> Pp {
        match self.rep {
            Rep::Rep => Pp::F3,
            Rep::Repne => Pp::F2,
            Rep::None if self.operand => Pp::P66,
            Rep::None => Pp::Np,
        }
    }

    /// Takes W, R, X and B of a REX prefix, or of a VEX prefix made to look like one.
    pub(super) const fn set_rex(&mut self, bits: u8) {
        self.w = bits & 8 != 0;
        self.reg = (bits & 4) << 1;
        self.index = (bits & 2) << 2;
        self.base = (bits & 1) << 3;
    }

    /// In 64-bit mode only FS and GS override.
    fn override_segment(&mut self, seg: Seg, code: CodeSize) {
        if code != CodeSize::Bits64 || matches!(seg, Seg::Fs | Seg::Gs) {
            self.seg = Some(seg);
        }
    }
}

/// Reads all prefixes, and the byte after them.
pub(super) fn read(cursor: &mut Cursor<'_>, code: CodeSize) -> Result<(Prefixes, u8), DecodeError> {
    let mut prefixes = Prefixes::default();
    let mut rex = 0;
    loop {
        let byte = cursor.u8()?;
        match byte {
            0x26 => prefixes.override_segment(Seg::Es, code),
            0x2e => prefixes.override_segment(Seg::Cs, code),
            0x36 => prefixes.override_segment(Seg::Ss, code),
            0x3e => prefixes.override_segment(Seg::Ds, code),
            0x64 => prefixes.override_segment(Seg::Fs, code),
            0x65 => prefixes.override_segment(Seg::Gs, code),
            0x66 => prefixes.operand = true,
            0x67 => prefixes.address = true,
            0xf0 => prefixes.lock = true,
            0xf2 => prefixes.rep = Rep::Repne,
            0xf3 => prefixes.rep = Rep::Rep,
            0x40..=0x4f if code == CodeSize::Bits64 => {
                rex = byte;
                continue;
            }
            _ => {
                prefixes.rex = rex != 0;
                prefixes.set_rex(rex);
                return Ok((prefixes, byte));
            }
        }
        // A REX prefix that is not the last prefix has no effect.
        rex = 0;
    }
}
