// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::cpu::rflags::{ARITHMETIC, DF};

const SRC: u64 = 0x3000;
const DST: u64 = 0x4000;
const VALUE: u64 = 0x8182_8384_8586_8788;

fn machine(df: bool) -> Machine {
    let mut machine = super::machine();
    machine.cpu.gprs[0] = 0x9192_9394_9596_9798;
    machine.cpu.gprs[1] = 5;
    machine.cpu.gprs[6] = SRC;
    machine.cpu.gprs[7] = DST;
    machine.model.ram.write_u64(SRC, VALUE);
    machine.cpu.rflags = 2 | if df { DF } else { 0 };
    machine
}

/// Without REP: one element, and RCX does not count.
#[test]
fn single_elements() {
    for n in 0..8 {
        let (size, df) = (SIZES[n % 4], n / 4 == 1);
        let step = |at: u64| {
            if df {
                at - u64::from(size)
            } else {
                at + u64::from(size)
            }
        };
        let rax = machine(df).cpu.gprs[0];
        // MOVS.
        let mut machine = machine(df);
        assert_eq!(run(&mut machine, &wide(size, &[0xa5], &[])), Ok(()));
        assert_eq!(machine.u64(DST), VALUE & mask(size));
        let [_, rcx, _, _, _, _, rsi, rdi, ..] = machine.cpu.gprs;
        assert_eq!((rcx, rsi, rdi), (5, step(SRC), step(DST)));
        // STOS.
        machine.cpu.gprs[7] = DST;
        assert_eq!(run(&mut machine, &wide(size, &[0xab], &[])), Ok(()));
        assert_eq!(machine.u64(DST), rax & mask(size));
        assert_eq!(machine.cpu.gprs[7], step(DST));
        // LODS.
        machine.cpu.gprs[6] = SRC;
        assert_eq!(run(&mut machine, &wide(size, &[0xad], &[])), Ok(()));
        let kept = if size == 4 { 0 } else { rax & !mask(size) };
        assert_eq!(machine.cpu.gprs[0], kept | VALUE & mask(size));
        assert_eq!(machine.cpu.gprs[6], step(SRC));
        // SCAS and CMPS: RAX and the source are on the left.
        machine.cpu.gprs[7] = DST;
        let a = machine.cpu.gprs[0] & mask(size);
        let b = machine.u64(DST) & mask(size);
        assert_eq!(run(&mut machine, &wide(size, &[0xaf], &[])), Ok(()));
        let (_, flags) = arithmetic::sub(a, b, false, size);
        assert_eq!(machine.cpu.rflags & ARITHMETIC, flags);
        machine.cpu.gprs[6] = SRC;
        machine.cpu.gprs[7] = DST;
        machine.model.ram.write(SRC, &[0]);
        let a = machine.u64(SRC) & mask(size);
        assert_eq!(run(&mut machine, &wide(size, &[0xa7], &[])), Ok(()));
        let (_, flags) = arithmetic::sub(a, b, false, size);
        assert_eq!(machine.cpu.rflags & ARITHMETIC, flags);
        let [.., rsi, rdi, _, _, _, _, _, _, _, _] = machine.cpu.gprs;
        assert_eq!((rsi, rdi), (step(SRC), step(DST)));
    }
}

#[test]
fn the_address_size_is_the_width_of_the_registers() {
    let mut machine = machine(false);
    machine.cpu.gprs[1] = 0x7_0000_0002;
    machine.cpu.gprs[6] |= 0x5_0000_0000;
    machine.cpu.gprs[7] |= 0x6_0000_0000;
    // 67 F3 A4
    assert_eq!(run(&mut machine, &[0x67, 0xf3, 0xa4]), Ok(()));
    let [_, rcx, _, _, _, _, rsi, rdi, ..] = machine.cpu.gprs;
    assert_eq!((rcx, rsi, rdi), (0, SRC + 2, DST + 2));
    assert_eq!(machine.u64(DST), VALUE & 0xffff);
    // No element: nothing is touched at all.
    machine.cpu.gprs[1] = 0x7_0000_0000;
    machine.cpu.gprs[6] = 0x8000_0000_0000;
    machine.cpu.gprs[7] = 0x9_0020_0000;
    let before = machine.cpu;
    assert_eq!(run(&mut machine, &[0x67, 0xf3, 0xa4]), Ok(()));
    assert_eq!(machine.cpu, before);
    assert_eq!(machine.model.log, []);
}

#[test]
fn registers_of_16_bits_wrap() {
    let mut machine = Machine::real();
    let at = |base| Segment {
        base,
        limit: 0xffff,
        attributes: 0x93,
        ..Segment::default()
    };
    machine.cpu.set_segment(Seg::Ds, at(0x1000));
    machine.cpu.set_segment(Seg::Es, at(0x2000));
    machine.cpu.set_segment(Seg::Fs, at(0x3000));
    machine.model.ram.write(0x1000, &[4, 5]);
    machine.model.ram.write(0x1000 + 0xfffe, &[1, 2]);
    machine.model.ram.write(0x3000 + 0xfffe, &[6, 7]);
    machine.cpu.gprs[1] = 0x7777_0004;
    machine.cpu.gprs[6] = 0x8888_fffe;
    machine.cpu.gprs[7] = 0x9999_8000;
    assert_eq!(run(&mut machine, &[0xf3, 0xa4]), Ok(()));
    assert_eq!(machine.bytes(0x2000 + 0x8000), [1, 2, 4, 5]);
    let [_, rcx, _, _, _, _, rsi, rdi, ..] = machine.cpu.gprs;
    assert_eq!((rcx, rsi, rdi), (0x7777_0000, 0x8888_0002, 0x9999_8004));
    // Only the source has an override.
    machine.cpu.gprs[6] = 0xfffe;
    machine.cpu.gprs[7] = 0x8000;
    machine.cpu.gprs[1] = 1;
    assert_eq!(run(&mut machine, &[0x64, 0xf3, 0xa4]), Ok(()));
    assert_eq!(machine.bytes(0x2000 + 0x8000), [6]);
    // A word at the end crosses the limit.
    machine.cpu.gprs[6] = 0xffff;
    assert_eq!(run(&mut machine, &[0xa5]), Err(gp()));
    machine.cpu.gprs[6] = 0;
    machine.cpu.gprs[7] = 0xffff;
    assert_eq!(run(&mut machine, &[0xa5]), Err(gp()));
}

/// The source first, then the destination; but no device is read before that.
#[test]
fn order() {
    use crate::stop::DeviceRead;
    const DEVICE: u64 = 0x2_0000;
    let read = DeviceRead {
        gpa: ept::Gpa::new(DEVICE),
        len: 4,
    };
    let mut machine = machine(false);
    machine.cpu.gprs[6] = 0x20_0000;
    machine.cpu.gprs[7] = 0x30_0000;
    assert_eq!(run(&mut machine, &[0xa5]), Err(page_fault(0x20_0000, 0)));
    machine.cpu.gprs[6] = DEVICE;
    assert_eq!(run(&mut machine, &[0xa5]), Err(page_fault(0x30_0000, 2)));
    machine.cpu.gprs[7] = DST;
    machine.model.protect(DST, !1);
    let got = denial(run(&mut machine, &[0xa5]));
    assert_eq!((got.gpa.get(), got.size, got.read), (DST, 4, false));
    machine.model.protect(DST, !0);
    assert_eq!(run(&mut machine, &[0xa5]), Err(Stop::DeviceRead(read)));
    assert!(machine.journal.supply(read, VALUE.to_le_bytes()));
    // The right is gone by now: the data is kept.
    machine.model.protect(DST, !1);
    denial(run(&mut machine, &[0xa5]));
    machine.model.protect(DST, !0);
    assert_eq!(run(&mut machine, &[0xa5]), Ok(()));
    assert_eq!(machine.u64(DST), VALUE & mask(4));
    // CMPS reads no device before both operands are known to be there.
    machine.cpu.gprs[6] = DEVICE;
    machine.cpu.gprs[7] = 0x30_0000;
    assert_eq!(run(&mut machine, &[0xa7]), Err(page_fault(0x30_0000, 0)));
    // From device to device.
    machine.cpu.gprs[6] = DEVICE;
    machine.cpu.gprs[7] = DEVICE + 8;
    assert_eq!(run(&mut machine, &[0xa5]), Err(Stop::DeviceRead(read)));
    assert!(machine.journal.supply(read, VALUE.to_le_bytes()));
    assert_eq!(run(&mut machine, &[0xa5]), Ok(()));
    let write = machine.journal.next_write().unwrap();
    assert_eq!((write.gpa, write.len), (DEVICE + 8, 4));
    assert_eq!(write.data, (VALUE & mask(4)).to_le_bytes());
}

/// In the middle of a page, where the segment does not begin at one, and with a limit that
/// does not stop it.
#[test]
fn registers_of_16_bits_wrap_in_a_large_segment() {
    let mut machine = Machine::protected(0);
    let es = *machine.cpu.segment(Seg::Es);
    machine
        .cpu
        .set_segment(Seg::Es, Segment { base: 0x1800, ..es });
    machine.cpu.gprs[0] = 0xaa;
    machine.cpu.gprs[1] = 32;
    machine.cpu.gprs[7] = 0xfff0;
    assert_eq!(run(&mut machine, &[0x67, 0xf3, 0xaa]), Ok(()));
    let mut half = [0; 17];
    half[..16].fill(0xaa);
    assert_eq!(machine.bytes(0x1_17f0), half);
    assert_eq!(machine.bytes(0x1800), half);
    assert_eq!(machine.cpu.gprs[7], 0x10);
}
