// SPDX-License-Identifier: GPL-2.0

//! What drivers do, and what nobody does.

use super::Case;
use crate::emulate::rig::{Rig, WINDOW};
use guest::asm::*;
use guest::{Mode, PAGE_SIZE, SCRATCH};

/// Nothing more to prepare.
fn as_it_is(_: &Rig) {}

/// Down.
fn backwards(rig: &Rig) {
    rig.machine.change_regs(|r| r.rflags |= 1 << 10);
}

/// The second page of the window comes with its first fault.
fn missing(rig: &Rig) {
    rig.set_entry(1, rig.entry(1) & !1);
}

/// That page and the one behind the next are read-only until then.
fn read_only(rig: &Rig) {
    rig.set_entry(1, rig.entry(1) & !2);
    rig.set_entry(3, rig.entry(3) & !2);
}

/// Few bytes before a page boundary.
fn at_the_end(rig: &Rig) {
    rig.machine.change_regs(|r| {
        r.rbx += PAGE_SIZE - 6;
        r.rsi += PAGE_SIZE - 7;
        r.rdi += PAGE_SIZE - 5;
    });
}

const fn old(
    name: &'static str,
    mode: Mode,
    author: fn(&mut CodeAssembler) -> crate::machine::Assembled,
) -> Case {
    Case {
        name,
        mode,
        prepare: as_it_is,
        author,
    }
}

pub(super) const ALL: &[Case] = &[
    Case::long("serial port", as_it_is, |a| {
        let (mut next, mut wait) = (a.create_label(), a.create_label());
        a.mov(rsi, SCRATCH)?;
        a.mov(ebx, 20)?;
        a.set_label(&mut next)?;
        a.mov(edx, 0x3fd)?;
        a.set_label(&mut wait)?;
        a.in_(al, dx)?;
        a.test(al, 0x20)?;
        a.jz(wait)?;
        a.mov(edx, 0x3f8)?;
        a.outsb()?;
        a.dec(ebx)?;
        a.jnz(next)
    }),
    Case::long("disk sectors", as_it_is, |a| {
        a.mov(edx, 0x1f0)?;
        a.mov(ecx, 256)?;
        a.rep().insw()?;
        a.mov(ecx, 128)?;
        a.rep().insd()?;
        a.mov(rsi, WINDOW + PAGE_SIZE)?;
        a.mov(ecx, 256)?;
        a.rep().outsw()
    }),
    Case::long("a page of bytes", as_it_is, |a| {
        a.mov(ecx, 4096)?;
        a.rep().insb()
    }),
    Case::long("PCI configuration", as_it_is, |a| {
        a.mov(eax, 0x8000_0010_u32)?;
        a.mov(edx, 0xcf8)?;
        a.out(dx, eax)?;
        a.mov(edx, 0xcfc)?;
        a.in_(eax, dx)?;
        a.mov(r8, rax)?;
        a.inc(edx)?;
        a.in_(ax, dx)?;
        a.mov(r9, rax)?;
        a.in_(al, dx)?;
        a.out(dx, al)?;
        a.insd()
    }),
    Case::long("device registers", as_it_is, |a| {
        a.mov(eax, dword_ptr(rbx + 0x30))?;
        a.or(dword_ptr(rbx + 0x34), 0x100)?;
        a.and(dword_ptr(rbx + 0x38), -2)?;
        a.lock().bts(dword_ptr(rbx + 0x3c), 7)?;
        a.xchg(qword_ptr(rbx + 0x40), rax)?;
        a.mov(ecx, dword_ptr(rbx + 0x50))?;
        a.lock().cmpxchg(dword_ptr(rbx + 0x50), ecx)?;
        a.test(byte_ptr(rbx + 0x51), 4)?;
        a.setnz(byte_ptr(rbx + 0x52))?;
        a.cmp(word_ptr(rbx + 0x54), 9)?;
        a.movzx(r8d, word_ptr(rbx + 0x56))?;
        a.movsx(r9, byte_ptr(rbx + 0x58))?;
        a.sub(r9, qword_ptr(rbx + 0x60))?;
        a.adc(qword_ptr(rbx + 0x68), r9)
    }),
    Case::long("frame buffer", as_it_is, |a| {
        a.mov(rdi, rbx)?;
        a.mov(ecx, 700)?;
        a.rep().stosd()?;
        a.mov(rsi, rbx)?;
        a.mov(rdi, WINDOW + PAGE_SIZE)?;
        a.mov(ecx, 300)?;
        a.rep().movsq()?;
        a.mov(ecx, 150)?;
        a.mov(rdi, rbx)?;
        a.rep().movsb()
    }),
    Case::long("up through all pages", as_it_is, |a| {
        a.mov(ecx, 0x2f00)?;
        a.add(rdi, 0x23)?;
        a.rep().movsb()
    }),
    Case::long("vectors", as_it_is, |a| {
        let mut again = a.create_label();
        a.mov(ecx, 130)?;
        a.set_label(&mut again)?;
        a.movups(xmm0, xmmword_ptr(rsi))?;
        a.vmovdqu(ymm1, ymmword_ptr(rsi + 16))?;
        a.movups(xmmword_ptr(rdi + 5), xmm0)?;
        a.vmovdqu(ymmword_ptr(rdi + 0x800), ymm1)?;
        a.add(rsi, 31)?;
        a.add(rdi, 29)?;
        a.dec(ecx)?;
        a.jnz(again)
    }),
    Case::long("length of a string", as_it_is, |a| {
        a.mov(rdi, rbx)?;
        a.xor(eax, eax)?;
        a.mov(rcx, -1_i64)?;
        a.repne().scasb()?;
        a.not(rcx)
    }),
    Case::long("comparison", as_it_is, |a| {
        // The device's page and the memory's are equal at first.
        a.mov(ecx, 200)?;
        a.repe().cmpsd()?;
        a.mov(ecx, 9)?;
        a.repne().cmpsw()?;
        a.setbe(byte_ptr(rbx))
    }),
    Case::long("downwards", backwards, |a| {
        a.add(rsi, 0x820)?;
        a.add(rdi, 0x808)?;
        a.mov(ecx, 21)?;
        a.rep().movsq()?;
        a.mov(ecx, 5)?;
        a.rep().stosw()?;
        a.mov(ecx, 3)?;
        a.rep().lodsd()?;
        a.mov(ecx, 9)?;
        a.rep().insb()?;
        a.mov(ecx, 4)?;
        a.rep().outsw()
    }),
    Case::long("faults on the way", missing, |a| {
        // From the device to the missing page, and from there on.
        a.mov(rsi, WINDOW + PAGE_SIZE - 5)?;
        a.mov(rdi, WINDOW + 3 * PAGE_SIZE)?;
        a.mov(ecx, 5)?;
        a.rep().movsw()?;
        a.lodsd()?;
        a.stosd()
    }),
    Case::long("loads over a missing page", missing, |a| {
        a.mov(rax, qword_ptr(rbx + 0xffd))?;
        a.movups(xmm3, xmmword_ptr(rbx + 0xff3))
    }),
    Case::long("loads over a read-only page", read_only, |a| {
        a.mov(rax, qword_ptr(rbx + 0xffd))?;
        a.cmp(dword_ptr(rbx + 0xffe), ecx)?;
        a.mov(r8, qword_ptr(rbx + 0x1ffc))
    }),
    Case::long("borders", at_the_end, |a| {
        a.mov(qword_ptr(rbx), rax)?;
        a.add(qword_ptr(rbx + 1), rax)?;
        a.xchg(dword_ptr(rbx + 3), ecx)?;
        a.mov(r9, qword_ptr(rbx + PAGE_SIZE))?;
        a.movups(xmmword_ptr(rbx - 3), xmm2)?;
        a.movups(xmm4, xmmword_ptr(rbx + PAGE_SIZE - 4))?;
        a.mov(ecx, 3)?;
        a.rep().movsq()?;
        a.lock().cmpxchg(qword_ptr(rbx + 2), rcx)?;
        a.lock().xadd(qword_ptr(rbx + PAGE_SIZE), rax)
    }),
    Case::long("a stack in a device", as_it_is, |a| {
        let mut function = a.create_label();
        let mut end = a.create_label();
        a.lea(rsp, qword_ptr(rbx + 0x800))?;
        a.push(rax)?;
        a.push(0x55)?;
        a.push(qword_ptr(rbx + 8))?;
        a.pushfq()?;
        a.call(function)?;
        a.pop(rcx)?;
        a.pop(qword_ptr(rbx + 0x20))?;
        a.pop(r10)?;
        a.pop(r11)?;
        a.jmp(end)?;
        a.set_label(&mut function)?;
        a.inc(r8)?;
        a.ret()?;
        a.set_label(&mut end)?;
        a.nop()
    }),
    Case::long("arithmetic", as_it_is, |a| {
        a.mul(dword_ptr(rbx + 4))?;
        a.mov(ecx, 0x7fff_ffff)?;
        a.imul_2(r8, qword_ptr(rbx + 8))?;
        a.imul_3(r9d, dword_ptr(rbx + 16), 77)?;
        a.xor(edx, edx)?;
        a.div(dword_ptr(rbx + 0x14))?;
        a.shl(dword_ptr(rbx + 0x18), 3)?;
        a.rcr(qword_ptr(rbx + 0x20), 1)?;
        a.shrd(qword_ptr(rbx + 0x28), rax, 9)?;
        a.neg(word_ptr(rbx + 0x30))?;
        a.not(byte_ptr(rbx + 0x32))?;
        a.sbb(word_ptr(rbx + 0x33), 5)?;
        a.movbe(r10, qword_ptr(rbx + 0x38))?;
        a.movbe(dword_ptr(rbx + 0x40), r10d)?;
        a.movnti(qword_ptr(rbx + 0x48), r10)?;
        a.cmp(al, al)
    }),
    Case::long("nothing to divide", as_it_is, |a| {
        a.mov(dword_ptr(rbx), 0)?;
        a.div(dword_ptr(rbx))?;
        a.mov(r8, rax)
    }),
    Case::long("not canonical", as_it_is, |a| {
        a.mov(rsi, 0x8000_0000_0000_u64)?;
        // The source is the guest's own fault, and nobody emulates.
        a.movsb()
    }),
    old("real mode", Mode::Real, |a| {
        a.mov(ax, word_ptr(bx))?;
        a.add(byte_ptr(bx + 3), al)?;
        a.mov(word_ptr(bx + 5), ax)?;
        a.mov(cx, 5)?;
        a.rep().movsw()?;
        a.mov(cx, 3)?;
        a.rep().outsw()?;
        a.xchg(dword_ptr(bx + 8), eax)?;
        a.push(word_ptr(bx + 2))?;
        a.pop(word_ptr(bx + 4))?;
        a.mov(si, 0x30)?;
        a.db(&[0x64, 0xad])?;
        a.inc(dword_ptr(bx + si))?;
        a.mov(ax, (SCRATCH >> 4) as u32)?;
        a.mov(es, ax)?;
        a.mov(di, 0x80)?;
        a.mov(cx, 7)?;
        a.rep().insb()?;
        a.mov(cx, 3)?;
        a.rep().movsd()
    }),
    old("real mode, its last bytes", Mode::Real, |a| {
        a.mov(di, 0xfffe)?;
        a.mov(cx, 5)?;
        a.rep().stosb()
    }),
    old("protected mode", Mode::Protected, protected),
    old("32-bit paging", Mode::Paged32, protected),
    old("PAE paging", Mode::Pae, protected),
];

fn protected(a: &mut CodeAssembler) -> crate::machine::Assembled {
    a.mov(eax, dword_ptr(ebx))?;
    a.add(byte_ptr(ebx + 3), al)?;
    a.mov(word_ptr(ebx + ecx * 2), ax)?;
    a.mov(ecx, 5)?;
    a.rep().movsd()?;
    a.mov(ecx, 3)?;
    a.rep().outsd()?;
    a.lock().cmpxchg8b(qword_ptr(ebx + 8))?;
    a.push(dword_ptr(ebx + 2))?;
    a.pop(dword_ptr(ebx + 4))?;
    a.pop(dword_ptr(ebx + 6))?;
    a.mov(esi, 0x30)?;
    a.db(&[0x64, 0xad])?;
    a.mov(si, word_ptr(bx))?;
    a.movups(xmm0, xmmword_ptr(ebx))?;
    a.movups(xmmword_ptr(ebx + 0x31), xmm0)?;
    a.mov(ecx, 7)?;
    a.mov(edi, 0x40)?;
    a.repe().scasb()?;
    // A flat segment.
    a.mov(eax, 0x10)?;
    a.mov(es, eax)?;
    a.mov(edi, SCRATCH as u32 + 0x80)?;
    a.mov(ecx, 4)?;
    a.rep().insw()?;
    a.mov(ecx, 3)?;
    a.rep().movsd()
}
