// SPDX-License-Identifier: GPL-2.0

//! Frames and registers that are written down by hand from the manual, and everything
//! that can stop a delivery.

mod denied;
mod gates;
mod long;
mod protected;
mod real;
mod virtual_8086;

use super::*;
use crate::cpu::Segment;
use crate::insn::{CodeSize, Seg};
use crate::machine::{gate, Machine, IDT, TSS};
use crate::stop::Exception;

const EXTERNAL: Event = Event {
    vector: 0x21,
    kind: Kind::External,
    error_code: None,
    len: 0,
};
const FAULT: Event = Event {
    vector: 14,
    kind: Kind::Exception,
    error_code: Some(0x8001_2345),
    len: 0,
};
const INT: Event = Event {
    vector: 0x80,
    kind: Kind::SoftwareInterrupt,
    error_code: None,
    len: 2,
};
const ALL: [Event; 3] = [EXTERNAL, FAULT, INT];

const RIP: u64 = 0x1000;
const ESP: u64 = 0x8000;
/// Stack of level 0, in the TSS.
const ESP0: u64 = 0x9000;
/// Where the handlers of gates are.
const HANDLER: u32 = 0x8765_4321;
/// AC, RF, NT, DF, IF, TF, CF and bit 1.
const FLAGS: u64 = 0x5_4703;
/// The same behind a trap gate: RF, NT and TF are clear.
const TRAP: u64 = 0x4_0603;
/// Behind an interrupt gate IF is too.
const INTERRUPT: u64 = 0x4_0403;

/// A frame: where, bytes of a slot, and the slots.
type Written<'a> = (u64, u8, &'a [u64]);

/// Delivers an event, and makes sure that the frame and nothing else is written, and that
/// `change` and nothing else happens to the registers.
#[track_caller]
fn delivers(
    machine: &mut Machine,
    event: &Event,
    (at, size, slots): Written<'_>,
    change: impl FnOnce(&mut Cpu),
) {
    let (mut cpu, mut ram) = (machine.cpu, machine.model.ram.clone());
    change(&mut cpu);
    for (n, slot) in slots.iter().enumerate() {
        let bytes = slot.to_le_bytes();
        ram.write(at + (n * usize::from(size)) as u64, &bytes[..size.into()]);
    }
    assert_eq!(deliver(&mut machine.guest(), event), Ok(()));
    assert_eq!(machine.cpu, cpu);
    assert!(machine.model.ram == ram, "{:x?}", machine.model.writes());
    assert!(!machine.journal.has_posted());
}

/// Why an event is not delivered; makes sure that nothing has changed.
#[track_caller]
fn stops(machine: &mut Machine, event: &Event) -> Stop {
    let before = (machine.cpu, machine.model.ram.clone());
    let stop = deliver(&mut machine.guest(), event).expect_err("a stop");
    assert_eq!(machine.cpu, before.0);
    assert!(machine.model.ram == before.1, "memory changed");
    assert!(!machine.journal.has_posted());
    stop
}

fn gp(code: u32) -> Stop {
    Exception::gp(code).into()
}

fn np(code: u32) -> Stop {
    Exception::np(code).into()
}

fn ss(code: u32) -> Stop {
    Exception::ss(code).into()
}

fn ts(code: u32) -> Stop {
    Exception::ts(code).into()
}

/// The error code that is pushed, if one is, and then the others.
fn with_error(event: &Event, slots: &[u64]) -> std::vec::Vec<u64> {
    let error = event.error_code.map(u64::from);
    error.into_iter().chain(slots.iter().copied()).collect()
}

/// Gates of 8 bytes for all vectors.
fn gates(machine: &mut Machine, entry: u64) {
    for vector in 0..256 {
        machine.model.ram.write_u64(IDT + 8 * vector, entry);
    }
}

/// Gates of 16 bytes for all vectors.
fn long_gates(machine: &mut Machine, entry: u64, upper: u64) {
    machine.cpu.idtr.limit = 0xfff;
    for vector in 0..256 {
        machine.model.ram.write_u64(IDT + 16 * vector, entry);
        machine.model.ram.write_u64(IDT + 16 * vector + 8, upper);
    }
}

/// Level 3 with gates to level 0, and the stack for that.
fn inner(kind: u8) -> Machine {
    let mut machine = Machine::protected(3);
    machine.cpu.rflags = FLAGS;
    gates(&mut machine, gate(0x08, HANDLER, 0xe0 | kind, 0));
    machine.model.ram.write_u32(TSS + 4, ESP0 as u32);
    machine.model.ram.write_u32(TSS + 8, 0x10);
    machine
}

/// Flat segments of 32 bits, as the descriptors of [`Machine::protected`] have them.
const fn flat(selector: u16, access: u8) -> Segment {
    Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        attributes: 0xc000 | access as u16,
        unusable: false,
    }
}

/// The registers in a handler of level 0 that was entered through a gate of 32 bits.
fn level0(cpu: &mut Cpu) {
    cpu.set_segment(Seg::Cs, flat(0x08, 0x9b));
    cpu.code = CodeSize::Bits32;
    cpu.cpl = 0;
    cpu.paging.user = false;
    cpu.rip = HANDLER.into();
}
