// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::decode::decode;
use crate::insn::CodeSize;
use crate::machine::{descriptor, Machine, GDT, RIP};

/// The footprint of an instruction with EBX = `at`, in flat 32-bit code.
fn of(machine: &mut Machine, code: &[u8], at: u64) -> Result<Footprint, Stop> {
    machine.model.ram.write(machine.cpu.rip, code);
    machine.cpu.gprs[3] = at;
    let insn = decode(code, CodeSize::Bits32).unwrap();
    footprint(&mut machine.guest(), &insn, 0x340)
}

fn pages(data: [Option<Gfn>; 2]) -> [Option<u64>; 2] {
    data.map(|gfn| gfn.map(Gfn::get))
}

const FNSTCW: &[u8] = &[0xd9, 0x3b];
const FXSAVE: &[u8] = &[0x0f, 0xae, 0x03];
const XSAVE: &[u8] = &[0x0f, 0xae, 0x23];
const LTR_CX: &[u8] = &[0x0f, 0x00, 0xd9];

#[test]
fn sub_pages_of_one_page() {
    let mut machine = Machine::protected(0);
    for (code, at, touched) in [
        (FNSTCW, 0x9004, 1),
        (FNSTCW, 0x907f, 3),
        (FXSAVE, 0x9100, 0x3c),
        // 0x340 bytes.
        (XSAVE, 0x9040, 0x7f),
    ] {
        let found = of(&mut machine, code, at).unwrap();
        assert_eq!(found.touched, Mask::from_raw(touched), "{code:x?} {at:x}");
        assert_eq!(pages(found.data), [Some(9), None]);
        assert_eq!(pages(found.code), [Some(RIP >> 12), None]);
        assert_eq!(machine.model.writes(), []);
    }
}

/// Either page could be the other one by then.
#[test]
fn each_page_must_allow_what_is_written_to_the_other() {
    let mut machine = Machine::protected(0);
    let both = of(&mut machine, FNSTCW, 0x9fff).unwrap();
    assert_eq!(pages(both.data), [Some(9), Some(10)]);
    assert_eq!(both.touched, Mask::from_raw(1 | 1 << 31));
    for (page, map) in [(0x9000, !1), (0xa000, !(1 << 31))] {
        let mut machine = Machine::protected(0);
        machine.model.protect(page, map);
        let refused = of(&mut machine, FNSTCW, 0x9fff);
        assert_eq!(refused, Err(Stop::Refused(Op::X87Store)), "{page:x}");
    }
}

#[test]
fn what_is_denied_is_denied() {
    let mut machine = Machine::protected(0);
    machine.model.protect(0x9000, !2);
    let Err(Stop::Denied(denial)) = of(&mut machine, FNSTCW, 0x907f) else {
        panic!("allowed");
    };
    assert_eq!(denial.gpa.get(), 0x9080);
    assert!(of(&mut machine, FNSTCW, 0x9100).is_ok());
    // Not all of the area may be written, so that nobody knows which byte is denied.
    let refused = of(&mut machine, FXSAVE, 0x9000);
    assert_eq!(refused, Err(Stop::Refused(Op::Fxsave)));
}

#[test]
fn code_and_data_are_in_different_pages() {
    let mut machine = Machine::protected(0);
    let refused = of(&mut machine, FNSTCW, RIP + 0x800);
    assert_eq!(refused, Err(Stop::Refused(Op::X87Store)));
    machine.cpu.rip = 0x1fff;
    let refused = of(&mut machine, FNSTCW, 0x2800);
    assert_eq!(refused, Err(Stop::Refused(Op::X87Store)));
    let found = of(&mut machine, FNSTCW, 0x3000).unwrap();
    assert_eq!(pages(found.code), [Some(1), Some(2)]);
}

#[test]
fn devices_and_read_only_memory_are_not_opened() {
    let mut machine = Machine::protected(0);
    for at in [0x9fff, 0xa000] {
        machine.model.rom.insert(0xa);
        let refused = of(&mut machine, FNSTCW, at);
        assert_eq!(refused, Err(Stop::Refused(Op::X87Store)), "{at:x}");
    }
    let refused = of(&mut machine, FNSTCW, 0x8000_0000);
    assert_eq!(refused, Err(Stop::Refused(Op::X87Store)));
}

/// The busy flag of the TSS that a register names.
#[test]
fn task_register() {
    let mut machine = Machine::protected(0);
    machine.set(0x48, descriptor(0x6000, 0x67, 0x89, 0));
    machine.cpu.gprs[1] = 0xffff_0048;
    let found = of(&mut machine, LTR_CX, 0).unwrap();
    assert_eq!(pages(found.data), [Some(GDT >> 12), None]);
    assert_eq!(found.touched, Mask::from_raw(1));
    machine.model.protect(GDT, !1);
    assert!(matches!(of(&mut machine, LTR_CX, 0), Err(Stop::Denied(_))));
    machine.model.maps.clear();
    // From memory, which can change; and other instructions of the kind.
    for code in [&[0x0f, 0x00, 0x1b][..], &[0x0f, 0x01, 0x13]] {
        let refused = of(&mut machine, code, 0x9000);
        assert_eq!(refused, Err(Stop::Refused(Op::SystemLoad)), "{code:x?}");
    }
    machine.set(0x48, descriptor(0x6000, 0x67, 0x8b, 0));
    let busy = of(&mut machine, LTR_CX, 0);
    assert_eq!(busy, Err(Stop::Refused(Op::SystemLoad)));
}

#[test]
fn others_are_refused() {
    let mut machine = Machine::protected(0);
    // mov [ebx], eax is emulated; fld reads; scatters are refused.
    for code in [&[0x89, 0x03][..], &[0xd9, 0x03]] {
        let stop = of(&mut machine, code, 0x9000);
        assert!(matches!(stop, Err(Stop::Refused(_))), "{code:x?}");
    }
}
