// SPDX-License-Identifier: GPL-2.0

//! Linear addresses, the same on the processor and in the emulated guest.
//!
//! ```text
//!   0x1000_0000           STATE   registers to load and registers found; harness only
//!   0x1800_0000           CODE    the instruction, landing pads; readable, executable
//!   0x2000_0000           LOW     window
//!   0xd000_0000           MID     the same window: bit 31 of its addresses is set
//!   0x5a5a_2000_0000      HIGH    the same window, for 64-bit code
//! ```
//!
//! Instructions may reach the window, 1 MiB on either side of it where nothing is, the
//! lowest 64 KiB where nothing is, and CODE. Nothing else of the process is near them.

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// Registers of the trampoline, an XSAVE area to load and one to store.
pub const STATE: u64 = 0x1000_0000;
/// Bytes there.
pub const STATE_BYTES: usize = 0x5000;
/// The XSAVE area to load, from [`STATE`].
pub const XSAVE_IN: u64 = 0x1000;
/// The XSAVE area that was stored, from [`STATE`].
pub const XSAVE_OUT: u64 = 0x3000;
/// Bytes of an XSAVE area: more than x87, SSE, AVX and AVX-512 state take.
pub const XSAVE_BYTES: usize = 0x1000;

/// Where the instruction and the landing pads are.
pub const CODE: u64 = 0x1800_0000;
/// Bytes there.
pub const CODE_BYTES: usize = 0x2000;
/// Where landing pads begin, from [`CODE`].
pub const PADS: u64 = 0x1000;
/// From one landing pad to the next.
pub const PAD_BYTES: u64 = 0x20;
/// Landing pads. Pad 0 is the code behind the instruction.
pub const PAD_COUNT: u64 = 8;
/// 64-bit code that ends a run at a pad, from [`CODE`]; one for each pad.
pub const STUBS: u64 = 0x1800;

/// Address of a landing pad, 1 to [`PAD_COUNT`] - 1.
pub const fn pad(number: u64) -> u64 {
    CODE + PADS + number * PAD_BYTES
}

/// The window, at an address below 2 GiB.
pub const LOW: u64 = 0x2000_0000;
/// The same at an address below 4 GiB.
pub const MID: u64 = 0xd000_0000;
/// The same at an address that 64-bit code alone reaches.
pub const HIGH: u64 = 0x5a5a_2000_0000;
/// Pages of the window.
pub const PAGES: usize = 16;
/// Bytes of the window.
pub const WINDOW: usize = PAGES * PAGE as usize;
/// Around the window there is nothing.
pub const GUARD: u64 = 0x10_0000;

/// What a page of the window allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Reads and writes.
    Write,
    /// Reads.
    Read,
    /// Nothing: there is no page.
    None,
}

/// The rights of each page: every pair of neighbours occurs.
pub const RIGHTS: [Rights; PAGES] = {
    use Rights::{None as N, Read as R, Write as W};
    [W, W, W, R, R, W, W, N, N, R, N, W, W, W, W, W]
};
