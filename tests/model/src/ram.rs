// SPDX-License-Identifier: GPL-2.0

//! Memory for tables: counts the frames, fails on demand, and remembers each store so that
//! every state in between can be looked at.

use std::cell::{Cell, RefCell};

use ept::{Frames, Hpa, PhysMem, Slot};

/// One store: physical address, word before, word after.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Physical address of the word.
    pub at: u64,
    /// What it held.
    pub old: u64,
    /// What it holds now.
    pub new: u64,
}

const BASE: u64 = 0x7000_0000;
const WORDS: usize = 512;

/// Host memory that holds tables and nothing else.
#[derive(Debug, Default)]
pub struct Ram {
    words: RefCell<Vec<u64>>,
    journal: RefCell<Vec<Change>>,
    interfere: Cell<u64>,
    loads: Cell<u64>,
    free: RefCell<Vec<Hpa>>,
}

impl Ram {
    /// A zeroed frame; one that was given back goes first, so that a processor which still
    /// walks it is found out.
    pub fn frame(&self) -> Hpa {
        if let Some(hpa) = self.free.borrow_mut().pop() {
            self.fill(hpa, 0);
            return hpa;
        }
        let mut words = self.words.borrow_mut();
        let hpa = BASE + words.len() as u64 * 8;
        let len = words.len() + WORDS;
        words.resize(len, 0);
        Hpa::new(hpa)
    }

    /// Takes a frame back, and fills it with what is a misconfiguration in every table.
    pub fn give_back(&self, frame: Hpa) {
        assert!(self.frames().contains(&frame), "{frame:?} was not out");
        self.fill(frame, u64::MAX);
        self.free.borrow_mut().push(frame);
    }

    /// All frames that are out, in ascending order.
    pub fn frames(&self) -> Vec<Hpa> {
        let count = (self.words.borrow().len() / WORDS) as u64;
        let free = self.free.borrow();
        (0..count)
            .map(|i| Hpa::new(BASE + i * 4096))
            .filter(|frame| !free.contains(frame))
            .collect()
    }

    fn fill(&self, frame: Hpa, raw: u64) {
        let first = Self::index(frame.get());
        self.words.borrow_mut()[first..first + WORDS].fill(raw);
    }

    /// The word at physical address `at`, which must lie in a frame.
    pub fn read(&self, at: u64) -> u64 {
        self.words.borrow()[Self::index(at)]
    }

    /// Writes a word past the journal, as the processor does.
    pub fn write(&self, at: u64, raw: u64) {
        self.words.borrow_mut()[Self::index(at)] = raw;
    }

    /// The stores since the last call, oldest first.
    pub fn take_journal(&self) -> Vec<Change> {
        self.journal.take()
    }

    /// Loads since the last call.
    pub fn take_loads(&self) -> u64 {
        self.loads.take()
    }

    /// Lets the processor set `bits` in the word of the next compare-exchange just before it,
    /// as it does with the accessed and dirty flags.
    pub fn interfere(&self, bits: u64) {
        self.interfere.set(bits);
    }

    fn index(at: u64) -> usize {
        assert_eq!(at % 8, 0, "unaligned word {at:#x}");
        ((at - BASE) / 8) as usize
    }

    fn address(slot: Slot) -> u64 {
        slot.table().get() + slot.index() as u64 * 8
    }
}

impl PhysMem for Ram {
    fn load(&self, at: Slot) -> u64 {
        self.loads.set(self.loads.get() + 1);
        self.read(Self::address(at))
    }

    fn store(&self, at: Slot, raw: u64) {
        let at = Self::address(at);
        let old = self.read(at);
        self.journal.borrow_mut().push(Change { at, old, new: raw });
        self.write(at, raw);
    }

    fn compare_exchange(&self, at: Slot, old: u64, new: u64) -> Result<(), u64> {
        let bits = self.interfere.take();
        let found = self.read(Self::address(at)) | bits;
        self.write(Self::address(at), found);
        if found != old {
            return Err(found);
        }
        self.store(at, new);
        Ok(())
    }
}

/// A reserve of at most `left` frames.
#[derive(Debug)]
pub struct Reserve<'a> {
    ram: &'a Ram,
    left: u64,
}

impl<'a> Reserve<'a> {
    /// A reserve that runs dry after `left` frames.
    pub fn new(ram: &'a Ram, left: u64) -> Self {
        Self { ram, left }
    }
}

impl Frames for Reserve<'_> {
    fn take(&mut self) -> Option<Hpa> {
        self.left = self.left.checked_sub(1)?;
        Some(self.ram.frame())
    }
}
