// SPDX-License-Identifier: GPL-2.0

//! POP and XOP, which share 8F (AMD64 Architecture Programmer's Manual 6, 1.2.5).

use super::entry::{At, Entry, Size};
use super::operand::Decoder;
use super::{vex, DecodeError};
use crate::op::Op;

/// 8F: XOP if the map is 8 or above, where POP has ModRM.reg 0.
pub(super) fn pop_or_xop(d: &mut Decoder<'_>) -> Result<Entry, DecodeError> {
    if d.cursor.peek()? & 0x1f < 8 {
        return match d.modrm()?.reg() {
            0 => Ok(Entry::new(Op::Pop, Size::D64, At::Rm, At::None).implicit()),
            _ => Err(DecodeError::Undefined),
        };
    }
    let rxb = d.cursor.u8()?;
    let wvlp = d.cursor.u8()?;
    let map = vex::prefix(d, rxb, wvlp)?;
    d.opcode = d.cursor.u8()?;
    let lwp = matches!((map, d.opcode), (9 | 10, 0x12));
    let entry = if lwp {
        // Lightweight profiling writes to buffers of its own.
        Entry::new(Op::OtherWrite, Size::V, At::None, At::Rm).implicit()
    } else {
        Entry::READ
    };
    Ok(match map {
        8 => entry.byte(),
        9 => entry,
        10 => entry.third(At::Dword),
        _ => return Err(DecodeError::Undefined),
    })
}
