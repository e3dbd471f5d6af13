// SPDX-License-Identifier: GPL-2.0

//! Random bytes that are more often an instruction than random bytes are.

use crate::insn::CodeSize;

/// More than the longest instruction, so that its end is never the buffer's.
pub(super) const BYTES: usize = 24;

/// A sequence of random numbers (xorshift64*).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 32) % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn byte(&mut self) -> u8 {
        (self.next() >> 56) as u8
    }
}

const PREFIXES: [u8; 11] = [
    0x66, 0x66, 0x66, 0x67, 0xf2, 0xf2, 0xf3, 0xf3, 0xf0, 0x64, 0x2e,
];
const SEGMENTS: [u8; 6] = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65];

/// Bytes of one case.
pub(super) fn case(random: &mut Random, code: CodeSize) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&random.next().to_le_bytes());
    }
    // Pure noise now and then, long rows of prefixes among it.
    if random.one_in(16) {
        return bytes;
    }
    let mut at = 0;
    let mut put = |byte: u8| {
        bytes[at] = byte;
        at += 1;
    };
    let map = random.below(100);
    let plain = map < 72;
    let prefixes = match random.below(16) {
        0..=6 => 0,
        7..=10 => 1,
        11..=13 => 2,
        14 => 3,
        _ => random.below(14),
    };
    for _ in 0..prefixes {
        if !plain && !random.one_in(16) {
            put(SEGMENTS[random.below(6) as usize]);
        } else {
            put(PREFIXES[random.below(11) as usize]);
        }
    }
    if code == CodeSize::Bits64 && random.one_in(if plain { 3 } else { 64 }) {
        put(0x40 | random.byte() & 15);
    }
    match map {
        0..=29 => {}
        30..=55 => put(0x0f),
        56..=63 => [0x0f, 0x38].into_iter().for_each(put),
        64..=71 => [0x0f, 0x3a].into_iter().for_each(put),
        72..=76 => [0xc5, vex(random)].into_iter().for_each(put),
        77..=84 => vex3(random, 0xc4, 1).into_iter().for_each(put),
        85..=88 => vex3(random, 0x8f, 8).into_iter().for_each(put),
        _ => evex(random).into_iter().for_each(put),
    }
    bytes
}

/// The last byte of a VEX prefix, most often with vvvv of 1111b.
fn vex(random: &mut Random) -> u8 {
    let byte = random.byte();
    match random.below(4) {
        0 => byte,
        1 => byte | 0x78,
        _ => byte | 0x78 & !4,
    }
}

/// A prefix of three bytes, most often of an existing map and valid outside 64-bit mode.
fn vex3(random: &mut Random, first: u8, map: u8) -> [u8; 3] {
    let mut rxb = random.byte();
    if !random.one_in(16) {
        rxb = rxb & 0xe0 | (map + random.below(3) as u8);
    }
    if random.one_in(2) {
        rxb |= 0xc0;
    }
    [first, rxb, vex(random)]
}

fn evex(random: &mut Random) -> [u8; 4] {
    let mut p0 = random.byte();
    let mut p1 = random.byte();
    let mut p2 = random.byte();
    if !random.one_in(32) {
        p0 &= 0xf7;
        p1 |= 4;
    }
    if random.one_in(2) {
        p0 |= 0xd0;
    }
    if !random.one_in(4) {
        p1 |= 0x78;
        p2 |= 8;
    }
    if !random.one_in(4) {
        p2 &= 0x6f;
    }
    if !random.one_in(3) {
        p2 &= 0xf8;
    }
    [0x62, p0, p1, p2]
}
