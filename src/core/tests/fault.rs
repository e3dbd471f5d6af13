// SPDX-License-Identifier: GPL-2.0

use super::*;
use ept::{Gfn, Hpa, Level};

const GPA: Gpa = Gpa::new(0x5080);
const SECOND: Mask = Mask::from_raw(1 << 1);

fn violation(write: bool) -> Violation {
    Violation {
        gpa: GPA,
        gla: None,
        read: !write,
        write,
        fetch: false,
        final_translation: true,
        asynchronous: false,
        event_delivery: false,
    }
}

fn slot(flags: u32) -> Slot {
    Slot {
        id: 0,
        base: Gfn::new(0),
        pages: 16,
        hva: 0,
        flags,
    }
}

fn leaf(writable: bool, subpage: bool) -> Option<Leaf> {
    Some(Leaf {
        hpa: Hpa::new(0x7000),
        level: Level::Pt,
        writable,
        subpage,
    })
}

fn once(access: &Access<'_>) -> Outcome {
    resolve(access, &mut Repeat::default())
}

/// Every combination of access, slot and leaf that has no map.
#[test]
fn without_a_map() {
    let (normal, readonly) = (slot(0), slot(2));
    let none = None;
    let (armless_ro, armless_rw) = (leaf(false, false), leaf(true, false));
    let map = |write| Outcome::Map { write };
    for (write, slot, leaf, want) in [
        (false, None, none, Outcome::Mmio),
        (true, None, none, Outcome::Mmio),
        (false, Some(&normal), none, map(false)),
        (true, Some(&normal), none, map(true)),
        (false, Some(&normal), armless_ro, Outcome::Spurious),
        (true, Some(&normal), armless_ro, map(true)),
        (false, Some(&normal), armless_rw, Outcome::Spurious),
        (true, Some(&normal), armless_rw, Outcome::Spurious),
        (false, Some(&readonly), none, map(false)),
        (true, Some(&readonly), none, Outcome::Mmio),
        (false, Some(&readonly), armless_ro, Outcome::Spurious),
        (true, Some(&readonly), armless_ro, Outcome::Mmio),
    ] {
        let access = Access {
            violation: violation(write),
            rip: 0x100,
            slot,
            leaf,
            map: Mask::ALL,
            len: None,
            generation: 0,
            backend: Backend::Hardware,
        };
        assert_eq!(once(&access), want, "{access:?}");
    }
}

#[test]
fn a_map_on_a_page_that_is_not_mapped_yet() {
    let normal = slot(0);
    let access = Access {
        violation: violation(true),
        rip: 0,
        slot: Some(&normal),
        leaf: None,
        map: Mask::NONE,
        len: None,
        generation: 0,
        backend: Backend::Hardware,
    };
    // The armed leaf comes first; the write then faults again.
    assert_eq!(once(&access), Outcome::Map { write: true });
}

#[test]
fn an_armed_page() {
    let normal = slot(0);
    let armed = Access {
        violation: violation(true),
        rip: 0x100,
        slot: Some(&normal),
        leaf: leaf(false, true),
        map: Mask::from_raw(!SECOND.raw()),
        len: None,
        generation: 0,
        backend: Backend::Hardware,
    };
    assert_eq!(once(&armed), Outcome::Denied { mask: SECOND });
    let read = Access {
        violation: violation(false),
        ..armed
    };
    assert_eq!(once(&read), Outcome::Spurious);
    let mut walk = armed;
    walk.violation.final_translation = false;
    assert_eq!(once(&walk), Outcome::Walk);
}

#[test]
fn one_retry_at_one_place() {
    let normal = slot(0);
    let access = Access {
        violation: violation(true),
        rip: 0x100,
        slot: Some(&normal),
        leaf: leaf(false, true),
        map: SECOND,
        len: Some(4),
        generation: 7,
        backend: Backend::Hardware,
    };
    let mut repeat = Repeat::default();
    assert_eq!(resolve(&access, &mut repeat), Outcome::Retry);
    let elsewhere = Access {
        rip: 0x104,
        ..access
    };
    assert_eq!(resolve(&elsewhere, &mut repeat), Outcome::Retry);
    assert_eq!(resolve(&access, &mut repeat), Outcome::Retry);
    assert_eq!(resolve(&access, &mut repeat), Outcome::Ineligible);
    // Whatever happens in between ends the series.
    assert_eq!(resolve(&access, &mut repeat), Outcome::Retry);
    // A map that was changed and changed back is no repetition: the store may
    // have been made in between, and this is another one.
    let changed = Access {
        generation: 8,
        ..access
    };
    assert_eq!(resolve(&changed, &mut repeat), Outcome::Retry);
    assert_eq!(resolve(&changed, &mut repeat), Outcome::Ineligible);
}

/// The processor makes no write to a page that has a map, so no translation is stale.
#[test]
fn without_the_processor_there_is_no_retry() {
    let normal = slot(0);
    let mut access = Access {
        violation: violation(true),
        rip: 0x100,
        slot: Some(&normal),
        leaf: leaf(false, true),
        map: SECOND,
        len: None,
        generation: 0,
        backend: Backend::Software,
    };
    assert_eq!(once(&access), Outcome::Ineligible);
    access.violation.event_delivery = true;
    assert_eq!(once(&access), Outcome::Ineligible);
    access.map = Mask::NONE;
    assert_eq!(once(&access), Outcome::Denied { mask: SECOND });
}

#[test]
fn backends() {
    use Backend::{Hardware, Software};
    for (wanted, with, without) in [
        (0, Ok(Hardware), Ok(Software)),
        (1, Ok(Hardware), Err(Errno::Enodev)),
        (2, Ok(Software), Ok(Software)),
        (3, Err(Errno::Einval), Err(Errno::Einval)),
        (4, Err(Errno::Einval), Err(Errno::Einval)),
        (1 << 32, Err(Errno::Einval), Err(Errno::Einval)),
    ] {
        assert_eq!(Backend::choose(wanted, true), with, "{wanted}");
        assert_eq!(Backend::choose(wanted, false), without, "{wanted}");
    }
    assert_eq!(
        (Backend::available(true), Backend::available(false)),
        (3, 2)
    );
}

#[test]
fn events_without_memory_for_their_frame() {
    let normal = slot(0);
    let mut access = Access {
        violation: violation(true),
        rip: 0,
        slot: None,
        leaf: leaf(false, true),
        map: Mask::from_raw(!SECOND.raw()),
        len: None,
        generation: 0,
        backend: Backend::Hardware,
    };
    access.violation.event_delivery = true;
    assert_eq!(once(&access), Outcome::Undeliverable);
    access.slot = Some(&normal);
    // A denied push of an exception frame is reported like any other write.
    assert_eq!(once(&access), Outcome::Denied { mask: SECOND });
    access.violation.final_translation = false;
    assert_eq!(once(&access), Outcome::Walk);
}
