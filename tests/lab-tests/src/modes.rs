// SPDX-License-Identifier: GPL-2.0

//! Guests in every processor mode, and guests that change it.

use crate::harness::{tests, Lab};
use crate::machine::{Machine, Stop};
use guest::asm::*;
use guest::{Mode, SCRATCH};

tests![each_mode_computes, each_mode_takes_exceptions];

fn each_mode_computes(lab: &Lab) {
    for mode in Mode::ALL {
        // In real mode the segment reaches no further than 64 KiB.
        let at = if mode == Mode::Real { 0x5000 } else { SCRATCH };
        let mut machine = Machine::new(lab, mode, |a| {
            a.mov(eax, 0x1234_5678)?;
            a.mov(ecx, 10)?;
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            a.add(eax, ecx)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            match mode {
                Mode::Real => a.mov(dword_ptr(at as u32), eax)?,
                _ => a.mov(dword_ptr(at), eax)?,
            }
            a.mov(ebx, dword_ptr(at))?;
            a.push(ax)?;
            a.pop(dx)?;
            a.hlt()
        });
        assert_eq!(machine.run(), Stop::Hlt, "{mode:?}");
        let regs = machine.regs();
        assert_eq!(regs.rax, 0x1234_5678 + 55, "{mode:?}");
        assert_eq!(regs.rbx, regs.rax, "{mode:?}");
        assert_eq!(regs.rdx, regs.rax & 0xffff, "{mode:?}");
        assert_eq!(machine.qword(at), regs.rax, "{mode:?}");
        let end = machine.program.address + machine.program.code.len() as u64;
        assert_eq!(regs.rip, end, "{mode:?}");
    }
}

fn each_mode_takes_exceptions(lab: &Lab) {
    for mode in Mode::ALL {
        let mut machine = Machine::new(lab, mode, |a| {
            a.xor(ecx, ecx)?;
            a.xor(edx, edx)?;
            a.div(ecx)?;
            a.ud2()?;
            a.hlt()
        });
        for vector in [0, 6] {
            let event = machine.expect_event(vector);
            let len = machine.program.len_at(event.rip).expect("an instruction");
            let low = (event.rip + len).to_le_bytes();
            machine.write(event.frame, &low[..2]);
        }
        machine.expect_hlt();
    }
}
