// SPDX-License-Identifier: GPL-2.0

//! EPT violations: what each of them asks for.
//!
//! ```text
//!   no slot ------------------------------------------------> Mmio
//!   write, slot read-only ----------------------------------> Mmio
//!   write, leaf armed: spp's verdict --guest page walk------> Walk
//!                         |  |  |----denied-----------------> Denied
//!                         |  |-------allowed, first time----> Retry
//!                         |  '-------allowed, again --------> Ineligible
//!   leaf allows it already ---------------------------------> Spurious
//!   else ---------------------------------------------------> Map
//!
//!   Mmio while an event was delivered ----------------------> Undeliverable
//! ```
//!
//! Without the processor's help nobody but the emulator writes to a page with a map, so
//! there the first time is as good as the second.

use ept::{Gpa, Leaf};
use spp::{Mask, Verdict, WriteFault};

use crate::errno::Errno;
use crate::exit::Violation;
use crate::slots::Slot;
use ioctl_api::subpage::{KVM_SPP_CAP_HW, KVM_SPP_CAP_SW};

/// Who holds the guest's writes to the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The processor, by sub-page write permissions.
    Hardware,
    /// The emulator, which makes every write to a page that has a map.
    Software,
}

impl Backend {
    /// The mask of [`KVM_SPP_CAP_HW`] and [`KVM_SPP_CAP_SW`] that can be had, where the
    /// processor's permissions can be used (`hardware`) or not.
    pub const fn available(hardware: bool) -> u32 {
        if hardware {
            KVM_SPP_CAP_HW | KVM_SPP_CAP_SW
        } else {
            KVM_SPP_CAP_SW
        }
    }

    /// What `KVM_ENABLE_CAP` asks for: one of the bits, or 0 for the best there is.
    ///
    /// # Errors
    ///
    /// `EINVAL` for anything else, `ENODEV` for what is not available.
    pub const fn choose(wanted: u64, hardware: bool) -> Result<Self, Errno> {
        const HW: u64 = KVM_SPP_CAP_HW as u64;
        const SW: u64 = KVM_SPP_CAP_SW as u64;
        match (wanted, hardware) {
            (0 | HW, true) => Ok(Self::Hardware),
            (0 | SW, _) => Ok(Self::Software),
            (HW, false) => Err(Errno::Enodev),
            _ => Err(Errno::Einval),
        }
    }
}

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
    /// Who holds writes to the map.
    pub backend: Backend,
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
    /// it: what writes must be emulated.
    Ineligible,
    /// The processor wants to set an accessed or dirty flag in a paging structure of the
    /// guest, for which it never consults the map: that must be done for it.
    Walk,
    /// There is no memory: the instruction must be emulated.
    Mmio,
    /// An event cannot be delivered: its frame or table is not in memory.
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
    let again = repeat.0 == Some(here) || access.backend == Backend::Software;
    let outcome = decide(access, again);
    repeat.0 = (outcome == Outcome::Retry).then_some(here);
    match outcome {
        Outcome::Mmio if access.violation.event_delivery => Outcome::Undeliverable,
        outcome => outcome,
    }
}

#[inline]
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
        Verdict::Ineligible if !access.violation.final_translation => Outcome::Walk,
        Verdict::Ineligible => Outcome::Ineligible,
        Verdict::NotSubPage if access.leaf.is_some_and(|leaf| leaf.writable) => Outcome::Spurious,
        Verdict::NotSubPage => Outcome::Map { write },
    }
}

#[cfg(test)]
#[path = "tests/fault.rs"]
mod tests;
