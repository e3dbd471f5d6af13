// SPDX-License-Identifier: GPL-2.0

//! The executor in a hostile world: any registers, any bytes, memory that changes, denies
//! and fails between any two accesses, devices that answer.
//!
//! Whatever happens, work is bounded; and an instruction that stops has changed nothing but
//! flags of page tables and descriptors, and what finished elements of a string instruction have.

use emulate::cpu::{rflags, Cpu, Segment, Table};
use emulate::decode::decode;
use emulate::event::{self, Event, Kind};
use emulate::exec::{execute, Done};
use emulate::footprint::footprint;
use emulate::guard::Guest;
use emulate::insn::{CodeSize, Insn, Rep, MAX_BYTES};
use emulate::journal::Journal;
use emulate::op::{Op, Policy};
use emulate::stop::Stop;
use emulate::task::{self, Reason, Switch};

use crate::input::Input;
use crate::memory::Hostile;
use crate::walk;

/// Calls of memory that an instruction can take: ENTER with 31 levels looks at 64 places,
/// each in up to two pages, and page walks start over where entries change. About 550 were
/// seen.
const CALLS: u32 = 4000;
/// The same for an element of a string instruction. About 13 were seen.
const ELEMENT_CALLS: u32 = 200;
/// Elements of a string instruction between two pauses.
const ELEMENTS: u32 = 1024;
/// How often an instruction is started over.
const TURNS: usize = 6;

/// Instructions of a program.
const PROGRAM: usize = 8;

/// Lengths of XSAVE areas: none, legacy, AVX, AVX-512.
const XSAVE: [usize; 4] = [0, 576, 832, 2696];

struct World<'a> {
    cpu: Cpu,
    fpu: Vec<u8>,
    journal: Journal,
    memory: Hostile<'a>,
}

impl<'a> World<'a> {
    fn guest<'b>(&'b mut self) -> Guest<'b>
    where
        'a: 'b,
    {
        self.memory.calls = 0;
        self.memory.stores.clear();
        let (cpu, fpu) = (&mut self.cpu, &mut self.fpu);
        Guest::new(cpu, fpu, &mut self.memory, &mut self.journal)
    }

    /// Tells devices what they are to be told.
    fn deliver(&mut self) {
        while self.journal.next_write().is_some() {}
        self.journal.take_port_write();
    }

    /// Brings what was asked for, if anything was; true if it was.
    fn answer(&mut self, stop: Stop) -> bool {
        match stop {
            Stop::DeviceRead(read) => {
                assert!((1..=8).contains(&read.len));
                self.journal.supply(read, [0x5a; 8])
            }
            Stop::PortRead(read) => {
                assert!([1, 2, 4].contains(&read.size) && read.count > 0);
                let len = usize::from(read.size) * usize::from(read.count);
                self.journal.supply_ports(read, &vec![0xa5; len]);
                true
            }
            _ => false,
        }
    }
}

/// Any segment register.
fn segment(input: &mut Input<'_>) -> Segment {
    let kind = input.u8();
    Segment {
        selector: input.u16(),
        base: match kind & 3 {
            0 | 1 => 0,
            2 => input.u16().into(),
            _ => input.u32().into(),
        },
        limit: match kind >> 2 & 3 {
            0 | 1 => u32::MAX,
            2 => 0xffff,
            _ => input.u16().into(),
        },
        attributes: match kind >> 4 & 3 {
            0 => 0xc093,
            1 => 0xa09b,
            2 => 0x8b,
            _ => input.u16(),
        },
        unusable: kind >> 6 == 3,
    }
}

/// A register: small, near the ends of pages, or anything.
fn register(input: &mut Input<'_>) -> u64 {
    match input.u8() % 4 {
        0 => input.u8().into(),
        1 => u64::from(input.u16()) << 12 | 0xff8 | u64::from(input.u8() & 7),
        2 => u64::from(input.u32()),
        _ => input.u64(),
    }
}

fn cpu(input: &mut Input<'_>) -> Cpu {
    let mut paging = walk::paging(input);
    let bits = input.u32();
    // EM, TS, AM, NE; VME, UMIP, OSFXSR, OSXSAVE.
    paging.cr0 |= u64::from(bits) & (1 << 2 | 1 << 3 | 1 << 5 | 1 << 18);
    let cr4 = u64::from(bits >> 16);
    paging.cr4 |= (cr4 & 1) | (cr4 & 2) << 10 | (cr4 & 4) << 7 | (cr4 & 8) << 15;
    if bits >> 31 == 1 && paging.cr0 >> 31 == 0 {
        paging.cr0 &= !1;
    }
    let mut cpu = Cpu {
        rip: register(input),
        rflags: u64::from(input.u32() & 0x3f_7fd5) | 2,
        code: input.choose([CodeSize::Bits64, CodeSize::Bits32, CodeSize::Bits16]),
        cpl: if paging.user { 3 } else { bits as u8 >> 6 & 1 },
        gdtr: Table {
            base: register(input),
            limit: input.u16(),
        },
        idtr: Table {
            base: register(input),
            limit: input.u16(),
        },
        ldtr: segment(input),
        tr: segment(input),
        xcr0: input.choose([7, 3, 1, 0xe7]),
        paging,
        ..Cpu::default()
    };
    for segment_register in &mut cpu.segments {
        *segment_register = segment(input);
    }
    for gpr in &mut cpu.gprs {
        *gpr = register(input);
    }
    cpu
}

/// The target.
pub fn run(data: &[u8]) {
    let input = &mut Input::new(data);
    let cpu = cpu(input);
    let fpu = vec![input.u8(); input.choose(XSAVE)];
    let what = input.u8();
    let event = event(input);
    let switch = Switch {
        selector: input.u16(),
        reason: input.choose([
            Reason::Call,
            Reason::Iret,
            Reason::Jmp,
            Reason::Event {
                external: true,
                error_code: Some(5),
            },
        ]),
        next_rip: register(input),
    };
    let code = input.take(PROGRAM * MAX_BYTES);
    let world = &mut World {
        cpu,
        fpu,
        journal: Journal::new(),
        memory: Hostile::new(input),
    };
    match what % 8 {
        0 => deliver(world, &event),
        1 => switch_task(world, &switch),
        _ => program(world, code),
    }
}

/// Executes one instruction after the other, also where one has stopped.
fn program(world: &mut World<'_>, mut code: &[u8]) {
    for _ in 0..PROGRAM {
        let mut len = 1;
        if let Ok(insn) = decode(code, world.cpu.code) {
            len = insn.len.into();
            match insn.op.policy() {
                Policy::SingleStep => leave(world, &insn),
                _ => emulate(world, &insn),
            }
        }
        code = code.get(len..).unwrap_or(&[]);
    }
}

fn event(input: &mut Input<'_>) -> Event {
    let kind = input.choose([
        Kind::External,
        Kind::Exception,
        Kind::Nmi,
        Kind::SoftwareInterrupt,
        Kind::SoftwareException,
        Kind::PrivilegedSoftwareException,
    ]);
    Event {
        vector: input.u8(),
        kind,
        error_code: (input.u8() & 1 == 1).then_some(0x1_0008),
        len: input.u8() % 4,
    }
}

/// Executes an instruction, with answers, a few times.
fn emulate(world: &mut World<'_>, insn: &Insn) {
    for _ in 0..TURNS {
        world.journal.begin(world.cpu.rip);
        let before = (world.cpu, world.fpu.clone());
        let outcome = execute(&mut world.guest(), insn);
        let repeated = insn.rep != Rep::None && string(insn.op);
        let elements = if repeated { ELEMENTS } else { 0 };
        let calls = world.memory.calls;
        assert!(
            calls <= CALLS + elements * ELEMENT_CALLS,
            "{calls}: {insn:?}"
        );
        match outcome {
            Ok(Done::Retired) => return world.deliver(),
            Ok(Done::Partial) => {
                assert!(repeated && world.cpu.rip == before.0.rip);
                world.deliver();
            }
            Err(stop) => {
                unchanged(world, insn, &before, stop, repeated);
                world.deliver();
                if !world.answer(stop) && stop != Stop::Retry {
                    return;
                }
            }
        }
    }
}

fn string(op: Op) -> bool {
    use Op::{Cmps, Ins, Lods, Movs, Outs, Scas, Stos};
    matches!(op, Movs | Stos | Lods | Cmps | Scas | Ins | Outs)
}

/// What an instruction that stopped must have left alone.
fn unchanged(world: &World<'_>, insn: &Insn, before: &(Cpu, Vec<u8>), stop: Stop, repeated: bool) {
    let mut cpu = world.cpu;
    if let Stop::Denied(denial) = stop {
        let first = spp::Mask::touched(denial.gpa.page_offset(), 1);
        assert!(denial.size > 0 && denial.denied.allows(first), "{denial:?}");
        assert_eq!(
            denial.map.denied(denial.denied),
            denial.denied,
            "{denial:?}"
        );
    }
    if matches!(stop, Stop::Denied(_) | Stop::Exception(_)) {
        assert_ne!(cpu.rflags & rflags::RF, 0, "{insn:?}");
    }
    cpu.rflags |= rflags::RF;
    let mut old = before.0;
    old.rflags |= rflags::RF;
    let writes = world.memory.stores.iter().filter(|store| !store.flags);
    if repeated {
        // Elements that were finished count in RCX, RSI and RDI, and in arithmetic flags.
        for number in [0, 1, 6, 7] {
            old.gprs[number] = cpu.gprs[number];
        }
        old.rflags &= !rflags::ARITHMETIC;
        cpu.rflags &= !rflags::ARITHMETIC;
        if world.cpu.gprs[1] == before.0.gprs[1] {
            assert_eq!(writes.count(), 0, "{insn:?} {stop:?}");
        }
    } else {
        assert_eq!(writes.count(), 0, "{insn:?} {stop:?}");
        assert!(!world.journal.has_posted(), "{insn:?} {stop:?}");
    }
    assert_eq!(cpu, old, "{insn:?} {stop:?}");
    assert!(world.fpu == before.1, "{insn:?} {stop:?}");
}

/// An instruction that the processor finishes: only looked at.
fn leave(world: &mut World<'_>, insn: &Insn) {
    let before = world.cpu;
    let found = footprint(&mut world.guest(), insn, 832);
    assert!(world.memory.calls <= CALLS);
    assert!(world.memory.stores.iter().all(|store| store.flags));
    assert_eq!(world.cpu, before);
    if let Ok(footprint) = found {
        assert!(footprint.data[0].is_some() && footprint.code[0].is_some());
        assert_ne!(footprint.touched, spp::Mask::NONE);
    }
}

/// The delivery of an event.
fn deliver(world: &mut World<'_>, event: &Event) {
    let before = world.cpu;
    let outcome = event::deliver(&mut world.guest(), event);
    settled(world, &before, outcome.err());
}

/// What holds after an event or a task switch.
fn settled(world: &World<'_>, before: &Cpu, stop: Option<Stop>) {
    let memory = &world.memory;
    assert!(memory.calls <= CALLS, "{} calls", memory.calls);
    let Some(stop) = stop else {
        return;
    };
    assert_eq!(world.cpu, *before, "{stop:?}");
    assert!(!world.journal.has_posted(), "{stop:?}");
    // Several writes follow each other, and what is written does no harm.
    let partly = matches!(stop, Stop::Retry | Stop::Host);
    let flags = memory.stores.iter().all(|store| store.flags);
    assert!(partly || flags, "{stop:?}");
}

/// A task switch.
fn switch_task(world: &mut World<'_>, switch: &Switch) {
    let before = world.cpu;
    let outcome = task::switch(&mut world.guest(), switch);
    settled(world, &before, outcome.err());
}
