// SPDX-License-Identifier: GPL-2.0

//! The programs that guests run.

use crate::Result;
use guest::asm::{al, byte_ptr, dword_ptr, eax, r10, r8, r9, rax, rdi, rdx, rsi, CodeAssembler};
use guest::{AssembleError, Mode, Program, CODE, PAGE_SIZE};

/// Part of a program. It may use RAX, RBX, RCX, RDX and R10.
pub(crate) type Part = fn(&mut CodeAssembler) -> std::result::Result<(), AssembleError>;

/// For a [`Part`] that does nothing.
pub(crate) fn nothing(_: &mut CodeAssembler) -> std::result::Result<(), AssembleError> {
    Ok(())
}

/// Does `parts` R9 times and halts with the ticks that took in RAX; R10 belongs
/// to the parts.
pub(crate) fn timed_loop(parts: &[Part]) -> Result<Program> {
    let program = Program::assemble(Mode::Long, CODE, |a| {
        let mut repeat = a.create_label();
        a.mov(rsi, r9)?;
        read_ticks(a)?;
        a.mov(r8, rax)?;
        a.set_label(&mut repeat)?;
        for part in parts {
            part(a)?;
        }
        a.dec(rsi)?;
        a.jnz(repeat)?;
        read_ticks(a)?;
        a.sub(rax, r8)?;
        a.hlt()?;
        Ok(Vec::new())
    })?;
    Ok(program)
}

fn read_ticks(a: &mut CodeAssembler) -> std::result::Result<(), AssembleError> {
    a.rdtsc()?;
    a.shl(rdx, 32)?;
    a.or(rax, rdx)
}

/// Stores to the page at R10 and goes on to the next.
pub(crate) fn store_and_advance(a: &mut CodeAssembler) -> std::result::Result<(), AssembleError> {
    a.mov(dword_ptr(r10), eax)?;
    a.add(r10, PAGE_SIZE as i32)
}

/// Stores to R10.
pub(crate) fn store(a: &mut CodeAssembler) -> std::result::Result<(), AssembleError> {
    a.mov(byte_ptr(r10), al)
}

/// Does one instruction again and again.
pub(crate) fn endless(instruction: Part) -> Result<Program> {
    let program = Program::assemble(Mode::Long, CODE, |a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        instruction(a)?;
        a.jmp(again)?;
        Ok(Vec::new())
    })?;
    Ok(program)
}

/// Does `parts` and halts, again and again.
pub(crate) fn halting(parts: &[Part]) -> Result<Program> {
    let program = Program::assemble(Mode::Long, CODE, |a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        for part in parts {
            part(a)?;
        }
        a.hlt()?;
        a.jmp(again)?;
        Ok(Vec::new())
    })?;
    Ok(program)
}

/// Reads R9 pages from RDI on and halts; entered at its label, it stores to
/// page after page from RDI on.
pub(crate) fn walk() -> Result<Program> {
    let program = Program::assemble(Mode::Long, CODE, |a| {
        let mut read = a.create_label();
        let mut write = a.create_label();
        a.set_label(&mut read)?;
        a.mov(al, byte_ptr(rdi))?;
        a.add(rdi, PAGE_SIZE as i32)?;
        a.dec(r9)?;
        a.jnz(read)?;
        a.hlt()?;
        a.set_label(&mut write)?;
        a.mov(byte_ptr(rdi), al)?;
        a.add(rdi, PAGE_SIZE as i32)?;
        a.jmp(write)?;
        Ok(vec![write])
    })?;
    Ok(program)
}
