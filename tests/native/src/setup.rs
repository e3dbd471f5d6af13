// SPDX-License-Identifier: GPL-2.0

//! What the cases of a batch have in common: segments, page tables.

use emulate::cpu::{Cpu, Segment, Table};
use emulate::insn::{CodeSize, Seg};

use crate::cpu::{Choice, DESCRIPTORS as LDT, FLAT, USER_CS32, USER_CS64};
use crate::layout::{CODE, HIGH, LOW, PAGE};
use crate::mode::Mode;
use crate::model::{Ram, CODE_FRAME, TABLES_FRAME};
use crate::rng::Rng;
use crate::tables::{self, Format, Plan};

/// Start of a batch.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The mode.
    pub mode: Mode,
    /// Segments, paging and tables; the rest 0.
    pub cpu: Cpu,
    /// How memory is made.
    pub plan: Plan,
}

/// What stays the same as long as the process lives.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    /// Base of FS in 64-bit code, which the process needs.
    pub fs: u64,
    /// Base of GS in 64-bit code.
    pub gs: u64,
    /// There are segments in the LDT.
    pub has_ldt: bool,
}

impl Process {
    /// A base of GS.
    pub fn gs(seed: u64) -> u64 {
        Rng::new(&[seed, 3]).pick(&[0, LOW, HIGH + 0x1238, 0x7fff_0000_0004])
    }
}

impl Setup {
    /// Draws a setup and fills the model's memory, but for the window.
    pub fn new(mode: Mode, rng: &mut Rng, process: Process, ram: &mut Ram) -> Self {
        let format = match mode.0 {
            CodeSize::Bits64 => Format::FourLevel,
            _ => rng.pick(&[
                Format::FiveLevel,
                Format::FourLevel,
                Format::Pae,
                Format::TwoLevel,
            ]),
        };
        let plan = Plan {
            format,
            marked: rng.chance(75),
            denied: rng.chance(25),
        };
        let paging = tables::build(ram, &plan);
        let mut cpu = Cpu {
            paging,
            code: mode.0,
            cpl: 3,
            ..Cpu::default()
        };
        match mode.0 {
            CodeSize::Bits64 => long(&mut cpu, process),
            CodeSize::Bits32 => protected(&mut cpu, rng, Choice::Code32),
            CodeSize::Bits16 => protected(&mut cpu, rng, Choice::Code16),
        }
        descriptor_tables(&mut cpu, ram, process.has_ldt);
        Self { mode, cpu, plan }
    }

    /// Offset of the first code byte in CS.
    pub const fn code(&self) -> u64 {
        CODE - self.cpu.segments[Seg::Cs as usize].base
    }

    /// Copies the code pages to the model.
    pub fn copy_code(&self, ram: &mut Ram, code: &[u8]) {
        for (n, page) in code.chunks(PAGE as usize).enumerate() {
            ram.frame(CODE_FRAME + n as u64).copy_from_slice(page);
        }
    }

    /// Copies what was placed at an offset of the first code page.
    pub fn copy_instruction(&self, ram: &mut Ram, offset: u64, code: &[u8]) {
        let from = offset as usize;
        let bytes = &code[from..][..PLACED];
        ram.frame(CODE_FRAME)[from..][..PLACED].copy_from_slice(bytes);
    }
}

/// Bytes of an instruction and the pad behind it.
const PLACED: usize = 48;

const NULL: Segment = Segment {
    selector: 0,
    base: 0,
    limit: 0,
    attributes: 0,
    unusable: true,
};

/// A flat segment of the kernel's.
const fn flat(selector: u16, attributes: u16) -> Segment {
    Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        attributes,
        unusable: false,
    }
}

pub(crate) const CS64: Segment = flat(USER_CS64, 0xa0fb);
pub(crate) const CS32: Segment = flat(USER_CS32, 0xc0fb);
const DATA: Segment = flat(FLAT, 0xc0f3);

fn long(cpu: &mut Cpu, process: Process) {
    cpu.segments = [NULL; 6];
    cpu.set_segment(Seg::Cs, CS64);
    cpu.set_segment(Seg::Ss, DATA);
    for (seg, base) in [(Seg::Fs, process.fs), (Seg::Gs, process.gs)] {
        cpu.set_segment(seg, Segment { base, ..NULL });
    }
}

fn protected(cpu: &mut Cpu, rng: &mut Rng, code: Choice) {
    let cs = match code {
        Choice::Code32 if rng.chance(60) => CS32,
        _ => local(rng, &[code]),
    };
    let flat = if code == Choice::Code32 { 60 } else { 10 };
    let ss = match rng.chance(flat) {
        true => DATA,
        false => local(rng, &[Choice::Stack]),
    };
    cpu.segments = [NULL; 6];
    cpu.set_segment(Seg::Cs, cs);
    cpu.set_segment(Seg::Ss, ss);
    for seg in [Seg::Ds, Seg::Es, Seg::Gs] {
        let segment = match rng.below(100) {
            0..3 => NULL,
            n if n < flat => DATA,
            // Code segments as data: they may be read, or not even that.
            97.. => local(rng, &[Choice::Code16, Choice::Code32]),
            _ => local(rng, &[Choice::Stack, Choice::Data]),
        };
        let null_or_unreadable = segment.is_code() && !segment.read_write();
        cpu.set_segment(seg, if null_or_unreadable { NULL } else { segment });
    }
}

/// One of the LDT's segments: of those for data, one that reaches the window with offsets
/// of 16 bits mostly.
fn local(rng: &mut Rng, choices: &[Choice]) -> Segment {
    loop {
        let number = rng.below(LDT.len() as u64) as usize;
        let segment = LDT[number].segment(number);
        let near = segment.is_code() || segment.base & !0xffff == LOW;
        if choices.contains(&LDT[number].choice) && (near || rng.chance(30)) {
            return segment;
        }
    }
}

/// Where the LDT begins in the page of the descriptor tables.
const LDT_OFFSET: usize = 0x800;

/// Linux's GDT, as far as it is the same in all processes: the kernel's code and data, the
/// TSS, the LDT, and a segment that holds the number of the processor.
const KERNEL: [(u16, u64); 6] = [
    (0x08, 0x00cf_9b00_0000_ffff),
    (0x10, 0x00af_9b00_0000_ffff),
    (0x18, 0x00cf_9300_0000_ffff),
    (0x40, 0x0000_8b00_0000_206f),
    (0x50, 0x0000_8200_0000_007f),
    (0x78, 0x0040_f500_0000_0000),
];

fn descriptor_tables(cpu: &mut Cpu, ram: &mut Ram, has_ldt: bool) {
    let page = ram.frame(TABLES_FRAME);
    page.fill(0);
    for (selector, descriptor) in KERNEL {
        page[usize::from(selector)..][..8].copy_from_slice(&descriptor.to_le_bytes());
    }
    for segment in [CS64, CS32, DATA] {
        put(page, usize::from(segment.selector & !7), &segment);
    }
    for (number, descriptor) in LDT.iter().enumerate() {
        put(page, LDT_OFFSET + 8 * number, &descriptor.segment(number));
    }
    cpu.gdtr = Table {
        base: tables::DESCRIPTORS,
        limit: 0x7f,
    };
    cpu.ldtr = Segment {
        selector: 0x50,
        base: tables::DESCRIPTORS + LDT_OFFSET as u64,
        limit: 8 * LDT.len() as u32 - 1,
        attributes: 0x82,
        unusable: !has_ldt,
    };
}

/// Writes a descriptor (SDM 3A 3.4.5).
fn put(page: &mut [u8], offset: usize, segment: &Segment) {
    let limit = match segment.attributes & 1 << 15 {
        0 => u64::from(segment.limit),
        _ => u64::from(segment.limit >> 12),
    };
    let attributes = u64::from(segment.attributes);
    let word = limit & 0xffff
        | (segment.base & 0xff_ffff) << 16
        | (attributes & 0xff) << 40
        | (limit >> 16 & 0xf) << 48
        | (attributes >> 12 & 0xf) << 52
        | (segment.base >> 24 & 0xff) << 56;
    page[offset..][..8].copy_from_slice(&word.to_le_bytes());
}
