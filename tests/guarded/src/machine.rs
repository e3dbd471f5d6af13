// SPDX-License-Identifier: GPL-2.0

//! A virtual CPU on a board.

use emulate::cpu::{Cpu, Segment, Table};
use emulate::decode::decode;
use emulate::exec::{execute, Done};
use emulate::guard::Guest;
use emulate::insn::CodeSize;
use emulate::journal::Journal;
use emulate::stop::{DeviceRead, Stop};

use crate::{Board, Event, Granule};

/// The port that instructions are executed with.
pub const PORT: u16 = 0x60;
/// Where instructions lie; they need not be in memory.
const RIP: u64 = 0x1234;
/// Bytes of an XSAVE area with the upper halves of the YMM registers.
const XSAVE: usize = 832;

/// What code an instruction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 16-bit.
    Bits16,
    /// 32-bit.
    Bits32,
    /// 64-bit.
    Bits64,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Bits16, Self::Bits32, Self::Bits64];

    /// As the decoder wants it.
    pub const fn code(self) -> CodeSize {
        match self {
            Self::Bits16 => CodeSize::Bits16,
            Self::Bits32 => CodeSize::Bits32,
            Self::Bits64 => CodeSize::Bits64,
        }
    }
}

/// How an instruction went, with devices and ports answering.
pub type Outcome = Result<(), Stop>;

/// A virtual CPU, supervisor code in flat segments without paging, and its board.
#[derive(Debug)]
pub struct Machine {
    /// Its registers.
    pub cpu: Cpu,
    /// Its XSAVE area.
    pub fpu: Vec<u8>,
    /// What is around it.
    pub board: Board,
    /// Its devices.
    pub journal: Journal,
    /// Bytes that were read from the port, which gives 0, 1, 2 and so on.
    pub port_bytes: u64,
}

impl Machine {
    /// Registers full of numbers; nothing is protected.
    pub fn new(mode: Mode, granule: Granule) -> Self {
        let mut cpu = Cpu {
            rip: RIP,
            rflags: 2,
            code: mode.code(),
            gdtr: Table {
                base: 0x1122_3344_5566,
                limit: 0x7788,
            },
            xcr0: 7,
            ..Cpu::default()
        };
        // PE; OSFXSR and OSXSAVE.
        cpu.paging.cr0 = 1;
        cpu.paging.cr4 = 1 << 9 | 1 << 18;
        let big = if mode == Mode::Bits32 { 1 << 14 } else { 0 };
        let limit = if mode == Mode::Bits16 {
            0xffff
        } else {
            u32::MAX
        };
        cpu.segments = [Segment {
            selector: 0x4321,
            base: 0,
            limit,
            attributes: 0x8093 | big,
            unusable: false,
        }; 6];
        cpu.tr.selector = 0x1357;
        cpu.ldtr.selector = 0x2468;
        for (n, gpr) in (1..).zip(&mut cpu.gprs) {
            *gpr = 0x0123_4567_89ab_cdef_u64.wrapping_mul(n);
        }
        let fpu = (0..XSAVE).map(|n| (n as u8).wrapping_mul(7)).collect();
        let mut machine = Self {
            cpu,
            fpu,
            board: Board::new(granule),
            journal: Journal::new(),
            port_bytes: 0,
        };
        machine.fpu[512..520].copy_from_slice(&7u64.to_le_bytes());
        machine
    }

    /// A vector register's low half.
    pub fn set_xmm(&mut self, number: usize, value: [u8; 16]) {
        let at = 160 + 16 * number;
        self.fpu[at..at + 16].copy_from_slice(&value);
    }

    /// A vector register's high half.
    pub fn set_ymm_high(&mut self, number: usize, value: [u8; 16]) {
        let at = 576 + 16 * number;
        self.fpu[at..at + 16].copy_from_slice(&value);
    }

    /// Executes the instruction once.
    ///
    /// # Panics
    ///
    /// If the bytes are not one.
    pub fn step(&mut self, bytes: &[u8]) -> Result<Done, Stop> {
        let insn = decode(bytes, self.cpu.code);
        let insn = insn.unwrap_or_else(|e| panic!("{bytes:02x?}: {e:?}"));
        assert_eq!(usize::from(insn.len), bytes.len(), "{bytes:02x?}");
        self.journal.begin(self.cpu.rip);
        let (cpu, fpu) = (&mut self.cpu, &mut self.fpu);
        let mut guest = Guest::new(cpu, fpu, &mut self.board, &mut self.journal);
        execute(&mut guest, &insn)
    }

    /// Executes the instruction until it is finished or ends in anything but a wish for a
    /// device's data, which it gets.
    ///
    /// # Panics
    ///
    /// If it does not come to an end.
    pub fn run(&mut self, bytes: &[u8]) -> Outcome {
        for _ in 0..10_000 {
            match self.step(bytes) {
                Ok(Done::Retired) => return Ok(()),
                Ok(Done::Partial) => drop(self.posted()),
                Err(stop) if self.answer(stop) => (),
                Err(stop) => return Err(stop),
            }
        }
        panic!("{bytes:02x?} never ends");
    }

    /// Does what a device or port is asked for; false if none is.
    pub fn answer(&mut self, stop: Stop) -> bool {
        match stop {
            Stop::PortRead(read) => {
                assert_eq!(read.port, PORT);
                let count = u64::from(read.count) * u64::from(read.size);
                let data = (0..count).map(|n| (self.port_bytes + n) as u8);
                self.journal.supply_ports(read, &data.collect::<Vec<_>>());
                self.port_bytes += count;
                let port = std::iter::repeat_n(Event::Port, read.count.into());
                self.board.log.extend(port);
                true
            }
            Stop::DeviceRead(read) => {
                self.board.log.push(Event::Device(read.gpa.get()));
                assert!(self.journal.supply(read, Self::device_data(read)));
                true
            }
            _ => false,
        }
    }

    /// What the device answers: a byte for each address, and zeros at the end of eight, so
    /// that they can be a branch target.
    pub fn device_data(read: DeviceRead) -> [u8; 8] {
        let mut data = [0; 8];
        for (n, byte) in (0..u64::from(read.len).min(6)).zip(&mut data) {
            *byte = (read.gpa.get() + n) as u8 ^ 0x43;
        }
        data
    }

    /// Takes what devices have been told: where, and the bytes.
    pub fn posted(&mut self) -> Vec<(u64, Vec<u8>)> {
        let words = std::iter::from_fn(|| self.journal.next_write());
        let words = words.map(|w| (w.gpa, w.data[..w.len.into()].to_vec()));
        words.collect()
    }
}
