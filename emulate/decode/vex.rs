// SPDX-License-Identifier: GPL-2.0

//! VEX prefixes and their opcode maps (SDM 2A 2.3).

use super::entry::{At, Entry, Size, Width};
use super::operand::{Decoder, Vex};
use super::prefix::Pp;
use super::{one_byte, sse, three_byte, two_byte, vex_reads, DecodeError};
use crate::insn::Rep;
use crate::op::Op;
use Pp::{Np, F2, F3, P66};

const V: Size = Size::V;

/// C4 and C5: LES and LDS where there is memory outside 64-bit mode.
pub(super) fn load_far_or_vex(d: &mut Decoder<'_>, opcode: u8) -> Result<Entry, DecodeError> {
    if !one_byte::is_escape(d.code, d.cursor.peek()?) {
        return Ok(two_byte::load_far());
    }
    let map = if opcode == 0xc5 {
        // RvvvvLpp: as three bytes with X, B and W clear and the map 0F.
        let byte = d.cursor.u8()?;
        prefix(d, byte & 0x80 | 0x61, byte & 0x7f)?
    } else {
        let rxb = d.cursor.u8()?;
        let wvlp = d.cursor.u8()?;
        prefix(d, rxb, wvlp)?
    };
    let opcode = d.cursor.u8()?;
    d.opcode = opcode;
    match map {
        1 => map_0f(d, opcode),
        2 => map_0f38(d, opcode),
        3 => map_0f3a(d, opcode),
        _ => Err(DecodeError::Undefined),
    }
}

/// Takes the last two bytes of a prefix of three, RXBmmmmm and WvvvvLpp; the map.
pub(super) fn prefix(d: &mut Decoder<'_>, rxb: u8, wvlp: u8) -> Result<u8, DecodeError> {
    no_legacy(d)?;
    let long = d.long();
    // Outside 64-bit mode there are eight registers, and W is no operand size.
    if long {
        d.prefixes.set_rex(!rxb >> 5 & 7 | wvlp >> 4 & 8);
    }
    let mask = if long { 15 } else { 7 };
    d.vex = Some(Vex {
        v: !wvlp >> 3 & 15,
        register: !wvlp >> 3 & mask,
        len: wvlp >> 2 & 1,
        pp: Pp::from_bits(wvlp),
        w: wvlp & 0x80 != 0,
    });
    Ok(rxb & 0x1f)
}

/// LOCK, 66, F2, F3 and REX before VEX, EVEX and XOP are #UD.
pub(super) fn no_legacy(d: &Decoder<'_>) -> Result<(), DecodeError> {
    let p = &d.prefixes;
    if p.lock || p.operand || p.rex || p.rep != Rep::None {
        return Err(DecodeError::Undefined);
    }
    Ok(())
}

/// The mandatory prefix.
fn pp(d: &Decoder<'_>) -> Pp {
    d.vex.map_or(Np, |vex| vex.pp)
}

fn map_0f(d: &mut Decoder<'_>, opcode: u8) -> Result<Entry, DecodeError> {
    Ok(match (opcode, pp(d)) {
        // VZEROUPPER, VZEROALL.
        (0x77, Np) => Entry::NONE.no_v(),
        (0x77, _) => return Err(DecodeError::Undefined),
        (0x10, Np | P66) | (0x6f, F3) => sse::load(),
        (0x11, Np | P66) | (0x7f, F3) => sse::store(),
        (0x10 | 0x11, pp) => return scalar_move(d, opcode, pp),
        (0x12 | 0x16, Np) if d.modrm()?.is_reg() => Entry::READ.l0(),
        (0x12, Np | P66) => half_load(Op::LowLoad),
        (0x16, Np | P66) => half_load(Op::HighLoad),
        (0x13, Np | P66) => sse::only_mem(sse::scalar_store(Op::ScalarStore, 8)).l0(),
        (0x17, Np | P66) => sse::only_mem(sse::scalar_store(Op::HighStore, 8)).l0(),
        (0x28, Np | P66) | (0x6f, P66) => sse::load().aligned(),
        (0x29, Np | P66) | (0x7f, P66) => sse::store().aligned(),
        (0x2b, Np | P66) | (0xe7, P66) => sse::only_mem(sse::store()).aligned(),
        (0x6e, P66) => sse::vector_from_general().l0(),
        (0x7e, P66) => sse::general_from_vector().l0(),
        (0x7e, F3) => sse::scalar_load(8).l0(),
        (0xd6, P66) => sse::scalar_store(Op::ScalarStore, 8).l0(),
        (0xf0, F2) => sse::only_mem(sse::load()),
        (0xf7, P66) => sse::masked_store().l0(),
        (0x91, pp @ (Np | P66)) => return mask_store(d, pp),
        (0xae, Np) => return mxcsr(d),
        (_, pp) => vex_reads::map_0f(d, opcode, pp)?,
    })
}

/// VMOVSS, VMOVSD: the register form merges.
fn scalar_move(d: &mut Decoder<'_>, opcode: u8, pp: Pp) -> Result<Entry, DecodeError> {
    let bytes = if pp == F3 { 4 } else { 8 };
    Ok(if d.modrm()?.is_reg() {
        Entry::REGISTER
    } else if opcode == 0x10 {
        sse::scalar_load(bytes)
    } else {
        sse::scalar_store(Op::ScalarStore, bytes)
    })
}

const fn half_load(op: Op) -> Entry {
    Entry::new(op, V, At::Vec, At::VecV)
        .third(At::Mem)
        .bytes(8)
        .l0()
}

/// KMOV.
fn mask_store(d: &Decoder<'_>, pp: Pp) -> Result<Entry, DecodeError> {
    // There are eight mask registers.
    if d.prefixes.reg != 0 {
        return Err(DecodeError::Undefined);
    }
    let bytes = match (pp, d.vex.is_some_and(|vex| vex.w)) {
        (Np, false) => 2,
        (_, false) => 1,
        (Np, true) => 8,
        (_, true) => 4,
    };
    let store = Entry::new(Op::Kmov, V, At::Mem, At::None).bytes(bytes);
    Ok(store.no_v().l0())
}

/// Group 15.
fn mxcsr(d: &mut Decoder<'_>) -> Result<Entry, DecodeError> {
    match d.modrm()?.reg() {
        2 => Ok(Entry::READ_MEM.no_v().l0()),
        3 => Ok(Entry::new(Op::Stmxcsr, V, At::Mem, At::None)
            .bytes(4)
            .no_v()
            .l0()),
        _ => Err(DecodeError::Undefined),
    }
}

fn map_0f38(d: &mut Decoder<'_>, opcode: u8) -> Result<Entry, DecodeError> {
    Ok(match (opcode, pp(d)) {
        (0x2a, P66) => sse::only_mem(sse::load()).aligned(),
        (0x2e, P66) => masked_store(4).w0(),
        (0x2f, P66) => masked_store(8).w0(),
        (0x8e, P66) => masked_store(if d.vex.is_some_and(|vex| vex.w) { 8 } else { 4 }),
        (0x49 | 0x4b, pp) if d.long() => tile(d, opcode, pp)?,
        // CMPccXADD.
        (0xe0..=0xef, P66) if d.long() => Entry::new(Op::Rao, Size::Y, At::Mem, At::Reg).l0(),
        (_, pp) => vex_reads::map_0f38(d, opcode, pp)?,
    })
}

/// AMX: tile loads and stores want a SIB byte.
fn tile(d: &mut Decoder<'_>, opcode: u8, pp: Pp) -> Result<Entry, DecodeError> {
    let modrm = d.modrm()?;
    // There are eight tile registers.
    if d.prefixes.reg != 0 {
        return Err(DecodeError::Undefined);
    }
    let entry = match (opcode, pp, modrm.is_reg()) {
        // STTILECFG, LDTILECFG.
        (0x49, P66, false) if modrm.reg() == 0 => {
            Entry::new(Op::Amx, V, At::Mem, At::None).bytes(64)
        }
        (0x49, Np, false) if modrm.reg() == 0 => Entry::READ,
        // TILERELEASE, TILEZERO.
        (0x49, Np, true) if modrm.0 == 0xc0 => Entry::REGISTER,
        (0x49, F2, true) if modrm.rm() == 0 => Entry::REGISTER,
        // TILESTORED; TILELOADD, TILELOADDT1.
        (0x4b, F3, false) if modrm.rm() == 4 => Entry::new(Op::Amx, V, At::Mem, At::None).bytes(0),
        (0x4b, P66 | F2, false) if modrm.rm() == 4 => Entry::READ,
        _ => Entry::UNKNOWN,
    };
    Ok(entry.no_v().l0().w0())
}

/// VMASKMOVPS, VMASKMOVPD, VPMASKMOVD, VPMASKMOVQ.
const fn masked_store(element: u8) -> Entry {
    Entry::new(Op::VmaskmovStore, Size::Fixed(element), At::Mem, At::VecV)
        .third(At::Vec)
        .width(Width::Vector(0))
}

fn map_0f3a(d: &mut Decoder<'_>, opcode: u8) -> Result<Entry, DecodeError> {
    Ok(match (opcode, pp(d)) {
        (0x14..=0x17, P66) => three_byte::extract(opcode),
        // VEXTRACTF128, VEXTRACTI128.
        (0x19 | 0x39, P66) => extract(Width::Bytes(16)).l1(),
        // VCVTPS2PH.
        (0x1d, P66) => extract(Width::Vector(1)),
        (_, pp) => vex_reads::map_0f3a(opcode, pp),
    })
}

const fn extract(width: Width) -> Entry {
    Entry::new(Op::VectorExtract, V, At::VecRm, At::Vec)
        .width(width)
        .byte()
        .no_v()
        .w0()
}
