// SPDX-License-Identifier: GPL-2.0

//! Moves between general registers and memory, and the stack.

use super::{form, Form, PLACE};
use crate::emulate::rig::WINDOW;
use guest::asm::*;
use guest::SCRATCH;

pub(super) fn all() -> Vec<Form> {
    vec![
        form("mov m8, r8", "w1", |a| a.mov(byte_ptr(rbx), dh)),
        form("mov m8, sil", "w1", |a| a.mov(byte_ptr(rbx), sil)),
        form("mov m16, r16", "w2", |a| a.mov(word_ptr(rbx), dx)),
        form("mov m32, r32", "w4", |a| a.mov(dword_ptr(rbx), edx)),
        form("mov m64, r64", "w8", |a| a.mov(qword_ptr(rbx), rdx)),
        form("mov m64, r14", "w8", |a| a.mov(qword_ptr(rbx), r14)),
        form("mov m8, imm", "w1", |a| a.mov(byte_ptr(rbx), 0x5a)),
        form("mov m16, imm", "w2", |a| a.mov(word_ptr(rbx), 0x5a5b)),
        form("mov m32, imm", "w4", |a| a.mov(dword_ptr(rbx), 0x5a5b_5c5d)),
        form("mov m64, imm", "w8", |a| a.mov(qword_ptr(rbx), -77)),
        form("mov r8, m8", "r1", |a| a.mov(ah, byte_ptr(rbx))),
        form("mov r16, m16", "r2", |a| a.mov(dx, word_ptr(rbx))),
        form("mov r32, m32", "r4", |a| a.mov(edx, dword_ptr(rbx))),
        form("mov r64, m64", "r8", |a| a.mov(rdx, qword_ptr(rbx))),
        form("mov r9, disp8", "r8+24", |a| a.mov(r9, qword_ptr(rbx + 24))),
        form("mov sib", "r4+36", |a| {
            a.mov(edx, dword_ptr(rbx + r12 * 8 - 4))
        }),
        form("mov 32-bit address", "r4", |a| a.mov(edx, dword_ptr(ebx))),
        form("mov gs", "r4", |a| a.mov(edx, dword_ptr(rbx).gs())),
        form("mov moffs, eax", "w4", |a| {
            a.db(&[0x67, 0xa3])?;
            a.dd(&[(WINDOW + PLACE) as u32])
        })
        .only_at_place(),
        form("mov al, moffs", "r1", |a| {
            a.db(&[0xa0])?;
            a.dq(&[WINDOW + PLACE])
        })
        .only_at_place(),
        form("mov m16, ds", "w2", |a| a.mov(word_ptr(rbx), ds)),
        form("movzx r16, m8", "r1", |a| a.movzx(dx, byte_ptr(rbx))),
        form("movzx r32, m8", "r1", |a| a.movzx(edx, byte_ptr(rbx))),
        form("movzx r64, m8", "r1", |a| a.movzx(rdx, byte_ptr(rbx))),
        form("movzx r32, m16", "r2", |a| a.movzx(edx, word_ptr(rbx))),
        form("movzx r64, m16", "r2", |a| a.movzx(rdx, word_ptr(rbx))),
        form("movsx r16, m8", "r1", |a| a.movsx(dx, byte_ptr(rbx))),
        form("movsx r32, m8", "r1", |a| a.movsx(edx, byte_ptr(rbx))),
        form("movsx r64, m8", "r1", |a| a.movsx(rdx, byte_ptr(rbx))),
        form("movsx r32, m16", "r2", |a| a.movsx(edx, word_ptr(rbx))),
        form("movsx r64, m16", "r2", |a| a.movsx(rdx, word_ptr(rbx))),
        form("movsxd r64, m32", "r4", |a| a.movsxd(rdx, dword_ptr(rbx))),
        form("movnti m32, r32", "w4", |a| a.movnti(dword_ptr(rbx), edx)),
        form("movnti m64, r64", "w8", |a| a.movnti(qword_ptr(rbx), rdx)),
        form("movbe m16, r16", "w2", |a| a.movbe(word_ptr(rbx), dx)),
        form("movbe m32, r32", "w4", |a| a.movbe(dword_ptr(rbx), edx)),
        form("movbe m64, r64", "w8", |a| a.movbe(qword_ptr(rbx), rdx)),
        form("movbe r16, m16", "r2", |a| a.movbe(dx, word_ptr(rbx))),
        form("movbe r32, m32", "r4", |a| a.movbe(edx, dword_ptr(rbx))),
        form("movbe r64, m64", "r8", |a| a.movbe(rdx, qword_ptr(rbx))),
        form("movdiri m32, r32", "w4", |a| a.movdiri(dword_ptr(rbx), edx)).not_in_kvm(),
        form("movdiri m64, r64", "w8", |a| a.movdiri(qword_ptr(rbx), rdx)).not_in_kvm(),
        form("setc m8", "w1", |a| a.setb(byte_ptr(rbx))),
        form("setnc m8", "w1", |a| a.setae(byte_ptr(rbx))),
        form("cmovc r16, m16", "r2", |a| a.cmovb(dx, word_ptr(rbx))),
        form("cmovc r32, m32", "r4", |a| a.cmovb(edx, dword_ptr(rbx))),
        form("cmovc r64, m64", "r8", |a| a.cmovb(rdx, qword_ptr(rbx))),
        form("cmovnc r16, m16", "r2", |a| a.cmovae(dx, word_ptr(rbx))),
        form("cmovnc r32, m32", "r4", |a| a.cmovae(edx, dword_ptr(rbx))),
        form("cmovnc r64, m64", "r8", |a| a.cmovae(rdx, qword_ptr(rbx))),
        form("xlat", "r1+136", |a| a.xlatb()),
        form("sgdt", "w10", |a| a.sgdt(fword_ptr(rbx)))
            .not_in_kvm()
            .in_parts(),
        form("sidt", "w10", |a| a.sidt(fword_ptr(rbx)))
            .not_in_kvm()
            .in_parts(),
        form("sldt m16", "w2", |a| a.sldt(word_ptr(rbx))).not_in_kvm(),
        form("str m16", "w2", |a| a.str(word_ptr(rbx))).not_in_kvm(),
        form("smsw m16", "w2", |a| a.smsw(word_ptr(rbx))).not_in_kvm(),
    ]
}

/// RSP points to its own page where it is not said to be RBX.
pub(super) fn stack() -> Vec<Form> {
    vec![
        form("push m16", "r2", |a| a.push(word_ptr(rbx))),
        form("push m64", "r8", |a| a.push(qword_ptr(rbx))),
        form("pop m16", "w2", |a| a.pop(word_ptr(rbx))),
        form("pop m64", "w8", |a| a.pop(qword_ptr(rbx))),
        form("push r64 to it", "w8", |a| {
            a.lea(rsp, qword_ptr(rbx + 8))?;
            a.push(rdx)
        }),
        form("push imm to it", "w8", |a| {
            a.lea(rsp, qword_ptr(rbx + 8))?;
            a.push(-5)
        }),
        form("push m64 to it", "r8 w8", |a| {
            a.lea(rsp, qword_ptr(rbx + 8))?;
            a.push(qword_ptr(rbx))
        }),
        form("pushfq to it", "w8", |a| {
            a.lea(rsp, qword_ptr(rbx + 8))?;
            a.pushfq()
        }),
        form("pop r64 from it", "r8", |a| {
            a.mov(rsp, rbx)?;
            a.pop(rdx)
        }),
        form("pop m64 from it", "r8 w8+8", |a| {
            a.mov(rsp, rbx)?;
            a.pop(qword_ptr(rsp))
        }),
        form("leave from it", "r8", |a| {
            a.mov(rbp, rbx)?;
            a.leave()
        }),
        form("enter 16, 0 to it", "w8", |a| {
            a.lea(rsp, qword_ptr(rbx + 8))?;
            // The new top of the stack is looked at, but not written.
            a.enter(0, 0)
        }),
        form("call r64 to it", "w8", |a| {
            let mut target = a.create_label();
            a.lea(rdx, ptr(target))?;
            a.lea(rsp, qword_ptr(rbx + 8))?;
            a.call(rdx)?;
            a.set_label(&mut target)?;
            a.inc(r8)
        }),
        form("jmp m64", "r8", |a| a.jmp(qword_ptr(rbx))).operand(&[SCRATCH]),
        form("call m64", "r8", |a| a.call(qword_ptr(rbx))).operand(&[SCRATCH]),
        form("ret from it", "r8", |a| {
            a.mov(rsp, rbx)?;
            a.ret()
        })
        .operand(&[SCRATCH]),
        form("jmp far m16:32", "r6", |a| a.jmp(fword_ptr(rbx))).operand(FAR),
        form("call far m16:32", "r6", |a| a.call(fword_ptr(rbx))).operand(FAR),
    ]
}

/// A far pointer to SCRATCH in the code segment.
const FAR: &[u64] = &[SCRATCH | (8 << 32)];
