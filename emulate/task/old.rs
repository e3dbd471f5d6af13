// SPDX-License-Identifier: GPL-2.0

//! The registers of the old task, as far as a switch changes them.
//!
//! Not a whole [`Cpu`]: that does not fit into a small stack frame. R8 to R15 do not exist
//! outside 64-bit mode, and the tables, XCR0 and data breakpoints belong to no task.

use crate::cpu::{Cpu, Segment};
use crate::insn::CodeSize;

/// The registers of the old task.
pub(super) struct Old {
    /// EAX to EDI.
    pub(super) gprs: [u64; 8],
    /// RFLAGS.
    pub(super) rflags: u64,
    /// ES, CS, SS, DS, FS, GS.
    pub(super) segments: [Segment; 6],
    /// TR.
    pub(super) tr: Segment,
    ldtr: Segment,
    rip: u64,
    code: CodeSize,
    cpl: u8,
    cr0: u64,
    cr3: u64,
    pdptes: [u64; 4],
    ac: bool,
}

impl Old {
    /// Those that a CPU outside IA-32e mode has now.
    pub(super) fn new(cpu: &Cpu) -> Self {
        let [eax, ecx, edx, ebx, esp, ebp, esi, edi, ..] = cpu.gprs;
        Self {
            gprs: [eax, ecx, edx, ebx, esp, ebp, esi, edi],
            rflags: cpu.rflags,
            segments: cpu.segments,
            tr: cpu.tr,
            ldtr: cpu.ldtr,
            rip: cpu.rip,
            code: cpu.code,
            cpl: cpu.cpl,
            cr0: cpu.paging.cr0,
            cr3: cpu.paging.cr3,
            pdptes: cpu.paging.pdptes,
            ac: cpu.paging.ac,
        }
    }

    /// Goes back to them.
    pub(super) fn restore(&self, cpu: &mut Cpu) {
        for (gpr, old) in cpu.gprs.iter_mut().zip(self.gprs) {
            *gpr = old;
        }
        cpu.rflags = self.rflags;
        cpu.segments = self.segments;
        cpu.tr = self.tr;
        cpu.ldtr = self.ldtr;
        cpu.rip = self.rip;
        cpu.code = self.code;
        cpu.set_cpl(self.cpl);
        cpu.paging.cr0 = self.cr0;
        cpu.paging.cr3 = self.cr3;
        cpu.paging.pdptes = self.pdptes;
        cpu.paging.ac = self.ac;
    }
}
