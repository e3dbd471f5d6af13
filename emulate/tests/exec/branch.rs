// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::machine::RIP;

const SP: u64 = 0x8000;

#[track_caller]
fn go(machine: &mut Machine, bytes: &[u8]) -> Result<u64, Stop> {
    let insn = decoded(machine, bytes);
    let done = machine.run(&insn)?;
    assert_eq!(done, Done::Retired);
    Ok(core::mem::replace(&mut machine.cpu.rip, RIP))
}

#[test]
fn call() {
    let mut machine = machine();
    machine.model.ram.write_u64(DATA, 0x1122_3344_5566);
    assert_eq!(go(&mut machine, &[0xff, 0x13]), Ok(0x1122_3344_5566));
    assert_eq!(
        (machine.cpu.gprs[4], machine.u64(SP - 8)),
        (SP - 8, RIP + 2)
    );
    machine.cpu.gprs[1] = 0x4000;
    assert_eq!(go(&mut machine, &[0xff, 0xd1]), Ok(0x4000));
    assert_eq!(
        (machine.cpu.gprs[4], machine.u64(SP - 16)),
        (SP - 16, RIP + 2)
    );
    assert_eq!(go(&mut machine, &[0xe8, 0xfb, 0xff, 0xff, 0xff]), Ok(RIP));
    assert_eq!(go(&mut machine, &[0xe8, 0, 1, 0, 0]), Ok(RIP + 5 + 0x100));
    assert_eq!(
        (machine.cpu.gprs[4], machine.u64(SP - 32)),
        (SP - 32, RIP + 5)
    );
}

#[test]
fn jump() {
    let mut machine = machine();
    machine.model.ram.write_u64(DATA, 0x1122_3344_5566);
    assert_eq!(go(&mut machine, &[0xff, 0x23]), Ok(0x1122_3344_5566));
    assert_eq!(machine.cpu.gprs[4], SP);
    machine.model.ram.write_u64(DATA, 1 << 47);
    assert_eq!(go(&mut machine, &[0xff, 0x23]), Err(gp()));
}

#[test]
fn ret() {
    let mut machine = machine();
    machine.model.ram.write_u64(SP, 0x4321);
    assert_eq!(go(&mut machine, &[0xc3]), Ok(0x4321));
    assert_eq!(machine.cpu.gprs[4], SP + 8);
    machine.cpu.gprs[4] = SP;
    assert_eq!(go(&mut machine, &[0xc2, 0x04, 0x80]), Ok(0x4321));
    assert_eq!(machine.cpu.gprs[4], SP + 8 + 0x8004);
    machine.cpu.gprs[4] = SP;
    machine.model.ram.write_u64(SP, 1 << 63);
    assert_eq!(go(&mut machine, &[0xc3]), Err(gp()));
}

/// Of a call that cannot go, nothing is on the stack; the faults of the stack come first.
#[test]
fn targets() {
    let mut machine = machine();
    machine.model.ram.write_u64(DATA, 1 << 47);
    assert_eq!(go(&mut machine, &[0xff, 0x13]), Err(gp()));
    machine.model.protect(SP - 1, !(1 << 31));
    assert_eq!(denial(go(&mut machine, &[0xff, 0x13])).gpa.get(), SP - 8);
    machine.cpu.gprs[4] = 1 << 47 | 1;
    assert_eq!(go(&mut machine, &[0xff, 0x13]), Err(ss()));
    // Beyond the limit of CS.
    let mut machine = Machine::protected(0);
    machine.cpu.segments[1].limit = 0x2000;
    machine.cpu.gprs[1] = 0x2001;
    assert_eq!(go(&mut machine, &[0xff, 0xd1]), Err(gp()));
    machine.cpu.gprs[1] = 0x2000;
    assert_eq!(go(&mut machine, &[0xff, 0xd1]), Ok(0x2000));
    machine.model.ram.write_u32(SP, 0x2001);
    machine.cpu.gprs[4] = SP;
    assert_eq!(go(&mut machine, &[0xc3]), Err(gp()));
}

#[test]
fn sixteen_bits() {
    let mut machine = Machine::protected(0);
    machine.model.ram.write_u32(DATA, 0x1234_5678);
    machine.cpu.gprs[3] = DATA;
    machine.cpu.rip = 0x1_0000;
    // The operand size cuts RIP, and the return address.
    assert_eq!(go(&mut machine, &[0x66, 0xff, 0x13]), Ok(0x5678));
    assert_eq!((machine.cpu.gprs[4], machine.u16(SP - 2)), (SP - 2, 3));
    machine.cpu.rip = 0x1_0000;
    assert_eq!(go(&mut machine, &[0x66, 0xe8, 0xf0, 0xff]), Ok(0xfff4));
    let mut machine = Machine::real();
    machine.cpu.rip = 0xfffd;
    assert_eq!(go(&mut machine, &[0xe8, 0x10, 0]), Ok(0x10));
    assert_eq!(machine.u16(SP - 2), 0);
    // What comes next does not wrap: there, the limit of CS decides.
    machine.cpu.rip = 0xffff;
    assert_eq!(go(&mut machine, &[0x50]), Ok(0x1_0000));
    machine.cpu.segments[1].limit = u32::MAX;
    machine.cpu.rip = 0xfffe;
    let call = [0x66, 0xe8, 0x10, 0, 0, 0];
    assert_eq!(go(&mut machine, &call), Ok(0x1_0014));
    let sp = machine.cpu.gprs[4];
    assert_eq!(
        machine.u32(sp),
        0x1_0004,
        "with 32-bit operands none is cut"
    );
}
