// SPDX-License-Identifier: GPL-2.0

//! A virtual CPU with a GDT, flat segments and some memory. Linear addresses are
//! guest-physical, but in IA-32e mode, where low ones are.

use ept::Gpa;

use crate::cpu::{Cpu, Segment, Table};
use crate::exec::{execute, Done};
use crate::guard::Guest;
use crate::insn::{CodeSize, Insn, Mem, Seg};
use crate::journal::Journal;
use crate::model::Model;
use crate::stop::Stop;
use crate::{cpu::rflags, GuestPhys};

/// The GDT.
pub(crate) const GDT: u64 = 0x5000;
/// The IDT.
pub(crate) const IDT: u64 = 0x7000;
/// The TSS.
pub(crate) const TSS: u64 = 0x6000;
/// Paging structures of IA-32e mode.
const TABLES: u64 = 0x10_0000;
/// Where the instruction is.
pub(crate) const RIP: u64 = 0x1000;

/// Access bytes of descriptors.
pub(crate) const CODE: u8 = 0x9b;
/// Writable data.
pub(crate) const DATA: u8 = 0x93;
/// G and D/B.
pub(crate) const FLAT: u8 = 0xc;
/// G and L.
pub(crate) const LONG: u8 = 0xa;

/// A descriptor; `flags` are G, D/B, L, AVL.
pub(crate) fn descriptor(base: u32, limit: u32, access: u8, flags: u8) -> u64 {
    let (base, limit) = (u64::from(base), u64::from(limit));
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | u64::from(access) << 40
        | (limit >> 16 & 15) << 48
        | u64::from(flags) << 52
        | (base >> 24) << 56
}

/// The lower 8 bytes of a gate.
pub(crate) fn gate(selector: u16, offset: u32, access: u8, count: u8) -> u64 {
    let offset = u64::from(offset);
    offset & 0xffff
        | u64::from(selector) << 16
        | u64::from(count) << 32
        | u64::from(access) << 40
        | (offset >> 16) << 48
}

pub(crate) struct Machine {
    pub(crate) cpu: Cpu,
    pub(crate) fpu: [u8; 2688],
    pub(crate) model: Model,
    pub(crate) journal: Journal,
}

impl Machine {
    /// Real mode with memory from 0 to 0x1f000.
    pub(crate) fn real() -> Self {
        let mut model = Model::default();
        for page in 0..0x1f {
            model.ram.write(page << 12, &[0]);
        }
        let segment = Segment {
            selector: 0,
            base: 0,
            limit: 0xffff,
            attributes: 0x93,
            unusable: false,
        };
        let mut cpu = Cpu {
            rip: RIP,
            rflags: 2,
            segments: [segment; 6],
            idtr: Table {
                base: 0,
                limit: 0x3ff,
            },
            ..Cpu::default()
        };
        cpu.paging.cr0 = 0x10;
        cpu.gprs[4] = 0x8000;
        let mut fpu = [0; 2688];
        fpu[24..28].copy_from_slice(&[0x80, 0x1f, 0, 0]);
        Self {
            cpu,
            fpu,
            model,
            journal: Journal::new(),
        }
    }

    /// 32-bit code, flat, at a privilege level. Its selectors, and the GDT:
    ///
    /// 8, 10 code and data of level 0; 18, 20 of level 3; 28 16-bit code at 10000 with
    /// limit fff; 30 conforming code of level 0; 38 64-bit code; 40 code that is not
    /// present; 48 a TSS; 50 an LDT of 16 bytes at 5800; 58 code of level 1, 60 data.
    pub(crate) fn protected(cpl: u8) -> Self {
        let mut machine = Self::real();
        let level = |access: u8, dpl: u8| access | dpl << 5;
        for (n, entry) in [
            0,
            descriptor(0, 0xfffff, CODE, FLAT),
            descriptor(0, 0xfffff, DATA, FLAT),
            descriptor(0, 0xfffff, level(CODE, 3), FLAT),
            descriptor(0, 0xfffff, level(DATA, 3), FLAT),
            descriptor(0x10000, 0xfff, CODE, 0),
            descriptor(0, 0xfffff, CODE | 4, FLAT),
            descriptor(0, 0xfffff, CODE, LONG),
            descriptor(0, 0xfffff, CODE & 0x7f, FLAT),
            descriptor(TSS as u32, 0x67, 0x8b, 0),
            descriptor(0x5800, 15, 0x82, 0),
            descriptor(0, 0xfffff, level(CODE, 1), FLAT),
            descriptor(0, 0xfffff, level(DATA, 1), FLAT),
        ]
        .into_iter()
        .enumerate()
        {
            machine.set(n as u16 * 8, entry);
        }
        let cpu = &mut machine.cpu;
        cpu.gdtr = Table {
            base: GDT,
            limit: 0xff,
        };
        cpu.idtr = Table {
            base: IDT,
            limit: 0x7ff,
        };
        cpu.paging.cr0 |= 1;
        cpu.code = CodeSize::Bits32;
        cpu.cpl = cpl;
        cpu.paging.user = cpl == 3;
        let (code, data) = match cpl {
            0 => (8, 0x10),
            1 => (0x59, 0x61),
            _ => (0x1b, 0x23),
        };
        let flat = |selector, access| Segment {
            selector,
            base: 0,
            limit: u32::MAX,
            attributes: 0xc000 | u16::from(level(access, cpl)),
            unusable: false,
        };
        cpu.segments = [flat(data, DATA); 6];
        cpu.set_segment(Seg::Cs, flat(code, CODE));
        cpu.tr = Segment {
            selector: 0x48,
            base: TSS,
            limit: 0x67,
            attributes: 0x8b,
            unusable: false,
        };
        cpu.ldtr = Segment {
            selector: 0x50,
            base: 0x5800,
            limit: 15,
            attributes: 0x82,
            unusable: false,
        };
        machine
    }

    /// IA-32e mode with the same GDT; the first 2 MBytes of linear addresses are
    /// guest-physical ones. `long`: 64-bit mode, and 18 is 64-bit code.
    pub(crate) fn ia32e(cpl: u8, long: bool) -> Self {
        let mut machine = Self::protected(cpl);
        let ram = &mut machine.model.ram;
        for n in 0..2 {
            ram.write_u64(TABLES + n * 0x1000, (TABLES + (n + 1) * 0x1000) | 0x27);
        }
        ram.write_u64(TABLES + 0x2000, 0xe7);
        let cpu = &mut machine.cpu;
        cpu.paging.cr0 |= 1 << 31;
        cpu.paging.cr3 = TABLES;
        cpu.paging.cr4 |= 1 << 5;
        cpu.paging.efer = 0xd00;
        if long {
            let code = descriptor(0, 0xfffff, CODE | 3 << 5, LONG);
            ram.write_u64(GDT + 0x18, code);
            cpu.code = CodeSize::Bits64;
            let mut cs = *cpu.segment(Seg::Cs);
            cs.attributes = cs.attributes & !(1 << 14) | 1 << 13;
            cpu.set_segment(Seg::Cs, cs);
        }
        machine
    }

    /// Writes an entry of the GDT.
    pub(crate) fn set(&mut self, selector: u16, entry: u64) {
        self.model.ram.write_u64(GDT + u64::from(selector), entry);
    }

    pub(crate) fn guest(&mut self) -> Guest<'_> {
        self.model.log.clear();
        Guest::new(
            &mut self.cpu,
            &mut self.fpu,
            &mut self.model,
            &mut self.journal,
        )
    }

    /// Executes an instruction, and makes sure that nothing has changed if it stops.
    #[track_caller]
    pub(crate) fn run(&mut self, insn: &Insn) -> Result<Done, Stop> {
        self.cpu.rflags &= !rflags::RF;
        let before = (self.cpu, self.fpu, self.model.ram.clone());
        let rip = self.cpu.rip;
        self.journal.begin(rip);
        let done = execute(&mut self.guest(), insn);
        if let Err(stop) = done {
            let mut cpu = self.cpu;
            if matches!(stop, Stop::Exception(_) | Stop::Denied(_)) {
                assert_ne!(cpu.rflags & rflags::RF, 0);
                cpu.rflags &= !rflags::RF;
            }
            assert_eq!(cpu, before.0);
            assert!(self.fpu == before.1, "vector registers changed");
            assert!(self.model.ram == before.2, "memory changed");
            assert!(!self.journal.has_posted());
        }
        done
    }

    /// Bytes of guest-physical memory.
    pub(crate) fn bytes<const N: usize>(&mut self, gpa: u64) -> [u8; N] {
        let mut bytes = [0; N];
        for (n, byte) in bytes.iter_mut().enumerate() {
            let at = Gpa::new(gpa + n as u64);
            assert!(self.model.ram.read(at, core::slice::from_mut(byte)));
        }
        bytes
    }

    pub(crate) fn u16(&mut self, gpa: u64) -> u16 {
        u16::from_le_bytes(self.bytes(gpa))
    }

    pub(crate) fn u32(&mut self, gpa: u64) -> u32 {
        u32::from_le_bytes(self.bytes(gpa))
    }

    pub(crate) fn u64(&mut self, gpa: u64) -> u64 {
        u64::from_le_bytes(self.bytes(gpa))
    }
}

/// A memory operand at a fixed address.
pub(crate) fn at(address: u64) -> Mem {
    Mem {
        disp: address as i64,
        ..Mem::default()
    }
}
