// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::cpu::rflags::{DF, TF};
use crate::insn::CodeSize;
use crate::machine::TSS;
use crate::stop::PortRead;
use crate::GuestPhys;

const PORT: u16 = 0x3f8;
const DST: u64 = 0x4000;

fn machine() -> Machine {
    let mut machine = super::machine();
    machine.cpu.gprs[2] = 0x5555_0000 | u64::from(PORT);
    machine.cpu.gprs[7] = DST;
    machine.cpu.gprs[6] = DATA;
    machine
}

fn read(size: u8, count: u16) -> PortRead {
    PortRead {
        port: PORT,
        size,
        count,
    }
}

#[track_caller]
fn step(machine: &mut Machine, bytes: &[u8]) -> Result<Done, Stop> {
    let insn = decoded(machine, bytes);
    let rip = machine.cpu.rip;
    machine.journal.begin(rip);
    let done = execute(&mut machine.guest(), &insn);
    if done == Ok(Done::Retired) {
        machine.cpu.rip = rip;
    }
    done
}

#[test]
fn one_element() {
    for (size, bytes) in [
        (1, &[0x6c][..]),
        (2, &[0x66, 0x6d]),
        (4, &[0x6d]),
        (4, &[0x48, 0x6d]),
    ] {
        let mut machine = machine();
        assert_eq!(run(&mut machine, bytes), Err(Stop::PortRead(read(size, 1))));
        machine
            .journal
            .supply_ports(read(size, 1), &[1, 2, 3, 4][..size.into()]);
        assert_eq!(run(&mut machine, bytes), Ok(()));
        assert_eq!(machine.u64(DST), 0x0403_0201 & mask(size));
        assert_eq!(machine.cpu.gprs[7], DST + u64::from(size));
        // It is used up.
        assert_eq!(run(&mut machine, bytes), Err(Stop::PortRead(read(size, 1))));
    }
}

/// How many elements are read ahead: up to 1024 bytes, the end of the page, and the first
/// that has no place.
#[test]
fn counts() {
    for (bytes, size, rcx, rdi, map, count, down) in [
        (&[0xf3, 0x6c][..], 1, 10, DST, !0, 10, 1),
        (&[0xf3, 0x6c], 1, 5000, DST, !0, 1024, 1),
        (&[0xf3, 0x6d], 4, 5000, DST, !0, 256, 1),
        (&[0xf3, 0x6d], 4, 5000, DST + 0xff0, !0, 4, 256),
        (&[0xf3, 0x6d], 4, 5000, DST + 0xfee, !0, 4, 256),
        (&[0xf3, 0x6d], 4, 5000, DST + 0xffe, !0, 1, 256),
        (&[0xf3, 0x66, 0x6d], 2, 5000, DST + 0x10, !2, 56, 8),
        (&[0xf3, 0x6d], 4, 5000, DST + 0x11, !2, 27, 4),
        (&[0xf3, 0x6d], 4, 5000, DST + 0x79, !2, 1, 30),
        (&[0x6d], 4, 5000, DST, !0, 1, 1),
        (&[0xf3, 0x6c], 1, 10, 0x2_0000, !0, 10, 1),
    ] {
        let mut machine = machine();
        machine.cpu.gprs[1] = rcx;
        machine.cpu.gprs[7] = rdi;
        machine.model.protect(DST, map);
        let end = Err(Stop::PortRead(read(size, count)));
        assert_eq!(run(&mut machine, bytes), end, "{bytes:x?} {rdi:x}");
        // Downwards, as many as lie before it in its page; with single steps, one by one.
        for (flag, count) in [(DF, down), (TF, 1)] {
            machine.cpu.rflags = 2 | flag;
            let end = Err(Stop::PortRead(read(size, count)));
            assert_eq!(run(&mut machine, bytes), end, "{bytes:x?} {rdi:x} {flag:x}");
        }
    }
}

#[test]
fn no_port_is_read_for_data_without_a_place() {
    for bytes in [&[0x6c][..], &[0xf3, 0x6c], &[0xf3, 0x6d]] {
        let mut machine = machine();
        machine.cpu.gprs[1] = 5;
        machine.model.protect(DST, !1);
        let got = denial(run(&mut machine, bytes));
        assert_eq!((got.gpa.get(), got.read), (DST, false));
        machine.cpu.gprs[7] = 0x20_0000;
        assert_eq!(run(&mut machine, bytes), Err(page_fault(0x20_0000, 2)));
    }
}

#[test]
fn repeated() {
    let mut machine = machine();
    machine.cpu.gprs[1] = 1500;
    let rep = &[0xf3, 0x6c];
    assert_eq!(step(&mut machine, rep), Err(Stop::PortRead(read(1, 1024))));
    let data: [u8; 1500] = core::array::from_fn(|n| n as u8 ^ (n >> 8) as u8);
    machine.journal.supply_ports(read(1, 1024), &data[..1024]);
    // With the data used up, the guest may take an interrupt.
    assert_eq!(step(&mut machine, rep), Ok(Done::Partial));
    assert_eq!(
        (machine.cpu.gprs[1], machine.cpu.gprs[7]),
        (476, DST + 1024)
    );
    assert_eq!(machine.model.writes().len(), 1);
    assert_eq!(step(&mut machine, rep), Err(Stop::PortRead(read(1, 476))));
    machine.journal.supply_ports(read(1, 476), &data[1024..]);
    assert_eq!(step(&mut machine, rep), Ok(Done::Retired));
    assert_eq!((machine.cpu.gprs[1], machine.cpu.gprs[7]), (0, DST + 1500));
    assert_eq!(machine.bytes(DST), data);
}

/// A right that goes while the port is read: what has no place now waits for it.
#[test]
fn a_later_denial_keeps_the_data() {
    let mut machine = machine();
    machine.cpu.gprs[1] = 300;
    let rep = &[0xf3, 0x6c];
    assert_eq!(step(&mut machine, rep), Err(Stop::PortRead(read(1, 300))));
    let data: [u8; 300] = core::array::from_fn(|n| (n * 7) as u8);
    machine.journal.supply_ports(read(1, 300), &data);
    machine.model.protect(DST, !2);
    let got = denial(step(&mut machine, rep));
    assert_eq!((got.gpa.get(), got.size), (DST + 128, 1));
    assert_eq!((machine.cpu.gprs[1], machine.cpu.gprs[7]), (172, DST + 128));
    assert_ne!(machine.cpu.rflags & rflags::RF, 0);
    assert_eq!(machine.bytes::<129>(DST)[..128], data[..128]);
    assert_eq!(machine.bytes::<1>(DST + 128), [0]);
    // Another instruction in between does not touch it.
    machine.journal.begin(0x9999);
    assert_eq!(denial(step(&mut machine, rep)), got);
    machine.model.protect(DST, !0);
    assert_eq!(step(&mut machine, rep), Ok(Done::Retired));
    assert_eq!(machine.bytes(DST), data);
}

#[test]
fn downwards_and_to_a_device() {
    let mut machine = machine();
    machine.cpu.gprs[1] = 2;
    machine.cpu.rflags |= DF;
    for (n, end) in [Done::Partial, Done::Retired].into_iter().enumerate() {
        let rep = &[0xf3, 0x66, 0x6d];
        assert_eq!(step(&mut machine, rep), Err(Stop::PortRead(read(2, 1))));
        machine.journal.supply_ports(read(2, 1), &[n as u8, 0xaa]);
        assert_eq!(step(&mut machine, rep), Ok(end));
        assert_eq!(machine.bytes(DST - 2 * n as u64), [n as u8, 0xaa]);
    }
    assert_eq!(machine.cpu.gprs[7], DST - 4);
    machine.cpu.rflags = 2;
    machine.cpu.gprs[7] = 0x2_0000;
    assert_eq!(step(&mut machine, &[0x6d]), Err(Stop::PortRead(read(4, 1))));
    machine.journal.supply_ports(read(4, 1), &[1, 2, 3, 4]);
    assert_eq!(step(&mut machine, &[0x6d]), Ok(Done::Retired));
    let write = machine.journal.next_write().unwrap();
    assert_eq!(
        (write.gpa, write.len, write.data),
        (0x2_0000, 4, [1, 2, 3, 4, 0, 0, 0, 0])
    );
}

#[test]
fn outs() {
    let mut machine = machine();
    machine.model.ram.write_u64(DATA, 0x8182_8384_8586_8788);
    for (size, bytes) in [(1, &[0x6e][..]), (2, &[0x66, 0x6f]), (4, &[0x6f])] {
        machine.cpu.gprs[6] = DATA;
        assert_eq!(step(&mut machine, bytes), Ok(Done::Retired));
        let value = 0x8586_8788 & mask(size) as u32;
        assert_eq!(machine.journal.take_port_write(), Some((PORT, size, value)));
        assert_eq!(machine.cpu.gprs[6], DATA + u64::from(size));
    }
    // One by one.
    machine.cpu.gprs[1] = 2;
    machine.cpu.gprs[6] = DATA;
    for (value, end) in [(0x88, Done::Partial), (0x87, Done::Retired)] {
        assert_eq!(step(&mut machine, &[0xf3, 0x6e]), Ok(end));
        assert_eq!(machine.journal.take_port_write(), Some((PORT, 1, value)));
    }
    // A fault comes before the write.
    machine.cpu.gprs[6] = 0x20_0000;
    assert_eq!(run(&mut machine, &[0x6e]), Err(page_fault(0x20_0000, 0)));
    assert_eq!(machine.journal.take_port_write(), None);
}

/// A TSS whose map begins right behind it, with the ports of [`PORT`]'s byte and the next.
fn with_map(cpl: u8, low: u8, high: u8) -> Machine {
    let mut machine = Machine::protected(cpl);
    machine.cpu.gprs[2] = PORT.into();
    machine.cpu.gprs[7] = DST;
    machine.model.ram.write(TSS + 102, &[0x68, 0]);
    machine
        .model
        .ram
        .write(TSS + 0x68 + u64::from(PORT / 8), &[low, high]);
    machine.cpu.tr.limit = 0x68 + u32::from(PORT / 8) + 1;
    machine
}

#[test]
fn permissions() {
    let ok = |size| Err(Stop::PortRead(read(size, 1)));
    // Privilege: no map is needed.
    let mut machine = with_map(0, 0xff, 0xff);
    assert_eq!(run(&mut machine, &[0x6d]), ok(4));
    let mut machine = with_map(1, 0xff, 0xff);
    assert_eq!(run(&mut machine, &[0x6d]), Err(gp()));
    machine.cpu.rflags |= 1 << 12;
    assert_eq!(run(&mut machine, &[0x6d]), ok(4));
    // Each port of the access counts.
    for bit in 0..10u32 {
        let map = 1u16 << bit;
        let [low, high] = map.to_le_bytes();
        let mut machine = with_map(3, low, high);
        for (size, bytes) in [(1, &[0x6c][..]), (2, &[0x66, 0x6d]), (4, &[0x6d])] {
            let denied = bit < size.into();
            let want = if denied { Err(gp()) } else { ok(size) };
            assert_eq!(run(&mut machine, bytes), want, "{bit} {size}");
        }
    }
    // Ports at the end of a byte reach into the next.
    let mut machine = with_map(3, 0, 1);
    machine.cpu.gprs[2] = u64::from(PORT) + 6;
    assert_eq!(run(&mut machine, &[0x6d]), Err(gp()));
    let two = PortRead {
        port: PORT + 6,
        size: 2,
        count: 1,
    };
    assert_eq!(run(&mut machine, &[0x66, 0x6d]), Err(Stop::PortRead(two)));
}

#[test]
fn what_a_tss_may_lack() {
    // Two bytes are read, and both have to be there.
    let mut machine = with_map(3, 0, 0);
    machine.cpu.tr.limit -= 1;
    assert_eq!(run(&mut machine, &[0x6c]), Err(gp()));
    // A TSS of 16 bits, none, and one too short for the base of a map.
    let breaks: [fn(&mut Segment); 3] = [
        |tr| tr.attributes = 0x83,
        |tr| tr.unusable = true,
        |tr| tr.limit = 102,
    ];
    for spoil in breaks {
        let mut machine = with_map(3, 0, 0);
        spoil(&mut machine.cpu.tr);
        assert_eq!(run(&mut machine, &[0x6c]), Err(gp()));
    }
    // The check comes before anything is known of the destination, and reads the TSS with
    // the rights of the processor.
    let mut machine = with_map(3, 0xff, 0xff);
    machine.cpu.gprs[7] = 0x4_0000_0000;
    assert_eq!(run(&mut machine, &[0x6c]), Err(gp()));
}

/// Neither the map nor its base is the program's to read.
#[test]
fn the_processor_reads_the_tss() {
    let mut machine = Machine::ia32e(3, true);
    let other = with_map(3, 0, 0);
    machine.model.ram = {
        let mut ram = machine.model.ram;
        let mut page = [0; 4096];
        assert!({ other.model.ram }.read(ept::Gpa::new(TSS), &mut page));
        ram.write(TSS, &page);
        ram
    };
    machine.cpu.tr = other.cpu.tr;
    machine.cpu.gprs = other.cpu.gprs;
    small_pages(&mut machine, |page| {
        page << 12 | if page == TSS >> 12 { 0x63 } else { 0x67 }
    });
    assert_eq!(run(&mut machine, &[0x6c]), Err(Stop::PortRead(read(1, 1))));
    machine.cpu.gprs[7] = TSS;
    assert_eq!(run(&mut machine, &[0x6c]), Err(page_fault(TSS, 7)));
}

#[test]
fn virtual_8086_mode_always_asks_the_map() {
    let mut machine = with_map(3, 0, 0);
    machine.cpu.rflags |= rflags::VM | rflags::IOPL;
    machine.cpu.code = CodeSize::Bits16;
    for segment in &mut machine.cpu.segments {
        segment.limit = 0xffff;
        segment.attributes = 0xf3;
    }
    assert_eq!(run(&mut machine, &[0x6c]), Err(Stop::PortRead(read(1, 1))));
    machine
        .model
        .ram
        .write(TSS + 0x68 + u64::from(PORT / 8), &[1]);
    assert_eq!(run(&mut machine, &[0x6c]), Err(gp()));
    let mut machine = Machine::real();
    machine.cpu.gprs[2] = PORT.into();
    machine.cpu.gprs[7] = DST;
    machine.cpu.tr.unusable = true;
    assert_eq!(run(&mut machine, &[0x6c]), Err(Stop::PortRead(read(1, 1))));
}
