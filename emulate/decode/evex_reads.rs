// SPDX-License-Identifier: GPL-2.0

//! Which opcodes of the EVEX maps are assigned to instructions that at most read memory
//! (SDM 2D tables ). What their fields must be is left to the processor, for
//! they are not emulated.

use super::prefix::Pp;
use Pp::{Np, F2, F3, P66};

/// The map 0F.
pub(super) const fn map_0f(opcode: u8, pp: Pp) -> bool {
    matches!(
        (opcode, pp),
        (
            0x10 | 0x12 | 0x51 | 0x58..=0x5a | 0x5c..=0x5f | 0x78 | 0x79 | 0xc2,
            _
        ) | (
            0x14 | 0x15 | 0x28 | 0x2e | 0x2f | 0x54..=0x57 | 0xc6,
            Np | P66
        ) | (0x16 | 0x5b, Np | P66 | F3)
            | (0x2a | 0x2c | 0x2d, F3 | F2)
            | (0x60..=0x6e | 0x71..=0x76 | 0xc4 | 0xc5, P66)
            | (0x6f | 0x70 | 0x7a | 0x7b | 0xe6, P66 | F3 | F2)
            | (0x7e, F3)
            | (0xd1..=0xd5 | 0xd8..=0xe5 | 0xe8..=0xef | 0xf1..=0xf6 | 0xf8..=0xfe, P66)
    )
}

/// The map 0F38.
pub(super) const fn map_0f38(opcode: u8, pp: Pp) -> bool {
    match pp {
        Np => false,
        P66 => matches!(
            opcode,
            0x00 | 0x04
                | 0x0b..=0x0d
                | 0x10..=0x16
                | 0x18..=0x2d
                | 0x30..=0x40
                | 0x42..=0x47
                | 0x4c..=0x55
                | 0x58..=0x5b
                | 0x62
                | 0x64..=0x66
                | 0x70..=0x73
                | 0x75..=0x7f
                | 0x83
                | 0x88
                | 0x89
                | 0x8d
                | 0x8f..=0x93
                | 0x96..=0x9f
                | 0xa6..=0xaf
                | 0xb4..=0xbf
                | 0xc4
                | 0xc6..=0xc8
                | 0xca..=0xcd
                | 0xcf
                | 0xdc..=0xdf
        ),
        F3 => matches!(opcode, 0x26..=0x2a | 0x38..=0x3a | 0x52 | 0x72),
        F2 => matches!(
            opcode,
            0x52 | 0x53 | 0x68 | 0x72 | 0x9a | 0x9b | 0xaa | 0xab
        ),
    }
}

/// The map 0F3A.
pub(super) const fn map_0f3a(opcode: u8, pp: Pp) -> bool {
    match pp {
        Np => matches!(
            opcode,
            0x08 | 0x0a | 0x26 | 0x27 | 0x56 | 0x57 | 0x66 | 0x67 | 0xc2
        ),
        P66 => matches!(
            opcode,
            0x00 | 0x01
                | 0x03..=0x05
                | 0x08..=0x0b
                | 0x0f
                | 0x18
                | 0x1a
                | 0x1e..=0x23
                | 0x25..=0x27
                | 0x38
                | 0x3a
                | 0x3e
                | 0x3f
                | 0x42..=0x44
                | 0x50
                | 0x51
                | 0x54..=0x57
                | 0x66
                | 0x67
                | 0x70..=0x73
                | 0xce
                | 0xcf
        ),
        F3 => opcode == 0xc2,
        F2 => false,
    }
}

/// The map 5: half precision.
pub(super) const fn map_5(opcode: u8, pp: Pp) -> bool {
    matches!(
        (opcode, pp),
        (0x10 | 0x2a | 0x2c | 0x2d, F3)
            | (0x1d, Np | P66)
            | (0x2e | 0x2f, Np)
            | (0x51 | 0x58 | 0x59 | 0x5c..=0x5f, Np | F3)
            | (0x5a | 0x7d, _)
            | (0x5b | 0x78 | 0x79, Np | P66 | F3)
            | (0x6e, P66)
            | (0x7a, P66 | F2)
            | (0x7b, P66 | F3)
            | (0x7c, Np | P66)
    )
}

/// The map 6: half precision.
pub(super) const fn map_6(opcode: u8, pp: Pp) -> bool {
    matches!(
        (opcode, pp),
        (0x13, Np | P66)
            | (0x2c | 0x2d | 0x42 | 0x43 | 0x4c..=0x4f, P66)
            | (0x96..=0x9f | 0xa6..=0xaf | 0xb6..=0xbf, P66)
            | (0x56 | 0x57 | 0xd6 | 0xd7, F3 | F2)
    )
}
