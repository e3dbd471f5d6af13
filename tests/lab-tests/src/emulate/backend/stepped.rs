// SPDX-License-Identifier: GPL-2.0

//! Instructions that nobody emulates. With the processor as backend it executes them as any
//! other; where the module checks the maps, it lets the processor execute them one at a
//! time, with the pages open that they write to.

mod ltr;
mod rows;

use super::{denials, ended, mapped, needs_both, needs_whole_checks, with, BOTH};
use crate::emulate::rig::{Rig, RAM, WINDOW};
use crate::emulate::trace::{trace, Exit, Trace};
use crate::harness::{tests, Backend, Lab};
use crate::machine::{self, Stop};
use crate::raw;
use guest::{Mode, CODE, PAGE_SIZE, STACK};
use ioctl_api::number::{KVM_INTERRUPT, KVM_NMI};
use ioctl_api::subpage::FULL;
use ioctl_api::vcpu::Interrupt;
use kvm_bindings::kvm_xcrs;
use rows::{Code, Row, AVX512, ROWS};

pub(super) use ltr::TESTS as LTR;

tests![
    allowed,
    denied_and_then_allowed,
    later_sub_page,
    over_sub_pages,
    over_pages,
    areas_over_pages,
    other_page_must_allow_it_too,
    page_of_its_own_code,
    single_steps,
    interrupt_behind_the_shadow,
    nmi_before_the_retry,
    avx512,
];

/// A guest for each backend.
fn rigs(lab: &Lab) -> [(Rig, Backend); 2] {
    needs_both(lab);
    BOTH.map(|backend| {
        let program = machine::program(Mode::Long, |a| a.hlt());
        (mapped(&with(lab, backend), program, [FULL; 4]), backend)
    })
}

/// Makes `rig` ready to execute `code` for `offset` bytes into the window.
fn prepare(rig: &mut Rig, code: &Code, offset: u64, maps: [u32; 4]) {
    rig.start(&code.bytes);
    rig.fill();
    rig.machine.vm.set_maps(RAM, &maps).expect("maps");
    rig.machine.change_regs(|r| {
        (r.rbx, r.rdi) = (WINDOW + offset, 0);
        (r.rax, r.rdx, r.rsp) = (0xe7, 0, STACK);
    });
    rig.set_vectors();
}

/// Executes `code` with both backends, which do the same.
fn same(
    rigs: &mut [(Rig, Backend); 2],
    what: &str,
    code: &Code,
    offset: u64,
    maps: [u32; 4],
) -> Trace {
    flags(rigs, what, code, offset, maps, 0)
}

/// The same with flags in RFLAGS.
fn flags(
    rigs: &mut [(Rig, Backend); 2],
    what: &str,
    code: &Code,
    offset: u64,
    maps: [u32; 4],
    rflags: u64,
) -> Trace {
    let [hardware, software] = rigs.each_mut().map(|(rig, _)| {
        prepare(rig, code, offset, maps);
        rig.machine.change_regs(|r| r.rflags |= rflags);
        trace(rig)
    });
    if let Some(why) = hardware.difference(&software) {
        panic!("{what}: {why}");
    }
    assert!(ended(&hardware), "{what}: {:x?}", hardware.exits.last());
    hardware
}

fn only(sub_pages: u32) -> [u32; 4] {
    [sub_pages, FULL, FULL, FULL]
}

fn window(rig: &Rig) -> Vec<u8> {
    rig.machine.read(RAM, 2 * PAGE_SIZE as usize)
}

/// All else of the page is denied.
fn allowed(lab: &Lab) {
    let mut rigs = rigs(lab);
    for row in &ROWS {
        // 832 bytes at most, from the third sub-page on.
        let sub_pages = if row.size == 0 { 0x3fc } else { 4 };
        let trace = same(&mut rigs, row.name, &row.plain(), 0x100, only(sub_pages));
        assert_eq!(denials(&trace), 0, "{}", row.name);
    }
}

/// What is denied changes nothing; allowed, it is done.
fn denied_and_then_allowed(lab: &Lab) {
    for (mut rig, backend) in rigs(lab) {
        for row in &ROWS {
            let (code, what) = (row.plain(), format!("{}, {backend:?}", row.name));
            prepare(&mut rig, &code, 0x100, only(!4));
            let before = window(&rig);
            for _ in 0..2 {
                let exit = rig.machine.expect_spp();
                let len = (code.nop - code.at) as u8;
                assert_eq!((exit.rip, exit.insn_len), (code.at, len), "{what}");
                // Of an area the first byte is not always the first to be written.
                let at = exit.gpa & if row.size == 0 { !0x7f } else { !0 };
                assert_eq!((at, exit.denied), (RAM + 0x100, 4), "{what}");
                assert!(window(&rig) == before, "{what}: changed");
            }
            rig.machine.vm.set_maps(RAM, &only(!1)).expect("maps");
            rig.machine.expect_hlt();
            assert!(window(&rig) != before, "{what}: not stored");
        }
    }
}

/// Runs to the end of what may be written, and changes nothing.
fn stops(rig: &mut Rig, code: &Code, name: &str) {
    let before = window(rig);
    match rig.machine.run() {
        // Which bytes of an area are written is not known.
        Stop::Spp(_) | Stop::Emulate(_) => assert_eq!(rig.machine.regs().rip, code.at, "{name}"),
        other => panic!("{name}: {other:x?}"),
    }
    assert!(window(rig) == before, "{name}: changed");
}

/// A processor may have written what comes before; the module has not.
fn later_sub_page(lab: &Lab) {
    let [_, (mut rig, _)] = rigs(lab);
    for row in ROWS.iter().filter(|row| !row.size.is_power_of_two()) {
        let at = if row.size == 0 { 0x100 } else { 0x17f };
        let code = row.plain();
        prepare(&mut rig, &code, at, only(!8));
        stops(&mut rig, &code, row.name);
    }
}

fn small() -> impl Iterator<Item = &'static Row> {
    // The processor writes more than 64 bytes in parts.
    ROWS.iter().filter(|row| (2..65).contains(&row.size))
}

/// Over the border between the second and the third sub-page.
fn over_sub_pages(lab: &Lab) {
    needs_whole_checks(lab);
    let mut rigs = rigs(lab);
    for row in small() {
        let (code, name) = (row.plain(), row.name);
        for before in [1, row.size - 1] {
            let at = 0x100 - before;
            for (map, count) in [(6, 0), (!4, 1), (!2, 1)] {
                // These are several writes for the processor.
                if !row.size.is_power_of_two() && map == !4 {
                    continue;
                }
                let trace = same(&mut rigs, name, &code, at, only(map));
                assert_eq!(denials(&trace), count, "{name}, {before}, {map:#x}");
            }
        }
    }
}

const FIRST: u32 = 1;
const LAST: u32 = 1 << 31;

/// Over the border of two pages with maps.
fn over_pages(lab: &Lab) {
    let mut rigs = rigs(lab);
    let both = FIRST | LAST;
    for row in small() {
        let (code, name) = (row.plain(), row.name);
        for before in [1, row.size - 1] {
            let at = PAGE_SIZE - before;
            for (maps, count) in [([both, both], 0), ([!LAST, FULL], 1), ([FULL, !FIRST], 1)] {
                if !row.size.is_power_of_two() && maps[1] == !FIRST {
                    continue;
                }
                let maps = [maps[0], maps[1], FULL, FULL];
                let trace = same(&mut rigs, name, &code, at, maps);
                assert_eq!(denials(&trace), count, "{name}, {before}, {maps:x?}");
            }
        }
    }
}

/// Areas that begin in the last two sub-pages of a page.
fn areas_over_pages(lab: &Lab) {
    let mut rigs = rigs(lab);
    for row in ROWS.iter().filter(|row| row.size == 0 || row.size > 64) {
        let (code, name) = (row.plain(), row.name);
        // Up to 832 bytes: 192 in the first page, 5 sub-pages and more in the second.
        let at = PAGE_SIZE - if row.size == 0 { 192 } else { 40 };
        let map = (LAST | LAST >> 1) | 0x1f;
        let trace = same(&mut rigs, name, &code, at, [map, map, FULL, FULL]);
        assert_eq!(denials(&trace), 0, "{name}");
        let first = if row.size == 0 { LAST >> 1 } else { LAST };
        let trace = same(&mut rigs, name, &code, at, [!first, FULL, FULL, FULL]);
        assert_eq!(denials(&trace), 1, "{name}");
        let (rig, _) = &mut rigs[1];
        prepare(rig, &code, at, [!1, !FIRST, FULL, FULL]);
        stops(rig, &code, name);
    }
}

/// Runs to an instruction that is neither stepped nor emulated, and changes nothing.
fn refused(rig: &mut Rig, code: &Code, name: &str) {
    let before = window(rig);
    match rig.machine.run() {
        Stop::Emulate(bytes) => {
            let len = (code.nop - code.at) as usize;
            let offset = (code.at - CODE) as usize;
            assert_eq!(bytes[..len], code.bytes[offset..offset + len], "{name}");
        }
        other => panic!("{name}: {other:x?}"),
    }
    assert_eq!(rig.machine.regs().rip, code.at, "{name}");
    assert!(window(rig) == before, "{name}: changed");
}

/// Each of two pages would be open for what the instruction writes to the other.
fn other_page_must_allow_it_too(lab: &Lab) {
    let [_, (mut rig, _)] = rigs(lab);
    for row in small() {
        for maps in [[!FIRST, FULL], [FULL, !LAST]] {
            let code = row.plain();
            prepare(
                &mut rig,
                &code,
                PAGE_SIZE - 1,
                [maps[0], maps[1], FULL, FULL],
            );
            refused(&mut rig, &code, row.name);
        }
    }
}

/// A page is either for the code or for what it writes.
fn page_of_its_own_code(lab: &Lab) {
    let [_, (mut rig, _)] = rigs(lab);
    rig.machine.vm.set_maps(CODE, &[!1]).expect("maps");
    for row in small() {
        let code = row.plain();
        prepare(&mut rig, &code, 0, [FULL; 4]);
        rig.machine.change_regs(|r| r.rbx = CODE + 0x800);
        refused(&mut rig, &code, row.name);
    }
}

const TF: u64 = 1 << 8;

/// One #DB for each instruction that is done, none for what is denied.
fn single_steps(lab: &Lab) {
    let mut rigs = rigs(lab);
    // That of the HLT before comes when the next program begins.
    let step = |exit: &Exit| match exit {
        Exit::Stop(Stop::Event(event)) => event.vector == 1 && event.rip > CODE,
        _ => false,
    };
    for row in &ROWS {
        let code = row.plain();
        for (map, denied) in [(!1, 0), (!4, 1)] {
            let trace = flags(&mut rigs, row.name, &code, 0x100, only(map), TF);
            let steps = trace.exits.iter().filter(|(exit, _)| step(exit)).count();
            assert_eq!(denials(&trace), denied, "{}", row.name);
            assert_eq!(
                steps,
                code.count - denied,
                "{}: {:x?}",
                row.name,
                trace.exits
            );
        }
    }
}

const VECTOR: u8 = 0x21;

/// An interrupt waits for the instruction behind STI, not longer.
fn interrupt_behind_the_shadow(lab: &Lab) {
    for (mut rig, backend) in rigs(lab) {
        for row in &ROWS {
            let what = format!("{}, {backend:?}", row.name);
            let code = row.code(|a| a.sti());
            prepare(&mut rig, &code, 0x100, only(!1));
            let before = window(&rig);
            let mut irq = Interrupt { irq: VECTOR.into() };
            let queued = raw::with(rig.machine.cpu.fd(), KVM_INTERRUPT, &mut irq);
            assert_eq!(queued, Ok(0));
            let event = rig.machine.expect_event(VECTOR);
            assert_eq!(event.rip, code.nop, "{what}");
            assert!(window(&rig) != before, "{what}: not stored");
            rig.machine.expect_hlt();
        }
    }
}

/// What waits when a denied instruction is tried again comes first.
fn nmi_before_the_retry(lab: &Lab) {
    for (mut rig, backend) in rigs(lab) {
        for row in &ROWS {
            let what = format!("{}, {backend:?}", row.name);
            let code = row.plain();
            prepare(&mut rig, &code, 0x100, only(!4));
            let before = window(&rig);
            rig.machine.expect_spp();
            assert_eq!(raw::number(rig.machine.cpu.fd(), KVM_NMI, 0), Ok(0));
            rig.machine.vm.set_maps(RAM, &only(!1)).expect("maps");
            let event = rig.machine.expect_event(2);
            assert_eq!(event.rip, code.at, "{what}");
            assert!(window(&rig) == before, "{what}: stored too early");
            rig.machine.expect_hlt();
            assert!(window(&rig) != before, "{what}: not stored");
        }
    }
}

/// The same for what only AVX-512 has, and XSAVE with all of it.
fn avx512(lab: &Lab) {
    let mut rigs = rigs(lab);
    for (rig, _) in &rigs {
        let mut xcrs = kvm_xcrs {
            nr_xcrs: 1,
            ..Default::default()
        };
        xcrs.xcrs[0].value = 0xe7;
        if rig.machine.cpu.fd().set_xcrs(&xcrs).is_err() {
            lab.skip("no AVX-512");
        }
    }
    for row in &AVX512 {
        let (code, name) = (row.plain(), row.name);
        for (map, count) in [(4, 0), (!4, 1)] {
            let trace = same(&mut rigs, name, &code, 0x100, only(map));
            assert_eq!(denials(&trace), count, "{name}");
        }
        let both = FIRST | LAST;
        let at = PAGE_SIZE - 1;
        let trace = same(&mut rigs, name, &code, at, [both, both, FULL, FULL]);
        assert_eq!(denials(&trace), 0, "{name}");
    }
    for row in ROWS.iter().filter(|row| row.name.starts_with("xsave")) {
        let trace = same(&mut rigs, row.name, &row.plain(), 0x100, only(!3));
        assert_eq!(denials(&trace), 0, "{}", row.name);
    }
}
