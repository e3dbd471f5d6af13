// SPDX-License-Identifier: GPL-2.0

//! Instructions that the processor leaves to the module: accesses to devices, string
//! I/O, writes that a sub-page map has to be asked about.
//!
//! ```text
//!   bus                 devices with known contents, and a log of what they are asked
//!   rig                 a guest with a window of pages that are memory or devices
//!   forms               single instructions, and which accesses each makes
//!   random              programs of random forms
//!   kinds               modes, and what segments make of them
//!   trace               all that can be seen of a run
//!   mmio, modes, port   the exits, and what the guest has afterwards
//!   completion          what is left to KVM_RUN when user space has answered
//!   faults, debug       exceptions of emulated instructions, and what comes between them
//!   host                what is done to the host's page behind a write
//!   paging              page walks, next to those of the processor
//!   differential        whole programs, here and on /dev/kvm
//!   guarded             writes to sub-pages, with devices and ports as their sources
//!   backend             the same programs with either backend
//! ```
//! What the guest must have afterwards is asked of the processor: it executes the same
//! program with memory in the place of the device.

mod backend;
mod bus;
mod completion;
mod debug;
mod differential;
mod faults;
mod forms;
mod guarded;
mod host;
mod kinds;
mod mmio;
mod modes;
mod paging;
mod port;
mod random;
mod rig;
mod trace;

use crate::harness::Test;

pub(crate) use backend::ALL as BACKEND;
pub(crate) use completion::ALL as COMPLETION;
pub(crate) use guarded::ALL as GUARDED;

/// The tests of all parts but [`COMPLETION`], [`GUARDED`] and [`BACKEND`].
pub(crate) const ALL: &[&[Test]] = &[
    mmio::TESTS,
    modes::TESTS,
    port::TESTS,
    faults::TESTS,
    debug::TESTS,
    host::TESTS,
    paging::TESTS,
    differential::TESTS,
];
