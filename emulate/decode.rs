// SPDX-License-Identifier: GPL-2.0

//! Bytes to instructions (SDM 2A chapter 2, 2D appendix A).
//!
//! ```text
//!   prefixes --> opcode map --> entry --> ModRM, SIB, displacement --> immediates
//!   [prefix]     [one_byte] [two_byte] [three_byte]    [modrm]          [operand]
//!                [sse] [x87] [vex] [evex] [xop]
//! ```
//!
//! A map is a function from an opcode to an [`Entry`](entry::Entry), which says in the
//! notation of appendix A where the operands are; it reads the ModRM byte when the opcode
//! alone does not tell. Bytes are read strictly in order and never twice, so that what is
//! missing is known to be missing.

mod cursor;
mod entry;
mod evex;
mod evex_reads;
mod modrm;
mod one_byte;
mod operand;
mod prefix;
mod sse;
mod three_byte;
mod two_byte;
mod vex;
mod vex_reads;
mod x87;
mod xop;

use crate::insn::{CodeSize, Insn};
use cursor::Cursor;
use operand::Decoder;

/// Why bytes are not an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// They end before the instruction does.
    NeedMore,
    /// The instruction is longer than 15 bytes: #GP (SDM 2A 2.3.11).
    TooLong,
    /// #UD.
    Undefined,
}

/// Decodes the instruction that `bytes` begin with.
///
/// # Errors
///
/// [`DecodeError`].
pub fn decode(bytes: &[u8], code: CodeSize) -> Result<Insn, DecodeError> {
    let mut cursor = Cursor::new(bytes);
    let (prefixes, opcode) = prefix::read(&mut cursor, code)?;
    let mut decoder = Decoder::new(cursor, code, prefixes);
    let entry = one_byte::entry(&mut decoder, opcode)?;
    decoder.finish(&entry)
}

#[cfg(test)]
#[path = "tests/decode/mod.rs"]
mod tests;
