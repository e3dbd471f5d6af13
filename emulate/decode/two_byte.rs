// SPDX-License-Identifier: GPL-2.0

//! The opcode map 0F but for SSE and MMX (SDM 2D table A-3).

use super::entry::{At, Entry, Size, Width};
use super::operand::Decoder;
use super::prefix::Pp;
use super::{sse, three_byte, DecodeError};
use crate::op::Op;
use Pp::{Np, F2, F3, P66};

const B: Size = Size::Fixed(1);
const V: Size = Size::V;

/// The entry of an opcode after 0F.
// Not inlined, for a small stack frame.
#[inline(never)]
pub(super) fn entry(d: &mut Decoder<'_>) -> Result<Entry, DecodeError> {
    let opcode = d.cursor.u8()?;
    d.opcode = opcode;
    match opcode {
        0x38 => three_byte::entry_38(d),
        0x3a => three_byte::entry_3a(d),
        0x00..=0x0f => system(d, opcode),
        0x18..=0x1f => hints(d, opcode),
        0x20..=0x23 => control(d, opcode),
        0x30..=0x3f => counters(d, opcode),
        0x40..=0x4f => Ok(Entry::new(Op::Cmovcc, V, At::Reg, At::Rm).condition(opcode)),
        0x80..=0x8f => Ok(Entry::new(Op::NoMemory, Size::F64, At::None, At::Z)),
        0x90..=0x9f => Ok(Entry::new(Op::Setcc, B, At::Rm, At::None).condition(opcode)),
        0xa0..=0xaf => bits(d, opcode),
        0xb0..=0xbf => exchange(d, opcode),
        0xc0 | 0xc1 | 0xc3 | 0xc7..=0xcf => add_and_swap(d, opcode),
        _ => sse::entry(d, opcode),
    }
}

/// B for even opcodes and V for odd ones.
const fn by_parity(opcode: u8) -> Size {
    if opcode & 1 == 0 {
        B
    } else {
        V
    }
}

fn system(d: &mut Decoder<'_>, opcode: u8) -> Result<Entry, DecodeError> {
    Ok(match opcode {
        0x00 => return segments(d),
        0x01 => return tables(d),
        // LAR, LSL: they read a descriptor.
        0x02 | 0x03 => Entry::READ.implicit(),
        // SYSCALL, CLTS, SYSRET, INVD, WBINVD, FEMMS.
        0x05..=0x09 | 0x0e => Entry::NONE,
        // PREFETCH, PREFETCHW.
        0x0d => Entry::HINT,
        // 3DNow!: the opcode comes last. No Intel processor has it.
        0x0f => Entry::READ.byte(),
        _ => return Err(DecodeError::Undefined),
    })
}

/// Group 6.
fn segments(d: &mut Decoder<'_>) -> Result<Entry, DecodeError> {
    Ok(match d.modrm()?.reg() {
        0 => Entry::new(Op::Sldt, V, At::Rm, At::None).bytes(2),
        1 => Entry::new(Op::Str, V, At::Rm, At::None).bytes(2),
        // LLDT, LTR.
        2 | 3 => Entry::new(Op::SystemLoad, V, At::Rm, At::None).implicit(),
        // VERR, VERW: they read a descriptor.
        4 | 5 => Entry::READ.implicit(),
        // LKGS.
        6 if d.long() && d.prefixes.mandatory() == F2 => {
            Entry::new(Op::LoadSreg, Size::Fixed(2), At::Rm, At::None).implicit()
        }
        _ => return Err(DecodeError::Undefined),
    })
}

/// Group 7.
fn tables(d: &mut Decoder<'_>) -> Result<Entry, DecodeError> {
    let modrm = d.modrm()?;
    let table = |op| Entry::new(op, V, At::Mem, At::None).width(Width::Table);
    Ok(match modrm.reg() {
        4 => Entry::new(Op::Smsw, V, At::Rm, At::None).bytes(2),
        // LMSW.
        6 => Entry::new(Op::SystemLoad, Size::Fixed(2), At::Rm, At::None),
        _ if modrm.is_reg() => group7(d, modrm.0),
        0 => table(Op::Sgdt),
        1 => table(Op::Sidt),
        2 | 3 => table(Op::SystemLoad),
        // RSTORSSP.
        5 if d.prefixes.mandatory() == F3 => shadow_stack(),
        5 => return Err(DecodeError::Undefined),
        // INVLPG.
        _ => Entry::HINT,
    })
}

const fn shadow_stack() -> Entry {
    Entry::new(Op::ShadowStack, Size::Fixed(8), At::Mem, At::None)
}

/// What of group 7 exists only in 64-bit mode.
const fn is_long_only(modrm: u8, pp: Pp) -> bool {
    matches!(
        (modrm, pp),
        (0xf8, _)
            | (0xc7, Np)
            | (0xcd..=0xcf, P66)
            | (0xc6 | 0xca, F2 | F3)
            | (0xec..=0xef | 0xfd, F3)
            | (0xfe, F2 | F3)
            | (0xff, F3)
    )
}

/// Group 7 with a register: ModRM is part of the opcode.
fn group7(d: &Decoder<'_>, modrm: u8) -> Entry {
    let pp = d.prefixes.mandatory();
    if !d.long() && is_long_only(modrm, pp) {
        return Entry::UNKNOWN;
    }
    match (modrm, pp) {
        // SETSSBSY, SAVEPREVSSP.
        (0xe8 | 0xea, F3) => Entry::implied(Op::ShadowStack, V),
        // ERETS, ERETU, UIRET.
        (0xca, F2 | F3) | (0xec, F3) => Entry::implied(Op::Iret, V),
        // ENCLV, PBNDKB, ENCLS, ENCLU, RDMSRLIST, VMRUN, VMSAVE, SKINIT, CLZERO, RMPADJUST,
        // RMPUPDATE, PSMASH, PVALIDATE.
        (0xc0 | 0xc7 | 0xcf | 0xd7, Np)
        | (0xc6, F2)
        | (0xd8 | 0xdb | 0xde | 0xfc, _)
        | (0xfe | 0xff, F2 | F3) => Entry::implied(Op::OtherWrite, V),
        // WRMSRLIST, RMPQUERY, MONITOR, MONITORX, VMLOAD.
        (0xc6 | 0xfd, F3) | (0xc8 | 0xfa, Np) | (0xda, _) => Entry::READ.implicit(),
        // VMX, PCONFIG, WRMSRNS, MWAIT, CLAC, STAC, XGETBV, XSETBV, VMFUNC, XEND, XTEST.
        (0xc1..=0xc6 | 0xc9..=0xcb | 0xd0 | 0xd1 | 0xd4..=0xd6, Np)
        // TDX.
        | (0xcc..=0xcf, P66)
        // VMMCALL, STGI, CLGI, INVLPGA, SWAPGS, RDTSCP.
        | (0xd9 | 0xdc | 0xdd | 0xdf | 0xf8 | 0xf9, _)
        // SERIALIZE, RDPKRU, WRPKRU, XSUSLDTRK, XRESLDTRK, user interrupts, MCOMMIT, MWAITX,
        // RDPRU, INVLPGB, TLBSYNC.
        | (0xe8 | 0xee | 0xef | 0xfb | 0xfd..=0xff, Np)
        | (0xe8 | 0xe9, F2)
        | (0xed..=0xef | 0xfa, F3) => Entry::NONE,
        _ => Entry::UNKNOWN,
    }
}

/// NOP, PREFETCHh, ENDBR and whatever else old processors take for a NOP; MPX.
fn hints(d: &Decoder<'_>, opcode: u8) -> Result<Entry, DecodeError> {
    Ok(match (opcode, d.prefixes.mandatory()) {
        (0x1b, Np | P66) => Entry::new(Op::Bound, V, At::Rm, At::None),
        (0x1a, Np | P66) => Entry::READ,
        _ => Entry::HINT,
    })
}

/// MOV from and to control and debug registers, with ModRM.mod ignored.
fn control(d: &mut Decoder<'_>, opcode: u8) -> Result<Entry, DecodeError> {
    let number = d.modrm()?.reg() | d.prefixes.reg;
    let exists = match opcode {
        0x20 | 0x22 => matches!(number, 0 | 2 | 3 | 4 | 8),
        _ => number < 8,
    };
    if exists {
        Ok(Entry::NONE)
    } else {
        Err(DecodeError::Undefined)
    }
}

fn counters(d: &Decoder<'_>, opcode: u8) -> Result<Entry, DecodeError> {
    match opcode {
        // WRMSR, RDTSC, RDMSR, RDPMC, SYSENTER, SYSEXIT.
        0x30..=0x35 => Ok(Entry::NONE),
        // GETSEC.
        0x37 if d.prefixes.mandatory() == Np => Ok(Entry::implied(Op::OtherWrite, V)),
        _ => Err(DecodeError::Undefined),
    }
}

fn bits(d: &mut Decoder<'_>, opcode: u8) -> Result<Entry, DecodeError> {
    let double = |op, count| Entry::new(op, V, At::Rm, At::Reg).third(count);
    Ok(match opcode {
        0xa0 => Entry::new(Op::PushSreg, Size::D64, At::Fixed(4), At::None).implicit(),
        0xa8 => Entry::new(Op::PushSreg, Size::D64, At::Fixed(5), At::None).implicit(),
        0xa1 | 0xa9 => Entry::implied(Op::LoadSreg, Size::D64),
        // CPUID, RSM.
        0xa2 | 0xaa => Entry::NONE,
        0xa3 => Entry::new(Op::Bt, V, At::Rm, At::Reg),
        0xa4 => double(Op::Shld, At::Byte),
        0xa5 => double(Op::Shld, At::Gpr(1)),
        0xab => Entry::new(Op::Bts, V, At::Rm, At::Reg).lock(),
        0xac => double(Op::Shrd, At::Byte),
        0xad => double(Op::Shrd, At::Gpr(1)),
        0xae => return states(d),
        0xaf => Entry::new(Op::Imul2, V, At::Reg, At::Rm),
        _ => return Err(DecodeError::Undefined),
    })
}

/// Group 15.
fn states(d: &mut Decoder<'_>) -> Result<Entry, DecodeError> {
    let modrm = d.modrm()?;
    if modrm.is_reg() {
        return fences(d, modrm.reg());
    }
    let store = |op| Entry::new(op, V, At::Mem, At::None);
    Ok(match (modrm.reg(), d.prefixes.mandatory()) {
        (0, Np) => store(Op::Fxsave).bytes(512),
        (3, Np) => store(Op::Stmxcsr).bytes(4),
        (4 | 6, Np) => store(Op::Xsave).bytes(0),
        // FXRSTOR, LDMXCSR, XRSTOR.
        (1 | 2 | 5, Np) => Entry::READ,
        // PTWRITE.
        (4, F3) if !d.prefixes.operand => Entry::READ,
        // CLFLUSH, CLFLUSHOPT, CLWB.
        (7, Np | P66) | (6, P66) => Entry::new(Op::Flush, V, At::None, At::Mem).bytes(1),
        // CLRSSBSY.
        (6, F3) => shadow_stack(),
        _ => return Err(DecodeError::Undefined),
    })
}

/// Group 15 with a register.
fn fences(d: &Decoder<'_>, reg: u8) -> Result<Entry, DecodeError> {
    match (reg, d.prefixes.mandatory()) {
        // RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE.
        (0..=3, F3) if d.long() => Ok(Entry::NONE),
        // INCSSP.
        (5, F3) => Ok(Entry::implied(Op::ShadowStack, V)),
        // PTWRITE.
        (4, F3) if !d.prefixes.operand => Ok(Entry::NONE),
        // UMONITOR.
        (6, F3) => Ok(Entry::READ.implicit()),
        // Fences; TPAUSE, UMWAIT.
        (5..=7, Np) | (6, P66 | F2) => Ok(Entry::NONE),
        _ => Err(DecodeError::Undefined),
    }
}

fn exchange(d: &mut Decoder<'_>, opcode: u8) -> Result<Entry, DecodeError> {
    let size = by_parity(opcode);
    let f3 = d.prefixes.mandatory() == F3;
    let load = |op| Entry::new(op, V, At::Reg, At::Rm);
    Ok(match opcode {
        0xb0 | 0xb1 => Entry::new(Op::Cmpxchg, size, At::Rm, At::Reg).lock(),
        // LSS, LFS, LGS.
        0xb2 | 0xb4 | 0xb5 => load_far(),
        0xb3 => Entry::new(Op::Btr, V, At::Rm, At::Reg).lock(),
        0xb6 => load(Op::Movzx).bytes(1),
        0xb7 => load(Op::Movzx).bytes(2),
        0xb8 if f3 => load(Op::Popcnt),
        0xba => return bit_immediate(d),
        0xbb => Entry::new(Op::Btc, V, At::Rm, At::Reg).lock(),
        0xbc => load(if f3 { Op::Tzcnt } else { Op::Bsf }),
        0xbd => load(if f3 { Op::Lzcnt } else { Op::Bsr }),
        0xbe => load(Op::Movsx).bytes(1),
        0xbf => load(Op::Movsx).bytes(2),
        // UD1, and what was JMPE.
        _ => return Err(DecodeError::Undefined),
    })
}

/// A far pointer to a segment and a general register.
pub(super) const fn load_far() -> Entry {
    Entry::new(Op::LoadSreg, V, At::Reg, At::Mem).width(Width::Far)
}

/// Group 8.
fn bit_immediate(d: &mut Decoder<'_>) -> Result<Entry, DecodeError> {
    let entry = |op| Entry::new(op, V, At::Rm, At::Byte);
    Ok(match d.modrm()?.reg() {
        4 => entry(Op::Bt),
        5 => entry(Op::Bts).lock(),
        6 => entry(Op::Btr).lock(),
        7 => entry(Op::Btc).lock(),
        _ => return Err(DecodeError::Undefined),
    })
}

fn add_and_swap(d: &mut Decoder<'_>, opcode: u8) -> Result<Entry, DecodeError> {
    Ok(match opcode {
        0xc0 | 0xc1 => Entry::new(Op::Xadd, by_parity(opcode), At::Rm, At::Reg).lock(),
        0xc3 if d.prefixes.mandatory() == Np => Entry::new(Op::Movnti, Size::Y, At::Mem, At::Reg),
        0xc3 => return Err(DecodeError::Undefined),
        0xc7 => return group9(d),
        // BSWAP.
        _ => Entry::NONE,
    })
}

/// Group 9.
fn group9(d: &mut Decoder<'_>) -> Result<Entry, DecodeError> {
    let modrm = d.modrm()?;
    let pp = d.prefixes.mandatory();
    let entry = |op| Entry::new(op, Size::Fixed(8), At::Mem, At::None);
    Ok(match (modrm.reg(), modrm.is_reg()) {
        (1, false) if d.prefixes.w => {
            Entry::new(Op::Cmpxchg16b, Size::Fixed(16), At::Mem, At::None).lock()
        }
        (1, false) => entry(Op::Cmpxchg8b).lock(),
        // XRSTORS.
        (3, false) if pp == Np => Entry::READ,
        (4 | 5, false) if pp == Np => entry(Op::Xsave).bytes(0),
        // VMPTRLD, VMCLEAR, VMXON.
        (6, false) if pp != F2 => entry(Op::Vmx),
        // VMPTRST.
        (7, false) if pp == Np => entry(Op::Vmx),
        // SENDUIPI.
        (6, true) if pp == F3 && d.long() => Entry::implied(Op::OtherWrite, V),
        // RDRAND, RDSEED, RDPID.
        (6, true) if matches!(pp, Np | P66) => Entry::NONE,
        (7, true) if pp != F2 => Entry::NONE,
        _ => return Err(DecodeError::Undefined),
    })
}
