// SPDX-License-Identifier: GPL-2.0

//! The native side alone: what the processor did is what was seen. One test, since a
//! process has one processor.

use emulate::insn::CodeSize;
use native::cpu::{End, Processor, Start, FLAT, USER_CS64};
use native::layout::{pad, CODE, HIGH, LOW, PAGE};

const FLAGS: u64 = 0x202;
const TF: u64 = 1 << 8;
const AC: u64 = 1 << 18;
const RAX: usize = 0;
const RCX: usize = 1;
const RSP: usize = 4;
const RDI: usize = 7;

/// Executes one instruction with these registers.
fn run(processor: &mut Processor, code: &[u8], gprs: &[(usize, u64)], flags: u64) -> End {
    let mut start = Start {
        gprs: [0x1111; 16],
        rflags: FLAGS | flags,
        rip: CODE + 0x40,
        cs: USER_CS64,
        ss: FLAT,
        xsave: None,
    };
    for (register, value) in gprs {
        start.gprs[*register] = *value;
    }
    processor.place(0x40, code);
    processor.run(&start)
}

fn trap(end: &End) -> Option<(u8, u32)> {
    end.trap.map(|trap| (trap.vector, trap.error))
}

#[test]
fn the_processor_does_as_it_is_told_and_tells_what_it_did() {
    let mut p = Processor::new(CodeSize::Bits64).unwrap();
    stores(&mut p);
    faults(&mut p);
    branches(&mut p);
    steps(&mut p);
    vectors(&mut p);
}

/// ADD [RAX], RCX at both ends of a page, and at all addresses of the window.
fn stores(p: &mut Processor) {
    for base in [LOW, HIGH] {
        p.window().fill(0);
        p.window()[8] = 0xff;
        let end = run(p, &[0x48, 0x01, 0x08], &[(RAX, base + 8), (RCX, 0x101)], 0);
        assert_eq!(end.trap, None);
        assert_eq!((end.pad, end.rip), (0, None));
        assert_eq!(p.window()[8..11], [0x00, 0x02, 0]);
        // PF and AF, and what is always set.
        assert_eq!(end.rflags & !0x200, 0x2 | 1 << 2 | 1 << 4);
        assert_eq!(end.gprs[RAX], base + 8);
        assert_eq!(end.gprs[15], 0x1111);
    }
}

fn faults(p: &mut Processor) {
    let store = [0x48, 0x89, 0x08];
    let load = [0x48, 0x8b, 0x08];
    let read_only = LOW + 3 * PAGE;
    let absent = LOW + 7 * PAGE;
    let cases = [
        (&store, read_only, Some((14, 7)), read_only),
        (&load, read_only, None, 0),
        (&store, read_only - 1, Some((14, 7)), read_only),
        (&store, absent + 5, Some((14, 6)), absent + 5),
        (&load, absent - 7, Some((14, 4)), absent),
        (&load, 1 << 62, Some((13, 0)), 0),
        (&store, CODE, Some((14, 7)), CODE),
    ];
    for (code, address, expected, cr2) in cases {
        let before = *p.window();
        let end = run(p, code, &[(RAX, address)], 0);
        assert_eq!(trap(&end), expected, "{code:x?} at {address:#x}");
        if let Some(trap) = end.trap {
            assert_eq!(end.rip, Some(CODE + 0x40));
            assert!(trap.vector != 14 || trap.cr2 == cr2);
            assert_eq!(*p.window(), before);
        }
    }
    // DIV by 0, an undefined opcode, a misaligned load with AC, a store by way of RSP.
    let gprs = [(RAX, LOW + 1), (RCX, 0), (RSP, 1 << 62)];
    assert_eq!(trap(&run(p, &[0xf7, 0xf1], &gprs, 0)), Some((0, 0)));
    assert_eq!(trap(&run(p, &[0x0f, 0x0b], &gprs, 0)), Some((6, 0)));
    assert_eq!(trap(&run(p, &load, &gprs, AC)), Some((17, 0)));
    assert_eq!(trap(&run(p, &load, &gprs, 0)), None);
    assert_eq!(trap(&run(p, &[0x50], &gprs, 0)), Some((12, 0)));
}

/// JMP RAX to each pad, and to no code.
fn branches(p: &mut Processor) {
    for number in 1..8 {
        let end = run(p, &[0xff, 0xe0], &[(RAX, pad(number))], 0);
        assert_eq!((end.pad, end.trap), (number, None));
    }
    let end = run(p, &[0xff, 0xe0], &[(RAX, LOW)], 0);
    assert_eq!((trap(&end), end.rip), (Some((14, 0x15)), Some(LOW)));
}

/// A single step tells the length of an instruction and the end of a repeated one.
fn steps(p: &mut Processor) {
    let end = run(p, &[0x0f, 0x1f, 0x44, 0x00, 0x00], &[], TF);
    assert_eq!((end.rip, end.trap), (Some(CODE + 0x45), None));
    p.window().fill(0);
    let gprs = [(RDI, LOW + 1), (RCX, 5), (RAX, 0x77)];
    let end = run(p, &[0xf3, 0xaa], &gprs, TF);
    assert_eq!((end.rip, end.trap), (Some(CODE + 0x42), None));
    assert_eq!((end.gprs[RCX], end.gprs[RDI]), (0, LOW + 6));
    assert_eq!(p.window()[..8], [0, 0x77, 0x77, 0x77, 0x77, 0x77, 0, 0]);
    // It ends where the page does.
    let gprs = [(RDI, LOW + 3 * PAGE - 2), (RCX, 5)];
    let end = run(p, &[0xf3, 0xaa], &gprs, 0);
    assert_eq!(trap(&end), Some((14, 7)));
    assert_eq!((end.gprs[RCX], end.gprs[RDI]), (3, LOW + 3 * PAGE));
}

/// MOVDQU to and from memory: the area goes in and comes out.
fn vectors(p: &mut Processor) {
    let mut area = [0; native::layout::XSAVE_BYTES];
    area[24..26].copy_from_slice(&0x1f80u16.to_le_bytes());
    area[512] = 2;
    let xmm1 = 160 + 16;
    let value: Vec<u8> = (1..17).collect();
    area[xmm1..][..16].copy_from_slice(&value);
    let mut start = Start {
        gprs: [LOW; 16],
        rflags: FLAGS,
        rip: CODE + 0x40,
        cs: USER_CS64,
        ss: FLAT,
        xsave: Some(&area),
    };
    // MOVDQU [RAX], XMM1, then MOVDQU XMM3, [RAX].
    p.place(0x40, &[0xf3, 0x0f, 0x7f, 0x08]);
    assert_eq!(p.run(&start).trap, None);
    assert_eq!(p.window()[..16], value);
    assert_eq!(p.xsave()[xmm1..][..16], value);
    start.rip = CODE + 0x80;
    p.place(0x80, &[0xf3, 0x0f, 0x6f, 0x18]);
    assert_eq!(p.run(&start).trap, None);
    assert_eq!(p.xsave()[160 + 48..][..16], value);
    assert_eq!(p.xsave()[512] & 2, 2);
}
