// SPDX-License-Identifier: GPL-2.0

//! The decoder over arbitrary bytes.
//!
//! An instruction is decoded by its own bytes alone: fewer are too few, and what follows
//! does not matter. What is wrong stays wrong with more bytes.

use emulate::decode::{decode, DecodeError};
use emulate::insn::{CodeSize, Insn, Operand, MAX_BYTES};

use crate::input::Input;

/// The target: one instruction after the other.
pub fn run(data: &[u8]) {
    let input = &mut Input::new(data);
    let code = input.choose([CodeSize::Bits16, CodeSize::Bits32, CodeSize::Bits64]);
    let mut bytes = input.rest();
    while !bytes.is_empty() {
        check(&bytes[..bytes.len().min(32)], code);
        let len = decode(bytes, code).map_or(1, |insn| insn.len.into());
        bytes = &bytes[len..];
    }
}

/// Bytes that may begin with an instruction.
fn check(bytes: &[u8], code: CodeSize) {
    match decode(bytes, code) {
        Ok(insn) => {
            well_formed(&insn, code);
            let len = usize::from(insn.len);
            assert!(len <= bytes.len());
            for n in 0..len {
                assert_eq!(decode(&bytes[..n], code), Err(DecodeError::NeedMore));
            }
            assert_eq!(decode(&bytes[..len], code), Ok(insn));
            let mut other = bytes.to_vec();
            other.truncate(len);
            other.extend([0xf0, 0x0f, 0xff]);
            assert_eq!(decode(&other, code), Ok(insn));
        }
        Err(DecodeError::NeedMore) => {
            assert!(bytes.len() < MAX_BYTES);
            for n in 0..bytes.len() {
                assert_eq!(decode(&bytes[..n], code), Err(DecodeError::NeedMore));
            }
        }
        Err(error) => {
            assert!(error != DecodeError::TooLong || bytes.len() >= MAX_BYTES);
            // From some byte on it is wrong, and before there is too little.
            let wrong = (0..=bytes.len()).map(|n| decode(&bytes[..n], code));
            let wrong = wrong.skip_while(|r| *r == Err(DecodeError::NeedMore));
            assert!(wrong.into_iter().all(|r| r == Err(error)));
        }
    }
}

/// What the executor takes for granted.
fn well_formed(insn: &Insn, code: CodeSize) {
    assert!((1..=MAX_BYTES).contains(&insn.len.into()), "{insn:?}");
    if !insn.op.is_detailed() {
        return;
    }
    let addr_sizes: &[u8] = match code {
        CodeSize::Bits64 => &[4, 8],
        _ => &[2, 4],
    };
    assert!(addr_sizes.contains(&insn.addr_size), "{insn:?}");
    assert!([1, 2, 4, 8].contains(&insn.mem.scale), "{insn:?}");
    assert!([0, 16, 32, 64].contains(&insn.vector_len), "{insn:?}");
    assert!(
        !insn.mem.rip_relative || code == CodeSize::Bits64,
        "{insn:?}"
    );
    let most = if code == CodeSize::Bits64 { 15 } else { 7 };
    let register = |number: u8, most: u8| assert!(number <= most, "{insn:?}");
    for number in [insn.mem.base, insn.mem.index].into_iter().flatten() {
        register(number, most);
    }
    for operand in [insn.dst, insn.src, insn.third] {
        match operand {
            Operand::Gpr(number) => register(number, most),
            Operand::High(number) => register(number, 3),
            Operand::Vector(number) => register(number, 31),
            Operand::Mmx(number) => register(number, 7),
            Operand::None | Operand::Mem | Operand::Imm | Operand::Sreg(_) => (),
        }
    }
}
