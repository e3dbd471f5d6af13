// SPDX-License-Identifier: GPL-2.0

//! Moves of vector registers.

use super::{form, Form};
use crate::machine::Assembled;
use guest::asm::*;

/// A row: name, accesses, instruction.
type Row = (
    &'static str,
    &'static str,
    fn(&mut CodeAssembler) -> Assembled,
);

/// What KVM has, with and without alignment.
const UNALIGNED: &[Row] = &[
    ("movups m,x", "w16", |a| a.movups(xmmword_ptr(rbx), xmm1)),
    ("movups x,m", "r16", |a| a.movups(xmm1, xmmword_ptr(rbx))),
    ("movupd m,x", "w16", |a| a.movupd(xmmword_ptr(rbx), xmm9)),
    ("movupd x,m", "r16", |a| a.movupd(xmm9, xmmword_ptr(rbx))),
    ("movdqu m,x", "w16", |a| a.movdqu(xmmword_ptr(rbx), xmm2)),
    ("movdqu x,m", "r16", |a| a.movdqu(xmm2, xmmword_ptr(rbx))),
    ("vmovups m,x", "w16", |a| a.vmovups(xmmword_ptr(rbx), xmm3)),
    ("vmovups x,m", "r16", |a| a.vmovups(xmm3, xmmword_ptr(rbx))),
    ("vmovups m,y", "w32", |a| a.vmovups(ymmword_ptr(rbx), ymm3)),
    ("vmovups y,m", "r32", |a| a.vmovups(ymm3, ymmword_ptr(rbx))),
    ("vmovupd m,y", "w32", |a| a.vmovupd(ymmword_ptr(rbx), ymm12)),
    ("vmovupd y,m", "r32", |a| a.vmovupd(ymm12, ymmword_ptr(rbx))),
    ("vmovdqu m,y", "w32", |a| a.vmovdqu(ymmword_ptr(rbx), ymm4)),
    ("vmovdqu y,m", "r32", |a| a.vmovdqu(ymm4, ymmword_ptr(rbx))),
    ("vmovdqu m,x", "w16", |a| a.vmovdqu(xmmword_ptr(rbx), xmm4)),
    ("vmovdqu x,m", "r16", |a| a.vmovdqu(xmm4, xmmword_ptr(rbx))),
];

const ALIGNED: &[Row] = &[
    ("movaps m,x", "w16", |a| a.movaps(xmmword_ptr(rbx), xmm1)),
    ("movaps x,m", "r16", |a| a.movaps(xmm1, xmmword_ptr(rbx))),
    ("movapd m,x", "w16", |a| a.movapd(xmmword_ptr(rbx), xmm1)),
    ("movdqa m,x", "w16", |a| a.movdqa(xmmword_ptr(rbx), xmm15)),
    ("movdqa x,m", "r16", |a| a.movdqa(xmm15, xmmword_ptr(rbx))),
    ("movntps", "w16", |a| a.movntps(xmmword_ptr(rbx), xmm5)),
    ("movntpd", "w16", |a| a.movntpd(xmmword_ptr(rbx), xmm5)),
    ("movntdq", "w16", |a| a.movntdq(xmmword_ptr(rbx), xmm5)),
    ("movntdqa", "r16", |a| a.movntdqa(xmm5, xmmword_ptr(rbx))),
    ("vmovaps m,y", "w32", |a| a.vmovaps(ymmword_ptr(rbx), ymm6)),
    ("vmovaps y,m", "r32", |a| a.vmovaps(ymm6, ymmword_ptr(rbx))),
    ("vmovdqa m,y", "w32", |a| a.vmovdqa(ymmword_ptr(rbx), ymm7)),
    ("vmovdqa y,m", "r32", |a| a.vmovdqa(ymm7, ymmword_ptr(rbx))),
    ("vmovntdq m,y", "w32", |a| {
        a.vmovntdq(ymmword_ptr(rbx), ymm7)
    }),
];

/// What KVM does not have.
const OURS: &[Row] = &[
    ("lddqu", "r16", |a| a.lddqu(xmm1, xmmword_ptr(rbx))),
    ("movd m,x", "w4", |a| a.movd(dword_ptr(rbx), xmm1)),
    ("movd x,m", "r4", |a| a.movd(xmm1, dword_ptr(rbx))),
    ("movq m,x", "w8", |a| a.movq(qword_ptr(rbx), xmm1)),
    ("movq x,m", "r8", |a| a.movq(xmm1, qword_ptr(rbx))),
    ("movss m,x", "w4", |a| a.movss(dword_ptr(rbx), xmm1)),
    ("movss x,m", "r4", |a| a.movss(xmm1, dword_ptr(rbx))),
    ("movsd m,x", "w8", |a| a.movsd_2(qword_ptr(rbx), xmm1)),
    ("movsd x,m", "r8", |a| a.movsd_2(xmm1, qword_ptr(rbx))),
    ("movlps m,x", "w8", |a| a.movlps(qword_ptr(rbx), xmm1)),
    ("movlps x,m", "r8", |a| a.movlps(xmm1, qword_ptr(rbx))),
    ("movhps m,x", "w8", |a| a.movhps(qword_ptr(rbx), xmm1)),
    ("movhps x,m", "r8", |a| a.movhps(xmm1, qword_ptr(rbx))),
    ("movlpd x,m", "r8", |a| a.movlpd(xmm1, qword_ptr(rbx))),
    ("movhpd m,x", "w8", |a| a.movhpd(qword_ptr(rbx), xmm1)),
    ("vmovd m,x", "w4", |a| a.vmovd(dword_ptr(rbx), xmm1)),
    ("vmovq x,m", "r8", |a| a.vmovq(xmm1, qword_ptr(rbx))),
    ("vmovss x,m", "r4", |a| a.vmovss(xmm1, dword_ptr(rbx))),
    ("vmovsd m,x", "w8", |a| a.vmovsd(qword_ptr(rbx), xmm1)),
    ("vmovlps x,x,m", "r8", |a| {
        a.vmovlps_3(xmm1, xmm2, qword_ptr(rbx))
    }),
    ("vmovhps x,x,m", "r8", |a| {
        a.vmovhps_3(xmm1, xmm2, qword_ptr(rbx))
    }),
    ("vmovhps m,x", "w8", |a| a.vmovhps(qword_ptr(rbx), xmm1)),
];

pub(super) fn all() -> Vec<Form> {
    let forms = |rows: &'static [Row]| {
        rows.iter()
            .map(|&(name, does, emit)| form(name, does, emit))
    };
    forms(UNALIGNED)
        .chain(forms(ALIGNED).map(Form::only_at_place))
        .chain(forms(OURS).map(Form::not_in_kvm))
        .collect()
}
