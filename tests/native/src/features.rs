// SPDX-License-Identifier: GPL-2.0

//! What the processor has, as far as the tests depend on it.

use emulate::insn::{CodeSize, Insn};
use emulate::op::Op;

use crate::allowed::is_vector;

/// What the processor has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Features {
    /// It is AMD's.
    pub amd: bool,
    /// State components of XCR0 that vector instructions use.
    pub xfeatures: u64,
    avx2: bool,
    crc32: bool,
    movbe: bool,
    popcnt: bool,
    lzcnt: bool,
    tzcnt: bool,
    movdiri: bool,
    movdir64b: bool,
    cmpxchg16b: bool,
    /// Locked accesses may cross cache lines: elsewhere the kernel slows them down.
    split_locks: bool,
}

impl Features {
    /// Reads them.
    ///
    /// # Errors
    ///
    /// That the kernel does not tell.
    pub fn read() -> Result<Self, String> {
        let path = "/proc/cpuinfo";
        let text = std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
        Ok(Self::parse(&text))
    }

    fn parse(cpuinfo: &str) -> Self {
        let line = |name: &str| {
            let found = cpuinfo.lines().find(|line| line.starts_with(name));
            found
                .and_then(|line| line.split_once(':'))
                .map_or("", |(_, rest)| rest)
        };
        let flags = line("flags");
        let has = |flag: &str| flags.split_ascii_whitespace().any(|word| word == flag);
        Self {
            amd: matches!(line("vendor_id").trim(), "AuthenticAMD" | "HygonGenuine"),
            xfeatures: 0,
            avx2: has("avx2"),
            crc32: has("sse4_2"),
            movbe: has("movbe"),
            popcnt: has("popcnt"),
            lzcnt: has("abm"),
            tzcnt: has("bmi1"),
            movdiri: has("movdiri"),
            movdir64b: has("movdir64b"),
            cmpxchg16b: has("cx16"),
            split_locks: !has("split_lock_detect") && !has("bus_lock_detect"),
        }
    }

    /// Whether the instruction is what the decoder takes it for on this processor too.
    pub fn has(&self, insn: &Insn, code: CodeSize, bytes: &[u8]) -> bool {
        match insn.op {
            Op::Crc32 => self.crc32,
            Op::MovbeLoad | Op::MovbeStore => self.movbe,
            Op::Popcnt => self.popcnt,
            Op::Lzcnt => self.lzcnt,
            Op::Tzcnt => self.tzcnt,
            Op::Movdiri => self.movdiri,
            Op::Movdir64b => self.movdir64b,
            Op::Cmpxchg16b => self.cmpxchg16b,
            // AMD heeds 66 in 64-bit code, Intel does not (SDM 2, CALL; APM 3, CALL).
            Op::CallNear | Op::JmpNear | Op::RetNear if self.amd => {
                code != CodeSize::Bits64 || !has_prefix(bytes, 0x66)
            }
            // Offsets of 8 bytes are Intel's.
            Op::CallFar | Op::JmpFar if self.amd => insn.size < 8,
            // MOVNTDQA of SSE4.1 is with CRC32 of SSE4.2, all of AVX with AVX2.
            op if is_vector(op) => self.crc32 && (!insn.vex || self.avx2),
            _ => true,
        }
    }

    /// What this processor does not have and is not tested.
    pub fn missing(&self) -> Vec<&'static str> {
        [
            (self.avx2, "AVX2"),
            (self.crc32, "SSE4.2"),
            (self.movbe, "MOVBE"),
            (self.popcnt, "POPCNT"),
            (self.lzcnt, "LZCNT"),
            (self.tzcnt, "BMI1"),
            (self.movdiri, "MOVDIRI"),
            (self.movdir64b, "MOVDIR64B"),
            (self.cmpxchg16b, "CMPXCHG16B"),
            (self.split_locks, "locked accesses across cache lines"),
        ]
        .into_iter()
        .filter_map(|(has, name)| (!has).then_some(name))
        .collect()
    }

    /// Whether locked accesses may cross cache lines.
    pub const fn split_locks(&self) -> bool {
        self.split_locks
    }
}

/// The instruction has a legacy prefix.
fn has_prefix(bytes: &[u8], prefix: u8) -> bool {
    const PREFIXES: [u8; 11] = [
        0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3,
    ];
    bytes
        .iter()
        .take_while(|byte| PREFIXES.contains(byte) || **byte & 0xf0 == 0x40)
        .any(|byte| *byte == prefix)
}
