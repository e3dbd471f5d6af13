// SPDX-License-Identifier: GPL-2.0

use super::*;
use std::vec::Vec;

fn zone(addr: u64, size: u32) -> Zone {
    let request = CoalescedZone { addr, size, pio: 0 };
    Zone::parse(&request).unwrap().1
}

fn request(addr: u64, len: u32, value: Option<u64>) -> IoEventFd {
    IoEventFd {
        datamatch: value.unwrap_or(0),
        addr,
        len,
        flags: value.map_or(0, |_| KVM_IOEVENTFD_FLAG_DATAMATCH),
        ..IoEventFd::default()
    }
}

fn event(addr: u64, len: u32, value: Option<u64>) -> IoEvent {
    IoEvent::parse(&request(addr, len, value)).unwrap().1
}

#[test]
fn zones_name_a_space() {
    for (pio, want) in [
        (0, Ok(Space::Memory)),
        (1, Ok(Space::Port)),
        (2, Err(Errno::Einval)),
        (u32::MAX, Err(Errno::Einval)),
    ] {
        let request = CoalescedZone {
            addr: 0x1000,
            size: 16,
            pio,
        };
        assert_eq!(Zone::parse(&request).map(|(space, _)| space), want);
    }
}

/// Every write around a zone, against a byte-by-byte look.
#[test]
fn a_zone_holds_whole_writes() {
    for base in [100, 0, u64::MAX - 20] {
        let zone = zone(base, 12);
        let inside = |addr: u64| addr >= base && addr - base < 12;
        for offset in 0..40_u64 {
            let addr = base.wrapping_add(offset).wrapping_sub(16);
            for len in 1..=8 {
                let want = (0..len).all(|i| addr.checked_add(i).is_some_and(inside));
                assert_eq!(zone.holds(addr, len), want, "{base:#x}: {addr:#x} + {len}");
            }
        }
    }
    assert!(!zone(5, 0).holds(5, 1));
    assert!(!zone(0, u32::MAX).holds(8, u64::MAX));
}

/// User space names a part of the zone that is to go; an empty part may lie at
/// either end.
#[test]
fn a_zone_goes_by_a_part_of_it() {
    let all = zone(0x1000, 0x100);
    for (addr, size, want) in [
        (0x1000, 0x100, true),
        (0x1010, 8, true),
        (0x1000, 0, true),
        (0x1100, 0, true),
        (0xfff, 0, false),
        (0x1101, 0, false),
        (0x1000, 0x101, false),
        (0xfff, 2, false),
        (u64::MAX, u32::MAX, false),
    ] {
        assert_eq!(
            all.encloses(&zone(addr, size)),
            want,
            "{addr:#x} + {size:#x}"
        );
    }
}

#[test]
fn malformed_events() {
    for len in 0..70 {
        let got = IoEvent::parse(&request(0x1000, len, None));
        assert_eq!(got.is_ok(), [0, 1, 2, 4, 8].contains(&len), "{len}");
    }
    for (addr, len, ok) in [
        (u64::MAX, 0, true),
        (u64::MAX - 1, 1, true),
        (u64::MAX, 1, false),
        (u64::MAX - 8, 8, true),
        (u64::MAX - 7, 8, false),
    ] {
        assert_eq!(IoEvent::parse(&request(addr, len, None)).is_ok(), ok);
    }
    assert_eq!(IoEvent::parse(&request(0, 0, Some(0))), Err(Errno::Einval));
    for bit in 0..32 {
        let mut request = request(0x1000, 4, None);
        request.flags = 1 << bit;
        let want = bit < 3;
        assert_eq!(IoEvent::parse(&request).is_ok(), want, "flag {bit}");
        // What is to be taken back is only looked for.
        let (space, _) = IoEvent::named(&request);
        let port = bit == 1;
        assert_eq!(space == Space::Port, port);
    }
}

#[test]
fn events_wait_for_address_length_and_value() {
    let bytes = [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88];
    for len in [1, 2, 4, 8] {
        let any = event(0x1000, len, None);
        let right = bytes
            .iter()
            .take(len as usize)
            .rev()
            .fold(0, |value, byte| (value << 8) | u64::from(*byte));
        let exact = event(0x1000, len, Some(right));
        let other = event(0x1000, len, Some(right ^ 1));
        let above = event(0x1000, len, Some(right | 1 << 63));
        for written in 0..=8 {
            let data = &bytes[..written];
            let fits = written == len as usize;
            assert_eq!(any.hit(0x1000, data), fits);
            assert_eq!(exact.hit(0x1000, data), fits);
            assert!(!other.hit(0x1000, data));
            assert_eq!(above.hit(0x1000, data), fits && len == 8);
            assert!(!any.hit(0xfff, data) && !any.hit(0x1001, data));
        }
    }
    let free = event(0x1000, 0, None);
    assert!((1..=8).all(|len| free.hit(0x1000, &bytes[..len])));
    assert!(!free.hit(0x1001, &bytes));
    assert!(!event(0, 8, None).hit(0, &[0; 9]));
}

/// Two events collide if some write would be for both.
#[test]
fn collisions_are_writes_for_both() {
    let kinds: Vec<IoEvent> = [
        (0x10, 0, None),
        (0x10, 1, None),
        (0x10, 1, Some(3)),
        (0x10, 1, Some(4)),
        (0x10, 4, None),
        (0x10, 4, Some(3)),
        (0x12, 1, None),
        (0x12, 0, None),
    ]
    .map(|(addr, len, value)| event(addr, len, value))
    .into();
    let writes: Vec<(u64, Vec<u8>)> = [0x10, 0x12]
        .into_iter()
        .flat_map(|addr| {
            [1, 2, 4].into_iter().flat_map(move |len| {
                [3, 4, 5].map(|value| {
                    let mut bytes = std::vec![0; len];
                    bytes[0] = value;
                    (addr, bytes)
                })
            })
        })
        .collect();
    for a in &kinds {
        for b in &kinds {
            let both = writes
                .iter()
                .any(|(addr, bytes)| a.hit(*addr, bytes) && b.hit(*addr, bytes));
            assert_eq!(a.collides(b), both, "{a:?} {b:?}");
        }
    }
}

#[test]
fn an_address_is_found_among_sorted_ones() {
    let sorted = [1_u64, 3, 3, 3, 7, 9, 9];
    for addr in 0..12 {
        let want = sorted.iter().filter(|a| **a == addr).count();
        let got = at_address(&sorted, |a| *a, addr);
        assert_eq!(got.len(), want, "{addr}");
        assert!(got.iter().all(|a| *a == addr));
    }
    assert!(at_address(&[], |a: &u64| *a, 0).is_empty());
}

/// Every pair of indices that user space could leave, right or not.
#[test]
fn the_ring_keeps_one_entry_free() {
    let values = (0..RING_LEN + 3).chain([u32::MAX - 1, u32::MAX]);
    for last in values.clone() {
        for first in values.clone() {
            let place = ring_place(first, last);
            if last >= RING_LEN {
                assert_eq!(place, None, "{last} is no entry");
                continue;
            }
            let next = (last + 1) % RING_LEN;
            let want = RingPlace {
                offset: 8192 + 8 + 24 * last as usize,
                next,
            };
            assert_eq!(place, (next != first).then_some(want), "{first} {last}");
        }
    }
}

/// The ring filled from anywhere takes one write less than it has entries, all
/// of them inside its page.
#[test]
fn the_ring_fills_from_anywhere() {
    for first in 0..RING_LEN {
        let mut last = first;
        let mut seen = Vec::new();
        while let Some(place) = ring_place(first, last) {
            assert!(place.offset >= 8200 && place.offset + 24 <= 3 * 4096);
            seen.push(place.offset);
            last = place.next;
        }
        assert_eq!(seen.len() as u32, RING_LEN - 1);
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len() as u32, RING_LEN - 1);
    }
}

#[test]
fn entries_of_the_ring() {
    let bytes = [1, 2, 3, 4, 5, 6, 7, 8, 9];
    for len in 0..=9 {
        for (space, pio) in [(Space::Memory, 0), (Space::Port, 1)] {
            let got = ring_entry(space, 0xabcd, &bytes[..len]);
            let mut data = [0; 8];
            let shown = len.min(8);
            data[..shown].copy_from_slice(&bytes[..shown]);
            let want = CoalescedWrite {
                phys_addr: 0xabcd,
                len: len as u32,
                pio,
                data,
            };
            assert_eq!(got, (1..=8).contains(&len).then_some(want));
        }
    }
}
