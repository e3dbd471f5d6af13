// SPDX-License-Identifier: GPL-2.0

//! Programs that are not the same in KVM, on purpose.

use super::Case;
use crate::emulate::rig::{Rig, WINDOW};
use guest::asm::*;
use guest::PAGE_SIZE;

const TF: u64 = 1 << 8;

fn as_it_is(_: &Rig) {}

/// The page that RDI points to is missing, and nobody will know it.
fn missing(rig: &Rig) {
    rig.set_entry(1, rig.entry(1) & !1);
}

fn single_step(rig: &Rig) {
    rig.machine.change_regs(|r| r.rflags |= TF);
}

/// Programs and what makes them different.
pub(super) const ALL: &[(Case, &str)] = &[
    (
        Case::long("copy to a missing page", missing, |a| a.movsd()),
        "KVM asks the device before it looks at the destination",
    ),
    (
        Case::long("input to a missing page", missing, |a| a.insd()),
        "KVM reads the port before it looks at the destination, and loses the data",
    ),
    (
        Case::long("words up to the end of a page", as_it_is, |a| {
            a.mov(rdi, WINDOW + 2 * PAGE_SIZE - 8)?;
            a.mov(ecx, 20)?;
            a.rep().insw()
        }),
        "KVM takes the bytes left in the page for a number of elements",
    ),
    (
        Case::long("single step over a store", single_step, |a| {
            a.mov(dword_ptr(rbx), eax)?;
            a.nop()
        }),
        "KVM forgets the step when user space is told of a write",
    ),
    (
        Case::long("repeated input to a device", as_it_is, |a| {
            a.mov(rdi, rbx)?;
            a.mov(ecx, 6)?;
            a.rep().insb()
        }),
        "KVM writes what it has read at once, not element by element",
    ),
    (
        Case::long("16 bytes exchanged", as_it_is, |a| {
            a.cmpxchg16b(xmmword_ptr(rbx))
        }),
        "KVM cannot",
    ),
];
