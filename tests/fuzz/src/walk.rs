// SPDX-License-Identifier: GPL-2.0

//! The page walk over arbitrary tables.
//!
//! Whatever the tables are, a walk ends after few accesses; it writes nothing but flags,
//! and nothing that was denied; and where nobody else changes anything, both ways to
//! translate agree with a walk that was written independently.

use emulate::paging::{Access, Fault, Paging};
use emulate::stop::Stop;
use ept::{Gpa, Gva};

use crate::input::Input;
use crate::memory::Hostile;
use crate::reference::{self, Answer};

/// Reads that a translation can take: five levels, or four twice.
const READS: u32 = 8;
/// Calls of memory with which it also sets flags: five entries, each read, looked up and
/// replaced, with every further look at a map, and four walks.
const CALLS: u32 = READS + 4 * 5 * 5;

/// Registers of any mode. The upper half of `mode` is free.
pub fn paging(input: &mut Input<'_>) -> Paging {
    const PG: u64 = 1 << 31 | 1;
    const PAE: u64 = 1 << 5;
    const LA57: u64 = 1 << 12;
    const LMA: u64 = 1 << 10;
    const NXE: u64 = 1 << 11;
    let (cr0, cr4, efer) = input.choose([
        (PG, PAE, LMA),
        (PG, PAE | LA57, LMA),
        (PG, PAE, 0),
        (PG, 0, 0),
        (1, 0, 0),
    ]);
    let bits = input.u8();
    let bit = |n: u8, value: u64| if bits >> n & 1 == 1 { value } else { 0 };
    let pdpte = |input: &mut Input<'_>| u64::from(input.u16()) << 11 | 1;
    Paging {
        cr0: cr0 | bit(0, 1 << 16),
        cr3: input.u64(),
        // PSE, SMEP, SMAP, PKE.
        cr4: cr4 | bit(1, 1 << 4) | bit(2, 1 << 20) | bit(3, 1 << 21) | bit(4, 1 << 22),
        efer: efer | bit(5, NXE),
        pdptes: std::array::from_fn(|_| pdpte(input)),
        user: bits >> 6 & 1 == 1,
        ac: bits >> 7 == 1,
        pkru: input.u32(),
        reserved_address: Paging::reserved_address(input.choose([52, 36, 46, 39])),
    }
}

/// The target.
pub fn run(data: &[u8]) {
    let input = &mut Input::new(data);
    let paging = paging(input);
    let gva = Gva::new(input.u64());
    let access = match input.u8() % 5 {
        0 => Access::READ,
        1 => Access::WRITE,
        2 => Access::FETCH,
        n => Access {
            system: true,
            write: n == 3,
            ..Access::READ
        },
    };
    let mut memory = Hostile::new(input);
    let quiet = memory.is_quiet();
    let answer = reference::walk(&paging, gva.get(), access, &mut |at, len| {
        memory.peek(at, len)
    });
    let before = paging.translate(&mut memory, gva, access);
    assert!(memory.calls <= READS, "{} reads", memory.calls);
    if quiet {
        let got = match before {
            Ok(gpa) => Answer::Address(gpa.get()),
            Err(Fault::Page(code)) => Answer::PageFault(code),
            Err(Fault::NonCanonical) => Answer::NotCanonical,
            Err(Fault::NoTable(at)) => Answer::NoTable(at.get()),
            Err(Fault::Stop(stop)) => panic!("a walk that only reads: {stop:?}"),
        };
        assert_eq!(got, answer);
    }
    memory.calls = 0;
    let marked = paging.translate_and_mark(&mut memory, gva, access);
    assert!(memory.calls <= CALLS, "{} calls", memory.calls);
    assert!(memory.stores.iter().all(|store| store.flags));
    match marked {
        Ok(gpa) => assert_eq!(gpa.page_offset(), (gva.get() & 0xfff) as u16),
        Err(Fault::Stop(Stop::Denied(denial))) => {
            assert!(denial.walk && denial.read && denial.gva == gva);
            assert!(denial.size == 4 || denial.size == 8);
            assert!(!denial.map.allows(denial.denied));
            assert_eq!(denial.gpa.get() % u64::from(denial.size), 0);
        }
        Err(Fault::Stop(stop)) => assert!(matches!(stop, Stop::Retry | Stop::Host)),
        Err(Fault::NonCanonical) => assert!(!paging.canonical(gva.get())),
        Err(Fault::NoTable(_) | Fault::Page(_)) => (),
    }
    if quiet {
        alone(&paging, &mut memory, gva, access, before, marked);
    }
}

/// What holds where nobody else has a hand in memory.
fn alone(
    paging: &Paging,
    memory: &mut Hostile<'_>,
    gva: Gva,
    access: Access,
    before: Result<Gpa, Fault>,
    marked: Result<Gpa, Fault>,
) {
    match (before, marked) {
        (Ok(_), Err(Fault::Stop(Stop::Denied(denial)))) => {
            assert!(!memory.allows(denial.gpa));
            assert_eq!(memory.stores, []);
        }
        (before, marked) => {
            assert_eq!(before, marked);
            if marked.is_err() {
                assert_eq!(memory.stores, []);
            }
        }
    }
    if marked.is_ok() {
        // All flags are there now, or never will be.
        let stores = memory.stores.len();
        assert_eq!(paging.translate_and_mark(memory, gva, access), marked);
        assert_eq!(memory.stores.len(), stores);
    }
}
