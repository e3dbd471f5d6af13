// SPDX-License-Identifier: GPL-2.0

//! The opcode maps 0F38 and 0F3A (SDM 2D tables ).

use super::entry::{At, Entry, Size, Width};
use super::operand::Decoder;
use super::prefix::Pp;
use super::{sse, DecodeError};
use crate::op::Op;
use Pp::{Np, F2, F3, P66};

/// The entry of an opcode after 0F38.
pub(super) fn entry_38(d: &mut Decoder<'_>) -> Result<Entry, DecodeError> {
    let opcode = d.cursor.u8()?;
    d.opcode = opcode;
    let pp = d.prefixes.mandatory();
    let is_reg = d.modrm()?.is_reg();
    Ok(match (opcode, pp) {
        (0xf0.., _) => return general(d, opcode, pp),
        (0x2a, P66) => sse::only_mem(sse::load()).aligned(),
        // SSSE3, SHA.
        (0x00..=0x0b | 0x1c..=0x1e, Np | P66) | (0xc8..=0xcd, Np) => Entry::READ,
        // SSE4.1, SSE4.2, AES, GFNI.
        (0x10 | 0x14 | 0x15 | 0x17 | 0x20..=0x25 | 0x28 | 0x29 | 0x2b, P66)
        | (0x30..=0x35 | 0x37..=0x41 | 0xcf | 0xdb..=0xdf, P66) => Entry::READ,
        // INVEPT, INVVPID, INVPCID.
        (0x80..=0x82, P66) => Entry::READ_MEM,
        (0xd8, F3) if !is_reg && d.modrm()?.reg() < 4 => key_locker(),
        (0xdc..=0xdf, F3) if !is_reg => key_locker(),
        // LOADIWKEY.
        (0xdc, F3) => Entry::REGISTER,
        _ => Entry::UNKNOWN,
    })
}

const fn key_locker() -> Entry {
    Entry::new(Op::KeyLocker, Size::V, At::None, At::Mem)
}

/// F0 to FF of 0F38: general registers.
fn general(d: &Decoder<'_>, opcode: u8, pp: Pp) -> Result<Entry, DecodeError> {
    let y = Size::Y;
    // 66 counts as operand size here, whatever F2 says.
    let v = Size::V;
    Ok(match (opcode, pp) {
        (0xf0, Np | P66) => Entry::new(Op::MovbeLoad, v, At::Reg, At::Mem),
        (0xf1, Np | P66) => Entry::new(Op::MovbeStore, v, At::Mem, At::Reg),
        (0xf0, F2) => Entry::new(Op::Crc32, y, At::Reg, At::Rm).bytes(1),
        (0xf1, F2) => Entry::new(Op::Crc32, y, At::Reg, At::Rm).bytes(u16::from(d.size(Size::V))),
        // WRUSS, WRSS.
        (0xf5, P66) | (0xf6, Np) => Entry::new(Op::ShadowStack, y, At::Mem, At::Reg),
        // ADCX, ADOX.
        (0xf6, P66 | F3) => Entry::READ,
        (0xf8, P66) => Entry::new(Op::Movdir64b, Size::Fixed(64), At::Reg, At::Mem),
        (0xf8, F2 | F3) => Entry::new(Op::Enqcmd, Size::Fixed(64), At::Reg, At::Mem),
        (0xf9, Np) => Entry::new(Op::Movdiri, y, At::Mem, At::Reg),
        // ENCODEKEY128, ENCODEKEY256.
        (0xfa | 0xfb, F3) => Entry::REGISTER,
        (0xfc, _) => Entry::new(Op::Rao, y, At::Mem, At::Reg),
        _ => Entry::UNKNOWN,
    })
}

/// The entry of an opcode after 0F3A: an immediate byte comes last.
pub(super) fn entry_3a(d: &mut Decoder<'_>) -> Result<Entry, DecodeError> {
    let opcode = d.cursor.u8()?;
    d.opcode = opcode;
    Ok(match (opcode, d.prefixes.mandatory()) {
        (0x14..=0x17, P66) => extract(opcode),
        (0x0f, Np) | (0xcc, Np) => Entry::READ.byte(),
        (0x08..=0x0f | 0x20..=0x22 | 0x40..=0x42 | 0x44, P66)
        | (0x60..=0x63 | 0xce | 0xcf | 0xdf, P66) => Entry::READ.byte(),
        // HRESET.
        (0xf0, F3) if d.modrm()?.0 == 0xc0 => Entry::REGISTER.byte(),
        _ => Entry::UNKNOWN.byte(),
    })
}

/// PEXTRB, PEXTRW, PEXTRD and PEXTRQ, EXTRACTPS.
pub(super) const fn extract(opcode: u8) -> Entry {
    let width = match opcode {
        0x14 => Width::Bytes(1),
        0x15 => Width::Bytes(2),
        0x16 => Width::Same,
        _ => Width::Bytes(4),
    };
    Entry::new(Op::VectorExtract, Size::Y, At::Rm, At::Vec)
        .width(width)
        .byte()
        .no_v()
        .l0()
}
