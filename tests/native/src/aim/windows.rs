// SPDX-License-Identifier: GPL-2.0

//! The memory that both sides work on, before they do.

use crate::layout::{HIGH, LOW, MID, WINDOW};

/// The window's bytes on both sides.
#[derive(Debug)]
pub struct Windows<'a> {
    /// The processor's.
    pub native: &'a mut [u8],
    /// The emulator's.
    pub model: &'a mut [u8],
}

impl Windows<'_> {
    /// The same for a while.
    pub fn reborrow(&mut self) -> Windows<'_> {
        Windows {
            native: self.native,
            model: self.model,
        }
    }

    fn offset(address: u64, len: usize) -> Option<usize> {
        [LOW, MID, HIGH]
            .into_iter()
            .map(|base| address.wrapping_sub(base))
            .find(|offset| *offset <= (WINDOW - len) as u64)
            .map(|offset| offset as usize)
    }

    /// Writes to both, where the window is.
    pub(super) fn poke(&mut self, address: u64, bytes: &[u8]) {
        if let Some(offset) = Self::offset(address, bytes.len()) {
            for window in [&mut *self.native, &mut *self.model] {
                window[offset..][..bytes.len()].copy_from_slice(bytes);
            }
        }
    }

    /// The `len` bytes at an address, little-endian; elsewhere 0.
    pub(super) fn peek(&self, address: u64, len: u8) -> u64 {
        let len = usize::from(len);
        let mut bytes = [0; 8];
        if let Some(offset) = Self::offset(address, len) {
            bytes[..len].copy_from_slice(&self.model[offset..][..len]);
        }
        u64::from_le_bytes(bytes)
    }
}
