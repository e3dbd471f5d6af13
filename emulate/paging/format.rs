// SPDX-License-Identifier: GPL-2.0

//! The formats of paging structures (SDM 3A 4.3 to 4.5).

use ept::Gpa;

use super::{Paging, CR4_PSE, EFER_NXE};
use crate::GuestPhys;

pub(super) const PRESENT: u64 = 1 << 0;
pub(super) const WRITABLE: u64 = 1 << 1;
pub(super) const USER: u64 = 1 << 2;
pub(super) const ACCESSED: u64 = 1 << 5;
pub(super) const DIRTY: u64 = 1 << 6;
pub(super) const LARGE: u64 = 1 << 7;
pub(super) const NO_EXECUTE: u64 = 1 << 63;
/// Bits 51:12 of an 8-byte entry.
pub(super) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// A format of paging structures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    TwoLevel,
    Pae,
    FourLevel,
    FiveLevel,
}

impl Format {
    /// Linear addresses have more than 32 bits.
    pub(super) const fn wide(self) -> bool {
        matches!(self, Self::FourLevel | Self::FiveLevel)
    }

    /// Bits of the linear address that index one table.
    const fn index_bits(self) -> u32 {
        match self {
            Self::TwoLevel => 10,
            Self::Pae | Self::FourLevel | Self::FiveLevel => 9,
        }
    }

    /// Tables in memory.
    pub(super) const fn levels(self) -> u32 {
        match self {
            Self::TwoLevel | Self::Pae => 2,
            Self::FourLevel => 4,
            Self::FiveLevel => 5,
        }
    }

    pub(super) const fn entry_bytes(self) -> u8 {
        match self {
            Self::TwoLevel => 4,
            Self::Pae | Self::FourLevel | Self::FiveLevel => 8,
        }
    }

    /// Lowest bit of the linear address that indexes a table of `level`, 12 to 48.
    const fn shift(self, level: u32) -> u32 {
        12u32.wrapping_add(level.wrapping_sub(1).wrapping_mul(self.index_bits()))
    }

    /// Where the entry for a linear address is in a table of `level`.
    pub(super) const fn entry_address(self, table: u64, level: u32, linear: u64) -> Gpa {
        let index = linear.wrapping_shr(self.shift(level)) & ((1 << self.index_bits()) - 1);
        Gpa::new(table | index.wrapping_mul(self.entry_bytes() as u64))
    }

    /// Reads an entry. One of 4 bytes has no bit 63, so it comes back zero-extended.
    pub(super) fn read(self, memory: &mut (impl GuestPhys + ?Sized), at: Gpa) -> Option<u64> {
        match self {
            Self::TwoLevel => memory.read_u32(at).map(u64::from),
            Self::Pae | Self::FourLevel | Self::FiveLevel => memory.read_u64(at),
        }
    }

    /// The entry maps a page larger than 4 KiB.
    pub(super) const fn large(self, paging: &Paging, level: u32, entry: u64) -> bool {
        let possible = match self {
            Self::TwoLevel => level == 2 && paging.cr4 & CR4_PSE != 0,
            Self::Pae => level == 2,
            Self::FourLevel | Self::FiveLevel => level == 2 || level == 3,
        };
        possible && entry & LARGE != 0
    }

    /// Bits that must be 0 in an entry (SDM 3A tables 4-4 to 4-20).
    pub(super) const fn reserved(self, paging: &Paging, level: u32, large: bool) -> u64 {
        let missing = paging.reserved_address;
        let mut bits = match (self, level, large) {
            // Bits 20:13 of a 4-MByte page are bits 39:32 of its address.
            (Self::TwoLevel, _, true) => return 1 << 21 | (missing >> 32 & 0xff) << 13,
            (Self::TwoLevel, _, false) => return 0,
            (_, 2, true) => 0x1f_e000,
            (_, 3, true) => 0x3fff_e000,
            (_, 4 | 5, _) => LARGE,
            _ => 0,
        };
        bits |= missing & ADDRESS;
        if matches!(self, Self::Pae) {
            bits |= 0x7ff << 52;
        }
        if paging.efer & EFER_NXE == 0 {
            bits |= NO_EXECUTE;
        }
        bits
    }

    /// The protection key in the entry of a page; other formats than these have none.
    pub(super) const fn key(self, entry: u64) -> u32 {
        (entry >> 59 & 0xf) as u32
    }

    /// The address that the entry of a page, at `level`, translates to.
    pub(super) const fn address(self, level: u32, large: bool, entry: u64, linear: u64) -> Gpa {
        let frame = match self {
            // PSE-36: bits 20:13 are bits 39:32 of the address.
            Self::TwoLevel if large => entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32,
            _ => entry & ADDRESS,
        };
        let offset = 1u64.wrapping_shl(self.shift(level)).wrapping_sub(1);
        Gpa::new(frame & !offset | linear & offset)
    }
}
