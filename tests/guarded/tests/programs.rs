// SPDX-License-Identifier: GPL-2.0

//! Random programs under random maps, next to the same programs without any.

use std::sync::LazyLock;

use emulate::cpu::rflags::RF;
use emulate::stop::Stop;
use guarded::{stores, At, Granule, Machine, Meanwhile, Mode, Store};
use proptest::prelude::*;

/// Memory that the programs store to: four pages.
const START: u64 = 0x8000;
const PAGES: u64 = 4;

static STORES: LazyLock<[Vec<Store>; 3]> = LazyLock::new(|| Mode::ALL.map(stores));

/// One instruction: which, and where.
#[derive(Clone, Copy, Debug)]
struct Step {
    kind: prop::sample::Index,
    address: u64,
    /// Which registers have which values, for what is stored.
    seed: u64,
    /// A unit that is protected before the write, if any.
    meanwhile: Option<u64>,
}

#[derive(Clone, Debug)]
struct Program {
    mode: usize,
    maps: [u32; PAGES as usize],
    steps: Vec<Step>,
}

/// Near the boundaries of units, where things happen.
fn addresses() -> impl Strategy<Value = u64> {
    let anywhere = START..START + PAGES * 4096 - 64;
    let near = (1..PAGES * 32, -40i64..8);
    let near = near.prop_map(|(unit, off)| (START + unit * 128).wrapping_add_signed(off));
    prop_oneof![1 => anywhere, 3 => near]
}

fn maps() -> impl Strategy<Value = u32> {
    let sparse = (any::<u32>(), any::<u32>(), any::<u32>());
    let few = sparse.prop_map(|(a, b, c)| a | b | c);
    prop_oneof![1 => any::<u32>(), 3 => few, 1 => Just(u32::MAX)]
}

fn programs() -> impl Strategy<Value = Program> {
    let unit = START / 128..START / 128 + PAGES * 32;
    let step = (
        any::<prop::sample::Index>(),
        addresses(),
        any::<u64>(),
        prop::option::weighted(0.1, unit),
    );
    let step = step.prop_map(|(kind, address, seed, meanwhile)| Step {
        kind,
        address,
        seed,
        meanwhile,
    });
    let steps = prop::collection::vec(step, 1..12);
    let maps = prop::array::uniform4(maps());
    (0..3usize, maps, steps).prop_map(|(mode, maps, steps)| Program { mode, maps, steps })
}

/// Registers for a step: the same on both machines.
fn set_up(machine: &mut Machine, store: &Store, step: &Step) {
    let gprs = &mut machine.cpu.gprs;
    for (n, gpr) in (1..).zip(gprs.iter_mut()) {
        *gpr = step.seed.wrapping_mul(n).rotate_left(n as u32);
    }
    machine.cpu.rip = 0x1234;
    // CF and DF, for ADC and for strings.
    machine.cpu.rflags = 2 | step.seed & 1 | step.seed >> 1 << 10 & 1 << 10;
    let align = u64::from(store.align);
    store.aim(machine, step.address / align * align);
}

fn protect(machine: &mut Machine, maps: &[u32]) {
    for (page, map) in (0..).zip(maps) {
        for n in (0..32).filter(|n| map >> n & 1 == 0) {
            let unit = START / 128 + page * 32 + n;
            machine.board.protected.insert(unit);
        }
    }
}

/// The bytes of the board that are protected.
fn protected_bytes(machine: &Machine) -> Vec<(u64, u8)> {
    let units = machine.board.protected.iter();
    let bytes = units.flat_map(|unit| unit * 128..(unit + 1) * 128);
    bytes.map(|at| (at, machine.board.byte(at))).collect()
}

/// Executes one step on both machines. `free` has no protection.
fn step(free: &mut Machine, guarded: &mut Machine, store: &Store, step: &Step) {
    set_up(free, store, step);
    set_up(guarded, store, step);
    let what = format!("{} {step:x?}", store.name);
    guarded.board.log.clear();
    free.board.log.clear();
    guarded.board.meanwhile = step
        .meanwhile
        .map(Meanwhile::Protect)
        .into_iter()
        .map(Some)
        .collect();
    let before = (guarded.cpu, guarded.fpu.clone(), guarded.board.changes());
    let frozen = protected_bytes(guarded);
    let unprotected = guarded.board.protected.clone();

    assert_eq!(free.run(&store.bytes), Ok(()), "{what}");
    let stored = free.board.stored();
    let mut got = guarded.run(&store.bytes);
    if got == Err(Stop::Retry) {
        assert!(step.meanwhile.is_some(), "{what}");
        assert_eq!(guarded.cpu, before.0, "{what}");
        got = guarded.run(&store.bytes);
    }
    let denied = stored.iter().any(|at| guarded.board.denies(*at));
    assert_eq!(
        matches!(got, Err(Stop::Denied(_))),
        denied,
        "{what}: {got:?}"
    );
    for (at, byte) in frozen {
        assert_eq!(guarded.board.byte(at), byte, "{what}: {at:#x} has changed");
    }
    if let Err(Stop::Denied(denial)) = got {
        let at = denial.gpa.get();
        assert!(stored.contains(&at) && guarded.board.denies(at), "{what}");
        let first = stored.iter().find(|at| guarded.board.denies(**at));
        // Several pushes are checked one by one, from the top.
        assert!(
            first == Some(&at) || matches!(store.at, At::Stack(_)),
            "{what}"
        );
        guarded.cpu.rflags &= !RF;
        assert_eq!(
            (&guarded.cpu, &guarded.fpu),
            (&before.0, &before.1),
            "{what}"
        );
        assert_eq!(guarded.board.changes(), before.2, "{what}");
        assert!(!guarded.journal.has_posted(), "{what}");
        // It comes to its end when it may.
        guarded.board.meanwhile.clear();
        let units = std::mem::take(&mut guarded.board.protected);
        got = guarded.run(&store.bytes);
        guarded.board.protected = units;
    }
    assert_eq!(got, Ok(()), "{what}");
    guarded.board.protected = unprotected;
    guarded.board.meanwhile.clear();
    assert_eq!(
        (&guarded.cpu, &guarded.fpu),
        (&free.cpu, &free.fpu),
        "{what}"
    );
    assert_eq!(guarded.board.changes(), free.board.changes(), "{what}");
    assert_eq!(guarded.port_bytes, free.port_bytes, "{what}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// What is denied changes nothing, what is allowed does what it does without maps, and
    /// what is protected stays as it is.
    #[test]
    fn any_program(program in programs()) {
        let mode = Mode::ALL[program.mode];
        let mut free = Machine::new(mode, Granule::SUBPAGE);
        let mut guarded = Machine::new(mode, Granule::SUBPAGE);
        protect(&mut guarded, &program.maps);
        for s in &program.steps {
            let store = s.kind.get(&STORES[program.mode]);
            step(&mut free, &mut guarded, store, s);
        }
    }

    /// What is denied stays denied when more is protected.
    #[test]
    fn protection_is_monotonic(program in programs(), more in prop::array::uniform4(any::<u32>())) {
        let mode = Mode::ALL[program.mode];
        let s = &program.steps[0];
        let store = s.kind.get(&STORES[program.mode]);
        let verdict = |maps: [u32; 4]| {
            let mut machine = Machine::new(mode, Granule::SUBPAGE);
            set_up(&mut machine, store, s);
            protect(&mut machine, &maps);
            machine.run(&store.bytes)
        };
        let less = verdict(program.maps);
        let maps = std::array::from_fn(|n| program.maps[n] & more[n]);
        let tighter = verdict(maps);
        prop_assert!(less.is_ok() || tighter.is_err(), "{}: {less:?} {tighter:?}", store.name);
    }
}
