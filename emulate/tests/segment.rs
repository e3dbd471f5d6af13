// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::insn::CodeSize;

const WRITABLE: u16 = 0x93;
const READ_ONLY: u16 = 0x91;
const EXPAND_DOWN: u16 = 0x97;
const CODE: u16 = 0x9b;
const EXECUTE_ONLY: u16 = 0x99;
const BIG: u16 = 1 << 14;

fn protected(seg: Seg, base: u64, limit: u32, attributes: u16) -> Cpu {
    let mut cpu = Cpu {
        code: CodeSize::Bits32,
        ..Cpu::default()
    };
    cpu.paging.cr0 = 1;
    cpu.set_segment(
        seg,
        Segment {
            base,
            limit,
            attributes,
            ..Segment::default()
        },
    );
    cpu
}

fn at(cpu: &Cpu, seg: Seg, offset: u64, len: u16, write: bool) -> Result<u64, u8> {
    linear(cpu, seg, offset, len, write)
        .map(Gva::get)
        .map_err(|e| {
            assert_eq!((e.error_code, e.cr2), (Some(0), None));
            e.vector
        })
}

#[test]
fn limits() {
    let cpu = protected(Seg::Ds, 0x1000, 0xff, WRITABLE);
    assert_eq!(at(&cpu, Seg::Ds, 0xfc, 4, true), Ok(0x10fc));
    assert_eq!(at(&cpu, Seg::Ds, 0xfd, 4, true), Err(13));
    assert_eq!(at(&cpu, Seg::Ds, 0xff, 1, false), Ok(0x10ff));
    assert_eq!(at(&cpu, Seg::Ds, 0x100, 1, false), Err(13));
    assert_eq!(at(&cpu, Seg::Ds, 0xffff_ffff, 4, false), Err(13));
    let cpu = protected(Seg::Ss, 0x1000, 0xff, WRITABLE);
    assert_eq!(at(&cpu, Seg::Ss, 0xfd, 4, true), Err(12));
}

#[test]
fn the_base_and_the_offset_wrap_at_four_gigabytes() {
    let cpu = protected(Seg::Ds, 0xffff_f000, u32::MAX, WRITABLE);
    assert_eq!(at(&cpu, Seg::Ds, 0x2345, 4, true), Ok(0x1345));
    let cpu = protected(Seg::Ds, 0, u32::MAX, WRITABLE);
    assert_eq!(at(&cpu, Seg::Ds, 0xffff_fffe, 4, true), Ok(0xffff_fffe));
    assert_eq!(at(&cpu, Seg::Ds, 0x7_0000_1234, 4, true), Ok(0x1234));
    // One byte less, and there is something to exceed.
    let cpu = protected(Seg::Ds, 0, u32::MAX - 1, WRITABLE);
    assert_eq!(at(&cpu, Seg::Ds, 0xffff_fffe, 4, true), Err(13));
}

#[test]
fn expand_down() {
    for (attributes, upper) in [(EXPAND_DOWN, 0xffff), (EXPAND_DOWN | BIG, 0xffff_ffff)] {
        let cpu = protected(Seg::Ds, 0, 0x0fff, attributes);
        assert_eq!(at(&cpu, Seg::Ds, 0x0fff, 1, true), Err(13));
        assert_eq!(at(&cpu, Seg::Ds, 0x1000, 4, true), Ok(0x1000));
        assert_eq!(at(&cpu, Seg::Ds, upper - 3, 4, true), Ok(upper - 3));
        assert_eq!(at(&cpu, Seg::Ds, upper - 2, 4, true), Err(13));
    }
}

#[test]
fn types() {
    for (attributes, read, write) in [
        (WRITABLE, true, true),
        (READ_ONLY, true, false),
        (CODE, true, false),
        (EXECUTE_ONLY, false, false),
    ] {
        let mut cpu = protected(Seg::Es, 0, 0xffff, attributes);
        assert_eq!(at(&cpu, Seg::Es, 0, 1, false).is_ok(), read);
        assert_eq!(at(&cpu, Seg::Es, 0, 1, true).is_ok(), write);
        // Types count in protected mode only.
        cpu.rflags |= rflags::VM;
        assert_eq!(at(&cpu, Seg::Es, 0, 1, true), Ok(0));
        cpu.rflags = 0;
        cpu.paging.cr0 = 0;
        assert_eq!(at(&cpu, Seg::Es, 0, 1, true), Ok(0));
    }
}

#[test]
fn null_selectors() {
    let mut cpu = protected(Seg::Gs, 0, 0xffff, WRITABLE);
    cpu.segments[Seg::Gs as usize].unusable = true;
    assert_eq!(at(&cpu, Seg::Gs, 0, 1, false), Err(13));
    cpu.code = CodeSize::Bits64;
    assert_eq!(at(&cpu, Seg::Gs, 0, 1, false), Ok(0));
}

#[test]
fn real_mode_ends_at_64_kbytes() {
    let mut cpu = Cpu::default();
    for seg in [Seg::Ds, Seg::Ss] {
        let segment = Segment {
            base: 0xf_fff0,
            limit: 0xffff,
            ..Segment::default()
        };
        cpu.set_segment(seg, segment);
    }
    assert_eq!(at(&cpu, Seg::Ds, 0xfffe, 2, true), Ok(0x10_ffee));
    assert_eq!(at(&cpu, Seg::Ds, 0xffff, 2, true), Err(13));
    assert_eq!(at(&cpu, Seg::Ss, 0xffff, 2, true), Err(12));
}

#[test]
fn long_mode_knows_two_bases_and_no_limit() {
    let mut cpu = Cpu {
        code: CodeSize::Bits64,
        ..Cpu::default()
    };
    for segment in &mut cpu.segments {
        segment.base = 0x1_0000_0000;
    }
    assert_eq!(at(&cpu, Seg::Ds, 0x1234, 8, true), Ok(0x1234));
    assert_eq!(at(&cpu, Seg::Gs, 0x1234, 8, true), Ok(0x1_0000_1234));
    assert_eq!(
        at(&cpu, Seg::Fs, 0xffff_ffff_0000_0000, 8, true),
        Ok(0),
        "the sum wraps"
    );
}

#[test]
fn canonical_addresses() {
    let mut cpu = Cpu {
        code: CodeSize::Bits64,
        ..Cpu::default()
    };
    for (cr4, end) in [(0, 1u64 << 47), (1 << 12, 1 << 56)] {
        cpu.paging.cr4 = cr4;
        assert_eq!(at(&cpu, Seg::Ds, end - 8, 8, true), Ok(end - 8));
        assert_eq!(at(&cpu, Seg::Ds, end - 7, 8, true), Err(13));
        assert_eq!(at(&cpu, Seg::Ss, end, 1, true), Err(12));
        let high = end.wrapping_neg();
        assert_eq!(at(&cpu, Seg::Ds, high, 8, true), Ok(high));
        assert_eq!(at(&cpu, Seg::Ds, high - 1, 8, true), Err(13));
        assert_eq!(branch(&cpu, end - 1), Ok(()));
        assert_eq!(branch(&cpu, end), Err(Exception::gp(0)));
    }
}

#[test]
fn branches_end_at_the_limit() {
    let cpu = protected(Seg::Cs, 0, 0x1000, CODE);
    assert_eq!(branch(&cpu, 0x1000), Ok(()));
    assert_eq!(branch(&cpu, 0x1001), Err(Exception::gp(0)));
}

#[test]
fn alignment() {
    let mut cpu = Cpu {
        cpl: 3,
        rflags: rflags::AC,
        ..Cpu::default()
    };
    cpu.paging.cr0 = CR0_AM;
    assert_eq!(aligned(&cpu, Gva::new(0x1002), 2), Ok(()));
    assert_eq!(aligned(&cpu, Gva::new(0x1002), 4), Err(Exception::AC));
    assert_eq!(aligned(&cpu, Gva::new(0x1001), 1), Ok(()));
    for off in [
        |cpu: &mut Cpu| cpu.cpl = 0,
        |cpu: &mut Cpu| cpu.rflags = 0,
        |cpu: &mut Cpu| cpu.paging.cr0 = 0,
    ] {
        let mut cpu = cpu;
        off(&mut cpu);
        assert_eq!(aligned(&cpu, Gva::new(0x1001), 8), Ok(()));
    }
}
