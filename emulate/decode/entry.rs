// SPDX-License-Identifier: GPL-2.0

//! An entry of an opcode map.

use crate::op::Op;

/// Where an operand is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// Nowhere.
    None,
    /// ModRM.rm: a general register or memory (E).
    Rm,
    /// The same, and only memory is valid (M).
    Mem,
    /// The same, and only a register is valid (R, N, U).
    RmReg,
    /// ModRM.rm: a vector register or memory (W).
    VecRm,
    /// ModRM.rm: a vector register, and memory is not valid (U).
    VecReg,
    /// ModRM.reg: a general register (G).
    Reg,
    /// ModRM.reg: a segment register (S).
    Sreg,
    /// ModRM.reg: a vector register (V).
    Vec,
    /// VEX.vvvv: a vector register (H).
    VecV,
    /// ModRM.reg: an MMX register (P).
    Mmx,
    /// ModRM.rm: an MMX register (N).
    MmxRm,
    /// A general register by the low bits of the opcode (Z).
    Opcode,
    /// A fixed general register.
    Gpr(u8),
    /// A fixed segment register, by number.
    Fixed(u8),
    /// Memory at an offset that follows the opcode (O).
    Moffs,
    /// Memory at a fixed general register.
    Based(u8),
    /// The constant 1.
    One,
    /// A byte, sign-extended (I, J).
    SignedByte,
    /// A byte (I).
    Byte,
    /// Two bytes (I).
    Word,
    /// Four bytes (I).
    Dword,
    /// Two or four bytes as the operation is, sign-extended (I, J with z).
    Z,
    /// As many bytes as the operation has (I with v).
    V,
    /// An offset as wide as the operation, and a selector (A).
    Far,
    /// A second immediate of one byte, for [`Insn::imm2`](crate::insn::Insn::imm2).
    Level,
}

/// How wide an operation is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// The same for all prefixes.
    Fixed(u8),
    /// 2, 4 or 8 bytes by prefixes and mode (v).
    V,
    /// 4 bytes, or 8 with REX.W (y).
    Y,
    /// 2 or 4 bytes: REX.W counts as 4 (z).
    Z,
    /// As V, but in 64-bit mode 8 or 2 (d64).
    D64,
    /// As V, but in 64-bit mode always 8 (f64).
    F64,
}

/// How wide a memory operand is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    /// As the operation.
    Same,
    /// So many bytes.
    Bytes(u16),
    /// An offset as wide as the operation and a selector.
    Far,
    /// A limit and a base: 6 bytes, 10 in 64-bit mode.
    Table,
    /// The x87 environment: 14 or 28 bytes.
    Environment,
    /// The x87 state: 94 or 108 bytes.
    State,
    /// As a vector register, divided by 1 shifted left by this.
    Vector(u8),
}

/// What VEX and EVEX fields must be; anything else is #UD.
#[derive(Clone, Copy)]
pub(super) struct Fields {
    /// vvvv names no register, and must be 1111b.
    pub(super) no_v: bool,
    /// The vector lengths that are valid: bit 0 for 128 bits, bit 1 for 256, bit 2 for 512.
    pub(super) lens: u8,
    /// What W must be.
    pub(super) w: Option<bool>,
    /// A mask register is valid.
    pub(super) mask: bool,
}

/// An entry of an opcode map.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    /// What it is if an operand is in memory.
    pub(super) op: Op,
    pub(super) size: Size,
    pub(super) dst: At,
    pub(super) src: At,
    pub(super) third: At,
    pub(super) width: Width,
    /// LOCK is valid if the destination is memory.
    pub(super) lock: bool,
    /// It touches memory even if no operand is memory.
    pub(super) implicit: bool,
    /// A scalar: of vector registers only 16 bytes, whatever the length.
    pub(super) scalar: bool,
    /// REP counts.
    pub(super) repeats: bool,
    pub(super) aligned: bool,
    pub(super) fields: Fields,
    pub(super) condition: u8,
    /// EVEX: what an 8-bit displacement counts in.
    pub(super) unit: Option<Width>,
}

impl Entry {
    pub(super) const fn new(op: Op, size: Size, dst: At, src: At) -> Self {
        Self {
            op,
            size,
            dst,
            src,
            third: At::None,
            width: Width::Same,
            lock: false,
            implicit: false,
            scalar: false,
            repeats: false,
            aligned: false,
            fields: Fields {
                no_v: false,
                lens: 7,
                w: None,
                mask: false,
            },
            condition: 0,
            unit: None,
        }
    }

    /// Touches no memory and has no operand that matters.
    pub(super) const NONE: Self = Self::new(Op::NoMemory, Size::V, At::None, At::None);

    /// Touches no memory, but has an operand in ModRM.rm.
    pub(super) const HINT: Self = Self::new(Op::NoMemory, Size::V, At::None, At::Rm);

    /// Touches no memory, and ModRM.rm is a register.
    pub(super) const REGISTER: Self = Self::new(Op::NoMemory, Size::V, At::None, At::RmReg);

    /// Reads an operand in ModRM.rm, and nothing more is told.
    pub(super) const READ: Self = Self::new(Op::OtherRead, Size::V, At::None, At::Rm);

    /// The same, and it must be in memory.
    pub(super) const READ_MEM: Self = Self::new(Op::OtherRead, Size::V, At::None, At::Mem);

    /// Nothing is known but that ModRM.rm may be memory.
    pub(super) const UNKNOWN: Self = Self::new(Op::Unknown, Size::V, At::None, At::Rm).implicit();

    /// Touches memory by no operand in ModRM.rm.
    pub(super) const fn implied(op: Op, size: Size) -> Self {
        Self::new(op, size, At::None, At::None).implicit()
    }

    pub(super) const fn third(mut self, at: At) -> Self {
        self.third = at;
        self
    }

    /// A string instruction.
    pub(super) const fn string(op: Op, size: Size) -> Self {
        let mut entry = Self::implied(op, size);
        entry.repeats = true;
        entry
    }

    /// Appends an immediate byte that matters only for the length.
    pub(super) const fn byte(self) -> Self {
        self.third(At::Byte)
    }

    pub(super) const fn width(mut self, width: Width) -> Self {
        self.width = width;
        self
    }

    pub(super) const fn bytes(self, bytes: u16) -> Self {
        self.width(Width::Bytes(bytes))
    }

    pub(super) const fn lock(mut self) -> Self {
        self.lock = true;
        self
    }

    pub(super) const fn scalar(mut self) -> Self {
        self.scalar = true;
        self
    }

    pub(super) const fn implicit(mut self) -> Self {
        self.implicit = true;
        self
    }

    pub(super) const fn aligned(mut self) -> Self {
        self.aligned = true;
        self
    }

    pub(super) const fn condition(mut self, opcode: u8) -> Self {
        self.condition = opcode & 15;
        self
    }

    pub(super) const fn no_v(mut self) -> Self {
        self.fields.no_v = true;
        self
    }

    pub(super) const fn lens(mut self, lens: u8) -> Self {
        self.fields.lens = lens;
        self
    }

    /// Vector length 128, also where the manual writes LZ.
    pub(super) const fn l0(self) -> Self {
        self.lens(1)
    }

    /// Vector length 256.
    pub(super) const fn l1(self) -> Self {
        self.lens(2)
    }

    pub(super) const fn w0(mut self) -> Self {
        self.fields.w = Some(false);
        self
    }

    pub(super) const fn w1(mut self) -> Self {
        self.fields.w = Some(true);
        self
    }
    pub(super) const fn masked(mut self) -> Self {
        self.fields.mask = true;
        self
    }
}
