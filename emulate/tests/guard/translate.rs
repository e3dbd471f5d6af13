// SPDX-License-Identifier: GPL-2.0

use super::*;

/// Four-level tables at 0x1000 that map the linear page 0x7000 to `to`, for everybody.
fn paged(to: u64) -> Board {
    let mut board = Board::new();
    for (at, entry) in [(0x1000, 0x2027), (0x2000, 0x3027), (0x3000, 0x4027)] {
        board.model.ram.write_u64(at, entry);
    }
    board.model.ram.write_u64(0x4038, to | 0x67);
    board.cpu.code = CodeSize::Bits64;
    board.cpu.paging = Paging {
        cr0: 0x8000_0001,
        cr3: 0x1000,
        cr4: 0x20,
        efer: 0x500,
        ..Paging::default()
    };
    board
}

const PAGE: u64 = 0x7000;

/// Where a byte is read, with translations that are known.
fn read_at(board: &mut Board, known: &Translations, gva: u64) -> u64 {
    let mut guest = board.guest();
    guest.keep_translations(known);
    let source = guest.prepare_read(Gva::new(gva), 1, false);
    source.unwrap().gpa().get()
}

#[test]
fn known_until_dropped() {
    let mut board = paged(0x5000);
    let mut guest = board.guest();
    let _source = guest.prepare_read(Gva::new(PAGE + 8), 1, false);
    let known = *guest.translations();
    board.model.ram.write_u64(0x4038, 0x6067);
    assert_eq!(read_at(&mut board, &known, PAGE + 0x10), 0x5010);
    assert_eq!(
        read_at(&mut board, &Translations::NONE, PAGE + 0x10),
        0x6010
    );
}

/// What is known of reads says nothing of writes, of other tables, and of user code.
#[test]
fn known_for_the_same_access_only() {
    let stopped = |board: &Board| {
        let (gva, gpa) = (Gva::new(PAGE + 1), Gpa::new(0x5001));
        Translations::of_stopped_read(&board.cpu.paging, gva, gpa)
    };
    let mut board = paged(0x6000);
    let known = stopped(&board);
    assert_eq!(read_at(&mut board, &known, PAGE + 2), 0x5002);
    let mut guest = board.guest();
    guest.keep_translations(&known);
    let span = guest.prepare_write(Gva::new(PAGE + 2), 1, Intent::Write);
    assert_eq!(span.unwrap().gpa().get(), 0x6002);

    let mut board = paged(0x6000);
    let known = stopped(&board);
    board.cpu.paging.user = true;
    assert_eq!(read_at(&mut board, &known, PAGE + 2), 0x6002);
    let known = stopped(&board);
    assert_eq!(read_at(&mut board, &known, PAGE + 2), 0x6002);

    let mut board = paged(0x6000);
    let known = stopped(&board);
    // The same tables: bit 3 is PWT.
    board.cpu.paging.cr3 |= 8;
    assert_eq!(read_at(&mut board, &known, PAGE + 2), 0x6002);
}
