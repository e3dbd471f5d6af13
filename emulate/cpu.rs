// SPDX-License-Identifier: GPL-2.0

//! The registers of a virtual CPU that an instruction depends on and changes.

use ept::Gva;

use crate::fetch::CodeLocation;
use crate::guard::Breakpoints;
use crate::insn::{CodeSize, Seg};
use crate::paging::Paging;

/// RFLAGS (SDM 3A 2.3, SDM 1 3.4.3).
pub mod rflags {
    /// Carry.
    pub const CF: u64 = 1 << 0;
    /// Parity of the low byte.
    pub const PF: u64 = 1 << 2;
    /// Carry out of bit 3.
    pub const AF: u64 = 1 << 4;
    /// Zero.
    pub const ZF: u64 = 1 << 6;
    /// Sign.
    pub const SF: u64 = 1 << 7;
    /// Single step.
    pub const TF: u64 = 1 << 8;
    /// Maskable interrupts may come.
    pub const IF: u64 = 1 << 9;
    /// String instructions go down.
    pub const DF: u64 = 1 << 10;
    /// Overflow.
    pub const OF: u64 = 1 << 11;
    /// Both bits of the I/O privilege level.
    pub const IOPL: u64 = 3 << 12;
    /// The task was called by another one.
    pub const NT: u64 = 1 << 14;
    /// Instruction breakpoints are off for one instruction.
    pub const RF: u64 = 1 << 16;
    /// Virtual-8086 mode.
    pub const VM: u64 = 1 << 17;
    /// Alignment checks; with SMAP, access to user pages.
    pub const AC: u64 = 1 << 18;
    /// IF of programs that have no say in the real one.
    pub const VIF: u64 = 1 << 19;
    /// The flags that arithmetic sets.
    pub const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;
}

/// Numbers of general registers that instructions use without naming them.
pub mod gpr {
    /// RAX.
    pub const RAX: u8 = 0;
    /// RCX.
    pub const RCX: u8 = 1;
    /// RDX.
    pub const RDX: u8 = 2;
    /// RBX.
    pub const RBX: u8 = 3;
    /// RSP.
    pub const RSP: u8 = 4;
    /// RBP.
    pub const RBP: u8 = 5;
    /// RSI.
    pub const RSI: u8 = 6;
    /// RDI.
    pub const RDI: u8 = 7;
}

/// A segment register with its hidden part (SDM 3A 3.4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The visible part.
    pub selector: u16,
    /// Linear address of its first byte.
    pub base: u64,
    /// Last offset, in bytes whatever the granularity.
    pub limit: u32,
    /// Bits 15:8 and 23:20 of a descriptor's second word, moved to 7:0 and 15:12: type
    /// 3:0, S 4, DPL 6:5, P 7, AVL 12, L 13, D/B 14, G 15 (as in the VMCS, SDM 3C 25.4.1).
    pub attributes: u16,
    /// Loaded with a null selector.
    pub unusable: bool,
}

impl Segment {
    /// Descriptor privilege level.
    pub const fn dpl(&self) -> u8 {
        (self.attributes >> 5 & 3) as u8
    }

    /// Bit 3 of the type of a code or data segment: code.
    pub const fn is_code(&self) -> bool {
        self.attributes & 1 << 3 != 0
    }

    /// Code that may be read, data that may be written.
    pub const fn read_write(&self) -> bool {
        self.attributes & 1 << 1 != 0
    }

    /// A data segment whose offsets begin above the limit.
    pub const fn expand_down(&self) -> bool {
        !self.is_code() && self.attributes & 1 << 2 != 0
    }

    /// L: in IA-32e mode, 64-bit code.
    pub const fn long(&self) -> bool {
        self.attributes & 1 << 13 != 0
    }

    /// D/B: 32-bit code, stack pointer and upper bound.
    pub const fn big(&self) -> bool {
        self.attributes & 1 << 14 != 0
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Linear address.
    pub base: u64,
    /// Last offset.
    pub limit: u16,
}

/// The registers of one virtual CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gprs: [u64; 16],
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// ES, CS, SS, DS, FS, GS.
    pub segments: [Segment; 6],
    /// LDTR.
    pub ldtr: Segment,
    /// TR.
    pub tr: Segment,
    /// GDTR.
    pub gdtr: Table,
    /// IDTR.
    pub idtr: Table,
    /// What CS makes of the code.
    pub code: CodeSize,
    /// Current privilege level, 0 to 3.
    pub cpl: u8,
    /// Data breakpoints.
    pub breakpoints: Breakpoints,
    /// Control registers and what else translation depends on.
    pub paging: Paging,
    /// XCR0: which registers software may use (SDM 3A 2.6).
    pub xcr0: u64,
}

impl Cpu {
    /// A general register.
    pub fn gpr(&self, number: u8) -> u64 {
        self.gprs
            .get(usize::from(number & 15))
            .copied()
            .unwrap_or(0)
    }

    /// The low `size` bytes of a general register, zero-extended; `size` is 1, 2, 4 or 8.
    pub fn gpr_sized(&self, number: u8, size: u8) -> u64 {
        self.gpr(number) & mask(size)
    }

    /// Writes the low `size` bytes of a general register: 4 clear the upper half, 1 and
    /// 2 leave the rest alone (SDM 1 3.4.1.1).
    pub fn set_gpr_sized(&mut self, number: u8, size: u8, value: u64) {
        if let Some(gpr) = self.gprs.get_mut(usize::from(number & 15)) {
            *gpr = match size {
                1 | 2 => *gpr & !mask(size) | value & mask(size),
                _ => value & mask(size),
            };
        }
    }

    /// A segment register.
    pub fn segment(&self, seg: Seg) -> &Segment {
        let [es, cs, ss, ds, fs, gs] = &self.segments;
        match seg {
            Seg::Es => es,
            Seg::Cs => cs,
            Seg::Ss => ss,
            Seg::Ds => ds,
            Seg::Fs => fs,
            Seg::Gs => gs,
        }
    }

    /// Replaces a segment register.
    pub fn set_segment(&mut self, seg: Seg, value: Segment) {
        if let Some(segment) = self.segments.get_mut(seg as usize) {
            *segment = value;
        }
    }

    /// Where the instruction at RIP is fetched from.
    pub fn code_location(&self) -> CodeLocation {
        let cs = self.segment(Seg::Cs);
        CodeLocation {
            rip: self.rip,
            cs_base: cs.base,
            cs_limit: cs.limit,
            long: self.long(),
            paging: self.paging,
        }
    }

    /// The linear address of the instruction at RIP.
    pub fn code_address(&self) -> Gva {
        if self.long() {
            return Gva::new(self.rip);
        }
        let offset = self.rip & mask(4);
        Gva::new(self.segment(Seg::Cs).base.wrapping_add(offset) & mask(4))
    }

    /// 64-bit mode.
    pub const fn long(&self) -> bool {
        matches!(self.code, CodeSize::Bits64)
    }

    /// The linear address `bytes` further on: they have 64 bits in 64-bit mode and 32
    /// elsewhere. But tables of the processor's own may lie above also in compatibility
    /// mode (SDM 3A 5.2.1).
    pub const fn linear(&self, gva: Gva, bytes: u64) -> Gva {
        let next = gva.get().wrapping_add(bytes);
        let above = self.paging.long_mode() && gva.get() > 0xffff_ffff;
        if self.long() || above {
            Gva::new(next)
        } else {
            Gva::new(next & 0xffff_ffff)
        }
    }

    /// CR0.PE is 1 and RFLAGS.VM is 0.
    pub const fn protected(&self) -> bool {
        self.paging.cr0 & 1 != 0 && self.rflags & rflags::VM == 0
    }

    /// Bytes of the stack pointer: 2, 4 or 8.
    pub fn stack_size(&self) -> u8 {
        match (self.code, self.segment(Seg::Ss).big()) {
            (CodeSize::Bits64, _) => 8,
            (_, true) => 4,
            (_, false) => 2,
        }
    }
}

/// The bits of a number of 1, 2, 4 or 8 bytes.
pub const fn mask(size: u8) -> u64 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}
