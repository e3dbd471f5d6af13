// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::machine::{descriptor, Machine, CODE, DATA, FLAT, GDT, LONG};
use crate::model::{Event, Meanwhile};

fn read(machine: &mut Machine, selector: u16) -> Result<Descriptor, Stop> {
    Descriptor::read(&mut machine.guest(), selector, Exception::gp(0x1234))
}

#[test]
fn fields_are_where_the_manual_says() {
    let mut machine = Machine::protected(0);
    machine.set(0x70, descriptor(0x89ab_cdef, 0x6_7654, 0xf2, 0x4));
    let d = read(&mut machine, 0x73).unwrap();
    let want = Segment {
        selector: 0x73,
        base: 0x89ab_cdef,
        limit: 0x6_7654,
        // Loading it sets the accessed flag.
        attributes: 0x40f3,
        unusable: false,
    };
    assert_eq!(d.segment(), want);
    assert_eq!((d.kind(), d.dpl()), (2, 3));
    assert!(d.is_present() && d.is_big() && !d.is_long());
    assert!(d.is_writable_data() && !d.is_code() && !d.is_conforming());
    assert!(!d.is_system());
    machine.set(0x70, descriptor(0, 0x6_7654, 0x12, 0xc));
    let d = read(&mut machine, 0x70).unwrap();
    assert_eq!(d.limit(), 0x6765_4fff);
    assert!(!d.is_present());
}

#[test]
fn kinds() {
    for (access, code, conforming, writable, system) in [
        (CODE, true, false, false, false),
        (CODE | 4, true, true, false, false),
        (CODE & !2, true, false, false, false),
        (DATA, false, false, true, false),
        (DATA | 4, false, false, true, false),
        (DATA & !2, false, false, false, false),
        // A TSS and a call gate have the bits of code and data.
        (0x8b, false, false, false, true),
        (0x82, false, false, false, true),
        (0x8c, false, false, false, true),
    ] {
        let mut machine = Machine::protected(0);
        machine.set(0x70, descriptor(0, 0, access, FLAT));
        let d = read(&mut machine, 0x70).unwrap();
        let got = (d.is_code(), d.is_conforming(), d.is_writable_data());
        assert_eq!(got, (code, conforming, writable), "{access:x}");
        assert_eq!(d.is_system(), system);
        assert_eq!(d.segment().attributes as u8, access);
    }
    let mut machine = Machine::protected(0);
    machine.set(0x70, descriptor(0, 0, CODE, LONG));
    let d = read(&mut machine, 0x70).unwrap();
    assert!(d.is_long() && !d.is_big());
}

#[test]
fn tables_end_where_their_limits_say() {
    let outside = Err(Exception::gp(0x1234).into());
    let mut machine = Machine::protected(0);
    machine.cpu.gdtr.limit = 0x76;
    assert_eq!(read(&mut machine, 0x70), outside);
    machine.cpu.gdtr.limit = 0x77;
    let d = read(&mut machine, 0x70).unwrap();
    let mut upper = || d.read_upper(&mut machine.guest(), Exception::gp(0x1234));
    assert_eq!(upper(), outside.map(|_: Descriptor| 0));
    machine.cpu.gdtr.limit = 0x7f;
    machine.set(0x78, 0x1122_3344_5566_7788);
    let upper = d.read_upper(&mut machine.guest(), Exception::gp(0));
    assert_eq!(upper, Ok(0x1122_3344_5566_7788));
    assert_eq!(read(&mut machine, 0xfffc), outside);
    machine.cpu.ldtr.limit = 0xffff_ffff;
    assert_eq!(read(&mut machine, 0xffff).unwrap().at, Gva::new(0x157f8));
}

#[test]
fn flags_are_set_only_in_what_was_read() {
    let mut machine = Machine::protected(0);
    machine.set(0x08, descriptor(0, 0xfffff, CODE & !1, FLAT));
    let d = read(&mut machine, 0x08).unwrap();
    // Somebody makes it data meanwhile.
    let other = descriptor(0, 0xfffff, DATA & !1, FLAT);
    machine
        .model
        .meanwhile
        .push(Meanwhile::Store(GDT + 8, other));
    let mut guest = machine.guest();
    let flag = d.prepare_accessed(&mut guest).unwrap().unwrap();
    assert_eq!(flag.set(&mut guest), Err(Stop::Retry));
    assert_eq!(machine.u64(GDT + 8), other);

    let d = read(&mut machine, 0x08).unwrap();
    let mut guest = machine.guest();
    let flag = d.prepare_accessed(&mut guest).unwrap().unwrap();
    assert_eq!(flag.set(&mut guest), Ok(()));
    assert_eq!(machine.model.writes(), [Event::Exchange(GDT + 13, 1)]);
    assert_eq!(machine.u64(GDT + 8), other | 1 << 40);
    let d = read(&mut machine, 0x08).unwrap();
    let mut guest = machine.guest();
    assert!(d.prepare_accessed(&mut guest).unwrap().is_none());
}

#[test]
fn marks_the_descriptor_around_an_address() {
    let fresh = descriptor(0x1_0000, 0xfffff, DATA & !1, FLAT);
    // Whatever byte of it the processor was about to write.
    for byte in 0..8 {
        let mut machine = Machine::protected(0);
        machine.set(0x10, fresh);
        let at = Gva::new(GDT + 0x10 + byte);
        assert_eq!(mark_accessed(&mut machine.guest(), at), Ok(true));
        assert_eq!(machine.model.writes(), [Event::Exchange(GDT + 0x15, 1)]);
        assert_eq!(machine.u64(GDT + 0x10), fresh | 1 << 40);
        // Once is enough.
        assert_eq!(mark_accessed(&mut machine.guest(), at), Ok(false));
        assert_eq!(machine.model.writes(), []);
    }
}

#[test]
fn marks_in_the_ldt_too() {
    let mut machine = Machine::protected(0);
    let fresh = descriptor(0, 0xfffff, CODE & !1, FLAT);
    machine.model.ram.write_u64(0x5808, fresh);
    let at = Gva::new(0x580d);
    assert_eq!(mark_accessed(&mut machine.guest(), at), Ok(true));
    assert_eq!(machine.u64(0x5808), fresh | 1 << 40);
    machine.model.ram.write_u64(0x5808, fresh);
    machine.cpu.ldtr.unusable = true;
    assert_eq!(mark_accessed(&mut machine.guest(), at), Ok(false));
    assert_eq!(machine.u64(0x5808), fresh);
}

#[test]
fn marks_nothing_else() {
    // A system descriptor, an address outside of the tables, a table that ends in it.
    let mut machine = Machine::protected(0);
    for at in [GDT + 0x4d, GDT - 1, GDT + 0x100, 0] {
        assert_eq!(
            mark_accessed(&mut machine.guest(), Gva::new(at)),
            Ok(false),
            "{at:x}"
        );
        assert_eq!(machine.model.writes(), []);
    }
    machine.set(0x10, descriptor(0, 0xfffff, DATA & !1, FLAT));
    machine.cpu.gdtr.limit = 0x16;
    let at = Gva::new(GDT + 0x15);
    let cut = mark_accessed(&mut machine.guest(), at);
    assert_eq!(cut, Err(Exception::gp(0).into()));
    machine.cpu.gdtr.limit = 0xff;
    machine.model.rom.insert(GDT >> 12);
    assert_eq!(mark_accessed(&mut machine.guest(), at), Ok(false));
    assert_eq!(machine.model.writes(), []);
}

#[test]
fn a_denied_mark_names_its_byte() {
    let mut machine = Machine::protected(0);
    machine.set(0x10, descriptor(0, 0xfffff, DATA & !1, FLAT));
    machine.model.protect(GDT, !1);
    let stop = mark_accessed(&mut machine.guest(), Gva::new(GDT + 0x10));
    let Err(Stop::Denied(denial)) = stop else {
        panic!("{stop:?}");
    };
    assert_eq!((denial.gpa.get(), denial.size), (GDT + 0x15, 1));
    assert!(denial.read);
    assert_eq!(machine.model.writes(), []);
}

#[test]
fn only_available_tasks_become_busy() {
    let mut machine = Machine::protected(0);
    machine.set(0x48, descriptor(0x6000, 0x67, 0x89, 0));
    let span = prepare_busy(&mut machine.guest(), 0x4b).unwrap().unwrap();
    assert_eq!((span.gva(), span.len()), (Gva::new(GDT + 0x4d), 1));
    assert_eq!(machine.model.writes(), []);
    for access in [0x8b, 0x82, 0x93, 0x99, 0x81 | 2] {
        machine.set(0x48, descriptor(0x6000, 0x67, access, 0));
        assert_eq!(prepare_busy(&mut machine.guest(), 0x48), Ok(None));
    }
    let outside = prepare_busy(&mut machine.guest(), 0x1000);
    assert_eq!(outside, Err(Exception::gp(0x1000).into()));
}
