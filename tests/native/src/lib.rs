// SPDX-License-Identifier: GPL-2.0

//! The executor against the processor that the test runs on.
//!
//! ```text
//!   seed --> encode, aim --> bytes, registers, memory
//!                                |            |
//!                         cpu (native)   model (emulate: decode, execute)
//!                                |            |
//!                                '-- compare -'--> mismatch: all of it is printed
//! ```
//!
//! Both work on a window of 16 pages at the same linear addresses with the same rights:
//! mapped by the kernel for the processor, by page tables in model memory for the
//! emulator. Exception, error code, CR2, registers, RIP, flags that are defined, memory
//! and the counts of unfinished string instructions must be the same; what may differ is
//! listed in [`rules`], each with its reason.
//!
//! The native side executes only what the decoder takes for an instruction of
//! [`allowed`], at user level, in a process that can do nothing but write to its output
//! (see [`cpu`]).
#![deny(unsafe_code)]

pub mod aim;
pub mod allowed;
pub mod case;
pub mod child;
pub mod compare;
#[expect(unsafe_code, reason = "its header says why")]
pub mod cpu;
pub mod encode;
pub mod far;
pub mod features;
pub mod flags;
pub mod layout;
pub mod mode;
pub mod model;
pub mod options;
pub mod parent;
pub mod report;
pub mod rng;
pub mod rules;
pub mod session;
pub mod setup;
pub mod stats;
pub mod tables;
pub mod xsave;
