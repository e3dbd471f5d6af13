// SPDX-License-Identifier: GPL-2.0

//! EPT violations: what each of them asks for.
//!
//! ```text
//!   no slot ------------------------------------------------> Mmio
//!   write, slot read-only ----------------------------------> Mmio
//!   write, leaf armed: spp's verdict --denied---------------> Denied
//!                         |  |-------allowed, first time----> Retry
//!                         |  '-------allowed, again, or walk> Ineligible
//!   leaf allows it already ---------------------------------> Spurious
//!   else ---------------------------------------------------> Map
//!
//!   Mmio and Ineligible while an event was delivered -------> Undeliverable
//! ```

use ept::{Gpa, Leaf};
use spp::{Mask, Verdict, WriteFault};

use crate::exit::Violation;
use crate::slots::Slot;

/// Everything a decision depends on, read under the VM's mmu lock.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// The exit.
    pub violation: Violation,
    /// RIP.
    pub rip: u64,
    /// The slot that holds the address.
    pub slot: Option<&'a Slot>,
    /// The EPT leaf of now.
    pub leaf: Option<Leaf>,
    /// The sub-page map of the page.
    pub map: Mask,
    /// How many bytes the instruction writes, if a decoder knows.
    pub len: Option<u32>,
    /// A number that differs once the tables have changed.
    pub generation: u64,
}

/// What to do about an EPT violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Get the host page and map it.
    Map {
        /// The access needs a page that the host may write.
        write: bool,
    },
    /// Another vCPU has mapped it: enter again.
    Spurious,
    /// The map allows the write, but some processor structure does not know:
    /// enter again, as the exit has dropped the translation.
    Retry,
    /// The map forbids the write: tell user space.
    Denied {
        /// The sub-pages that are touched and denied.
        mask: Mask,
    },
    /// Nothing forbids the write, but the processor does not consult the map for
    /// it: the instruction must be emulated.
    Ineligible,
    /// There is no memory: the instruction must be emulated.
    Mmio,
    /// An event cannot be delivered: its frame or table needs emulation.
    Undeliverable,
}

/// The last write that got [`Outcome::Retry`], and the generation of the tables:
/// at the same place, with nothing changed, there is no second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repeat(Option<(u64, Gpa, u64)>);

/// Decides about a violation.
#[inline]
pub fn resolve(access: &Access<'_>, repeat: &mut Repeat) -> Outcome {
    let here = (access.rip, access.violation.gpa, access.generation);
    let again = repeat.0 == Some(here);
    let outcome = decide(access, again);
    repeat.0 = (outcome == Outcome::Retry).then_some(here);
    match outcome {
        Outcome::Mmio | Outcome::Ineligible if access.violation.event_delivery => {
            Outcome::Undeliverable
        }
        outcome => outcome,
    }
}

fn decide(access: &Access<'_>, again: bool) -> Outcome {
    let write = access.violation.write;
    let Some(slot) = access.slot else {
        return Outcome::Mmio;
    };
    if !write {
        return match access.leaf {
            Some(_) => Outcome::Spurious,
            None => Outcome::Map { write },
        };
    }
    if slot.readonly() {
        return Outcome::Mmio;
    }
    let fault = WriteFault {
        gpa: access.violation.gpa,
        final_translation: access.violation.final_translation,
        len: access.len,
    };
    match fault.verdict(access.leaf, access.map, again) {
        Verdict::Denied { mask } => Outcome::Denied { mask },
        Verdict::Retry => Outcome::Retry,
        Verdict::Ineligible => Outcome::Ineligible,
        Verdict::NotSubPage if access.leaf.is_some_and(|leaf| leaf.writable) => Outcome::Spurious,
        Verdict::NotSubPage => Outcome::Map { write },
    }
}

#[cfg(test)]
#[path = "tests/fault.rs"]
mod tests;
