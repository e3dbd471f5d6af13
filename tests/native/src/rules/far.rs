// SPDX-License-Identifier: GPL-2.0

//! Far branches.

use emulate::cpu::mask;
use emulate::insn::Seg;
use emulate::op::Op;
use emulate::stop::Exception;

use super::Judged;
use crate::allowed::{linear, RSP};
use crate::far;

impl Judged<'_, '_> {
    pub(super) fn far_stack(&self) -> bool {
        let others = [Exception::ss(0), Exception::AC];
        let fault = |exception: Option<Exception>| {
            exception.is_some_and(|e| others.contains(&e) || self.is_at_stack(e))
        };
        let concerned = match self.insn().op {
            Op::RetFar => true,
            Op::CallFar => self.context.denied,
            _ => false,
        };
        concerned && fault(self.native.exception) && fault(self.emulated.exception())
    }

    pub(super) fn far_outer_stack(&self) -> bool {
        let selector = self.emulated.exception().is_some_and(|e| e.vector == 13);
        let early = [Exception::ss(0), Exception::AC];
        let outer = |e: Exception| early.contains(&e) || self.is_at_outer_stack(e);
        let returns = self.context.amd && self.insn().op == Op::RetFar;
        returns && selector && self.native.exception.is_some_and(outer)
    }

    pub(super) fn far_release(&self) -> bool {
        let narrow = self.cpu().stack_size() == 2 && self.insn().op == Op::RetFar;
        self.context.amd && narrow && self.both_retired()
    }

    pub(super) fn far_order(&self) -> bool {
        let limits = [Exception::gp(0), Exception::ss(0)].map(Some);
        let limit = limits.contains(&self.emulated.exception());
        let stack = |e: Exception| e == Exception::AC || self.is_at_stack(e);
        let calls = self.context.amd && self.insn().op == Op::CallFar;
        calls && limit && self.native.exception.is_some_and(stack)
    }

    pub(super) fn far_pointer(&self) -> bool {
        let insn = self.insn();
        let in_memory = far::is_far(insn.op) && insn.has_mem();
        self.context.amd && in_memory && (self.crosses_end() || self.crosses_64_kib())
    }

    /// A page fault at what a far branch pushes or pops.
    fn is_at_stack(&self, exception: Exception) -> bool {
        let (cpu, insn) = (self.cpu(), self.insn());
        let frame = 2 * u64::from(insn.size);
        let sp = cpu.gpr_sized(RSP, cpu.stack_size());
        let lowest = match insn.op {
            Op::CallFar => sp.wrapping_sub(frame) & mask(cpu.stack_size()),
            _ => sp,
        };
        let lowest = linear(cpu, Seg::Ss, lowest);
        // Where 64-bit mode is left, half of RSP counts.
        let inside = |cr2: u64| {
            let ahead = cr2.wrapping_sub(lowest);
            ahead < frame || (insn.op == Op::CallFar && ahead & mask(4) < frame)
        };
        exception.cr2.is_some_and(|cr2| inside(cr2.get()))
    }

    /// A page fault at SS:RSP of an outer level, which lie behind what RET releases.
    fn is_at_outer_stack(&self, exception: Exception) -> bool {
        let (cpu, insn) = (self.cpu(), self.insn());
        let frame = 2 * u64::from(insn.size);
        let sp = cpu.gpr_sized(RSP, cpu.stack_size());
        let ahead = frame + (insn.imm as u64 & 0xffff);
        let sp = sp.wrapping_add(ahead) & mask(cpu.stack_size());
        let outer = linear(cpu, Seg::Ss, sp);
        let inside = |cr2: u64| cr2.wrapping_sub(outer) < frame;
        exception.cr2.is_some_and(|cr2| inside(cr2.get()))
    }
}
