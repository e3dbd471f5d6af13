// SPDX-License-Identifier: GPL-2.0

//! All that can be seen of a guest's run, for comparison with another.

use super::bus::{Access, DEVICE_PAGES};
use super::rig::{first_difference, Rig, P, PAGES, RAM, W, WINDOW};
use crate::machine::Stop;
use guest::{Mode, GDT, PAGE_SIZE, SCRATCH};
use ioctl_api::subpage::KVM_SPP_EXIT_INSN_LEN_VALID;
use kvm_bindings::kvm_regs;
use vmm::SppExit;

/// Bytes of memory, and where they begin.
type Part = (u64, Vec<u8>);

/// All that can be seen of a run.
pub(crate) struct Trace {
    /// Each exit, with the general registers that user space saw then, but RIP: KVM
    /// looks at a repeated instruction once more when all its elements are done.
    pub(crate) exits: Vec<(Exit, [u64; 16])>,
    pub(crate) regs: kvm_regs,
    cr2: u64,
    vectors: Vec<u32>,
    memory: Vec<Part>,
    registers: Vec<u8>,
}

/// An exit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Access(Access),
    Stop(Stop),
}

/// Most exits of a program.
const MOST_EXITS: usize = 20_000;
/// Memory that traces hold, besides the window's: pages of descriptors, stacks, the
/// window's table, and scratch.
const LOW: [(u64, u64); 4] = [(GDT, 1), (0x5000, 2), (PAGES, 1), (SCRATCH, 1)];

/// Runs a guest to its end, past all writes that are denied.
pub(crate) fn trace(rig: &mut Rig) -> Trace {
    let mut exits = Vec::new();
    loop {
        assert!(exits.len() < MOST_EXITS, "the program does not end");
        let stop = rig.machine.run();
        let regs = general(&rig.machine.regs());
        if rig.bus.serve(&mut rig.machine, &stop) {
            let access = rig.log().pop().expect("an access");
            exits.push((Exit::Access(access), regs));
            continue;
        }
        let ends = !matches!(stop, Stop::Event(_) | Stop::Spp(_));
        exits.push((Exit::Stop(settle(rig, stop)), regs));
        if ends {
            break;
        }
    }
    let long = rig.machine.program.mode == Mode::Long;
    let window = long.then_some((RAM, DEVICE_PAGES));
    let read = |(gpa, pages)| (gpa, rig.machine.read(gpa, (pages * PAGE_SIZE) as usize));
    let memory = LOW.into_iter().chain(window).map(read).collect();
    Trace {
        exits,
        regs: rig.machine.regs(),
        cr2: rig.machine.sregs().cr2,
        vectors: rig.vectors(),
        memory,
        registers: rig.bus.registers().to_vec(),
    }
}

/// Lets the guest go on: a page fault's handler makes the page present and writable,
/// other handlers step over the instruction, and so is done with denied writes. Returns
/// the stop, without what tells one backend from the other.
fn settle(rig: &Rig, stop: Stop) -> Stop {
    match stop {
        Stop::Event(event) => {
            let page = rig.machine.sregs().cr2.wrapping_sub(WINDOW) / PAGE_SIZE;
            if event.vector == 14 && page < 8 {
                rig.set_entry(page, rig.entry(page) | P | W);
            } else if event.vector != 1 {
                rig.machine.step_over(&event);
            }
            Stop::Event(event)
        }
        Stop::Spp(exit) => {
            assert_ne!(exit.flags & KVM_SPP_EXIT_INSN_LEN_VALID, 0, "{exit:x?}");
            rig.machine.cpu.skip(exit.insn_len.into()).expect("skip");
            Stop::Spp(SppExit { cause: 0, ..exit })
        }
        other => other,
    }
}

fn general(r: &kvm_regs) -> [u64; 16] {
    [
        r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12,
        r.r13, r.r14, r.r15,
    ]
}

impl Trace {
    /// Forgets what these flags were in the end.
    pub(crate) fn forget_flags(&mut self, flags: u64) {
        self.regs.rflags &= !flags;
    }

    /// 8 bytes of low memory.
    pub(crate) fn qword(&self, gpa: u64) -> u64 {
        let of = |(at, bytes): &Part| {
            let word = bytes.get(gpa.checked_sub(*at)? as usize..)?.get(..8)?;
            Some(u64::from_le_bytes(word.try_into().ok()?))
        };
        self.memory
            .iter()
            .find_map(of)
            .expect("memory of the trace")
    }

    /// Where two traces differ, if they do.
    pub(crate) fn difference(&self, other: &Self) -> Option<String> {
        let pairs = self.exits.iter().zip(&other.exits);
        if let Some(n) = pairs.clone().position(|(a, b)| a != b) {
            let (a, b) = (&self.exits[n], &other.exits[n]);
            return Some(format!("exit {n}: {a:x?}\n{b:x?}"));
        }
        if self.exits.len() != other.exits.len() {
            let (a, b) = (self.exits.len(), other.exits.len());
            return Some(format!("{a} exits, {b}"));
        }
        if (self.regs, self.cr2) != (other.regs, other.cr2) {
            return Some(format!("{:x?}\n{:x?}", self.regs, other.regs));
        }
        let bytes =
            |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|w| w.to_le_bytes()).collect() };
        first_difference("vectors", &bytes(&self.vectors), &bytes(&other.vectors))
            .or_else(|| {
                let mut pairs = self.memory.iter().zip(&other.memory);
                let differs = |((at, a), (_, b)): (&Part, &Part)| {
                    first_difference(&format!("memory {at:#x}"), a, b)
                };
                pairs.find_map(differs)
            })
            .or_else(|| first_difference("registers", &self.registers, &other.registers))
    }
}
