// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::machine::{descriptor, CODE, DATA, FLAT, GDT};
use crate::model::{Event as Done, Meanwhile};
use ept::Gva;
use spp::Mask;

const TABLES: u64 = 0x10_0000;

/// All kinds of frames: a machine, and where the frame begins and ends.
fn frames(error: bool) -> [(Machine, u64, u64); 7] {
    let extra = u64::from(error);
    let mut real = Machine::real();
    real.cpu.gprs[4] = 0x9003;
    let mut same = Machine::protected(0);
    gates(&mut same, gate(0x08, HANDLER, 0x8e, 0));
    same.cpu.gprs[4] = 0x9004;
    let mut entered = inner(14);
    entered.model.ram.write_u32(TSS + 4, 0x9088);
    let mut from_v86 = inner(14);
    from_v86.cpu.rflags |= rflags::VM;
    from_v86.model.ram.write_u32(TSS + 4, 0x9008);
    let mut narrow = inner(6);
    narrow.model.ram.write_u32(TSS + 4, 0x9082);
    let [long, compatible] = [true, false].map(|long| {
        let mut machine = Machine::ia32e(3, long);
        long_gates(&mut machine, gate(0x38, HANDLER, 0xee, 0), 0);
        machine.model.ram.write_u64(TSS + 4, 0x9010);
        machine
    });
    [
        (real, 0x9003 - 6, 0x9003),
        (same, 0x9004 - 12 - 4 * extra, 0x9004),
        (entered, 0x9088 - 20 - 4 * extra, 0x9088),
        (from_v86, 0x9008 - 36 - 4 * extra, 0x9008),
        (narrow, 0x9082 - 10 - 2 * extra, 0x9082),
        (long, 0x9010 - 40 - 8 * extra, 0x9010),
        (compatible, 0x9010 - 40 - 8 * extra, 0x9010),
    ]
}

/// Each sub-page near a frame, denied alone: those of the frame stop the delivery, others
/// do not.
#[test]
fn every_sub_page_of_a_frame_counts() {
    for event in [EXTERNAL, FAULT] {
        for kind in 0..7 {
            for at in (0x8f00..0x9200).step_by(128) {
                let (mut machine, from, past) = frames(event.error_code.is_some())
                    .into_iter()
                    .nth(kind)
                    .unwrap();
                let bit = 1 << (at / 128 % 32);
                machine.model.protect(at, !bit);
                if past <= at || at + 128 <= from {
                    let done = deliver(&mut machine.guest(), &event);
                    assert_eq!(done, Ok(()), "{kind} {at:x}");
                    assert_ne!(machine.model.writes(), []);
                    continue;
                }
                let Stop::Denied(denial) = stops(&mut machine, &event) else {
                    panic!("{kind}: {at:x} is written");
                };
                let first = from.max(at);
                assert_eq!((denial.gpa.get(), denial.gva.get()), (first, first));
                assert_eq!(u64::from(denial.size), past - from);
                assert_eq!(denial.denied.raw(), bit);
                assert_eq!(denial.map.raw(), !bit);
                assert!(!denial.read && !denial.walk);
            }
        }
    }
}

#[test]
fn accessed_flags_of_descriptors_count() {
    for (map, denied) in [(!1, true), (!2, false)] {
        for (selector, access) in [(0x08, CODE & !1), (0x10, DATA & !1)] {
            let mut machine = inner(14);
            machine.set(selector, descriptor(0, 0xfffff, access, FLAT));
            machine.model.protect(GDT, map);
            if denied {
                let Stop::Denied(denial) = stops(&mut machine, &FAULT) else {
                    panic!("the GDT is written");
                };
                let at = GDT + u64::from(selector) + 5;
                assert_eq!((denial.gpa.get(), denial.size), (at, 1));
                assert!(denial.read);
            } else {
                assert_eq!(deliver(&mut machine.guest(), &FAULT), Ok(()));
            }
        }
        // Set already, it is not written.
        let mut machine = inner(14);
        machine.model.protect(GDT, map);
        assert_eq!(deliver(&mut machine.guest(), &FAULT), Ok(()));
    }
}

/// What changes before the write counts.
#[test]
fn maps_change_meanwhile() {
    let nothing = Mask::from_raw(0);
    let mut machine = inner(14);
    machine
        .model
        .meanwhile
        .push(Meanwhile::Map(ESP0 - 1, nothing));
    assert_eq!(stops(&mut machine, &FAULT), Stop::Retry);
    assert!(matches!(stops(&mut machine, &FAULT), Stop::Denied(_)));
    machine.model.meanwhile.push(Meanwhile::Fail);
    machine.model.maps.clear();
    assert_eq!(stops(&mut machine, &FAULT), Stop::Host);
    // A flag that was set before stays, as it does when a processor starts over.
    let mut machine = inner(14);
    machine.set(0x08, descriptor(0, 0xfffff, CODE & !1, FLAT));
    let cpu = machine.cpu;
    machine
        .model
        .meanwhile
        .push(Meanwhile::Map(ESP0 - 1, nothing));
    machine
        .model
        .meanwhile
        .push(Meanwhile::Map(0x3000, nothing));
    assert_eq!(deliver(&mut machine.guest(), &FAULT), Err(Stop::Retry));
    assert_eq!(machine.cpu, cpu);
    assert_eq!(machine.model.writes(), [Done::Exchange(GDT + 13, 1)]);
}

#[test]
fn devices_get_no_frames() {
    let refused = Stop::Refused(Op::Unknown);
    // Half a stack that is a device, and read-only memory.
    let mut machine = inner(14);
    machine.model.ram.write(0x1_e000, &[0]);
    machine.model.ram.write_u32(TSS + 4, 0x1_f008);
    assert_eq!(stops(&mut machine, &FAULT), refused);
    let mut machine = inner(14);
    machine.model.rom.insert(ESP0 - 1 >> 12);
    assert_eq!(stops(&mut machine, &FAULT), refused);
    // A descriptor in read-only memory cannot be marked.
    let mut machine = inner(14);
    machine.model.rom.insert(GDT >> 12);
    assert_eq!(deliver(&mut machine.guest(), &FAULT), Ok(()));
    let mut machine = inner(14);
    machine.set(0x08, descriptor(0, 0xfffff, CODE & !1, FLAT));
    machine.model.rom.insert(GDT >> 12);
    assert_eq!(stops(&mut machine, &FAULT), refused);
    // Tables that are devices are somebody else's to read.
    let mut machine = inner(14);
    machine.cpu.idtr.base = 0x20_0000;
    assert!(matches!(stops(&mut machine, &FAULT), Stop::DeviceRead(_)));
}

/// The frame is written with the rights of the handler's level.
#[test]
fn handlers_have_their_own_rights() {
    for (selector, cpl, fault) in [(0x38, 3, None), (0x1b, 3, Some(7)), (0x38, 0, None)] {
        let mut machine = Machine::ia32e(cpl, true);
        long_gates(&mut machine, gate(selector, HANDLER, 0xee, 0), 0);
        machine.model.ram.write_u64(TSS + 4, ESP);
        // All memory is the supervisor's.
        machine.model.ram.write_u64(TABLES + 0x2000, 0xe3);
        match fault {
            Some(code) => {
                let at = Gva::new(ESP - 8);
                let want = Exception::pf(at, code).into();
                assert_eq!(stops(&mut machine, &EXTERNAL), want);
            }
            None => assert_eq!(deliver(&mut machine.guest(), &EXTERNAL), Ok(())),
        }
    }
    // All memory is the user's, and the handler may not touch that (SMAP).
    let mut machine = Machine::ia32e(3, true);
    long_gates(&mut machine, gate(0x38, HANDLER, 0xee, 0), 0);
    machine.model.ram.write_u64(TSS + 4, ESP);
    machine.cpu.paging.cr4 |= 1 << 21;
    let Stop::Exception(exception) = stops(&mut machine, &EXTERNAL) else {
        panic!("delivered");
    };
    assert_eq!((exception.vector, exception.error_code), (14, Some(1)));
}

/// Page tables of 4 KBytes for the first 2 MBytes, without one page.
fn unmap(machine: &mut Machine, page: u64) {
    let table = TABLES + 0x8000;
    for n in 0..512 {
        let entry = if n == page >> 12 { 0 } else { n << 12 | 0x67 };
        machine.model.ram.write_u64(table + 8 * n, entry);
    }
    machine.model.ram.write_u64(TABLES + 0x2000, table | 0x27);
}

#[test]
fn stacks_may_be_absent() {
    for cpl in [0, 3] {
        // The page of the first push, and that of the last.
        for (absent, at) in [(0x9000, 0x9008), (0x8000, 0x8ff8)] {
            let mut machine = Machine::ia32e(cpl, true);
            long_gates(&mut machine, gate(0x38, HANDLER, 0xee, 0), 0);
            machine.cpu.gprs[4] = 0x9010;
            machine.model.ram.write_u64(TSS + 4, 0x9010);
            unmap(&mut machine, absent);
            // A denial elsewhere in the frame does not come first.
            machine.model.protect(0x9000 + 0x8000 - absent, 0);
            let want = Exception::pf(Gva::new(at), 2).into();
            assert_eq!(stops(&mut machine, &FAULT), want, "{cpl} {absent:x}");
        }
    }
}

/// A push that lies across the border is the first to touch the lower page.
#[test]
fn pushes_cross_pages() {
    for (absent, want) in [
        (None, None),
        (Some(8), Some(0x8ffe)),
        (Some(9), Some(0x9006)),
    ] {
        let mut machine = inner(14);
        machine.model.ram.write_u32(TSS + 4, 0x900a);
        // 32-bit paging with pages of 4 KBytes.
        machine.cpu.paging.cr0 |= 1 << 31;
        machine.cpu.paging.cr3 = TABLES;
        machine.model.ram.write_u32(TABLES, 0x10_8067);
        for n in 0..1024 {
            let entry = if absent == Some(n) { 0 } else { n << 12 | 0x67 };
            let at = TABLES + 0x8000 + 4 * u64::from(n);
            machine.model.ram.write_u32(at, entry);
        }
        match want {
            None => assert_eq!(deliver(&mut machine.guest(), &FAULT), Ok(())),
            Some(at) => {
                let want = Exception::pf(Gva::new(at), 2).into();
                assert_eq!(stops(&mut machine, &FAULT), want);
            }
        }
    }
}

#[test]
fn tables_may_be_absent() {
    for (table, at) in [(IDT, IDT + 14 * 16), (GDT, GDT + 0x38), (TSS, TSS + 4)] {
        let mut machine = Machine::ia32e(3, true);
        long_gates(&mut machine, gate(0x38, HANDLER, 0xee, 0), 0);
        machine.model.ram.write_u64(TSS + 4, ESP);
        unmap(&mut machine, table);
        let want = Exception::pf(Gva::new(at), 0).into();
        assert_eq!(stops(&mut machine, &FAULT), want);
    }
}
