// SPDX-License-Identifier: GPL-2.0

//! Random instructions under random sub-page maps, against what they do without maps.

use std::vec::Vec;

use spp::Mask;

use super::*;
use crate::memory::Ram;
use crate::model::Event;
use crate::GuestPhys;

/// Vector, far and system instructions have tests of their own.
fn integer(op: Op) -> bool {
    op.policy() == Policy::Emulated
        && !matches!(
            op,
            Op::VectorStore
                | Op::VectorLoad
                | Op::ScalarLoad
                | Op::ScalarStore
                | Op::HighStore
                | Op::LowLoad
                | Op::HighLoad
                | Op::Maskmovdqu
                | Op::VmaskmovStore
                | Op::CallFar
                | Op::JmpFar
                | Op::RetFar
                | Op::Ins
                | Op::Outs
        )
}

/// An instruction that touches memory, and registers with which it often comes near the
/// ends of pages and sub-pages.
fn case(random: &mut Random, data: &mut Ram) -> (Machine, Insn) {
    let mut machine = match random.below(3) {
        0 => Machine::real(),
        1 => Machine::protected(0),
        _ => Machine::ia32e(0, true),
    };
    let insn = loop {
        let mut bytes = random.next().to_le_bytes().to_vec();
        bytes.extend(random.next().to_le_bytes());
        // Prefixes and maps more often than one in 256.
        bytes[0] = match random.below(6) {
            0 => 0x0f,
            1 => 0x66,
            2 => 0x48,
            3 => 0xf0,
            _ => bytes[0],
        };
        if random.below(3) == 0 {
            bytes[1] = 0x0f;
        }
        if let Ok(insn) = decode(&bytes[..15], machine.cpu.code) {
            if integer(insn.op) {
                break insn;
            }
        }
    };
    for gpr in &mut machine.cpu.gprs {
        let edge = 0x3000 + random.below(0x60) * 0x80;
        *gpr = match random.below(8) {
            0 => random.below(64),
            1 => random.next(),
            _ => edge + random.below(16) - random.below(16),
        };
    }
    machine.cpu.gprs[1] &= 0x7f;
    machine.cpu.rflags = 2 | random.next() & (rflags::ARITHMETIC | rflags::DF);
    for page in 3..6 {
        let mut bytes = [0; 4096];
        assert!(data.read(ept::Gpa::new(page << 12), &mut bytes));
        machine.model.ram.write(page << 12, &bytes);
    }
    (machine, insn)
}

fn copy(machine: &Machine) -> Machine {
    let mut copy = Machine::real();
    copy.cpu = machine.cpu;
    copy.model.ram = machine.model.ram.clone();
    copy.model.maps = machine.model.maps.clone();
    copy
}

fn map(machine: &Machine, gpa: u64) -> Mask {
    let map = machine.model.maps.get(&(gpa >> 12)).copied();
    map.unwrap_or(Mask::ALL)
}

fn allowed(machine: &Machine, gpa: u64) -> bool {
    map(machine, gpa).allows(Mask::from_raw(1 << (gpa / 128 % 32)))
}

/// The bytes that were written, in the order of their addresses in each access.
fn written(machine: &Machine) -> Vec<u64> {
    let writes = machine.model.writes().into_iter();
    writes
        .flat_map(|event| match event {
            Event::Write(gpa, len) | Event::Exchange(gpa, len) => gpa..gpa + len as u64,
            _ => 0..0,
        })
        .collect()
}

fn protect(machine: &mut Machine, random: &mut Random) {
    for page in 0..0x1f {
        if random.below(3) > 0 {
            let one = random.next() as u32;
            machine
                .model
                .protect(page << 12, one | random.next() as u32);
        }
    }
}

/// Nothing is written where the maps do not allow it.
fn unchanged(start: &mut Machine, machine: &mut Machine) {
    let maps = machine.model.maps.clone();
    for (page, map) in maps {
        for subpage in (0..32).filter(|n| map.raw() >> n & 1 == 0) {
            let at = ept::Gpa::new(page << 12 | subpage << 7);
            let (mut before, mut after) = ([0; 128], [0; 128]);
            assert!(start.model.ram.read(at, &mut before));
            assert!(machine.model.ram.read(at, &mut after));
            assert_eq!(before, after);
        }
    }
}

#[test]
fn denied_is_as_if_nothing_had_been_tried() {
    let mut random = Random(30);
    let mut data = Ram::default();
    for n in 0..0x600 {
        data.write_u64(0x3000 + n * 8, random.next());
    }
    let (mut denials, mut finished) = (0, 0);
    for _ in 0..6000 {
        let (mut start, insn) = case(&mut random, &mut data);
        let mut free = copy(&start);
        free.journal.begin(1);
        let done = execute(&mut free.guest(), &insn);
        let writes = written(&free);
        let posted = free.journal.has_posted();
        let mut machine = copy(&start);
        protect(&mut machine, &mut random);
        machine.journal.begin(1);
        let got = execute(&mut machine.guest(), &insn);
        let single = insn.rep == Rep::None;
        // ENTER asks for the right to write behind its frame as well.
        let frame = matches!(insn.op, Op::Pusha | Op::Enter);
        match got {
            Err(Stop::Denied(denial)) => {
                denials += 1;
                let gpa = denial.gpa.get();
                assert!(!allowed(&machine, gpa), "{insn:x?}");
                assert_eq!(denial.map, map(&machine, gpa));
                if done.is_ok() && single && !frame && !posted {
                    let first = writes.iter().find(|at| !allowed(&machine, **at));
                    assert_eq!(first, Some(&gpa), "{insn:x?}");
                    assert_eq!(usize::from(denial.size), writes.len(), "{insn:x?}");
                }
                if single {
                    let mut cpu = machine.cpu;
                    assert_eq!(cpu.rflags, start.cpu.rflags | rflags::RF);
                    cpu.rflags = start.cpu.rflags;
                    assert_eq!(cpu, start.cpu, "{insn:x?}");
                    assert!(machine.model.ram == start.model.ram, "{insn:x?}");
                }
                // With fewer rights it is denied too.
                let mut poorer = copy(&start);
                poorer.model.maps = machine.model.maps.clone();
                for map in poorer.model.maps.values_mut() {
                    *map = Mask::from_raw(map.raw() & random.next() as u32);
                }
                poorer.journal.begin(1);
                super::denial(execute(&mut poorer.guest(), &insn));
            }
            got => {
                assert_eq!(got, done, "{insn:x?}");
                assert_eq!(machine.cpu, free.cpu, "{insn:x?}");
                assert!(machine.model.ram == free.model.ram, "{insn:x?}");
                assert!(writes.iter().all(|at| allowed(&machine, *at)), "{insn:x?}");
                finished += usize::from(got.is_ok() && !writes.is_empty());
            }
        }
        unchanged(&mut start, &mut machine);
    }
    assert!(denials > 400 && finished > 400, "{denials} {finished}");
}
