// SPDX-License-Identifier: GPL-2.0

//! Devices, read-only memory, and reads.

use super::*;
use crate::memory::Ram;
use crate::op::Op;
use crate::stop::DeviceRead;

#[test]
fn devices_are_told_words() {
    let mut board = Board::new();
    // From memory into a device, and a device alone.
    let store = |board: &mut Board, gva, data: &[u8]| {
        let guest = &mut board.guest();
        let span = guest.prepare_write(Gva::new(gva), data.len() as u16, Intent::Write)?;
        assert!(span.device());
        guest.commit(span, data)
    };
    let data: Vec<u8> = (1..=32).collect();
    assert_eq!(store(&mut board, 0x4ffd, &data[..16]), Ok(()));
    assert_eq!(board.model.writes(), [Event::Write(0x4ffd, 3)]);
    let want = vec![
        (0x5000, data[3..11].to_vec()),
        (0x5008, data[11..16].to_vec()),
    ];
    assert_eq!(board.posted(), want);
    assert_eq!(store(&mut board, 0x8003, &data[..4]), Ok(()));
    assert_eq!(board.model.writes(), []);
    assert_eq!(board.posted(), [(0x8003, data[..4].to_vec())]);
    // Denied in memory: the device hears nothing.
    board.model.protect(0x4000, u32::MAX >> 1);
    let got = store(&mut board, 0x4ffd, &data[..16]);
    assert!(matches!(got, Err(Stop::Denied(d)) if d.gpa.get() == 0x4ffd));
    assert_eq!(board.posted(), []);
    board.model.maps.clear();
    let map = Meanwhile::Map(0x4000, Mask::NONE);
    board.model.meanwhile = vec![map];
    assert_eq!(store(&mut board, 0x4ffd, &data[..16]), Err(Stop::Retry));
    assert_eq!(board.posted(), []);
    board.model.maps.clear();
    // More than there is room for: nothing at all.
    for _ in 0..5 {
        assert_eq!(store(&mut board, 0x8000, &data), Ok(()));
    }
    let refused = Err(Stop::Refused(Op::Unknown));
    assert_eq!(store(&mut board, 0x4ffd, &data[..4]), refused);
    assert_eq!(board.model.writes(), []);
    let told: Vec<u8> = board.posted().into_iter().flat_map(|w| w.1).collect();
    assert_eq!(told, data.repeat(5));
    assert_eq!(store(&mut board, 0x4ffd, &data[..4]), Ok(()));
    board.posted();

    // Bytes left out cannot be told in words; where none is, they can.
    let guest = &mut board.guest();
    let write = Intent::Write;
    for (bytes, want) in [(0x7f, refused), (0xff, Ok(()))] {
        let span = guest.prepare_bytes(Gva::new(0x8000), 8, write, bytes, false);
        assert_eq!(guest.commit_bytes(span.unwrap(), &[0; 8], bytes), want);
    }
}

#[test]
fn locked_accesses_to_devices_are_plain() {
    let mut board = Board::new();
    board.journal.begin(0);
    let read = DeviceRead {
        gpa: Gpa::new(0x8000),
        len: 4,
    };
    let exchange = |board: &mut Board| {
        board.journal.begin(0);
        let guest = &mut board.guest();
        let span = guest.prepare_write(Gva::new(0x8000), 4, Intent::ReadWrite)?;
        let mut old = [0; 4];
        guest.load_span(&span, &mut old)?;
        guest.exchange(span, &old, &[5; 4])?;
        Ok(old)
    };
    assert_eq!(exchange(&mut board), Err(Stop::DeviceRead(read)));
    assert_eq!(board.posted(), []);
    assert!(board.journal.supply(read, [1, 2, 3, 4, 0, 0, 0, 0]));
    assert_eq!(exchange(&mut board), Ok([1, 2, 3, 4]));
    assert_eq!(board.posted(), [(0x8000, vec![5; 4])]);
}

#[test]
fn read_only_memory_is_a_device_to_writes() {
    let mut board = Board::new();
    board.model.rom.insert(2);
    let guest = &mut board.guest();
    let span = guest.prepare_write(CROSSING, 8, Intent::ReadWrite).unwrap();
    let mut old = [0; 8];
    assert_eq!(guest.load_span(&span, &mut old), Ok(()));
    assert_eq!(old, [0xfc, 0xfd, 0xfe, 0xff, 0, 1, 2, 3]);
    assert_eq!(guest.exchange(span, &old, &[9; 8]), Ok(()));
    assert_eq!(board.model.writes(), [Event::Write(0x1ffc, 4)]);
    assert_eq!(board.posted(), [(0x2000, vec![9; 4])]);
    assert_eq!(board.byte(0x2000), 0);
}

#[test]
fn reads() {
    let mut board = Board::new();
    let read = |board: &mut Board, gva, len: u16| {
        board.journal.begin(0);
        let guest = &mut board.guest();
        let source = guest.prepare_read(Gva::new(gva), len, false)?;
        let mut out = vec![0; len.into()];
        guest.load(&source, &mut out).map(|()| out)
    };
    let all: Vec<u8> = (0x2f00..0x3f00u64).map(|at| at as u8).collect();
    assert_eq!(read(&mut board, 0x2f00, 4096), Ok(all));
    // Each word of a device once, then all at once.
    let mut words = vec![];
    let out = loop {
        match read(&mut board, 0x4fff, 20) {
            Err(Stop::DeviceRead(wanted)) => {
                let n = words.len() as u8 * 16;
                words.push((wanted.gpa.get(), wanted.len));
                let data = core::array::from_fn(|i| n + i as u8);
                assert!(board.journal.supply(wanted, data));
            }
            other => break other.unwrap(),
        }
    };
    assert_eq!(words, [(0x5000, 8), (0x5008, 8), (0x5010, 3)]);
    let mut want = vec![0xff];
    want.extend((0..8).chain(16..24).chain(32..35));
    assert_eq!(out, want);
    // Memory that goes between looking up and reading.
    let guest = &mut board.guest();
    let source = guest.prepare_read(Gva::new(0x2000), 4, false).unwrap();
    board.model.ram = Ram::default();
    let got = board.guest().load(&source, &mut [0; 4]);
    assert_eq!(got, Err(Stop::Retry));
}
