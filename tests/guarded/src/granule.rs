// SPDX-License-Identifier: GPL-2.0

//! How many bytes are protected together.

/// A size of protected units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granule {
    bytes: u64,
}

impl Granule {
    /// Sub-pages of 128 bytes.
    pub const SUBPAGE: Self = Self { bytes: 128 };
    /// Pages of 4096 bytes.
    pub const PAGE: Self = Self { bytes: 4096 };

    /// Bytes of a unit.
    pub const fn bytes(self) -> u64 {
        self.bytes
    }

    /// The unit that holds a byte.
    pub const fn unit(self, address: u64) -> u64 {
        address / self.bytes
    }

    /// The address that is to units of this size what `address` is to sub-pages: in the
    /// same unit, as far from the boundary that is nearer. So bytes that follow each
    /// other, 64 at most, do so here too.
    pub const fn scale(self, address: u64) -> u64 {
        const SUBPAGE: u64 = Granule::SUBPAGE.bytes;
        let (unit, offset) = (address / SUBPAGE, address % SUBPAGE);
        let grown = if offset < SUBPAGE / 2 {
            0
        } else {
            self.bytes - SUBPAGE
        };
        unit * self.bytes + offset + grown
    }
}
