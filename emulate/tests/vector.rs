// SPDX-License-Identifier: GPL-2.0

use std::format;
use std::vec::Vec;

use super::*;
use crate::insn::{Mem, Operand, Seg};
use crate::machine::{at, Machine};
use crate::stop::DeviceRead;

/// 32-bit code with SSE and AVX switched on, and a value in each register.
fn machine() -> Machine {
    let mut machine = Machine::protected(0);
    machine.cpu.paging.cr4 |= 1 << 9 | 1 << 18;
    machine.cpu.xcr0 = 0xe7;
    machine.fpu[512] = 0x46;
    for number in 0..16 {
        put(
            &mut machine,
            number,
            &core::array::from_fn(|n| value(number, n)),
        );
    }
    machine
}

fn value(number: usize, byte: usize) -> u8 {
    (number * 71 + byte * 5 + 1) as u8
}

/// Where the manual has the parts of ZMM `number`.
fn parts(number: usize) -> [(usize, usize, usize); 3] {
    [
        (0, 160 + 16 * number, 16),
        (16, 576 + 16 * number, 16),
        (32, 1152 + 32 * number, 32),
    ]
}

fn put(machine: &mut Machine, number: usize, zmm: &[u8; 64]) {
    for (from, to, len) in parts(number) {
        machine.fpu[to..to + len].copy_from_slice(&zmm[from..from + len]);
    }
}

fn get(machine: &Machine, number: usize) -> [u8; 64] {
    let mut zmm = [0; 64];
    for (to, from, len) in parts(number) {
        zmm[to..to + len].copy_from_slice(&machine.fpu[from..from + len]);
    }
    zmm
}

fn insn(op: Op, vex: bool, len: u8, size: u16) -> Insn {
    Insn {
        op,
        len: 5,
        size: 4,
        addr_size: 4,
        vector_len: len,
        mem_size: size,
        vex,
        mem: at(0x2000),
        ..Insn::default()
    }
}

/// The forms of stores, with the first byte of the register that each takes.
fn stores() -> Vec<(Insn, usize)> {
    let mut all = Vec::new();
    for vex in [false, true] {
        for (op, size, from) in [
            (Op::VectorStore, 16, 0),
            (Op::ScalarStore, 4, 0),
            (Op::ScalarStore, 8, 0),
            (Op::HighStore, 8, 8),
        ] {
            all.push((insn(op, vex, 16, size), from));
        }
    }
    all.push((insn(Op::VectorStore, true, 32, 32), 0));
    for (insn, _) in &mut all {
        insn.dst = Operand::Mem;
        insn.src = Operand::Vector(9);
    }
    all
}

#[test]
fn stores_copy_what_they_name() {
    for (insn, from) in stores() {
        let mut machine = machine();
        machine.model.ram.write(0x1ff0, &[0x55; 64]);
        let fpu = machine.fpu;
        assert_eq!(machine.run(&insn), Ok(Done::Retired));
        assert_eq!(machine.cpu.rip, 0x1005);
        assert!(machine.fpu == fpu);
        let size = usize::from(insn.mem_size);
        let mut want = [0x55; 64];
        for (n, byte) in want[16..16 + size].iter_mut().enumerate() {
            *byte = value(9, from + n);
        }
        assert_eq!(machine.bytes(0x1ff0), want, "{insn:?}");
    }
}

#[test]
fn stores_are_denied_as_a_whole() {
    for (mut insn, _) in stores() {
        for address in 0x2080 - 33..0x2080 + 2u64 {
            for (page, map) in [(0x2000, !1u32), (0x2000, !2)] {
                let mut machine = machine();
                machine.model.protect(page, map);
                insn.mem = at(address);
                let last = address + u64::from(insn.mem_size) - 1;
                let denied = (address..=last).find(|at| map >> (at / 128 % 32) & 1 == 0);
                match (machine.run(&insn), denied) {
                    (Ok(_), None) => (),
                    (Err(Stop::Denied(d)), Some(first)) => {
                        assert_eq!((d.gpa.get(), d.read), (first, false));
                        assert_eq!(d.size, insn.mem_size);
                    }
                    (got, want) => panic!("{address:x} {map:x}: {got:?}, not {want:x?}"),
                }
            }
        }
    }
}

/// The forms of loads, and what becomes of ZMM2 with memory in it; XMM11 is the other
/// source of VEX forms.
fn loads() -> Vec<(Insn, [u8; 64])> {
    let memory = |n: usize| 0xc0 + n as u8;
    let old = |n| value(2, n);
    let other = |n| value(11, n);
    let mut all = Vec::new();
    let mut form = |op, vex, len: u8, size: u16, byte: &dyn Fn(usize) -> u8| {
        let mut insn = insn(op, vex, len, size);
        insn.dst = Operand::Vector(2);
        let half = matches!(op, Op::LowLoad | Op::HighLoad);
        (insn.src, insn.third) = match (half, vex) {
            (true, true) => (Operand::Vector(11), Operand::Mem),
            _ => (Operand::Mem, Operand::None),
        };
        all.push((insn, core::array::from_fn(byte)));
    };
    let keep = |n: usize, low: u8| if n < 16 { low } else { old(n) };
    let clear = |n: usize, low: u8| if n < 16 { low } else { 0 };
    let first = |n: usize, size| if n < size { memory(n) } else { 0 };
    form(Op::VectorLoad, false, 16, 16, &|n| keep(n, memory(n)));
    form(Op::VectorLoad, true, 16, 16, &|n| clear(n, memory(n)));
    form(Op::VectorLoad, true, 32, 32, &|n| first(n, 32));
    for size in [4, 8] {
        let low = |n| first(n, size.into());
        form(Op::ScalarLoad, false, 16, size, &|n| keep(n, low(n)));
        form(Op::ScalarLoad, true, 16, size, &|n| clear(n, low(n)));
    }
    let low = |n, from: &dyn Fn(usize) -> u8| if n < 8 { memory(n) } else { from(n) };
    form(Op::LowLoad, false, 16, 8, &|n| keep(n, low(n, &old)));
    form(Op::LowLoad, true, 16, 8, &|n| clear(n, low(n, &other)));
    let high = |n: usize, from: &dyn Fn(usize) -> u8| match n {
        0..8 => from(n),
        _ => memory(n.wrapping_sub(8)),
    };
    form(Op::HighLoad, false, 16, 8, &|n| keep(n, high(n, &old)));
    form(Op::HighLoad, true, 16, 8, &|n| clear(n, high(n, &other)));
    all
}

/// All forms but the masked ones.
fn forms() -> Vec<Insn> {
    let stores = stores().into_iter().map(|(insn, _)| insn);
    stores
        .chain(loads().into_iter().map(|(insn, _)| insn))
        .collect()
}

#[test]
fn loads_keep_or_clear_what_is_above() {
    for (insn, want) in loads() {
        let mut machine = machine();
        let memory: [u8; 32] = core::array::from_fn(|n| 0xc0 + n as u8);
        machine.model.ram.write(0x2000, &memory);
        // Nobody writes to read what is denied.
        machine.model.protect(0x2000, 0);
        let ram = machine.model.ram.clone();
        let mut fpu = machine.fpu;
        assert_eq!(machine.run(&insn), Ok(Done::Retired));
        assert_eq!(get(&machine, 2), want, "{insn:?}");
        assert!(machine.model.ram == ram);
        for (from, to, len) in parts(2) {
            fpu[to..to + len].copy_from_slice(&want[from..from + len]);
        }
        assert!(machine.fpu == fpu, "something else changed: {insn:?}");
    }
}

#[test]
fn registers_out_of_use_are_zero() {
    let mut machine = machine();
    machine.fpu[512] = 0;
    let (store, _) = stores().pop().unwrap();
    assert_eq!(store.mem_size, 32);
    machine.model.ram.write(0x2000, &[0x55; 32]);
    assert_eq!(machine.run(&store), Ok(Done::Retired));
    assert_eq!(machine.bytes(0x2000), [0; 32]);

    let (load, _) = loads().remove(0);
    machine.model.ram.write(0x2000, &[0x66; 16]);
    assert_eq!(machine.run(&load), Ok(Done::Retired));
    assert_eq!(machine.fpu[512], 2);
    let mut store = store;
    store.src = Operand::Vector(2);
    assert_eq!(machine.run(&store), Ok(Done::Retired));
    let mut want = [0; 32];
    want[..16].fill(0x66);
    assert_eq!(machine.bytes(0x2000), want);
}

/// Aligned forms: #GP comes before anything that the page or its map says.
#[test]
fn alignment_comes_first() {
    for mut insn in forms() {
        if insn.mem_size < 16 {
            continue;
        }
        insn.aligned = true;
        for offset in 0..64 {
            for map in [0, u32::MAX] {
                let mut machine = machine();
                machine.model.protect(0x2000, map);
                insn.mem = at(0x2000 + offset);
                let aligned = offset % u64::from(insn.mem_size) == 0;
                let got = machine.run(&insn);
                match (aligned, map == 0 && insn.dst == Operand::Mem) {
                    (false, _) => assert_eq!(got, Err(Exception::gp(0).into())),
                    (true, true) => assert!(matches!(got, Err(Stop::Denied(_)))),
                    (true, false) => assert_eq!(got, Ok(Done::Retired)),
                }
            }
        }
    }
}

/// #GP also where the segment is SS, and an address beyond the limit is #SS before that.
#[test]
fn the_segment_comes_before_alignment() {
    let (mut insn, _) = stores().remove(0);
    insn.aligned = true;
    insn.mem = Mem {
        seg: Seg::Ss,
        ..at(0x2001)
    };
    let mut machine = machine();
    assert_eq!(machine.run(&insn), Err(Exception::gp(0).into()));
    let mut ss = *machine.cpu.segment(Seg::Ss);
    ss.limit = 0x200f;
    machine.cpu.set_segment(Seg::Ss, ss);
    assert_eq!(machine.run(&insn), Err(Exception::ss(0).into()));
    insn.mem.disp = 0x2000;
    assert_eq!(machine.run(&insn), Ok(Done::Retired));
}

#[test]
fn segments_may_not_allow_it() {
    // Data that is read-only, code that cannot be read.
    for (attributes, write, read) in [(0xc091, false, true), (0xc099, false, false)] {
        for insn in forms().into_iter().chain(masked()) {
            let mut machine = machine();
            let mut ds = *machine.cpu.segment(Seg::Ds);
            ds.attributes = attributes;
            machine.cpu.set_segment(Seg::Ds, ds);
            machine.cpu.gprs[7] = 0x2000;
            enable(&mut machine, &insn, 1);
            let allowed = if insn.dst == Operand::Mem {
                write
            } else {
                read
            };
            match allowed {
                true => assert_eq!(machine.run(&insn), Ok(Done::Retired)),
                false => assert_eq!(machine.run(&insn), Err(Exception::gp(0).into())),
            }
        }
    }
}

/// 8 bytes are enough for vectors; masked stores need not be aligned at all.
#[test]
fn user_code_may_want_alignment() {
    for insn in forms().into_iter().chain(masked()) {
        for offset in 0..16 {
            let mut machine = machine();
            machine.cpu.cpl = 3;
            machine.cpu.paging.cr0 |= 1 << 18;
            machine.cpu.rflags |= rflags::AC;
            let mut insn = insn;
            insn.mem = at(0x2000 + offset);
            let align = match insn.op {
                Op::Maskmovdqu | Op::VmaskmovStore => 1,
                _ => u64::from(insn.mem_size.min(8)),
            };
            let got = machine.run(&insn);
            match offset % align {
                0 => assert_eq!(got, Ok(Done::Retired)),
                _ => assert_eq!(got, Err(Exception::AC.into())),
            }
        }
    }
}

#[test]
fn the_system_switches_instructions_on() {
    type Change = fn(&mut Cpu);
    type End = Result<Done, Stop>;
    let ud = Err(Exception::UD.into());
    let nm = Err(Exception::NM.into());
    let ok = Ok(Done::Retired);
    let table: [(Change, End, End); 9] = [
        (|_| (), ok, ok),
        (|cpu| cpu.paging.cr0 |= 1 << 2, ud, ok),
        (|cpu| cpu.paging.cr0 |= 1 << 3, nm, nm),
        (|cpu| cpu.paging.cr0 |= 3 << 2, ud, nm),
        (|cpu| cpu.paging.cr4 &= !(1 << 9), ud, ok),
        (|cpu| cpu.paging.cr4 &= !(1 << 18), ok, ud),
        (|cpu| cpu.xcr0 = 3, ok, ud),
        (|cpu| cpu.xcr0 = 5, ok, ud),
        (|cpu| cpu.paging.cr0 &= !1, ok, ud),
    ];
    for (n, (change, legacy, vex)) in table.into_iter().enumerate() {
        for insn in forms() {
            let mut machine = machine();
            change(&mut machine.cpu);
            let want = if insn.vex { vex } else { legacy };
            assert_eq!(machine.run(&insn), want, "row {n}, {insn:?}");
        }
    }
    let mut machine = machine();
    machine.cpu.rflags |= rflags::VM;
    let (avx, _) = stores().pop().unwrap();
    assert_eq!(machine.run(&avx), ud);
}

#[test]
fn wider_registers_and_shorter_areas_are_refused() {
    let mut machine = machine();
    let (mut insn, _) = stores().pop().unwrap();
    let refused = Err(Stop::Refused(Op::VectorStore));
    insn.vector_len = 64;
    assert_eq!(machine.run(&insn), refused);
    insn.vector_len = 32;
    insn.src = Operand::Vector(16);
    assert_eq!(machine.run(&insn), refused);
    insn.src = Operand::Vector(1);
    let mut guest = machine.guest();
    let (short, _) = guest.fpu.split_at_mut(831);
    guest.fpu = short;
    assert_eq!(execute(&mut guest, &insn), refused);
    insn.vex = false;
    insn.mem_size = 16;
    assert_eq!(execute(&mut guest, &insn), Ok(Done::Retired));
}

fn maskmovdqu(vex: bool) -> Insn {
    Insn {
        dst: Operand::Mem,
        src: Operand::Vector(4),
        third: Operand::Vector(5),
        mem: Mem {
            base: Some(7),
            ..Mem::default()
        },
        ..insn(Op::Maskmovdqu, vex, 16, 16)
    }
}

fn vmaskmov(element: u8, len: u8) -> Insn {
    Insn {
        size: element,
        dst: Operand::Mem,
        src: Operand::Vector(5),
        third: Operand::Vector(4),
        mem: Mem {
            base: Some(7),
            ..Mem::default()
        },
        ..insn(Op::VmaskmovStore, true, len, len.into())
    }
}

fn masked() -> [Insn; 6] {
    [
        maskmovdqu(false),
        maskmovdqu(true),
        vmaskmov(4, 16),
        vmaskmov(4, 32),
        vmaskmov(8, 16),
        vmaskmov(8, 32),
    ]
}

/// Sets the sign bits of register 5 by `mask`, and says which bytes are written.
fn enable(machine: &mut Machine, insn: &Insn, mask: u32) -> Vec<usize> {
    let element = match insn.op {
        Op::Maskmovdqu => 1,
        _ => usize::from(insn.size),
    };
    let bit = |n: usize| u64::from(mask) >> (n / element) & 1 == 1;
    let sign = |n: usize| n % element == element - 1 && bit(n);
    // All bits but the signs say the opposite.
    put(
        machine,
        5,
        &core::array::from_fn(|n| match (sign(n), n % element == element - 1) {
            (true, _) => 0x80,
            (false, true) => 0x7f,
            (false, false) => 0xff,
        }),
    );
    (0..usize::from(insn.vector_len))
        .filter(|n| bit(*n))
        .collect()
}

/// All masks, at addresses around a sub-page boundary, with each side denied: exactly the
/// enabled bytes are written, or none.
#[test]
fn masked_stores_write_enabled_bytes_only() {
    for insn in masked() {
        let lanes = match insn.op {
            Op::Maskmovdqu => 16,
            _ => u32::from(insn.vector_len / insn.size),
        };
        for mask in (0..1u32 << lanes).step_by(if lanes == 16 { 37 } else { 1 }) {
            for address in [0x2080 - 32, 0x2080 - 17, 0x2080 - 5, 0x2080 - 8, 0x2080u64] {
                for map in [!1, !2, u32::MAX] {
                    masked_store(&insn, mask, address, map);
                }
            }
        }
    }
}

fn masked_store(insn: &Insn, mask: u32, address: u64, map: u32) {
    let what = format!("{insn:?} {mask:x} {address:x} {map:x}");
    let mut machine = machine();
    machine.cpu.gprs[7] = address;
    machine.model.ram.write(0x2000, &[0x55; 256]);
    machine.model.protect(0x2000, map);
    let bytes = enable(&mut machine, insn, mask);
    let denied = bytes.iter().map(|n| address + *n as u64);
    let denied = denied.clone().find(|at| map >> (at / 128 % 32) & 1 == 0);
    match (machine.run(insn), denied) {
        (Ok(_), None) => (),
        (Err(Stop::Denied(d)), Some(first)) => {
            assert_eq!(d.gpa.get(), first, "{what}");
            return;
        }
        (got, want) => panic!("{what}: {got:?}, not {want:x?}"),
    }
    let mut want = [0x55; 256];
    for n in bytes {
        want[address as usize - 0x2000 + n] = value(4, n);
    }
    assert_eq!(machine.bytes(0x2000), want, "{what}");
}

/// A lane that is off is not accessed by VMASKMOV: beyond the limit it does not fault.
/// MASKMOVDQU wants all of its bytes to be there.
#[test]
fn lanes_that_are_off_do_not_fault() {
    for insn in masked() {
        for mask in [0, 1, 2, 3, 8, 9] {
            let mut machine = machine();
            let mut ds = *machine.cpu.segment(Seg::Ds);
            // Only the first lane and 3 bytes are inside.
            let element = match insn.op {
                Op::Maskmovdqu => 1,
                _ => u32::from(insn.size),
            };
            ds.limit = 0x2000 + element - 1 + 3;
            machine.cpu.set_segment(Seg::Ds, ds);
            machine.cpu.gprs[7] = 0x2000;
            let bytes = enable(&mut machine, &insn, mask);
            let beyond = bytes.iter().any(|n| 0x2000 + *n as u32 > ds.limit);
            let fault = beyond || insn.op == Op::Maskmovdqu;
            let got = machine.run(&insn);
            match fault {
                true => assert_eq!(got, Err(Exception::gp(0).into()), "{insn:?} {mask}"),
                false => assert_eq!(got, Ok(Done::Retired), "{insn:?} {mask}"),
            }
        }
    }
}

/// MASKMOVDQU has 16 bytes, and the segment must have them.
#[test]
fn masked_bytes_end_with_the_segment() {
    for (limit, want) in [
        (0x200f, Ok(Done::Retired)),
        (0x200e, Err(Exception::gp(0).into())),
    ] {
        let mut machine = machine();
        let mut ds = *machine.cpu.segment(Seg::Ds);
        ds.limit = limit;
        machine.cpu.set_segment(Seg::Ds, ds);
        machine.cpu.gprs[7] = 0x2000;
        assert_eq!(machine.run(&maskmovdqu(false)), want);
    }
}

/// A page fault names the first byte that is written in its page.
#[test]
fn page_faults_are_where_something_is_written() {
    for (mask, address, want) in [
        (0xff, 0x1f_fff0, 0x20_0000),
        (0xf0, 0x1f_fff0, 0x20_0000),
        (0xe1, 0x1f_fff0, 0x20_0004),
        (0x81, 0x1f_fff0, 0x20_000c),
        (0x09, 0x1f_fff6, 0x20_0002),
        (0x05, 0x1f_fff6, 0x20_0000),
        (0x0a, 0x20_0100, 0x20_0104),
    ] {
        let mut machine = Machine::ia32e(3, true);
        machine.cpu.paging.cr4 |= 1 << 18;
        machine.cpu.xcr0 = 7;
        machine.fpu[512] = 6;
        machine.cpu.gprs[7] = address;
        let mut insn = vmaskmov(4, 32);
        insn.addr_size = 8;
        enable(&mut machine, &insn, mask);
        let fault = Exception::pf(Gva::new(want), 6);
        assert_eq!(machine.run(&insn), Err(fault.into()), "{mask:x}");
    }
}

/// A lane behind the highest address does not go on at address 0.
#[test]
fn lanes_do_not_wrap() {
    let insn = vmaskmov(4, 16);
    for (addr_size, base) in [(2, 0xfff4u64), (4, 0xffff_fff4)] {
        for mask in [4, 8] {
            let mut machine = machine();
            let mut ds = *machine.cpu.segment(Seg::Ds);
            ds.limit = 0xffff;
            machine.cpu.set_segment(Seg::Ds, ds);
            machine.cpu.gprs[7] = base;
            enable(&mut machine, &insn, mask);
            let inside = addr_size == 2 && mask == 4;
            let want = match inside {
                true => Ok(Done::Retired),
                false => Err(Exception::gp(0).into()),
            };
            let insn = Insn { addr_size, ..insn };
            assert_eq!(machine.run(&insn), want, "{addr_size} {mask}");
        }
    }
}

/// With all lanes off VMASKMOV does not even look; MASKMOVDQU does.
#[test]
fn nothing_is_accessed_with_all_lanes_off() {
    for insn in masked() {
        let mut machine = machine();
        machine.cpu.gprs[7] = 0x2ff8;
        machine.model.protect(0x2000, 0);
        enable(&mut machine, &insn, 0);
        assert_eq!(machine.run(&insn), Ok(Done::Retired));
        let looked = !machine.model.log.is_empty();
        assert_eq!(looked, insn.op == Op::Maskmovdqu);
        assert_eq!(machine.model.writes(), []);
    }
}

#[test]
fn devices_get_and_give_words() {
    let mut machine = machine();
    let (mut store, _) = stores().pop().unwrap();
    store.mem = at(0x1_eff4);
    assert_eq!(machine.run(&store), Ok(Done::Retired));
    for (gpa, from, len) in [(0x1_f000, 12, 8), (0x1_f008, 20, 8), (0x1_f010, 28, 4)] {
        let word = machine.journal.next_write().unwrap();
        assert_eq!((word.gpa, word.len), (gpa, len));
        for n in 0..usize::from(len) {
            assert_eq!(word.data[n], value(9, from + n));
        }
    }
    assert_eq!(machine.journal.next_write(), None);
    assert_eq!(machine.bytes(0x1_eff4), [value(9, 0), value(9, 1)]);

    let (mut load, _) = loads().remove(0);
    load.mem = at(0x2_0000);
    machine.cpu.rip = 0x1000;
    for n in 0..2u64 {
        let read = DeviceRead {
            gpa: ept::Gpa::new(0x2_0000 + 8 * n),
            len: 8,
        };
        assert_eq!(machine.run(&load), Err(Stop::DeviceRead(read)));
        assert!(machine.journal.supply(read, [n as u8 + 1; 8]));
    }
    assert_eq!(machine.run(&load), Ok(Done::Retired));
    let mut want = [1; 16];
    want[8..].fill(2);
    assert_eq!(get(&machine, 2)[..16], want);
}

/// Lanes next to each other are a word to a device; with a hole between them they are
/// not.
#[test]
fn devices_get_no_holes() {
    for insn in masked() {
        for (mask, bytes) in [(6, 2), (5, 0), (0, 0)] {
            let mut machine = machine();
            machine.cpu.gprs[7] = 0x2_0000;
            if insn.op == Op::VmaskmovStore && insn.vector_len == insn.size * 2 && mask > 3 {
                continue;
            }
            enable(&mut machine, &insn, mask);
            let refused = mask != 0 && (bytes == 0 || insn.op == Op::Maskmovdqu);
            let got = machine.run(&insn);
            match refused {
                true => assert_eq!(got, Err(Stop::Refused(insn.op))),
                false => assert_eq!(got, Ok(Done::Retired)),
            }
            assert_eq!(machine.journal.has_posted(), mask != 0 && !refused);
            if mask == 6 && !refused {
                let word = machine.journal.next_write().unwrap();
                assert_eq!(word.gpa, 0x2_0000 + u64::from(insn.size));
            }
        }
    }
}
