// SPDX-License-Identifier: GPL-2.0

//! Guests of the demo and of the tests: programs, page tables and entry states,
//! all made on the host.
//!
//! A guest is assembled when the VMM starts, so there is no image to build and
//! the VMM knows the address and length of every instruction.
//!
//! ```text
//!   0x1000    GDT
//!   0x7000    stack, downwards
//!   0x8000    CODE      program; below 64 KiB for real mode
//!   0x10000   TABLES    page tables, mapping linear = physical
//!   0x20000   SCRATCH   one page the program may use
//!   0x100000  DATA      pages that programs store to
//! ```
#![forbid(unsafe_code)]

mod mode;
mod paging;
mod pattern;
mod program;

pub use iced_x86::code_asm as asm;
pub use mode::Mode;
pub use pattern::{Store, StorePattern, Width, BACKGROUND};
pub use program::{AssembleError, Program};

/// Where the GDT lies; `mode` says what it holds.
pub const GDT: u64 = 0x1000;
/// First address above the stack.
pub const STACK: u64 = 0x7000;
/// Where programs begin.
pub const CODE: u64 = 0x8000;
/// Where the page tables begin.
pub const TABLES: u64 = 0x10000;
/// A page for the program's own use.
pub const SCRATCH: u64 = 0x20000;
/// First page that programs store to.
pub const DATA: u64 = 0x10_0000;

/// Bytes of a page.
pub const PAGE_SIZE: u64 = 4096;
/// Bytes of a sub-page (SDM 3C 29.3.4).
pub const SUBPAGE_SIZE: u64 = 128;
/// Sub-pages of a page.
pub const SUBPAGES: u64 = PAGE_SIZE / SUBPAGE_SIZE;
