// SPDX-License-Identifier: GPL-2.0

//! Guests that keep the processor busy without executing an instruction. They
//! must not keep the host's interrupts out: a signal still stops them.

use crate::harness::{tests, Lab};
use crate::machine::{Machine, Stop};
use guest::asm::*;
use guest::SCRATCH;
use kvm_bindings::{kvm_debugregs, kvm_segment};
use std::time::Duration;

tests![breakpoint_on_its_own_frame];

const TSS: u64 = SCRATCH + 0x800;
/// The stack of the #DB handler, by the first entry of the IST.
const TOP: u64 = SCRATCH + 0x600;
/// Gate of #DB in the IDT of `Machine`, the byte with the IST index.
const GATE_IST: u64 = 0x2000 + 16 + 4;

extern "C" fn ignore(_: libc::c_int) {}

/// Sends this thread a signal each 100 ms for as long as it lives.
fn signal_often() -> std::sync::mpsc::Sender<()> {
    // SAFETY: all-zero is a valid `sigaction`, the handler does nothing, and the
    // pointers are valid or null.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = ignore as extern "C" fn(libc::c_int) as libc::sighandler_t;
        libc::sigaction(libc::SIGUSR2, &action, std::ptr::null_mut());
    }
    // SAFETY: no preconditions.
    let thread = unsafe { libc::pthread_self() };
    let (alive, gone) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        use std::sync::mpsc::RecvTimeoutError::Timeout;
        while gone.recv_timeout(Duration::from_millis(100)) == Err(Timeout) {
            // SAFETY: the thread holds `alive`, so it still exists.
            unsafe { libc::pthread_kill(thread, libc::SIGUSR2) };
        }
    });
    alive
}

/// A data breakpoint on the frame of #DB: its delivery raises the next one
/// (CVE-2015-8104). Breakpoint traps come before external interrupts.
fn breakpoint_on_its_own_frame(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(qword_ptr(TOP - 8), rax)?;
        a.nop()?;
        a.hlt()
    });
    machine.set_qword(TSS + 0x24, TOP);
    machine.write(GATE_IST, &[1]);
    let mut sregs = machine.sregs();
    sregs.tr = kvm_segment {
        base: TSS,
        limit: 0x67,
        selector: 0x40,
        type_: 11,
        present: 1,
        ..Default::default()
    };
    machine.set_sregs(&sregs);
    let regs = kvm_debugregs {
        db: [TOP - 8, 0, 0, 0],
        dr6: 0xffff_0ff0,
        // DR0: 8 bytes, on writes.
        dr7: 0x400 | 2 | (0b1001 << 16),
        ..Default::default()
    };
    machine
        .cpu
        .fd()
        .set_debug_regs(&regs)
        .expect("debug registers");
    let _alive = signal_often();
    assert_eq!(machine.run(), Stop::Error(libc::EINTR));
}
