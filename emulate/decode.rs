// SPDX-License-Identifier: GPL-2.0

//! Bytes to instructions.

use crate::insn::{CodeSize, Insn};

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
pub fn decode(bytes: &[u8], _code: CodeSize) -> Result<Insn, DecodeError> {
    match bytes {
        [] => Err(DecodeError::NeedMore),
        _ => Err(DecodeError::Undefined),
    }
}
