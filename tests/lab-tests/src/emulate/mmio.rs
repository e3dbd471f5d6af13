// SPDX-License-Identifier: GPL-2.0

//! Loads from and stores to devices.

use super::forms::{self, Exit, Form, PLACE};
use super::rig::{Page, Rig, State, WINDOW};
use crate::harness::{tests, Lab};
use crate::machine::Stop;
use guest::PAGE_SIZE;

tests![
    every_form,
    every_form_unaligned,
    every_form_over_two_devices,
    every_form_from_memory_to_a_device,
    every_form_from_a_device_to_memory,
];

/// Where the operand of a form lies, and on what.
struct Place {
    offset: u64,
    pages: [Page; 2],
}

/// What a run ended with.
struct Outcome {
    stop: Stop,
    exits: Vec<Exit>,
    state: State,
}

/// Executes a form in a window of `pages`.
fn execute(rig: &mut Rig, form: &Form, offset: u64, pages: [Page; 2]) -> Outcome {
    rig.start(&form.code);
    rig.fill();
    put_operand(rig, form, offset, pages);
    let rbx = WINDOW + offset;
    rig.machine.change_regs(|r| forms::registers(r, rbx));
    rig.set_vectors();
    let stop = rig.run();
    let exits = rig.log().iter().map(Exit::of).collect();
    Outcome {
        stop,
        exits,
        state: rig.state(),
    }
}

/// Puts what the form needs to where its operand is.
fn put_operand(rig: &mut Rig, form: &Form, offset: u64, pages: [Page; 2]) {
    let bytes = form.operand.iter().flat_map(|word| word.to_le_bytes());
    for (at, byte) in (offset..).zip(bytes) {
        let page = pages[(at / PAGE_SIZE) as usize];
        match page {
            Page::Ram(_) => rig.machine.write(page.gpa() + at % PAGE_SIZE, &[byte]),
            Page::Device(n) => {
                rig.bus.registers_mut()[(n * PAGE_SIZE + at % PAGE_SIZE) as usize] = byte
            }
        }
    }
}

/// Executes all forms there, and with memory in the place of devices, and compares.
fn check(lab: &Lab, place: &Place) {
    // Nothing is cached of page tables that no guest has used.
    let mut emulated = Rig::new(lab, |_| Ok(()));
    emulated.map(&place.pages);
    let memory = place.pages.map(|page| match page {
        Page::Device(n) | Page::Ram(n) => Page::Ram(n),
    });
    let mut native = Rig::new(lab, |_| Ok(()));
    native.map(&memory);
    let mut failures = Vec::new();
    let mut done = 0;
    for form in forms::all() {
        let fits = !form.only_at_place || place.offset == PLACE;
        if !fits || !(form.in_kvm || lab.is_ours()) {
            continue;
        }
        let expected = execute(&mut native, form, place.offset, memory);
        assert_eq!(
            (&expected.stop, &expected.exits),
            (&Stop::Hlt, &vec![]),
            "{}",
            form.name
        );
        let found = execute(&mut emulated, form, place.offset, place.pages);
        if let Err(why) = compare(form, place, &expected, found) {
            failures.push(format!("{}: {why}", form.name));
        }
        done += 1;
    }
    assert!(done > 100, "{done} forms");
    assert!(
        failures.is_empty(),
        "{} of {done}:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

fn compare(form: &Form, place: &Place, expected: &Outcome, found: Outcome) -> Result<(), String> {
    if found.stop != Stop::Hlt {
        return Err(format!("{:x?}", found.stop));
    }
    let exits = form.exits(place.offset, &place.pages);
    if found.exits != exits {
        return Err(format!("exits {:x?}, not {exits:x?}", found.exits));
    }
    let mut state = found.state;
    let mut expected = expected.state.clone();
    for regs in [&mut state.regs, &mut expected.regs] {
        regs.rflags &= !form.undefined;
    }
    // What the devices have is what memory has where the processor did it.
    for page in place.pages {
        if let Page::Device(n) = page {
            let part = (n * PAGE_SIZE) as usize..((n + 1) * PAGE_SIZE) as usize;
            state.ram[part.clone()].copy_from_slice(&state.registers[part]);
        }
    }
    expected.registers.clone_from(&state.registers);
    state.difference(&expected).map_or(Ok(()), Err)
}

fn every_form(lab: &Lab) {
    let pages = [Page::Device(0), Page::Device(1)];
    check(
        lab,
        &Place {
            offset: PLACE,
            pages,
        },
    );
}

fn every_form_unaligned(lab: &Lab) {
    let pages = [Page::Device(0), Page::Device(1)];
    check(
        lab,
        &Place {
            offset: PLACE + 3,
            pages,
        },
    );
}

/// The two pages do not follow each other.
fn every_form_over_two_devices(lab: &Lab) {
    let pages = [Page::Device(3), Page::Device(1)];
    for before in [1, 3, 13] {
        let offset = PAGE_SIZE - before;
        check(lab, &Place { offset, pages });
    }
}

fn every_form_from_memory_to_a_device(lab: &Lab) {
    let pages = [Page::Ram(2), Page::Device(0)];
    for before in [1, 5] {
        let offset = PAGE_SIZE - before;
        check(lab, &Place { offset, pages });
    }
}

fn every_form_from_a_device_to_memory(lab: &Lab) {
    let pages = [Page::Device(2), Page::Ram(0)];
    for before in [1, 5] {
        let offset = PAGE_SIZE - before;
        check(lab, &Place { offset, pages });
    }
}
