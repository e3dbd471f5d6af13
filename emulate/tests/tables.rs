// SPDX-License-Identifier: GPL-2.0

//! Random descriptor tables, TSS and stacks: nothing panics, what stops has changed
//! nothing, and what is done leaves registers that go together.

use ept::Gpa;

use crate::cpu::{rflags, Segment};
use crate::event::{self, Event, Kind};
use crate::insn::{CodeSize, Insn, Operand, Seg};
use crate::machine::{at, descriptor, Machine, GDT, IDT, TSS};
use crate::op::Op;
use crate::stop::Stop;
use crate::task::{self, Reason, Switch};
use crate::GuestPhys;

const CASES: u64 = 4000;

/// SplitMix64 (Steele et al. 2014).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }

    /// A selector of the tables, often of a segment that fits.
    fn selector(&mut self) -> u16 {
        let selector = match self.below(4) {
            0 => self.next() as u16 & 0xff,
            1 => self.below(34) as u16 * 8 + 3,
            _ => self.below(34) as u16 * 8,
        };
        selector | self.pick(&[0, 0, 0, 1, 3, 3])
    }

    /// An entry of the GDT or IDT: any type, mostly present and flat.
    fn entry(&mut self) -> u64 {
        let access = match self.below(4) {
            0 => self.next() & 0xff,
            1 => self.pick(&[0x9a, 0x9b, 0x92, 0x93, 0xfa, 0xfb, 0xf2, 0xf3, 0x9e]),
            _ => self.pick(&[0x8e, 0xee, 0xec, 0x8c, 0xe4, 0x89, 0x8b, 0x81, 0xe6, 0x85]),
        };
        if access & 0x10 == 0 && self.below(8) != 0 {
            // A gate, or a TSS at TSS.
            let selector = u64::from(self.selector());
            let gate = access & 4 != 0;
            let low = if gate {
                selector << 16 | 0x1000
            } else {
                TSS << 16 | 0x67
            };
            return low | access << 40 | self.below(32) << 32 * u64::from(gate);
        }
        let flags = self.pick(&[0xc, 0xc, 0xa, 0x4, 0x0, 0xe]);
        let limit = self.pick(&[0xf_ffff, 0xf_ffff, 0xffff, 0x9000, 7]);
        limit & 0xffff | access << 40 | (limit >> 16) << 48 | flags << 52
    }
}

fn machine(rng: &mut Rng) -> Machine {
    let cpl = rng.pick(&[0, 0, 1, 3, 3]);
    let mut machine = match rng.below(8) {
        0 => Machine::real(),
        1 | 2 => Machine::ia32e(cpl, false),
        3 | 4 => Machine::ia32e(cpl, true),
        _ => Machine::protected(cpl),
    };
    let ram = &mut machine.model.ram;
    for n in 0..34 {
        if rng.below(3) != 0 {
            ram.write_u64(GDT + 8 * n, rng.entry());
        }
    }
    for n in 0..64 {
        ram.write_u64(IDT + 8 * n, rng.entry());
    }
    for n in 0..26 {
        let value = match n {
            0x12..0x19 => u64::from(rng.selector()),
            _ => rng.pick(&[0x8000, 0x9004, 0x1fff, 0x10, 0x13, 0x202, 0x2_0202]),
        };
        ram.write_u32(TSS + 4 * n, value as u32);
    }
    for n in 0..64 {
        let value = match rng.below(3) {
            0 => rng.next(),
            1 => u64::from(rng.selector()),
            _ => 0x1000,
        };
        ram.write_u32(0x7fe0 + 4 * n, value as u32);
    }
    let cpu = &mut machine.cpu;
    cpu.gprs[4] = 0x8000 + rng.below(20);
    if rng.below(10) == 0 {
        cpu.gprs[4] = rng.next() >> rng.below(64);
    }
    if rng.below(12) == 0 && cpu.paging.cr0 & 1 != 0 && !cpu.paging.long_mode() {
        cpu.rflags |= rflags::VM | rng.below(4) << 12;
        cpu.set_cpl(3);
        cpu.code = CodeSize::Bits16;
        cpu.paging.cr4 |= rng.below(2);
        for segment in &mut cpu.segments {
            *segment = Segment {
                base: u64::from(segment.selector) << 4,
                limit: 0xffff,
                attributes: 0xf3,
                ..*segment
            };
        }
    }
    cpu.tr.limit = rng.pick(&[0x67, 0x67, 0x2b, 0x20, 0x200]);
    cpu.gdtr.limit = rng.pick(&[0x10f, 0x10f, 0x57, 0x0f]);
    if rng.below(4) == 0 {
        let page = rng.pick(&[GDT, TSS, 0x7000, 0x8000]);
        machine.model.protect(page, rng.next() as u32);
    }
    machine
}

/// As VM entry wants them (SDM 3C 27.3.1.2).
fn go_together(machine: &Machine) {
    let cpu = &machine.cpu;
    let (cs, ss) = (cpu.segment(Seg::Cs), cpu.segment(Seg::Ss));
    assert_eq!(cpu.paging.user, cpu.cpl == 3);
    if cpu.rflags & rflags::VM != 0 {
        for segment in &cpu.segments {
            let want = Segment {
                base: u64::from(segment.selector) << 4,
                limit: 0xffff,
                attributes: 0xf3,
                ..*segment
            };
            assert_eq!(*segment, want);
        }
        return;
    }
    if !cpu.protected() {
        return;
    }
    assert_eq!((ss.dpl(), cs.selector & 3), (cpu.cpl, cpu.cpl.into()));
    assert!(!cs.unusable && cs.is_code() && cs.attributes & 0x91 == 0x91);
    match cs.attributes & 4 {
        0 => assert_eq!(cs.dpl(), cpu.cpl),
        _ => assert!(cs.dpl() <= cpu.cpl),
    }
    let long = cpu.paging.long_mode() && cs.attributes & 1 << 13 != 0;
    let code = match (long, cs.big()) {
        (true, false) => CodeSize::Bits64,
        (false, true) => CodeSize::Bits32,
        (false, false) => CodeSize::Bits16,
        (true, true) => panic!("L and D"),
    };
    assert_eq!(cpu.code, code);
    if !long {
        assert!(cpu.rip <= u64::from(cs.limit) || cpu.rip == 0x3000);
    }
    for seg in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
        let segment = cpu.segment(seg);
        let conforming = segment.is_code() && segment.attributes & 4 != 0;
        assert!(segment.unusable || conforming || segment.dpl() >= cpu.cpl);
    }
}

#[test]
fn far_branches() {
    let mut rng = Rng(1);
    let mut done = [0; 3];
    for _ in 0..CASES {
        let mut machine = machine(&mut rng);
        let (n, op) = rng.pick(&[(0, Op::CallFar), (1, Op::JmpFar), (2, Op::RetFar)]);
        let long = machine.cpu.long();
        let mut insn = Insn {
            op,
            len: 7,
            size: rng.pick(&[2, 4, if long { 8 } else { 4 }]),
            addr_size: 4,
            dst: Operand::Imm,
            imm: rng.pick(&[0x1000, 0x1000, 0xffff_ffff, 8]),
            imm2: rng.selector(),
            mem: at(0x7fe0 + rng.below(32)),
            ..Insn::default()
        };
        if op != Op::RetFar && rng.below(3) == 0 {
            insn.dst = Operand::Mem;
        }
        if machine.run(&insn).is_ok() {
            done[n] += 1;
            go_together(&machine);
        }
    }
    assert!(done.iter().all(|n| *n > 30), "{done:?}");
}

#[test]
fn task_switches() {
    let mut rng = Rng(2);
    let (mut done, mut failed) = (0, 0);
    for _ in 0..CASES {
        let mut machine = machine(&mut rng);
        let event = |error_code| Reason::Event {
            external: true,
            error_code,
        };
        let request = Switch {
            selector: rng.selector(),
            reason: rng.pick(&[
                Reason::Call,
                Reason::Iret,
                Reason::Jmp,
                event(None),
                event(Some(8)),
            ]),
            next_rip: 0x1007,
        };
        if rng.below(2) == 0 {
            // Segments that fit each other, but for one of them now and then.
            let level = rng.pick(&[
                [0x10, 0x08, 0x10, 0x10, 0, 0, 0],
                [0x23, 0x1b, 0x23, 0, 0, 0x23, 0],
            ]);
            for (selector, access) in [(0x08, 0x9a), (0x10, 0x93), (0x18, 0xfb), (0x20, 0xf2)] {
                machine.set(selector, descriptor(0, 0xf_ffff, access, 0xc));
            }
            for (n, selector) in level.into_iter().enumerate() {
                let odd = rng.below(20) == 0;
                let selector = if odd { rng.selector() } else { selector };
                let at = TSS + 0x48 + 4 * n as u64;
                machine.model.ram.write_u32(at, selector.into());
            }
        }
        if rng.below(4) != 0 {
            let kind = rng.pick(&[0x89, 0x89, 0x8b, 0x81]);
            let entry = descriptor(TSS as u32, 0x67, kind, 0);
            machine.set(request.selector & 0xf8, entry);
        }
        let before = (machine.cpu, machine.model.ram.clone());
        match task::switch(&mut machine.guest(), &request) {
            Ok(switched) => {
                done += 1;
                failed += u32::from(switched.exception.is_some());
                if machine.cpu.paging.cr0 & 1 != 0 && switched.exception.is_none() {
                    go_together(&machine);
                }
            }
            // The TSS and the tables overlap nowhere, and nobody else writes.
            Err(Stop::Retry | Stop::Host) => panic!("there is no reason"),
            Err(_) => {
                assert_eq!(machine.cpu, before.0);
                assert!(machine.model.ram == before.1);
            }
        }
    }
    assert!(done - failed > 30 && failed > 100, "{done} {failed}");
}

/// Whatever an event's gate, stack and frame are: what is denied does not change, and an
/// event that is not delivered changes no register.
#[test]
fn event_frames() {
    let mut rng = Rng(3);
    let (mut done, mut denied) = (0, 0);
    for _ in 0..CASES {
        let mut machine = machine(&mut rng);
        let event = Event {
            vector: rng.below(32) as u8,
            kind: rng.pick(&[
                Kind::External,
                Kind::Nmi,
                Kind::Exception,
                Kind::SoftwareInterrupt,
                Kind::PrivilegedSoftwareException,
                Kind::SoftwareException,
            ]),
            error_code: (rng.below(2) == 0).then_some(0x1234),
            len: rng.below(3) as u8,
        };
        let (cpu, mut before) = (machine.cpu, machine.model.ram.clone());
        let got = event::deliver(&mut machine.guest(), &event);
        let allowed = |gpa: u64| {
            let map = machine.model.maps.get(&(gpa >> 12));
            map.is_none_or(|map| map.raw() >> (gpa / 128 % 32) & 1 == 1)
        };
        match got {
            Ok(()) => done += 1,
            Err(Stop::Denied(d)) => {
                denied += 1;
                assert!(!allowed(d.gpa.get()) && machine.cpu == cpu);
            }
            // Nobody else writes.
            Err(Stop::Retry | Stop::Host) => panic!("there is no reason"),
            Err(_) => assert_eq!(machine.cpu, cpu),
        }
        let mut after = machine.model.ram.clone();
        for page in machine.model.maps.keys() {
            for gpa in (page << 12..).step_by(128).take(32) {
                let (mut old, mut new) = ([0; 128], [0; 128]);
                before.read(Gpa::new(gpa), &mut old);
                after.read(Gpa::new(gpa), &mut new);
                assert!(allowed(gpa) || old == new, "{gpa:#x} {event:?}");
            }
        }
    }
    assert!(done > 300 && denied > 10, "{done} {denied}");
}
