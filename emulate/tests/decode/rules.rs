// SPDX-License-Identifier: GPL-2.0

//! Rules of the manual that random bytes meet too rarely, or the other decoder does not
//! tell.

use std::vec::Vec;

use super::super::{decode, DecodeError};
use crate::insn::CodeSize::{self, Bits16, Bits32, Bits64};
use crate::insn::{Insn, Mem, Operand, Rep, Seg};
use crate::op::Op;

fn insn(bytes: &[u8], code: CodeSize) -> Insn {
    let insn = decode(bytes, code).unwrap_or_else(|error| panic!("{bytes:02x?}: {error:?}"));
    assert_eq!(usize::from(insn.len), bytes.len(), "{bytes:02x?}");
    insn
}

fn mem(bytes: &[u8], code: CodeSize) -> Mem {
    insn(bytes, code).mem
}

fn undefined(bytes: &[u8], code: CodeSize) {
    assert_eq!(
        decode(bytes, code),
        Err(DecodeError::Undefined),
        "{bytes:02x?}"
    );
}

#[test]
fn fifteen_bytes_at_most() {
    // ADD [rax], eax behind as many prefixes as there may be.
    for prefixes in 0..=15 {
        let mut bytes = std::vec![0x66; prefixes];
        bytes.extend([0x01, 0x00]);
        let got = decode(&bytes, Bits64).map(|insn| insn.len);
        let want = match prefixes {
            0..=13 => Ok(prefixes as u8 + 2),
            _ => Err(DecodeError::TooLong),
        };
        assert_eq!(got, want, "{prefixes}");
    }
    // Fewer bytes cannot tell.
    assert_eq!(decode(&[0x66; 14], Bits64), Err(DecodeError::NeedMore));
    assert_eq!(decode(&[0x66; 15], Bits64), Err(DecodeError::TooLong));
    assert_eq!(decode(&[0x66; 40], Bits64), Err(DecodeError::TooLong));
    assert_eq!(decode(&[], Bits64), Err(DecodeError::NeedMore));
}

#[test]
fn rex_is_the_last_prefix() {
    let size = |bytes| insn(bytes, Bits64).size;
    assert_eq!(size(&[0x48, 0x01, 0x00]), 8);
    // Another prefix cancels it, another REX replaces it.
    assert_eq!(size(&[0x48, 0x66, 0x01, 0x00]), 2);
    assert_eq!(size(&[0x48, 0x40, 0x01, 0x00]), 4);
    assert_eq!(size(&[0x66, 0x48, 0x01, 0x00]), 8);
    // Without any, registers 4 to 7 of one byte are the high ones.
    let source = |bytes| insn(bytes, Bits64).src;
    assert_eq!(source(&[0x88, 0x20]), Operand::High(0));
    assert_eq!(source(&[0x40, 0x88, 0x20]), Operand::Gpr(4));
    assert_eq!(source(&[0x40, 0x3e, 0x88, 0x20]), Operand::High(0));
    assert_eq!(source(&[0x44, 0x88, 0x20]), Operand::Gpr(12));
    // Outside 64-bit mode it is INC and DEC.
    assert_eq!(insn(&[0x48], Bits32).op, Op::NoMemory);
}

#[test]
fn the_last_of_f2_and_f3_counts() {
    let rep = |bytes| insn(bytes, Bits64).rep;
    assert_eq!(rep(&[0xa4]), Rep::None);
    assert_eq!(rep(&[0xf2, 0xf3, 0xa4]), Rep::Rep);
    assert_eq!(rep(&[0xf3, 0xf2, 0xa4]), Rep::Repne);
    let op = |bytes| insn(bytes, Bits64).op;
    // Both go before 66.
    assert_eq!(op(&[0xf2, 0xf3, 0x66, 0x0f, 0x10, 0x00]), Op::ScalarLoad);
    assert_eq!(op(&[0x66, 0x0f, 0x10, 0x00]), Op::VectorLoad);
    assert_eq!(insn(&[0xf3, 0x01, 0x00], Bits64).rep, Rep::None);
}

#[test]
fn segments() {
    let seg = |bytes: &[u8], code| mem(bytes, code).seg;
    for (prefix, want) in [
        (0x26, Seg::Es),
        (0x2e, Seg::Cs),
        (0x36, Seg::Ss),
        (0x3e, Seg::Ds),
        (0x64, Seg::Fs),
        (0x65, Seg::Gs),
    ] {
        let long = prefix >= 0x64;
        // By RAX and by RBP.
        for (modrm, default) in [(0x40, Seg::Ds), (0x45, Seg::Ss)] {
            let bytes = [prefix, 0x01, modrm, 0x10];
            assert_eq!(seg(&bytes, Bits32), want);
            assert_eq!(seg(&bytes, Bits64), if long { want } else { default });
        }
        let bytes = [prefix, 0xa5];
        assert_eq!(seg(&bytes, Bits16), want);
        assert_eq!(seg(&bytes, Bits64), if long { want } else { Seg::Ds });
        // In 64-bit mode the ignored ones do not undo the others.
        let bytes = [0x65, prefix, 0xa5];
        assert_eq!(seg(&bytes, Bits32), want);
        assert_eq!(seg(&bytes, Bits64), if long { want } else { Seg::Gs });
    }
    // R12 and R13 are no stack registers, RSP and RBP as index are none.
    assert_eq!(seg(&[0x41, 0x01, 0x04, 0x24], Bits64), Seg::Ds);
    assert_eq!(seg(&[0x41, 0x01, 0x45, 0x00], Bits64), Seg::Ds);
    assert_eq!(seg(&[0x01, 0x04, 0x28], Bits64), Seg::Ds);
    assert_eq!(seg(&[0x01, 0x04, 0x24], Bits64), Seg::Ss);
}

/// SDM 2A table 2-1.
#[test]
fn addresses_of_16_bits() {
    let (bx, bp, si, di) = (Some(3), Some(5), Some(6), Some(7));
    let forms = [
        (bx, si),
        (bx, di),
        (bp, si),
        (bp, di),
        (si, None),
        (di, None),
        (bp, None),
        (bx, None),
    ];
    for (rm, (base, index)) in (0u8..).zip(forms) {
        let seg = if base == bp { Seg::Ss } else { Seg::Ds };
        let want = |disp| Mem {
            seg,
            base,
            index,
            disp,
            ..Mem::default()
        };
        if rm == 6 {
            let direct = Mem {
                disp: -2,
                ..Mem::default()
            };
            assert_eq!(mem(&[0x01, 0x06, 0xfe, 0xff], Bits16), direct);
        } else {
            assert_eq!(mem(&[0x01, rm], Bits16), want(0));
        }
        assert_eq!(mem(&[0x01, 0x40 | rm, 0xfe], Bits16), want(-2));
        assert_eq!(mem(&[0x01, 0x80 | rm, 0x34, 0x12], Bits16), want(0x1234));
        assert_eq!(
            mem(&[0x67, 0x01, 0x80 | rm, 0x34, 0x12], Bits32),
            want(0x1234)
        );
    }
}

/// SDM 2A tables 2-2, 2-3 and 2-5.
#[test]
fn addresses_of_32_and_64_bits() {
    let none = Mem::default();
    let disp = [0xfe, 0xff, 0xff, 0xff];
    let with_disp = |head: &[u8]| -> Vec<u8> { [head, &disp].concat() };
    let direct = Mem { disp: -2, ..none };
    let relative = Mem {
        rip_relative: true,
        ..direct
    };
    assert_eq!(mem(&with_disp(&[0x01, 0x05]), Bits32), direct);
    assert_eq!(mem(&with_disp(&[0x01, 0x05]), Bits64), relative);
    // REX.B is not decoded here.
    assert_eq!(mem(&with_disp(&[0x41, 0x01, 0x05]), Bits64), relative);
    let short = insn(&with_disp(&[0x67, 0x01, 0x05]), Bits64);
    assert_eq!((short.mem, short.addr_size), (relative, 4));
    // Without a base, with SIB.
    assert_eq!(mem(&with_disp(&[0x01, 0x04, 0x25]), Bits64), direct);
    assert_eq!(mem(&with_disp(&[0x41, 0x01, 0x04, 0x25]), Bits64), direct);
    let scaled = Mem {
        index: Some(9),
        scale: 8,
        ..direct
    };
    assert_eq!(mem(&with_disp(&[0x42, 0x01, 0x04, 0xcd]), Bits64), scaled);
    // RSP is no index, R12 is one.
    let rsp = Mem {
        seg: Seg::Ss,
        base: Some(4),
        scale: 4,
        ..none
    };
    assert_eq!(mem(&[0x01, 0x04, 0xa4], Bits64), rsp);
    let r12 = Mem {
        index: Some(12),
        ..rsp
    };
    assert_eq!(mem(&[0x42, 0x01, 0x04, 0xa4], Bits64), r12);
    // R13 needs a displacement as RBP does.
    let r13 = Mem {
        base: Some(13),
        disp: 0x10,
        ..none
    };
    assert_eq!(mem(&[0x41, 0x01, 0x45, 0x10], Bits64), r13);
}

#[test]
fn offsets_are_as_wide_as_addresses() {
    let disp = |bytes, code| mem(bytes, code).disp;
    assert_eq!(disp(&[0xa1, 0xfe, 0xff], Bits16), 0xfffe);
    assert_eq!(disp(&[0x67, 0xa1, 0xfe, 0xff], Bits32), 0xfffe);
    assert_eq!(disp(&[0xa1, 0xfe, 0xff, 0xff, 0xff], Bits32), 0xffff_fffe);
    let long = [0xa1, 8, 7, 6, 5, 4, 3, 2, 1];
    assert_eq!(disp(&long, Bits64), 0x0102_0304_0506_0708);
    assert_eq!(
        disp(&[0x67, 0xa1, 0xfe, 0xff, 0xff, 0xff], Bits64),
        0xffff_fffe
    );
}

#[test]
fn immediates_are_as_the_operation_wants_them() {
    let imm = |bytes, code| insn(bytes, code).imm;
    assert_eq!(imm(&[0x83, 0x00, 0xff], Bits64), -1);
    assert_eq!(imm(&[0x80, 0x00, 0xff], Bits64), -1);
    assert_eq!(
        imm(&[0x48, 0x81, 0x00, 0, 0, 0, 0x80], Bits64),
        -0x8000_0000
    );
    assert_eq!(imm(&[0x66, 0x81, 0x00, 0, 0x80], Bits64), -0x8000);
    assert_eq!(imm(&[0x6a, 0xff], Bits64), -1);
    assert_eq!(imm(&[0xc1, 0x00, 0xff], Bits64), 0xff);
    assert_eq!(imm(&[0xd1, 0x00], Bits64), 1);
    assert_eq!(imm(&[0xc2, 0xff, 0xff], Bits64), 0xffff);
    let enter = insn(&[0xc8, 0xff, 0xff, 0x1f], Bits64);
    assert_eq!((enter.imm, enter.imm2, enter.size), (0xffff, 0x1f, 8));
    let far = insn(&[0x9a, 0, 0, 0, 0x80, 0x34, 0x12], Bits32);
    assert_eq!((far.imm, far.imm2), (0x8000_0000, 0x1234));
}

/// Intel's processors ignore 66 there, AMD's do not.
#[test]
fn near_branches_of_64_bit_mode() {
    assert_eq!(insn(&[0x66, 0xe8, 0, 0, 0, 0x80], Bits64).imm, -0x8000_0000);
    assert_eq!(
        insn(&[0x66, 0x0f, 0x84, 0, 0, 0, 0x80], Bits64).op,
        Op::NoMemory
    );
    assert_eq!(insn(&[0x66, 0xe8, 0, 0x80], Bits32).imm, -0x8000);
    for bytes in [&[0x66, 0xff, 0x10][..], &[0x66, 0xff, 0x20], &[0x66, 0xc3]] {
        assert_eq!(insn(bytes, Bits64).size, 8);
        assert_eq!(insn(bytes, Bits32).size, 2);
    }
}

#[test]
fn lock_needs_memory_and_an_operation_that_allows_it() {
    for bytes in [
        &[0xf0, 0x01, 0x00][..],
        &[0xf0, 0x80, 0x30, 1],
        &[0xf0, 0x0f, 0xb1, 0x00],
        &[0xf0, 0x0f, 0xba, 0x28, 1],
        &[0xf0, 0xf7, 0x18],
        &[0xf0, 0x87, 0x00],
    ] {
        assert!(insn(bytes, Bits64).lock);
    }
    for bytes in [
        // Registers, loads, CMP, BT, TEST, MUL, PUSH, MOV, SETcc, shifts, strings, NOP.
        &[0xf0, 0x01, 0xc0][..],
        &[0xf0, 0x03, 0x00],
        &[0xf0, 0x39, 0x00],
        &[0xf0, 0x80, 0x38, 1],
        &[0xf0, 0x0f, 0xba, 0x20, 1],
        &[0xf0, 0xf6, 0x00, 1],
        &[0xf0, 0xf7, 0x20],
        &[0xf0, 0xff, 0x30],
        &[0xf0, 0x89, 0x00],
        &[0xf0, 0x0f, 0x90, 0x00],
        &[0xf0, 0xd1, 0x20],
        &[0xf0, 0x0f, 0xa4, 0x00, 1],
        &[0xf0, 0xa4],
        &[0xf0, 0x90],
        &[0xf0, 0x0f, 0x38, 0x5f, 0x00],
    ] {
        undefined(bytes, Bits64);
    }
}

#[test]
fn escapes_are_old_instructions_outside_64_bit_mode() {
    for code in [Bits16, Bits32] {
        // LES, LDS, BOUND.
        assert_eq!(insn(&[0xc4, 0x00], code).op, Op::LoadSreg);
        assert_eq!(insn(&[0xc5, 0x00], code).op, Op::LoadSreg);
        assert_eq!(insn(&[0x62, 0x00], code).op, Op::OtherRead);
        assert_eq!(insn(&[0xc5, 0xf8, 0x11, 0x00], code).op, Op::VectorStore);
    }
    assert_eq!(
        insn(&[0xc5, 0x78, 0x11, 0x00], Bits64).src,
        Operand::Vector(8)
    );
    undefined(&[0xc4, 0x00, 0x00, 0x00], Bits64);
    // POP has reg 0, which makes no XOP map.
    for code in [Bits16, Bits32, Bits64] {
        assert_eq!(insn(&[0x8f, 0x00], code).op, Op::Pop);
        undefined(&[0x8f, 0x20], code);
        assert_eq!(
            insn(&[0x8f, 0xe9, 0x78, 0x80, 0x00], code).op,
            Op::OtherRead
        );
    }
    // Prefixes that VEX and EVEX have fields for.
    for prefix in [0x66, 0xf2, 0xf3, 0xf0, 0x48] {
        undefined(&[prefix, 0xc5, 0xf8, 0x11, 0x00], Bits64);
        undefined(&[prefix, 0x62, 0xf1, 0x7c, 0x48, 0x11, 0x00], Bits64);
    }
    // A tile register above 7: TILESTORED.
    assert_eq!(
        insn(&[0xc4, 0xe2, 0x7a, 0x4b, 0x04, 0x08], Bits64).op,
        Op::Amx
    );
    undefined(&[0xc4, 0x62, 0x7a, 0x4b, 0x04, 0x08], Bits64);
    // Where REX does not count, it does not forbid either.
    assert_eq!(insn(&[0x48, 0x3e, 0xc5, 0xf8, 0x11, 0x00], Bits64).size, 4);
}

/// An 8-bit displacement counts in what is accessed (SDM 2A 2.7.5).
#[test]
fn evex_displacements() {
    let insn = |bytes: &[u8]| insn(bytes, Bits64);
    for (bytes, disp, size) in [
        // VMOVUPS of 512, 256 and 128 bits.
        (&[0x62, 0xf1, 0x7c, 0x48, 0x11, 0x40, 0xff][..], -64, 64),
        (&[0x62, 0xf1, 0x7c, 0x28, 0x11, 0x40, 0xff], -32, 32),
        (&[0x62, 0xf1, 0x7c, 0x08, 0x11, 0x40, 0xff], -16, 16),
        // VMOVSS, VPMOVQB, VPCOMPRESSB, VEXTRACTI64X4.
        (&[0x62, 0xf1, 0x7e, 0x08, 0x11, 0x40, 0xff], -4, 4),
        (&[0x62, 0xf2, 0x7e, 0x48, 0x32, 0x40, 0xff], -8, 8),
        (&[0x62, 0xf2, 0x7d, 0x48, 0x63, 0x40, 0xff], -1, 64),
        (&[0x62, 0xf3, 0xfd, 0x48, 0x3b, 0x40, 0xff, 1], -32, 32),
        // Not one of 32 bits.
        (
            &[0x62, 0xf1, 0x7c, 0x48, 0x11, 0x80, 0xff, 0, 0, 0],
            255,
            64,
        ),
    ] {
        let insn = insn(bytes);
        assert_eq!(
            (insn.op, insn.mem.disp, insn.mem_size),
            (Op::Evex, disp, size)
        );
    }
}

#[test]
fn sizes_of_memory_operands() {
    for (bytes, code, size) in [
        (&[0x0f, 0xae, 0x00][..], Bits64, 512),
        (&[0xdd, 0x30], Bits64, 108),
        (&[0x66, 0xdd, 0x30], Bits64, 94),
        (&[0xdd, 0x30], Bits16, 94),
        (&[0xd9, 0x30], Bits32, 28),
        (&[0x66, 0xd9, 0x30], Bits32, 14),
        (&[0x48, 0xd9, 0x30], Bits64, 28),
        (&[0xdb, 0x38], Bits64, 10),
        (&[0xdf, 0x30], Bits64, 10),
        (&[0xd9, 0x38], Bits64, 2),
        (&[0x0f, 0x01, 0x00], Bits64, 10),
        (&[0x66, 0x0f, 0x01, 0x00], Bits32, 6),
        (&[0x0f, 0x00, 0x00], Bits64, 2),
        (&[0x48, 0x0f, 0x01, 0x20], Bits64, 2),
        (&[0xff, 0x18], Bits16, 4),
        (&[0xff, 0x18], Bits64, 6),
        (&[0x48, 0xff, 0x18], Bits64, 10),
        (&[0xc5, 0xf8, 0x91, 0x00], Bits64, 2),
        (&[0xc4, 0xe1, 0xf8, 0x91, 0x00], Bits64, 8),
        (&[0x0f, 0xae, 0x20], Bits64, 0),
    ] {
        assert_eq!(insn(bytes, code).mem_size, size, "{bytes:02x?}");
    }
}

/// The offset is the executor's.
#[test]
fn bit_tests_tell_the_address_as_encoded() {
    let bts = insn(&[0x48, 0x0f, 0xab, 0x08], Bits64);
    assert_eq!(
        (bts.dst, bts.src, bts.size),
        (Operand::Mem, Operand::Gpr(1), 8)
    );
    assert_eq!(bts.mem.base, Some(0));
}

#[test]
fn implied_operands() {
    let masked = insn(&[0x67, 0x64, 0x66, 0x0f, 0xf7, 0xd1], Bits64);
    let rdi = Mem {
        seg: Seg::Fs,
        base: Some(7),
        ..Mem::default()
    };
    assert_eq!(
        (masked.mem, masked.addr_size, masked.mem_size),
        (rdi, 4, 16)
    );
    let operands = (masked.dst, masked.src, masked.third);
    assert_eq!(
        operands,
        (Operand::Mem, Operand::Vector(2), Operand::Vector(1))
    );
    let xlat = insn(&[0x2e, 0xd7], Bits16);
    let bx = Mem {
        seg: Seg::Cs,
        base: Some(3),
        ..Mem::default()
    };
    assert_eq!(
        (xlat.mem, xlat.dst, xlat.src),
        (bx, Operand::Gpr(0), Operand::Mem)
    );
}

#[test]
fn what_writes_is_never_taken_for_what_does_not() {
    for bytes in [
        // SENDUIPI, RDMSRLIST, ENCLS, CLZERO, VMSAVE, MOVNTSS.
        &[0xf3, 0x0f, 0xc7, 0xf0][..],
        &[0xf2, 0x0f, 0x01, 0xc6],
        &[0x0f, 0x01, 0xcf],
        &[0x0f, 0x01, 0xfc],
        &[0x0f, 0x01, 0xdb],
        &[0xf3, 0x0f, 0x2b, 0x00],
    ] {
        assert_eq!(insn(bytes, Bits64).op, Op::OtherWrite, "{bytes:02x?}");
    }
}
