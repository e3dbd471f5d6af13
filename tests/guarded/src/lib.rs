// SPDX-License-Identifier: GPL-2.0

//! A virtual CPU and a board around it, to see what every kind of store does where
//! sub-pages are protected.
//!
//! ```text
//!   Store (a table of encodings: what it writes, and where)
//!     |                     Granule: how many bytes are protected together
//!     v                        |
//!   Machine: registers --> emulate::exec --> Board: bytes, protected units, a device,
//!                                            ports, and a log of what was done when
//! ```
//!
//! The granule is 128 bytes, as a sub-page has, or 4096, as a page has. What an
//! instruction does must not depend on it but by scale.

mod board;
mod granule;
mod machine;
mod store;

pub use board::{Board, Event, Meanwhile, DEVICE, FIRST, LAST};
pub use granule::Granule;
pub use machine::{Machine, Mode, Outcome, PORT};
pub use store::{stores, At, Setup, Store};
