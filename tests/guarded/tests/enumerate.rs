// SPDX-License-Identifier: GPL-2.0

//! Every kind of store at every place around boundaries of units, with every pattern of
//! protection there.
//!
//! The oracle looks at single bytes: a store is denied if any byte that it writes is, and
//! then nothing happens; otherwise everything happens as if nothing were protected.

use std::collections::BTreeSet;

use emulate::cpu::rflags::RF;
use emulate::decode::decode;
use emulate::insn::MemAccess;
use emulate::op::{Op, Policy};
use emulate::stop::{Denial, Stop};
use ept::{Gpa, Gva, PAGE_SIZE};
use guarded::{stores, At, Granule, Machine, Meanwhile, Mode, Store};
use spp::Mask;

/// A boundary inside a page, and one between pages; addresses of sub-pages, to be scaled.
fn boundaries(granule: Granule) -> Vec<u64> {
    match granule {
        Granule::SUBPAGE => vec![0x8080, 0x9000],
        granule => vec![granule.scale(0x80 * 8)],
    }
}

/// A machine whose store is aimed at `address`, and units before, at and after a boundary
/// that are protected as the bits of `pattern` say.
fn aimed(store: &Store, granule: Granule, address: u64, boundary: u64, pattern: u32) -> Machine {
    let mut machine = Machine::new(store.mode, granule);
    store.aim(&mut machine, address);
    let first = granule.unit(boundary) - 2;
    let units = (0..4).filter(|n| pattern >> n & 1 == 1);
    machine.board.protected = units.map(|n| first + n).collect();
    machine
}

/// Elements of a store as the processor checks them one by one: their addresses.
fn elements(store: &Store, address: u64) -> Vec<(u64, u64)> {
    let len = u64::from(store.len);
    match store.at {
        At::Stack(count) => {
            let size = len / u64::from(count);
            let down = (0..u64::from(count)).rev();
            down.map(|n| (address + n * size, size)).collect()
        }
        _ => vec![(address, len)],
    }
}

/// The denial, by bytes.
fn expected(store: &Store, machine: &Machine, address: u64) -> Option<Denial> {
    let board = &machine.board;
    let denied = |(at, len): &(u64, u64)| (*at..at + len).find(|at| board.denies(*at));
    let elements = elements(store, address);
    let (at, len) = *elements.iter().find(|element| denied(element).is_some())?;
    let first = denied(&(at, len))?;
    let page = first / PAGE_SIZE * PAGE_SIZE;
    let bit = |at: u64| 1 << (at % PAGE_SIZE / 128);
    let in_page = (at..at + len).filter(|at| (page..page + PAGE_SIZE).contains(at));
    let touched = in_page.fold(0, |touched, at| touched | bit(at));
    let sub_pages = (page..page + PAGE_SIZE).step_by(128);
    let free = sub_pages.filter(|at| !board.denies(*at));
    let map = free.fold(0, |map, at| map | bit(at));
    Some(Denial {
        gpa: Gpa::new(first),
        gva: Gva::new(first),
        size: len as u16,
        denied: Mask::from_raw(touched & !map),
        map: Mask::from_raw(map),
        read: store.reads,
        walk: false,
    })
}

/// What a store changes, memory and ports aside.
fn same_registers(a: &Machine, b: &Machine) -> bool {
    a.cpu == b.cpu && a.fpu == b.fpu
}

/// The units next to a boundary protected or not, with those around them or without.
const PATTERNS: [u32; 8] = [
    0b0000, 0b0010, 0b0100, 0b0110, 0b1001, 0b1011, 0b1101, 0b1111,
];

/// One store at one place with all patterns, next to the same one without protection.
/// Returns how many of them were denied.
fn check(store: &Store, granule: Granule, address: u64, boundary: u64) -> usize {
    let before = aimed(store, granule, address, boundary, 0);
    let mut free = aimed(store, granule, address, boundary, 0);
    assert_eq!(free.run(&store.bytes), Ok(()), "{}", store.name);
    let stored = free.board.stored();
    let all = address..address + u64::from(store.len);
    assert!(
        stored.iter().copied().eq(all),
        "{}: {stored:x?}",
        store.name
    );
    let denied = |pattern: &u32| {
        let machine = aimed(store, granule, address, boundary, *pattern);
        verdict(store, machine, &before, &free, address)
    };
    PATTERNS.iter().filter(|pattern| denied(pattern)).count()
}

/// Runs the store and says whether it was denied. `before` is the machine without
/// protection, `free` the same when it is done.
fn verdict(
    store: &Store,
    mut machine: Machine,
    before: &Machine,
    free: &Machine,
    address: u64,
) -> bool {
    let protected = &machine.board.protected;
    let what = format!("{} at {address:#x}, protected {protected:x?}", store.name);
    let want = expected(store, &machine, address);
    let got = machine.run(&store.bytes);
    match want {
        None => {
            assert_eq!(got, Ok(()), "{what}");
            assert!(same_registers(&machine, free), "{what}");
            assert_eq!(machine.board.changes(), free.board.changes(), "{what}");
            assert_eq!(machine.board.stored(), free.board.stored(), "{what}");
        }
        Some(denial) => {
            assert_eq!(got, Err(Stop::Denied(denial)), "{what}");
            assert_ne!(machine.cpu.rflags & RF, 0, "{what}");
            machine.cpu.rflags &= !RF;
            assert!(same_registers(&machine, before), "{what}");
            assert!(machine.board.changes().is_empty(), "{what}");
            assert!(machine.board.stored().is_empty(), "{what}");
            assert!(!machine.journal.has_posted(), "{what}");
            assert_eq!(machine.port_bytes, 0, "{what}: a port was read");
        }
    }
    want.is_some()
}

/// Places where the bytes of a store lie before, over and after a boundary.
fn places(store: &Store, boundary: u64) -> impl Iterator<Item = u64> {
    let (len, align) = (u64::from(store.len), u64::from(store.align));
    (boundary - len - 1..=boundary + 1).filter(move |at| at % align == 0)
}

/// Nothing that the executor stores with is missing.
#[test]
fn the_table_is_complete() {
    let decoded = |store: Store| {
        let insn = decode(&store.bytes, store.mode.code());
        insn.map(|insn| insn.op.name())
            .unwrap_or_else(|e| panic!("{}: {e:?}", store.name))
    };
    let tried: BTreeSet<_> = Mode::ALL
        .into_iter()
        .flat_map(stores)
        .map(decoded)
        .collect();
    // Writes other than to the operand in memory.
    let implied = [
        Op::Movs,
        Op::Stos,
        Op::Ins,
        Op::Push,
        Op::Pushf,
        Op::PushSreg,
        Op::Pusha,
        Op::Enter,
        Op::Pop,
        Op::CallNear,
        Op::CallFar,
        Op::Maskmovdqu,
        Op::Movdir64b,
    ];
    let stores = |op: &&Op| {
        let writes = matches!(op.access(), MemAccess::Write | MemAccess::ReadWrite);
        op.policy() == Policy::Emulated && (writes || implied.contains(op))
    };
    let missing = Op::ALL.iter().filter(stores).map(|op| op.name());
    let missing: Vec<_> = missing.filter(|name| !tried.contains(name)).collect();
    assert_eq!(missing, [""; 0]);
}

fn enumerate(granule: Granule) {
    let (mut allowed, mut denied) = (0, 0);
    for mode in Mode::ALL {
        for store in stores(mode) {
            for boundary in boundaries(granule) {
                for address in places(&store, boundary) {
                    let here = check(&store, granule, address, boundary);
                    denied += here;
                    allowed += PATTERNS.len() - here;
                }
            }
        }
    }
    // Neither side is empty.
    assert!(allowed > 20_000 && denied > 20_000, "{allowed} {denied}");
}

#[test]
fn sub_pages() {
    enumerate(Granule::SUBPAGE);
}

#[test]
fn pages() {
    enumerate(Granule::PAGE);
}

/// A unit that becomes protected after the store was prepared: it is not written, the
/// instruction starts over, and is denied then.
#[test]
fn a_unit_that_is_protected_meanwhile() {
    for mode in Mode::ALL {
        for store in stores(mode) {
            let boundary = 0x9000;
            for address in places(&store, boundary) {
                for unit in [boundary - 1, boundary].map(|at| Granule::SUBPAGE.unit(at)) {
                    let mut machine = aimed(&store, Granule::SUBPAGE, address, boundary, 0);
                    machine.board.protected.insert(unit);
                    let want = expected(&store, &machine, address);
                    machine.board.protected.clear();
                    machine.board.meanwhile = vec![Some(Meanwhile::Protect(unit))];
                    let before = machine.cpu;
                    let got = machine.run(&store.bytes);
                    let Some(denial) = want else {
                        assert_eq!(got, Ok(()), "{}", store.name);
                        continue;
                    };
                    assert_eq!(got, Err(Stop::Retry), "{} {address:#x}", store.name);
                    assert_eq!(machine.cpu, before, "{}", store.name);
                    let again = machine.run(&store.bytes);
                    assert_eq!(again, Err(Stop::Denied(denial)), "{}", store.name);
                    assert!(machine.board.changes().is_empty(), "{}", store.name);
                }
            }
        }
    }
}

/// The same store where a sub-page is as large as a page: the same verdict, the same bytes
/// at the places that correspond, the same registers but for addresses.
#[test]
fn scale_does_not_matter() {
    for mode in Mode::ALL {
        for store in stores(mode) {
            let small = 0x80 * 8;
            let large = Granule::PAGE.scale(small);
            for address in places(&store, 0x2000 + small) {
                let address = address - 0x2000;
                if store.len > 64 || Granule::PAGE.scale(address) % u64::from(store.align) != 0 {
                    continue;
                }
                for pattern in PATTERNS {
                    let moved = Granule::PAGE.scale(address);
                    scaled(&store, (address, small), (moved, large), pattern);
                }
            }
        }
    }
}

fn scaled(store: &Store, near: (u64, u64), far: (u64, u64), pattern: u32) {
    let base = 0x4000;
    let mut a = aimed(
        store,
        Granule::SUBPAGE,
        base + near.0,
        base + near.1,
        pattern,
    );
    let mut b = aimed(store, Granule::PAGE, far.0, far.1, pattern);
    let outcomes = [a.run(&store.bytes), b.run(&store.bytes)];
    let offset = |outcome, start| match outcome {
        Ok(()) => None,
        Err(Stop::Denied(d)) => Some((d.gpa.get() - start, d.size, d.read)),
        Err(stop) => panic!("{}: {stop:?}", store.name),
    };
    let [first, second] = outcomes;
    let verdicts = [offset(first, base + near.0), offset(second, far.0)];
    assert_eq!(
        verdicts[0], verdicts[1],
        "{} {near:x?} {pattern:04b}",
        store.name
    );
    let stored = |machine: &Machine, start| {
        let all = machine.board.stored();
        all.iter().map(|at| at - start).collect::<Vec<_>>()
    };
    assert_eq!(
        stored(&a, base + near.0),
        stored(&b, far.0),
        "{}",
        store.name
    );
    assert_eq!(a.cpu.rip, b.cpu.rip, "{}", store.name);
}
