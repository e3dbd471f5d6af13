// SPDX-License-Identifier: GPL-2.0

//! The opcode map 0F but for SSE and MMX (SDM 2D table A-3).

use super::entry::{At, Entry, Size, Width};
use super::operand::Decoder;
use super::prefix::Pp;
use super::{sse, three_byte, DecodeError};
use crate::op::Op;

const B: Size = Size::Fixed(1);
const V: Size = Size::V;

/// The entry of an opcode after 0F.
pub(super) fn entry(d: &mut Decoder<'_>) -> Result<Entry, DecodeError> {
    let opcode = d.cursor.u8()?;
    d.opcode = opcode;
    match opcode {
        0x38 => three_byte::entry_38(d),
        0x3a => three_byte::entry_3a(d),
        0x00..=0x0f => system(d, opcode),
        0x18..=0x1f => hints(d, opcode),
        0x20..=0x23 => control(d, opcode),
        0x30..=0x3f => counters(opcode),
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
        // 3DNow!: the opcode comes last.
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
        6 if d.long() && d.prefixes.mandatory() == Pp::F2 => {
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
        _ if modrm.is_reg() => return group7(d, modrm.0),
        0 => table(Op::Sgdt),
        1 => table(Op::Sidt),
        2 | 3 => table(Op::SystemLoad),
        // RSTORSSP.
        5 if d.prefixes.mandatory() == Pp::F3 => shadow_stack(),
        5 => return Err(DecodeError::Undefined),
        // INVLPG.
        _ => Entry::HINT,
    })
}

const fn shadow_stack() -> Entry {
    Entry::new(Op::ShadowStack, Size::Fixed(8), At::Mem, At::None)
}

/// Group 7 with a register: ModRM is part of the opcode.
fn group7(d: &Decoder<'_>, modrm: u8) -> Result<Entry, DecodeError> {
    let write = Entry::implied(Op::OtherWrite, V);
    Ok(match (modrm, d.prefixes.mandatory()) {
        // SETSSBSY, SAVEPREVSSP.
        (0xe8 | 0xea, Pp::F3) => Entry::implied(Op::ShadowStack, V),
        // ERETS, ERETU, UIRET.
        (0xca, Pp::F2 | Pp::F3) | (0xec, Pp::F3) => Entry::implied(Op::Iret, V),
        // ENCLV, RDMSRLIST, PBNDKB, ENCLS, ENCLU.
        (0xc0 | 0xc7 | 0xcf | 0xd7, Pp::Np) | (0xc6, Pp::F2) => write,
        // VMRUN, VMSAVE, SKINIT, CLZERO.
        (0xd8 | 0xdb | 0xde | 0xfc, _) => write,
        // RMPADJUST, RMPUPDATE, PSMASH, PVALIDATE.
        (0xfe | 0xff, Pp::F2 | Pp::F3) => write,
        // WRMSRLIST, MONITOR, VMLOAD, MONITORX, RMPQUERY.
        (0xc6 | 0xfd, Pp::F3) | (0xc8 | 0xda | 0xfa, _) => Entry::READ.implicit(),
        _ => Entry::NONE,
    })
}

/// NOP, PREFETCHh, ENDBR and whatever else old processors take for a NOP; MPX.
fn hints(d: &Decoder<'_>, opcode: u8) -> Result<Entry, DecodeError> {
    Ok(match (opcode, d.prefixes.mandatory()) {
        (0x1b, Pp::Np | Pp::P66) => Entry::new(Op::Bound, V, At::Rm, At::None),
        (0x1a, Pp::Np | Pp::P66) => Entry::READ,
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

const fn counters(opcode: u8) -> Result<Entry, DecodeError> {
    match opcode {
        // WRMSR, RDTSC, RDMSR, RDPMC, SYSENTER, SYSEXIT.
        0x30..=0x35 => Ok(Entry::NONE),
        // GETSEC.
        0x37 => Ok(Entry::implied(Op::OtherWrite, V)),
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
        (0, Pp::Np) => store(Op::Fxsave).bytes(512),
        (3, Pp::Np) => store(Op::Stmxcsr).bytes(4),
        (4 | 6, Pp::Np) => store(Op::Xsave).bytes(0),
        // FXRSTOR, LDMXCSR, XRSTOR, PTWRITE.
        (1 | 2 | 5, Pp::Np) | (4, Pp::F3) => Entry::READ,
        // CLFLUSH, CLFLUSHOPT, CLWB.
        (7, Pp::Np | Pp::P66) | (6, Pp::P66) => Entry::HINT,
        // CLRSSBSY.
        (6, Pp::F3) => shadow_stack(),
        _ => return Err(DecodeError::Undefined),
    })
}

/// Group 15 with a register.
fn fences(d: &Decoder<'_>, reg: u8) -> Result<Entry, DecodeError> {
    match (reg, d.prefixes.mandatory()) {
        // RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE.
        (0..=3, Pp::F3) if d.long() => Ok(Entry::NONE),
        // INCSSP.
        (5, Pp::F3) => Ok(Entry::implied(Op::ShadowStack, V)),
        // PTWRITE; fences; UMONITOR, TPAUSE, UMWAIT.
        (4, Pp::F3) | (5..=7, Pp::Np) | (6, Pp::F3 | Pp::P66 | Pp::F2) => Ok(Entry::NONE),
        _ => Err(DecodeError::Undefined),
    }
}

fn exchange(d: &mut Decoder<'_>, opcode: u8) -> Result<Entry, DecodeError> {
    let size = by_parity(opcode);
    let f3 = d.prefixes.mandatory() == Pp::F3;
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
        0xc3 if d.prefixes.mandatory() == Pp::Np => {
            Entry::new(Op::Movnti, Size::Y, At::Mem, At::Reg)
        }
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
        (3, false) if pp == Pp::Np => Entry::READ,
        (4 | 5, false) if pp == Pp::Np => entry(Op::Xsave).bytes(0),
        // VMPTRLD, VMCLEAR, VMXON.
        (6, false) if pp != Pp::F2 => entry(Op::Vmx),
        // VMPTRST.
        (7, false) if pp == Pp::Np => entry(Op::Vmx),
        // SENDUIPI.
        (6, true) if pp == Pp::F3 && d.long() => Entry::implied(Op::OtherWrite, V),
        // RDRAND, RDSEED, RDPID.
        (6, true) if matches!(pp, Pp::Np | Pp::P66) => Entry::NONE,
        (7, true) if pp != Pp::F2 => Entry::NONE,
        _ => return Err(DecodeError::Undefined),
    })
}
