// SPDX-License-Identifier: GPL-2.0

//! Opcodes by shape. Nothing here says what they do: the decoder must know.

/// An opcode map.
#[derive(Clone, Copy, Debug)]
pub(super) enum Map {
    One,
    Two,
    Three38,
}

/// What follows the opcode.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// Immediates at most.
    Plain,
    /// An absolute address.
    Offset,
    /// ModRM that names memory.
    Memory,
    /// ModRM that mostly names memory.
    Any,
    /// ModRM that names registers.
    Register,
}

/// Opcodes of one shape.
#[derive(Debug)]
pub(super) struct Set {
    /// How often, against other sets.
    pub(super) weight: u64,
    pub(super) map: Map,
    pub(super) vex: bool,
    pub(super) form: Form,
    /// In how many of a hundred: 66, LOCK, F2 or F3.
    pub(super) size: u64,
    pub(super) lock: u64,
    pub(super) repeat: u64,
    /// Opcodes, and which values of ModRM.reg belong to it; 0: all.
    pub(super) opcodes: &'static [(u8, u8)],
}

const ONE: Set = Set {
    weight: 1,
    map: Map::One,
    vex: false,
    form: Form::Any,
    size: 25,
    lock: 1,
    repeat: 1,
    opcodes: &[],
};
const TWO: Set = Set {
    map: Map::Two,
    ..ONE
};

/// The sum of all weights.
pub(super) const TOTAL: u64 = {
    let mut sum = 0;
    let mut n = 0;
    while n < SETS.len() {
        sum += SETS[n].weight;
        n += 1;
    }
    sum
};

#[rustfmt::skip]
pub(super) const SETS: &[Set] = &[
    // ADD to XOR, XCHG, immediate group, INC, DEC, NOT, NEG: with LOCK.
    Set {
        weight: 22,
        lock: 20,
        opcodes: &[
            (0x00, 0), (0x01, 0), (0x08, 0), (0x09, 0), (0x10, 0), (0x11, 0), (0x18, 0),
            (0x19, 0), (0x20, 0), (0x21, 0), (0x28, 0), (0x29, 0), (0x30, 0), (0x31, 0),
            (0x80, 0), (0x81, 0), (0x82, 0), (0x83, 0), (0x86, 0), (0x87, 0), (0xfe, 0x03),
            (0xff, 0x03), (0xf6, 0x0c), (0xf7, 0x0c),
        ],
        ..ONE
    },
    // The same with a register destination; TEST, MOV, IMUL, MUL, DIV, POP, PUSH.
    Set {
        weight: 18,
        opcodes: &[
            (0x02, 0), (0x03, 0), (0x0a, 0), (0x0b, 0), (0x12, 0), (0x13, 0), (0x1a, 0),
            (0x1b, 0), (0x22, 0), (0x23, 0), (0x2a, 0), (0x2b, 0), (0x32, 0), (0x33, 0),
            (0x38, 0), (0x39, 0), (0x3a, 0), (0x3b, 0), (0x63, 0), (0x69, 0), (0x6b, 0),
            (0x84, 0), (0x85, 0), (0x88, 0), (0x89, 0), (0x8a, 0), (0x8b, 0), (0x8c, 0),
            (0xf6, 0x03), (0xf7, 0x03), (0xf6, 0xf0), (0xf7, 0xf0), (0xf7, 0xf0),
        ],
        ..ONE
    },
    Set {
        weight: 8,
        opcodes: &[(0x8f, 0x01), (0xff, 0x40), (0xff, 0x54), (0xc6, 0x01), (0xc7, 0x01)],
        ..ONE
    },
    // Far branches.
    Set {
        weight: 1,
        form: Form::Memory,
        opcodes: &[(0xff, 0x28)],
        ..ONE
    },
    Set {
        weight: 1,
        form: Form::Plain,
        opcodes: &[(0x9a, 0), (0xea, 0), (0xca, 0), (0xcb, 0)],
        ..ONE
    },
    // Shifts and rotates.
    Set {
        weight: 8,
        opcodes: &[(0xc0, 0), (0xc1, 0), (0xd0, 0), (0xd1, 0), (0xd2, 0), (0xd3, 0)],
        ..ONE
    },
    Set {
        weight: 3,
        form: Form::Offset,
        opcodes: &[(0xa0, 0), (0xa1, 0), (0xa2, 0), (0xa3, 0)],
        ..ONE
    },
    // MOVS, CMPS, STOS, LODS, SCAS.
    Set {
        weight: 14,
        form: Form::Plain,
        repeat: 65,
        opcodes: &[
            (0xa4, 0), (0xa5, 0), (0xa6, 0), (0xa7, 0), (0xaa, 0), (0xab, 0), (0xac, 0),
            (0xad, 0), (0xae, 0), (0xaf, 0),
        ],
        ..ONE
    },
    // Stack, near control transfer, XLAT.
    Set {
        weight: 8,
        form: Form::Plain,
        opcodes: &[
            (0x06, 0), (0x0e, 0), (0x16, 0), (0x1e, 0), (0x50, 0), (0x53, 0), (0x54, 0),
            (0x55, 0), (0x57, 0), (0x58, 0), (0x5b, 0), (0x5c, 0), (0x5d, 0), (0x5f, 0),
            (0x60, 0), (0x60, 0), (0x61, 0), (0x61, 0), (0x68, 0), (0x6a, 0), (0x9c, 0),
            (0xc2, 0), (0xc3, 0), (0xc8, 0), (0xc8, 0), (0xc9, 0), (0xd7, 0), (0xe8, 0),
        ],
        ..ONE
    },
    // CMPXCHG, XADD, CMPXCHG8B, BT*: with LOCK.
    Set {
        weight: 14,
        lock: 20,
        opcodes: &[
            (0xb0, 0), (0xb1, 0), (0xb0, 0), (0xb1, 0), (0xc0, 0), (0xc1, 0), (0xc7, 0x02),
            (0xc7, 0x02), (0xa3, 0), (0xab, 0), (0xb3, 0), (0xbb, 0), (0xba, 0xf0),
        ],
        ..TWO
    },
    // SHLD, SHRD, IMUL, MOVZX, MOVSX, MOVNTI, SETcc, CMOVcc.
    Set {
        weight: 14,
        opcodes: &[
            (0xa4, 0), (0xa5, 0), (0xac, 0), (0xad, 0), (0xaf, 0), (0xb6, 0), (0xb7, 0),
            (0xbe, 0), (0xbf, 0), (0xc3, 0), (0x40, 0), (0x41, 0), (0x42, 0), (0x43, 0),
            (0x44, 0), (0x45, 0), (0x46, 0), (0x47, 0), (0x48, 0), (0x49, 0), (0x4a, 0),
            (0x4b, 0), (0x4c, 0), (0x4d, 0), (0x4e, 0), (0x4f, 0), (0x90, 0), (0x91, 0),
            (0x92, 0), (0x93, 0), (0x94, 0), (0x95, 0), (0x96, 0), (0x97, 0), (0x98, 0),
            (0x99, 0), (0x9a, 0), (0x9b, 0), (0x9c, 0), (0x9d, 0), (0x9e, 0), (0x9f, 0),
        ],
        ..TWO
    },
    // POPCNT, BSF and TZCNT, BSR and LZCNT.
    Set {
        weight: 4,
        repeat: 50,
        opcodes: &[(0xb8, 0), (0xbc, 0), (0xbd, 0)],
        ..TWO
    },
    // PUSH FS, GS.
    Set {
        weight: 1,
        form: Form::Plain,
        opcodes: &[(0xa0, 0), (0xa8, 0)],
        ..TWO
    },
    // MOVBE, CRC32, MOVDIR64B, MOVDIRI.
    Set {
        weight: 5,
        map: Map::Three38,
        repeat: 30,
        opcodes: &[(0xf0, 0), (0xf1, 0), (0xf8, 0), (0xf9, 0)],
        ..ONE
    },
    // SSE moves.
    Set {
        weight: 14,
        form: Form::Memory,
        size: 40,
        repeat: 30,
        opcodes: &[
            (0x10, 0), (0x11, 0), (0x12, 0), (0x13, 0), (0x16, 0), (0x17, 0), (0x28, 0),
            (0x29, 0), (0x2b, 0), (0x6e, 0), (0x6f, 0), (0x7e, 0), (0x7f, 0), (0xd6, 0),
            (0xe7, 0), (0xf0, 0),
        ],
        ..TWO
    },
    Set {
        weight: 1,
        map: Map::Three38,
        form: Form::Memory,
        size: 90,
        opcodes: &[(0x2a, 0)],
        ..ONE
    },
    // MASKMOVDQU.
    Set {
        weight: 2,
        form: Form::Register,
        size: 90,
        opcodes: &[(0xf7, 0)],
        ..TWO
    },
    // AVX moves.
    Set {
        weight: 18,
        vex: true,
        form: Form::Memory,
        opcodes: &[
            (0x10, 0), (0x11, 0), (0x12, 0), (0x13, 0), (0x16, 0), (0x17, 0), (0x28, 0),
            (0x29, 0), (0x2b, 0), (0x6e, 0), (0x6f, 0), (0x7e, 0), (0x7f, 0), (0xd6, 0),
            (0xe7, 0), (0xf0, 0),
        ],
        ..TWO
    },
    // VMOVNTDQA, VMASKMOVPS, VMASKMOVPD, VPMASKMOVD, VPMASKMOVQ.
    Set {
        weight: 4,
        vex: true,
        map: Map::Three38,
        form: Form::Memory,
        opcodes: &[(0x2a, 0), (0x2e, 0), (0x2f, 0), (0x8e, 0), (0x8e, 0)],
        ..ONE
    },
    Set {
        weight: 1,
        vex: true,
        form: Form::Register,
        opcodes: &[(0xf7, 0)],
        ..TWO
    },
    // Whatever else the decoder takes for one of these.
    Set {
        weight: 3,
        opcodes: EVERY,
        ..ONE
    },
    Set {
        weight: 3,
        opcodes: EVERY,
        ..TWO
    },
];

const EVERY: &[(u8, u8)] = &{
    let mut all = [(0, 0); 256];
    let mut n = 0;
    while n < 256 {
        all[n] = (n as u8, 0);
        n += 1;
    }
    all
};
