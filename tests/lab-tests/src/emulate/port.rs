// SPDX-License-Identifier: GPL-2.0

//! INS and OUTS.

use super::bus::{stream, Access, Port};
use super::rig::{Page, Rig, RAM, WINDOW};
use crate::harness::{tests, Lab};
use crate::machine::{Assembled, Stop};
use guest::asm::*;
use guest::{CODE, PAGE_SIZE, SCRATCH};
use libc::EINTR;

tests![
    outs_of_each_size,
    rep_outs_tells_each_element,
    ins_of_each_size,
    nothing_is_stored_before_the_answer,
    rep_ins_of_each_size,
    rep_ins_over_pages,
    rep_ins_of_512_bytes,
    backwards,
    counts_of_zero,
    address_sizes,
    segment_of_outs,
    immediate_exit_completes,
    between_ports_and_devices,
    less_is_wanted_meanwhile,
    none_is_wanted_meanwhile,
    more_is_wanted_meanwhile,
    destination_moved_meanwhile,
    rip_moved_meanwhile,
];

const PORT: u16 = 0x3f8;

type Emit = fn(&mut CodeAssembler) -> Assembled;

/// A guest with memory in its window, and the port in DX.
fn rig(lab: &Lab, emit: Emit) -> Rig {
    let rig = Rig::new(lab, emit);
    rig.map(&[Page::Ram(0), Page::Ram(1), Page::Ram(2), Page::Device(0)]);
    rig.machine.change_regs(|r| {
        (r.rdx, r.rsi, r.rdi) = (PORT.into(), WINDOW + 0x40, WINDOW + 0x40);
    });
    rig
}

/// What memory at an offset of the window holds at first.
fn source(offset: u64, len: usize) -> Vec<u8> {
    super::bus::contents(3)[offset as usize..offset as usize + len].to_vec()
}

fn out(size: u8, data: Vec<u8>) -> Access {
    let port = Port {
        port: PORT,
        size,
        count: 1,
    };
    Access::Out(port, data)
}

/// The bytes that ports give from the `from`th on.
fn input(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|n| stream(n as u32 + 1)).collect()
}

/// Asserts that the log is input of so many elements each.
fn assert_input(log: &[Access], size: u8, counts: &[u32]) {
    let mut done = 0;
    let expected: Vec<Access> = counts
        .iter()
        .map(|&count| {
            let port = Port {
                port: PORT,
                size,
                count,
            };
            let len = count as usize * usize::from(size);
            done += len;
            Access::In(port, input(done - len, len))
        })
        .collect();
    assert_eq!(log, expected);
}

fn outs_of_each_size(lab: &Lab) {
    let rows: [(u8, Emit); 3] = [(1, |a| a.outsb()), (2, |a| a.outsw()), (4, |a| a.outsd())];
    for (size, emit) in rows {
        let mut rig = rig(lab, emit);
        let stop = rig.machine.run();
        assert!(matches!(stop, Stop::Out(PORT, _)), "{stop:x?}");
        let regs = rig.machine.regs();
        let next = WINDOW + 0x40 + u64::from(size);
        assert_eq!((regs.rsi, regs.rdi), (next, WINDOW + 0x40));
        assert!(regs.rip > CODE, "it is done");
        assert!(rig.bus.serve(&mut rig.machine, &stop));
        let data = source(0x40, size.into());
        assert_eq!(rig.log_until_hlt(), [out(size, data)]);
    }
}

fn rep_outs_tells_each_element(lab: &Lab) {
    let rows: [(u8, Emit); 3] = [
        (1, |a| a.rep().outsb()),
        (2, |a| a.rep().outsw()),
        (4, |a| a.rep().outsd()),
    ];
    for (size, emit) in rows {
        let mut rig = rig(lab, emit);
        // The second element crosses a page boundary.
        let from = PAGE_SIZE - u64::from(size) - 1;
        rig.machine
            .change_regs(|r| (r.rsi, r.rcx) = (WINDOW + from, 5));
        for n in 0..5 {
            let stop = rig.machine.run();
            let at = from + n * u64::from(size);
            let data = source(at, size.into());
            assert_eq!(stop, Stop::Out(PORT, data.clone()), "element {n}");
            assert!(rig.bus.serve(&mut rig.machine, &stop));
            assert_eq!(rig.log(), [out(size, data)]);
            let regs = rig.machine.regs();
            let next = WINDOW + at + u64::from(size);
            assert_eq!((regs.rsi, regs.rcx), (next, 4 - n));
            assert!(regs.rip == CODE || n == 4, "element {n}");
        }
        rig.machine.expect_hlt();
    }
}

fn ins_of_each_size(lab: &Lab) {
    let rows: [(u8, Emit); 3] = [(1, |a| a.insb()), (2, |a| a.insw()), (4, |a| a.insd())];
    for (size, emit) in rows {
        for offset in [0x40, PAGE_SIZE - 1] {
            let mut rig = rig(lab, emit);
            rig.machine
                .change_regs(|r| (r.rdi, r.rcx) = (WINDOW + offset, 7));
            assert_input(&rig.log_until_hlt(), size, &[1]);
            let regs = rig.machine.regs();
            let next = WINDOW + offset + u64::from(size);
            assert_eq!((regs.rdi, regs.rcx), (next, 7));
            let mut expected = input(0, size.into());
            expected.extend(source(offset + u64::from(size), 4));
            let found = rig.machine.read(RAM + offset, expected.len());
            assert_eq!(found, expected);
        }
    }
}

fn nothing_is_stored_before_the_answer(lab: &Lab) {
    let mut rig = rig(lab, |a| a.rep().insw());
    rig.machine.change_regs(|r| r.rcx = 3);
    let before = rig.machine.regs();
    let stop = rig.machine.run();
    assert_eq!(stop, Stop::In(PORT, 6));
    assert_eq!(rig.machine.regs(), before);
    assert_eq!(rig.machine.read(RAM + 0x40, 8), source(0x40, 8));
    assert!(rig.bus.serve(&mut rig.machine, &stop));
    assert_eq!(rig.machine.regs(), before);
    rig.machine.expect_hlt();
    assert_eq!(rig.machine.read(RAM + 0x40, 6), input(0, 6));
    assert_eq!(rig.machine.read(RAM + 0x46, 2), source(0x46, 2));
    let regs = rig.machine.regs();
    assert_eq!((regs.rdi, regs.rcx), (before.rdi + 6, 0));
}

const REP_INS: [(u8, Emit); 3] = [
    (1, |a| a.rep().insb()),
    (2, |a| a.rep().insw()),
    (4, |a| a.rep().insd()),
];

fn rep_ins_of_each_size(lab: &Lab) {
    for (size, emit) in REP_INS {
        // As many bytes as are read at once, one element less, and more.
        let most = 1024 / u32::from(size);
        for count in [1, 2, most - 1, most, most + 1, 2 * most + 5] {
            let mut rig = rig(lab, emit);
            rig.machine
                .change_regs(|r| (r.rdi, r.rcx) = (WINDOW, count.into()));
            let mut counts = vec![most; (count / most) as usize];
            if count % most != 0 {
                counts.push(count % most);
            }
            assert_input(&rig.log_until_hlt(), size, &counts);
            let len = count as usize * usize::from(size);
            assert!(rig.machine.read(RAM, len) == input(0, len));
            let behind = rig.machine.read(RAM + len as u64, 8);
            assert_eq!(behind, source(len as u64, 8), "behind the last");
            let regs = rig.machine.regs();
            assert_eq!((regs.rdi, regs.rcx), (WINDOW + len as u64, 0));
        }
    }
}

/// Not more is read than up to the border of a page; of larger elements, KVM reads more.
fn rep_ins_over_pages(lab: &Lab) {
    for (size, emit) in REP_INS {
        for before in [4, 12, 100] {
            let mut rig = rig(lab, emit);
            let offset = PAGE_SIZE - before;
            rig.machine
                .change_regs(|r| (r.rdi, r.rcx) = (WINDOW + offset, 200));
            let in_page = before as u32 / u32::from(size);
            let first = if lab.is_ours() {
                in_page
            } else {
                before as u32
            };
            assert_input(&rig.log_until_hlt(), size, &[first, 200 - first]);
            let len = 200 * usize::from(size);
            assert_eq!(rig.machine.read(RAM + offset, len), input(0, len));
        }
    }
}

/// What a disk's sector is.
fn rep_ins_of_512_bytes(lab: &Lab) {
    let mut rig = rig(lab, |a| a.rep().insb());
    rig.machine
        .change_regs(|r| (r.rdi, r.rcx) = (WINDOW + 0x200, 512));
    assert_input(&rig.log_until_hlt(), 1, &[512]);
    assert_eq!(rig.machine.read(RAM + 0x200, 512), input(0, 512));
}

fn backwards(lab: &Lab) {
    for (size, emit) in REP_INS {
        let mut rig = rig(lab, emit);
        let step = u64::from(size);
        rig.machine.change_regs(|r| {
            (r.rdi, r.rcx) = (WINDOW + 0x48, 3);
            r.rflags |= 1 << 10;
        });
        let log = rig.log_until_hlt();
        assert_input(&log, size, &[3]);
        for n in 0..3 {
            let found = rig.machine.read(RAM + 0x48 - n * step, size.into());
            assert_eq!(found, input(n as usize * usize::from(size), size.into()));
        }
        assert_eq!(rig.machine.regs().rdi, WINDOW + 0x48 - 3 * step);
    }
    let mut rig = rig(lab, |a| a.rep().outsw());
    rig.machine.change_regs(|r| {
        (r.rsi, r.rcx) = (WINDOW + 0x48, 2);
        r.rflags |= 1 << 10;
    });
    let data = [0x48, 0x46].map(|at| out(2, source(at, 2)));
    assert_eq!(rig.log_until_hlt(), data);
}

fn counts_of_zero(lab: &Lab) {
    let rows: [Emit; 4] = [
        |a| a.rep().insb(),
        |a| a.rep().outsd(),
        |a| {
            a.mov(rcx, 0x1_0000_0000_u64)?;
            a.db(&[0x67])?;
            a.rep().insw()
        },
        |a| {
            // Nothing is looked at, not even where nothing can be.
            a.mov(rdi, 1_u64 << 60)?;
            a.rep().insd()
        },
    ];
    for emit in rows {
        let mut rig = rig(lab, emit);
        assert_eq!(rig.log_until_hlt(), []);
        assert_eq!(rig.machine.read(RAM, 0x80), source(0, 0x80));
    }
}

/// The address size decides about RCX, RSI and RDI.
fn address_sizes(lab: &Lab) {
    let mut rig = rig(lab, |a| {
        a.db(&[0x67])?;
        a.rep().insb()?;
        a.mov(ecx, 2)?;
        a.db(&[0x67])?;
        a.rep().outsb()
    });
    let high = 0x7_0000_0000;
    rig.machine.change_regs(|r| {
        (r.rdi, r.rsi) = (high + WINDOW, high + WINDOW + 0x40);
        r.rcx = high + 3;
    });
    let log = rig.log_until_hlt();
    assert_input(&log[..1], 1, &[3]);
    let bytes = [0x40, 0x41].map(|at| out(1, source(at, 1)));
    assert_eq!(log[1..], bytes);
    let regs = rig.machine.regs();
    let expected = (WINDOW + 3, WINDOW + 0x42, 0);
    assert_eq!((regs.rdi, regs.rsi, regs.rcx), expected);
}

/// OUTS has a segment of its choice, INS does not.
fn segment_of_outs(lab: &Lab) {
    let mut rig = rig(lab, |a| {
        a.db(&[0x64, 0x6e])?; // fs outsb
        a.db(&[0x64, 0x6c]) // insb
    });
    let mut sregs = rig.machine.sregs();
    sregs.fs.base = 0x20;
    rig.machine.set_sregs(&sregs);
    let log = rig.log_until_hlt();
    assert_eq!(log[..1], [out(1, source(0x60, 1))]);
    assert_eq!(rig.machine.read(RAM + 0x40, 1), input(0, 1));
    assert_eq!(rig.machine.read(RAM + 0x60, 1), source(0x60, 1));
}

fn immediate_exit_completes(lab: &Lab) {
    let mut rig = rig(lab, |a| {
        a.rep().insb()?;
        a.outsb()
    });
    rig.machine.change_regs(|r| r.rcx = 4);
    let stop = rig.machine.run();
    assert!(rig.bus.serve(&mut rig.machine, &stop));
    rig.machine.set_immediate_exit(true);
    for _ in 0..2 {
        assert_eq!(rig.machine.run(), Stop::Error(EINTR));
        assert_eq!(rig.machine.read(RAM + 0x40, 4), input(0, 4));
        assert_eq!(rig.machine.regs().rcx, 0);
    }
    rig.machine.set_immediate_exit(false);
    let stop = rig.machine.run();
    assert!(matches!(stop, Stop::Out(PORT, _)), "{stop:x?}");
    rig.machine.set_immediate_exit(true);
    assert_eq!(rig.machine.run(), Stop::Error(EINTR));
    rig.machine.set_immediate_exit(false);
    rig.machine.expect_hlt();
}

/// What a device gives goes to a port, and the other way.
fn between_ports_and_devices(lab: &Lab) {
    let mut rig = rig(lab, |a| {
        a.rep().outsw()?;
        a.insd()
    });
    let device = WINDOW + 3 * PAGE_SIZE;
    rig.machine
        .change_regs(|r| (r.rsi, r.rdi, r.rcx) = (device, device + 9, 2));
    let hole = crate::machine::HOLE;
    let data = source(0, 4);
    let one = Port {
        port: PORT,
        size: 4,
        count: 1,
    };
    let expected = [
        Access::Read(hole, data[..2].to_vec()),
        out(2, data[..2].to_vec()),
        Access::Read(hole + 2, data[2..].to_vec()),
        out(2, data[2..].to_vec()),
        Access::In(one, input(0, 4)),
        Access::Write(hole + 9, input(0, 4)),
    ];
    assert_eq!(rig.log_until_hlt(), expected);
}

/// A guest that has asked for 6 bytes, and got its answer. Then user space does things
/// to it that it should not.
fn answered(lab: &Lab, emit: Emit) -> Rig {
    lab.only_ours("KVM stores what it has asked for, wherever RDI and RCX are now");
    let mut rig = rig(lab, emit);
    rig.machine.change_regs(|r| r.rcx = 6);
    let stop = rig.machine.run();
    assert!(rig.bus.serve(&mut rig.machine, &stop));
    assert_input(&rig.log(), 1, &[6]);
    rig
}

fn less_is_wanted_meanwhile(lab: &Lab) {
    let mut rig = answered(lab, |a| a.rep().insb());
    rig.machine.change_regs(|r| r.rcx = 2);
    assert_eq!(rig.log_until_hlt(), []);
    assert_eq!(rig.machine.regs().rcx, 0);
    let mut expected = input(0, 2);
    expected.extend(source(0x42, 6));
    assert_eq!(rig.machine.read(RAM + 0x40, 8), expected);
}

fn none_is_wanted_meanwhile(lab: &Lab) {
    let mut rig = answered(lab, |a| a.rep().insb());
    rig.machine.change_regs(|r| r.rcx = 0);
    assert_eq!(rig.log_until_hlt(), []);
    assert_eq!(rig.machine.read(RAM + 0x40, 8), source(0x40, 8));
}

fn more_is_wanted_meanwhile(lab: &Lab) {
    let mut rig = answered(lab, |a| a.rep().insb());
    rig.machine.change_regs(|r| r.rcx = 9);
    let log = rig.log_until_hlt();
    let port = Port {
        port: PORT,
        size: 1,
        count: 3,
    };
    assert_eq!(log, [Access::In(port, input(6, 3))]);
    assert_eq!(rig.machine.read(RAM + 0x40, 9), input(0, 9));
}

fn destination_moved_meanwhile(lab: &Lab) {
    let mut rig = answered(lab, |a| a.rep().insb());
    rig.machine.change_regs(|r| r.rdi = WINDOW + 0xffd);
    assert_eq!(rig.log_until_hlt(), []);
    assert_eq!(rig.machine.read(RAM + 0x40, 8), source(0x40, 8));
    assert_eq!(rig.machine.read(RAM + 0xffd, 6), input(0, 6));
}

/// What was read for one instruction is not another one's.
fn rip_moved_meanwhile(lab: &Lab) {
    let mut rig = answered(lab, |a| {
        a.rep().insb()?;
        a.insb()
    });
    rig.machine.change_regs(|r| r.rip = CODE + 2);
    let log = rig.log_until_hlt();
    let port = Port {
        port: PORT,
        size: 1,
        count: 1,
    };
    assert_eq!(log, [Access::In(port, input(6, 1))]);
    assert_eq!(rig.machine.read(RAM + 0x40, 1), input(6, 1));
    assert_eq!(rig.machine.read(RAM + 0x41, 1), source(0x41, 1));
    assert_eq!(rig.machine.read(SCRATCH, 1), [0xf4]);
}
