// SPDX-License-Identifier: GPL-2.0

//! Repeated string instructions stop exactly at the element that is denied.
//!
//! The oracle moves bytes one element after the other and knows nothing of bulk.

use std::collections::BTreeMap;

use emulate::cpu::rflags::{DF, RF, TF};
use emulate::stop::Stop;
use guarded::{Event, Granule, Machine, Meanwhile, Mode, DEVICE};
use proptest::prelude::*;

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RSI: usize = 6;
const RDI: usize = 7;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Movs,
    Stos,
    Ins,
}

/// A repeated string instruction.
#[derive(Clone, Debug)]
struct Case {
    op: Op,
    mode: Mode,
    size: u64,
    count: u64,
    down: bool,
    step: bool,
    /// Of the first element.
    to: u64,
    from: u64,
    protected: Vec<u64>,
}

/// What it comes to.
#[derive(Debug, PartialEq, Eq)]
struct Want {
    done: u64,
    /// Of the byte that ends it.
    denied: Option<u64>,
    changes: BTreeMap<u64, u8>,
}

impl Case {
    fn bytes(&self) -> Vec<u8> {
        let opcode = match self.op {
            Op::Movs => 0xa5,
            Op::Stos => 0xab,
            Op::Ins => 0x6d,
        };
        let mut bytes = vec![0xf3];
        match (self.size, self.mode) {
            (2, Mode::Bits32 | Mode::Bits64) | (4, Mode::Bits16) => bytes.push(0x66),
            (8, _) => bytes.push(0x48),
            _ => (),
        }
        bytes.push(if self.size == 1 { opcode - 1 } else { opcode });
        bytes
    }

    fn machine(&self) -> Machine {
        let mut machine = Machine::new(self.mode, Granule::SUBPAGE);
        let gprs = &mut machine.cpu.gprs;
        gprs[RCX] = self.count;
        gprs[RDX] = guarded::PORT.into();
        gprs[RSI] = self.from;
        gprs[RDI] = self.to;
        if self.down {
            machine.cpu.rflags |= DF;
        }
        if self.step {
            machine.cpu.rflags |= TF;
        }
        machine.board.protected = self.protected.iter().copied().collect();
        machine
    }

    /// The address of element `n` from `start` on.
    fn element(&self, start: u64, n: u64) -> u64 {
        match self.down {
            false => start + n * self.size,
            true => start - n * self.size,
        }
    }

    /// Element by element, with what is protected in `machine`.
    fn want(&self, machine: &Machine) -> Want {
        let mut board = machine.board.clone();
        let stored = machine.cpu.gprs[RAX].to_le_bytes();
        for n in 0..self.count {
            let (to, from) = (self.element(self.to, n), self.element(self.from, n));
            let denied = (to..to + self.size).find(|at| board.denies(*at));
            if denied.is_some() {
                let changes = board.changes();
                return Want {
                    done: n,
                    denied,
                    changes,
                };
            }
            let data = match self.op {
                Op::Movs => board.bytes(from, self.size),
                Op::Stos => stored[..self.size as usize].to_vec(),
                Op::Ins => (0..self.size).map(|i| (n * self.size + i) as u8).collect(),
            };
            board.set(to, &data);
        }
        Want {
            done: self.count,
            denied: None,
            changes: board.changes(),
        }
    }

    /// Checks registers and memory after `want.done` elements.
    fn check(&self, machine: &Machine, got: Result<(), Stop>, want: &Want) {
        let before = self.machine();
        let mut cpu = machine.cpu;
        match (got, want.denied) {
            (Ok(()), None) => assert_ne!(cpu.rip, before.cpu.rip, "{self:?}"),
            (Err(Stop::Denied(denial)), Some(at)) => {
                assert_eq!(denial.gpa.get(), at, "{self:?}");
                assert_eq!(u64::from(denial.size), self.size, "{self:?}");
                assert!(!denial.read && !denial.walk, "{self:?}");
                assert_ne!(cpu.rflags & RF, 0, "{self:?}");
                assert_eq!(cpu.rip, before.cpu.rip, "{self:?}");
            }
            other => panic!("{self:?}: {other:x?}"),
        }
        cpu.rip = before.cpu.rip;
        cpu.rflags &= !RF;
        let mut want_cpu = before.cpu;
        want_cpu.gprs[RCX] = self.count - want.done;
        want_cpu.gprs[RDI] = self.element(self.to, want.done);
        if self.op == Op::Movs {
            want_cpu.gprs[RSI] = self.element(self.from, want.done);
        }
        assert_eq!(cpu, want_cpu, "{self:?}");
        assert_eq!(machine.board.changes(), want.changes, "{self:?}");
    }

    /// Runs it up to the denial; then everything is released, and it comes to its end as if
    /// nothing had ever been protected.
    fn run(&self) -> bool {
        let bytes = self.bytes();
        let mut machine = self.machine();
        let want = self.want(&machine);
        let got = machine.run(&bytes);
        self.check(&machine, got, &want);
        if self.op == Op::Ins {
            assert_eq!(machine.port_bytes, want.done * self.size, "{self:?}");
        }
        machine.board.protected.clear();
        if want.denied.is_some() {
            assert_eq!(machine.run(&bytes), Ok(()), "{self:?}");
        }
        self.check(&machine, Ok(()), &self.want(&Case::free(self).machine()));
        if self.op == Op::Ins {
            assert_eq!(machine.port_bytes, self.count * self.size, "{self:?}");
        }
        want.denied.is_some()
    }

    fn free(&self) -> Self {
        Self {
            protected: Vec::new(),
            ..self.clone()
        }
    }
}

/// Each size and count with a boundary in each element, and before and after all, with
/// either side of it protected.
#[test]
fn every_element_can_be_the_one() {
    let mut denied = 0u32;
    for (op, mode) in [Op::Movs, Op::Stos, Op::Ins]
        .into_iter()
        .flat_map(|op| Mode::ALL.map(|mode| (op, mode)))
    {
        for size in [1, 2, 4, 8] {
            let sizes = if mode == Mode::Bits64 && op != Op::Ins {
                8
            } else {
                4
            };
            for count in [0, 1, 2, 3, 9].into_iter().filter(|_| size <= sizes) {
                for (boundary, down) in [(0x8080, false), (0x8080, true), (0x9000, false)] {
                    let bytes = size * count;
                    for ahead in 0..=bytes + 1 {
                        let to = match down {
                            false => boundary - ahead,
                            true => boundary - size + ahead,
                        };
                        for unit in [boundary / 128 - 1, boundary / 128] {
                            let case = Case {
                                op,
                                mode,
                                size,
                                count,
                                down,
                                step: false,
                                to,
                                from: 0x2003,
                                protected: vec![unit],
                            };
                            denied += u32::from(case.run());
                        }
                    }
                }
            }
        }
    }
    assert!(denied > 1000, "{denied}");
}

/// Sources that overlap the destination: bytes that were moved are moved again.
#[test]
fn overlapping_moves() {
    for size in [1u64, 2, 4, 8] {
        for distance in [1u64, 2, 3, 4, 7, 8, 9, 16, 40, 127, 128, 300] {
            for down in [false, true] {
                for above in [false, true] {
                    let (to, count) = (0x8f00u64, 70);
                    let from = if above { to + distance } else { to - distance };
                    for unit in [0x8f80u64, 0x8e80, 0x9000, 0x8d00].map(|at| at / 128) {
                        let case = Case {
                            op: Op::Movs,
                            mode: Mode::Bits64,
                            size,
                            count,
                            down,
                            step: false,
                            to,
                            from,
                            protected: vec![unit],
                        };
                        case.run();
                    }
                }
            }
        }
    }
}

/// From a device, each element is read when its place is known to be writable.
#[test]
fn moves_from_a_device() {
    for size in [1u64, 2, 4, 8] {
        for ahead in [0, 1, 8, 20] {
            let case = Case {
                op: Op::Movs,
                mode: Mode::Bits64,
                size,
                count: 5,
                down: false,
                step: false,
                to: 0x8080 - ahead,
                from: DEVICE,
                protected: vec![0x8080 / 128],
            };
            let mut machine = case.machine();
            let want = case.want(&machine);
            let got = machine.run(&case.bytes());
            assert_eq!(got.is_err(), want.denied.is_some(), "{case:?}");
            assert_eq!(machine.cpu.gprs[RCX], 5 - want.done, "{case:?}");
            let reads = machine.board.log.iter();
            let reads: Vec<_> = reads.filter(|e| matches!(e, Event::Device(_))).collect();
            assert_eq!(reads.len() as u64, want.done, "{case:?}");
            for (n, read) in (0..).zip(reads) {
                assert_eq!(*read, Event::Device(DEVICE + n * size), "{case:?}");
            }
        }
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let kind = (0..3usize, 0..3usize, 0..4u32, any::<bool>(), 0..8);
    let place = (0x8800u64..0x9800, 0x8000u64..0xa000, any::<bool>());
    let protected = prop::collection::vec(0x8000u64 / 128..0xa000 / 128, 0..6);
    (kind, place, 0u64..1500, protected)
        .prop_map(|(kind, place, count, protected)| {
            let (op, mode, size, down, step) = kind;
            let (to, from, apart) = place;
            let op = [Op::Movs, Op::Stos, Op::Ins][op];
            let mode = Mode::ALL[mode];
            let most = if op != Op::Ins && mode == Mode::Bits64 {
                3
            } else {
                2
            };
            let size = 1 << size.min(most);
            Case {
                op,
                mode,
                size,
                // All of it stays in memory, also of 16-bit code.
                count: count.min(0x7000 / size),
                down,
                step: step == 0,
                to,
                from: if apart { 0x2000 + from - 0x8000 } else { from },
                protected,
            }
        })
        // A source that goes down must not leave memory.
        .prop_map(|case| match case.down && case.from < 0x8000 {
            true => Case {
                from: case.from + 0x8000,
                ..case
            },
            false => case,
        })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Any place, any count, any units.
    #[test]
    fn any_repetition(case in cases()) {
        case.run();
    }

    /// A unit that is protected while the instruction runs: no element is half written,
    /// none is written twice, and of those before it all are.
    #[test]
    fn units_that_are_protected_on_the_way(
        case in cases(),
        writes in prop::collection::vec(prop::option::of(0x8000u64 / 128..0xa000 / 128), 1..6),
    ) {
        let case = case.free();
        let bytes = case.bytes();
        let mut machine = case.machine();
        machine.board.meanwhile = writes.into_iter().map(|w| w.map(Meanwhile::Protect)).collect();
        let mut turns = 0;
        let got = loop {
            turns += 1;
            prop_assert!(turns < 100);
            match machine.run(&bytes) {
                Err(Stop::Retry) => (),
                other => break other,
            }
        };
        let done = case.count - machine.cpu.gprs[RCX];
        let partly = Case { count: done, ..case.clone() };
        let want = partly.want(&partly.machine());
        prop_assert_eq!(machine.board.changes(), want.changes);
        prop_assert_eq!(got.is_ok(), done == case.count);
        machine.board.protected.clear();
        machine.board.meanwhile.clear();
        if got.is_err() {
            prop_assert!(matches!(got, Err(Stop::Denied(_))));
            prop_assert_eq!(machine.run(&bytes), Ok(()));
        }
        let want = case.want(&case.machine());
        prop_assert_eq!(machine.board.changes(), want.changes);
        if case.op == Op::Ins {
            prop_assert_eq!(machine.port_bytes, case.count * case.size);
        }
    }

    /// With more units protected, no more elements are finished.
    #[test]
    fn protection_is_monotonic(case in cases(), more in 0x8000u64 / 128..0xa000 / 128) {
        let mut less = case.machine();
        let mut protected = case.protected.clone();
        protected.push(more);
        let mut tighter = Case { protected, ..case.clone() }.machine();
        let bytes = case.bytes();
        let (a, b) = (less.run(&bytes), tighter.run(&bytes));
        prop_assert!(b.is_err() || a.is_ok());
        prop_assert!(tighter.cpu.gprs[RCX] >= less.cpu.gprs[RCX]);
    }
}
