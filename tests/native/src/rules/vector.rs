// SPDX-License-Identifier: GPL-2.0

//! Masked stores.

use emulate::op::Op;
use emulate::stop::{Exception, Stop};

use super::Judged;
use crate::allowed::{self, linear};

impl Judged<'_, '_> {
    /// Both sides fault for a write in the same page of the operand.
    pub(super) fn masked_fault(&self) -> bool {
        let Some(stop) = self.emulated.exception() else {
            return false;
        };
        let code = self.native.exception.and_then(|e| e.error_code);
        match (self.write_fault(), stop.cr2) {
            (Some(native), Some(emulated)) if code == stop.error_code => {
                self.insn().op == Op::VmaskmovStore && native >> 12 == emulated.get() >> 12
            }
            _ => false,
        }
    }

    pub(super) fn masked_denial(&self) -> bool {
        let denied = match self.emulated.stop {
            None => self.context.denied,
            Some(Stop::Denied(_)) => true,
            _ => false,
        };
        denied && self.insn().op == Op::Maskmovdqu && self.write_fault().is_some()
    }

    pub(super) fn masked_end(&self) -> bool {
        let masked = matches!(self.insn().op, Op::Maskmovdqu | Op::VmaskmovStore);
        let segment = [Exception::gp(0), Exception::ss(0)].map(Some);
        masked && self.crosses_end() && segment.contains(&self.emulated.exception())
    }

    pub(super) fn masked_halves(&self) -> bool {
        self.context.amd && self.insn().op == Op::Maskmovdqu && self.crosses_64_kib()
    }

    /// The address of the processor's page fault for a write to the memory operand.
    fn write_fault(&self) -> Option<u64> {
        const WRITE: u32 = 1 << 1;
        let (cpu, insn) = (self.cpu(), self.insn());
        let exception = self.native.exception?;
        let write = exception.error_code? & WRITE != 0;
        let cr2 = exception.cr2?.get();
        let operand = linear(cpu, insn.mem.seg, allowed::operand(cpu, insn));
        let inside = cr2.wrapping_sub(operand) < u64::from(insn.mem_size);
        (write && inside).then_some(cr2)
    }
}
