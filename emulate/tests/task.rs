// SPDX-License-Identifier: GPL-2.0

use std::vec::Vec;

use super::*;
use crate::cpu::{rflags, Cpu, Segment};
use crate::insn::{CodeSize, Seg};
use crate::machine::{descriptor, Machine, CODE, DATA, FLAT, GDT, TSS};
use crate::model::Meanwhile;

/// The new task's TSS, and its descriptor.
const NEW: u64 = 0x9000;
const SELECTOR: u16 = 0x70;
/// The old task's.
const OLD: u16 = 0x48;

const EVENT: Reason = Reason::Event {
    external: true,
    error_code: None,
};
const FAULT: Reason = Reason::Event {
    external: true,
    error_code: Some(0x1234),
};
const INT: Reason = Reason::Event {
    external: false,
    error_code: None,
};
const ALL: [Reason; 6] = [Reason::Call, Reason::Iret, Reason::Jmp, EVENT, FAULT, INT];

/// A TSS: selectors are ES, CS, SS, DS, FS, GS, LDT.
fn tss(wide: bool, flags: u32, selectors: [u16; 7]) -> Vec<u8> {
    let mut bytes = std::vec![0u8; if wide { 104 } else { 44 }];
    let (start, size) = if wide { (0x20, 4) } else { (0x0e, 2) };
    let registers = [0x3000, flags].into_iter();
    let registers = registers.chain((0..8).map(|n| match n {
        4 => 0xa000,
        n => 0x8765_0000 + n,
    }));
    let selectors = selectors.map(u32::from);
    let selectors = selectors.iter().enumerate();
    let selectors = selectors.filter(|(n, _)| wide || !matches!(n, 4 | 5));
    for (n, value) in registers.chain(selectors.map(|(_, s)| *s)).enumerate() {
        let at = start + size * n;
        bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    }
    bytes
}

const LEVEL_0: [u16; 7] = [0x10, 0x08, 0x10, 0x10, 0, 0x10, 0x50];
const LEVEL_3: [u16; 7] = [0x23, 0x1b, 0x23, 0x23, 0x23, 0, 0];

/// A CPU in the old task, and a new one of this type and state.
fn machine(reason: Reason, wide: bool, flags: u32, selectors: [u16; 7]) -> Machine {
    let mut machine = Machine::protected(0);
    for (n, gpr) in machine.cpu.gprs.iter_mut().enumerate() {
        if n != 4 {
            *gpr = 0xffff_0000 + n as u64;
        }
    }
    machine.cpu.rflags = 0x4202;
    machine.cpu.gprs[4] = 0x8000;
    let busy = if reason == Reason::Iret { 2 } else { 0 };
    let access = if wide { 0x89 } else { 0x81 } | busy;
    let limit = if wide { 0x67 } else { 0x2b };
    machine.set(SELECTOR, descriptor(NEW as u32, limit, access, 0));
    // Rubbish around shows what is written.
    machine.model.ram.write(NEW, &[0x55; 0x100]);
    machine.model.ram.write(TSS, &[0x66; 0x100]);
    machine.model.ram.write(NEW, &tss(wide, flags, selectors));
    machine
}

fn run(machine: &mut Machine, reason: Reason) -> Result<Switched, Stop> {
    let request = Switch {
        selector: SELECTOR,
        reason,
        next_rip: 0x1007,
    };
    let before = machine.cpu;
    let result = switch(&mut machine.guest(), &request);
    if result.is_err() {
        assert_eq!(machine.cpu, before);
    }
    result
}

const DONE: Result<Switched, Stop> = Ok(Switched {
    exception: None,
    trap: false,
});

fn raises(exception: Exception) -> Result<Switched, Stop> {
    Ok(Switched {
        exception: Some(exception),
        trap: false,
    })
}

/// Type of a TSS descriptor.
fn kind(machine: &mut Machine, selector: u16) -> u8 {
    machine.bytes::<1>(GDT + u64::from(selector) + 5)[0]
}

#[test]
fn a_32_bit_task_gets_its_registers() {
    for reason in ALL {
        let mut machine = machine(reason, true, 0x4246, LEVEL_0);
        assert_eq!(run(&mut machine, reason), DONE);
        let cpu = machine.cpu;
        let pushed = if reason == FAULT { 4 } else { 0 };
        for n in 0..8u64 {
            let want = if n == 4 {
                0xa000 - pushed
            } else {
                0x8765_0000 + n
            };
            assert_eq!(cpu.gprs[n as usize], want);
        }
        assert_eq!(cpu.gprs[8], 0xffff_0008, "R8 is no business of tasks");
        assert_eq!((cpu.rip, cpu.code, cpu.cpl), (0x3000, CodeSize::Bits32, 0));
        assert_eq!(cpu.rflags, 0x4246);
        assert_ne!(cpu.paging.cr0 & 8, 0, "TS");
        let want = Segment {
            selector: SELECTOR,
            base: NEW,
            limit: 0x67,
            attributes: 0x8b,
            unusable: false,
        };
        assert_eq!(cpu.tr, want);
        assert_eq!((cpu.ldtr.selector, cpu.ldtr.base), (0x50, 0x5800));
        assert!(!cpu.ldtr.unusable);
        assert_eq!(cpu.segments.map(|s| s.selector), LEVEL_0[..6]);
        assert!(cpu.segment(Seg::Fs).unusable);
        assert_eq!(cpu.segment(Seg::Cs).attributes, 0xc09b);
        assert_eq!(cpu.segment(Seg::Gs).attributes, 0xc093);
        if reason == FAULT {
            assert_eq!(machine.u32(0xa000 - 4), 0x1234);
        }
    }
}

#[test]
fn the_old_task_is_saved() {
    for reason in ALL {
        let mut machine = machine(reason, true, 2, LEVEL_0);
        let old = machine.cpu;
        assert_eq!(run(&mut machine, reason), DONE);
        let mut want = [0x66; 0x100];
        want[0x20..0x24].copy_from_slice(&0x1007u32.to_le_bytes());
        let flags = if reason == Reason::Iret {
            0x0202u32
        } else {
            0x4202
        };
        want[0x24..0x28].copy_from_slice(&flags.to_le_bytes());
        for n in 0..8 {
            let at = 0x28 + 4 * n;
            want[at..at + 4].copy_from_slice(&old.gprs[n].to_le_bytes()[..4]);
        }
        for (n, segment) in old.segments.iter().enumerate() {
            let at = 0x48 + 4 * n;
            want[at..at + 2].copy_from_slice(&segment.selector.to_le_bytes());
        }
        assert_eq!(machine.bytes(TSS), want);
        // Links and busy flags.
        let nests = !matches!(reason, Reason::Jmp | Reason::Iret);
        let link = machine.u16(NEW);
        assert_eq!(link, if nests { OLD } else { 0 });
        let mut rest = tss(true, 2, LEVEL_0);
        rest[..2].copy_from_slice(&link.to_le_bytes());
        assert_eq!(machine.bytes::<104>(NEW)[..], rest, "nothing else of it");
        assert_eq!(kind(&mut machine, OLD), if nests { 0x8b } else { 0x89 });
        assert_eq!(kind(&mut machine, SELECTOR), 0x8b);
        let nt = machine.cpu.rflags & rflags::NT != 0;
        assert_eq!(nt, nests);
    }
}

#[test]
fn a_16_bit_task_has_less() {
    for reason in ALL {
        let selectors = [0x10, 0x28, 0x10, 0x10, 0, 0, 0x50];
        let mut machine = machine(reason, false, 0x0246, selectors);
        machine.model.ram.write(NEW + 0x0e, &[0x00, 0x03]);
        machine.cpu.tr.attributes = 0x83;
        machine.cpu.tr.limit = 0x29;
        machine.set(OLD, descriptor(TSS as u32, 0x29, 0x83, 0));
        let old = machine.cpu;
        assert_eq!(run(&mut machine, reason), DONE);
        let cpu = machine.cpu;
        assert_eq!((cpu.rip, cpu.code), (0x300, CodeSize::Bits16));
        assert_eq!(cpu.gprs[3], 3);
        assert!(cpu.segment(Seg::Fs).unusable && cpu.segment(Seg::Gs).unusable);
        assert_eq!((cpu.ldtr.selector, cpu.ldtr.base), (0x50, 0x5800));
        assert_eq!((cpu.tr.attributes, cpu.tr.limit), (0x83, 0x2b));
        if reason == FAULT {
            assert_eq!(cpu.gprs[4], 0x9ffe);
            assert_eq!(machine.u16(0x9ffe), 0x1234);
        }
        let mut want = [0x66; 0x40];
        let flags = if reason == Reason::Iret {
            0x0202
        } else {
            0x4202
        };
        let words = [0x1007, flags].into_iter();
        let words = words.chain(old.gprs[..8].iter().map(|gpr| *gpr as u16));
        let words = words.chain(old.segments[..4].iter().map(|s| s.selector));
        for (n, word) in words.enumerate() {
            want[0x0e + 2 * n..0x10 + 2 * n].copy_from_slice(&word.to_le_bytes());
        }
        assert_eq!(machine.bytes(TSS), want);
    }
}

#[test]
fn levels_and_virtual_8086_mode() {
    let mut machine = machine(Reason::Jmp, true, 0x202, LEVEL_3);
    assert_eq!(run(&mut machine, Reason::Jmp), DONE);
    assert_eq!((machine.cpu.cpl, machine.cpu.paging.user), (3, true));
    assert_eq!(machine.cpu.segment(Seg::Ss).attributes, 0xc0f3);

    // IRET to a task in virtual-8086 mode, with AC.
    let selectors = [1, 0x300, 3, 4, 5, 6, 0];
    let flags = 0x6_0202;
    machine = self::machine(Reason::Iret, true, flags, selectors);
    assert_eq!(run(&mut machine, Reason::Iret), DONE);
    let cpu = machine.cpu;
    assert_eq!((cpu.cpl, cpu.paging.user, cpu.paging.ac), (3, true, true));
    assert_eq!((cpu.code, cpu.rflags), (CodeSize::Bits16, 0x6_0202));
    for (segment, selector) in cpu.segments.into_iter().zip(selectors) {
        let want = Segment {
            selector,
            base: u64::from(selector) << 4,
            limit: 0xffff,
            attributes: 0xf3,
            unusable: false,
        };
        assert_eq!(segment, want);
    }
}

/// What is wrong with the new TSS, the old task gets.
#[test]
fn the_new_tss_is_checked() {
    type Change = fn(&mut Machine);
    let gp = |code| Err(Exception::gp(code).into());
    let ts = |code| Err(Exception::ts(code).into());
    let np = |code| Err(Exception::np(code).into());
    for reason in ALL {
        let ext = u32::from(reason == EVENT || reason == FAULT);
        let back = reason == Reason::Iret;
        let wrong = |code| if back { ts(code) } else { gp(code) };
        let rows: [(Change, Result<Switched, Stop>); 8] = [
            (|m| m.cpu.gdtr.limit = 0x76, wrong(0x70 | ext)),
            (
                |m| m.set(SELECTOR, descriptor(NEW as u32, 0x67, 0x82, 0)),
                wrong(0x70 | ext),
            ),
            (
                |m| m.set(SELECTOR, descriptor(NEW as u32, 0x67, 0x9b, 0)),
                wrong(0x70 | ext),
            ),
            (
                // The other of busy and available.
                |m| {
                    let old = m.u64(GDT + 0x70);
                    m.set(SELECTOR, old ^ 2 << 40);
                },
                wrong(0x70 | ext),
            ),
            (
                |m| {
                    let old = m.u64(GDT + 0x70);
                    m.set(SELECTOR, old & !(1 << 47));
                },
                np(0x70 | ext),
            ),
            (
                |m| {
                    let old = m.u64(GDT + 0x70);
                    m.set(SELECTOR, old - 1);
                },
                ts(0x70 | ext),
            ),
            (|m| m.cpu.tr.limit = 0x5e, ts(0x48 | ext)),
            (|m| m.cpu.tr.limit = 0x5f, DONE),
        ];
        for (n, (change, want)) in rows.into_iter().enumerate() {
            let mut machine = machine(reason, true, 2, LEVEL_0);
            change(&mut machine);
            let ram = machine.model.ram.clone();
            assert_eq!(run(&mut machine, reason), want, "{reason:?} row {n}");
            assert!(want == DONE || machine.model.ram == ram);
        }
    }
    for selector in [0, 3, 0x74] {
        let mut machine = machine(Reason::Jmp, true, 2, LEVEL_0);
        let request = Switch {
            selector,
            reason: Reason::Jmp,
            next_rip: 0,
        };
        let got = switch(&mut machine.guest(), &request);
        let code = u32::from(selector & !3);
        assert_eq!(got, Err(Exception::gp(code).into()));
    }
    // A TSS is never null, and never in an LDT.
    for (gpa, selector) in [(GDT, 0), (0x5808, 0x0c)] {
        let mut machine = machine(Reason::Jmp, true, 2, LEVEL_0);
        let entry = machine.u64(GDT + u64::from(SELECTOR));
        machine.model.ram.write_u64(gpa, entry);
        let request = Switch {
            selector,
            reason: Reason::Jmp,
            next_rip: 0,
        };
        let got = switch(&mut machine.guest(), &request);
        assert_eq!(got, gp(selector.into()));
    }
    let mut machine = Machine::ia32e(0, false);
    let refused = Err(Stop::Refused(Op::Unknown));
    assert_eq!(run(&mut machine, Reason::Jmp), refused);
}

/// What is wrong with its segments, the new task gets.
#[test]
fn the_new_segments_are_checked() {
    const NONE: u16 = 0x100;
    let [es, cs, ss, ds, fs, gs, ldt] = [0, 1, 2, 3, 4, 5, 6usize];
    for (level, register, selector, want) in [
        (0, ldt, NONE, Exception::ts(NONE.into())),
        (0, ldt, 0x08, Exception::ts(0x08)),
        (0, ldt, 0x54, Exception::ts(0x54)),
        (0, ldt, 0x78, Exception::ts(0x78)),
        (0, cs, 0, Exception::ts(0)),
        (0, cs, NONE, Exception::ts(NONE.into())),
        (0, cs, 0x10, Exception::ts(0x10)),
        (0, cs, 0x18, Exception::ts(0x18)),
        (3, cs, 0x0b, Exception::ts(0x08)),
        (0, cs, 0x40, Exception::np(0x40)),
        (0, ss, 0, Exception::ts(0)),
        (0, ss, NONE, Exception::ts(NONE.into())),
        (0, ss, 0x08, Exception::ts(0x08)),
        (0, ss, 0x20, Exception::ts(0x20)),
        (0, ss, 0x13, Exception::ts(0x10)),
        (0, ss, 0x80, Exception::ss(0x80)),
        (0, es, NONE, Exception::ts(NONE.into())),
        (0, ds, 0x50, Exception::ts(0x50)),
        (0, fs, 0x88, Exception::ts(0x88)),
        (3, gs, 0x13, Exception::ts(0x10)),
        (3, gs, 0x10, Exception::ts(0x10)),
        (0, gs, 0x13, Exception::ts(0x10)),
        (0, gs, 0x80, Exception::np(0x80)),
    ] {
        let mut selectors = if level == 0 { LEVEL_0 } else { LEVEL_3 };
        selectors[register] = selector;
        let mut machine = machine(FAULT, true, 2, selectors);
        // An LDT and data that are not present, code that cannot be read.
        machine.set(0x78, descriptor(0x5800, 15, 0x02, 0));
        machine.set(0x80, descriptor(0, 0xfffff, 0x13, FLAT));
        machine.set(0x88, descriptor(0, 0xfffff, 0x99, FLAT));
        let stop = Exception {
            error_code: want.error_code.map(|code| code | 1),
            ..want
        };
        assert_eq!(
            run(&mut machine, FAULT),
            raises(stop),
            "{register} {selector:x}"
        );
        // It is in the new task, and can be entered.
        let cpu = &machine.cpu;
        assert_eq!(cpu.tr.selector, SELECTOR);
        assert_eq!(machine.u16(NEW), OLD);
        assert_eq!(machine.cpu.gprs[4], 0xa000, "no error code is pushed");
        let cpu = &machine.cpu;
        let bad = match register {
            6 => cpu.ldtr,
            n => cpu.segments[n],
        };
        assert_eq!(bad.selector, selector);
        assert_eq!(bad.unusable, register != cs);
        assert_eq!(bad.base, 0);
        let (cs, ss) = (cpu.segment(Seg::Cs), cpu.segment(Seg::Ss));
        assert_eq!((cs.dpl(), ss.dpl()), (cpu.cpl, cpu.cpl));
        assert_eq!(cpu.cpl, (selectors[1] & 3) as u8);
    }
}

#[test]
fn conforming_code_and_data_of_other_levels() {
    // Conforming code of level 0 at level 3, also as data of any RPL.
    let mut machine = machine(
        Reason::Jmp,
        true,
        2,
        [0x33, 0x33, 0x23, 0x30, 0x20, 0x23, 0],
    );
    assert_eq!(run(&mut machine, Reason::Jmp), DONE);
    assert_eq!(machine.cpu.cpl, 3);
    // Level 0 may use data of level 3.
    machine = self::machine(Reason::Jmp, true, 2, [0x23, 0x08, 0x10, 0x20, 0, 0, 0]);
    assert_eq!(run(&mut machine, Reason::Jmp), DONE);
    // Not conforming code of a level below.
    machine = self::machine(Reason::Jmp, true, 2, [0, 0x59, 0x61, 0x10, 0, 0, 0]);
    let ts = Exception::ts(0x10);
    assert_eq!(run(&mut machine, Reason::Jmp), raises(ts));
}

#[test]
fn the_new_task_begins_in_its_segments() {
    let mut machine = machine(INT, true, 2, [0x10, 0x28, 0x10, 0x10, 0, 0, 0]);
    let gp = Exception::gp(0);
    assert_eq!(run(&mut machine, INT), raises(gp));
    // No room for the error code.
    machine = self::machine(FAULT, true, 2, LEVEL_0);
    machine.set(0x10, descriptor(0, 0x8, DATA, FLAT));
    let ss = Exception::ss(1);
    assert_eq!(run(&mut machine, FAULT), raises(ss));
    machine = self::machine(FAULT, true, 2, LEVEL_0);
    machine.model.ram.write(NEW + 0x64, &[1]);
    let got = run(&mut machine, FAULT).unwrap();
    assert!(got.trap);
}

/// Loading sets accessed flags, one for two registers with the same descriptor.
#[test]
fn accessed_flags_are_set() {
    let mut machine = machine(Reason::Call, true, 2, LEVEL_0);
    machine.set(0x08, descriptor(0, 0xfffff, CODE & !1, FLAT));
    machine.set(0x10, descriptor(0, 0xfffff, DATA & !1, FLAT));
    machine.set(0x20, descriptor(0, 0xfffff, 0xf2, FLAT));
    machine.model.ram.write(NEW + 0x58, &[0x20]);
    assert_eq!(run(&mut machine, Reason::Call), DONE);
    assert_eq!(kind(&mut machine, 0x08), CODE);
    assert_eq!(kind(&mut machine, 0x10), DATA);
    assert_eq!(kind(&mut machine, 0x20), 0xf3);
    assert_eq!(machine.cpu.segment(Seg::Ss).attributes, 0xc093);
}

/// Every byte that is written may be denied: then nothing has changed.
#[test]
fn a_denied_switch_changes_nothing() {
    for reason in ALL {
        let setup = || {
            let mut machine = machine(reason, true, 2, LEVEL_0);
            machine.set(0x08, descriptor(0, 0xfffff, CODE & !1, FLAT));
            machine.model.ram.write(GDT, &[0]);
            machine
        };
        let nests = !matches!(reason, Reason::Jmp | Reason::Iret);
        for (page, written) in [
            (TSS, Some(TSS + 0x20)),
            (NEW, nests.then_some(NEW)),
            (0x8000, None),
            (0x9000 - 0x1000, None),
            (0xa000 - 0x1000, (reason == FAULT || nests).then_some(0)),
            (GDT, Some(0)),
        ] {
            let mut machine = setup();
            let ram = machine.model.ram.clone();
            machine.model.protect(page, 0);
            let got = run(&mut machine, reason);
            match written {
                None => assert_eq!(got, DONE, "{reason:?} {page:x}"),
                Some(first) => {
                    let Err(Stop::Denied(d)) = got else {
                        panic!("{reason:?} {page:x}: {got:?}");
                    };
                    assert!(first == 0 || d.gpa.get() == first, "{d:x?}");
                    assert!(machine.model.ram == ram, "{reason:?} {page:x}");
                }
            }
        }
    }
}

/// A failure at the n-th write: the switch is tried again, and ends as if there had been
/// none.
#[test]
fn a_switch_that_fails_can_be_tried_again() {
    for reason in ALL {
        let setup = || {
            let mut machine = machine(reason, true, 2, LEVEL_0);
            machine.set(0x08, descriptor(0, 0xfffff, CODE & !1, FLAT));
            machine
        };
        let mut smooth = setup();
        assert_eq!(run(&mut smooth, reason), DONE);
        let writes = smooth.model.writes().len();
        for n in 0..writes {
            let mut machine = setup();
            // The last of these comes first: writes before it keep what is there.
            machine.model.meanwhile.push(Meanwhile::Fail);
            let zero = Meanwhile::Store(0x1_0000, 0);
            machine.model.meanwhile.resize_with(n + 1, || zero);
            assert_eq!(run(&mut machine, reason), Err(Stop::Host), "{reason:?} {n}");
            assert_eq!(run(&mut machine, reason), DONE, "{reason:?} {n}");
            machine.model.ram.write_u64(0x1_0000, 0);
            smooth.model.ram.write_u64(0x1_0000, 0);
            assert_eq!(machine.cpu, smooth.cpu);
            assert!(machine.model.ram == smooth.model.ram, "{reason:?} {n}");
        }
    }
}

/// A switch that changes every register and stops at its last step takes all back.
#[test]
fn a_switch_that_fails_restores_every_register() {
    let setup = || {
        // Virtual-8086 mode with AC, in an address space of its own.
        let mut machine = machine(Reason::Jmp, true, 0x6_0202, [1, 0x300, 3, 4, 5, 6, 0]);
        for directory in [0x1_0000, 0x1_1000] {
            let entry = (directory + 0x2000) | 1;
            machine.model.ram.write_u64(directory, entry);
            machine.model.ram.write_u64(directory + 0x2000, 0xe3);
        }
        machine.model.ram.write_u32(NEW + 0x1c, 0x1_1000);
        let cpu = &mut machine.cpu;
        cpu.paging.cr0 |= 1 << 31;
        cpu.paging.cr4 |= 1 << 4 | 1 << 5;
        cpu.paging.cr3 = 0x1_0000;
        cpu.paging.pdptes[0] = 0x1_2001;
        machine
    };
    let mut smooth = setup();
    let old = smooth.cpu;
    assert_eq!(run(&mut smooth, Reason::Jmp), DONE);
    let new = &smooth.cpu;
    for n in 0..8 {
        assert_ne!(new.gprs[n], old.gprs[n], "{n}");
    }
    for (new, old) in new.segments.iter().zip(&old.segments) {
        assert_ne!(new, old);
    }
    assert!(new.ldtr != old.ldtr && new.tr != old.tr);
    assert!(new.rip != old.rip && new.rflags != old.rflags);
    assert!(new.code != old.code && new.cpl != old.cpl);
    let (new, old) = (&new.paging, &old.paging);
    assert!(new.cr0 != old.cr0 && new.cr3 != old.cr3 && new.pdptes != old.pdptes);
    assert!(new.user != old.user && new.ac != old.ac);

    let last = smooth.model.writes().len() - 1;
    let mut machine = setup();
    machine.model.meanwhile.push(Meanwhile::Fail);
    let zero = Meanwhile::Store(0x2_0000, 0);
    machine.model.meanwhile.resize_with(last + 1, || zero);
    assert_eq!(run(&mut machine, Reason::Jmp), Err(Stop::Host));
}

/// There and back: CALL and IRET leave the old task as it was.
#[test]
fn there_and_back() {
    let mut machine = machine(Reason::Call, true, 2, LEVEL_3);
    machine.model.ram.write(TSS + 0x60, &0x50u32.to_le_bytes());
    let old = machine.cpu;
    assert_eq!(run(&mut machine, Reason::Call), DONE);
    let back = Switch {
        selector: machine.u16(NEW),
        reason: Reason::Iret,
        next_rip: 0x3001,
    };
    assert_eq!(switch(&mut machine.guest(), &back), DONE);
    let mut want = old;
    want.rip = 0x1007;
    want.paging.cr0 |= 8;
    assert_eq!(machine.cpu, want);
    assert_eq!(machine.u32(NEW + 0x20), 0x3001);
    assert_eq!(kind(&mut machine, SELECTOR), 0x89);
    assert_eq!(kind(&mut machine, OLD), 0x8b);
}

/// Two page directories that map the same memory, the new one without the old stack.
#[test]
fn the_new_task_has_its_own_address_space() {
    let (old, new) = (0x1_0000u64, 0x1_1000u64);
    let setup = |pae: bool| {
        let mut machine = machine(FAULT, true, 2, LEVEL_0);
        for directory in [old, new] {
            match pae {
                false => machine.model.ram.write_u32(directory, 0xe3),
                true => {
                    machine
                        .model
                        .ram
                        .write_u64(directory, (directory + 0x2000) | 1);
                    machine.model.ram.write_u64(directory + 0x2000, 0xe3);
                }
            }
        }
        let cpu: &mut Cpu = &mut machine.cpu;
        cpu.paging.cr0 |= 1 << 31;
        cpu.paging.cr4 |= 1 << 4 | u64::from(pae) << 5;
        cpu.paging.cr3 = old;
        cpu.paging.pdptes[0] = (old + 0x2000) | 1;
        machine.model.ram.write_u32(NEW + 0x1c, new as u32);
        machine
    };
    for pae in [false, true] {
        let mut machine = setup(pae);
        assert_eq!(run(&mut machine, FAULT), DONE);
        assert_eq!(machine.cpu.paging.cr3, new);
        if pae {
            let want = [(new + 0x2000) | 1, 0, 0, 0];
            assert_eq!(machine.cpu.paging.pdptes, want);
        }
        // The descriptors are not in the new one: that is the new task's fault.
        let mut machine = setup(pae);
        let page = new + if pae { 0x2000 } else { 0 };
        machine.model.ram.write_u32(page, 0);
        let fault = Exception::pf(Gva::new(0x5050), 0);
        assert_eq!(run(&mut machine, FAULT), raises(fault));
        assert_eq!(machine.u32(TSS + 0x20), 0x1007);
    }
    // The low bits of CR3 are no part of the address.
    let mut machine = setup(true);
    machine.model.ram.write_u32(NEW + 0x1c, new as u32 | 0x1f);
    assert_eq!(run(&mut machine, FAULT), DONE);
    assert_eq!(machine.cpu.paging.pdptes[0], (new + 0x2000) | 1);
    // Reserved bits are the old task's fault.
    for bit in [1, 2, 5, 8, 52, 63] {
        let mut machine = setup(true);
        machine.model.ram.write_u64(new + 24, 1 | 1 << bit);
        let ram = machine.model.ram.clone();
        assert_eq!(run(&mut machine, FAULT), Err(Exception::gp(0).into()));
        assert!(machine.model.ram == ram);
        machine.model.ram.write_u64(new + 24, 1 << bit);
        assert_eq!(run(&mut machine, FAULT), DONE);
    }
    // No memory.
    let mut machine = setup(true);
    machine.model.ram.write_u32(NEW + 0x1c, 0x8000_0000);
    let refused = Err(Stop::Refused(Op::Unknown));
    assert_eq!(run(&mut machine, FAULT), refused);
}

/// With descriptors in read-only memory, devices hear of flags when all is written.
#[test]
fn devices_hear_of_finished_switches() {
    let mut machine = machine(Reason::Jmp, true, 2, LEVEL_0);
    machine.set(8, descriptor(0, 0xfffff, CODE & !1, FLAT));
    machine.model.rom.insert(GDT >> 12);
    let switch = Switch {
        selector: SELECTOR,
        reason: Reason::Jmp,
        next_rip: 0x1003,
    };
    machine.model.meanwhile = std::vec![Meanwhile::Fail];
    let got = super::switch(&mut machine.guest(), &switch);
    assert_eq!(got, Err(Stop::Host));
    assert!(!machine.journal.has_posted());
    assert!(super::switch(&mut machine.guest(), &switch).is_ok());
    assert!(machine.journal.has_posted());
}
