// SPDX-License-Identifier: GPL-2.0

//! What the emulator has as memory: the window, the code, and descriptor tables like those
//! of this process.

use emulate::cpu::Segment;
use emulate::guard::{Memory, Page, Span, Trouble};
use emulate::GuestPhys;
use ept::{Gfn, Gpa};
use native::cpu::DESCRIPTORS;
use native::layout::{CODE, CODE_BYTES, LOW, WINDOW};
use spp::Mask;

/// Where the tables are.
pub(crate) const GDT: u64 = 0x4000_0000;
pub(crate) const LDT: u64 = 0x4000_1000;

/// The GDT of Linux, `arch/x86/kernel/cpu/common.c`: code and data of the kernel, of the
/// user, a TSS, an LDT, three empty entries for threads, the number of the processor.
pub(crate) const GDT_ENTRIES: [u64; 16] = [
    0,
    0x00cf_9b00_0000_ffff,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_fb00_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
    0,
    0x0000_8b00_3000_4087,
    0xffff_fe00,
    0x0000_8200_3000_0fff,
    0xffff_fe00,
    0,
    0,
    0,
    0x0040_f500_0000_0000,
];

/// Memory as the emulator sees it, without paging.
pub(crate) struct Ram {
    pub(crate) window: Box<[u8; WINDOW]>,
    code: Box<[u8; CODE_BYTES]>,
    gdt: [u8; 4096],
    ldt: [u8; 4096],
}

impl Ram {
    /// With the tables.
    pub(crate) fn new() -> Self {
        let mut ram = Self {
            window: Box::new([0; WINDOW]),
            code: Box::new([0; CODE_BYTES]),
            gdt: [0; 4096],
            ldt: [0; 4096],
        };
        for (n, entry) in GDT_ENTRIES.into_iter().enumerate() {
            ram.write(GDT + 8 * n as u64, &entry.to_le_bytes());
        }
        for (n, descriptor) in DESCRIPTORS.iter().enumerate() {
            let entry = raw(&descriptor.segment(n));
            ram.write(LDT + 8 * n as u64, &entry.to_le_bytes());
        }
        ram
    }

    fn part(&mut self, gpa: u64) -> Option<(&mut [u8], usize)> {
        let parts: [(u64, &mut [u8]); 4] = [
            (LOW, &mut self.window[..]),
            (CODE, &mut self.code[..]),
            (GDT, &mut self.gdt),
            (LDT, &mut self.ldt),
        ];
        let inside =
            |(base, bytes): &(u64, &mut [u8])| (*base..*base + bytes.len() as u64).contains(&gpa);
        let (base, bytes) = parts.into_iter().find(inside)?;
        Some((bytes, (gpa - base) as usize))
    }

    pub(crate) fn write(&mut self, gpa: u64, bytes: &[u8]) {
        let (part, at) = self.part(gpa).unwrap();
        part[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

impl GuestPhys for Ram {
    fn read(&mut self, gpa: Gpa, out: &mut [u8]) -> bool {
        let Some((part, at)) = self.part(gpa.get()) else {
            return false;
        };
        out.copy_from_slice(&part[at..at + out.len()]);
        true
    }
}

impl Memory for Ram {
    fn page(&mut self, gfn: Gfn) -> Page {
        match self.part(gfn.gpa().get()) {
            Some(_) => Page::Ram(Mask::ALL),
            None => Page::Device,
        }
    }

    fn write(&mut self, span: &Span, data: &[u8], _bytes: u64) -> Result<(), Trouble> {
        let mut rest = data;
        for fragment in span.fragments() {
            let (part, others) = rest.split_at(fragment.len.into());
            Ram::write(self, fragment.gpa.get(), part);
            rest = others;
        }
        Ok(())
    }

    fn exchange(&mut self, _span: &Span, _old: &[u8], _new: &[u8]) -> Result<bool, Trouble> {
        panic!("all descriptors were loaded before");
    }
}

/// The 8 bytes that make a segment.
fn raw(segment: &Segment) -> u64 {
    let limit = match segment.attributes >> 15 & 1 {
        0 => segment.limit,
        _ => segment.limit >> 12,
    };
    let (base, limit, attributes) = (
        segment.base,
        u64::from(limit),
        u64::from(segment.attributes),
    );
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | (attributes & 0xff) << 40
        | (limit >> 16) << 48
        | (attributes >> 12) << 52
        | (base >> 24) << 56
}
