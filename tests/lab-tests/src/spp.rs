// SPDX-License-Identifier: GPL-2.0

//! Sub-page write permissions: the calls, what is denied and what is told of
//! it, and memory that changes under protected pages.

mod border;
mod calls;
mod delivery;
mod frames;
mod memory;
mod modes;
mod sharing;
mod stores;

use crate::harness::Test;
use crate::machine::{Assembled, Machine, Stop};
use guest::asm::*;
use ioctl_api::subpage::{
    KVM_SPP_EXIT_GVA_VALID, KVM_SPP_EXIT_INSN_LEN_VALID, KVM_SPP_EXIT_SIZE_VALID,
};
use vmm::SppExit;

/// The flags of a plain store, which is decoded.
const ALL_VALID: u64 =
    KVM_SPP_EXIT_GVA_VALID | KVM_SPP_EXIT_SIZE_VALID | KVM_SPP_EXIT_INSN_LEN_VALID;

/// The tests of all parts.
pub(crate) const ALL: &[&[Test]] = &[
    calls::TESTS,
    stores::TESTS,
    border::TESTS,
    modes::TESTS,
    delivery::TESTS,
    frames::TESTS,
    frames::faults::TESTS,
    frames::virtual_8086::TESTS,
    memory::TESTS,
    sharing::TESTS,
];

/// A 64-bit guest that stores AL to where RBX points, and halts.
fn storer(lab: &crate::harness::Lab) -> Machine {
    Machine::spp(lab, one_store)
}

/// The program of [`storer`].
fn one_store(a: &mut CodeAssembler) -> Assembled {
    a.mov(byte_ptr(rbx), al)?;
    a.hlt()
}

/// Runs [`storer`]'s guest until it halts or is denied.
fn store(machine: &mut Machine, gpa: u64, value: u8) -> Option<SppExit> {
    machine.restart();
    machine.change_regs(|r| (r.rbx, r.rax) = (gpa, value.into()));
    match machine.run() {
        Stop::Hlt => None,
        Stop::Spp(exit) => Some(exit),
        other => panic!("store to {gpa:#x}: {other:x?}"),
    }
}

/// Asserts that exactly the stores that `map` allows happen in the page.
fn check_map(machine: &mut Machine, page: u64, map: u32) {
    for n in 0..guest::SUBPAGES {
        let gpa = page + n * guest::SUBPAGE_SIZE + 5;
        let old = machine.read(gpa, 1)[0];
        let exit = store(machine, gpa, old ^ 0x55);
        let allowed = (map >> n) & 1 != 0;
        assert_eq!(
            exit.is_none(),
            allowed,
            "sub-page {n} of {page:#x}, map {map:#x}"
        );
        let expected = if allowed { old ^ 0x55 } else { old };
        assert_eq!(
            machine.read(gpa, 1)[0],
            expected,
            "sub-page {n} of {page:#x}"
        );
        if let Some(exit) = exit {
            assert_eq!((exit.gpa, exit.map), (gpa, map));
        }
    }
}
