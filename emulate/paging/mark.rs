// SPDX-License-Identifier: GPL-2.0

//! Accessed and dirty flags (SDM 3A 4.8): writes of the walk's own to guest memory, on
//! the guarded path like all others.

use ept::{Gpa, Gva};

use super::format::{ACCESSED, DIRTY};
use crate::guard::{Memory, Span, Trouble};
use crate::stop::Stop;

const MAX_LEVELS: usize = 5;

/// An entry as it was walked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) at: Gpa,
    pub(super) value: u64,
    /// Bytes, 4 or 8.
    pub(super) len: u8,
}

impl Entry {
    /// The entry with `flags`, or `None` if it has them.
    const fn with(self, flags: u64) -> Option<u64> {
        match self.value | flags {
            marked if marked == self.value => None,
            marked => Some(marked),
        }
    }

    fn span(self, memory: &mut dyn Memory, gva: Gva) -> Result<Option<Span>, Stop> {
        Span::for_entry(memory, gva, self.at, self.len)
    }

    /// Replaces the entry by `marked`. False: it is not the one that was walked.
    fn replace(self, memory: &mut dyn Memory, gva: Gva, marked: u64) -> Result<bool, Stop> {
        let Some(span) = self.span(memory, gva)? else {
            return Ok(true);
        };
        let (old, new) = (self.value.to_le_bytes(), marked.to_le_bytes());
        let len = usize::from(self.len);
        let (Some(old), Some(new)) = (old.get(..len), new.get(..len)) else {
            return Err(Stop::Host);
        };
        match memory.exchange(&span, old, new) {
            Ok(done) => Ok(done),
            Err(Trouble::Changed) => Ok(false),
            Err(Trouble::Host) => Err(Stop::Host),
        }
    }
}

/// The entries that a walk has used, from the top down.
#[derive(Debug)]
pub(super) struct Path {
    entries: [Entry; MAX_LEVELS],
    len: usize,
}

impl Path {
    pub(super) const fn new() -> Self {
        Self {
            entries: [Entry {
                at: Gpa::new(0),
                value: 0,
                len: 0,
            }; MAX_LEVELS],
            len: 0,
        }
    }

    pub(super) fn push(&mut self, entry: Entry) {
        if let Some(place) = self.entries.get_mut(self.len) {
            *place = entry;
            self.len = self.len.wrapping_add(1);
        }
    }

    /// The entries that lack a flag, and what they will be.
    pub(super) fn missing(&self, write: bool) -> impl Iterator<Item = (Entry, u64)> + '_ {
        let used = self.entries.get(..self.len).unwrap_or(&[]);
        let (last, tables) = match used.split_last() {
            Some((last, tables)) => (Some(last), tables),
            None => (None, used),
        };
        let flags = if write { ACCESSED | DIRTY } else { ACCESSED };
        let tables = tables.iter().map(|entry| (entry, ACCESSED));
        let all = tables.chain(last.map(|entry| (entry, flags)));
        all.filter_map(|(entry, flags)| Some((*entry, entry.with(flags)?)))
    }

    /// Sets the flags for an access to `gva`. False: an entry has changed since it was
    /// walked, so that the walk must start over.
    pub(super) fn mark(
        &self,
        memory: &mut dyn Memory,
        gva: Gva,
        write: bool,
    ) -> Result<bool, Stop> {
        // Nothing is written before all that is to be written is allowed.
        for (entry, _) in self.missing(write) {
            let _span = entry.span(memory, gva)?;
        }
        for (entry, marked) in self.missing(write) {
            if !entry.replace(memory, gva, marked)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
