// SPDX-License-Identifier: GPL-2.0

//! Arithmetic, shifts, bits, and exchanges.

use super::{form, Family, Form, AF, CF, OF, PF, RAX, RDX, SF, ZF};
use guest::asm::*;

const ALL_SIZES: &[u8] = &[1, 2, 4, 8];
const WIDE: &[u8] = &[2, 4, 8];
const ALL_FLAGS: u64 = CF | PF | AF | ZF | SF | OF;
/// ModRM.reg of RCX, and of RDX.
const C: u8 = 1;
const D: u8 = 2;

/// A family without prefix, with RCX or CL as its register.
const fn family(name: &'static str, opcode: &'static [u8], does: &'static str) -> Family {
    Family {
        name,
        prefix: &[],
        opcode,
        reg: C,
        does,
        immediate: 0,
        undefined: 0,
    }
}

impl Family {
    const fn reg(mut self, reg: u8) -> Self {
        self.reg = reg;
        self
    }

    const fn prefix(mut self, prefix: &'static [u8]) -> Self {
        self.prefix = prefix;
        self
    }

    const fn immediate(mut self, bytes: usize) -> Self {
        self.immediate = bytes;
        self
    }

    const fn undefined(mut self, flags: u64) -> Self {
        self.undefined = flags;
        self
    }
}

pub(super) fn all() -> Vec<Form> {
    let mut forms = Vec::new();
    alu(&mut forms);
    unary(&mut forms);
    shifts(&mut forms);
    bits(&mut forms);
    exchanges(&mut forms);
    forms
}

/// ADD, OR, ADC, SBB, AND, SUB, XOR, CMP: the number is part of the opcode.
fn alu(forms: &mut Vec<Form>) {
    let names = [
        (
            "add m,r",
            "add r,m",
            "add m,imm",
            "add m,imm8",
            "lock add m,r",
        ),
        ("or m,r", "or r,m", "or m,imm", "or m,imm8", "lock or m,r"),
        (
            "adc m,r",
            "adc r,m",
            "adc m,imm",
            "adc m,imm8",
            "lock adc m,r",
        ),
        (
            "sbb m,r",
            "sbb r,m",
            "sbb m,imm",
            "sbb m,imm8",
            "lock sbb m,r",
        ),
        (
            "and m,r",
            "and r,m",
            "and m,imm",
            "and m,imm8",
            "lock and m,r",
        ),
        (
            "sub m,r",
            "sub r,m",
            "sub m,imm",
            "sub m,imm8",
            "lock sub m,r",
        ),
        (
            "xor m,r",
            "xor r,m",
            "xor m,imm",
            "xor m,imm8",
            "lock xor m,r",
        ),
        ("cmp m,r", "cmp r,m", "cmp m,imm", "cmp m,imm8", ""),
    ];
    const STORE: [&[u8]; 8] = [
        &[1],
        &[9],
        &[0x11],
        &[0x19],
        &[0x21],
        &[0x29],
        &[0x31],
        &[0x39],
    ];
    const LOAD: [&[u8]; 8] = [
        &[3],
        &[0xb],
        &[0x13],
        &[0x1b],
        &[0x23],
        &[0x2b],
        &[0x33],
        &[0x3b],
    ];
    for (n, (store, load, imm, imm8, locked)) in names.into_iter().enumerate() {
        let undefined = if matches!(n, 1 | 4 | 6) { AF } else { 0 };
        let does = if n == 7 { "r" } else { "r w" };
        let number = n as u8;
        let families = [
            family(store, STORE[n], does),
            family(load, LOAD[n], "r"),
            family(imm, &[0x81], does).reg(number).immediate(4),
        ];
        for family in families {
            forms.extend(family.undefined(undefined).forms(ALL_SIZES));
        }
        let imm8 = family(imm8, &[0x83], does).reg(number).immediate(1);
        forms.extend(imm8.undefined(undefined).forms(WIDE));
        if n != 7 {
            let locked = family(locked, STORE[n], does).prefix(&[0xf0]).reg(D);
            forms.extend(locked.undefined(undefined).forms(ALL_SIZES));
        }
    }
    for test in [
        family("test m,r", &[0x85], "r"),
        family("test m,imm", &[0xf7], "r").reg(0).immediate(4),
    ] {
        forms.extend(test.undefined(AF).forms(ALL_SIZES));
    }
}

fn unary(forms: &mut Vec<Form>) {
    for family in [
        family("inc", &[0xff], "r w").reg(0),
        family("dec", &[0xff], "r w").reg(1),
        family("not", &[0xf7], "r w").reg(2),
        family("neg", &[0xf7], "r w").reg(3),
        family("lock inc", &[0xff], "r w").reg(0).prefix(&[0xf0]),
        family("lock neg", &[0xf7], "r w").reg(3).prefix(&[0xf0]),
        family("mul", &[0xf7], "r")
            .reg(4)
            .undefined(SF | ZF | AF | PF),
        family("imul", &[0xf7], "r")
            .reg(5)
            .undefined(SF | ZF | AF | PF),
    ] {
        forms.extend(family.forms(ALL_SIZES));
    }
    // Large enough that the quotient fits.
    let div = family("div", &[0xf7], "r").reg(6).undefined(ALL_FLAGS);
    forms.extend(div.forms(ALL_SIZES).map(|form| form.operand(&[u64::MAX])));
    let idiv = [
        form("cbw; idiv 8", "r1", |a| {
            a.cbw()?;
            a.idiv(byte_ptr(rbx))
        }),
        form("cwd; idiv 16", "r2", |a| {
            a.cwd()?;
            a.idiv(word_ptr(rbx))
        }),
        form("cdq; idiv 32", "r4", |a| {
            a.cdq()?;
            a.idiv(dword_ptr(rbx))
        }),
        form("cqo; idiv 64", "r8", |a| {
            a.cqo()?;
            a.idiv(qword_ptr(rbx))
        }),
    ];
    forms.extend(idiv.map(|f| f.undefined(ALL_FLAGS).operand(&[0x1718_1716_1514_1312])));
    for family in [
        family("imul r,m", &[0x0f, 0xaf], "r"),
        family("imul r,m,imm", &[0x69], "r").immediate(4),
        family("imul r,m,imm8", &[0x6b], "r").immediate(1),
    ] {
        forms.extend(family.undefined(SF | ZF | AF | PF).forms(WIDE));
    }
}

fn shifts(forms: &mut Vec<Form>) {
    let names = [
        ("rol 1", "rol imm", "rol cl"),
        ("ror 1", "ror imm", "ror cl"),
        ("rcl 1", "rcl imm", "rcl cl"),
        ("rcr 1", "rcr imm", "rcr cl"),
        ("shl 1", "shl imm", "shl cl"),
        ("shr 1", "shr imm", "shr cl"),
        ("sal 1", "sal imm", "sal cl"),
        ("sar 1", "sar imm", "sar cl"),
    ];
    for (n, (one, imm, by_cl)) in (0..).zip(names) {
        let rotates = n < 4;
        let by_one = if rotates { 0 } else { AF };
        let by_more = if rotates { OF } else { AF | OF };
        // Counts beyond the width leave CF undefined too.
        let by_127 = if rotates { OF } else { AF | OF | CF };
        for (family, undefined) in [
            (family(one, &[0xd1], "r w"), by_one),
            (family(imm, &[0xc1], "r w").immediate(1), by_127),
            (family(by_cl, &[0xd3], "r w"), by_more),
        ] {
            forms.extend(family.reg(n).undefined(undefined).forms(ALL_SIZES));
        }
    }
    for family in [
        family("shld cl", &[0x0f, 0xa5], "r w"),
        family("shrd cl", &[0x0f, 0xad], "r w"),
    ] {
        forms.extend(family.reg(D).undefined(AF | OF).forms(WIDE));
    }
    forms.extend([
        form("shld imm", "r4 w4", |a| a.shld(dword_ptr(rbx), edx, 9)).undefined(AF | OF),
        form("shrd imm", "r8 w8", |a| a.shrd(qword_ptr(rbx), rdx, 61)).undefined(AF | OF),
        form("shl by 0", "r8 w8", |a| a.shl(qword_ptr(rbx), 0)),
    ]);
}

fn bits(forms: &mut Vec<Form>) {
    let undefined = OF | SF | AF | PF;
    for family in [
        family("bt m,r", &[0x0f, 0xa3], "r"),
        family("bts m,r", &[0x0f, 0xab], "r w"),
        family("btr m,r", &[0x0f, 0xb3], "r w"),
        family("btc m,r", &[0x0f, 0xbb], "r w"),
        family("lock bts m,r", &[0x0f, 0xab], "r w").prefix(&[0xf0]),
        family("bt m,imm", &[0x0f, 0xba], "r").reg(4).immediate(1),
        family("bts m,imm", &[0x0f, 0xba], "r w")
            .reg(5)
            .immediate(1),
        family("btr m,imm", &[0x0f, 0xba], "r w")
            .reg(6)
            .immediate(1),
        family("btc m,imm", &[0x0f, 0xba], "r w")
            .reg(7)
            .immediate(1),
    ] {
        forms.extend(family.undefined(undefined).forms(WIDE));
    }
    forms.extend([
        // Bit 0x123 is in another word.
        form("bt m16,r15", "r2+36", |a| a.bt(word_ptr(rbx), r15w)).undefined(undefined),
        form("btc m32,r15", "r4+36 w4+36", |a| {
            a.btc(dword_ptr(rbx), r15d)
        })
        .undefined(undefined),
        form("bts m64,r15", "r8+32 w8+32", |a| a.bts(qword_ptr(rbx), r15)).undefined(undefined),
        form("btr m64,-64", "r8 w8", |a| {
            a.lea(rdx, qword_ptr(rbx + 8))?;
            a.mov(rcx, -61_i64)?;
            a.btr(qword_ptr(rdx), rcx)
        })
        .undefined(undefined),
    ]);
    for family in [
        family("bsf", &[0x0f, 0xbc], "r").undefined(ALL_FLAGS & !ZF),
        family("bsr", &[0x0f, 0xbd], "r").undefined(ALL_FLAGS & !ZF),
    ] {
        forms.extend(family.forms(WIDE));
    }
    for family in [
        family("tzcnt", &[0x0f, 0xbc], "r").undefined(OF | SF | PF | AF),
        family("lzcnt", &[0x0f, 0xbd], "r").undefined(OF | SF | PF | AF),
        family("popcnt", &[0x0f, 0xb8], "r"),
    ] {
        let family = family.prefix(&[0xf3]);
        forms.extend(family.forms(WIDE).map(Form::not_in_kvm));
    }
    forms.extend(
        [
            form("crc32 r32,m8", "r1", |a| a.crc32(edx, byte_ptr(rbx))),
            form("crc32 r32,m16", "r2", |a| a.crc32(edx, word_ptr(rbx))),
            form("crc32 r32,m32", "r4", |a| a.crc32(edx, dword_ptr(rbx))),
            form("crc32 r64,m64", "r8", |a| a.crc32(rdx, qword_ptr(rbx))),
        ]
        .map(Form::not_in_kvm),
    );
}

fn exchanges(forms: &mut Vec<Form>) {
    for family in [
        family("xchg", &[0x87], "r w").reg(D),
        family("xadd", &[0x0f, 0xc1], "r w").reg(D),
        family("lock xadd", &[0x0f, 0xc1], "r w")
            .prefix(&[0xf0])
            .reg(D),
        family("cmpxchg miss", &[0x0f, 0xb1], "r w").reg(D),
        family("lock cmpxchg miss", &[0x0f, 0xb1], "r w")
            .prefix(&[0xf0])
            .reg(D),
    ] {
        forms.extend(family.forms(ALL_SIZES));
    }
    for family in [
        family("cmpxchg hit", &[0x0f, 0xb1], "r w").reg(D),
        family("lock cmpxchg hit", &[0x0f, 0xb1], "r w")
            .prefix(&[0xf0])
            .reg(D),
    ] {
        forms.extend(family.forms(ALL_SIZES).map(|form| form.operand(&[RAX])));
    }
    let edx_eax = (RDX << 32) | (RAX & 0xffff_ffff);
    forms.extend([
        form("cmpxchg8b miss", "r8 w8", |a| a.cmpxchg8b(qword_ptr(rbx))),
        form("cmpxchg8b hit", "r8 w8", |a| a.cmpxchg8b(qword_ptr(rbx))).operand(&[edx_eax]),
        form("lock cmpxchg8b", "r8 w8", |a| {
            a.lock().cmpxchg8b(qword_ptr(rbx))
        })
        .operand(&[edx_eax]),
        form("cmpxchg16b miss", "r16 w16", |a| {
            a.cmpxchg16b(xmmword_ptr(rbx))
        })
        .only_at_place()
        .not_in_kvm(),
        form("lock cmpxchg16b", "r16 w16", |a| {
            a.lock().cmpxchg16b(xmmword_ptr(rbx))
        })
        .operand(&[RAX, RDX])
        .only_at_place()
        .not_in_kvm(),
    ]);
}
