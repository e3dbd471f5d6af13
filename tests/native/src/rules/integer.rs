// SPDX-License-Identifier: GPL-2.0

//! String instructions, and the order of faults.

use emulate::exec::execute;
use emulate::guard::Guest;
use emulate::insn::{Insn, Operand, Rep};
use emulate::op::Op;
use emulate::stop::{Exception, Stop};

use super::Judged;
use crate::allowed::{self, linear};
use crate::flags;

impl Judged<'_, '_> {
    pub(super) fn replayed_flags(&self) -> bool {
        let insn = self.insn();
        let compares = matches!(insn.op, Op::Cmps | Op::Scas) && insn.rep != Rep::None;
        self.context.amd && compares && self.both_stopped()
    }

    /// Reads each operand of a CMPS alone, where the emulator stopped.
    pub(super) fn other_operand(&mut self) -> bool {
        if self.insn().op != Op::Cmps || !self.both_stopped() {
            return false;
        }
        [Op::Lods, Op::Scas].into_iter().any(|op| {
            let insn = Insn {
                op,
                rep: Rep::None,
                ..self.case.insn
            };
            let mut cpu = self.emulated.cpu;
            let context = &mut *self.context;
            let mut guest = Guest::new(&mut cpu, &mut [], context.ram, context.devices);
            match (execute(&mut guest, &insn), self.native.exception) {
                (Err(Stop::Exception(one)), Some(exception)) => one == exception,
                _ => false,
            }
        })
    }

    pub(super) fn undefined_result(&self) -> bool {
        let insn = self.insn();
        insn.dst == Operand::Mem && flags::undefined_result(self.cpu(), insn)
    }

    pub(super) fn misaligned_stack(&self) -> bool {
        let (cpu, insn) = (self.cpu(), self.insn());
        let aligned = insn.aligned || insn.op == Op::Cmpxchg16b;
        let address = linear(cpu, insn.mem.seg, allowed::operand(cpu, insn));
        let misaligned = aligned && address & (u64::from(insn.mem_size) - 1) != 0;
        let stack = self.emulated.exception() == Some(Exception::ss(0));
        misaligned && stack && self.native.exception == Some(Exception::gp(0))
    }

    pub(super) fn fault_before_denial(&self) -> bool {
        const NOT_PRESENT: u32 = 6;
        const PROTECTED: u32 = 7;
        let fault = |exception: Option<Exception>, code| {
            let exception = exception.filter(|e| e.vector == 14 && e.error_code == Some(code))?;
            exception.cr2.map(|cr2| cr2.get())
        };
        let first = fault(self.native.exception, PROTECTED);
        match (first, fault(self.emulated.exception(), NOT_PRESENT)) {
            // In the same access, in the second page of which the emulator's fault is.
            (Some(first), Some(second)) => (second & !0xfff).wrapping_sub(first) < 4096,
            _ => false,
        }
    }
}
