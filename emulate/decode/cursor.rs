// SPDX-License-Identifier: GPL-2.0

//! The bytes of an instruction, in order.

use super::DecodeError;
use crate::insn::MAX_BYTES;

/// What is left of the bytes, of which no instruction takes more than 15.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    total: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let rest = bytes.get(..MAX_BYTES).unwrap_or(bytes);
        Self {
            rest,
            total: rest.len(),
        }
    }

    /// Bytes that were read.
    pub(super) const fn consumed(&self) -> u8 {
        self.total.wrapping_sub(self.rest.len()) as u8
    }

    /// The next byte, which stays.
    pub(super) fn peek(&self) -> Result<u8, DecodeError> {
        self.rest.first().copied().ok_or(self.end())
    }

    /// The next `N` bytes.
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(self.end())?;
        self.rest = rest;
        Ok(*bytes)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.take().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.take().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.take().map(u64::from_le_bytes)
    }

    /// A sign-extended number of 1, 2, 4 or 8 bytes.
    pub(super) fn signed(&mut self, size: u8) -> Result<i64, DecodeError> {
        Ok(match size {
            1 => i64::from(self.u8()? as i8),
            2 => i64::from(self.u16()? as i16),
            4 => i64::from(self.u32()? as i32),
            _ => self.u64()? as i64,
        })
    }

    /// What it means that the bytes are at an end.
    const fn end(&self) -> DecodeError {
        if self.total == MAX_BYTES {
            DecodeError::TooLong
        } else {
            DecodeError::NeedMore
        }
    }
}
