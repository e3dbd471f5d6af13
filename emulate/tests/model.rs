// SPDX-License-Identifier: GPL-2.0

//! Memory with sub-page maps, read-only pages and everything else that the guarded path
//! can meet. Where nothing was written there is a device.

use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use ept::Gfn;
use spp::Mask;

use crate::guard::{Memory, Page, Span, Trouble};
use crate::memory::Ram;
use crate::GuestPhys;
use ept::Gpa;

/// What the path did to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Check(u64),
    Read(u64, usize),
    Write(u64, usize),
    Exchange(u64, usize),
}

/// Somebody else's doing, right before the path writes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Meanwhile {
    Map(u64, Mask),
    Store(u64, u64),
    Fail,
}

#[derive(Default)]
pub(crate) struct Model {
    pub(crate) ram: Ram,
    pub(crate) maps: BTreeMap<u64, Mask>,
    pub(crate) rom: BTreeSet<u64>,
    pub(crate) log: Vec<Event>,
    /// One for each write or exchange, the last first.
    pub(crate) meanwhile: Vec<Meanwhile>,
}

impl Model {
    pub(crate) fn protect(&mut self, gpa: u64, map: u32) {
        self.maps.insert(gpa >> 12, Mask::from_raw(map));
    }

    /// Everything that was written or replaced.
    pub(crate) fn writes(&self) -> Vec<Event> {
        let writes = self.log.iter().copied();
        writes
            .filter(|e| matches!(e, Event::Write(..) | Event::Exchange(..)))
            .collect()
    }

    fn map(&self, gpa: Gpa) -> Mask {
        let map = self.maps.get(&gpa.gfn().get());
        map.copied().unwrap_or(Mask::ALL)
    }

    /// What the owner of memory promises: the maps as they are now allow every byte.
    fn allowed(&mut self, span: &Span, bytes: u64) -> Result<(), Trouble> {
        match self.meanwhile.pop() {
            Some(Meanwhile::Map(gpa, map)) => drop(self.maps.insert(gpa >> 12, map)),
            Some(Meanwhile::Store(gpa, value)) => self.ram.write_u64(gpa, value),
            Some(Meanwhile::Fail) => return Err(Trouble::Host),
            None => (),
        }
        let mut n = 0;
        for f in span.fragments() {
            for at in f.gpa.get()..f.gpa.get() + u64::from(f.len) {
                let written = n >= 64 || bytes >> n & 1 == 1;
                let bit = Mask::from_raw(1 << (at / 128 % 32));
                if !f.device && written && !self.map(Gpa::new(at)).allows(bit) {
                    return Err(Trouble::Changed);
                }
                n += 1;
            }
        }
        Ok(())
    }
}

impl GuestPhys for Model {
    fn read(&mut self, gpa: Gpa, out: &mut [u8]) -> bool {
        self.log.push(Event::Read(gpa.get(), out.len()));
        self.ram.read(gpa, out)
    }
}

impl Memory for Model {
    fn page(&mut self, gfn: Gfn) -> Page {
        self.log.push(Event::Check(gfn.get()));
        if self.rom.contains(&gfn.get()) {
            Page::Rom
        } else if self.ram.read(gfn.gpa(), &mut [0]) {
            Page::Ram(self.map(gfn.gpa()))
        } else {
            Page::Device
        }
    }

    fn write(&mut self, span: &Span, data: &[u8], bytes: u64) -> Result<(), Trouble> {
        self.allowed(span, bytes)?;
        let mut n = 0;
        for f in span.fragments() {
            let part = &data[n..n + usize::from(f.len)];
            if !f.device {
                self.log.push(Event::Write(f.gpa.get(), part.len()));
                for (i, byte) in part.iter().enumerate() {
                    if n + i >= 64 || bytes >> (n + i) & 1 == 1 {
                        self.ram.write(f.gpa.get() + i as u64, &[*byte]);
                    }
                }
            }
            n += part.len();
        }
        assert_eq!(n, data.len(), "data of another length than the span");
        Ok(())
    }

    fn exchange(&mut self, span: &Span, old: &[u8], new: &[u8]) -> Result<bool, Trouble> {
        self.allowed(span, u64::MAX)?;
        assert_eq!((old.len(), new.len()), (span.len(), span.len()));
        let mut found = std::vec![0; old.len()];
        let mut n = 0;
        for f in span.fragments() {
            let part = &mut found[n..n + usize::from(f.len)];
            assert!(!f.device && self.ram.read(f.gpa, part));
            n += part.len();
        }
        if found != old {
            return Ok(false);
        }
        let mut n = 0;
        for f in span.fragments() {
            let len = usize::from(f.len);
            self.log.push(Event::Exchange(f.gpa.get(), len));
            self.ram.write(f.gpa.get(), &new[n..n + len]);
            n += len;
        }
        Ok(true)
    }
}
