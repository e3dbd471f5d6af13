// SPDX-License-Identifier: GPL-2.0

//! Extended page tables: guest-physical addresses, the memory the tables live in,
//! one walker for every four-level table of the processor, and the EPT entry format.
//!
//! The crate decides nothing about policy. Whoever changes a table holds the lock that
//! serialises writers; the processor walks the same words at any time without it.
#![cfg_attr(not(MODULE), no_std)]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod addr;
mod entry;
mod level;
mod mem;
mod tree;

pub use addr::{Gfn, Gpa, Gva, Hpa, PAGE_SHIFT, PAGE_SIZE};
pub use entry::{eptp, Bits, Ept, Leaf};
pub use level::Level;
pub use mem::{Frames, NoFrame, PhysMem, Slot};
pub use tree::{Blocked, Cursor, Format, Found, Idle, InUse, Kind, Tree};
