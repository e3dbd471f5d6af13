// SPDX-License-Identifier: GPL-2.0

//! What is executed natively: an explicit list of operations, and of places that they
//! may reach.

use emulate::cpu::{mask, Cpu, Segment};
use emulate::insn::{Insn, Operand, Seg};
use emulate::op::Op;

use crate::layout::{self, CODE, CODE_BYTES, GUARD, HIGH, LOW, MID, PAGE, WINDOW};

/// The operations. Not here: ports, whose accesses have effects; SGDT, SIDT, SLDT, STR
/// and SMSW, which a kernel with UMIP emulates itself.
#[rustfmt::skip]
pub const OPS: &[Op] = &[
    Op::Mov, Op::MovLoad, Op::Movzx, Op::Movsx, Op::Movsxd, Op::Movnti, Op::Movdiri,
    Op::Movdir64b, Op::MovbeLoad, Op::MovbeStore, Op::MovFromSreg, Op::Xchg, Op::Xadd,
    Op::Cmpxchg, Op::Cmpxchg8b, Op::Cmpxchg16b,
    Op::Add, Op::Or, Op::Adc, Op::Sbb, Op::And, Op::Sub, Op::Xor, Op::Cmp, Op::Test,
    Op::Inc, Op::Dec, Op::Not, Op::Neg, Op::Mul, Op::Imul, Op::Imul2, Op::Div, Op::Idiv,
    Op::Rol, Op::Ror, Op::Rcl, Op::Rcr, Op::Shl, Op::Shr, Op::Sar, Op::Shld, Op::Shrd,
    Op::Bt, Op::Bts, Op::Btr, Op::Btc, Op::Bsf, Op::Bsr, Op::Tzcnt, Op::Lzcnt, Op::Popcnt,
    Op::Setcc, Op::Cmovcc, Op::Crc32,
    Op::Movs, Op::Stos, Op::Lods, Op::Cmps, Op::Scas,
    Op::Push, Op::PushSreg, Op::Pop, Op::Pusha, Op::Popa, Op::Pushf, Op::Enter, Op::Leave,
    Op::CallNear, Op::JmpNear, Op::RetNear, Op::CallFar, Op::JmpFar, Op::RetFar, Op::Xlat,
    Op::VectorStore, Op::VectorLoad, Op::ScalarLoad, Op::ScalarStore, Op::HighStore,
    Op::LowLoad, Op::HighLoad, Op::Maskmovdqu, Op::VmaskmovStore,
];

/// Uses XMM or YMM registers.
pub const fn is_vector(op: Op) -> bool {
    matches!(
        op,
        Op::VectorStore
            | Op::VectorLoad
            | Op::ScalarLoad
            | Op::ScalarStore
            | Op::HighStore
            | Op::LowLoad
            | Op::HighLoad
            | Op::Maskmovdqu
            | Op::VmaskmovStore
    )
}

pub(crate) const RAX: u8 = 0;
pub(crate) const RCX: u8 = 1;
pub(crate) const RDX: u8 = 2;
pub(crate) const RSP: u8 = 4;
pub(crate) const RBP: u8 = 5;
pub(crate) const RSI: u8 = 6;
pub(crate) const RDI: u8 = 7;

/// Whether all that the instruction may reach is on the list.
pub fn check(cpu: &Cpu, insn: &Insn) -> bool {
    let reach = Reach { cpu, insn };
    reach.operand() && reach.implicit()
}

struct Reach<'a> {
    cpu: &'a Cpu,
    insn: &'a Insn,
}

impl Reach<'_> {
    fn operand(&self) -> bool {
        !self.insn.has_mem() || self.at(self.insn.mem.seg, operand(self.cpu, self.insn))
    }

    fn implicit(&self) -> bool {
        let (cpu, insn) = (self.cpu, self.insn);
        let source = || self.at(insn.mem.seg, cpu.gpr_sized(RSI, insn.addr_size));
        let target = || self.at(Seg::Es, cpu.gpr_sized(RDI, insn.addr_size));
        match insn.op {
            Op::Movs | Op::Cmps => source() && target(),
            Op::Lods => source(),
            Op::Stos | Op::Scas => target(),
            Op::Movdir64b => match insn.dst {
                Operand::Gpr(n) => self.at(Seg::Es, cpu.gpr_sized(n, insn.addr_size)),
                _ => false,
            },
            Op::Enter => self.stack(RSP) && self.stack(RBP) && self.below(insn.imm as u64),
            Op::Leave => self.stack(RBP),
            Op::Push
            | Op::PushSreg
            | Op::Pusha
            | Op::Pushf
            | Op::Pop
            | Op::Popa
            | Op::CallNear
            | Op::RetNear
            | Op::CallFar
            | Op::RetFar => self.stack(RSP),
            _ => true,
        }
    }

    fn stack(&self, register: u8) -> bool {
        self.at(Seg::Ss, self.cpu.gpr_sized(register, self.cpu.stack_size()))
    }

    /// So many bytes below the stack pointer.
    fn below(&self, bytes: u64) -> bool {
        let offset = self.cpu.gpr(RSP).wrapping_sub(bytes);
        self.at(Seg::Ss, offset & mask(self.cpu.stack_size()))
    }

    fn at(&self, seg: Seg, offset: u64) -> bool {
        let segment = self.cpu.segment(seg);
        if self.cpu.long() {
            return place(linear(self.cpu, seg, offset));
        }
        faults(segment, offset) || place(linear(self.cpu, seg, offset))
    }
}

/// The linear address of an offset, whether or not the segment allows it.
pub fn linear(cpu: &Cpu, seg: Seg, offset: u64) -> u64 {
    let base = cpu.segment(seg).base;
    match (cpu.long(), seg) {
        (true, Seg::Fs | Seg::Gs) => base.wrapping_add(offset),
        (true, _) => offset,
        (false, _) => base.wrapping_add(offset) & mask(4),
    }
}

/// The offset of the memory operand; with BT and a register, of the unit with the bit.
pub fn operand(cpu: &Cpu, insn: &Insn) -> u64 {
    let mem = &insn.mem;
    let mut sum = mem.disp as u64;
    if mem.rip_relative {
        sum = sum.wrapping_add(cpu.rip).wrapping_add(insn.len.into());
    }
    if let Some(base) = mem.base {
        sum = sum.wrapping_add(cpu.gpr(base));
    }
    if let Some(index) = mem.index {
        sum = sum.wrapping_add(cpu.gpr(index).wrapping_mul(mem.scale.into()));
    }
    if let (Op::Bt | Op::Bts | Op::Btr | Op::Btc, Operand::Gpr(n)) = (insn.op, insn.src) {
        let bits = i64::from(insn.size) * 8;
        let unused = 64 - bits as u32;
        let bit = (cpu.gpr(n) as i64) << unused >> unused;
        let bytes = bit.div_euclid(bits) * i64::from(insn.size);
        sum = sum.wrapping_add(bytes as u64);
    }
    match insn.op {
        // It addresses its operand with the stack pointer that it leaves.
        Op::Pop if mem.base == Some(RSP) => sum = sum.wrapping_add(insn.size.into()),
        Op::Xlat => sum = sum.wrapping_add(cpu.gpr_sized(RAX, 1)),
        _ => (),
    }
    sum & mask(insn.addr_size)
}

/// An access to this offset cannot be made.
pub fn faults(segment: &Segment, offset: u64) -> bool {
    let limit = u64::from(segment.limit);
    let beyond = match segment.expand_down() {
        true => offset <= limit || (!segment.big() && offset > 0xffff),
        false => offset > limit,
    };
    segment.unusable || beyond
}

/// Linear addresses that may be reached: the window and around it, the code, and such
/// that nothing can be at.
pub fn place(linear: u64) -> bool {
    const NOTHING: u64 = 0xf000;
    const TOP: u64 = 1 << 47;
    let window = |base: u64| linear.wrapping_sub(base - GUARD) < WINDOW as u64 + 2 * GUARD;
    let canonical = (linear as i64) << 16 >> 16 == linear as i64;
    let top = linear.wrapping_sub(TOP - PAGE) < PAGE;
    linear < NOTHING
        || [LOW, MID, HIGH].into_iter().any(window)
        || in_code(linear)
        || !canonical
        || top
}

/// Whether a near branch may go to an offset: to a landing pad, and to where no code is.
pub fn target(cpu: &Cpu, rip: u64) -> bool {
    let linear = match cpu.long() {
        true => rip,
        false => linear(cpu, Seg::Cs, rip),
    };
    let beyond = !cpu.long() && rip > u64::from(cpu.segment(Seg::Cs).limit);
    let pad = (1..layout::PAD_COUNT).any(|n| linear == layout::pad(n));
    beyond || pad || (!in_code(linear) && place(linear))
}

/// Code, or next to it.
pub fn in_code(linear: u64) -> bool {
    linear.wrapping_sub(CODE - PAGE) < CODE_BYTES as u64 + 2 * PAGE
}
