// SPDX-License-Identifier: GPL-2.0

use std::vec::Vec;

use super::*;

fn word(gpa: u64) -> DeviceRead {
    DeviceRead {
        gpa: Gpa::new(gpa),
        len: 8,
    }
}

fn read(journal: &mut Journal, gpa: u64) -> Result<u8, DeviceRead> {
    let mut out = [0xee; 8];
    journal.read(Gpa::new(gpa), &mut out)?;
    assert_eq!(out[1..], [0; 7]);
    Ok(out[0])
}

fn data(value: u8) -> [u8; 8] {
    [value, 0, 0, 0, 0, 0, 0, 0]
}

/// An instruction at `rip` that reads a device once: what it has so far.
fn begin(journal: &mut Journal, rip: u64) -> Result<u8, DeviceRead> {
    journal.begin(rip);
    read(journal, 0x1000)
}

#[test]
fn each_read_happens_once() {
    let mut journal = Journal::new();
    for n in 0..WORDS as u8 {
        journal.begin(7);
        // Those before come back in their order.
        for earlier in 0..n {
            assert_eq!(read(&mut journal, earlier.into()), Ok(earlier));
        }
        let wanted = word(n.into());
        assert_eq!(read(&mut journal, n.into()), Err(wanted));
        assert_eq!(read(&mut journal, n.into()), Err(wanted));
        assert!(journal.supply(wanted, data(n)));
    }
    assert!(!journal.supply(word(99), data(99)));
    // Finished: the next execution asks again.
    journal.retire();
    assert_eq!(begin(&mut journal, 7), Err(word(0x1000)));
}

#[test]
fn another_address_or_size_begins_anew() {
    let mut journal = Journal::new();
    journal.begin(7);
    for n in 0..3 {
        assert!(journal.supply(word(n), data(n as u8)));
    }
    assert_eq!(read(&mut journal, 0), Ok(0));
    assert_eq!(read(&mut journal, 0x9000), Err(word(0x9000)));
    assert!(journal.supply(word(0x9000), data(9)));
    journal.begin(7);
    assert_eq!(read(&mut journal, 0), Ok(0));
    assert_eq!(read(&mut journal, 0x9000), Ok(9));
    // What came after is of the instruction that it was before.
    assert_eq!(read(&mut journal, 2), Err(word(2)));
    journal.begin(7);
    let mut short = [0; 4];
    let wanted = DeviceRead {
        gpa: Gpa::new(0),
        len: 4,
    };
    assert_eq!(journal.read(Gpa::new(0), &mut short), Err(wanted));
}

#[test]
fn unfinished_instructions_keep_their_data() {
    let mut journal = Journal::new();
    for rip in 0..=KEPT as u64 {
        assert!(begin(&mut journal, rip).is_err());
        assert!(journal.supply(word(0x1000), data(rip as u8 + 1)));
    }
    for rip in (0..=KEPT as u64).rev() {
        assert_eq!(begin(&mut journal, rip), Ok(rip as u8 + 1));
    }
    // Others in between change nothing.
    for other in 100..200 {
        assert!(begin(&mut journal, other).is_err());
    }
    assert_eq!(begin(&mut journal, 3), Ok(4));
    journal.retire();
    assert!(begin(&mut journal, 100).is_err());
    assert!(begin(&mut journal, 3).is_err());
    assert_eq!(begin(&mut journal, 2), Ok(3));
    journal.clear();
    assert!(begin(&mut journal, 2).is_err());
    assert!(begin(&mut journal, 1).is_err());
}

#[test]
fn the_oldest_goes_first() {
    let mut journal = Journal::new();
    let unfinished = KEPT as u64 + 2;
    for rip in 0..unfinished {
        assert!(begin(&mut journal, rip).is_err());
        assert!(journal.supply(word(0x1000), data(rip as u8)));
    }
    for rip in 1..unfinished {
        assert_eq!(begin(&mut journal, rip), Ok(rip as u8));
    }
    // One that is finished makes room.
    journal.retire();
    assert_eq!(begin(&mut journal, 4), Ok(4));
    assert!(begin(&mut journal, 200).is_err());
    assert!(journal.supply(word(0x1000), data(200)));
    for rip in (1..unfinished - 1).chain([200]) {
        assert_eq!(begin(&mut journal, rip), Ok(rip as u8));
    }
    assert!(begin(&mut journal, 0).is_err());
}

/// User space skips an instruction: its data is gone, and that of others is not.
#[test]
fn a_skipped_instruction_asks_again() {
    for put_aside in [false, true] {
        let mut journal = Journal::new();
        for rip in [1, 2, 3] {
            assert!(begin(&mut journal, rip).is_err());
            assert!(journal.supply(word(0x1000), data(rip as u8)));
        }
        journal.begin(2);
        journal.supply_ports(ports(2), &[1, 2, 3, 4]);
        if put_aside {
            assert!(begin(&mut journal, 9).is_err());
        }
        journal.leave(2);
        journal.leave(100);
        assert_eq!(begin(&mut journal, 1), Ok(1));
        assert_eq!(begin(&mut journal, 2), Err(word(0x1000)));
        assert!(journal.port_data().is_empty());
        assert_eq!(begin(&mut journal, 3), Ok(3));
    }
}

fn ports(count: u16) -> PortRead {
    PortRead {
        port: 0x60,
        size: 2,
        count,
    }
}

#[test]
fn port_data_is_used_element_by_element() {
    let mut journal = Journal::new();
    journal.begin(7);
    assert_eq!(journal.port_elements(0x60, 2), 0);
    journal.supply_ports(ports(3), &[1, 2, 3, 4, 5, 6]);
    for (port, size, elements) in [(0x60, 2, 3), (0x60, 1, 0), (0x61, 2, 0), (0x60, 0, 0)] {
        assert_eq!(journal.port_elements(port, size), elements);
    }
    assert_eq!(journal.port_data(), [1, 2, 3, 4, 5, 6]);
    journal.port_used(2);
    // Elements retire one by one; the others are still there, also after a denial
    // and whatever ran since.
    journal.retire();
    assert!(begin(&mut journal, 8).is_err());
    assert!(journal.port_data().is_empty());
    assert_eq!(journal.port_elements(0x60, 2), 0);
    journal.begin(7);
    assert_eq!(journal.port_data(), [3, 4, 5, 6]);
    journal.port_used(4);
    assert_eq!(journal.port_elements(0x60, 2), 0);
    journal.port_used(100);
    assert!(journal.port_data().is_empty() && journal.now.is_empty());
    journal.supply_ports(ports(2), &[7, 8, 9, 10]);
    assert_eq!(journal.port_data(), [7, 8, 9, 10]);
    journal.port_used(4);
    journal.begin(9);
    journal.begin(7);
    assert!(journal.port_data().is_empty());
    // More than there is room for is cut.
    journal.supply_ports(ports(600), &[7; 1200]);
    assert_eq!(journal.port_elements(0x60, 2), 512);
    assert_eq!(journal.port_data(), [7; PORT_BYTES]);
}

#[test]
fn writes_are_told_in_their_order() {
    let mut journal = Journal::new();
    let told = |journal: &mut Journal| {
        let words = core::iter::from_fn(|| journal.next_write());
        words.map(|w| w.gpa).collect::<Vec<_>>()
    };
    assert!(!journal.has_posted());
    assert!(journal.room(WORDS) && !journal.room(WORDS + 1));
    for gpa in 0..WORDS as u64 {
        assert!(journal.room(1));
        journal.post(Gpa::new(gpa), &[gpa as u8; 3]);
    }
    assert!(!journal.room(1) && journal.room(0) && journal.has_posted());
    let first = DeviceWord {
        gpa: 0,
        len: 3,
        data: [0; 8],
    };
    assert_eq!(journal.next_write(), Some(first));
    assert!(journal.has_posted() && !journal.room(1));
    assert_eq!(told(&mut journal), (1..WORDS as u64).collect::<Vec<_>>());
    assert!(!journal.has_posted() && journal.room(WORDS));
    assert_eq!(journal.next_write(), None);
    // Some are taken back, and not those before them.
    journal.post(Gpa::new(7), &[1]);
    let posted = journal.posted();
    journal.take_back(posted);
    journal.post(Gpa::new(8), &[1]);
    journal.post(Gpa::new(9), &[1]);
    journal.take_back(posted);
    assert_eq!(told(&mut journal), [7]);
    journal.take_back(posted);
    assert!(!journal.has_posted());
    // None is lost when another instruction begins or this one retires.
    journal.post(Gpa::new(5), &[1]);
    journal.retire();
    journal.begin(3);
    assert_eq!(told(&mut journal), [5]);

    assert_eq!(journal.take_port_write(), None);
    journal.post_port(0x80, 1, 5);
    assert!(journal.has_posted());
    assert_eq!(journal.take_port_write(), Some((0x80, 1, 5)));
    assert!(!journal.has_posted());
}
