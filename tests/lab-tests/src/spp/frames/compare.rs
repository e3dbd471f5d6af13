// SPDX-License-Identifier: GPL-2.0

//! Runs a guest without maps and with them, and compares all that a VMM can see.

use super::{LOW_STACK, STACK_PAGE};
use crate::harness::{Backend, Lab};
use crate::machine::{self, Assembled, Event, Machine, Stop};
use guest::asm::CodeAssembler;
use guest::{Mode, DATA, GDT, PAGE_SIZE};
use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};

/// What a VMM can see when the guest has stopped.
#[derive(Debug, PartialEq)]
pub(super) struct Seen {
    pub(super) stop: Stop,
    pub(super) regs: kvm_regs,
    pub(super) sregs: kvm_sregs,
    pub(super) nmi_masked: u8,
    pub(super) dr6: u64,
    pub(super) memory: Vec<u8>,
}

fn see(machine: &Machine, stop: Stop) -> Seen {
    let pages = [GDT, STACK_PAGE, DATA, DATA + PAGE_SIZE, LOW_STACK];
    let read = |page: &u64| machine.read(*page, PAGE_SIZE as usize);
    let events = machine.cpu.fd().get_vcpu_events().expect("events");
    let mut sregs = machine.sregs();
    // What is left in a null segment means nothing, but that the DPL of SS is the CPL.
    let cpl = sregs.ss.dpl;
    let segments = [
        &mut sregs.ss,
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
    ];
    for segment in segments {
        if segment.unusable != 0 {
            *segment = kvm_segment {
                selector: segment.selector,
                unusable: 1,
                ..Default::default()
            };
        }
    }
    sregs.ss.dpl = cpl;
    Seen {
        stop,
        regs: machine.regs(),
        sregs,
        nmi_masked: events.nmi.masked,
        dr6: machine.cpu.fd().get_debug_regs().expect("DR6").dr6,
        memory: pages.iter().flat_map(read).collect(),
    }
}

/// Runs to the end, lets handlers of faults return behind the instruction, and sends an NMI
/// when the guest writes to port 40.
fn run_to_the_end(machine: &mut Machine) -> Vec<Seen> {
    let mut all = Vec::new();
    loop {
        let stop = machine.run();
        assert!(all.len() < 50, "it has no end: {stop:x?}");
        all.push(see(machine, stop.clone()));
        match stop {
            // HLT is not for user code.
            Stop::Event(event) if event.vector == 13 && machine.read(event.rip, 1) == [0xf4] => {
                return all
            }
            Stop::Event(event) if matches!(event.vector, 0 | 6 | 8 | 10..=14) => {
                machine.step_over(&event);
            }
            Stop::Event(_) => {}
            Stop::Out(0x40, _) => machine.cpu.fd().nmi().expect("KVM_NMI"),
            Stop::Hlt | Stop::Shutdown => return all,
            other => panic!("{other:x?}"),
        }
    }
}

/// The vectors that were delivered.
pub(super) fn vectors(all: &[Seen]) -> Vec<u8> {
    let events = all.iter().filter_map(|seen| match &seen.stop {
        Stop::Event(event) => Some(event.vector),
        _ => None,
    });
    events.collect()
}

/// The event that was delivered.
pub(super) fn event(stop: &Stop) -> Event {
    match stop {
        Stop::Event(event) => *event,
        other => panic!("{other:x?}"),
    }
}

/// What the pages that frames go to are given.
pub(super) type Maps = [(u64, u32)];

/// A VM whose maps this backend checks.
pub(super) fn vm(lab: &Lab, backend: Backend) -> vmm::Vm {
    let vm = machine::vm(lab);
    vm.enable_spp_with(backend.cap()).expect("KVM_CAP_SPP");
    vm
}

/// Runs a guest that `prepare` has prepared without maps and with them, and returns what
/// was seen, which is the same.
pub(super) fn compare(
    lab: &Lab,
    mode: Mode,
    maps: &Maps,
    author: impl Fn(&mut CodeAssembler) -> Assembled,
    prepare: impl Fn(&Machine),
) -> Vec<Seen> {
    lab.needs_backend(Backend::Software);
    let run = |backend, maps: &Maps| {
        let mut machine = Machine::load(vm(lab, backend), machine::program(mode, &author));
        prepare(&machine);
        for (page, map) in maps {
            machine.vm.set_maps(*page, &[*map]).expect("maps");
        }
        run_to_the_end(&mut machine)
    };
    let expected = run(Backend::Software, &[]);
    for backend in [Backend::Software, Backend::Hardware] {
        if lab.spp_mask() & backend.cap() == 0 {
            continue;
        }
        let seen = run(backend, maps);
        for (n, (seen, expected)) in seen.iter().zip(&expected).enumerate() {
            let at = format!("{mode:?}, {backend:?}, stop {n}");
            assert_eq!(seen.stop, expected.stop, "{at}");
            assert_eq!(seen.regs, expected.regs, "{at}: {:x?}", seen.stop);
            assert_eq!(seen.sregs, expected.sregs, "{at}: {:x?}", seen.stop);
            assert_eq!(seen.nmi_masked, expected.nmi_masked, "{at}");
            assert_eq!(seen.dr6, expected.dr6, "{at}");
            assert!(seen.memory == expected.memory, "{at}: memory");
        }
        assert_eq!(seen.len(), expected.len(), "{mode:?}");
    }
    expected
}
