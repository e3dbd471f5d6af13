// SPDX-License-Identifier: GPL-2.0

//! LTR, which marks the descriptor of the TSS busy. Its GDT is in the window:
//!
//! ```text
//!   page 0                        page 1
//!   ... | null | code | data | TSS, lower 4 bytes | upper 4, with the type | base |
//! ```

use crate::emulate::backend::{assert_same, denials, ended, mapped, needs_both, with, BOTH};
use crate::emulate::rig::{Rig, RAM, WINDOW};
use crate::emulate::trace::{Exit, Trace};
use crate::harness::{tests, Lab};
use crate::machine::{self, Assembled, Stop};
use crate::raw;
use guest::asm::*;
use guest::{Mode, CODE, PAGE_SIZE};
use ioctl_api::number::{KVM_INTERRUPT, KVM_NMI};
use ioctl_api::subpage::FULL;
use ioctl_api::vcpu::Interrupt;

tests![
    descriptor_over_pages,
    single_steps,
    interrupt_behind_the_shadow,
    nmi_before_the_retry,
];

type Emit = fn(&mut CodeAssembler) -> Assembled;

const TSS: u64 = 0x18;
const GDT: u64 = PAGE_SIZE - TSS - 4;
/// Available; the base is that of the TSS in use, which has the handlers' stack.
const DESCRIPTOR: u64 = 0x0000_8900_4000_0067;
const BUSY: u64 = 1 << 41;

/// Maps of the two pages: allowed, and nothing else; denied, and nothing else.
const ALLOWED: [u32; 4] = [0, 1, FULL, FULL];
const DENIED: [u32; 4] = [FULL, !1, FULL, FULL];

/// A guest about to execute `last`, LTR and NOP.
fn rig(lab: &Lab, maps: [u32; 4], last: Emit) -> Rig {
    let program = machine::program(Mode::Long, |a| {
        last(a)?;
        a.ltr(ax)?;
        a.nop()?;
        a.hlt()
    });
    let rig = mapped(lab, program, maps);
    let machine = &rig.machine;
    let low = machine.read(guest::GDT, TSS as usize);
    machine.write(RAM + GDT, &low);
    machine.set_qword(RAM + GDT + TSS, DESCRIPTOR);
    machine.set_qword(RAM + GDT + TSS + 8, 0);
    let mut sregs = machine.sregs();
    (sregs.gdt.base, sregs.gdt.limit) = (WINDOW + GDT, 0x27);
    machine.set_sregs(&sregs);
    machine.change_regs(|r| r.rax = TSS);
    rig
}

fn descriptor(rig: &Rig) -> u64 {
    rig.machine.qword(RAM + GDT + TSS)
}

fn nothing(_: &mut CodeAssembler) -> Assembled {
    Ok(())
}

/// The same with both backends, and flags in RFLAGS.
fn run(lab: &Lab, maps: [u32; 4], rflags: u64) -> Trace {
    let trace = assert_same(lab, "ltr", |lab| {
        let rig = rig(lab, maps, nothing);
        rig.machine.change_regs(|r| r.rflags |= rflags);
        rig
    });
    assert!(ended(&trace));
    trace
}

fn descriptor_over_pages(lab: &Lab) {
    needs_both(lab);
    for (maps, count, busy) in [(ALLOWED, 0, BUSY), (DENIED, 1, 0)] {
        let trace = run(lab, maps, 0);
        assert_eq!(denials(&trace), count);
        let found = trace.qword(RAM + GDT + TSS);
        assert_eq!(found, DESCRIPTOR | busy);
    }
}

fn single_steps(lab: &Lab) {
    needs_both(lab);
    let step = |exit: &Exit| matches!(exit, Exit::Stop(Stop::Event(e)) if e.vector == 1);
    for (maps, count) in [(ALLOWED, 2), (DENIED, 1)] {
        let trace = run(lab, maps, 1 << 8);
        let steps = trace.exits.iter().filter(|(exit, _)| step(exit)).count();
        assert_eq!(steps, count);
    }
}

fn interrupt_behind_the_shadow(lab: &Lab) {
    needs_both(lab);
    for backend in BOTH {
        let mut rig = rig(&with(lab, backend), ALLOWED, |a| a.sti());
        let mut irq = Interrupt { irq: 0x21 };
        let queued = raw::with(rig.machine.cpu.fd(), KVM_INTERRUPT, &mut irq);
        assert_eq!(queued, Ok(0));
        let event = rig.machine.expect_event(0x21);
        let nop = rig.machine.program.instructions().nth(2);
        assert_eq!(Some(event.rip), nop, "{backend:?}");
        assert_eq!(descriptor(&rig), DESCRIPTOR | BUSY, "{backend:?}");
        rig.machine.expect_hlt();
    }
}

fn nmi_before_the_retry(lab: &Lab) {
    needs_both(lab);
    for backend in BOTH {
        let mut rig = rig(&with(lab, backend), DENIED, nothing);
        for _ in 0..2 {
            let exit = rig.machine.expect_spp();
            assert_eq!((exit.rip, exit.denied), (CODE, 1), "{backend:?}");
            assert_eq!(descriptor(&rig), DESCRIPTOR, "{backend:?}");
        }
        assert_eq!(raw::number(rig.machine.cpu.fd(), KVM_NMI, 0), Ok(0));
        rig.machine.vm.set_maps(RAM, &ALLOWED).expect("maps");
        let event = rig.machine.expect_event(2);
        assert_eq!(event.rip, CODE, "{backend:?}");
        assert_eq!(descriptor(&rig), DESCRIPTOR, "{backend:?}");
        rig.machine.expect_hlt();
        assert_eq!(descriptor(&rig), DESCRIPTOR | BUSY, "{backend:?}");
    }
}
