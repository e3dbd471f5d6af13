// SPDX-License-Identifier: GPL-2.0

//! The kinds of code that a processor executes: its modes, and those that a code segment or
//! RFLAGS.VM selects in them.

use crate::machine::{self, Assembled, Machine, Stop};
use guest::asm::CodeAssembler;
use guest::{Mode, Program, TABLES};
use kvm_bindings::{kvm_segment, kvm_sregs};
use vmm::Vm;

/// RFLAGS: virtual-8086 mode, and I/O for all.
const VM: u64 = 1 << 17;
const IOPL: u64 = 3 << 12;

/// A kind of code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// That of a mode.
    Of(Mode),
    /// A code segment of 16 bits, in a mode that begins with one of 32 bits, or in long
    /// mode: compatibility mode.
    Bits16(Mode),
    /// Compatibility mode with a code segment of 32 bits.
    Compatible,
    /// Virtual-8086 mode, in a mode with or without paging.
    Virtual8086(Mode),
}

/// All but 64-bit mode, which has no segments to speak of.
pub(crate) const WITH_SEGMENTS: [Kind; 11] = [
    Kind::Of(Mode::Real),
    Kind::Of(Mode::Protected),
    Kind::Of(Mode::Paged32),
    Kind::Of(Mode::Pae),
    Kind::Bits16(Mode::Protected),
    Kind::Bits16(Mode::Pae),
    Kind::Bits16(Mode::Long),
    Kind::Compatible,
    Kind::Virtual8086(Mode::Protected),
    Kind::Virtual8086(Mode::Paged32),
    Kind::Virtual8086(Mode::Pae),
];

impl Kind {
    /// The mode of the processor.
    fn mode(self) -> Mode {
        match self {
            Self::Of(mode) | Self::Bits16(mode) | Self::Virtual8086(mode) => mode,
            Self::Compatible => Mode::Long,
        }
    }

    /// A mode whose instructions have the same bytes.
    fn code(self) -> Mode {
        match self {
            Self::Of(mode) => mode,
            Self::Bits16(_) | Self::Virtual8086(_) => Mode::Real,
            Self::Compatible => Mode::Protected,
        }
    }

    /// Operands and addresses have 16 bits.
    pub(crate) fn is_16_bit(self) -> bool {
        self.code() == Mode::Real
    }

    /// What a segment's base is, follows from its selector.
    pub(crate) fn has_paragraphs(self) -> bool {
        matches!(self, Self::Of(Mode::Real) | Self::Virtual8086(_))
    }

    /// How a program ends with HLT, which virtual-8086 code may not execute; there is no
    /// stack for a handler either.
    pub(crate) fn end(self) -> Stop {
        match self {
            Self::Virtual8086(_) => Stop::Shutdown,
            _ => Stop::Hlt,
        }
    }

    /// A program of such code.
    pub(crate) fn program(self, author: impl FnOnce(&mut CodeAssembler) -> Assembled) -> Program {
        let mut program = machine::program(self.code(), author);
        program.mode = self.mode();
        program
    }

    /// A guest about to execute it.
    pub(crate) fn load(self, vm: Vm, program: Program) -> Machine {
        let machine = Machine::load(vm, program);
        let mut sregs = machine.sregs();
        match self {
            Self::Of(_) => return machine,
            Self::Bits16(_) => (sregs.cs.db, sregs.cs.l, sregs.ss.db) = (0, 0, 0),
            Self::Compatible => (sregs.cs.db, sregs.cs.l) = (1, 0),
            Self::Virtual8086(mode) => {
                machine.change_regs(|r| r.rflags |= VM | IOPL);
                segments(&mut sregs).into_iter().for_each(virtual_8086);
                open_to_user(&machine, mode);
            }
        }
        machine.set_sregs(&sregs);
        machine
    }

    /// Sets the arithmetic flags, and none of the others.
    pub(crate) fn rflags(self, flags: u64) -> u64 {
        match self {
            Self::Virtual8086(_) => flags | VM | IOPL | 2,
            _ => flags | 2,
        }
    }

    /// Lets DS and ES begin at `base`.
    pub(crate) fn set_data(self, machine: &Machine, base: u64) {
        let mut sregs = machine.sregs();
        for segment in [&mut sregs.ds, &mut sregs.es] {
            segment.base = base;
            if self.has_paragraphs() {
                segment.selector = (base >> 4) as u16;
            }
        }
        machine.set_sregs(&sregs);
    }
}

fn segments(sregs: &mut kvm_sregs) -> [&mut kvm_segment; 6] {
    let kvm_sregs {
        cs,
        ds,
        es,
        fs,
        gs,
        ss,
        ..
    } = sregs;
    [cs, ds, es, fs, gs, ss]
}

/// What the processor makes of a segment whose selector is 0 (SDM 3C 26.3.1.2).
fn virtual_8086(segment: &mut kvm_segment) {
    *segment = kvm_segment {
        limit: 0xffff,
        type_: 3,
        s: 1,
        dpl: 3,
        present: 1,
        ..Default::default()
    };
}

/// Lets user code access the lowest MiBs.
fn open_to_user(machine: &Machine, mode: Mode) {
    let leaf = match mode {
        Mode::Paged32 => TABLES,
        Mode::Pae => TABLES + guest::PAGE_SIZE,
        _ => return,
    };
    let entry = machine.read(leaf, 1)[0];
    machine.write(leaf, &[entry | super::rig::U as u8]);
}
