// SPDX-License-Identifier: GPL-2.0

//! Our decoder and iced-x86 on the same bytes.

use std::format;
use std::string::String;
use std::vec::Vec;

use iced_x86::{
    Code, Decoder, DecoderOptions, Instruction, InstructionInfoFactory, OpAccess, UsedMemory,
};

use super::super::{decode, DecodeError};
use super::operands;
use crate::insn::{CodeSize, Insn, MemAccess};
use crate::op::{Op, Policy};

/// In what two decoders differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Only ours takes it for an instruction.
    OnlyOurs,
    /// Only theirs does.
    OnlyTheirs,
    /// Its bytes.
    Length,
    /// Ours knows only the length.
    Unknown,
    /// Whether it reads or writes memory.
    Access,
    /// Its name.
    Name,
    /// The operand in memory.
    Memory,
    /// Bytes of the operand in memory.
    MemorySize,
    /// Registers and immediates.
    Operands,
    /// LOCK, REP, conditions, vector lengths, alignment.
    Attributes,
}

/// A difference, and what both say.
pub(super) struct Difference {
    pub(super) kind: Kind,
    pub(super) text: String,
}

pub(super) const fn bits(code: CodeSize) -> u32 {
    match code {
        CodeSize::Bits16 => 16,
        CodeSize::Bits32 => 32,
        CodeSize::Bits64 => 64,
    }
}

/// The other decoder.
pub(super) struct Oracle {
    info: InstructionInfoFactory,
    /// What it made of the last bytes.
    pub(super) theirs: Instruction,
}

impl Oracle {
    pub(super) fn new() -> Self {
        Self {
            info: InstructionInfoFactory::new(),
            theirs: Instruction::default(),
        }
    }

    /// Decodes `bytes` with both. What ours makes of it, and the first difference.
    pub(super) fn compare(
        &mut self,
        bytes: &[u8],
        code: CodeSize,
    ) -> (Result<Insn, DecodeError>, Option<Difference>) {
        let ours = decode(bytes, code);
        let mut decoder = Decoder::with_ip(bits(code), bytes, 0, DecoderOptions::MPX);
        decoder.decode_out(&mut self.theirs);
        let difference = self.difference(&ours, code);
        let difference = difference.map(|(kind, text)| Difference { kind, text });
        (ours, difference)
    }

    fn difference(
        &mut self,
        ours: &Result<Insn, DecodeError>,
        code: CodeSize,
    ) -> Option<(Kind, String)> {
        let theirs = &self.theirs;
        let insn = match (ours, theirs.code()) {
            (Err(_), Code::INVALID) => return None,
            (Ok(insn), Code::INVALID) => return Some((Kind::OnlyOurs, format!("{:?}", insn.op))),
            (Err(error), _) => return Some((Kind::OnlyTheirs, format!("{error:?}"))),
            (Ok(insn), _) => insn,
        };
        if usize::from(insn.len) != theirs.len() {
            return Some((Kind::Length, format!("{} {}", insn.len, theirs.len())));
        }
        if insn.op == Op::Unknown {
            return Some((Kind::Unknown, String::new()));
        }
        let memory = self.info.info(theirs).used_memory();
        let with = |kind| move |text| (kind, text);
        if let Some(text) = access(insn, memory) {
            return Some((Kind::Access, text));
        }
        if !matches!(insn.op.policy(), Policy::Emulated | Policy::SingleStep) {
            return None;
        }
        operands::name(insn, theirs)
            .map(with(Kind::Name))
            .or_else(|| operands::memory(insn, theirs, code).map(with(Kind::Memory)))
            .or_else(|| operands::memory_size(insn, theirs).map(with(Kind::MemorySize)))
            .or_else(|| operands::operands(insn, theirs).map(with(Kind::Operands)))
            .or_else(|| operands::implied_size(insn, memory).map(with(Kind::Attributes)))
            .or_else(|| operands::attributes(insn, theirs).map(with(Kind::Attributes)))
    }
}

const fn reads(access: OpAccess) -> bool {
    matches!(
        access,
        OpAccess::Read | OpAccess::CondRead | OpAccess::ReadWrite | OpAccess::ReadCondWrite
    )
}

const fn writes(access: OpAccess) -> bool {
    matches!(
        access,
        OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
    )
}

/// What an operation does to memory, as (reads, writes).
const fn both(access: MemAccess) -> (bool, bool) {
    match access {
        MemAccess::None => (false, false),
        MemAccess::Read => (true, false),
        MemAccess::Write => (false, true),
        MemAccess::ReadWrite => (true, true),
    }
}

fn access(insn: &Insn, memory: &[UsedMemory]) -> Option<String> {
    let any = |wanted: fn(OpAccess) -> bool| memory.iter().any(|used| wanted(used.access()));
    let theirs = (any(reads), any(writes));
    let op = insn.op;
    let wrong = match op.policy() {
        Policy::Reenter => theirs != (false, false),
        Policy::Refused => theirs.1 && !both(op.access()).1 && !both(op.implied()).1,
        Policy::Emulated | Policy::SingleStep => {
            let string = operands::is_string(op);
            let operand = if string { op.access() } else { insn.access() };
            let (read, write) = both(operand);
            let implied = both(op.implied());
            // ENTER reads frame pointers of outer levels, if there are any.
            let outer = op != Op::Enter || insn.imm2 & 31 > 1;
            theirs != (read || implied.0 && outer, write || implied.1)
        }
    };
    wrong.then(|| {
        let theirs: Vec<_> = memory.iter().map(UsedMemory::access).collect();
        format!("{op:?} {:?} {theirs:?}", insn.access())
    })
}
