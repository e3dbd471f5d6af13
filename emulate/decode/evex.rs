// SPDX-License-Identifier: GPL-2.0

//! EVEX prefixes and their opcode maps (SDM 2A 2.7).

use super::entry::{At, Entry, Size, Width};
use super::operand::{Decoder, Vex};
use super::prefix::Pp;
use super::{one_byte, vex, DecodeError};
use crate::op::Op;
use Pp::{Np, F2, F3, P66};

const V: Size = Size::V;

/// 62: BOUND where there is memory outside 64-bit mode.
pub(super) fn bound_or_evex(d: &mut Decoder<'_>) -> Result<Entry, DecodeError> {
    if !one_byte::is_escape(d.code, d.cursor.peek()?) {
        return Ok(Entry::READ_MEM);
    }
    let map = prefix(d)?;
    d.opcode = d.cursor.u8()?;
    let pp = d.vex.map_or(Np, |vex| vex.pp);
    if d.modrm()?.is_reg() {
        let immediate =
            map == 3 || map == 1 && matches!(d.opcode, 0x70..=0x73 | 0xc2 | 0xc4..=0xc6);
        return Ok(if immediate {
            Entry::REGISTER.byte()
        } else {
            Entry::REGISTER
        });
    }
    match map {
        1 => Ok(map_0f(d, pp)),
        2 => Ok(map_0f38(d, pp)),
        3 => Ok(map_0f3a(d, pp)),
        5 => Ok(map_5(d, pp)),
        6 => Ok(Entry::READ),
        _ => Err(DecodeError::Undefined),
    }
}

/// Takes the three bytes after 62; the map.
fn prefix(d: &mut Decoder<'_>) -> Result<u8, DecodeError> {
    vex::no_legacy(d)?;
    let p0 = d.cursor.u8()?;
    let p1 = d.cursor.u8()?;
    let p2 = d.cursor.u8()?;
    if p0 & 8 != 0 || p1 & 4 == 0 {
        return Err(DecodeError::Undefined);
    }
    let long = d.long();
    let mut v = !p1 >> 3 & 15;
    if long {
        d.prefixes.set_rex(!p0 >> 5 & 7 | p1 >> 4 & 8);
        d.prefixes.reg |= !p0 & 0x10;
        v |= (!p2 & 8) << 1;
    } else if p2 & 8 == 0 {
        return Err(DecodeError::Undefined);
    }
    d.vex = Some(Vex {
        v,
        register: if long { v } else { v & 7 },
        len: p2 >> 5 & 3,
        pp: Pp::from_bits(p1),
        w: p1 & 0x80 != 0,
    });
    Ok(p0 & 7)
}

/// A store of a vector, or of what is left of it after a division.
const fn store(shift: u8) -> Entry {
    let mut entry = Entry::new(Op::Evex, V, At::Mem, At::Vec)
        .width(Width::Vector(shift))
        .no_v();
    entry.unit = Some(entry.width);
    entry
}

/// A store of so many bytes.
const fn fixed(bytes: u16) -> Entry {
    let mut entry = store(0).bytes(bytes);
    entry.unit = Some(entry.width);
    entry
}

fn map_0f(d: &Decoder<'_>, pp: Pp) -> Entry {
    match (d.opcode, pp) {
        (0x11, F3) => fixed(4),
        (0x11, F2) => fixed(8),
        (0x13 | 0x17, Np | P66) => fixed(8).l0(),
        (0x11 | 0x29 | 0x2b, Np | P66) => store(0),
        (0x7e, P66) if d.prefixes.w => fixed(8).l0(),
        (0x7e, P66) => fixed(4).l0(),
        (0xd6, P66) => fixed(8).l0().w1(),
        (0x7f, P66 | F3 | F2) | (0xe7, P66) => store(0),
        (0x70..=0x73 | 0xc2 | 0xc4..=0xc6, _) => Entry::READ.byte(),
        _ => Entry::READ,
    }
}

fn map_0f38(d: &mut Decoder<'_>, pp: Pp) -> Entry {
    match (d.opcode, pp) {
        // VPMOVWB, VPMOVDW, VPMOVQD and saturating ones.
        (0x10 | 0x13 | 0x15 | 0x20 | 0x23 | 0x25 | 0x30 | 0x33 | 0x35, F3) => store(1),
        (0x11 | 0x14 | 0x21 | 0x24 | 0x31 | 0x34, F3) => store(2),
        (0x12 | 0x22 | 0x32, F3) => store(3),
        // VPCOMPRESSB and VPCOMPRESSW, VCOMPRESSPS and VCOMPRESSPD, VPCOMPRESSD and so on.
        (0x63, P66) => compress(if d.prefixes.w { 2 } else { 1 }),
        (0x8a | 0x8b, P66) => compress(if d.prefixes.w { 8 } else { 4 }),
        (0xa0..=0xa3, P66) => {
            d.vsib = true;
            Entry::new(Op::Scatter, V, At::Mem, At::Vec)
        }
        (0x90..=0x93 | 0xc6 | 0xc7, P66) => {
            d.vsib = true;
            Entry::READ_MEM
        }
        _ => Entry::READ,
    }
}

/// A displacement counts in elements.
const fn compress(element: u16) -> Entry {
    let mut entry = store(0);
    entry.unit = Some(Width::Bytes(element));
    entry
}

fn map_0f3a(d: &Decoder<'_>, pp: Pp) -> Entry {
    match (d.opcode, pp) {
        (0x14, P66) => fixed(1).l0().byte(),
        (0x15, P66) => fixed(2).l0().byte(),
        (0x16, P66) if d.prefixes.w => fixed(8).l0().byte(),
        (0x16 | 0x17, P66) => fixed(4).l0().byte(),
        (0x19 | 0x39, P66) => fixed(16).byte(),
        (0x1b | 0x3b, P66) => fixed(32).byte(),
        (0x1d, P66) => store(1).byte(),
        _ => Entry::READ.byte(),
    }
}

fn map_5(d: &Decoder<'_>, pp: Pp) -> Entry {
    match (d.opcode, pp) {
        (0x11, F3) | (0x7e, P66) => fixed(2),
        _ => Entry::READ,
    }
}
