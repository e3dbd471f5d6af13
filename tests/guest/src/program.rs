// SPDX-License-Identifier: GPL-2.0

//! Machine code with the address and length of every instruction.

use crate::Mode;
use iced_x86::code_asm::{CodeAssembler, CodeLabel};
use iced_x86::{BlockEncoderOptions, IcedError};
use std::collections::BTreeMap;

/// Why a program does not assemble.
pub type AssembleError = IcedError;

/// An assembled program.
#[derive(Clone, Debug)]
pub struct Program {
    /// The mode that it runs in.
    pub mode: Mode,
    /// Where it must be loaded, and its first instruction.
    pub address: u64,
    /// Its bytes.
    pub code: Vec<u8>,
    /// The addresses of the labels which the author returned, in that order.
    pub labels: Vec<u64>,
    lengths: BTreeMap<u64, u64>,
}

impl Program {
    /// Assembles what `author` writes, for `address`.
    ///
    /// # Errors
    /// Those of the assembler: operands that do not exist in `mode`, or a label
    /// that is not set.
    pub fn assemble(
        mode: Mode,
        address: u64,
        author: impl FnOnce(&mut CodeAssembler) -> Result<Vec<CodeLabel>, AssembleError>,
    ) -> Result<Self, AssembleError> {
        let mut assembler = CodeAssembler::new(mode.bitness())?;
        let labels = author(&mut assembler)?;
        let options = BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS;
        let result = assembler.assemble_options(address, options)?;
        let labels = labels
            .iter()
            .map(|l| result.label_ip(l))
            .collect::<Result<_, _>>()?;
        let code = result.inner.code_buffer;
        let starts = result.inner.new_instruction_offsets;
        Ok(Self {
            mode,
            address,
            lengths: lengths(address, &starts, code.len()),
            code,
            labels,
        })
    }

    /// Bytes of the instruction at `rip`, if one begins there.
    pub fn len_at(&self, rip: u64) -> Option<u64> {
        self.lengths.get(&rip).copied()
    }

    /// The addresses of all instructions.
    pub fn instructions(&self) -> impl Iterator<Item = u64> + '_ {
        self.lengths.keys().copied()
    }
}

fn lengths(address: u64, starts: &[u32], size: usize) -> BTreeMap<u64, u64> {
    let ends = starts
        .iter()
        .skip(1)
        .map(|&s| u64::from(s))
        .chain([size as u64]);
    starts
        .iter()
        .zip(ends)
        .map(|(&start, end)| (address + u64::from(start), end - u64::from(start)))
        .collect()
}

#[cfg(test)]
#[path = "../tests/unit/program.rs"]
mod tests;
