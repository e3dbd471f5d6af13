// SPDX-License-Identifier: GPL-2.0

//! EVEX prefixes, and the stores of their opcode maps (SDM 2A 2.7).

use super::entry::{At, Entry, Size, Width};
use super::operand::{Decoder, Vex};
use super::prefix::Pp;
use super::{evex_reads, one_byte, vex, DecodeError};
use crate::op::Op;
use Pp::{Np, F2, F3, P66};

/// What an EVEX prefix holds beyond what VEX does.
struct Evex {
    /// Opcode map.
    map: u8,
    /// A mask register other than k0.
    mask: bool,
    /// z or b, which no store has.
    zb: bool,
}

/// 62: BOUND where there is memory outside 64-bit mode.
pub(super) fn bound_or_evex(d: &mut Decoder<'_>) -> Result<Entry, DecodeError> {
    if !one_byte::is_escape(d.code, d.cursor.peek()?) {
        return Ok(Entry::READ_MEM);
    }
    let evex = prefix(d)?;
    let opcode = d.cursor.u8()?;
    d.opcode = opcode;
    let (pp, element_w) = d.vex.map_or((Np, false), |vex| (vex.pp, vex.w));
    // Of a general register or its size in memory, W is one only in 64-bit mode.
    let w = d.prefixes.w;
    let (store, read) = match evex.map {
        1 => (store_0f(opcode, pp, w), evex_reads::map_0f(opcode, pp)),
        2 => (
            store_0f38(opcode, pp, element_w),
            evex_reads::map_0f38(opcode, pp),
        ),
        3 => (store_0f3a(opcode, pp, w), evex_reads::map_0f3a(opcode, pp)),
        5 => (store_5(opcode, pp), evex_reads::map_5(opcode, pp)),
        6 => (None, evex_reads::map_6(opcode, pp)),
        _ => return Err(DecodeError::Undefined),
    };
    let is_reg = d.modrm()?.is_reg();
    let entry = match store {
        Some(store) if is_reg && store.dst == At::Mem => return Err(DecodeError::Undefined),
        Some(_) if is_reg => Entry::REGISTER,
        Some(store) if evex.zb || evex.mask && !store.fields.mask => {
            return Err(DecodeError::Undefined)
        }
        Some(store) => return Ok(store),
        None if read => Entry::READ,
        None => Entry::UNKNOWN,
    };
    let byte = matches!(
        (evex.map, opcode),
        (1, 0x70..=0x73 | 0xc2 | 0xc4..=0xc6) | (3, _)
    );
    Ok(if byte { entry.byte() } else { entry }.lens(15))
}

/// Takes the three bytes after 62.
fn prefix(d: &mut Decoder<'_>) -> Result<Evex, DecodeError> {
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
    Ok(Evex {
        map: p0 & 7,
        mask: p2 & 7 != 0,
        zb: p2 & 0x90 != 0,
    })
}

/// A store whose 8-bit displacement counts in units of `unit`.
const fn store(at: At, width: Width, unit: Width) -> Entry {
    let mut entry = Entry::new(Op::Evex, Size::Y, at, At::Vec)
        .width(width)
        .no_v();
    entry.unit = Some(unit);
    entry
}

/// A store of a vector register, or of what is left of it after a division.
const fn vector(shift: u8) -> Entry {
    let width = Width::Vector(shift);
    store(At::VecRm, width, width).masked()
}

/// A store of so many bytes.
const fn fixed(bytes: u16) -> Entry {
    store(At::Rm, Width::Bytes(bytes), Width::Bytes(bytes))
}

/// A store of as many elements as the mask has, without gaps.
const fn compress(element: u16) -> Entry {
    store(At::VecRm, Width::Vector(0), Width::Bytes(element)).masked()
}

/// A store without a mask and a register form.
const fn unmasked(mut entry: Entry) -> Entry {
    entry.dst = At::Mem;
    entry.fields.mask = false;
    entry
}

/// `entry`, with W as the element of Np or P66 and of F3 or F2 wants it.
const fn float(entry: Entry, pp: Pp) -> Entry {
    if matches!(pp, P66 | F2) {
        entry.w1()
    } else {
        entry.w0()
    }
}

const fn store_0f(opcode: u8, pp: Pp, w: bool) -> Option<Entry> {
    Some(match (opcode, pp) {
        (0x11 | 0x29, Np | P66) => float(vector(0), pp),
        (0x2b, Np | P66) => unmasked(float(vector(0), pp)),
        (0x11, F3) => float(fixed(4), pp).masked().scalar(),
        (0x11, F2) => float(fixed(8), pp).masked().scalar(),
        (0x13 | 0x17, Np | P66) => unmasked(float(fixed(8), pp)).l0(),
        (0x7e, P66) => fixed(if w { 8 } else { 4 }).l0(),
        (0x7f, P66 | F3 | F2) => vector(0),
        (0xd6, P66) => fixed(8).l0().w1(),
        (0xe7, P66) => unmasked(vector(0)).w0(),
        _ => return None,
    })
}

const fn store_0f38(opcode: u8, pp: Pp, w: bool) -> Option<Entry> {
    Some(match (opcode, pp) {
        // VPMOVWB, VPMOVDW, VPMOVQD, and with saturation.
        (0x10 | 0x13 | 0x15 | 0x20 | 0x23 | 0x25 | 0x30 | 0x33 | 0x35, F3) => vector(1).w0(),
        // VPMOVDB, VPMOVQW.
        (0x11 | 0x14 | 0x21 | 0x24 | 0x31 | 0x34, F3) => vector(2).w0(),
        // VPMOVQB.
        (0x12 | 0x22 | 0x32, F3) => vector(3).w0(),
        // VPCOMPRESSB, VPCOMPRESSW.
        (0x63, P66) => compress(if w { 2 } else { 1 }),
        // VCOMPRESSPS, VCOMPRESSPD, VPCOMPRESSD, VPCOMPRESSQ.
        (0x8a | 0x8b, P66) => compress(if w { 8 } else { 4 }),
        // VPSCATTER, VSCATTER: SIB.index is a vector register.
        (0xa0..=0xa3, P66) => Entry::new(Op::Scatter, Size::Y, At::Mem, At::Vec).masked(),
        _ => return None,
    })
}

const fn store_0f3a(opcode: u8, pp: Pp, w: bool) -> Option<Entry> {
    if !matches!(pp, P66) {
        return None;
    }
    let entry = match opcode {
        // VPEXTRB, VPEXTRW, VPEXTRD, VPEXTRQ, VEXTRACTPS.
        0x14 => fixed(1).l0(),
        0x15 => fixed(2).l0(),
        0x16 => fixed(if w { 8 } else { 4 }).l0(),
        0x17 => fixed(4).l0(),
        // VEXTRACTF32X4 and so on, of 256 or 512 bits, or of 512.
        0x19 | 0x39 => fixed(16).masked().lens(6),
        0x1b | 0x3b => fixed(32).masked().lens(4),
        // VCVTPS2PH.
        0x1d => vector(1).w0(),
        _ => return None,
    };
    Some(entry.byte())
}

const fn store_5(opcode: u8, pp: Pp) -> Option<Entry> {
    Some(match (opcode, pp) {
        // VMOVSH, VMOVW.
        (0x11, F3) => fixed(2).w0().masked().scalar(),
        (0x7e, P66) => fixed(2).l0(),
        _ => return None,
    })
}
