// SPDX-License-Identifier: GPL-2.0

//! A decoded instruction: what [`decode`](crate::decode) makes of bytes, and all that
//! [`exec`](crate::exec) knows of them.

/// Longest instruction, in bytes (SDM 2A 2.3.11).
pub const MAX_BYTES: usize = 15;

/// What CS makes of the code (SDM 3A 3.4.5 and 5.2.1): default operand and address size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CodeSize {
    /// Real, virtual-8086 and 16-bit protected mode.
    #[default]
    Bits16,
    /// 32-bit code, compatibility mode included.
    Bits32,
    /// 64-bit mode.
    Bits64,
}

/// A segment register, by its number in instruction encodings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Seg {
    /// Extra.
    Es = 0,
    /// Code.
    Cs = 1,
    /// Stack.
    Ss = 2,
    /// Data.
    Ds = 3,
    /// Additional.
    Fs = 4,
    /// Additional.
    Gs = 5,
}

impl Seg {
    /// The register of an encoding; `None` for 6, 7 and above.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Es,
            1 => Self::Cs,
            2 => Self::Ss,
            3 => Self::Ds,
            4 => Self::Fs,
            5 => Self::Gs,
            _ => return None,
        })
    }
}

/// REP prefix; the last of several counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rep {
    /// None.
    #[default]
    None,
    /// F3: REP, REPE.
    Rep,
    /// F2: REPNE.
    Repne,
}

/// One operand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Operand {
    /// Absent.
    #[default]
    None,
    /// A general register, 0 (RAX) to 15; as wide as the operation.
    Gpr(u8),
    /// AH, CH, DH or BH: bits 15:8 of general register 0 to 3.
    High(u8),
    /// The memory operand, [`Insn::mem`].
    Mem,
    /// [`Insn::imm`].
    Imm,
    /// A segment register.
    Sreg(Seg),
    /// XMM, YMM or ZMM register 0 to 31; [`Insn::vector_len`] says how much of it.
    Vector(u8),
    /// MMX register 0 to 7.
    Mmx(u8),
}

/// A memory operand: `seg:[base + index * scale + disp]`, computed in [`Insn::addr_size`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mem {
    /// Segment, an override included. In 64-bit mode only FS and GS have a base.
    pub seg: Seg,
    /// General register, 0 to 15.
    pub base: Option<u8>,
    /// General register, 0 to 15.
    pub index: Option<u8>,
    /// 1, 2, 4 or 8.
    pub scale: u8,
    /// Displacement, sign-extended. With `rip_relative` it counts from the end of
    /// the instruction.
    pub disp: i64,
    /// Relative to RIP (64-bit mode).
    pub rip_relative: bool,
}

impl Default for Mem {
    fn default() -> Self {
        Self {
            seg: Seg::Ds,
            base: None,
            index: None,
            scale: 1,
            disp: 0,
            rip_relative: false,
        }
    }
}

/// What an instruction does with its memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemAccess {
    /// There is none, or the address alone is used.
    None,
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Reads, then writes: the processor wants the right to write before it reads.
    ReadWrite,
}

/// A decoded instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Insn {
    /// The operation.
    pub op: crate::op::Op,
    /// Length in bytes, 1 to 15.
    pub len: u8,
    /// Bytes of the operation: 1, 2, 4 or 8 for integer work, where an operand does not
    /// say otherwise. String instructions: bytes of an element.
    pub size: u8,
    /// Bytes of an address: 2, 4 or 8. Also the width of RCX, RSI and RDI in string
    /// instructions.
    pub addr_size: u8,
    /// Destination, or the first operand as the manual writes it: of PUSH, CALL, JMP, MUL
    /// or DIV too. Implied operands appear where they are in memory or decide: the count
    /// CL of shifts, `[rDI]` of MASKMOVDQU (its destination), `[rBX]` of XLAT (AL has to be
    /// added), AL to RAX of a MOV with an offset.
    pub dst: Operand,
    /// Source, or the second operand.
    pub src: Operand,
    /// The third operand: of IMUL r,m,imm, SHLD, VEX forms.
    pub third: Operand,
    /// The immediate, sign-extended as the operation wants it. Relative branches: the
    /// displacement. Far pointers: the offset.
    pub imm: i64,
    /// ENTER: the nesting level. Far pointers: the selector.
    pub imm2: u16,
    /// The memory operand. String instructions: only `seg`, of the source.
    pub mem: Mem,
    /// Bytes of the memory operand at most; 0 where it has none, or where only the
    /// processor's configuration tells (XSAVE).
    pub mem_size: u16,
    /// LOCK prefix, which the operation allows.
    pub lock: bool,
    /// REP prefix.
    pub rep: Rep,
    /// Bytes of vector registers in use: 16, 32 or 64. 0: no vector instruction.
    pub vector_len: u8,
    /// VEX-encoded: writes of a vector register clear what is above.
    pub vex: bool,
    /// SETcc, CMOVcc: the condition, 0 to 15.
    pub condition: u8,
    /// Memory must be aligned to its size, else #GP (SDM 2B, MOVAPS and the like).
    pub aligned: bool,
}

impl Insn {
    /// One of the explicit operands is in memory.
    pub const fn has_mem(&self) -> bool {
        matches!(self.dst, Operand::Mem)
            || matches!(self.src, Operand::Mem)
            || matches!(self.third, Operand::Mem)
    }

    /// Clears what the decoder does not tell of such an operation.
    pub(crate) fn without_untold(self) -> Self {
        if self.op.is_detailed() {
            return self;
        }
        Self {
            op: self.op,
            len: self.len,
            ..Self::default()
        }
    }

    /// What it does to the explicit operand in memory.
    pub const fn access(&self) -> MemAccess {
        if matches!(self.dst, Operand::Mem) {
            self.op.access()
        } else if self.has_mem() {
            MemAccess::Read
        } else {
            MemAccess::None
        }
    }
}
