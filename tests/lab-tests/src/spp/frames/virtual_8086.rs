// SPDX-License-Identifier: GPL-2.0

//! Events of virtual-8086 code: their frames have the segment registers too, unless INT n
//! stays in that mode.

use super::compare::{compare, event, vectors};
use super::{
    all_vectors, everything, load_tss, open_gates, queue, LOW_STACK, MAP, STACK_PAGE, TRUSTED, TSS,
    VECTOR,
};
use crate::harness::{tests, Lab};
use crate::machine::{Machine, Stop};
use guest::{Mode, CODE, PAGE_SIZE};

tests![from_virtual_8086_mode, redirected_in_virtual_8086_mode];

/// Makes the guest virtual-8086 code; selectors are 0 but for those of data.
fn enter_virtual_8086(machine: &Machine) {
    let mut sregs = machine.sregs();
    let segments = [
        &mut sregs.cs,
        &mut sregs.ss,
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
    ];
    for (n, segment) in segments.into_iter().enumerate() {
        let selector = [0, 0, 0x111, 0x222, 0x333, 0x444][n];
        segment.selector = selector;
        segment.base = u64::from(selector) << 4;
        segment.limit = 0xffff;
        (segment.type_, segment.s, segment.dpl, segment.present) = (3, 1, 3, 1);
        (segment.db, segment.l, segment.g, segment.avl) = (0, 0, 0, 0);
    }
    machine.set_sregs(&sregs);
}

fn from_virtual_8086_mode(lab: &Lab) {
    let seen = compare(
        lab,
        Mode::Protected,
        &[(STACK_PAGE, MAP)],
        |a| everything(a, Mode::Protected, true),
        |machine| {
            load_tss(machine);
            open_gates(machine);
            machine.change_regs(|r| (r.rsp, r.rflags) = (0x5f00, TRUSTED | 1 << 17));
            enter_virtual_8086(machine);
            queue(machine, VECTOR);
        },
    );
    let mut expected = all_vectors(Mode::Protected, true);
    expected.push(13);
    assert_eq!(vectors(&seen), expected);
    for seen in &seen {
        let virtual_8086 = seen.regs.rflags & 1 << 17 != 0;
        assert_eq!(virtual_8086, seen.stop == Stop::Out(0x40, vec![0]));
        let selectors = [seen.sregs.ds, seen.sregs.es, seen.sregs.fs, seen.sregs.gs];
        let selectors = selectors.map(|segment| segment.selector);
        let expected = match virtual_8086 {
            true => [0x111, 0x222, 0x333, 0x444],
            false => [0; 4],
        };
        assert_eq!(selectors, expected);
    }
}

/// INT n that goes to a handler of virtual-8086 mode itself, with a virtual IF or not.
fn redirected_in_virtual_8086_mode(lab: &Lab) {
    const VIF: u64 = 1 << 19;
    for flags in [TRUSTED | 1 << 9, 1 << 12 | VIF | 2, 2] {
        let seen = compare(
            lab,
            Mode::Protected,
            &[(LOW_STACK, MAP)],
            |a| {
                a.int(0x22)?;
                a.hlt()?; // not for this code: #GP
                          // The handler: RETF takes IP and CS, and leaves FLAGS.
                a.nop()?;
                a.retf()
            },
            |machine| {
                load_tss(machine);
                // The map for redirection lies before the one for I/O.
                machine.write(TSS + 0x66, &[0x88, 0]);
                machine.write(TSS + 0x88, &[0xff]);
                machine.write(4 * 0x22, &[CODE as u8 + 3, (CODE >> 8) as u8, 0, 0]);
                enter_virtual_8086(machine);
                let mut sregs = machine.sregs();
                sregs.cr4 |= 1;
                machine.set_sregs(&sregs);
                let top = LOW_STACK + 0xf00;
                machine.change_regs(|r| (r.rsp, r.rflags) = (top, flags | 1 << 17));
            },
        );
        assert_eq!(vectors(&seen), [13]);
        let event = event(&seen[0].stop);
        assert_eq!(event.rip, CODE + 2);
        // Pushed: IOPL 3, and IF as the program sees it; left: VIF or IF is clear.
        let seen = &seen[0];
        let at = 4 * PAGE_SIZE as usize + 0xf00 - 2;
        let pushed = u16::from_le_bytes([seen.memory[at], seen.memory[at + 1]]);
        let interrupts = flags & (VIF | 1 << 9) != 0;
        assert_eq!(pushed, 0x3002 | u16::from(interrupts) << 9);
        assert_eq!(event.rflags & (VIF | 1 << 9), 0);
    }
}
