// SPDX-License-Identifier: GPL-2.0

//! Random instructions, by the shape of their encodings.
//!
//! Immediates are random bytes: how many of them there are, the decoder must know.

mod sets;

use emulate::insn::CodeSize;

use crate::mode::Mode;
use crate::rng::Rng;
use sets::{Form, Map, Set, SETS, TOTAL};

/// Bytes that begin with an instruction, perhaps.
#[derive(Clone, Copy, Debug)]
pub struct Encoding {
    /// They; what the instruction does not need is random.
    pub bytes: [u8; 32],
    /// Where the displacement or the absolute address is, and how long.
    pub disp: (usize, usize),
    /// Where the immediate begins.
    pub immediate: usize,
}

/// Makes encodings for one mode.
#[derive(Debug)]
pub struct Encoder<'a> {
    mode: Mode,
    rng: &'a mut Rng,
    bytes: Vec<u8>,
    disp: (usize, usize),
    addr_size: u8,
    rex: u8,
}

const REX: u8 = 0x40;
const SEGMENTS: [u8; 6] = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65];

impl<'a> Encoder<'a> {
    /// An encoder that draws from `rng`.
    pub fn new(mode: Mode, rng: &'a mut Rng) -> Self {
        Self {
            mode,
            rng,
            bytes: Vec::with_capacity(32),
            disp: (0, 0),
            addr_size: 0,
            rex: 0,
        }
    }

    /// A random encoding.
    pub fn encode(mut self) -> Encoding {
        let set = self.set();
        let (opcode, extensions) = self.rng.pick(set.opcodes);
        self.prefixes(set);
        if set.vex {
            self.vex(set.map, opcode);
        } else {
            self.legacy(set.map, opcode);
        }
        match set.form {
            Form::Plain => (),
            Form::Offset => {
                self.disp = (self.bytes.len(), self.addr_size.into());
                self.random(self.addr_size.into());
            }
            Form::Memory | Form::Any | Form::Register => self.modrm(set.form, extensions),
        }
        let immediate = self.bytes.len();
        let mut bytes = [0; 32];
        self.rng.fill(&mut bytes);
        bytes[..immediate].copy_from_slice(&self.bytes);
        Encoding {
            bytes,
            disp: self.disp,
            immediate,
        }
    }

    fn set(&mut self) -> &'static Set {
        let mut n = self.rng.below(TOTAL);
        for set in SETS {
            match n.checked_sub(set.weight) {
                Some(rest) => n = rest,
                None => return set,
            }
        }
        &SETS[0]
    }

    const fn long(&self) -> bool {
        matches!(self.mode.0, CodeSize::Bits64)
    }

    /// Legacy prefixes in any order, now and then one twice, and REX.
    fn prefixes(&mut self, set: &Set) {
        let rng = &mut *self.rng;
        let mut prefixes = Vec::with_capacity(8);
        let mut add = |rng: &mut Rng, percent, prefix| {
            if rng.chance(percent) {
                prefixes.push(prefix);
            }
            if rng.chance(percent) && rng.chance(3) {
                prefixes.push(prefix);
            }
        };
        let segment = rng.pick(&SEGMENTS);
        add(
            rng,
            if self.mode == Mode::ALL[0] { 12 } else { 25 },
            segment,
        );
        add(rng, if set.vex { 1 } else { set.size }, 0x66);
        add(rng, 15, 0x67);
        add(rng, set.lock, 0xf0);
        let repeat = rng.pick(&[0xf2, 0xf3]);
        add(rng, set.repeat, repeat);
        for n in (1..prefixes.len()).rev() {
            let other = rng.below(n as u64 + 1) as usize;
            prefixes.swap(n, other);
        }
        let addr = prefixes.contains(&0x67);
        self.addr_size = match (self.mode.0, addr) {
            (CodeSize::Bits64, false) => 8,
            (CodeSize::Bits64, true) | (CodeSize::Bits32, false) => 4,
            (CodeSize::Bits16, true) => 4,
            (CodeSize::Bits32, true) | (CodeSize::Bits16, false) => 2,
        };
        // A REX prefix that does not stand before the opcode has no effect.
        if self.long() && self.rng.chance(1) {
            let at = self.rng.below(prefixes.len() as u64 + 1) as usize;
            let void = REX | self.rng.byte() & 0xf;
            prefixes.insert(at, void);
        }
        self.bytes.extend(prefixes);
    }

    fn legacy(&mut self, map: Map, opcode: u8) {
        if self.long() && self.rng.chance(50) {
            self.rex = REX | self.rng.byte() & 0xf;
            self.bytes.push(self.rex);
        }
        self.bytes.extend(match map {
            Map::One => &[][..],
            Map::Two => &[0x0f],
            Map::Three38 => &[0x0f, 0x38],
        });
        self.bytes.push(opcode);
    }

    /// A VEX prefix: of two bytes where that says the same, half of the time.
    fn vex(&mut self, map: Map, opcode: u8) {
        // Inverted: R, X and B are 0 outside 64-bit mode.
        let rxb = if self.long() {
            self.rng.byte() & 0xe0
        } else {
            0xe0
        };
        let vvvv = match self.rng.chance(70) {
            true => 0x78,
            false => self.rng.byte() & 0x78,
        };
        let rest = vvvv | self.rng.byte() & 7;
        let w = if self.rng.chance(25) { 0x80 } else { 0 };
        let short = matches!(map, Map::Two) && rxb & 0x60 == 0x60 && w == 0;
        if short && self.rng.chance(50) {
            self.bytes.extend([0xc5, rxb & 0x80 | rest]);
        } else {
            let number = match map {
                Map::Three38 => 2,
                _ => 1,
            };
            self.bytes.extend([0xc4, rxb | number, w | rest]);
        }
        self.bytes.push(opcode);
    }

    fn modrm(&mut self, form: Form, extensions: u8) {
        let register = match form {
            Form::Register => true,
            Form::Memory => self.rng.chance(1),
            _ => self.rng.chance(12),
        };
        let mode = if register { 3 } else { self.rng.below(3) as u8 };
        let middle = match extensions {
            0 => self.rng.byte() & 7,
            set => loop {
                let n = self.rng.byte() & 7;
                if set >> n & 1 != 0 {
                    break n;
                }
            },
        };
        let rm = self.rng.byte() & 7;
        self.bytes.push(mode << 6 | middle << 3 | rm);
        let disp = match (mode, self.addr_size) {
            (3, _) => 0,
            (_, 2) => self.displacement_16(mode, rm),
            _ => self.displacement_32(mode, rm),
        };
        self.disp = (self.bytes.len(), disp);
        self.random(disp);
    }

    fn displacement_16(&self, mode: u8, rm: u8) -> usize {
        match (mode, rm) {
            (0, 6) | (2, _) => 2,
            (1, _) => 1,
            _ => 0,
        }
    }

    /// Adds the SIB byte and says how many bytes of displacement follow.
    fn displacement_32(&mut self, mode: u8, rm: u8) -> usize {
        let mut base = rm;
        if rm == 4 {
            let sib = self.rng.byte();
            self.bytes.push(sib);
            base = sib & 7;
        }
        match (mode, base) {
            (0, 5) | (2, _) => 4,
            (1, _) => 1,
            _ => 0,
        }
    }

    /// Displacements: any, or small.
    fn random(&mut self, len: usize) {
        let value = match self.rng.chance(50) {
            true => self.rng.next(),
            false => (self.rng.below(512) as i64 - 256) as u64,
        };
        self.bytes.extend(&value.to_le_bytes()[..len]);
    }
}
