// SPDX-License-Identifier: GPL-2.0

//! Where branches go to: landing pads, and where no code is.

use emulate::cpu::mask;
use emulate::insn::{Insn, Operand, Seg};
use emulate::op::Op;

use super::Aim;
use crate::allowed::{self, linear, RSP};
use crate::cpu::USER_CS64;
use crate::far;
use crate::layout::{self, LOW, WINDOW};

impl Aim<'_> {
    /// Whether the instruction goes only where it may.
    pub fn is_safe(&self, insn: &Insn) -> bool {
        let target = match far::is_far(insn.op) {
            true => self.far_target_is_safe(insn),
            false => self.target_is_safe(insn),
        };
        allowed::check(self.cpu, insn) && target
    }

    /// A far CALL to 64-bit code pushes to where all of RSP points, without the base of SS.
    /// The kernel does not keep the upper half of it while the stack is one of 16 bits, and
    /// lets an instruction that faults above 4 GiB outside 64-bit mode start over for ever
    /// (`is_errata100`).
    fn far_target_is_safe(&self, insn: &Insn) -> bool {
        let selector = match (insn.op, insn.dst) {
            (Op::CallFar, Operand::Mem) => {
                let offset = allowed::operand(self.cpu, insn);
                let at = linear(self.cpu, insn.mem.seg, offset);
                if allowed::in_code(at) {
                    return false;
                }
                self.windows.peek(at.wrapping_add(insn.size.into()), 2) as u16
            }
            (Op::CallFar, _) => insn.imm2,
            _ => return true,
        };
        let enters = !self.cpu.long() && selector & !3 == USER_CS64 & !3;
        let rsp = self.cpu.gpr(RSP);
        let whole = self.cpu.stack_size() != 2 && rsp >= 0x40 && allowed::place(rsp);
        !enters || whole
    }

    fn target_is_safe(&self, insn: &Insn) -> bool {
        let cpu = &*self.cpu;
        let at = match (insn.op, insn.dst) {
            (Op::CallNear, Operand::Imm) => {
                let next = cpu.rip.wrapping_add(insn.len.into());
                return self.goes(insn, next.wrapping_add(insn.imm as u64));
            }
            (Op::CallNear | Op::JmpNear, Operand::Gpr(register)) => {
                return self.goes(insn, cpu.gpr(register));
            }
            (Op::CallNear | Op::JmpNear, _) => {
                linear(cpu, insn.mem.seg, allowed::operand(cpu, insn))
            }
            (Op::RetNear, _) => linear(cpu, Seg::Ss, cpu.gpr_sized(RSP, cpu.stack_size())),
            _ => return true,
        };
        !allowed::in_code(at) && self.goes(insn, self.windows.peek(at, insn.size))
    }

    fn goes(&self, insn: &Insn, rip: u64) -> bool {
        allowed::target(self.cpu, rip & mask(insn.size))
    }

    /// Puts a far pointer where a far branch finds it: the selector on the stack has as
    /// many bytes as the offset.
    fn far_branch(&mut self, insn: &Insn) {
        let (selector, offset) = far::pointer(self.rng, self.cpu, insn.size);
        let at = match insn.op {
            Op::RetFar => {
                let size = self.cpu.stack_size();
                linear(self.cpu, Seg::Ss, self.cpu.gpr_sized(RSP, size))
            }
            _ => {
                let offset = allowed::operand(self.cpu, insn);
                linear(self.cpu, insn.mem.seg, offset)
            }
        };
        let size = u64::from(insn.size);
        let offset = &offset.to_le_bytes()[..usize::from(insn.size)];
        self.windows.poke(at, offset);
        self.windows
            .poke(at.wrapping_add(size), &selector.to_le_bytes());
    }

    /// Gives branches a place to go to.
    pub(super) fn branch(&mut self, insn: &Insn) {
        if far::is_far(insn.op) {
            return self.far_branch(insn);
        }
        let indirect = matches!(insn.op, Op::CallNear | Op::JmpNear);
        let target = match insn.op {
            Op::CallNear | Op::JmpNear | Op::RetNear => self.target(),
            _ => return,
        };
        let bytes = target.to_le_bytes();
        let bytes = &bytes[..usize::from(insn.size.min(8))];
        let size = self.cpu.stack_size();
        match (indirect, insn.dst) {
            (false, _) => {
                let at = linear(self.cpu, Seg::Ss, self.cpu.gpr_sized(RSP, size));
                self.windows.poke(at, bytes);
            }
            (true, Operand::Mem) => {
                let offset = allowed::operand(self.cpu, insn);
                let at = linear(self.cpu, insn.mem.seg, offset);
                self.windows.poke(at, bytes);
            }
            (true, Operand::Gpr(register)) => {
                let value = self.clip(target);
                self.cpu.gprs[usize::from(register)] = value;
            }
            _ => (),
        }
    }

    /// An offset in the code segment: a pad, or no code at all.
    pub(super) fn target(&mut self) -> u64 {
        let base = match self.cpu.long() {
            true => 0,
            false => self.cpu.segment(Seg::Cs).base,
        };
        let pad = 1 + self.rng.below(layout::PAD_COUNT - 1);
        let linear = match self.rng.below(100) {
            0..5 => LOW + self.rng.below(WINDOW as u64),
            5..8 => self.rng.below(0x8000),
            8..12 if self.cpu.long() => (self.rng.next() | 1 << 62) & !(1 << 63),
            8..12 => base + self.rng.below(0xffff),
            _ => layout::pad(pad),
        };
        match self.cpu.long() {
            true => linear,
            false => linear.wrapping_sub(base) & mask(4),
        }
    }
}
