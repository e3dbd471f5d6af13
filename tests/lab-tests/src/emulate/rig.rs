// SPDX-License-Identifier: GPL-2.0

//! A 64-bit guest with a window of linear addresses, each page of which is memory or a
//! device:
//!
//! ```text
//!   WINDOW + 0x1000 * n ──── PAGES + 8 * n ──► RAM + 0x1000 * k    memory
//!                                         └──► HOLE + 0x1000 * k   registers of the bus
//! ```
//! Addresses in registers are the same whatever is behind them.

use super::bus::{contents, Access, Bus, DEVICE_PAGES};
use crate::harness::Lab;
use crate::machine::{Assembled, Machine, Stop, HOLE};
use guest::asm::CodeAssembler;
use guest::{CODE, DATA, PAGE_SIZE, SCRATCH, STACK, TABLES};
use kvm_bindings::{kvm_regs, kvm_xcrs, kvm_xsave};

/// First linear address of the window.
pub(crate) const WINDOW: u64 = 1 << 30;
/// Where its page table is.
pub(crate) const PAGES: u64 = TABLES + 8 * PAGE_SIZE;
/// Memory for the window, [`DEVICE_PAGES`] pages.
pub(crate) const RAM: u64 = DATA;

/// Present.
pub(crate) const P: u64 = 1 << 0;
/// Writable.
pub(crate) const W: u64 = 1 << 1;
/// For user code too.
pub(crate) const U: u64 = 1 << 2;

/// Where branches through memory lead.
const HLT: u8 = 0xf4;

const CR4_OSXSAVE: u64 = 1 << 18;
const XCR0_AVX: u64 = 7;
/// Words of the XSAVE area: XSTATE_BV, the SSE registers, the upper halves (SDM 1 13.4).
const XSTATE_BV: usize = 512 / 4;
const XMM: usize = 160 / 4;
const YMM: usize = 576 / 4;
const WORDS: usize = 16 * 16 / 4;

/// What a page of the window is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    /// Memory.
    Ram(u64),
    /// Registers of the bus.
    Device(u64),
}

impl Page {
    /// Its guest-physical address.
    pub(crate) fn gpa(self) -> u64 {
        match self {
            Self::Ram(n) => RAM + n * PAGE_SIZE,
            Self::Device(n) => HOLE + n * PAGE_SIZE,
        }
    }
}

/// A guest, and its devices.
pub(crate) struct Rig {
    pub(crate) machine: Machine,
    pub(crate) bus: Bus,
}

/// All that a program can change.
#[derive(Clone)]
pub(crate) struct State {
    /// General registers.
    pub(crate) regs: kvm_regs,
    /// The 16 SSE registers, and their upper halves.
    pub(crate) vectors: Vec<u32>,
    /// The window's memory.
    pub(crate) ram: Vec<u8>,
    /// The devices' registers.
    pub(crate) registers: Vec<u8>,
    /// The page for the program's own use, and that of its stack.
    pub(crate) own: Vec<u8>,
}

impl Rig {
    /// A guest that executes `author`'s instructions and halts.
    pub(crate) fn new(lab: &Lab, author: impl FnOnce(&mut CodeAssembler) -> Assembled) -> Self {
        Self::with(Machine::long(lab, |a| {
            author(a)?;
            a.hlt()
        }))
    }

    /// The same with sub-page write permissions.
    pub(crate) fn spp(lab: &Lab, author: impl FnOnce(&mut CodeAssembler) -> Assembled) -> Self {
        Self::with(Machine::spp(lab, |a| {
            author(a)?;
            a.hlt()
        }))
    }

    /// A window for a machine in 64-bit mode.
    pub(crate) fn with(machine: Machine) -> Self {
        let mut rig = Self {
            machine,
            bus: Bus::new(),
        };
        let directory = rig.machine.qword(TABLES + PAGE_SIZE + 8) & !0xfff;
        rig.machine.set_qword(directory, PAGES | P | W | U);
        rig.fill();
        rig.enable_avx();
        rig
    }

    /// Fills memory and devices as they are at first.
    pub(crate) fn fill(&mut self) {
        let machine = &self.machine;
        machine.write(RAM, contents(DEVICE_PAGES));
        machine.write(SCRATCH, &[HLT; PAGE_SIZE as usize]);
        machine.write(STACK - PAGE_SIZE, &[0xa5; PAGE_SIZE as usize]);
        self.bus = Bus::new();
    }

    /// Makes the pages of the window what `pages` says.
    pub(crate) fn map(&self, pages: &[Page]) {
        for (n, page) in pages.iter().enumerate() {
            self.set_entry(n as u64, page.gpa() | P | W | U);
        }
    }

    /// Sets an entry of the window's page table.
    pub(crate) fn set_entry(&self, n: u64, entry: u64) {
        self.machine.set_qword(PAGES + 8 * n, entry);
    }

    /// An entry of the window's page table.
    pub(crate) fn entry(&self, n: u64) -> u64 {
        self.machine.qword(PAGES + 8 * n)
    }

    /// Starts over with other instructions, which do not fault, and a HLT.
    pub(crate) fn start(&mut self, code: &[u8]) {
        self.machine.restart();
        self.machine.write(CODE, code);
        self.machine.write(CODE + code.len() as u64, &[HLT]);
    }

    /// Runs the guest, and its devices, until it stops.
    pub(crate) fn run(&mut self) -> Stop {
        self.bus.run(&mut self.machine)
    }

    /// Runs until HLT, and returns what was asked of the devices.
    pub(crate) fn log_until_hlt(&mut self) -> Vec<Access> {
        let stop = self.run();
        let log = self.bus.take_log();
        assert_eq!(stop, Stop::Hlt, "{:#x}: {log:?}", self.machine.regs().rip);
        log
    }

    /// The log of the bus, which it then forgets.
    pub(crate) fn log(&mut self) -> Vec<Access> {
        self.bus.take_log()
    }

    fn enable_avx(&mut self) {
        let mut sregs = self.machine.sregs();
        sregs.cr4 |= CR4_OSXSAVE;
        self.machine.set_sregs(&sregs);
        let mut xcrs = kvm_xcrs {
            nr_xcrs: 1,
            ..Default::default()
        };
        xcrs.xcrs[0].value = XCR0_AVX;
        let fd = self.machine.cpu.fd();
        fd.set_xcrs(&xcrs).expect("KVM_SET_XCRS");
    }

    fn xsave(&self) -> kvm_xsave {
        self.machine.cpu.fd().get_xsave().expect("KVM_GET_XSAVE")
    }

    /// Gives the vector registers values that tell all their bytes apart.
    pub(crate) fn set_vectors(&self) {
        let mut xsave = self.xsave();
        xsave.region[XSTATE_BV] |= XCR0_AVX as u32;
        for n in 0..WORDS {
            xsave.region[XMM + n] = 0x1357_9bdf_u32.wrapping_mul(2 * n as u32 + 1);
            xsave.region[YMM + n] = 0x2468_ace1_u32.wrapping_mul(2 * n as u32 + 1);
        }
        // SAFETY: no component beyond the 4096 bytes is enabled.
        unsafe { self.machine.cpu.fd().set_xsave(&xsave) }.expect("KVM_SET_XSAVE");
    }

    /// The vector registers, and then their upper halves.
    pub(crate) fn vectors(&self) -> Vec<u32> {
        let region = self.xsave().region;
        let mut vectors = region[XMM..XMM + WORDS].to_vec();
        vectors.extend(&region[YMM..YMM + WORDS]);
        vectors
    }

    /// Everything that the guest has.
    pub(crate) fn state(&self) -> State {
        let page = PAGE_SIZE as usize;
        let mut own = self.machine.read(SCRATCH, page);
        own.extend(self.machine.read(STACK - PAGE_SIZE, page));
        State {
            regs: self.machine.regs(),
            vectors: self.vectors(),
            ram: self.machine.read(RAM, DEVICE_PAGES as usize * page),
            registers: self.bus.registers().to_vec(),
            own,
        }
    }
}

impl State {
    /// Says where two states differ, if they do.
    pub(crate) fn difference(&self, other: &Self) -> Option<String> {
        if self.regs != other.regs {
            return Some(format!("{:x?}\n{:x?}", self.regs, other.regs));
        }
        let bytes =
            |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|w| w.to_le_bytes()).collect() };
        first_difference("vectors", &bytes(&self.vectors), &bytes(&other.vectors))
            .or_else(|| first_difference("memory", &self.ram, &other.ram))
            .or_else(|| first_difference("registers", &self.registers, &other.registers))
            .or_else(|| first_difference("scratch and stack", &self.own, &other.own))
    }
}

/// Says where two sequences of bytes first differ, if they do.
pub(crate) fn first_difference(what: &str, a: &[u8], b: &[u8]) -> Option<String> {
    let at = a.iter().zip(b).position(|(a, b)| a != b)?;
    let part = |bytes: &[u8]| bytes[at..bytes.len().min(at + 16)].to_vec();
    Some(format!(
        "{what} + {at:#x}: {:02x?}, {:02x?}",
        part(a),
        part(b)
    ))
}
