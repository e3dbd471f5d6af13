// SPDX-License-Identifier: GPL-2.0

//! The same guests with either backend: the processor checks the maps, or the module,
//! which has to emulate each write to a page that has one. Exits, registers and memory
//! must be equal, but for who denied.

mod modes;
mod programs;
mod stepped;

use super::forms::{self, Form, PLACE};
use super::random::{Numbers, Random};
use super::rig::{Page, Rig, WINDOW};
use super::trace::{trace, Exit, Trace};
use crate::harness::{tests, Backend, Lab, Test};
use crate::machine::{self, Assembled, Machine, Stop};
use guest::asm::*;
use guest::{Mode, Program, StorePattern, BACKGROUND, CODE, DATA, PAGE_SIZE, SCRATCH};
use ioctl_api::subpage::{FULL, KVM_SPP_CAUSE_EMULATED, KVM_SPP_CAUSE_HARDWARE};

tests![
    causes_tell_the_backends_apart,
    store_patterns,
    every_form_allowed,
    every_form_denied,
    every_form_over_sub_pages,
    every_form_with_the_second_sub_page_denied,
    every_form_with_the_first_sub_page_denied,
    every_form_over_pages,
    every_form_with_the_second_page_denied,
    every_form_with_the_first_page_denied,
    random_programs,
];

/// The tests of the parts.
pub(crate) const ALL: &[&[Test]] = &[
    TESTS,
    modes::TESTS,
    stepped::TESTS,
    stepped::LTR,
    programs::TESTS,
];

const BOTH: [Backend; 2] = [Backend::Hardware, Backend::Software];

fn needs_both(lab: &Lab) {
    for backend in BOTH {
        lab.needs_backend(backend);
    }
}

/// The device with each of the backends that it has, or a skipped test.
pub(super) fn each(lab: &Lab) -> Vec<Lab> {
    lab.needs_spp();
    let has = |backend: &Backend| lab.spp_mask() & backend.cap() != 0;
    let found = BOTH.into_iter().filter(has);
    found.map(|backend| with(lab, backend)).collect()
}

/// The device with that backend.
fn with(lab: &Lab, backend: Backend) -> Lab {
    Lab::new(lab.device().to_owned(), Some(backend))
}

/// Asserts that both backends do the same to what `rig` makes.
fn assert_same(lab: &Lab, what: &str, rig: impl Fn(&Lab) -> Rig) -> Trace {
    let [hardware, software] = BOTH.map(|backend| trace(&mut rig(&with(lab, backend))));
    if let Some(why) = hardware.difference(&software) {
        panic!("{what}: {why}");
    }
    hardware
}

/// How many writes were denied.
fn denials(trace: &Trace) -> usize {
    let denied = |exit: &Exit| matches!(exit, Exit::Stop(Stop::Spp(_)));
    trace.exits.iter().filter(|(exit, _)| denied(exit)).count()
}

fn ended(trace: &Trace) -> bool {
    matches!(trace.exits.last(), Some((Exit::Stop(Stop::Hlt), _)))
}

/// A guest that executes `code`, in a window of memory with these maps.
fn rig(lab: &Lab, code: &[u8], maps: [u32; 4]) -> Rig {
    let program = Program::assemble(Mode::Long, CODE, |a| {
        a.db(code)?;
        a.hlt()?;
        Ok(vec![])
    });
    mapped(lab, program.expect("a program"), maps)
}

/// The same with any program.
fn mapped(lab: &Lab, program: Program, maps: [u32; 4]) -> Rig {
    let rig = Rig::with(Machine::load(machine::spp_vm(lab), program));
    rig.map(&[0, 1, 2, 3].map(Page::Ram));
    rig.set_vectors();
    rig.machine
        .vm
        .set_maps(super::rig::RAM, &maps)
        .expect("maps");
    rig.machine.use_handler_stack();
    rig
}

/// Executes a form with its operand `offset` bytes into the window.
fn execute(rig: &mut Rig, form: &Form, offset: u64) -> Trace {
    rig.start(&form.code);
    rig.fill();
    for (at, word) in (offset..).step_by(8).zip(&form.operand) {
        let gpa = super::rig::RAM + at;
        rig.machine.write(gpa, &word.to_le_bytes());
    }
    let operand = WINDOW + offset;
    rig.machine.change_regs(|r| forms::registers(r, operand));
    rig.set_vectors();
    let mut trace = trace(rig);
    trace.forget_flags(form.undefined);
    trace
}

fn causes_tell_the_backends_apart(lab: &Lab) {
    needs_both(lab);
    for backend in BOTH {
        // mov [rbx], rdx
        let mut rig = rig(
            &with(lab, backend),
            &[0x48, 0x89, 0x13],
            [!1, FULL, FULL, FULL],
        );
        rig.machine.change_regs(|r| r.rbx = WINDOW + 8);
        let Stop::Spp(exit) = rig.run() else {
            panic!("no denial");
        };
        let cause = match backend {
            Backend::Hardware => KVM_SPP_CAUSE_HARDWARE,
            Backend::Software => KVM_SPP_CAUSE_EMULATED,
        };
        assert_eq!(exit.cause, cause, "{backend:?}");
    }
}

/// The demo's guest: every width at every sub-page.
fn store_patterns(lab: &Lab) {
    needs_both(lab);
    let maps = [FULL, 0, 0x5555_5555, 0x0ff0_1234];
    let pattern = StorePattern {
        base: DATA,
        pages: maps.len() as u64,
        scratch: SCRATCH,
    };
    let trace = assert_same(lab, "stores", |lab| {
        let rig = mapped(lab, pattern.program(CODE).expect("a program"), maps);
        let background = vec![BACKGROUND; maps.len() * PAGE_SIZE as usize];
        rig.machine.write(DATA, &background);
        rig
    });
    let allowed = |s: guest::Store| (maps[s.page as usize] >> s.subpage) & 1 != 0;
    let denied = pattern.stores().filter(|s| !allowed(*s)).count();
    assert_eq!((denials(&trace), ended(&trace)), (denied, true));
}

/// Executes each form with both backends; how many were denied.
fn each_form(lab: &Lab, offset: u64, maps: [u32; 4]) -> usize {
    needs_both(lab);
    let mut rigs = BOTH.map(|backend| rig(&with(lab, backend), &[], maps));
    let mut denied = 0;
    let mut failures = Vec::new();
    for form in forms::all() {
        if form.in_parts || form.only_at_place && offset != PLACE {
            continue;
        }
        let [hardware, software] = rigs.each_mut().map(|rig| execute(rig, form, offset));
        if let Some(why) = hardware.difference(&software) {
            failures.push(format!("{}: {why}", form.name));
        }
        denied += usize::from(denials(&hardware) > 0);
    }
    assert!(
        failures.is_empty(),
        "{}:\n{}",
        failures.len(),
        failures.join("\n")
    );
    denied
}

/// Of the page, only what the forms write may be written.
fn every_form_allowed(lab: &Lab) {
    let denied = each_form(lab, PLACE, [0xf, FULL, FULL, FULL]);
    assert_eq!(denied, 0);
}

/// Nothing else is denied.
fn every_form_denied(lab: &Lab) {
    let denied = each_form(lab, PLACE + 5, [!3, FULL, FULL, FULL]);
    assert!(denied > 200, "{denied} forms write");
}

/// A processor that looks at the first byte's sub-page only is none to compare with.
fn needs_whole_checks(lab: &Lab) {
    needs_both(lab);
    // mov [rbx], rdx, 4 bytes before a sub-page that is denied
    let lab_hw = with(lab, Backend::Hardware);
    let mut rig = rig(&lab_hw, &[0x48, 0x89, 0x13], [!2, FULL, FULL, FULL]);
    rig.machine.change_regs(|r| r.rbx = WINDOW + 0x7c);
    if !matches!(rig.run(), Stop::Spp(_)) {
        lab.skip("this processor checks the first byte of a write only");
    }
}

fn every_form_over_sub_pages(lab: &Lab) {
    for (before, map) in [(2, 3), (7, 3)] {
        let denied = each_form(lab, 0x80 - before, [map, FULL, FULL, FULL]);
        assert!(denied < 50, "{denied} forms write beyond");
    }
}

fn every_form_with_the_second_sub_page_denied(lab: &Lab) {
    needs_whole_checks(lab);
    for before in [1, 5] {
        let denied = each_form(lab, 0x80 - before, [!2, FULL, FULL, FULL]);
        assert!(denied > 100, "{denied} forms write there");
    }
}

fn every_form_with_the_first_sub_page_denied(lab: &Lab) {
    for before in [3, 6] {
        let denied = each_form(lab, 0x80 - before, [!1, FULL, FULL, FULL]);
        assert!(denied > 200, "{denied} forms write there");
    }
}

/// The last sub-page of a page.
const LAST: u32 = 1 << 31;

fn every_form_over_pages(lab: &Lab) {
    for (before, first) in [(1, LAST), (7, LAST | (LAST >> 1))] {
        let denied = each_form(lab, PAGE_SIZE - before, [first, 3, FULL, FULL]);
        assert!(denied < 50, "{denied} forms write elsewhere");
    }
}

fn every_form_with_the_second_page_denied(lab: &Lab) {
    for (before, first) in [(1, FULL), (3, LAST)] {
        let denied = each_form(lab, PAGE_SIZE - before, [first, !1, FULL, FULL]);
        assert!(denied > 100, "{denied} forms write there");
    }
}

fn every_form_with_the_first_page_denied(lab: &Lab) {
    for (before, second) in [(2, FULL), (5, !1)] {
        let denied = each_form(lab, PAGE_SIZE - before, [!LAST, second, FULL, FULL]);
        assert!(denied > 200, "{denied} forms write there");
    }
}

type Emit = fn(&mut CodeAssembler) -> Assembled;

/// Random instructions under random maps.
fn random_programs(lab: &Lab) {
    needs_whole_checks(lab);
    let mut denied = 0;
    for seed in 1..=super::random::HOW_MANY {
        let program = Random::new(seed, |form| !form.in_parts);
        let mut numbers = Numbers::new(seed);
        // Three of four sub-pages may be written.
        let maps = [(); 4].map(|()| (numbers.below(1 << 32) | numbers.below(1 << 32)) as u32);
        let mut traces =
            BOTH.map(|backend| trace(&mut mapped(&with(lab, backend), program.assemble(), maps)));
        for trace in &mut traces {
            trace.forget_flags(program.undefined);
        }
        let [hardware, software] = traces;
        if let Some(why) = hardware.difference(&software) {
            panic!("seed {seed}, {maps:x?}, {:?}: {why}", program.names());
        }
        assert!(ended(&hardware), "seed {seed}");
        denied += denials(&hardware);
    }
    assert!(denied > 100, "{denied} denials");
}
