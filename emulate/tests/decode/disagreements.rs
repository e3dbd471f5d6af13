// SPDX-License-Identifier: GPL-2.0

//! Where our decoder and iced-x86 differ on purpose. A difference that is not here fails
//! the tests, and so does an entry that no case of a long run needs.

use std::format;

use iced_x86::{CpuidFeature, Instruction, Mnemonic};

use super::compare::Kind;
use crate::decode::DecodeError;
use crate::insn::{CodeSize, Insn};
use crate::op::Op;

/// A case in which the two differ.
pub(super) struct Case<'a> {
    pub(super) kind: Kind,
    pub(super) ours: &'a Result<Insn, DecodeError>,
    pub(super) theirs: &'a Instruction,
    pub(super) bytes: &'a [u8],
    pub(super) code: CodeSize,
}

/// A class of cases that may differ.
pub(super) struct Disagreement {
    /// Why ours is right, or right enough.
    pub(super) reason: &'static str,
    pub(super) matches: fn(&Case<'_>) -> bool,
}

/// All there are.
pub(super) const LIST: &[Disagreement] = &[
    Disagreement {
        reason: "UD0, UD1 and UD2 exist to raise #UD",
        matches: |case| {
            let mnemonic = case.theirs.mnemonic();
            case.kind == Kind::OnlyTheirs
                && matches!(mnemonic, Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2)
        },
    },
    Disagreement {
        reason: "only VIA processors have PadLock; Intel's raise #UD",
        matches: |case| {
            let padlock = |feature: &CpuidFeature| {
                matches!(
                    feature,
                    CpuidFeature::PADLOCK_ACE
                        | CpuidFeature::PADLOCK_GMI
                        | CpuidFeature::PADLOCK_PHE
                        | CpuidFeature::PADLOCK_PMM
                        | CpuidFeature::PADLOCK_RNG
                        | CpuidFeature::PADLOCK_UNDOC
                )
            };
            case.kind == Kind::OnlyTheirs && case.theirs.cpuid_features().iter().any(padlock)
        },
    },
    Disagreement {
        reason: "an unassigned opcode whose length is known is refused and not #UD: \
                 a newer processor may have it",
        matches: |case| case.only_ours(&[Op::Unknown]),
    },
    Disagreement {
        reason: "what EVEX fields must be is checked for stores; others are refused, or \
                 entered again, either way",
        matches: |case| {
            case.only_ours(&[Op::NoMemory, Op::OtherRead, Op::Scatter])
                && matches!(case.opcode(), [0x62, ..])
        },
    },
    Disagreement {
        reason: "numbers of mask and tile registers above 7, and registers of gathers and \
                 tiles that coincide, are not checked: none of these is emulated",
        matches: |case| {
            let opcode = match case.opcode() {
                [0xc5, _, opcode, ..] => (1, *opcode),
                [0xc4, map, _, opcode, ..] => (map & 0x1f, *opcode),
                _ => return false,
            };
            let (masks, tiles, gathers) = (
                matches!(
                    opcode,
                    (1, 0x41..=0x4b | 0x90 | 0x92..=0x99) | (3, 0x30..=0x33)
                ),
                matches!(opcode, (2, 0x49 | 0x4b | 0x5c | 0x5e | 0x6c)),
                matches!(opcode, (2, 0x90..=0x93)),
            );
            case.only_ours(&[Op::NoMemory, Op::OtherRead]) && (masks || tiles || gathers)
        },
    },
    Disagreement {
        reason: "of XOP, which only some AMD processors have, no more than the length is told",
        matches: |case| {
            case.only_ours(&[Op::NoMemory, Op::OtherRead, Op::OtherWrite])
                && matches!(case.opcode(), [0x8f, ..])
        },
    },
    Disagreement {
        reason: "of 3DNow!, which only old AMD processors have, no more than the length is told",
        matches: |case| {
            case.only_ours(&[Op::NoMemory, Op::OtherRead])
                && matches!(case.opcode(), [0x0f, 0x0f, ..])
        },
    },
    Disagreement {
        reason: "reserved x87 encodings with registers touch no memory: the processor decides",
        matches: |case| {
            case.only_ours(&[Op::NoMemory]) && matches!(case.opcode(), [0xd8..=0xdf, ..])
        },
    },
    Disagreement {
        reason: "what MPX makes #UD is a NOP where MPX is not enabled",
        matches: |case| {
            case.only_ours(&[Op::NoMemory, Op::OtherRead, Op::Bound])
                && matches!(case.opcode(), [0x0f, 0x1a | 0x1b, ..])
        },
    },
    Disagreement {
        reason: "XSAVEC and XSAVES only write, but are one operation with XSAVE",
        matches: |case| {
            let mnemonic = format!("{:?}", case.theirs.mnemonic());
            case.kind == Kind::Access
                && (mnemonic.starts_with("Xsavec") || mnemonic.starts_with("Xsaves"))
        },
    },
];

impl Case<'_> {
    /// Only ours takes it for an instruction, and for one of `ops`.
    fn only_ours(&self, ops: &[Op]) -> bool {
        self.kind == Kind::OnlyOurs && self.ours.is_ok_and(|insn| ops.contains(&insn.op))
    }

    /// What follows the prefixes.
    fn opcode(&self) -> &[u8] {
        let prefix = |byte: &u8| match byte {
            0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3 => true,
            0x40..=0x4f => self.code == CodeSize::Bits64,
            _ => false,
        };
        let at = self.bytes.iter().position(|byte| !prefix(byte));
        at.and_then(|at| self.bytes.get(at..)).unwrap_or_default()
    }
}
