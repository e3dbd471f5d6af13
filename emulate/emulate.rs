// SPDX-License-Identifier: GPL-2.0

//! The guest's own view of its memory: what its page tables translate, and
//! which instruction it is about to execute.
//!
//! ```text
//!   CS.base + RIP --> linear address --paging--> guest-physical --GuestPhys--> bytes
//! ```
//!
//! What it writes, the accessed and dirty flags of its walks included, goes through
//! [`guard`]. The crate knows nothing of EPT or VMX.
#![cfg_attr(not(MODULE), no_std)]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod cpu;
pub mod decode;
pub mod descriptor;
pub mod event;
pub mod exec;
pub mod fetch;
pub mod footprint;
pub mod guard;
pub mod insn;
pub mod journal;
pub mod op;
pub mod paging;
pub mod segment;
mod stack;
pub mod stop;
pub mod task;
mod xsave;

use ept::Gpa;

/// Guest-physical memory, as its owner can read it.
pub trait GuestPhys {
    /// Reads `out.len()` bytes at `gpa`, which lie in one 4-KiB page. False if
    /// there is no memory.
    fn read(&mut self, gpa: Gpa, out: &mut [u8]) -> bool;

    /// Reads an aligned little-endian word of 4 bytes.
    fn read_u32(&mut self, gpa: Gpa) -> Option<u32> {
        let mut bytes = [0; 4];
        self.read(gpa, &mut bytes)
            .then(|| u32::from_le_bytes(bytes))
    }

    /// Reads an aligned little-endian word of 8 bytes.
    fn read_u64(&mut self, gpa: Gpa) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(gpa, &mut bytes)
            .then(|| u64::from_le_bytes(bytes))
    }
}

#[cfg(test)]
#[path = "tests/machine.rs"]
mod machine;
#[cfg(test)]
#[path = "tests/memory.rs"]
mod memory;
#[cfg(test)]
#[path = "tests/model.rs"]
mod model;
#[cfg(test)]
#[path = "tests/tables.rs"]
mod tables;
