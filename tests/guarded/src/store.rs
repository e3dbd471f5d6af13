// SPDX-License-Identifier: GPL-2.0

//! Every kind of store that the executor knows: its encoding, what it writes, and where,
//! as the manual says it.

use crate::{Machine, Mode};

/// Which register says where a store writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// RBX holds the address.
    Rbx,
    /// RDI holds the address.
    Rdi,
    /// RSP holds the address behind the last byte, and there are that many elements.
    Stack(u16),
    /// RSP holds the address so many bytes above.
    Below(u16),
}

/// What a store finds, where that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// It does not.
    None,
    /// The accumulator, of so many bytes, is what memory holds.
    Equal(u16),
    /// The CPU is in real mode.
    Real,
}

/// A kind of store.
#[derive(Clone, Debug)]
pub struct Store {
    /// For messages.
    pub name: String,
    /// The instruction.
    pub bytes: Vec<u8>,
    /// The code that it is.
    pub mode: Mode,
    /// How many bytes it writes, all in a row.
    pub len: u16,
    /// Where.
    pub at: At,
    /// It reads them first.
    pub reads: bool,
    /// What it finds.
    pub setup: Setup,
    /// What its address must be a multiple of.
    pub align: u16,
}

impl Store {
    /// Lets the machine's registers point to `address`.
    pub fn aim(&self, machine: &mut Machine, address: u64) {
        // RSI and RDX: a source in memory, and the port.
        machine.cpu.gprs[6] = 0x2040;
        machine.cpu.gprs[2] = machine.cpu.gprs[2] & !0xffff | u64::from(crate::PORT);
        // RSP and RBP: in memory, for POP and ENTER.
        machine.cpu.gprs[4] = 0x2080;
        machine.cpu.gprs[5] = 0x3000;
        match self.at {
            At::Rbx => machine.cpu.gprs[3] = address,
            At::Rdi => machine.cpu.gprs[7] = address,
            At::Below(bytes) => machine.cpu.gprs[4] = address + u64::from(bytes),
            At::Stack(_) => machine.cpu.gprs[4] = address + u64::from(self.len),
        }
        machine.cpu.paging.cr0 |= 1;
        if self.setup == Setup::Real {
            machine.cpu.paging.cr0 &= !1;
        }
        if let Setup::Equal(len) = self.setup {
            let mut found = machine.board.bytes(address, len.into());
            found.resize(16, 0);
            let half = |from: usize| {
                let half = found[from..from + 8].try_into();
                u64::from_le_bytes(half.unwrap_or_default())
            };
            let (low, high) = match len {
                8 if self.bytes.contains(&0xc7) => (half(0) & 0xffff_ffff, half(0) >> 32),
                _ => (half(0), half(8)),
            };
            machine.cpu.gprs[0] = low;
            machine.cpu.gprs[2] = high;
        }
        // Every byte of a vector register is chosen by a mask in register 2.
        machine.set_xmm(2, [0xff; 16]);
        machine.set_ymm_high(2, [0xff; 16]);
    }
}

/// Collects the kinds of one mode.
struct Table {
    mode: Mode,
    stores: Vec<Store>,
}

impl Table {
    /// ModRM of a register and memory at RBX, EBX or BX.
    fn modrm(&self, reg: u8) -> u8 {
        reg << 3
            | match self.mode {
                Mode::Bits16 => 7,
                _ => 3,
            }
    }

    /// Prefixes of an operand size, and the opcode, which for bytes is one less.
    fn sized(&self, size: u16, opcode: &[u8]) -> Vec<u8> {
        let mut bytes: Vec<u8> = match (size, self.mode) {
            (2, Mode::Bits32 | Mode::Bits64) | (4, Mode::Bits16) => vec![0x66],
            (8, _) => vec![0x48],
            _ => vec![],
        };
        bytes.extend(opcode);
        if size == 1 {
            if let Some(last) = bytes.last_mut() {
                *last -= 1;
            }
        }
        bytes
    }

    fn sizes(&self) -> &'static [u16] {
        match self.mode {
            Mode::Bits64 => &[1, 2, 4, 8],
            _ => &[1, 2, 4],
        }
    }

    fn add(&mut self, name: &str, bytes: Vec<u8>, len: u16, at: At, reads: bool) {
        self.stores.push(Store {
            name: format!("{name} {len} {:?} {bytes:02x?}", self.mode),
            bytes,
            mode: self.mode,
            len,
            at,
            reads,
            setup: Setup::None,
            align: 1,
        });
    }

    fn last(&mut self) -> &mut Store {
        let last = self.stores.len() - 1;
        &mut self.stores[last]
    }

    /// An operation on memory at RBX; with `lock`, also with that prefix.
    fn memory(&mut self, name: &str, mut bytes: Vec<u8>, len: u16, reads: bool, lock: bool) {
        self.add(name, bytes.clone(), len, At::Rbx, reads);
        if lock {
            bytes.insert(0, 0xf0);
            self.add(name, bytes, len, At::Rbx, reads);
        }
    }

    fn integer(&mut self) {
        for &size in self.sizes() {
            let reg = self.modrm(1);
            let with = |t: &Self, opcode: &[u8], rest: &[u8]| {
                let mut bytes = t.sized(size, opcode);
                bytes.extend(rest);
                bytes
            };
            let immediate = vec![0x5a; usize::from(size.min(4))];
            let all = |modrm: u8, imm: &[u8]| [&[modrm], imm].concat();
            let code = with(self, &[0x89], &[reg]);
            self.memory("MOV r", code, size, false, false);
            let code = with(self, &[0xc7], &all(self.modrm(0), &immediate));
            self.memory("MOV imm", code, size, false, false);
            for op in [0, 1, 2, 3, 4, 5, 6u8] {
                let code = with(self, &[op * 8 + 1], &[reg]);
                self.memory("ALU r", code, size, true, true);
                let code = with(self, &[0x81], &all(self.modrm(op), &immediate));
                self.memory("ALU imm", code, size, true, true);
            }
            for (opcode, op) in [(0xff, 0), (0xff, 1), (0xf7, 2), (0xf7, 3)] {
                let code = with(self, &[opcode], &[self.modrm(op)]);
                self.memory("INC, DEC, NOT, NEG", code, size, true, true);
            }
            for op in [0, 1, 2, 3, 4, 5, 7] {
                let modrm = self.modrm(op);
                let code = with(self, &[0xd1], &[modrm]);
                self.memory("shift 1", code, size, true, false);
                let code = with(self, &[0xd3], &[modrm]);
                self.memory("shift CL", code, size, true, false);
                for count in [0, 3, 32] {
                    let code = with(self, &[0xc1], &[modrm, count]);
                    self.memory("shift imm", code, size, true, false);
                }
            }
            let code = with(self, &[0x87], &[reg]);
            self.memory("XCHG", code, size, true, true);
            let code = with(self, &[0x0f, 0xc1], &[reg]);
            self.memory("XADD", code, size, true, true);
            let code = with(self, &[0x0f, 0xb1], &[reg]);
            self.memory("CMPXCHG, other", code.clone(), size, true, true);
            self.memory("CMPXCHG, equal", code, size, true, false);
            self.last().setup = Setup::Equal(size);
        }
    }

    /// What there is of 2, 4 and 8 bytes only.
    fn words(&mut self) {
        for &size in &self.sizes()[1..] {
            let reg = self.modrm(1);
            let with = |t: &Self, opcode: &[u8], rest: &[u8]| {
                let mut bytes = t.sized(size, opcode);
                bytes.extend(rest);
                bytes
            };
            let code = with(self, &[0x83], &[self.modrm(0), 0x80]);
            self.memory("ADD imm8", code, size, true, true);
            for opcode in [0xa4, 0xac] {
                let code = with(self, &[0x0f, opcode], &[reg, 5]);
                self.memory("SHLD, SHRD imm", code, size, true, false);
                let code = with(self, &[0x0f, opcode + 1], &[reg]);
                self.memory("SHLD, SHRD CL", code, size, true, false);
            }
            for op in [5, 6, 7] {
                let code = with(self, &[0x0f, 0xba], &[self.modrm(op), 3]);
                self.memory("BTS, BTR, BTC imm", code, size, true, true);
            }
            let code = with(self, &[0x0f, 0x38, 0xf1], &[reg]);
            self.memory("MOVBE", code, size, false, false);
            if size > 2 {
                let code = match (size, self.mode) {
                    (8, _) => vec![0x48, 0x0f, 0xc3, reg],
                    _ => vec![0x0f, 0xc3, reg],
                };
                self.memory("MOVNTI", code, size, false, false);
                let code = match size {
                    8 => vec![0x48, 0x0f, 0x38, 0xf9, reg],
                    _ => vec![0x0f, 0x38, 0xf9, reg],
                };
                self.memory("MOVDIRI", code, size, false, false);
            }
        }
        let modrm = self.modrm(1);
        self.memory("CMPXCHG8B, other", vec![0x0f, 0xc7, modrm], 8, true, true);
        self.memory("CMPXCHG8B, equal", vec![0x0f, 0xc7, modrm], 8, true, false);
        self.last().setup = Setup::Equal(8);
        self.memory("SETcc", vec![0x0f, 0x94, self.modrm(0)], 1, false, false);
    }

    fn system(&mut self) {
        let table = if self.mode == Mode::Bits64 { 10 } else { 6 };
        for (name, op) in [("SGDT", 0), ("SIDT", 1)] {
            self.memory(name, vec![0x0f, 1, self.modrm(op)], table, false, false);
        }
        self.memory("SMSW", vec![0x0f, 1, self.modrm(4)], 2, false, false);
        self.memory("SLDT", vec![0x0f, 0, self.modrm(0)], 2, false, false);
        self.memory("STR", vec![0x0f, 0, self.modrm(1)], 2, false, false);
        self.memory("MOV Sreg", vec![0x8c, self.modrm(3)], 2, false, false);
    }

    /// One element, and one with REP; many have tests of their own.
    fn strings(&mut self) {
        for &size in self.sizes() {
            for (name, opcode) in [("MOVS", 0xa5), ("STOS", 0xab), ("INS", 0x6d)] {
                if name == "INS" && size == 8 {
                    continue;
                }
                let code = self.sized(size, &[opcode]);
                self.add(name, code, size, At::Rdi, false);
            }
        }
    }

    fn stack(&mut self) {
        let wide: &[u16] = match self.mode {
            Mode::Bits64 => &[2, 8],
            _ => &[2, 4],
        };
        for &size in wide {
            let with = |t: &Self, opcode: &[u8], rest: &[u8]| {
                // 64-bit is the default of all of these.
                let mut bytes = match size {
                    8 => opcode.to_vec(),
                    size => t.sized(size, opcode),
                };
                bytes.extend(rest);
                bytes
            };
            let imm = vec![0x77; if size == 8 { 4 } else { size.into() }];
            let code = with(self, &[0x51], &[]);
            self.add("PUSH r", code, size, At::Stack(1), false);
            let code = with(self, &[0x0f, 0xa0], &[]);
            let len = if size == 4 { 2 } else { size };
            self.add("PUSH FS", code, len, At::Below(size), false);
            let code = with(self, &[0x68], &imm);
            self.add("PUSH imm", code, size, At::Stack(1), false);
            let code = with(self, &[0x9c], &[]);
            self.add("PUSHF", code, size, At::Stack(1), false);
            let code = with(self, &[0xc8], &[0, 0, 0]);
            self.add("ENTER 0", code, size, At::Stack(1), false);
            let code = with(self, &[0xc8], &[0, 0, 5]);
            self.add("ENTER 5", code, size * 6, At::Stack(6), false);
            if self.mode == Mode::Bits16 {
                let far = vec![0; usize::from(size) + 2];
                let code = with(self, &[0x9a], &far);
                self.add("CALL far", code, 2 * size, At::Stack(1), false);
                self.last().setup = Setup::Real;
            }
            let code = with(self, &[0x8f], &[self.modrm(0)]);
            self.add("POP m", code, size, At::Rbx, false);
            if self.mode != Mode::Bits64 {
                let code = with(self, &[0x60], &[]);
                self.add("PUSHA", code, size * 8, At::Stack(8), false);
            }
            if size != 2 || self.mode == Mode::Bits16 {
                let rel = vec![0; if size == 8 { 4 } else { size.into() }];
                let code = with(self, &[0xe8], &rel);
                self.add("CALL", code, size, At::Stack(1), false);
            }
        }
    }

    /// Stores of vector registers, and others that only 64-bit code is tried with.
    fn vectors(&mut self) {
        let m = self.modrm(1);
        for (name, bytes, len) in [
            ("MOVUPS", vec![0x0f, 0x11, m], 16),
            ("MOVUPD", vec![0x66, 0x0f, 0x11, m], 16),
            ("MOVDQU", vec![0xf3, 0x0f, 0x7f, m], 16),
            ("MOVSS", vec![0xf3, 0x0f, 0x11, m], 4),
            ("MOVSD", vec![0xf2, 0x0f, 0x11, m], 8),
            ("MOVLPS", vec![0x0f, 0x13, m], 8),
            ("MOVHPS", vec![0x0f, 0x17, m], 8),
            ("MOVD", vec![0x66, 0x0f, 0x7e, m], 4),
            ("MOVQ", vec![0x66, 0x0f, 0xd6, m], 8),
            ("VMOVUPS x", vec![0xc5, 0xf8, 0x11, m], 16),
            ("VMOVUPS y", vec![0xc5, 0xfc, 0x11, m], 32),
            ("VMOVDQU y", vec![0xc5, 0xfe, 0x7f, m], 32),
            ("VMASKMOVPS y", vec![0xc4, 0xe2, 0x6d, 0x2e, m], 32),
            ("VPMASKMOVQ x", vec![0xc4, 0xe2, 0xe9, 0x8e, m], 16),
        ] {
            self.memory(name, bytes, len, false, false);
        }
        for (name, bytes, len) in [
            ("MOVAPS", vec![0x0f, 0x29, m], 16),
            ("MOVDQA", vec![0x66, 0x0f, 0x7f, m], 16),
            ("MOVNTPS", vec![0x0f, 0x2b, m], 16),
            ("VMOVAPS y", vec![0xc5, 0xfc, 0x29, m], 32),
            ("VMOVNTDQ y", vec![0xc5, 0xfd, 0xe7, m], 32),
            ("CMPXCHG16B, other", vec![0x48, 0x0f, 0xc7, m], 16),
            ("CMPXCHG16B, equal", vec![0x48, 0x0f, 0xc7, m], 16),
            ("MOVDIR64B", vec![0x66, 0x0f, 0x38, 0xf8, 0x3e], 64),
        ] {
            let reads = name.starts_with("CMPXCHG");
            self.memory(name, bytes, len, reads, reads);
            for store in self.stores.iter_mut().rev().take(1 + usize::from(reads)) {
                store.align = len;
                if name.ends_with("equal") {
                    store.setup = Setup::Equal(16);
                }
            }
        }
        // RDI points to where MOVDIR64B and MASKMOVDQU write.
        self.last().at = At::Rdi;
        self.add(
            "MASKMOVDQU",
            vec![0x66, 0x0f, 0xf7, 0xca],
            16,
            At::Rdi,
            false,
        );
    }
}

/// All kinds of stores of a mode.
pub fn stores(mode: Mode) -> Vec<Store> {
    let mut table = Table {
        mode,
        stores: Vec::new(),
    };
    table.integer();
    table.words();
    table.system();
    table.strings();
    table.stack();
    if mode == Mode::Bits64 {
        table.vectors();
    }
    table.stores
}
