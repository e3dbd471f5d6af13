// SPDX-License-Identifier: GPL-2.0

//! What an instruction has read of devices, and what it has to tell them.
//!
//! A device is somebody else's: user space's. A read of one stops the instruction; when
//! the data is there, the instruction is executed again from its start and finds the
//! data here instead of asking again. So each read happens once, however often the
//! instruction starts over, and all checks are made again each time.
//!
//! ```text
//!   execute -- read not here --> Stop::DeviceRead --> user space
//!      ^                                                  |
//!      '---------------- supply(data) <-------------------'
//!   execute -- read here --> goes on --> commit: posts writes --> retire: reads forgotten
//! ```
//!
//! Data that has been read outlives a denial of the write that it was read for: it is
//! kept by the address of the instruction until that is executed again, or until user
//! space takes RIP elsewhere from there, which has dealt with the instruction then.

use ept::Gpa;

use crate::stop::{DeviceRead, PortRead};

/// Reads, and writes, of one instruction at most: 64 bytes that begin at any address
/// and a second operand.
const WORDS: usize = 20;
/// Bytes of port data that are read ahead: as many as KVM does.
pub const PORT_BYTES: usize = 1024;
/// Instructions whose data is kept while others run.
const KEPT: usize = 4;

/// Up to 8 bytes of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceWord {
    /// Guest-physical address of the first.
    pub gpa: u64,
    /// How many, 1 to 8.
    pub len: u8,
    /// They, the rest 0.
    pub data: [u8; 8],
}

/// Port data that was read ahead of its use.
#[derive(Clone, Copy, Debug)]
struct Ports {
    port: u16,
    size: u8,
    /// Bytes that are there, and how many of them were used.
    filled: u16,
    used: u16,
    data: [u8; PORT_BYTES],
}

const NO_PORTS: Ports = Ports {
    port: 0,
    size: 0,
    filled: 0,
    used: 0,
    data: [0; PORT_BYTES],
};

/// The reads of one instruction.
#[derive(Clone, Copy, Debug)]
struct Reads {
    /// Linear address of the instruction.
    rip: u64,
    words: [DeviceWord; WORDS],
    filled: u8,
    ports: Ports,
    /// When they were put aside: higher is later.
    since: u32,
}

const NO_READS: Reads = Reads {
    rip: 0,
    words: [DeviceWord {
        gpa: 0,
        len: 0,
        data: [0; 8],
    }; WORDS],
    filled: 0,
    ports: NO_PORTS,
    since: 0,
};

impl Reads {
    const fn is_empty(&self) -> bool {
        self.filled == 0 && self.ports.filled == self.ports.used
    }

    const fn forget(&mut self) {
        self.filled = 0;
        self.ports.filled = 0;
        self.ports.used = 0;
    }
}

/// The device accesses of a virtual CPU. About 8 KiB.
#[derive(Debug)]
pub struct Journal {
    now: Reads,
    cursor: u8,
    writes: [DeviceWord; WORDS],
    posted: u8,
    sent: u8,
    port_write: Option<(u16, u8, u32)>,
    kept: [Reads; KEPT],
    clock: u32,
}

impl Default for Journal {
    fn default() -> Self {
        Self::new()
    }
}

impl Journal {
    /// Nothing read and nothing to write.
    pub const fn new() -> Self {
        Self {
            now: NO_READS,
            cursor: 0,
            writes: NO_READS.words,
            posted: 0,
            sent: 0,
            port_write: None,
            kept: [NO_READS; KEPT],
            clock: 0,
        }
    }

    /// The instruction at linear address `rip` starts, or starts over. What another one
    /// has read and not used is put aside, and comes back when that starts over.
    pub fn begin(&mut self, rip: u64) {
        self.cursor = 0;
        if self.now.rip == rip {
            return;
        }
        self.clock = self.clock.saturating_add(1);
        self.now.since = self.clock;
        let mine = |kept: &&mut Reads| kept.rip == rip && !kept.is_empty();
        if let Some(kept) = self.kept.iter_mut().find(mine) {
            core::mem::swap(kept, &mut self.now);
            return;
        }
        self.put_aside();
        self.now.forget();
        self.now.rip = rip;
    }

    /// Keeps what the instruction that was executed last has not used.
    fn put_aside(&mut self) {
        if self.now.is_empty() {
            return;
        }
        // The oldest goes where too many instructions are unfinished.
        let age = |kept: &&mut Reads| match kept.is_empty() {
            true => 0,
            false => kept.since,
        };
        if let Some(place) = self.kept.iter_mut().min_by_key(age) {
            core::mem::swap(place, &mut self.now);
        }
    }

    /// User space takes RIP from linear address `rip` to elsewhere: what the instruction
    /// there has read is of no more use, least of all to its next execution.
    pub fn leave(&mut self, rip: u64) {
        self.cursor = 0;
        let reads = core::iter::once(&mut self.now).chain(&mut self.kept);
        for reads in reads.filter(|reads| reads.rip == rip) {
            reads.forget();
        }
    }

    /// The instruction, or one element of it, is finished: its device reads are used up.
    /// Port data that was read ahead stays for the elements that follow.
    pub fn retire(&mut self) {
        self.now.filled = 0;
        self.cursor = 0;
    }

    /// Forgets everything: the virtual CPU was reset.
    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// The next read of the instruction: `out.len()` bytes, 1 to 8, at `gpa`.
    ///
    /// # Errors
    ///
    /// [`DeviceRead`]: it has not been made yet.
    pub fn read(&mut self, gpa: Gpa, out: &mut [u8]) -> Result<(), DeviceRead> {
        let wanted = DeviceRead {
            gpa,
            len: out.len() as u8,
        };
        let at = usize::from(self.cursor);
        let word = match self.now.words.get(at) {
            Some(word) if self.cursor < self.now.filled => word,
            _ => return Err(wanted),
        };
        if word.gpa != gpa.get() || usize::from(word.len) != out.len() {
            // The instruction is another one now: its reads begin anew here.
            self.now.filled = self.cursor;
            return Err(wanted);
        }
        for (to, from) in out.iter_mut().zip(word.data) {
            *to = from;
        }
        self.cursor = self.cursor.wrapping_add(1);
        Ok(())
    }

    /// Brings the data that [`Journal::read`] asked for. False if there are too many.
    pub fn supply(&mut self, read: DeviceRead, data: [u8; 8]) -> bool {
        let at = usize::from(self.now.filled);
        let Some(word) = self.now.words.get_mut(at) else {
            return false;
        };
        *word = DeviceWord {
            gpa: read.gpa.get(),
            len: read.len.min(8),
            data,
        };
        self.now.filled = self.now.filled.wrapping_add(1);
        true
    }

    /// How many elements of port data are at hand for this port and size.
    pub const fn port_elements(&self, port: u16, size: u8) -> u16 {
        let ports = &self.now.ports;
        if ports.port != port || ports.size != size || size == 0 {
            return 0;
        }
        ports.filled.saturating_sub(ports.used) / size as u16
    }

    /// Port data at hand, from the next element on.
    pub fn port_data(&self) -> &[u8] {
        let ports = &self.now.ports;
        let (from, to) = (usize::from(ports.used), usize::from(ports.filled));
        ports.data.get(from..to).unwrap_or(&[])
    }

    /// `bytes` of the port data have reached their place.
    pub fn port_used(&mut self, bytes: u16) {
        let ports = &mut self.now.ports;
        ports.used = ports.used.saturating_add(bytes).min(ports.filled);
    }

    /// Brings port data that was asked for; at most [`PORT_BYTES`] of it counts.
    pub fn supply_ports(&mut self, read: PortRead, data: &[u8]) {
        for (to, from) in self.port_space(read, data.len()).iter_mut().zip(data) {
            *to = *from;
        }
    }

    /// The place for `len` bytes of port data that was asked for, [`PORT_BYTES`] at most, to
    /// be filled.
    pub fn port_space(&mut self, read: PortRead, len: usize) -> &mut [u8] {
        let ports = &mut self.now.ports;
        let len = len.min(PORT_BYTES);
        ports.port = read.port;
        ports.size = read.size;
        ports.used = 0;
        ports.filled = len as u16;
        ports.data.get_mut(..len).unwrap_or(&mut [])
    }

    /// Whether `words` more writes have room.
    pub fn room(&self, words: usize) -> bool {
        usize::from(self.posted).saturating_add(words) <= WORDS
    }

    /// A write to be told to a device, after those before it. 1 to 8 bytes.
    pub fn post(&mut self, gpa: Gpa, bytes: &[u8]) {
        if let Some(word) = self.writes.get_mut(usize::from(self.posted)) {
            let mut data = [0; 8];
            for (to, from) in data.iter_mut().zip(bytes) {
                *to = *from;
            }
            *word = DeviceWord {
                gpa: gpa.get(),
                len: bytes.len().min(8) as u8,
                data,
            };
            self.posted = self.posted.wrapping_add(1);
        }
    }

    /// How many writes there are so far, for [`Journal::take_back`].
    pub const fn posted(&self) -> u8 {
        self.posted
    }

    /// Forgets the writes that came after the first `posted`: what wanted them told is not
    /// finished, and will want it again.
    pub fn take_back(&mut self, posted: u8) {
        self.posted = self.posted.min(posted);
    }

    /// Whether writes wait to be told.
    pub const fn has_posted(&self) -> bool {
        self.sent < self.posted || self.port_write.is_some()
    }

    /// The next write to tell a device.
    pub fn next_write(&mut self) -> Option<DeviceWord> {
        if self.sent >= self.posted {
            self.sent = 0;
            self.posted = 0;
            return None;
        }
        let word = self.writes.get(usize::from(self.sent)).copied();
        self.sent = self.sent.wrapping_add(1);
        word
    }

    /// An element that OUTS writes to a port: port, bytes, value.
    pub fn post_port(&mut self, port: u16, size: u8, value: u32) {
        self.port_write = Some((port, size, value));
    }

    /// Takes the element that OUTS wrote.
    pub fn take_port_write(&mut self) -> Option<(u16, u8, u32)> {
        self.port_write.take()
    }
}

#[cfg(test)]
#[path = "tests/journal.rs"]
mod tests;
