// SPDX-License-Identifier: GPL-2.0

//! Sub-page write permissions: the map of one page, the table the processor reads it from,
//! the guest-physical address space that keeps EPT and SPPT consistent, and the verdict
//! on a write that faulted.
#![cfg_attr(not(MODULE), no_std)]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod mask;
mod space;
mod sppt;
mod stale;
mod unlinked;
mod verdict;
mod view;

pub use mask::{Mask, SUBPAGES, SUBPAGE_SIZE};
pub use space::{frames_for_masks, Mapped, Space, MAX_FRAMES_PER_MAP};
pub use sppt::Sppt;
pub use stale::{Spent, Stale};
pub use unlinked::Unlinked;
pub use verdict::{Verdict, WriteFault};
pub use view::{Unsuitable, Use, VIEW_FRAMES};
