// SPDX-License-Identifier: GPL-2.0

//! The instructions that are stepped.

use crate::machine::{self, Assembled};
use guest::asm::*;
use guest::Mode;

type Emit = fn(&mut CodeAssembler) -> Assembled;

/// An instruction that stores to RBX.
pub(super) struct Row {
    pub(super) name: &'static str,
    /// What the instruction needs before it.
    before: Emit,
    emit: Emit,
    /// Bytes that it writes; 0 for areas of more than a sub-page.
    pub(super) size: u64,
}

const fn row(name: &'static str, size: u64, emit: Emit) -> Row {
    Row {
        name,
        before: |_| Ok(()),
        emit,
        size,
    }
}

const fn x87(name: &'static str, size: u64, emit: Emit) -> Row {
    Row {
        name,
        before: |a| a.fldpi(),
        emit,
        size,
    }
}

/// Instructions that every guest with AVX has.
pub(super) const ROWS: [Row; 30] = [
    row("fxsave", 0, |a| a.fxsave(ptr(rbx))),
    row("fxsave64", 0, |a| a.fxsave64(ptr(rbx))),
    row("xsave", 0, |a| a.xsave(ptr(rbx))),
    row("xsaveopt", 0, |a| a.xsaveopt(ptr(rbx))),
    row("fnsave", 108, |a| a.fnsave(ptr(rbx))),
    row("fnstenv", 28, |a| a.fnstenv(ptr(rbx))),
    row("fnstcw", 2, |a| a.fnstcw(word_ptr(rbx))),
    row("fnstsw", 2, |a| a.fnstsw(word_ptr(rbx))),
    x87("fst m32", 4, |a| a.fst(dword_ptr(rbx))),
    x87("fst m64", 8, |a| a.fst(qword_ptr(rbx))),
    x87("fstp m80", 10, |a| a.fstp(tword_ptr(rbx))),
    x87("fistp m16", 2, |a| a.fistp(word_ptr(rbx))),
    x87("fistp m32", 4, |a| a.fistp(dword_ptr(rbx))),
    x87("fisttp m64", 8, |a| a.fisttp(qword_ptr(rbx))),
    x87("fbstp", 10, |a| a.fbstp(tword_ptr(rbx))),
    row("stmxcsr", 4, |a| a.stmxcsr(dword_ptr(rbx))),
    row("vstmxcsr", 4, |a| a.vstmxcsr(dword_ptr(rbx))),
    row("movd", 4, |a| a.movd(dword_ptr(rbx), mm1)),
    row("movq", 8, |a| a.movq(qword_ptr(rbx), mm1)),
    row("movntq", 8, |a| a.movntq(qword_ptr(rbx), mm1)),
    Row {
        name: "maskmovq",
        before: |a| {
            a.mov(rdi, rbx)?;
            a.pcmpeqd(mm2, mm2)
        },
        emit: |a| a.maskmovq(mm1, mm2),
        size: 8,
    },
    row("pextrb", 1, |a| a.pextrb(byte_ptr(rbx), xmm3, 5)),
    row("pextrw", 2, |a| a.pextrw(word_ptr(rbx), xmm3, 5)),
    row("pextrd", 4, |a| a.pextrd(dword_ptr(rbx), xmm3, 2)),
    row("pextrq", 8, |a| a.pextrq(qword_ptr(rbx), xmm3, 1)),
    row("extractps", 4, |a| a.extractps(dword_ptr(rbx), xmm3, 1)),
    row("vpextrd", 4, |a| a.vpextrd(dword_ptr(rbx), xmm3, 3)),
    row("vextractf128", 16, |a| {
        a.vextractf128(xmmword_ptr(rbx), ymm3, 1)
    }),
    row("vextracti128", 16, |a| {
        a.vextracti128(xmmword_ptr(rbx), ymm4, 1)
    }),
    row("vcvtps2ph", 8, |a| a.vcvtps2ph(qword_ptr(rbx), xmm3, 0)),
];

/// Instructions whose upper halves of registers are more than AVX has.
pub(super) const AVX512: [Row; 5] = [
    row("vmovdqu64", 64, |a| a.vmovdqu64(zmmword_ptr(rbx), zmm3)),
    row("vmovdqu32", 32, |a| a.vmovdqu32(ymmword_ptr(rbx), ymm17)),
    row("vpmovqd", 32, |a| a.vpmovqd(ymmword_ptr(rbx), zmm3)),
    row("kmovw", 2, |a| a.kmovw(word_ptr(rbx), k1)),
    row("kmovq", 8, |a| a.kmovq(qword_ptr(rbx), k1)),
];

/// What is executed: `last` immediately before the instruction, and NOP behind it.
pub(super) struct Code {
    pub(super) bytes: Vec<u8>,
    /// RIP of the instruction, and of the NOP.
    pub(super) at: u64,
    pub(super) nop: u64,
    /// Instructions, but HLT.
    pub(super) count: usize,
}

impl Row {
    pub(super) fn code(&self, last: Emit) -> Code {
        let program = machine::program(Mode::Long, |a| {
            a.fninit()?;
            (self.before)(a)?;
            last(a)?;
            (self.emit)(a)?;
            a.nop()
        });
        let starts: Vec<u64> = program.instructions().collect();
        let [.., at, nop] = starts[..] else {
            panic!("no instruction");
        };
        Code {
            at,
            nop,
            count: starts.len(),
            bytes: program.code,
        }
    }

    pub(super) fn plain(&self) -> Code {
        self.code(|_| Ok(()))
    }
}
