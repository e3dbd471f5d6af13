// SPDX-License-Identifier: GPL-2.0

//! The functional core of the hypervisor: every decision, no kernel, no
//! hardware.
//!
//! ```text
//!   VMCS values --> exit::Exit --> cpuid, msr, sregs, step  --> new register values
//!                        |
//!                        +-----> fault  (slots + spp verdict) --> map / deny / MMIO
//!                        +-----> event  --> VM-entry event injection, or delivery
//!   capability MSRs --> cap::Caps --> VMCS controls
//! ```
//!
//! The kernel shell reads hardware into plain values, calls in here, and carries
//! out the answer. Nothing allocates, blocks or panics, and guest input is never
//! trusted to be in range.
#![cfg_attr(not(MODULE), no_std)]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod bus;
pub mod cap;
mod control;
pub mod cpuid;
pub mod cr;
pub mod delivery;
pub mod errno;
pub mod event;
pub mod events_abi;
pub mod exit;
pub mod fault;
pub mod field;
pub mod msr;
pub mod reason;
pub mod segment;
pub mod slots;
pub mod sregs;
pub mod step;
