// SPDX-License-Identifier: GPL-2.0

use std::vec;
use std::vec::Vec;

use super::*;
use crate::insn::CodeSize;
use crate::model::{Event, Meanwhile, Model};
use crate::paging::Paging;
use crate::stop::Exception;

#[path = "guard/devices.rs"]
mod devices;
#[path = "guard/translate.rs"]
mod translate;

/// A virtual CPU without paging: linear addresses are guest-physical.
struct Board {
    cpu: Cpu,
    model: Model,
    journal: Journal,
}

impl Board {
    /// Pages 1 to 4 are memory, each byte the low half of its address; there is nothing
    /// around them.
    fn new() -> Self {
        let mut model = Model::default();
        for gpa in 0x1000..0x5000u64 {
            model.ram.write(gpa, &[gpa as u8]);
        }
        let cpu = Cpu {
            code: CodeSize::Bits32,
            ..Cpu::default()
        };
        let journal = Journal::new();
        Self {
            cpu,
            model,
            journal,
        }
    }

    fn guest(&mut self) -> Guest<'_> {
        self.model.log.clear();
        Guest::new(&mut self.cpu, &mut [], &mut self.model, &mut self.journal)
    }

    fn byte(&mut self, gpa: u64) -> u8 {
        let mut byte = [0];
        assert!(self.model.ram.read(Gpa::new(gpa), &mut byte));
        byte[0]
    }

    fn posted(&mut self) -> Vec<(u64, Vec<u8>)> {
        let words = core::iter::from_fn(|| self.journal.next_write());
        words
            .map(|w| (w.gpa, w.data[..usize::from(w.len)].to_vec()))
            .collect()
    }
}

/// Whether byte `n` of an access is written.
fn chosen(bytes: u64, n: u64) -> bool {
    n >= 64 || bytes >> n & 1 == 1
}

/// The answer, byte by byte: the first written one whose sub-page is denied.
fn first_denied(model: &Model, gva: u64, len: u64, bytes: u64) -> Option<u64> {
    let written = (0..len).filter(|n| chosen(bytes, *n)).map(|n| gva + n);
    let denied = |at: &u64| {
        let map = model.maps.get(&(at >> 12)).map_or(u32::MAX, |m| m.raw());
        map >> (at / 128 % 32) & 1 == 0
    };
    written.clone().find(denied)
}

/// A store of `len` bytes, of which those in `bytes` count, does what the oracle says:
/// all of it or nothing, and a denial names the lowest byte.
fn check(board: &mut Board, gva: u64, len: u64, bytes: u64) {
    let around = gva - 8..gva + len + 8;
    let before: Vec<u8> = around.clone().map(|at| board.byte(at)).collect();
    let data: Vec<u8> = (0..len).map(|n| 0xa5 ^ (n as u8)).collect();
    let intent = Intent::ReadWrite;
    let guest = &mut board.guest();
    let got = guest
        .prepare_bytes(Gva::new(gva), len as u16, intent, bytes, false)
        .and_then(|span| {
            assert_eq!((span.len() as u64, span.gva().get()), (len, gva));
            guest.commit_bytes(span, &data, bytes)
        });
    let what = std::format!("{gva:#x}+{len} {bytes:#x} {:?}", board.model.maps);
    let first = first_denied(&board.model, gva, len, bytes);
    match (got, first) {
        (Ok(()), None) => (),
        (Err(Stop::Denied(d)), Some(first)) => {
            let map = board.model.maps[&(first >> 12)];
            let page = |at: u64| at >> 12 == first >> 12 && chosen(bytes, at - gva);
            let touched = (gva..gva + len).filter(|at| page(*at));
            let denied = touched.fold(0, |m, at| m | (1 << (at / 128 % 32)) & !map.raw());
            let want = Denial {
                gpa: Gpa::new(first),
                gva: Gva::new(first),
                size: len as u16,
                denied: Mask::from_raw(denied),
                map,
                read: true,
                walk: false,
            };
            assert_eq!(d, want, "{what}");
            assert_eq!(board.model.writes(), [], "{what}");
        }
        (got, want) => panic!("{what}: {got:?} instead of {want:x?}"),
    }
    for (at, old) in around.zip(before) {
        let n = at.wrapping_sub(gva);
        let new = match first.is_none() && n < len && chosen(bytes, n) {
            true => data[n as usize],
            false => old,
        };
        assert_eq!(board.byte(at), new, "{what}: {at:#x}");
    }
}

/// Maps around one boundary: sub-pages before and after it allowed or denied, the rest
/// of their pages so or so.
fn maps(board: &mut Board, boundary: u64, pattern: u32) {
    board.model.maps.clear();
    let rest = if pattern & 4 == 0 { 0 } else { u32::MAX };
    for page in [0x1000, 0x2000, 0x3000] {
        board.model.protect(page, rest);
    }
    for (at, allowed) in [(boundary - 1, pattern & 1), (boundary, pattern >> 1 & 1)] {
        let map = board.model.maps.get_mut(&(at >> 12)).unwrap();
        let bit = 1 << (at / 128 % 32);
        *map = Mask::from_raw(map.raw() & !bit | allowed * bit);
    }
}

#[test]
fn every_size_at_every_boundary() {
    let mut board = Board::new();
    for boundary in [0x2080, 0x2f80, 0x3000] {
        for pattern in 0..8 {
            maps(&mut board, boundary, pattern);
            for len in (1..=66).chain([104, 127, 128, 129]) {
                for ahead in (0..=len + 1).filter(|n| len < 20 || n % 7 < 3) {
                    check(&mut board, boundary - ahead, len, u64::MAX);
                }
            }
        }
    }
}

#[test]
fn bytes_left_out_need_no_permission() {
    let mut board = Board::new();
    for boundary in [0x2080u64, 0x3000] {
        for pattern in 0..8 {
            maps(&mut board, boundary, pattern);
            for len in [1u64, 2, 4, 8, 16, 31, 32, 63, 64, 65, 100] {
                for ahead in [0, 1, len / 2, len - 1, len] {
                    for bytes in selections(len, ahead) {
                        check(&mut board, boundary - ahead, len, bytes);
                    }
                }
            }
        }
    }
}

/// None, one, all but one, pairs, and patterns, with the bytes next to a boundary.
fn selections(len: u64, ahead: u64) -> Vec<u64> {
    let near = [0, 1, ahead.saturating_sub(1), ahead, ahead + 1, len - 1, 63];
    let ones: Vec<u64> = near.iter().filter(|n| **n < 64).map(|n| 1 << n).collect();
    let mut all = vec![0, u64::MAX, 0x5555_5555_5555_5555, 0xf0f0_0f0f_00ff_f00f];
    for a in &ones {
        all.extend([*a, !a]);
        all.extend(ones.iter().map(|b| a | b));
    }
    all.sort_unstable();
    all.dedup();
    all
}

#[test]
fn long_spans() {
    let mut board = Board::new();
    for pattern in [1, 0x8000_0000, 0x0001_0000, 0x8000_0001] {
        board.model.protect(0x2000, !pattern);
        board.model.protect(0x3000, !pattern);
        for gva in [0x1ff8, 0x2000, 0x2001, 0x2080, 0x2101, 0x2f7f, 0x2fff] {
            for len in [1, 127, 128, 129, 512, 1024, 4000, 4095, 4096] {
                check(&mut board, gva, len, u64::MAX);
                check(&mut board, gva, len, 0xff00_0000_0000_0001);
            }
        }
    }
    // Longer ones are cut: nothing of the rest is prepared.
    board.model.maps.clear();
    let span = board
        .guest()
        .prepare_write(Gva::new(0x1000), 4097, Intent::Write);
    assert_eq!(span.unwrap().len(), MAX_SPAN);
}

/// 4-level tables at 0x10000 that map linear pages 1 and 2 to guest-physical 3 and 1.
fn paged() -> Board {
    let mut board = Board::new();
    for (n, flags) in [(0u64, 7u64), (1, 7), (2, 7)] {
        let table = 0x1_0000 + n * 0x1000;
        board.model.ram.write_u64(table, (table + 0x1000) | flags);
    }
    board.model.ram.write_u64(0x1_3008, 0x3007);
    board.model.ram.write_u64(0x1_3010, 0x1007);
    board.cpu.code = CodeSize::Bits64;
    board.cpu.paging = Paging {
        cr0: 0x8001_0001,
        cr3: 0x1_0000,
        cr4: 0x20,
        efer: 0x500,
        user: true,
        ..Paging::default()
    };
    board
}

const CROSSING: Gva = Gva::new(0x1ffc);

fn prepare(board: &mut Board) -> Result<Span, Stop> {
    board.guest().prepare_write(CROSSING, 8, Intent::Write)
}

#[test]
fn pages_are_translated_one_by_one() {
    let mut board = paged();
    let span = prepare(&mut board).unwrap();
    let fragment = |gpa, len| Fragment {
        gpa: Gpa::new(gpa),
        len,
        device: false,
    };
    let all: Vec<_> = span.fragments().collect();
    assert_eq!(all, [fragment(0x3ffc, 4), fragment(0x1000, 4)]);
    let data = [1, 2, 3, 4, 5, 6, 7, 8];
    board.guest().commit(span, &data).unwrap();
    let bytes = (0x3ffc..0x4000).chain(0x1000..0x1004);
    let bytes: Vec<u8> = bytes.map(|at| board.byte(at)).collect();
    assert_eq!(bytes, data);

    // A denial in the second page has its linear address.
    board.model.protect(0x1000, !1);
    let Err(Stop::Denied(denial)) = prepare(&mut board) else {
        panic!("not denied");
    };
    assert_eq!((denial.gpa.get(), denial.gva.get()), (0x1000, 0x2000));
}

#[test]
fn the_guest_s_faults_come_before_flags_and_denials() {
    let fault = |gva, code| Err(Stop::Exception(Exception::pf(Gva::new(gva), code)));
    let flags = |board: &mut Board| {
        let tables = [0x1_0000, 0x1_1000, 0x1_2000, 0x1_3008, 0x1_3010];
        tables.map(|at| board.byte(at) & 0x60)
    };
    // The second page is not present, and the first is denied.
    let mut board = paged();
    board.model.ram.write_u64(0x1_3010, 0);
    board.model.protect(0x3000, 0);
    assert_eq!(prepare(&mut board), fault(0x2000, 6));
    assert_eq!(flags(&mut board), [0; 5]);
    // Both are read-only: the lower one counts.
    board.model.ram.write_u64(0x1_3008, 0x3005);
    board.model.ram.write_u64(0x1_3010, 0x1005);
    assert_eq!(prepare(&mut board), fault(0x1ffc, 7));
    assert_eq!(flags(&mut board), [0; 5]);
    // A page table is denied, and so is the second page: the walk comes first.
    board.model.ram.write_u64(0x1_3008, 0x3007);
    board.model.ram.write_u64(0x1_3010, 0x1007);
    board.model.protect(0x1000, 0);
    board.model.protect(0x1_3000, 0);
    let got = prepare(&mut board);
    assert!(matches!(got, Err(Stop::Denied(d)) if d.walk && d.gva == CROSSING));
    assert_eq!(flags(&mut board), [0; 5]);
    // The walk is done before the write is denied, as on the processor.
    board.model.maps.remove(&0x13);
    board.model.maps.remove(&0x3);
    let got = prepare(&mut board);
    assert!(matches!(got, Err(Stop::Denied(d)) if !d.walk && d.gpa.get() == 0x1000));
    assert_eq!(flags(&mut board), [0x20, 0x20, 0x20, 0x60, 0x60]);

    let mut board = paged();
    let high = Gva::new(0x7fff_ffff_fffc);
    let got = board.guest().prepare_write(high, 8, Intent::Write);
    assert_eq!(got, fault(0x7fff_ffff_fffc, 6));
    let high = Gva::new(0x8000_0000_0000);
    let got = board.guest().prepare_read(high, 1, false);
    assert_eq!(got, Err(Exception::gp(0).into()));
}

#[test]
fn linear_addresses_wrap_outside_64_bit_mode() {
    let mut board = Board::new();
    board.model.ram.write(0xffff_f000, &[1]);
    board.model.ram.write(0, &[1]);
    let gva = Gva::new(0xffff_fffe);
    let gpas = |span: Span| span.fragments().map(|f| f.gpa.get()).collect::<Vec<_>>();
    let span = board.guest().prepare_write(gva, 4, Intent::Write).unwrap();
    assert_eq!(gpas(span), [0xffff_fffe, 0]);
    board.model.protect(0, 0);
    let got = board.guest().prepare_write(gva, 4, Intent::Write);
    assert!(matches!(got, Err(Stop::Denied(d)) if d.gva.get() == 0 && d.gpa.get() == 0));

    // A page fault there is at the address that has wrapped.
    board.model.ram.write_u32(0x1_0ffc, 0x1_1007);
    board.model.ram.write_u32(0x1_1ffc, 0x1007);
    board.cpu.paging.cr0 = 0x8000_0001;
    board.cpu.paging.cr3 = 0x1_0000;
    let got = board.guest().prepare_write(gva, 4, Intent::Write);
    assert_eq!(got, Err(Exception::pf(Gva::new(0), 2).into()));

    // In compatibility mode too, but for the processor's own tables above.
    board.cpu.paging.efer = 1 << 10;
    assert_eq!(board.cpu.linear(gva, 2).get(), 0);
    let table = Gva::new(0xffff_8000_ffff_fffe);
    assert_eq!(board.cpu.linear(table, 2).get(), 0xffff_8001_0000_0000);
    board.cpu.code = CodeSize::Bits64;
    assert_eq!(board.cpu.linear(gva, 2).get(), 0x1_0000_0000);
    assert_eq!(board.cpu.linear(Gva::new(u64::MAX), 1).get(), 0);
}

#[test]
fn the_processor_s_own_accesses_are_a_supervisor_s() {
    let mut board = paged();
    board.model.ram.write_u64(0x1_3008, 0x3003);
    let gva = Gva::new(0x1000);
    let got = board.guest().prepare_read(gva, 4, false);
    assert_eq!(got, Err(Exception::pf(gva, 5).into()));
    assert!(board.guest().prepare_read(gva, 4, true).is_ok());
    let all = u64::MAX;
    let mut write = |system| {
        let guest = &mut board.guest();
        let span = guest.prepare_bytes(gva, 4, Intent::Write, all, system);
        span.map(|span| span.len())
    };
    assert_eq!(write(true), Ok(4));
    assert_eq!(write(false), Err(Exception::pf(gva, 7).into()));
}

#[test]
fn a_change_after_preparing_is_seen() {
    for meanwhile in [
        Meanwhile::Map(0x2000, Mask::from_raw(!1)),
        Meanwhile::Map(0x1000, Mask::from_raw(1)),
    ] {
        let mut board = Board::new();
        let mut store = |meanwhile| {
            board.model.meanwhile.extend(meanwhile);
            let guest = &mut board.guest();
            let span = guest.prepare_write(CROSSING, 8, Intent::Write)?;
            let got = guest.commit(span, &[0; 8]);
            assert_eq!(board.model.writes().is_empty(), got.is_err());
            got
        };
        assert_eq!(store(Some(meanwhile)), Err(Stop::Retry));
        let again = store(None);
        assert!(matches!(again, Err(Stop::Denied(_))), "{again:?}");
        assert_eq!((board.byte(0x1ffc), board.byte(0x2000)), (0xfc, 0));
    }
    let mut board = Board::new();
    board.model.meanwhile = vec![Meanwhile::Fail];
    let guest = &mut board.guest();
    let span = guest.prepare_write(CROSSING, 8, Intent::Write).unwrap();
    assert_eq!(guest.commit(span, &[0; 8]), Err(Stop::Host));
}

#[test]
fn exchanges() {
    let mut board = Board::new();
    let gva = Gva::new(0x2010);
    let mut exchange = |old: &[u8], meanwhile| {
        board.model.meanwhile.extend(meanwhile);
        let guest = &mut board.guest();
        let span = guest.prepare_write(gva, 4, Intent::ReadWrite)?;
        let mut found = [0; 4];
        guest.load_span(&span, &mut found)?;
        let got = guest.exchange(span, old, &[1, 2, 3, 4]);
        assert_eq!(board.model.writes().is_empty(), got.is_err());
        got.map(|()| found)
    };
    let old = [0x10, 0x11, 0x12, 0x13];
    let store = Meanwhile::Store(0x2010, 0x13_1210);
    assert_eq!(exchange(&old, Some(store)), Err(Stop::Retry));
    assert_eq!(exchange(&old, None), Err(Stop::Retry));
    let old = [0x10, 0x12, 0x13, 0];
    let map = Meanwhile::Map(0x2000, Mask::NONE);
    assert_eq!(exchange(&old, Some(map)), Err(Stop::Retry));
    assert!(matches!(exchange(&old, None), Err(Stop::Denied(d)) if d.read));
    board.model.maps.clear();
    let mut exchange = |old: &[u8]| {
        let guest = &mut board.guest();
        let span = guest.prepare_write(gva, 4, Intent::ReadWrite)?;
        guest.exchange(span, old, &[1, 2, 3, 4])
    };
    assert_eq!(exchange(&old), Ok(()));
    assert_eq!(board.model.writes(), [Event::Exchange(0x2010, 4)]);

    // Over a page boundary too, what is there is compared first.
    let guest = &mut board.guest();
    let span = guest.prepare_write(CROSSING, 8, Intent::ReadWrite).unwrap();
    assert_eq!(guest.exchange(span, &[9; 8], &[7; 8]), Err(Stop::Retry));
    let span = guest.prepare_write(CROSSING, 8, Intent::ReadWrite).unwrap();
    let mut old = [0; 8];
    guest.load_span(&span, &mut old).unwrap();
    assert_eq!(guest.exchange(span, &old, &[7; 8]), Ok(()));
    let parts = [Event::Exchange(0x1ffc, 4), Event::Exchange(0x2000, 4)];
    assert_eq!(board.model.writes(), parts);
}

/// Every sub-page is looked at before the first write, and nothing after the last check
/// but the write.
#[test]
fn checks_come_before_writes() {
    let mut board = Board::new();
    let guest = &mut board.guest();
    let span = guest.prepare_write(CROSSING, 8, Intent::Write).unwrap();
    guest.commit(span, &[0; 8]).unwrap();
    let log = board.model.log.clone();
    let last_check = |page| log.iter().rposition(|e| *e == Event::Check(page));
    let first_write = log.iter().position(|e| matches!(e, Event::Write(..)));
    assert!(last_check(1).is_some() && last_check(2).is_some());
    assert!(last_check(1).max(last_check(2)) < first_write);
}
