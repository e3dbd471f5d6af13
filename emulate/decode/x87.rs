// SPDX-License-Identifier: GPL-2.0

//! x87 instructions: opcodes D8 to DF (SDM 2D A.5).

use super::entry::{At, Entry, Size, Width};
use super::operand::Decoder;
use super::DecodeError;
use crate::op::Op;

/// The entry of D8 to DF.
pub(super) fn entry(d: &mut Decoder<'_>, opcode: u8) -> Result<Entry, DecodeError> {
    let modrm = d.modrm()?;
    if modrm.is_reg() {
        return Ok(Entry::NONE);
    }
    Ok(match (opcode, modrm.reg()) {
        // FST, FSTP, FIST, FISTP, FISTTP.
        (0xd9, 2 | 3) | (0xdb, 1..=3) => store(Op::X87Store, Width::Bytes(4)),
        (0xdd, 1..=3) | (0xdf, 7) => store(Op::X87Store, Width::Bytes(8)),
        // FNSTCW, FNSTSW, FIST, FISTP, FISTTP.
        (0xd9 | 0xdd, 7) | (0xdf, 1..=3) => store(Op::X87Store, Width::Bytes(2)),
        // FSTP, FBSTP.
        (0xdb, 7) | (0xdf, 6) => store(Op::X87Store, Width::Bytes(10)),
        (0xd9, 6) => store(Op::Fnstenv, Width::Environment),
        (0xdd, 6) => store(Op::Fnsave, Width::State),
        (0xd9, 1) | (0xdb, 4 | 6) | (0xdd, 5) => return Err(DecodeError::Undefined),
        _ => Entry::READ,
    })
}

const fn store(op: Op, width: Width) -> Entry {
    // The operand size matters only for the environment.
    Entry::new(op, Size::V, At::Mem, At::None).width(width)
}
