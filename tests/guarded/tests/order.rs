// SPDX-License-Identifier: GPL-2.0

//! What happens when: a destination is checked before a device or port is read for it,
//! and what was read is not lost, whatever happens to the destination since.

use emulate::exec::Done;
use emulate::stop::{PortRead, Stop};
use guarded::{Event, Granule, Machine, Meanwhile, Mode, DEVICE, PORT};

const RCX: usize = 1;
const RDX: usize = 2;
const RBX: usize = 3;
const RSP: usize = 4;
const RSI: usize = 6;
const RDI: usize = 7;
const DF: u64 = 1 << 10;

/// Where stores go, and the sub-page of that.
const PLACE: u64 = 0x8040;
const UNIT: u64 = PLACE / 128;

fn machine(mode: Mode) -> Machine {
    let mut machine = Machine::new(mode, Granule::SUBPAGE);
    let gprs = &mut machine.cpu.gprs;
    gprs[RDX] = PORT.into();
    gprs[RDI] = PLACE;
    gprs[RSI] = DEVICE;
    gprs[RBX] = DEVICE;
    gprs[RSP] = PLACE + 8;
    machine
}

fn protect(machine: &mut Machine) {
    machine.board.protected.insert(UNIT);
}

fn denied(outcome: Result<(), Stop>) -> bool {
    matches!(outcome, Err(Stop::Denied(_)))
}

/// Instructions that move data from a device or a port to memory at PLACE, in 64-bit code:
/// name, encoding, bytes written.
fn moves() -> Vec<(&'static str, Vec<u8>, u64)> {
    vec![
        ("INSB", vec![0x6c], 1),
        ("INSW", vec![0x66, 0x6d], 2),
        ("INSD", vec![0x6d], 4),
        ("MOVSB", vec![0xa4], 1),
        ("MOVSW", vec![0x66, 0xa5], 2),
        ("MOVSD", vec![0xa5], 4),
        ("MOVSQ", vec![0x48, 0xa5], 8),
        ("PUSH m", vec![0xff, 0x33], 8),
        // MOVDIR64B RDI, [RSI]
        ("MOVDIR64B", vec![0x66, 0x0f, 0x38, 0xf8, 0x3e], 64),
        // CALL [RBX]: the target is read before the return address is pushed.
        ("CALL m", vec![0xff, 0x13], 8),
    ]
}

/// Whether anything was read that is not memory.
fn side_effects(machine: &Machine) -> bool {
    let log = &machine.board.log;
    log.iter()
        .any(|event| matches!(event, Event::Port | Event::Device(_)))
}

#[test]
fn nothing_is_read_for_a_denied_store() {
    for (name, bytes, _) in moves() {
        let mut machine = machine(Mode::Bits64);
        protect(&mut machine);
        let before = machine.cpu;
        assert!(denied(machine.run(&bytes)), "{name}");
        assert!(!side_effects(&machine), "{name}: {:?}", machine.board.log);
        machine.cpu.rflags = before.rflags;
        assert_eq!(machine.cpu, before, "{name}");
    }
}

#[test]
fn no_port_is_read_for_a_denied_ins() {
    for mode in Mode::ALL {
        for prefix in [&[][..], &[0xf3], &[0xf2]] {
            for opcode in [&[0x6c][..], &[0x6d], &[0x66, 0x6d]] {
                for flags in [2, 2 | DF] {
                    let mut machine = machine(mode);
                    machine.cpu.gprs[RCX] = 5;
                    machine.cpu.rflags = flags;
                    protect(&mut machine);
                    let bytes = [prefix, opcode].concat();
                    assert!(denied(machine.run(&bytes)), "{bytes:x?}");
                    assert_eq!(machine.port_bytes, 0, "{bytes:x?}");
                    assert!(!side_effects(&machine), "{bytes:x?}");
                }
            }
        }
    }
}

#[test]
fn checks_come_first_and_writes_last() {
    for (name, bytes, len) in moves() {
        let mut machine = machine(Mode::Bits64);
        assert_eq!(machine.run(&bytes), Ok(()), "{name}");
        let log = &machine.board.log;
        let is_read = |e: &Event| matches!(e, Event::Port | Event::Device(_));
        let first_check = log.iter().position(|e| *e == Event::Check(PLACE >> 12));
        let first_read = log.iter().position(is_read);
        let last_read = log.iter().rposition(is_read);
        // After the last read everything is checked again, then written at once.
        let checked_again = log.iter().rposition(|e| *e == Event::Check(PLACE >> 12));
        let writes = log
            .iter()
            .filter(|e| matches!(e, Event::Write(..) | Event::Exchange(..)));
        let place = if name == "MOVDIR64B" {
            PLACE
        } else {
            machine_place(len, &bytes)
        };
        assert_eq!(
            writes.collect::<Vec<_>>(),
            [&Event::Write(place, len)],
            "{name}"
        );
        let write = log.iter().position(|e| matches!(e, Event::Write(..)));
        assert!(first_check.is_some() && first_read.is_some(), "{name}");
        assert!(first_check < first_read, "{name}: {log:?}");
        assert!(
            last_read < checked_again && checked_again < write,
            "{name}: {log:?}"
        );
    }
}

/// Where an instruction of `moves` writes: RDI, or below RSP.
fn machine_place(len: u64, bytes: &[u8]) -> u64 {
    match bytes {
        [0xff, ..] => PLACE + 8 - len,
        _ => PLACE,
    }
}

/// The processor's permission is lost after the data was read, and comes back later, with
/// and without other instructions in between that read devices, too.
#[test]
fn data_survives_a_denial() {
    for (name, bytes, len) in moves() {
        for others in 0..3 {
            let mut machine = machine(Mode::Bits64);
            let stop = machine.step(&bytes).expect_err(name);
            assert!(machine.answer(stop), "{name}: {stop:?}");
            protect(&mut machine);
            assert!(denied(machine.run(&bytes)), "{name}");
            let (ports, log) = (machine.port_bytes, machine.board.log.clone());
            for other in 0..others {
                elsewhere(&mut machine, 0x7000 + other);
                assert!(denied(machine.run(&bytes)), "{name}");
            }
            let reads = |log: &[Event]| {
                let read = |e: &&Event| matches!(e, Event::Port | Event::Device(_));
                log.iter().filter(read).count()
            };
            let already = reads(&machine.board.log);
            assert_eq!(already, reads(&log) + others as usize, "{name}");
            machine.board.protected.clear();
            assert_eq!(machine.run(&bytes), Ok(()), "{name}");

            // The same data as in one go, and every datum read once.
            let mut free = self::machine(Mode::Bits64);
            assert_eq!(free.run(&bytes), Ok(()), "{name}");
            let all = reads(&free.board.log) + others as usize;
            assert_eq!(reads(&machine.board.log), all, "{name}");
            let place = machine_place(len, &bytes);
            let got = machine.board.bytes(place, len);
            assert_eq!(got, free.board.bytes(place, len), "{name}");
            assert!(machine.port_bytes <= ports + others, "{name}");
        }
    }
}

/// An INSB at another address, to another place.
fn elsewhere(machine: &mut Machine, rip: u64) {
    let cpu = machine.cpu;
    machine.cpu.rip = rip;
    machine.cpu.gprs[RDI] = 0x6000;
    assert_eq!(machine.run(&[0x6c]), Ok(()));
    machine.cpu = cpu;
}

/// The same where permission is lost between the check and the write.
#[test]
fn data_survives_a_change_before_the_write() {
    for (name, bytes, len) in moves() {
        let mut machine = machine(Mode::Bits64);
        machine.board.meanwhile = vec![Some(Meanwhile::Protect(UNIT))];
        let before = machine.cpu;
        assert_eq!(machine.run(&bytes), Err(Stop::Retry), "{name}");
        assert_eq!(machine.cpu, before, "{name}");
        assert!(denied(machine.run(&bytes)), "{name}");
        assert!(machine.board.changes().is_empty(), "{name}");
        let (ports, reads) = (machine.port_bytes, machine.board.log.clone());
        machine.board.protected.clear();
        machine.board.log.clear();
        assert_eq!(machine.run(&bytes), Ok(()), "{name}");
        assert!(
            !side_effects(&machine),
            "{name}: read again after {reads:?}"
        );
        assert_eq!(machine.port_bytes, ports, "{name}");
        let mut free = self::machine(Mode::Bits64);
        assert_eq!(free.run(&bytes), Ok(()), "{name}");
        let place = machine_place(len, &bytes);
        let got = machine.board.bytes(place, len);
        assert_eq!(got, free.board.bytes(place, len), "{name}");
    }
}

/// As many elements are read from a port as have a place, up to the edge of the sub-page.
#[test]
fn ports_are_read_ahead_up_to_the_edge() {
    for (opcode, size) in [(&[0x6c][..], 1), (&[0x66, 0x6d], 2), (&[0x6d], 4)] {
        for room in [1, 3, 4, 5, 8, 63, 64, 127, 128, 200] {
            let mut machine = machine(Mode::Bits64);
            let edge = 0x9000;
            machine.cpu.gprs[RDI] = edge - room;
            machine.cpu.gprs[RCX] = 500;
            machine.board.protected.insert(edge / 128);
            let bytes = [&[0xf3], opcode].concat();
            let whole = room / size;
            let mut read = 0;
            let last = loop {
                let ports = match machine.step(&bytes) {
                    Err(stop @ Stop::PortRead(PortRead { count, .. })) => {
                        assert!(machine.answer(stop));
                        u64::from(count)
                    }
                    Ok(Done::Partial) => 0,
                    other => break other,
                };
                read += ports;
                assert!(read <= whole, "{read} of {whole} elements of {size}");
            };
            assert!(matches!(last, Err(Stop::Denied(d)) if d.gpa.get() == edge));
            assert_eq!(machine.cpu.gprs[RCX], 500 - whole);
            assert_eq!(machine.cpu.gprs[RDI], edge - room + whole * size);
            assert_eq!(machine.port_bytes, whole * size);
            let want: Vec<u8> = (0..whole * size).map(|n| n as u8).collect();
            assert_eq!(machine.board.bytes(edge - room, whole * size), want);
        }
    }
}

/// Read-modify-write of a device: checked as a write, read, told.
#[test]
fn devices_are_read_and_told_once() {
    for (name, bytes, len) in [
        ("XCHG", vec![0x48, 0x87, 0x0b], 8),
        ("ADD", vec![0x01, 0x0b], 4),
        ("LOCK ADD", vec![0xf0, 0x01, 0x0b], 4),
        ("INC", vec![0xfe, 0x03], 1),
        ("CMPXCHG", vec![0x0f, 0xb1, 0x0b], 4),
        ("BTS", vec![0x0f, 0xba, 0x2b, 3], 4),
    ] {
        let mut machine = machine(Mode::Bits64);
        assert_eq!(machine.run(&bytes), Ok(()), "{name}");
        let device = |e: &&Event| matches!(e, Event::Device(_));
        let reads: Vec<_> = machine.board.log.iter().filter(device).collect();
        assert_eq!(reads, [&Event::Device(DEVICE)], "{name}");
        assert!(machine.board.changes().is_empty(), "{name}");
        let posted = machine.posted();
        assert_eq!(posted.len(), 1, "{name}");
        assert_eq!((posted[0].0, posted[0].1.len()), (DEVICE, len), "{name}");
    }
    // What XCHG reads ends in the register.
    let mut machine = machine(Mode::Bits64);
    let rcx = machine.cpu.gprs[RCX];
    assert_eq!(machine.run(&[0x48, 0x87, 0x0b]), Ok(()));
    let read = emulate::stop::DeviceRead {
        gpa: ept::Gpa::new(DEVICE),
        len: 8,
    };
    let value = u64::from_le_bytes(Machine::device_data(read));
    assert_eq!(machine.cpu.gprs[RCX], value);
    assert_eq!(machine.posted(), [(DEVICE, rcx.to_le_bytes().to_vec())]);
}

/// A store whose first part is memory and denied, and whose second part is a device's.
#[test]
fn a_device_hears_nothing_of_a_denied_store() {
    for (bytes, len) in [(vec![0x48, 0x89, 0x03], 8), (vec![0x0f, 0x11, 0x03], 16)] {
        for inside in 1..len {
            let mut machine = machine(Mode::Bits64);
            machine.cpu.gprs[RBX] = guarded::LAST - inside;
            machine.board.protected.insert((guarded::LAST - 1) / 128);
            assert!(denied(machine.run(&bytes)));
            assert_eq!(machine.posted(), []);
            machine.board.protected.clear();
            assert_eq!(machine.run(&bytes), Ok(()));
            let told: u64 = machine.posted().iter().map(|(_, b)| b.len() as u64).sum();
            assert_eq!(told, len - inside);
            assert_eq!(machine.board.stored().len() as u64, inside);
        }
    }
}
