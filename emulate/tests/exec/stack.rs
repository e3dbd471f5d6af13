// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::stop::DeviceRead;

const SP: u64 = 0x8000;

#[test]
fn push() {
    for (bytes, size, value) in [
        (&[0x51][..], 8, 0x8182_8384_8586_8788),
        (&[0x66, 0x51], 2, 0x8788),
        (&[0x54], 8, SP),
        (&[0x6a, 0xfe], 8, u64::MAX - 1),
        (&[0x66, 0x6a, 0xfe], 2, 0xfffe),
        (&[0x68, 0, 0, 0, 0x80], 8, 0xffff_ffff_8000_0000),
        (&[0xff, 0x33], 8, 0x1122_3344_5566_7788),
        (&[0x66, 0xff, 0x33], 2, 0x7788),
        // The stack pointer in the address is the old one.
        (&[0xff, 0x34, 0x24], 8, 0x99),
        (&[0x0f, 0xa0], 8, 0x1234),
        (&[0x66, 0x0f, 0xa8], 2, 0x5678),
        (&[0x9c], 8, 0x4_3246),
    ] {
        let mut machine = machine();
        machine.cpu.gprs[1] = 0x8182_8384_8586_8788;
        machine.cpu.segments[4].selector = 0x1234;
        machine.cpu.segments[5].selector = 0x5678;
        machine.cpu.rflags = 0x4_3246;
        machine.model.ram.write_u64(DATA, 0x1122_3344_5566_7788);
        machine.model.ram.write_u64(SP, 0x99);
        machine.model.ram.write_u64(SP - 16, u64::MAX);
        machine.model.ram.write_u64(SP - 8, u64::MAX);
        assert_eq!(run(&mut machine, bytes), Ok(()));
        let sp = SP - u64::from(size);
        assert_eq!(machine.cpu.gprs[4], sp);
        assert_eq!(machine.u64(sp) & mask(size), value, "{bytes:x?}");
        assert_eq!(machine.bytes(sp - 1), [0xff]);
    }
}

#[test]
fn push_in_32_bit_code() {
    let mut machine = Machine::protected(0);
    machine.cpu.gprs[4] = 0x7_0000_8000;
    machine.cpu.segments[0].selector = 0x1234;
    machine.model.ram.write_u64(SP - 8, u64::MAX);
    // Of a selector, recent processors write 2 bytes only.
    assert_eq!(run(&mut machine, &[0x06]), Ok(()));
    assert_eq!(machine.cpu.gprs[4], SP - 4);
    assert_eq!(machine.u64(SP - 8), 0xffff_1234_ffff_ffff);
    machine.cpu.gprs[1] = 0x1_2345_6789;
    assert_eq!(run(&mut machine, &[0x51]), Ok(()));
    assert_eq!(machine.u32(SP - 8), 0x2345_6789);
    // A stack of 16 bits leaves the upper half of ESP alone.
    let small = Segment {
        attributes: 0x93,
        limit: 0xffff,
        base: 0x1000,
        ..Segment::default()
    };
    machine.cpu.set_segment(Seg::Ss, small);
    machine.cpu.gprs[4] = 0x7777_0000;
    assert_eq!(run(&mut machine, &[0x51]), Ok(()));
    assert_eq!(machine.cpu.gprs[4], 0x7777_fffc);
    assert_eq!(machine.u32(0x1000 + 0xfffc), 0x2345_6789);
    // And has a limit.
    machine.cpu.gprs[4] = 0x7777_0002;
    assert_eq!(run(&mut machine, &[0x51]), Err(ss()));
}

#[test]
fn pop() {
    for (bytes, size, gpr, value) in [
        (&[0x59][..], 8, Some(1), 0x1122_3344_5566_7788),
        (&[0x66, 0x59], 2, Some(1), 0x4444_4444_4444_7788),
        (&[0x5c], 8, Some(4), 0x1122_3344_5566_7788),
        (&[0x66, 0x5c], 2, Some(4), 0x7788),
        (&[0x8f, 0x03], 8, None, 0x1122_3344_5566_7788),
        (&[0x66, 0x8f, 0x03], 2, None, 0xeeee_eeee_eeee_7788),
    ] {
        let mut machine = machine();
        machine.cpu.gprs[1] = 0x4444_4444_4444_4444;
        machine.model.ram.write_u64(SP, 0x1122_3344_5566_7788);
        machine.model.ram.write_u64(DATA, 0xeeee_eeee_eeee_eeee);
        assert_eq!(run(&mut machine, bytes), Ok(()));
        match gpr {
            Some(gpr) => assert_eq!(machine.cpu.gprs[gpr], value, "{bytes:x?}"),
            None => assert_eq!(machine.u64(DATA), value, "{bytes:x?}"),
        }
        if gpr != Some(4) {
            assert_eq!(machine.cpu.gprs[4], SP + size);
        }
    }
}

/// The address of POP counts from the stack pointer behind the element.
#[test]
fn pop_to_the_stack() {
    let mut machine = machine();
    machine.model.ram.write_u64(SP, 0x77);
    // pop qword [rsp + 8]
    assert_eq!(run(&mut machine, &[0x8f, 0x44, 0x24, 0x08]), Ok(()));
    assert_eq!(machine.u64(SP + 16), 0x77);
    assert_eq!(machine.cpu.gprs[4], SP + 8);
    machine.cpu.gprs[4] = SP;
    machine.model.protect(SP, !1);
    let got = denial(run(&mut machine, &[0x8f, 0x44, 0x24, 0x08]));
    assert_eq!(got.gpa.get(), SP + 16);
}

/// PUSH from memory: its faults, those of the stack, and only then is a device read.
#[test]
fn order() {
    const DEVICE: u64 = 0x2_0000;
    let read = DeviceRead {
        gpa: ept::Gpa::new(DEVICE),
        len: 8,
    };
    let mut machine = machine();
    machine.model.protect(SP - 1, 0);
    machine.cpu.gprs[3] = 0x20_0000;
    let push = &[0xff, 0x33];
    assert_eq!(run(&mut machine, push), Err(page_fault(0x20_0000, 0)));
    machine.cpu.gprs[3] = DEVICE;
    let got = denial(run(&mut machine, push));
    assert_eq!((got.gpa.get(), got.read), (SP - 8, false));
    machine.model.protect(SP - 1, !0);
    assert_eq!(run(&mut machine, push), Err(Stop::DeviceRead(read)));
    assert!(machine.journal.supply(read, [7; 8]));
    assert_eq!(run(&mut machine, push), Ok(()));
    assert_eq!(machine.bytes(SP - 8), [7; 8]);
    // POP from a device to memory likewise, and a denial does not lose the data.
    machine.cpu.gprs[4] = DEVICE;
    machine.cpu.gprs[3] = DATA;
    machine.model.protect(DATA, !1);
    let pop = &[0x8f, 0x03];
    assert_eq!(denial(run(&mut machine, pop)).gpa.get(), DATA);
    machine.model.protect(DATA, !0);
    assert_eq!(run(&mut machine, pop), Err(Stop::DeviceRead(read)));
    assert!(machine.journal.supply(read, [8; 8]));
    machine.model.protect(DATA, !1);
    denial(run(&mut machine, pop));
    machine.model.protect(DATA, !0);
    assert_eq!(run(&mut machine, pop), Ok(()));
    assert_eq!(machine.bytes(DATA), [8; 8]);
}

/// RF is not in the image, though the processor has it while it starts over.
#[test]
fn pushf_without_rf() {
    let mut machine = machine();
    machine.cpu.rflags = 0x246 | rflags::RF;
    let insn = decoded(&machine, &[0x9c]);
    assert_eq!(execute(&mut machine.guest(), &insn), Ok(Done::Retired));
    assert_eq!(machine.u64(SP - 8), 0x246);
    assert_eq!(machine.cpu.rflags, 0x246);
}

#[test]
fn pushf_in_virtual_8086_mode() {
    let mut machine = Machine::real();
    machine.cpu.paging.cr0 |= 1;
    machine.cpu.cpl = 3;
    let vm = 0x2 | rflags::VM;
    // IOPL 3: as anywhere.
    machine.cpu.rflags = vm | rflags::IOPL;
    assert_eq!(run(&mut machine, &[0x66, 0x9c]), Ok(()));
    assert_eq!(machine.u32(SP - 4), 0x3002);
    machine.cpu.rflags = vm;
    assert_eq!(run(&mut machine, &[0x9c]), Err(gp()));
    // With virtual interrupts, those are what is seen.
    machine.cpu.paging.cr4 |= 1;
    for (flags, image) in [(0, 0x3002), (1 << 9, 0x3002), (1 << 19, 0x3202)] {
        machine.cpu.rflags = vm | flags;
        machine.cpu.gprs[4] = SP;
        assert_eq!(run(&mut machine, &[0x9c]), Ok(()));
        assert_eq!(machine.u16(SP - 2), image);
    }
    assert_eq!(run(&mut machine, &[0x66, 0x9c]), Err(gp()));
}

#[test]
fn leave() {
    let mut machine = machine();
    machine.cpu.gprs[5] = DATA;
    machine.model.ram.write_u64(DATA, 0x1122_3344_5566_7788);
    assert_eq!(run(&mut machine, &[0xc9]), Ok(()));
    assert_eq!(machine.cpu.gprs[4], DATA + 8);
    assert_eq!(machine.cpu.gprs[5], 0x1122_3344_5566_7788);
    machine.cpu.gprs[5] = DATA;
    assert_eq!(run(&mut machine, &[0x66, 0xc9]), Ok(()));
    assert_eq!(
        (machine.cpu.gprs[4], machine.cpu.gprs[5]),
        (DATA + 2, 0x7788)
    );
    machine.cpu.gprs[5] = 0x20_0000;
    assert_eq!(run(&mut machine, &[0xc9]), Err(page_fault(0x20_0000, 0)));
}
