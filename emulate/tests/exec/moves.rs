// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::cpu::rflags::{ARITHMETIC, CF, OF, PF, SF, ZF};
use crate::stop::DeviceRead;

const VALUE: u64 = 0x8182_8384_8586_8788;

/// Where nothing is: a device.
const DEVICE: u64 = 0x2_0000;

#[test]
fn stores() {
    for (bytes, stored) in [
        (&[0x88, 0x0b][..], 0x1111_1111_1111_1188),
        (&[0x88, 0x2b], 0x1111_1111_1111_1187),
        (&[0x40, 0x88, 0x2b], 0x1111_1111_1111_1155),
        (&[0x66, 0x89, 0x0b], 0x1111_1111_1111_8788),
        (&[0x89, 0x0b], 0x1111_1111_8586_8788),
        (&[0x48, 0x89, 0x0b], VALUE),
        (&[0xc6, 0x03, 0xfe], 0x1111_1111_1111_11fe),
        (&[0x66, 0xc7, 0x03, 0x34, 0x12], 0x1111_1111_1111_1234),
        (&[0xc7, 0x03, 0xfe, 0xff, 0xff, 0xff], 0x1111_1111_ffff_fffe),
        (&[0x48, 0xc7, 0x03, 0xfe, 0xff, 0xff, 0xff], u64::MAX - 1),
        (&[0x0f, 0xc3, 0x0b], 0x1111_1111_8586_8788),
        (&[0x48, 0x0f, 0xc3, 0x0b], VALUE),
        (&[0x0f, 0x38, 0xf9, 0x0b], 0x1111_1111_8586_8788),
        (&[0x48, 0x0f, 0x38, 0xf9, 0x0b], VALUE),
        (&[0x66, 0x0f, 0x38, 0xf1, 0x0b], 0x1111_1111_1111_8887),
        (&[0x0f, 0x38, 0xf1, 0x0b], 0x1111_1111_8887_8685),
        (&[0x48, 0x0f, 0x38, 0xf1, 0x0b], VALUE.swap_bytes()),
        // A2 and A3 have the address in themselves.
        (&[0xa2, 0, 0x30, 0, 0, 0, 0, 0, 0], 0x1111_1111_1111_1144),
        (&[0x67, 0xa3, 0, 0x30, 0, 0], 0x1111_1111_4444_4444),
    ] {
        let mut machine = machine();
        machine.model.ram.write_u64(DATA, 0x1111_1111_1111_1111);
        machine.cpu.gprs[0] = 0x4444_4444_4444_4444;
        machine.cpu.gprs[1] = VALUE;
        machine.cpu.gprs[5] = 0x55;
        assert_eq!(run(&mut machine, bytes), Ok(()));
        assert_eq!(machine.u64(DATA), stored, "{bytes:x?}");
        let rflags = machine.cpu.rflags;
        assert_eq!(rflags, 2, "no flags");
    }
}

#[test]
fn loads() {
    const OLD: u64 = 0x1111_1111_1111_1111;
    for (bytes, loaded) in [
        (&[0x8a, 0x0b][..], 0x1111_1111_1111_1188),
        (&[0x8a, 0x2b], 0x1111_1111_1111_8811),
        (&[0x66, 0x8b, 0x0b], 0x1111_1111_1111_8788),
        (&[0x8b, 0x0b], 0x8586_8788),
        (&[0x48, 0x8b, 0x0b], VALUE),
        (&[0x66, 0x0f, 0xb6, 0x0b], 0x1111_1111_1111_0088),
        (&[0x0f, 0xb6, 0x0b], 0x88),
        (&[0x48, 0x0f, 0xb7, 0x0b], 0x8788),
        (&[0x66, 0x0f, 0xbe, 0x0b], 0x1111_1111_1111_ff88),
        (&[0x0f, 0xbe, 0x0b], 0xffff_ff88),
        (&[0x48, 0x0f, 0xbe, 0x0b], 0xffff_ffff_ffff_ff88),
        (&[0x0f, 0xbf, 0x0b], 0xffff_8788),
        (&[0x48, 0x0f, 0xbf, 0x0b], 0xffff_ffff_ffff_8788),
        (&[0x48, 0x63, 0x0b], 0xffff_ffff_8586_8788),
        (&[0x63, 0x0b], 0x8586_8788),
        (&[0x66, 0x63, 0x0b], 0x1111_1111_1111_8788),
        (&[0x66, 0x0f, 0x38, 0xf0, 0x0b], 0x1111_1111_1111_8887),
        (&[0x0f, 0x38, 0xf0, 0x0b], 0x8887_8685),
        (&[0x48, 0x0f, 0x38, 0xf0, 0x0b], VALUE.swap_bytes()),
        // CMOVNE, which holds, and CMOVE, which clears the upper half all the same.
        (&[0x66, 0x0f, 0x45, 0x0b], 0x1111_1111_1111_8788),
        (&[0x0f, 0x45, 0x0b], 0x8586_8788),
        (&[0x0f, 0x44, 0x0b], 0x1111_1111),
        (&[0x48, 0x0f, 0x44, 0x0b], OLD),
    ] {
        let mut machine = machine();
        machine.model.ram.write_u64(DATA, VALUE);
        machine.cpu.gprs[1] = OLD;
        assert_eq!(run(&mut machine, bytes), Ok(()));
        assert_eq!(machine.cpu.gprs[1], loaded, "{bytes:x?}");
        assert_eq!(machine.cpu.rflags, 2, "no flags");
        // Memory is read in any case.
        machine.cpu.gprs[3] = 0x20_0000;
        assert_eq!(run(&mut machine, bytes), Err(page_fault(0x20_0000, 0)));
    }
}

/// The conditions by their names (SDM 1 appendix B).
#[test]
fn conditions() {
    let mut machine = machine();
    for bits in 0..32u64 {
        let at = |n: u32, flag: u64| if bits >> n & 1 == 1 { flag } else { 0 };
        let rflags = at(0, CF) | at(1, ZF) | at(2, SF) | at(3, OF) | at(4, PF);
        let [c, z, s, o, p] = [CF, ZF, SF, OF, PF].map(|flag| rflags & flag != 0);
        let below_or_equal = c || z;
        let less = s != o;
        for (code, holds) in [
            o,
            !o,
            c,
            !c,
            z,
            !z,
            below_or_equal,
            !below_or_equal,
            s,
            !s,
            p,
            !p,
            less,
            !less,
            z || less,
            !z && !less,
        ]
        .into_iter()
        .enumerate()
        {
            machine.cpu.rflags = 2 | rflags;
            machine.model.ram.write(DATA, &[0xee, 0xee]);
            assert_eq!(run(&mut machine, &[0x0f, 0x90 | code as u8, 0x03]), Ok(()));
            assert_eq!(machine.bytes(DATA), [u8::from(holds), 0xee], "{code}");
            machine.model.ram.write_u64(DATA, 1);
            machine.cpu.gprs[1] = 0;
            assert_eq!(run(&mut machine, &[0x0f, 0x40 | code as u8, 0x0b]), Ok(()));
            assert_eq!(machine.cpu.gprs[1], u64::from(holds), "{code}");
            assert_eq!(machine.cpu.rflags, 2 | rflags);
        }
    }
}

#[test]
fn effective_addresses() {
    let mut machine = machine();
    machine.cpu.gprs[0] = 0x1_0000_0000;
    machine.cpu.gprs[1] = 0xffff_ffff_ffff_fffc;
    machine.cpu.gprs[13] = 0x3100;
    machine.cpu.gprs[12] = 2;
    for (segment, base) in [(Seg::Fs, 0x100), (Seg::Gs, 0x200), (Seg::Ds, 0x9999)] {
        let old = *machine.cpu.segment(segment);
        machine.cpu.set_segment(segment, Segment { base, ..old });
    }
    for (bytes, address) in [
        (&[0xc6, 0x03, 1][..], 0x3000),
        (&[0xc6, 0x43, 0xf0, 1], 0x2ff0),
        (&[0xc6, 0x83, 0, 1, 0, 0, 1], 0x3100),
        (&[0xc6, 0x04, 0x8b, 1], 0x2ff0),
        (&[0x43, 0xc6, 0x44, 0x65, 0x04, 1], 0x3108),
        (&[0xc6, 0x04, 0x25, 0, 0x35, 0, 0, 1], 0x3500),
        // From the end of the instruction, the immediate included.
        (&[0xc6, 0x05, 0, 0x20, 0, 0, 1], 0x3007),
        (&[0x67, 0xc6, 0x05, 0, 0x20, 0, 0, 1], 0x3008),
        (&[0x64, 0xc6, 0x03, 1], 0x3100),
        (&[0x65, 0xc6, 0x03, 1], 0x3200),
        (&[0x3e, 0xc6, 0x03, 1], 0x3000),
        // 32 bits of all of it.
        (&[0x67, 0xc6, 0x04, 0x03, 1], 0x3000),
        (&[0x67, 0xc6, 0x44, 0x8b, 0x10, 1], 0x3000),
    ] {
        let was = machine.bytes(address);
        assert_eq!(was, [0], "{bytes:x?}");
        assert_eq!(run(&mut machine, bytes), Ok(()));
        assert_eq!(machine.bytes(address), [1], "{bytes:x?}");
        machine.model.ram.write(address, &[0]);
    }
}

#[test]
fn addresses_of_16_bits() {
    let mut machine = Machine::real();
    let base = |base| Segment {
        base,
        limit: 0xffff,
        attributes: 0x93,
        ..Segment::default()
    };
    machine.cpu.set_segment(Seg::Ds, base(0x1000));
    machine.cpu.set_segment(Seg::Ss, base(0x2000));
    machine.cpu.gprs[3] = 0xffff_9000;
    machine.cpu.gprs[6] = 0x7_8010;
    machine.cpu.gprs[5] = 0x1000;
    for (bytes, address) in [
        (&[0xc6, 0x00, 1][..], 0x1000 + 0x1010),
        (&[0xc6, 0x40, 0xf0, 1], 0x1000 + 0x1000),
        (&[0xc6, 0x46, 0x01, 1], 0x2000 + 0x1001),
        (&[0xc6, 0x02, 1], 0x2000 + 0x9010),
        (&[0xc6, 0x06, 0x34, 0x12, 1], 0x1000 + 0x1234),
    ] {
        assert_eq!(run(&mut machine, bytes), Ok(()));
        assert_eq!(machine.bytes(address), [1], "{bytes:x?}");
        machine.model.ram.write(address, &[0]);
    }
    // mov word [ffff], ax crosses the limit.
    assert_eq!(run(&mut machine, &[0xa3, 0xff, 0xff]), Err(gp()));
    assert_eq!(run(&mut machine, &[0x36, 0xa3, 0xff, 0xff]), Err(ss()));
}

#[test]
fn xlat() {
    let mut machine = machine();
    machine.model.ram.write(DATA + 0xfe, &[0x42]);
    machine.cpu.gprs[0] = 0x1234_5678_9abc_defe;
    assert_eq!(run(&mut machine, &[0xd7]), Ok(()));
    assert_eq!(machine.cpu.gprs[0], 0x1234_5678_9abc_de42);
    // The sum wraps at 4 GBytes.
    machine.cpu.gprs[0] = 0xff;
    machine.cpu.gprs[3] = 0xffff_ff02;
    machine.model.ram.write(1, &[0x43]);
    assert_eq!(run(&mut machine, &[0x67, 0xd7]), Ok(()));
    assert_eq!(machine.cpu.gprs[0], 0x43);
}

#[test]
fn faults_of_segments_and_of_alignment() {
    let mut machine = machine();
    let far = 0x8000_0000_0000;
    machine.cpu.gprs[3] = far;
    machine.cpu.gprs[5] = far;
    assert_eq!(run(&mut machine, &[0x88, 0x0b]), Err(gp()));
    assert_eq!(run(&mut machine, &[0x88, 0x4d, 0x00]), Err(ss()));
    let mut machine = Machine::ia32e(3, true);
    machine.cpu.gprs[3] = DATA + 1;
    machine.cpu.rflags |= rflags::AC;
    assert_eq!(run(&mut machine, &[0x89, 0x0b]), Ok(()));
    machine.cpu.paging.cr0 |= 1 << 18;
    for bytes in [
        &[0x89, 0x0b][..],   // mov [rbx], ecx
        &[0x66, 0x8b, 0x0b], // mov cx, [rbx]
        &[0x01, 0x0b],       // add [rbx], ecx
        &[0x0f, 0xab, 0x0b], // bts [rbx], ecx
        &[0x87, 0x0b],       // xchg [rbx], ecx
        &[0x0f, 0xc7, 0x0b], // cmpxchg8b [rbx]
        &[0xff, 0x33],       // push qword [rbx]
    ] {
        assert_eq!(
            run(&mut machine, bytes),
            Err(Exception::AC.into()),
            "{bytes:x?}"
        );
        assert_eq!(machine.model.log, [], "before memory is looked at");
    }
    // POP looks at the stack first.
    assert_eq!(run(&mut machine, &[0x8f, 0x03]), Err(Exception::AC.into()));
    assert_eq!(run(&mut machine, &[0x88, 0x0b]), Ok(()));
}

#[test]
fn a_crossing_store_is_all_or_nothing() {
    for (bytes, first) in [(&[0x48, 0x89, 0x0b][..], 4), (&[0x48, 0x01, 0x0b], 4)] {
        let mut machine = machine();
        machine.cpu.gprs[1] = VALUE;
        machine.cpu.gprs[3] = 0x3ffc;
        machine.model.protect(0x4000, !1);
        let got = denial(run(&mut machine, bytes));
        assert_eq!((got.gpa.get(), got.size, got.denied.raw()), (0x4000, 8, 1));
        machine.model.protect(0x4000, !2);
        machine.model.protect(0x3000, !(1 << 31));
        let got = denial(run(&mut machine, bytes));
        assert_eq!(got.gpa.get(), 0x4000 - first);
        machine.model.protect(0x3000, !0);
        assert_eq!(run(&mut machine, bytes), Ok(()));
        assert_eq!(machine.u64(0x3ffc), VALUE);
    }
}

#[test]
fn devices() {
    let mut machine = machine();
    machine.cpu.gprs[1] = VALUE;
    machine.cpu.gprs[3] = DEVICE;
    let read = |len| DeviceRead {
        gpa: ept::Gpa::new(DEVICE),
        len,
    };
    // add [rbx], ecx reads first, and then writes once.
    assert_eq!(
        run(&mut machine, &[0x01, 0x0b]),
        Err(Stop::DeviceRead(read(4)))
    );
    assert!(machine.journal.supply(read(4), 0x1000u64.to_le_bytes()));
    assert_eq!(run(&mut machine, &[0x01, 0x0b]), Ok(()));
    let write = machine.journal.next_write().unwrap();
    assert_eq!(
        (write.gpa, write.len, write.data),
        (DEVICE, 4, 0x8586_9788u64.to_le_bytes())
    );
    assert_eq!(machine.journal.next_write(), None);
    // The read was for that one alone.
    assert_eq!(
        run(&mut machine, &[0x8a, 0x0b]),
        Err(Stop::DeviceRead(read(1)))
    );
    assert_eq!(machine.cpu.rflags & ARITHMETIC, SF | PF);
}
