// SPDX-License-Identifier: GPL-2.0

//! VEX instructions that at most read memory (SDM 2D tables ).

use super::entry::Entry;
use super::operand::Decoder;
use super::prefix::Pp;
use super::DecodeError;
use Pp::{Np, F2, F3, P66};

/// An operand in ModRM.rm; vvvv names another.
const THREE: Entry = Entry::READ;
/// An operand in ModRM.rm, and no register in vvvv.
const TWO: Entry = Entry::READ.no_v();
/// The same two with an immediate byte.
const THREE_BYTE: Entry = THREE.byte();
const TWO_BYTE: Entry = TWO.byte();

/// The map 0F.
pub(super) fn map_0f(d: &mut Decoder<'_>, opcode: u8, pp: Pp) -> Result<Entry, DecodeError> {
    Ok(match (opcode, pp) {
        (0x41..=0x4b | 0x90..=0x99, _) => masks(d, opcode, pp),
        (0x71..=0x73, P66) => match (opcode, d.modrm()?.reg()) {
            (0x71 | 0x72, 2 | 4 | 6) | (0x73, 2 | 3 | 6 | 7) => Entry::REGISTER.byte(),
            _ => Entry::UNKNOWN.byte(),
        },
        (0x12, F3 | F2)
        | (0x16 | 0x5b, F3)
        | (0x2c | 0x2d, F3 | F2)
        | (0x2e | 0x2f | 0x51 | 0x5a | 0x5b, Np | P66)
        | (0x52 | 0x53, Np)
        | (0xe6, P66 | F3 | F2) => TWO,
        (0x14 | 0x15 | 0x54..=0x57, Np | P66)
        | (0x2a | 0x51 | 0x5a, F3 | F2)
        | (0x52 | 0x53, F3)
        | (0x58 | 0x59 | 0x5c..=0x5f, _)
        | (0x60..=0x6d | 0x74..=0x76, P66)
        | (0x7c | 0x7d | 0xd0, P66 | F2)
        | (0xd1..=0xd5 | 0xd8..=0xe5 | 0xe8..=0xef | 0xf1..=0xf6 | 0xf8..=0xfe, P66) => THREE,
        (0x50, Np | P66) | (0xd7, P66) => Entry::REGISTER.no_v(),
        (0x70, P66 | F3 | F2) => TWO_BYTE,
        (0xc2, _) | (0xc6, Np | P66) => THREE_BYTE,
        (0xc4, P66) => THREE_BYTE.l0(),
        (0xc5, P66) => Entry::REGISTER.byte().no_v().l0(),
        (0x70..=0x73 | 0xc4..=0xc6, _) => Entry::UNKNOWN.byte(),
        _ => Entry::UNKNOWN,
    })
}

/// Mask registers of AVX-512.
fn masks(d: &Decoder<'_>, opcode: u8, pp: Pp) -> Entry {
    let w = d.vex.is_some_and(|vex| vex.w);
    match (opcode, pp) {
        // KUNPCK has no fourth size.
        (0x4b, P66) if w => Entry::UNKNOWN,
        // KAND, KANDN, KOR, KXNOR, KXOR, KADD, KUNPCK.
        (0x41 | 0x42 | 0x45..=0x47 | 0x4a | 0x4b, Np | P66) => Entry::REGISTER.l1(),
        // KNOT, KORTEST, KTEST.
        (0x44 | 0x98 | 0x99, Np | P66) => Entry::REGISTER.no_v().l0(),
        // KMOV.
        (0x90, Np | P66) => TWO.l0(),
        (0x92 | 0x93, Np | P66) => Entry::REGISTER.no_v().l0().w0(),
        (0x92 | 0x93, F2) => Entry::REGISTER.no_v().l0(),
        _ => Entry::UNKNOWN,
    }
}

/// The map 0F38.
pub(super) fn map_0f38(d: &mut Decoder<'_>, opcode: u8, pp: Pp) -> Result<Entry, DecodeError> {
    Ok(match (opcode, pp) {
        (0x50..=0x8f, _) => extensions(d, opcode, pp),
        (0xcb.., _) => general(d, opcode, pp)?,
        (0x00..=0x0b | 0x28 | 0x29 | 0x2b | 0x37..=0x40 | 0x45 | 0x47, P66)
        // Fused multiply and add.
        | (0x96..=0x9f | 0xa6..=0xaf | 0xb6..=0xbf, P66) => THREE,
        (0x0c | 0x0d | 0x46, P66) => THREE.w0(),
        (0x0e | 0x0f | 0x13 | 0x18, P66) => TWO.w0(),
        (0x16 | 0x36, P66) => THREE.w0().l1(),
        (0x17 | 0x1c..=0x1e | 0x20..=0x25 | 0x30..=0x35, P66) => TWO,
        (0x19, P66) => TWO.w0().l1(),
        (0x1a, P66) => Entry::READ_MEM.no_v().w0().l1(),
        (0x2c | 0x2d, P66) => Entry::READ_MEM.w0(),
        (0x41, P66) => TWO.l0(),
        // VPGATHER, VGATHER.
        (0x90..=0x93, P66) => Entry::READ_MEM,
        (0xb0, _) | (0xb1, P66 | F3) => Entry::READ_MEM.no_v().w0(),
        (0xb4 | 0xb5, P66) => THREE.w1(),
        _ => Entry::UNKNOWN,
    })
}

/// AVX-VNNI, AMX, broadcasts.
fn extensions(d: &Decoder<'_>, opcode: u8, pp: Pp) -> Entry {
    match (opcode, pp) {
        (0x50 | 0x51, _) | (0x52 | 0x53, P66) => THREE.w0(),
        (0x58 | 0x59 | 0x78 | 0x79, P66) | (0x72, F3) => TWO.w0(),
        (0x5a, P66) => Entry::READ_MEM.no_v().w0().l1(),
        (0x5c, F3 | F2) | (0x5e, _) | (0x6c, Np | P66) if d.long() => Entry::REGISTER.w0().l0(),
        (0x8c, P66) => Entry::READ_MEM,
        _ => Entry::UNKNOWN,
    }
}

/// SHA512, SM3, SM4, AES, BMI.
fn general(d: &mut Decoder<'_>, opcode: u8, pp: Pp) -> Result<Entry, DecodeError> {
    Ok(match (opcode, pp) {
        (0xcb, F2) => Entry::REGISTER.w0().l1(),
        (0xcc | 0xcd, F2) => Entry::REGISTER.no_v().w0().l1(),
        (0xcf, P66) => THREE.w0(),
        (0xd2 | 0xd3, Np | P66 | F3) => THREE.w0(),
        (0xda, Np | P66) => THREE.w0().l0(),
        (0xda, F3 | F2) => THREE.w0(),
        (0xdb, P66) => TWO.l0(),
        (0xdc..=0xdf, P66) => THREE,
        // BLSR, BLSMSK, BLSI.
        (0xf3, Np) if matches!(d.modrm()?.reg(), 1..=3) => THREE.l0(),
        (0xf2, Np) | (0xf5, Np | F3 | F2) | (0xf6, F2) | (0xf7, _) => THREE.l0(),
        _ => Entry::UNKNOWN,
    })
}

/// The map 0F3A, whose instructions end in a byte.
pub(super) const fn map_0f3a(opcode: u8, pp: Pp) -> Entry {
    if matches!((opcode, pp), (0xf0, F2)) {
        // RORX.
        return TWO_BYTE.l0();
    }
    if !matches!(pp, P66) {
        return Entry::UNKNOWN.byte();
    }
    match opcode {
        0x0a..=0x0f | 0x40 | 0x42 | 0x44 => THREE_BYTE,
        // Four operands: VPERMIL2, VFMADDSUB and so on.
        0x48 | 0x49 | 0x5c..=0x5f | 0x68..=0x6f | 0x78..=0x7f => THREE_BYTE,
        0x02 | 0x4a..=0x4c => THREE_BYTE.w0(),
        0x00 | 0x01 => TWO_BYTE.w1().l1(),
        0x04 | 0x05 => TWO_BYTE.w0(),
        0x06 | 0x18 | 0x38 | 0x46 => THREE_BYTE.w0().l1(),
        0x08 | 0x09 => TWO_BYTE,
        0x20..=0x22 | 0x41 => THREE_BYTE.l0(),
        // KSHIFT.
        0x30..=0x33 => Entry::REGISTER.byte().no_v().l0(),
        0x60..=0x63 | 0xdf => TWO_BYTE.l0(),
        0xce | 0xcf => THREE_BYTE.w1(),
        0xde => THREE_BYTE.w0().l0(),
        _ => Entry::UNKNOWN.byte(),
    }
}
