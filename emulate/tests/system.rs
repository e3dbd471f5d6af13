// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::cpu::rflags;
use crate::insn::{CodeSize, Mem};
use crate::machine::{at, Machine};
use crate::stop::DeviceRead;
use ept::Gpa;

const BASE: u64 = 0xfedc_ba98_7654_3210;

fn store(op: Op, size: u8) -> Insn {
    Insn {
        op,
        len: 3,
        size,
        addr_size: 4,
        dst: Operand::Mem,
        mem: at(0x2002),
        ..Insn::default()
    }
}

/// The machine with tables that nothing reads.
fn with_tables(mut machine: Machine) -> Machine {
    machine.cpu.gdtr = Table {
        base: BASE,
        limit: 0x1234,
    };
    machine.cpu.idtr = Table {
        base: !BASE,
        limit: 0x5678,
    };
    machine.model.ram.write(0x2000, &[0x55; 32]);
    machine
}

#[test]
fn tables_have_6_or_10_bytes() {
    for (op, limit, base) in [(Op::Sgdt, 0x1234u16, BASE), (Op::Sidt, 0x5678, !BASE)] {
        // The operand size does not matter outside 64-bit mode either.
        for (machine, size, len) in [
            (Machine::real(), 2, 6),
            (Machine::real(), 4, 6),
            (Machine::protected(0), 2, 6),
            (Machine::protected(0), 4, 6),
            (Machine::protected(3), 4, 6),
            (Machine::ia32e(0, false), 4, 6),
            (Machine::ia32e(3, true), 2, 10),
            (Machine::ia32e(0, true), 8, 10),
        ] {
            let mut machine = with_tables(machine);
            assert_eq!(machine.run(&store(op, size)), Ok(Done::Retired));
            let mut want = [0x55; 12];
            want[2..4].copy_from_slice(&limit.to_le_bytes());
            want[4..2 + len].copy_from_slice(&base.to_le_bytes()[..len - 2]);
            assert_eq!(machine.bytes(0x2000), want);
            assert_eq!(machine.u16(0x200c), 0x5555);
            assert_eq!(machine.cpu.rip, 0x1003);
        }
    }
}

#[test]
fn words_are_stored_whatever_the_operand_size() {
    for size in [2, 4, 8] {
        let mut machine = with_tables(Machine::ia32e(0, true));
        for (op, value) in [(Op::Sldt, 0x50), (Op::Str, 0x48), (Op::Smsw, 0x11)] {
            assert_eq!(machine.run(&store(op, size)), Ok(Done::Retired));
            assert_eq!(machine.u32(0x2002), 0x5555_0000 | value);
        }
        for (seg, value) in [(Seg::Cs, 0x08), (Seg::Gs, 0x77)] {
            let mut gs = *machine.cpu.segment(Seg::Gs);
            gs.selector = 0x77;
            machine.cpu.set_segment(Seg::Gs, gs);
            let mut mov = store(Op::MovFromSreg, size);
            mov.src = Operand::Sreg(seg);
            assert_eq!(machine.run(&mov), Ok(Done::Retired));
            assert_eq!(machine.u32(0x2002), 0x5555_0000 | value);
        }
    }
}

#[test]
fn registers_get_as_much_as_the_operand_has() {
    const OLD: u64 = 0x1111_2222_3333_4444;
    for (size, sldt, smsw) in [
        (2, OLD & !0xffff | 0x50, OLD & !0xffff | 0x11),
        (4, 0x50, 0x8000_0011),
        (8, 0x50, 0x8000_0011),
    ] {
        for (op, want) in [(Op::Sldt, sldt), (Op::Smsw, smsw)] {
            let mut machine = Machine::ia32e(0, true);
            machine.cpu.gprs[3] = OLD;
            let mut insn = store(op, size);
            insn.dst = Operand::Gpr(3);
            assert_eq!(machine.run(&insn), Ok(Done::Retired));
            assert_eq!(machine.cpu.gprs[3], want);
        }
    }
}

#[test]
fn there_are_modes_without_ldtr_and_tr() {
    let mut v86 = Machine::protected(3);
    v86.cpu.rflags |= rflags::VM;
    for (mut machine, word, table) in [
        (Machine::real(), Err(Exception::UD.into()), true),
        (v86, Err(Exception::UD.into()), true),
        (Machine::protected(3), Ok(Done::Retired), true),
    ] {
        for op in [Op::Sldt, Op::Str] {
            assert_eq!(machine.run(&store(op, 4)), word);
        }
        for op in [Op::Sgdt, Op::Sidt, Op::Smsw] {
            assert_eq!(machine.run(&store(op, 4)).is_ok(), table);
        }
    }
}

#[test]
fn user_mode_may_be_prevented() {
    let all = [Op::Sgdt, Op::Sidt, Op::Sldt, Op::Str, Op::Smsw];
    for (cpl, umip) in [(0, true), (1, true), (3, true), (3, false)] {
        let mut machine = Machine::protected(cpl);
        machine.cpu.paging.cr4 |= u64::from(umip) << 11;
        // #GP comes before the page and its map.
        machine.model.protect(0x2000, 0);
        for op in all {
            let got = machine.run(&store(op, 4));
            match cpl != 0 && umip {
                true => assert_eq!(got, Err(Exception::gp(0).into())),
                false => assert!(matches!(got, Err(Stop::Denied(_)))),
            }
        }
        let mut mov = store(Op::MovFromSreg, 4);
        mov.src = Operand::Sreg(Seg::Ds);
        assert!(matches!(machine.run(&mov), Err(Stop::Denied(_))));
    }
}

#[test]
fn segments_may_be_read_only() {
    let mut mov = store(Op::MovFromSreg, 4);
    mov.src = Operand::Sreg(Seg::Ds);
    let line = movdir64b();
    for insn in [store(Op::Sgdt, 4), store(Op::Smsw, 4), mov, line] {
        let mut machine = Machine::protected(0);
        machine.cpu.gprs[1] = 0x3000;
        for segment in &mut machine.cpu.segments {
            segment.attributes = 0xc091;
        }
        assert_eq!(machine.run(&insn), Err(Exception::gp(0).into()));
    }
    // What MOVDIR64B reads may be.
    let mut machine = Machine::protected(0);
    machine.cpu.gprs[1] = 0x3000;
    let mut ds = *machine.cpu.segment(Seg::Ds);
    ds.attributes = 0xc091;
    machine.cpu.set_segment(Seg::Ds, ds);
    assert_eq!(machine.run(&line), Ok(Done::Retired));
}

/// Six or ten bytes, all or none.
#[test]
fn tables_are_not_torn() {
    for address in 0x2080 - 11..0x2081u64 {
        let mut machine = with_tables(Machine::ia32e(0, true));
        machine.model.protect(0x2000, !2);
        let mut insn = store(Op::Sgdt, 8);
        insn.mem = at(address);
        match machine.run(&insn) {
            Ok(_) => assert!(address + 10 <= 0x2080),
            Err(Stop::Denied(d)) => {
                assert!(address + 10 > 0x2080);
                assert_eq!((d.gpa, d.size), (Gpa::new(address.max(0x2080)), 10));
            }
            Err(stop) => panic!("{stop:?}"),
        }
    }
}

/// The base is what has to be aligned, so the limit is at an odd word.
#[test]
fn the_base_is_aligned() {
    for (long, allowed) in [(false, [2, 6]), (true, [6, 6])] {
        for offset in 0..8u64 {
            let mut machine = Machine::ia32e(3, long);
            machine.cpu.paging.cr0 |= 1 << 18;
            machine.cpu.rflags |= rflags::AC;
            let mut insn = store(Op::Sidt, 4);
            insn.mem = at(0x2000 + offset);
            match allowed.contains(&offset) {
                true => assert_eq!(machine.run(&insn), Ok(Done::Retired)),
                false => assert_eq!(machine.run(&insn), Err(Exception::AC.into())),
            }
        }
    }
}

fn movdir64b() -> Insn {
    Insn {
        op: Op::Movdir64b,
        dst: Operand::Gpr(1),
        src: Operand::Mem,
        ..store(Op::Movdir64b, 4)
    }
}

#[test]
fn lines_go_to_es() {
    let mut machine = Machine::protected(0);
    let line: [u8; 64] = core::array::from_fn(|n| n as u8);
    machine.model.ram.write(0x2fe1, &line);
    let mut insn = movdir64b();
    insn.mem = Mem {
        seg: Seg::Fs,
        ..at(0x2fe1)
    };
    // The address size counts, and ES whatever the prefix says.
    machine.cpu.gprs[1] = 0xffff_ffff_0000_3f80;
    let mut es = *machine.cpu.segment(Seg::Es);
    es.base = 0x40;
    machine.cpu.set_segment(Seg::Es, es);
    assert_eq!(machine.run(&insn), Ok(Done::Retired));
    assert_eq!(machine.bytes(0x3fc0), line);
    es.limit = 0x3f7f + 63;
    machine.cpu.set_segment(Seg::Es, es);
    assert_eq!(machine.run(&insn), Err(Exception::gp(0).into()));
}

#[test]
fn lines_are_aligned() {
    for offset in 0..=64 {
        let mut machine = Machine::ia32e(0, true);
        machine.model.protect(0x3000, 0);
        machine.cpu.gprs[1] = 0x3000 + offset;
        match machine.run(&movdir64b()) {
            Err(Stop::Denied(d)) => assert_eq!((offset % 64, d.size), (0, 64)),
            got => {
                assert_eq!(got, Err(Exception::gp(0).into()));
                assert_ne!(offset % 64, 0);
            }
        }
    }
}

/// A device is read only after the destination was found writable.
#[test]
fn lines_of_devices_are_read_late() {
    let mut machine = Machine::protected(0);
    machine.cpu.code = CodeSize::Bits32;
    machine.cpu.gprs[1] = 0x3000;
    machine.model.protect(0x3000, !1);
    let mut insn = movdir64b();
    insn.mem = at(0x2_0000);
    assert!(matches!(machine.run(&insn), Err(Stop::Denied(_))));
    machine.model.maps.clear();
    for n in 0..8 {
        let read = DeviceRead {
            gpa: Gpa::new(0x2_0000 + 8 * n),
            len: 8,
        };
        assert_eq!(machine.run(&insn), Err(Stop::DeviceRead(read)));
        assert!(machine.journal.supply(read, [n as u8; 8]));
    }
    assert_eq!(machine.run(&insn), Ok(Done::Retired));
    let want: [u8; 64] = core::array::from_fn(|n| n as u8 / 8);
    assert_eq!(machine.bytes(0x3000), want);
}
