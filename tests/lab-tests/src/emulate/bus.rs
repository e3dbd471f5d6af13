// SPDX-License-Identifier: GPL-2.0

//! Devices of a guest: registers behind [`HOLE`] that keep what is written to them, and
//! ports that give other bytes each time.

use crate::machine::{Machine, Stop, HOLE};
use guest::PAGE_SIZE;
use ioctl_api::run::{IoExit, KVM_EXIT_IO_IN, PIO_DATA};
use std::fmt;
use std::sync::OnceLock;

/// How many pages of registers there are.
pub(crate) const DEVICE_PAGES: u64 = 4;

/// An access of the guest's to a device, in the words of its exit.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Access {
    /// `KVM_EXIT_MMIO` that reads these bytes.
    Read(u64, Vec<u8>),
    /// `KVM_EXIT_MMIO` that writes these bytes.
    Write(u64, Vec<u8>),
    /// `KVM_EXIT_IO` that reads these bytes.
    In(Port, Vec<u8>),
    /// `KVM_EXIT_IO` that writes these bytes.
    Out(Port, Vec<u8>),
}

/// What an I/O exit says of its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    /// Its number.
    pub(crate) port: u16,
    /// Bytes of one element.
    pub(crate) size: u8,
    /// How many elements.
    pub(crate) count: u32,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut port = |name, p: &Port, data: &[u8]| {
            let Port { port, size, count } = p;
            write!(f, "{name} {port:#x} {count} x {size}: {}", hex(data))
        };
        match self {
            Self::In(p, data) => port("in", p, data),
            Self::Out(p, data) => port("out", p, data),
            Self::Read(gpa, data) => write!(f, "read {gpa:#x}: {}", hex(data)),
            Self::Write(gpa, data) => write!(f, "write {gpa:#x}: {}", hex(data)),
        }
    }
}

/// Bytes as text, the middle of long ones left out.
fn hex(bytes: &[u8]) -> String {
    let digits = |text: String, byte: &u8| text + &format!("{byte:02x}");
    let text = |part: &[u8]| part.iter().fold(String::new(), digits);
    match bytes.len() {
        0..=32 => text(bytes),
        n => format!("{}..{} ({n})", text(&bytes[..12]), text(&bytes[n - 4..])),
    }
}

/// The devices.
#[derive(Clone)]
pub(crate) struct Bus {
    base: u64,
    registers: Vec<u8>,
    stream: u32,
    log: Vec<Access>,
}

impl Bus {
    /// Devices in their first state.
    pub(crate) fn new() -> Self {
        Self::at(HOLE, DEVICE_PAGES)
    }

    /// The same, with registers of so many pages that begin at `base`.
    pub(crate) fn at(base: u64, pages: u64) -> Self {
        Self {
            base,
            registers: contents(pages).to_vec(),
            stream: 0,
            log: Vec::new(),
        }
    }

    /// What was asked of the devices since this was last called.
    pub(crate) fn take_log(&mut self) -> Vec<Access> {
        std::mem::take(&mut self.log)
    }

    /// The registers.
    pub(crate) fn registers(&self) -> &[u8] {
        &self.registers
    }

    /// The registers, to be changed.
    pub(crate) fn registers_mut(&mut self) -> &mut [u8] {
        &mut self.registers
    }

    /// Runs the guest until it stops at anything but a device.
    pub(crate) fn run(&mut self, machine: &mut Machine) -> Stop {
        loop {
            let stop = machine.run();
            if !self.serve(machine, &stop) {
                return stop;
            }
        }
    }

    /// Does what the guest stopped for; false if that is no device's business.
    pub(crate) fn serve(&mut self, machine: &mut Machine, stop: &Stop) -> bool {
        match stop {
            Stop::MmioRead(gpa, len) => {
                let data = self.slice(*gpa, *len).to_vec();
                machine.answer_mmio(&data);
                self.log.push(Access::Read(*gpa, data));
            }
            Stop::MmioWrite(gpa, data) => {
                self.slice(*gpa, data.len()).copy_from_slice(data);
                self.log.push(Access::Write(*gpa, data.clone()));
            }
            Stop::In(..) | Stop::Out(..) => self.serve_port(machine),
            _ => return false,
        }
        true
    }

    fn slice(&mut self, gpa: u64, len: usize) -> &mut [u8] {
        let at = gpa.wrapping_sub(self.base) as usize;
        let registers = self.registers.get_mut(at..at + len);
        registers.unwrap_or_else(|| panic!("no device has {len} bytes at {gpa:#x}"))
    }

    fn serve_port(&mut self, machine: &mut Machine) {
        let exit = machine.io_exit();
        assert_eq!(exit.data_offset, PIO_DATA as u64);
        let IoExit {
            port, size, count, ..
        } = exit;
        let port = Port { port, size, count };
        let len = usize::from(size) * count as usize;
        if exit.direction == KVM_EXIT_IO_IN {
            let data = self.next_bytes(len);
            machine.port_data().write_bytes(0, &data);
            self.log.push(Access::In(port, data));
        } else {
            let data = machine.port_data().read_bytes(0, len);
            self.log.push(Access::Out(port, data));
        }
    }

    fn next_bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next_byte()).collect()
    }

    fn next_byte(&mut self) -> u8 {
        self.stream += 1;
        stream(self.stream)
    }
}

/// The byte that ports give as the `n`th, from 1 on.
pub(crate) fn stream(n: u32) -> u8 {
    (n.wrapping_mul(0x9e37_79b1) >> 19) as u8
}

/// What memory and devices hold at first, so that all bytes near each other differ and
/// the sign bits of words do too. At most [`MOST_PAGES`].
pub(crate) fn contents(pages: u64) -> &'static [u8] {
    static CONTENTS: OnceLock<Vec<u8>> = OnceLock::new();
    let byte = |n: u64| (n.wrapping_mul(0x9d) ^ (n >> 8) ^ 0xa6) as u8;
    let all = CONTENTS.get_or_init(|| (0..MOST_PAGES * PAGE_SIZE).map(byte).collect());
    &all[..(pages * PAGE_SIZE) as usize]
}

/// Pages of [`contents`]: a segment of real mode, and one more.
const MOST_PAGES: u64 = 17;
