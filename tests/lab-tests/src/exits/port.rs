// SPDX-License-Identifier: GPL-2.0

//! Port input and output.

use crate::harness::{tests, Lab};
use crate::machine::{Machine, Stop};
use guest::asm::*;
use guest::{Mode, CODE};

tests![
    out_of_each_size,
    input_of_each_size,
    input_in_each_mode,
    immediate_exit_completes,
    immediate_exit_before_the_first_instruction,
    moved_rip_cancels_input,
    many_ports,
];

fn out_of_each_size(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(eax, 0xa1b2_c3d4_u32)?;
        a.mov(edx, 0xfedc)?;
        a.out(0x10, al)?;
        a.out(0x11, ax)?;
        a.out(0x12, eax)?;
        a.out(dx, al)?;
        a.out(dx, ax)?;
        a.out(dx, eax)?;
        a.hlt()
    });
    let data = [0xd4, 0xc3, 0xb2, 0xa1];
    for (port, len) in [
        (0x10, 1),
        (0x11, 2),
        (0x12, 4),
        (0xfedc, 1),
        (0xfedc, 2),
        (0xfedc, 4),
    ] {
        assert_eq!(machine.run(), Stop::Out(port, data[..len].to_vec()));
    }
    machine.expect_hlt();
}

fn input_of_each_size(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(edx, 0xfedc)?;
        for (register, size) in [(rbx, 1), (rcx, 2), (rsi, 4)] {
            a.mov(rax, 0x1111_2222_3333_4444_u64)?;
            match size {
                1 => a.in_(al, dx)?,
                2 => a.in_(ax, dx)?,
                _ => a.in_(eax, dx)?,
            }
            a.mov(register, rax)?;
        }
        a.hlt()
    });
    for len in [1, 2, 4] {
        assert_eq!(machine.run(), Stop::In(0xfedc, len));
        machine.answer(0xa5b6_c7d8);
    }
    machine.expect_hlt();
    let regs = machine.regs();
    assert_eq!(regs.rbx, 0x1111_2222_3333_44d8);
    assert_eq!(regs.rcx, 0x1111_2222_3333_c7d8);
    assert_eq!(regs.rsi, 0xa5b6_c7d8, "32 bits clear the upper half");
}

fn input_in_each_mode(lab: &Lab) {
    for mode in Mode::ALL {
        let mut machine = Machine::new(lab, mode, |a| {
            a.in_(al, 0x60)?;
            a.hlt()
        });
        assert_eq!(machine.run(), Stop::In(0x60, 1), "{mode:?}");
        machine.answer(0x7e);
        machine.expect_hlt();
        assert_eq!(machine.regs().rax, 0x7e, "{mode:?}");
    }
}

fn immediate_exit_completes(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.in_(eax, 0x60)?;
        a.out(0x61, al)?;
        a.hlt()
    });
    assert_eq!(machine.run(), Stop::In(0x60, 4));
    machine.answer(0x1234);
    for _ in 0..2 {
        machine.finish_pending();
        let regs = machine.regs();
        assert_eq!((regs.rip, regs.rax), (CODE + 2, 0x1234));
    }
    assert_eq!(machine.run(), Stop::Out(0x61, vec![0x34]));
    machine.finish_pending();
    assert_eq!(machine.regs().rip, CODE + 4);
    machine.expect_hlt();
}

fn immediate_exit_before_the_first_instruction(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(eax, 5)?;
        a.hlt()
    });
    let regs = machine.regs();
    machine.cpu.fd_mut().set_kvm_immediate_exit(1);
    for _ in 0..3 {
        machine.cpu.fd_mut().get_kvm_run().exit_reason = 0x77;
        assert_eq!(machine.run(), Stop::Error(libc::EINTR));
        assert_eq!(machine.regs(), regs);
        let reason = machine.cpu.fd_mut().get_kvm_run().exit_reason;
        assert_eq!(reason, 0x77, "the exit reason stays");
    }
    machine.cpu.fd_mut().set_kvm_immediate_exit(0);
    machine.expect_hlt();
    assert_eq!(machine.regs().rax, 5);
}

/// User space that moves RIP has done the instruction itself.
fn moved_rip_cancels_input(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.in_(al, 0x60)?;
        a.nop()?;
        a.hlt()
    });
    assert_eq!(machine.run(), Stop::In(0x60, 1));
    machine.answer(0x55);
    machine.change_regs(|r| (r.rip, r.rax) = (CODE + 3, 0x99));
    machine.expect_hlt();
    assert_eq!((machine.regs().rax, machine.regs().rip), (0x99, CODE + 4));
}

fn many_ports(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        let mut again = a.create_label();
        a.xor(edx, edx)?;
        a.set_label(&mut again)?;
        a.mov(eax, edx)?;
        a.out(dx, ax)?;
        a.add(edx, 0x101)?;
        a.cmp(edx, 0xffff)?;
        a.jbe(again)?;
        a.hlt()
    });
    for port in (0..=0xffff_u16).step_by(0x101) {
        assert_eq!(machine.run(), Stop::Out(port, port.to_le_bytes().to_vec()));
    }
    machine.expect_hlt();
}
