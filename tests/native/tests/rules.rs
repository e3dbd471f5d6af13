// SPDX-License-Identifier: GPL-2.0

//! That the exceptions to "the same" excuse no more than they say.

use emulate::cpu::{rflags, Cpu, Segment};
use emulate::decode::decode;
use emulate::insn::{CodeSize, Seg, MAX_BYTES};
use emulate::journal::Journal;
use emulate::stop::{Exception, Stop};
use ept::Gva;
use native::case::Case;
use native::compare::{Emulated, Native};
use native::cpu::End;
use native::layout::LOW;
use native::model::Ram;
use native::rules::{applicable, has_other_size, Context, Ignored, Rule};

const RSP: usize = 4;
const RBP: usize = 5;
const RSI: usize = 6;
const RDI: usize = 7;

/// A case of flat code at level 3.
fn case(code: CodeSize, bytes: &[u8], gprs: &[(usize, u64)]) -> Case {
    let mut all = [0; MAX_BYTES];
    all[..bytes.len()].copy_from_slice(bytes);
    let flat = Segment {
        limit: u32::MAX,
        attributes: 0xc0f3,
        ..Segment::default()
    };
    let mut start = Cpu {
        code,
        segments: [flat; 6],
        cpl: 3,
        rip: 0x1800_0000,
        ..Cpu::default()
    };
    for (register, value) in gprs {
        start.gprs[*register] = *value;
    }
    Case {
        bytes: all,
        insn: decode(&all, code).unwrap(),
        start,
        xsave: None,
    }
}

fn long(bytes: &[u8], gprs: &[(usize, u64)]) -> Case {
    case(CodeSize::Bits64, bytes, gprs)
}

fn fault(address: u64, code: u32) -> Option<Exception> {
    Some(Exception::pf(Gva::new(address), code))
}

/// The rules that a case comes under which ended so, on AMD's processors or on others.
fn rules(
    case: &Case,
    native: Option<Exception>,
    emulated: Option<Exception>,
    amd: bool,
) -> Vec<Rule> {
    let (mut ram, mut devices) = (Ram::new(), Box::<Journal>::default());
    let mut context = Context {
        amd,
        ram: &mut ram,
        denied: false,
        devices: &mut devices,
    };
    let end = End {
        gprs: case.start.gprs,
        rflags: 2,
        rip: None,
        cs: None,
        pad: 0,
        trap: None,
    };
    let native = Native {
        exception: native,
        ..Native::new(case, end)
    };
    let emulated = Emulated {
        cpu: case.start,
        xsave: None,
        stop: emulated.map(Stop::from),
        paused: false,
    };
    applicable(&mut context, case, &native, &emulated)
}

#[test]
fn plain_instructions_have_no_excuse() {
    let add = long(&[0x48, 0x01, 0x08], &[(0, LOW)]);
    for (native, emulated) in [
        (None, None),
        (fault(LOW, 7), None),
        (None, fault(LOW, 7)),
        (fault(LOW, 7), fault(LOW, 5)),
        (fault(LOW, 7), fault(LOW + 1, 7)),
        (Some(Exception::gp(0)), Some(Exception::ss(0))),
        (Some(Exception::AC), fault(LOW, 7)),
    ] {
        let found = rules(&add, native, emulated, true);
        assert_eq!(found, [], "{native:?} {emulated:?}");
    }
}

#[test]
fn the_other_operand_must_fault_as_the_processor_says() {
    // CMPSB: nothing is mapped in this model without paging but its own memory.
    let cmps = case(CodeSize::Bits32, &[0xa6], &[(RSI, 0x2000), (RDI, 0x3000)]);
    assert_eq!(rules(&cmps, fault(0x2000, 4), fault(0x3000, 4), false), []);
    // A limit that the source exceeds.
    let mut cmps = cmps;
    let mut ds = *cmps.start.segment(Seg::Ds);
    ds.limit = 0xfff;
    cmps.start.set_segment(Seg::Ds, ds);
    cmps.start.paging.cr0 = 1;
    let found = rules(&cmps, Some(Exception::gp(0)), fault(0x3000, 4), false);
    assert_eq!(found, [Rule::OtherOperand]);
    let found = rules(&cmps, Some(Exception::ss(0)), fault(0x3000, 4), false);
    assert_eq!(found, []);
}

#[test]
fn habits_of_one_maker_excuse_no_other() {
    let scas = long(&[0xf3, 0xae], &[(RDI, LOW)]);
    let push = case(CodeSize::Bits32, &[0x1e], &[(RSP, LOW + 8)]);
    let popa = case(CodeSize::Bits32, &[0x61], &[(RSP, LOW)]);
    let at = fault(LOW, 4);
    assert_eq!(rules(&scas, at, at, true), [Rule::ReplayedFlags]);
    assert_eq!(rules(&scas, at, at, false), []);
    assert_eq!(rules(&scas, None, None, true), []);
    assert_eq!(rules(&push, None, None, true), [Rule::PushedSelector]);
    assert_eq!(rules(&push, None, None, false), []);
    assert_eq!(rules(&push, at, None, true), []);
    assert_eq!(rules(&popa, at, at, true), [Rule::PartOfRegisters]);
    assert_eq!(rules(&popa, at, at, false), []);
}

#[test]
fn memory_is_excused_byte_by_byte() {
    let range = |rule, case: &Case| Ignored::by(&[rule], case).memory[0].clone();
    // The upper half of what PUSH DS writes.
    let push = case(CodeSize::Bits32, &[0x1e], &[(RSP, LOW + 0x108)]);
    assert_eq!(range(Rule::PushedSelector, &push), 0x106..0x108);
    // An element over 64 KiB of a larger segment does not wrap.
    let mut push = case(CodeSize::Bits16, &[0x66, 0x1e], &[(RSP, 2)]);
    let mut ss = *push.start.segment(Seg::Ss);
    (ss.base, ss.attributes) = (LOW - 0x1800, 0x80f3);
    push.start.set_segment(Seg::Ss, ss);
    assert_eq!(range(Rule::PushedSelector, &push), 0xe800..0xe802);
    // Eight elements of PUSHA; two of ENTER 0, 1.
    let pusha = case(CodeSize::Bits32, &[0x60], &[(RSP, LOW + 0x100)]);
    assert_eq!(range(Rule::PartOfFrame, &pusha), 0xe0..0x100);
    let registers = [(RSP, LOW + 0x100), (RBP, LOW + 0x200)];
    let enter = long(&[0xc8, 0, 0, 1], &registers);
    assert_eq!(range(Rule::PartOfFrame, &enter), 0xf0..0x100);
    // SHLD [RAX], CX, CL.
    let shld = long(&[0x66, 0x0f, 0xa5, 0x08], &[(0, LOW + 0x10), (1, 20)]);
    assert_eq!(range(Rule::UndefinedResult, &shld), 0x10..0x12);
    assert_eq!(rules(&shld, None, None, false), [Rule::UndefinedResult]);
    let defined = long(&[0x66, 0x0f, 0xa5, 0x08], &[(0, LOW + 0x10), (1, 16)]);
    assert_eq!(rules(&defined, None, None, false), []);
}

#[test]
fn masked_stores_may_fault_in_the_same_page() {
    // VPMASKMOVD [RAX], XMM0, XMM1.
    let store = long(&[0xc4, 0xe2, 0x79, 0x8e, 0x08], &[(0, LOW + 0xffa)]);
    let found = rules(&store, fault(LOW + 0x1002, 7), fault(LOW + 0x1000, 7), true);
    assert_eq!(found, [Rule::MaskedFault]);
    for (native, emulated) in [
        (fault(LOW + 0xffa, 7), fault(LOW + 0x1000, 7)),
        (fault(LOW + 0x1002, 6), fault(LOW + 0x1000, 7)),
        (fault(LOW + 0x1010, 7), fault(LOW + 0x1000, 7)),
        (fault(LOW + 0x1002, 7), None),
    ] {
        assert_eq!(rules(&store, native, emulated, true), []);
    }
}

#[test]
fn halves_of_an_operand_wrap_at_64_kib_only() {
    // JMP FAR [SI].
    let jump = |code, rsi| case(code, &[0xff, 0x2c], &[(RSI, rsi)]);
    let over = jump(CodeSize::Bits16, 0xfffd);
    let at = fault(LOW, 4);
    assert_eq!(rules(&over, at, None, true), [Rule::FarPointer]);
    assert_eq!(rules(&over, at, None, false), []);
    let below = jump(CodeSize::Bits16, 0xfffc);
    assert_eq!(rules(&below, at, None, true), []);
    // MASKMOVDQU XMM0, XMM1.
    let store = |code, rdi| case(code, &[0x66, 0x0f, 0xf7, 0xc1], &[(RDI, rdi)]);
    let at = fault(LOW, 6);
    let over = store(CodeSize::Bits16, 0x1_fff1);
    assert_eq!(rules(&over, at, None, true), [Rule::MaskedHalves]);
    assert_eq!(rules(&over, at, None, false), []);
    let below = store(CodeSize::Bits16, 0x1_fff0);
    assert_eq!(rules(&below, at, None, true), []);
    let wide = store(CodeSize::Bits32, 0xfff1);
    assert_eq!(rules(&wide, at, None, true), []);
}

#[test]
fn cases_that_depend_on_the_maker_are_known() {
    // MOVSXD AX, [RAX]: 2 bytes or 4.
    let movsxd = |address| long(&[0x66, 0x63, 0x00], &[(0, address)]);
    let differs = |case: &Case| has_other_size(&case.start, &case.insn);
    assert!(!differs(&movsxd(LOW + 0xffc)));
    assert!(differs(&movsxd(LOW + 0xffd)));
    assert!(!differs(&movsxd(LOW + 0xfff)));
    let mut aligned = movsxd(LOW + 2);
    assert!(!differs(&aligned));
    aligned.start.rflags |= rflags::AC;
    assert!(differs(&aligned));
}
