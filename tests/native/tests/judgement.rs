// SPDX-License-Identifier: GPL-2.0

//! That a difference is seen: each thing that is compared is changed, one at a time.

use ept::Gva;

use emulate::cpu::{rflags, Cpu};
use emulate::decode::decode;
use emulate::insn::{CodeSize, Seg, MAX_BYTES};
use emulate::stop::{Denial, Exception, Stop};
use ept::Gpa;
use native::allowed;
use native::case::Case;
use native::compare::{self, Difference, Emulated, Native};
use native::cpu::{End, Trap, USER_CS64};
use native::far::code_segment;
use native::flags;
use native::layout::{pad, CODE, HIGH, LOW, MID, XSAVE_BYTES};
use native::rules::Ignored;
use native::xsave;
use spp::Mask;

fn case(code: &[u8]) -> Case {
    let mut bytes = [0; MAX_BYTES];
    bytes[..code.len()].copy_from_slice(code);
    let mut start = Cpu {
        code: CodeSize::Bits64,
        rip: CODE,
        rflags: 0x202,
        ..Cpu::default()
    };
    start.set_segment(Seg::Cs, code_segment(USER_CS64).unwrap());
    Case {
        bytes,
        insn: decode(&bytes, CodeSize::Bits64).unwrap(),
        start,
        xsave: None,
    }
}

/// An end that both sides agree about.
fn retired(case: &Case) -> (End, Emulated) {
    let mut cpu = case.start;
    cpu.rip += u64::from(case.insn.len);
    let end = End {
        gprs: cpu.gprs,
        rflags: cpu.rflags,
        rip: None,
        cs: None,
        pad: 0,
        trap: None,
    };
    let emulated = Emulated {
        cpu,
        xsave: None,
        stop: None,
        paused: false,
    };
    (end, emulated)
}

fn differences(case: &Case, end: End, emulated: &Emulated) -> Vec<Difference> {
    let native = Native::new(case, end);
    compare::registers(case, &native, emulated, &Ignored::default())
}

const ADD: [u8; 3] = [0x48, 0x01, 0x08];

#[test]
fn each_register_counts() {
    let case = case(&ADD);
    let (end, same) = retired(&case);
    assert_eq!(differences(&case, end, &same), []);
    for n in 0..16 {
        for bit in [0, 31, 32, 63] {
            let mut other = same.clone();
            other.cpu.gprs[n] ^= 1 << bit;
            let found = differences(&case, end, &other);
            assert_eq!(found, [Difference::Gpr(n as u8)]);
        }
    }
    let mut other = same.clone();
    other.cpu.rip += 1;
    assert_eq!(differences(&case, end, &other), [Difference::Rip]);
    let mut other = same.clone();
    other.cpu.set_segment(Seg::Cs, code_segment(0x23).unwrap());
    assert_eq!(differences(&case, end, &other), [Difference::Cs]);
    let mut other = same.clone();
    other.cpu.cpl = 1;
    assert_eq!(differences(&case, end, &other), [Difference::Other]);
    let landed = End { pad: 3, ..end };
    assert_eq!(differences(&case, landed, &same), [Difference::Rip]);
    let mut other = same;
    other.cpu.rip = pad(3);
    assert_eq!(differences(&case, landed, &other), []);
}

#[test]
fn flags_count_where_they_are_defined() {
    let add = case(&ADD);
    let (end, same) = retired(&add);
    let all = [
        rflags::CF,
        rflags::PF,
        rflags::AF,
        rflags::ZF,
        rflags::SF,
        rflags::OF,
        rflags::DF,
        rflags::AC,
    ];
    for flag in all {
        let other = End {
            rflags: end.rflags ^ flag,
            ..end
        };
        let found = differences(&add, other, &same);
        assert_eq!(found, [Difference::Flags(flag)]);
    }
    // AND leaves AF undefined, SHL by 2 OF too, by 1 it does not.
    let undefined = |code: &[u8], rcx| {
        let mut case = case(code);
        case.start.gprs[1] = rcx;
        flags::undefined(&case.start, &case.insn)
    };
    assert_eq!(undefined(&[0x21, 0x08], 0), rflags::AF);
    assert_eq!(undefined(&[0xd3, 0x20], 2), rflags::AF | rflags::OF);
    assert_eq!(undefined(&[0xd3, 0x20], 1), rflags::AF);
    assert_eq!(undefined(&[0xd3, 0x20], 32), 0);
    assert_eq!(undefined(&[0xd2, 0x20], 8) & rflags::CF, rflags::CF);
}

#[test]
fn faults_count() {
    let case = case(&ADD);
    let (end, same) = retired(&case);
    let trap = |vector, error, cr2| End {
        rflags: end.rflags | rflags::RF,
        rip: Some(case.start.rip),
        cs: Some(USER_CS64),
        trap: Some(Trap { vector, error, cr2 }),
        ..end
    };
    let stopped = |stop: Stop| {
        let mut emulated = same.clone();
        emulated.cpu = case.start;
        emulated.cpu.rflags |= rflags::RF;
        emulated.stop = Some(stop);
        emulated
    };
    let fault = stopped(Exception::pf(Gva::new(LOW), 7).into());
    assert_eq!(differences(&case, trap(14, 7, LOW), &fault), []);
    for other in [trap(14, 6, LOW), trap(14, 7, LOW + 1), trap(13, 0, LOW)] {
        assert_eq!(differences(&case, other, &fault), [Difference::Stop]);
    }
    assert!(differences(&case, end, &fault).contains(&Difference::Stop));
    assert!(differences(&case, trap(14, 7, LOW), &same).contains(&Difference::Stop));
    let refused = stopped(Stop::Refused(case.insn.op));
    assert!(differences(&case, trap(14, 7, LOW), &refused).contains(&Difference::Stop));
    // A denial is a fault for a write to a page that is there.
    let denial = |gva| {
        stopped(Stop::Denied(Denial {
            gpa: Gpa::new(0),
            gva: Gva::new(gva),
            size: 8,
            denied: Mask::ALL,
            map: Mask::NONE,
            read: true,
            walk: false,
        }))
    };
    assert_eq!(differences(&case, trap(14, 7, LOW), &denial(LOW)), []);
    let found = differences(&case, trap(14, 7, LOW), &denial(LOW + 4));
    assert_eq!(found, [Difference::Stop]);
    // RF is part of what a fault saves.
    let mut other = fault;
    other.cpu.rflags &= !rflags::RF;
    let found = differences(&case, trap(14, 7, LOW), &other);
    assert_eq!(found, [Difference::Flags(rflags::RF)]);
}

#[test]
fn vector_registers_count() {
    const PRESENT: usize = 512;
    let mut one = [0u8; XSAVE_BYTES];
    one[PRESENT] = 0xe7;
    let two = one;
    assert_eq!(xsave::compare(0xe7, &one, &two), [""; 0]);
    for (at, name) in [
        (160 + 16 * 3, "XMM3"),
        (576 + 16 * 15 + 15, "YMM_Hi12815"),
        (1152 + 32, "ZMM_Hi2561"),
        (2687, "Hi16_ZMM15"),
    ] {
        one[at] = 1;
        assert_eq!(xsave::compare(0xe7, &one, &two), [name]);
        // What is in its initial state holds zeroes.
        let mut initial = one;
        initial[PRESENT] = 0;
        assert_eq!(xsave::compare(0xe7, &initial, &two), [""; 0]);
        one[at] = 0;
    }
}

/// Nothing but the window, its surroundings and what nothing can be at is reached.
#[test]
fn instructions_keep_to_the_window() {
    let mut case = case(&ADD);
    let mut reaches = |address: u64| {
        case.start.gprs[0] = address;
        allowed::check(&case.start, &case.insn)
    };
    for address in [LOW, MID + 0xfff8, HIGH - 0x1000, CODE, 0x100, 1 << 62] {
        assert!(reaches(address), "{address:#x}");
    }
    for address in [
        0x1000_0000,
        0x1_0000,
        LOW - 0x20_0000,
        0x7fff_0000_0000,
        1 << 63 | 1 << 62,
    ] {
        assert_eq!(
            reaches(address),
            address == 1 << 63 | 1 << 62,
            "{address:#x}"
        );
    }
    assert!(!reaches(0xffff_ffff_8000_0000));
    assert!(allowed::target(&case.start, pad(1)));
    assert!(!allowed::target(&case.start, CODE + 0x40));
    assert!(!allowed::target(&case.start, 0x7fff_0000_0000));
}
