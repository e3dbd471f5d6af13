// SPDX-License-Identifier: GPL-2.0

//! A write that is denied twice, then allowed, then denied again and skipped.

use super::{rig, set_map, Emit, SetRegs, PROTECTED, RF};
use crate::emulate::bus::Access;
use crate::emulate::rig::{Rig, RAM};
use crate::harness::Lab;
use crate::machine::Stop;
use guest::PAGE_SIZE;
use ioctl_api::subpage::{
    FULL, KVM_SPP_CAUSE_EMULATED, KVM_SPP_EXIT_GVA_VALID, KVM_SPP_EXIT_INSN_LEN_VALID,
    KVM_SPP_EXIT_READ, KVM_SPP_EXIT_SIZE_VALID,
};
use vmm::SppExit;

/// A write to the protected page.
pub(super) struct Write {
    name: &'static str,
    pub(super) emit: Emit,
    pub(super) regs: SetRegs,
    /// Offset in the page of the first byte that is denied.
    at: u64,
    /// Bytes of the access.
    size: u32,
    /// It reads what it writes.
    reads: bool,
    /// A device or port has a part in it, so that it is emulated in any case.
    emulated: bool,
    /// What is asked when it is done, as `r4`, `w2` or `in1`.
    pub(super) asks: &'static str,
}

/// A store of `size` bytes that only writes, and asks nobody.
pub(super) const fn write(
    name: &'static str,
    emit: Emit,
    regs: SetRegs,
    at: u64,
    size: u32,
) -> Write {
    Write {
        name,
        emit,
        regs,
        at,
        size,
        reads: false,
        emulated: false,
        asks: "",
    }
}

impl Write {
    pub(super) const fn reads(mut self) -> Self {
        self.reads = true;
        self
    }

    pub(super) const fn asks(mut self, asks: &'static str) -> Self {
        self.emulated = true;
        self.asks = asks;
        self
    }

    /// Is denied twice, allowed, denied again and skipped.
    pub(super) fn check(&self, lab: &Lab) {
        let name = self.name;
        let mut rig = rig(lab, self.emit);
        let sub_page = 1 << (self.at / 128);
        set_map(&rig, !sub_page);
        rig.machine.change_regs(self.regs);
        let exit = self.expect(lab, &mut rig, sub_page);
        assert_eq!(self.expect(lab, &mut rig, sub_page), exit, "{name}: again");
        set_map(&rig, FULL);
        let before = rig.machine.read(RAM, PAGE_SIZE as usize);
        let log = rig.log_until_hlt();
        let asked: Vec<String> = log.iter().map(shape).collect();
        assert_eq!(asked.join(" "), self.asks, "{name}");
        let after = rig.machine.read(RAM, PAGE_SIZE as usize);
        assert!(before != after, "{name}: nothing is stored");
        set_map(&rig, !sub_page);
        rig.machine.restart();
        rig.machine.change_regs(self.regs);
        let exit = self.expect(lab, &mut rig, sub_page);
        rig.machine.cpu.skip(exit.insn_len.into()).expect("skip");
        assert_eq!(rig.log_until_hlt(), [], "{name}: skipped");
        assert!(rig.machine.read(RAM, PAGE_SIZE as usize) == after, "{name}");
    }

    /// Runs into the denial: nothing has changed, and nobody was asked.
    pub(super) fn expect(&self, lab: &Lab, rig: &mut Rig, sub_page: u32) -> SppExit {
        let name = self.name;
        let before = rig.state();
        let stop = rig.run();
        assert_eq!(rig.log(), [], "{name}: asked for what cannot be stored");
        let Stop::Spp(exit) = stop else {
            panic!("{name}: {stop:x?}");
        };
        let mut now = rig.state();
        assert_ne!(now.regs.rflags & RF, 0, "{name}: RF is set by a fault");
        now.regs.rflags = before.regs.rflags;
        assert_eq!(now.difference(&before), None, "{name}");
        let cause = match self.emulated {
            true => KVM_SPP_CAUSE_EMULATED,
            false => lab.cause(),
        };
        let mut expected = told(rig, self.at, self.size, self.reads);
        (expected.denied, expected.map, expected.cause) = (sub_page, !sub_page, cause);
        assert_eq!(exit, expected, "{name}");
        exit
    }
}

/// What an exit for the instruction at RIP tells, but map and cause.
pub(super) fn told(rig: &Rig, at: u64, size: u32, reads: bool) -> SppExit {
    let rip = rig.machine.regs().rip;
    let mut insn = [0; 16];
    insn[..15].copy_from_slice(&rig.machine.read(rip, 15));
    let len = rig.machine.program.len_at(rip).expect("length");
    let read = if reads { KVM_SPP_EXIT_READ } else { 0 };
    let valid = KVM_SPP_EXIT_GVA_VALID | KVM_SPP_EXIT_SIZE_VALID | KVM_SPP_EXIT_INSN_LEN_VALID;
    SppExit {
        flags: valid | read,
        gpa: RAM + at,
        gva: PROTECTED + at,
        rip,
        size,
        insn_len: len as u8,
        insn_bytes: 15,
        insn,
        ..SppExit::default()
    }
}

/// An access in short: `r4` and `w4` for devices, `in3` and `out1` for so many bytes
/// of a port.
pub(super) fn shape(access: &Access) -> String {
    match access {
        Access::Read(_, data) => format!("r{}", data.len()),
        Access::Write(_, data) => format!("w{}", data.len()),
        Access::In(_, data) => format!("in{}", data.len()),
        Access::Out(_, data) => format!("out{}", data.len()),
    }
}
