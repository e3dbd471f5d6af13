// SPDX-License-Identifier: GPL-2.0

//! Memory with protected units, a device, and a log.

use std::collections::{BTreeMap, BTreeSet};

use emulate::guard::{Memory, Page, Span, Trouble};
use emulate::GuestPhys;
use ept::{Gfn, Gpa, PAGE_SIZE};
use spp::{Mask, SUBPAGE_SIZE};

use crate::Granule;

/// First address of the memory.
pub const FIRST: u64 = 0x1000;
/// First address behind it.
pub const LAST: u64 = 0x4_0000;
/// A page that is a device's; there is nothing else outside memory.
pub const DEVICE: u64 = 0x5_0000;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It was asked what is at this frame.
    Check(u64),
    /// Memory was read.
    Read(u64),
    /// Memory was written: from where on, how many bytes.
    Write(u64, u64),
    /// Memory was replaced by a locked access.
    Exchange(u64, u64),
    /// An element was read from a port.
    Port,
    /// A device was read.
    Device(u64),
}

/// What somebody else does right before a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meanwhile {
    /// Protects a unit.
    Protect(u64),
    /// Gives all units free.
    Release,
}

/// The board.
#[derive(Clone, Debug)]
pub struct Board {
    /// What is protected together.
    pub granule: Granule,
    /// The units that must not be written.
    pub protected: BTreeSet<u64>,
    /// What was done, in its order.
    pub log: Vec<Event>,
    /// Things that happen before the writes to come, one before each.
    pub meanwhile: Vec<Option<Meanwhile>>,
    /// What was written since the board is there.
    written: BTreeMap<u64, u8>,
}

impl Board {
    /// Nothing protected.
    pub fn new(granule: Granule) -> Self {
        Self {
            granule,
            protected: BTreeSet::new(),
            log: Vec::new(),
            meanwhile: Vec::new(),
            written: BTreeMap::new(),
        }
    }

    /// Whether memory has this byte.
    pub fn has(gpa: u64) -> bool {
        (FIRST..LAST).contains(&gpa)
    }

    /// Whether the byte is in memory and may not be written.
    pub fn denies(&self, gpa: u64) -> bool {
        Self::has(gpa) && self.protected.contains(&self.granule.unit(gpa))
    }

    /// A byte, which at first depends on its address by what is the same after scaling.
    pub fn byte(&self, gpa: u64) -> u8 {
        let unit = self.granule.unit(gpa);
        let offset = gpa % SUBPAGE_SIZE;
        let first = (unit.wrapping_mul(0x9d) ^ offset.wrapping_mul(0x35)) as u8;
        self.written.get(&gpa).copied().unwrap_or(first)
    }

    /// Bytes that follow each other.
    pub fn bytes(&self, gpa: u64, len: u64) -> Vec<u8> {
        (gpa..gpa + len).map(|at| self.byte(at)).collect()
    }

    /// Changes bytes, whatever is protected.
    pub fn set(&mut self, gpa: u64, bytes: &[u8]) {
        for (at, byte) in (gpa..).zip(bytes) {
            self.written.insert(at, *byte);
        }
    }

    /// What was written, and is not as it was at first: addresses and bytes.
    pub fn changes(&self) -> BTreeMap<u64, u8> {
        let fresh = Self::new(self.granule);
        let mut written = self.written.clone();
        written.retain(|at, byte| fresh.byte(*at) != *byte);
        written
    }

    /// The bytes that were written or replaced, as the log tells.
    pub fn stored(&self) -> BTreeSet<u64> {
        let stored = self.log.iter().flat_map(|event| match *event {
            Event::Write(at, len) | Event::Exchange(at, len) => at..at + len,
            _ => 0..0,
        });
        stored.collect()
    }

    fn map(&self, gfn: Gfn) -> Mask {
        let (start, end) = (gfn.gpa().get(), gfn.gpa().get() + PAGE_SIZE);
        let (first, last) = (self.granule.unit(start), self.granule.unit(end - 1));
        let denied = self.protected.range(first..=last);
        let map = denied.fold(u32::MAX, |map, unit| {
            let offset = unit * self.granule.bytes() - start;
            let (n, count) = (offset / SUBPAGE_SIZE, self.granule.bytes() / SUBPAGE_SIZE);
            map & !((u32::MAX >> (32 - count)) << n)
        });
        Mask::from_raw(map)
    }

    /// What the owner of memory has to do before it writes.
    fn admit(&mut self, span: &Span, bytes: u64) -> Result<(), Trouble> {
        let quiet = self.meanwhile.is_empty();
        match self.meanwhile.pop().flatten() {
            Some(Meanwhile::Protect(unit)) => drop(self.protected.insert(unit)),
            Some(Meanwhile::Release) => self.protected.clear(),
            None => (),
        }
        let denied = targets(span, bytes).any(|(gpa, device)| !device && self.denies(gpa));
        assert!(!(denied && quiet), "a denied byte is about to be written");
        match denied {
            true => Err(Trouble::Changed),
            false => Ok(()),
        }
    }

    fn store(&mut self, span: &Span, data: &[u8], bytes: u64) {
        assert_eq!(data.len(), span.len());
        let written = targets(span, bytes).collect::<Vec<_>>();
        let data = data.iter().enumerate();
        let chosen = data.filter(|(n, _)| chosen(bytes, *n as u64));
        for ((_, byte), (gpa, device)) in chosen.zip(written) {
            if !device {
                self.set(gpa, &[*byte]);
            }
        }
    }

    fn log_span(&mut self, span: &Span, event: fn(u64, u64) -> Event) {
        let memory = span.fragments().filter(|f| !f.device);
        for fragment in memory {
            self.log
                .push(event(fragment.gpa.get(), fragment.len.into()));
        }
    }
}

fn chosen(bytes: u64, n: u64) -> bool {
    n >= 64 || bytes >> n & 1 == 1
}

/// The addresses that a span writes, and whether they are a device's.
fn targets(span: &Span, bytes: u64) -> impl Iterator<Item = (u64, bool)> + '_ {
    let all = span.fragments().flat_map(|f| {
        let start = f.gpa.get();
        (start..start + u64::from(f.len)).map(move |at| (at, f.device))
    });
    let all = all.enumerate();
    all.filter(move |(n, _)| chosen(bytes, *n as u64))
        .map(|(_, target)| target)
}

impl GuestPhys for Board {
    fn read(&mut self, gpa: Gpa, out: &mut [u8]) -> bool {
        let (start, len) = (gpa.get(), out.len() as u64);
        assert!(len > 0 && start % PAGE_SIZE + len <= PAGE_SIZE);
        self.log.push(Event::Read(start));
        if !Self::has(start) {
            return false;
        }
        out.copy_from_slice(&self.bytes(start, len));
        true
    }
}

impl Memory for Board {
    fn page(&mut self, gfn: Gfn) -> Page {
        self.log.push(Event::Check(gfn.get()));
        match Self::has(gfn.gpa().get()) {
            true => Page::Ram(self.map(gfn)),
            false => Page::Device,
        }
    }

    fn write(&mut self, span: &Span, data: &[u8], bytes: u64) -> Result<(), Trouble> {
        self.admit(span, bytes)?;
        self.store(span, data, bytes);
        self.log_span(span, Event::Write);
        Ok(())
    }

    fn exchange(&mut self, span: &Span, old: &[u8], new: &[u8]) -> Result<bool, Trouble> {
        self.admit(span, u64::MAX)?;
        let now = targets(span, u64::MAX).map(|(gpa, _)| self.byte(gpa));
        if !now.eq(old.iter().copied()) {
            return Ok(false);
        }
        self.store(span, new, u64::MAX);
        self.log_span(span, Event::Exchange);
        Ok(true)
    }
}
