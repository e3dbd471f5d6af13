// SPDX-License-Identifier: GPL-2.0

//! The same programs on `/dev/kvm`, with the same devices: exits in the same order, with
//! the same data, registers and memory.
//!
//! ```text
//!   program ──┬─► device under test ─► trace ──┐
//!             └─► /dev/kvm ──────────► trace ──┴─ equal, or different for a known reason
//! ```
//! With `--device /dev/kvm` both are the same, which says that the comparison is fair.

mod different;
mod programs;

use super::bus::Bus;
use super::random;
use super::rig::{Page, Rig, WINDOW};
use super::trace::{trace, Exit, Trace};
use crate::harness::{tests, Lab};
use crate::machine::{self, Assembled, Machine, Stop};
use guest::asm::CodeAssembler;
use guest::{Mode, Program, CODE, PAGE_SIZE, SCRATCH};
use vmm::Vm;

tests![programs_agree, random_programs_agree, known_differences];

/// A program, and what prepares its guest.
struct Case {
    name: &'static str,
    mode: Mode,
    prepare: fn(&Rig),
    author: fn(&mut CodeAssembler) -> Assembled,
}

/// Memory of modes with segments, and the devices behind it.
const LOW_MEMORY: usize = 0x8_0000;
const LOW_DEVICE: u64 = 0xa_0000;

impl Case {
    /// A 64-bit program.
    const fn long(
        name: &'static str,
        prepare: fn(&Rig),
        author: fn(&mut CodeAssembler) -> Assembled,
    ) -> Self {
        Self {
            name,
            mode: Mode::Long,
            prepare,
            author,
        }
    }

    /// A guest of a device, about to run the program.
    fn rig(&self, lab: &Lab) -> Rig {
        let program = Program::assemble(self.mode, CODE, |a| {
            (self.author)(a)?;
            a.hlt()?;
            Ok(vec![])
        });
        let program = program.expect(self.name);
        let rig = if self.mode == Mode::Long {
            long_rig(lab, program)
        } else {
            segmented_rig(lab, program)
        };
        (self.prepare)(&rig);
        rig
    }

    fn trace(&self, lab: &Lab) -> Trace {
        trace(&mut self.rig(lab))
    }
}

/// A device and memory in the window, in turns; RBX and RSI at the one, RDI at the other.
fn long_rig(lab: &Lab, program: Program) -> Rig {
    let rig = Rig::with(Machine::load(machine::vm(lab), program));
    rig.map(&[Page::Device(0), Page::Ram(0), Page::Device(2), Page::Ram(1)]);
    rig.machine.use_handler_stack();
    rig.set_vectors();
    rig.machine.change_regs(|r| {
        (r.rbx, r.rsi, r.rdi) = (WINDOW, WINDOW, WINDOW + PAGE_SIZE);
        (r.rax, r.rcx, r.rdx) = (0x1122_3344_5566_7788, 3, 0x3f8);
    });
    rig
}

/// DS and ES at the device, FS and GS at memory.
fn segmented_rig(lab: &Lab, program: Program) -> Rig {
    let vm = Vm::open(lab.device(), LOW_MEMORY).expect("a VM");
    let machine = Machine::load(vm, program);
    let mut sregs = machine.sregs();
    let place = |segment: &mut kvm_bindings::kvm_segment, base: u64| {
        segment.base = base;
        if machine.program.mode == Mode::Real {
            segment.selector = (base >> 4) as u16;
        }
    };
    place(&mut sregs.ds, LOW_DEVICE);
    place(&mut sregs.es, LOW_DEVICE);
    place(&mut sregs.fs, SCRATCH);
    place(&mut sregs.gs, SCRATCH);
    machine.set_sregs(&sregs);
    machine.write(SCRATCH, super::bus::contents(1));
    machine.change_regs(|r| {
        (r.rbx, r.rsi, r.rdi) = (0x10, 0x20, 0x40);
        (r.rax, r.rcx, r.rdx) = (0x5566_7788, 3, 0x3f8);
    });
    Rig {
        machine,
        bus: Bus::at(LOW_DEVICE, 17),
    }
}

/// KVM, or a skipped test.
fn kvm(lab: &Lab) -> Lab {
    let path = "/dev/kvm";
    if std::fs::File::open(path).is_err() {
        lab.skip("there is no /dev/kvm");
    }
    Lab::new(path.to_owned(), None)
}

fn assert_agree<'a>(lab: &Lab, cases: impl Iterator<Item = &'a Case>) {
    let kvm = kvm(lab);
    let failures: Vec<String> = cases
        .filter_map(|case| {
            let (ours, theirs) = (case.trace(lab), case.trace(&kvm));
            let why = ours.difference(&theirs)?;
            Some(format!("{}, {:?}: {why}", case.name, case.mode))
        })
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn programs_agree(lab: &Lab) {
    assert_agree(lab, programs::ALL.iter());
}

fn random_programs_agree(lab: &Lab) {
    let kvm = kvm(lab);
    for seed in 1..=random::HOW_MANY {
        let program = random::Random::new(seed, |form| form.in_kvm);
        let rig = |lab| long_rig(lab, program.assemble());
        let mut traces = [lab, &kvm].map(|lab| trace(&mut rig(lab)));
        for trace in &mut traces {
            trace.forget_flags(program.undefined);
            let last = trace.exits.last().map(|(exit, _)| exit);
            assert_eq!(last, Some(&Exit::Stop(Stop::Hlt)), "seed {seed}");
        }
        let [ours, theirs] = traces;
        if let Some(why) = ours.difference(&theirs) {
            panic!("seed {seed}, {:?}: {why}", program.names());
        }
    }
}

/// They must really be differences, or else they belong to the other programs.
fn known_differences(lab: &Lab) {
    lab.only_ours("KVM does not differ from itself");
    let kvm = kvm(lab);
    for (case, reason) in different::ALL {
        let (ours, theirs) = (case.trace(lab), case.trace(&kvm));
        let same = ours.difference(&theirs).is_none();
        assert!(!same, "{}: no difference, though {reason}", case.name);
    }
}
