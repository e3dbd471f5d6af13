// SPDX-License-Identifier: GPL-2.0

//! The instruction of a vCPU that was fetched and decoded last.

use super::guest::GuestMemory;
use emulate::{
    cpu::Cpu,
    decode::{
        self,
        DecodeError, //
    },
    fetch::{
        self,
        Fetched, //
    },
    insn::{
        CodeSize,
        Insn,
        MAX_BYTES, //
    }, //
};

/// The instruction that was decoded last: a loop that waits for a device, or fills a page
/// with a map, has the same one again and again.
pub(crate) struct Decoded {
    /// The bytes that were fetched last.
    pub(crate) fetched: Fetched,
    code: CodeSize,
    /// What they begin with, if it could be decoded.
    pub(crate) insn: Option<Insn>,
}

impl Decoded {
    /// Nothing was decoded.
    pub(crate) const NOTHING: Self = Self {
        fetched: Fetched::NOTHING,
        code: CodeSize::Bits16,
        insn: None,
    };

    /// Fetches and decodes the instruction that `cpu` is at.
    ///
    /// # Errors
    ///
    /// Why it cannot be decoded.
    pub(crate) fn fetch(
        &mut self,
        memory: &mut GuestMemory<'_>,
        cpu: &Cpu,
    ) -> Result<(), DecodeError> {
        let before = as_number(&self.fetched.bytes);
        fetch::again(memory, &cpu.code_location(), &mut self.fetched);
        if self.code != cpu.code || !self.begins(before) {
            self.insn = None;
            self.code = cpu.code;
            self.insn = Some(decode::decode(self.fetched.get(), cpu.code)?);
        }
        Ok(())
    }

    /// Whether what was fetched begins with the instruction, which is at the beginning of
    /// `before`. Bytes behind it do not count.
    fn begins(&self, before: u128) -> bool {
        let Some(insn) = &self.insn else {
            return false;
        };
        let behind = u128::MAX.wrapping_shl(u32::from(insn.len) << 3);
        let differing = before ^ as_number(&self.fetched.bytes);
        self.fetched.len >= insn.len && differing & !behind == 0
    }
}

/// The first byte lowest.
fn as_number(bytes: &[u8; MAX_BYTES]) -> u128 {
    let mut all = [0; size_of::<u128>()];
    for (to, from) in all.iter_mut().zip(bytes) {
        *to = *from;
    }
    u128::from_le_bytes(all)
}
