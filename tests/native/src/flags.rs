// SPDX-License-Identifier: GPL-2.0

//! Flags that the manual leaves undefined, and results too (SDM 2, "Flags Affected").

use emulate::cpu::rflags::{AF, ARITHMETIC, CF, OF, PF, SF, ZF};
use emulate::cpu::Cpu;
use emulate::insn::{Insn, Operand};
use emulate::op::Op;

use crate::allowed::RCX;

/// The flags that mean nothing after the instruction.
pub fn undefined(cpu: &Cpu, insn: &Insn) -> u64 {
    match insn.op {
        Op::And | Op::Or | Op::Xor | Op::Test => AF,
        Op::Mul | Op::Imul | Op::Imul2 => SF | ZF | AF | PF,
        Op::Div | Op::Idiv => ARITHMETIC,
        Op::Bt | Op::Bts | Op::Btr | Op::Btc => OF | SF | AF | PF,
        Op::Bsf | Op::Bsr => ARITHMETIC & !ZF,
        Op::Tzcnt | Op::Lzcnt => ARITHMETIC & !(ZF | CF),
        Op::Rol | Op::Ror | Op::Rcl | Op::Rcr => rotate(cpu, insn),
        Op::Shl | Op::Shr | Op::Sar => shift(cpu, insn),
        Op::Shld | Op::Shrd => double_shift(cpu, insn),
        _ => 0,
    }
}

/// The count of a shift, as the processor masks it.
fn count(cpu: &Cpu, insn: &Insn, operand: Operand) -> u64 {
    let mask = if insn.size == 8 { 63 } else { 31 };
    let count = match operand {
        Operand::Imm => insn.imm as u64,
        _ => cpu.gpr(RCX),
    };
    count & mask
}

/// OF is defined for rotates by one bit.
fn rotate(cpu: &Cpu, insn: &Insn) -> u64 {
    match count(cpu, insn, insn.src) {
        0 | 1 => 0,
        _ => OF,
    }
}

fn shift(cpu: &Cpu, insn: &Insn) -> u64 {
    let count = count(cpu, insn, insn.src);
    let bits = u64::from(insn.size) * 8;
    let carry = if insn.op != Op::Sar && count >= bits {
        CF
    } else {
        0
    };
    match count {
        0 => 0,
        1 => AF | carry,
        _ => AF | OF | carry,
    }
}

fn double_shift(cpu: &Cpu, insn: &Insn) -> u64 {
    let count = count(cpu, insn, insn.third);
    match count {
        0 => 0,
        1 => AF,
        _ if count > u64::from(insn.size) * 8 => ARITHMETIC,
        _ => AF | OF,
    }
}

/// The destination means nothing after the instruction.
pub fn undefined_result(cpu: &Cpu, insn: &Insn) -> bool {
    match insn.op {
        Op::Shld | Op::Shrd => count(cpu, insn, insn.third) > u64::from(insn.size) * 8,
        _ => false,
    }
}
