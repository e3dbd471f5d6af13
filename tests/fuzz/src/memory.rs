// SPDX-License-Identifier: GPL-2.0

//! Guest memory that does whatever it likes: the same few pages all over the address
//! space, some of them read-only or devices, whose maps and words change while they are
//! used, and whose owner fails.

use std::collections::BTreeMap;

use emulate::guard::{Fragment, Memory, Page, Span, Trouble};
use emulate::GuestPhys;
use ept::{Gfn, Gpa, PAGE_SIZE};
use spp::Mask;

use crate::input::Input;

/// Frames whose numbers are equal modulo this are one.
const FRAMES: u64 = 16;
const BYTES: u64 = FRAMES * PAGE_SIZE;
const ACCESSED_DIRTY: u8 = 0x60;
/// In the byte of a descriptor that holds its type.
const DESCRIPTOR_ACCESSED: u8 = 1;

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store {
    /// The address, modulo the memory there is.
    pub at: u64,
    /// Bytes.
    pub len: usize,
    /// It set nothing but flags of a paging-structure entry or of a descriptor, which do no
    /// harm where the instruction stops later.
    pub flags: bool,
}

/// The memory.
pub struct Hostile<'a> {
    content: &'a [u8],
    overlay: BTreeMap<u64, u8>,
    /// Two bits for each frame: 2 is read-only memory, 3 a device.
    kinds: u32,
    maps: [u32; FRAMES as usize],
    /// What goes wrong, a byte for each call, over and over.
    tape: &'a [u8],
    mischief: Input<'a>,
    /// How often it was called.
    pub calls: u32,
    /// In their order.
    pub stores: Vec<Store>,
}

impl<'a> Hostile<'a> {
    /// Memory that holds `content` over and over.
    pub fn new(input: &mut Input<'a>) -> Self {
        let kinds = input.u32();
        let mut maps = [u32::MAX; FRAMES as usize];
        for _ in 0..input.u8() % 8 {
            maps[usize::from(input.u8()) % FRAMES as usize] = input.u32();
        }
        let len = usize::from(input.u8());
        let tape = input.take(len);
        Self {
            content: input.rest(),
            overlay: BTreeMap::new(),
            kinds,
            maps,
            tape,
            mischief: Input::new(tape),
            calls: 0,
            stores: Vec::new(),
        }
    }

    /// Nothing goes wrong and nobody else changes anything.
    pub fn is_quiet(&self) -> bool {
        self.tape.iter().all(|what| what >> 5 == 0)
    }

    fn byte(&self, at: u64) -> u8 {
        let at = at % BYTES;
        let original = || match self.content {
            [] => 0,
            content => content[at as usize % content.len()],
        };
        self.overlay.get(&at).copied().unwrap_or_else(original)
    }

    fn bytes(&self, at: u64, out: &mut [u8]) {
        for (n, byte) in out.iter_mut().enumerate() {
            *byte = self.byte(at + n as u64);
        }
    }

    fn set(&mut self, at: u64, bytes: &[u8]) {
        for (n, byte) in bytes.iter().enumerate() {
            self.overlay.insert((at + n as u64) % BYTES, *byte);
        }
    }

    /// What is at a frame, which does not change but for its map.
    pub fn kind(&self, gfn: Gfn) -> Page {
        let frame = gfn.get() % FRAMES;
        match self.kinds >> (2 * frame) & 3 {
            2 => Page::Rom,
            3 => Page::Device,
            _ => Page::Ram(Mask::from_raw(self.maps[frame as usize])),
        }
    }

    /// A number of up to 8 bytes as it is now; `None` at a device.
    pub fn peek(&self, gpa: u64, len: usize) -> Option<u64> {
        let mut bytes = [0; 8];
        self.bytes(gpa, &mut bytes[..len]);
        let there = self.kind(Gpa::new(gpa).gfn()) != Page::Device;
        there.then(|| u64::from_le_bytes(bytes))
    }

    /// Whether the map allows a byte now.
    pub fn allows(&self, gpa: Gpa) -> bool {
        match self.kind(gpa.gfn()) {
            Page::Ram(map) => map.allows(Mask::touched(gpa.page_offset(), 1)),
            _ => false,
        }
    }

    /// One more call; something may happen right before it. True: the call fails.
    fn call(&mut self) -> bool {
        self.calls += 1;
        if self.mischief.rest().is_empty() {
            self.mischief = Input::new(self.tape);
        }
        let what = self.mischief.u8();
        let frame = usize::from(self.mischief_operand(what)) % FRAMES as usize;
        match what >> 5 {
            // A map changes.
            1 => self.maps[frame] = 1u32.rotate_left(what.into()) ^ u32::MAX,
            2 => self.maps[frame] = u32::MAX,
            3 => self.maps[frame] = 0,
            // A byte changes, often one of a table.
            4 => {
                let at = frame as u64 * PAGE_SIZE + u64::from(what) % 64;
                let byte = self.byte(at) ^ what;
                self.set(at, &[byte]);
            }
            5 => return true,
            _ => (),
        }
        false
    }

    fn mischief_operand(&mut self, what: u8) -> u8 {
        match what >> 5 {
            1..=4 => self.mischief.u8(),
            _ => 0,
        }
    }

    /// Checks what each span promises, and what the owner of memory has to see to.
    fn admit(&self, span: &Span, bytes: u64) -> Result<(), Trouble> {
        let mut n = 0;
        for fragment in span.fragments() {
            let offset = fragment.gpa.page_offset();
            assert!(fragment.len > 0 && u64::from(offset + fragment.len) <= PAGE_SIZE);
            for at in 0..u64::from(fragment.len) {
                let gpa = Gpa::new(fragment.gpa.get() + at);
                let written = n >= 64 || bytes >> n & 1 == 1;
                if !fragment.device && written && !self.allows(gpa) {
                    return Err(Trouble::Changed);
                }
                n += 1;
            }
        }
        assert_eq!(n, span.len());
        Ok(())
    }
}

impl GuestPhys for Hostile<'_> {
    fn read(&mut self, gpa: Gpa, out: &mut [u8]) -> bool {
        assert!(!out.is_empty() && usize::from(gpa.page_offset()) + out.len() <= 4096);
        let failed = self.call();
        if failed || self.kind(gpa.gfn()) == Page::Device {
            out.fill(0xa5);
            return false;
        }
        self.bytes(gpa.get(), out);
        true
    }
}

impl Memory for Hostile<'_> {
    fn page(&mut self, gfn: Gfn) -> Page {
        self.call();
        self.kind(gfn)
    }

    fn write(&mut self, span: &Span, data: &[u8], bytes: u64) -> Result<(), Trouble> {
        assert_eq!(data.len(), span.len());
        if self.call() {
            return Err(Trouble::Host);
        }
        self.admit(span, bytes)?;
        let mut n = 0;
        for fragment in span.fragments() {
            for at in 0..u64::from(fragment.len) {
                if !fragment.device && (n >= 64 || bytes >> n & 1 == 1) {
                    self.set(fragment.gpa.get() + at, &data[n..=n]);
                }
                n += 1;
            }
            if !fragment.device {
                self.stores.push(Store {
                    at: fragment.gpa.get() % BYTES,
                    len: fragment.len.into(),
                    flags: false,
                });
            }
        }
        Ok(())
    }

    fn exchange(&mut self, span: &Span, old: &[u8], new: &[u8]) -> Result<bool, Trouble> {
        assert_eq!((old.len(), new.len()), (span.len(), span.len()));
        assert!(!span.device());
        if self.call() {
            return Err(Trouble::Host);
        }
        self.admit(span, u64::MAX)?;
        let bytes = |f: Fragment| (f.gpa.get()..).take(f.len.into());
        let places: Vec<u64> = span.fragments().flat_map(bytes).collect();
        if places
            .iter()
            .zip(old)
            .any(|(at, old)| self.byte(*at) != *old)
        {
            return Ok(false);
        }
        for (at, new) in places.iter().zip(new) {
            self.set(*at, &[*new]);
        }
        let changed = old.iter().zip(new).map(|(old, new)| old ^ new);
        let may_change = |n| match (n, old.len()) {
            (0, 1) => DESCRIPTOR_ACCESSED,
            (0, _) => ACCESSED_DIRTY,
            _ => 0,
        };
        let flags = changed
            .enumerate()
            .all(|(n, bits)| bits & !may_change(n) == 0);
        self.stores.push(Store {
            at: span.gpa().get() % BYTES,
            len: new.len(),
            flags,
        });
        Ok(true)
    }
}
