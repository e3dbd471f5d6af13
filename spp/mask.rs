// SPDX-License-Identifier: GPL-2.0

//! The write permissions of one page, 128 bytes to the bit.

use core::fmt;

use ept::PAGE_SIZE;

/// Bytes in one sub-page.
pub const SUBPAGE_SIZE: u64 = 128;
/// Sub-pages in one page.
pub const SUBPAGES: u32 = 32;

/// The sub-pages of one 4-KiB page, as a set: bit n is sub-page n, bytes `128 * n` to
/// `128 * n + 127`. As a map of permissions, 1 means writable.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mask(u32);

impl Mask {
    /// Every sub-page: as permissions, a page without protection.
    pub const ALL: Mask = Mask(u32::MAX);
    /// No sub-page: as permissions, a read-only page.
    pub const NONE: Mask = Mask(0);

    /// The set whose bits are `raw`; every value is a set.
    #[inline]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// The bits of the set.
    #[inline]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// The SPP vector that grants these permissions: bit n of the mask moves to bit 2n, odd bits
    /// are reserved and zero (SDM 3C 29.3.4.2).
    #[inline]
    pub const fn vector(self) -> u64 {
        // Each step halves the groups of bits and opens a gap as wide as a group.
        let mut v = self.0 as u64;
        v = (v | v << 16) & 0x0000_ffff_0000_ffff;
        v = (v | v << 8) & 0x00ff_00ff_00ff_00ff;
        v = (v | v << 4) & 0x0f0f_0f0f_0f0f_0f0f;
        v = (v | v << 2) & 0x3333_3333_3333_3333;
        (v | v << 1) & 0x5555_5555_5555_5555
    }

    /// The permissions that an SPP vector grants; `None` if a reserved bit is set, which the
    /// processor answers with an SPP misconfiguration.
    #[inline]
    pub const fn from_vector(vector: u64) -> Option<Mask> {
        if vector & 0xaaaa_aaaa_aaaa_aaaa != 0 {
            return None;
        }
        let mut v = vector;
        v = (v | v >> 1) & 0x3333_3333_3333_3333;
        v = (v | v >> 2) & 0x0f0f_0f0f_0f0f_0f0f;
        v = (v | v >> 4) & 0x00ff_00ff_00ff_00ff;
        v = (v | v >> 8) & 0x0000_ffff_0000_ffff;
        Some(Mask((v | v >> 16) as u32))
    }

    /// The sub-pages that the `len` bytes from byte `offset` of the page touch. What lies beyond
    /// the page belongs to another page's mask; an offset outside touches nothing.
    #[inline]
    pub const fn touched(offset: u16, len: u32) -> Mask {
        let first = offset as u64;
        if first >= PAGE_SIZE || len == 0 {
            return Mask::NONE;
        }
        let past = first + len as u64;
        let last = (if past < PAGE_SIZE { past } else { PAGE_SIZE }) - 1;
        let from = u32::MAX << (first / SUBPAGE_SIZE);
        let to = u32::MAX >> (SUBPAGES as u64 - 1 - last / SUBPAGE_SIZE);
        Mask(from & to)
    }

    /// Whether a write to `touched` is allowed: the processor wants the permission of every
    /// sub-page that a write touches (SDM 3C 29.3.4.2).
    #[inline]
    pub const fn allows(self, touched: Mask) -> bool {
        self.denied(touched).0 == 0
    }

    /// The sub-pages of either set.
    #[inline]
    pub const fn union(self, other: Mask) -> Mask {
        Mask(self.0 | other.0)
    }

    /// The sub-pages of `touched` that deny a write.
    #[inline]
    pub const fn denied(self, touched: Mask) -> Mask {
        Mask(touched.0 & !self.0)
    }
}

impl fmt::Debug for Mask {
    #[inline]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mask({:#010x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Multiplicative walk over the 32-bit numbers, for masks without a pattern.
    fn masks() -> impl Iterator<Item = u32> {
        (0..10_000_u32).map(|i| i.wrapping_mul(0x9e37_79b9))
    }

    #[test]
    fn each_bit_moves_to_its_even_place() {
        for bit in 0..SUBPAGES {
            assert_eq!(Mask(1 << bit).vector(), 1 << (2 * bit), "{bit}");
        }
        assert_eq!(Mask::ALL.vector(), 0x5555_5555_5555_5555);
        assert_eq!(Mask::NONE.vector(), 0);
    }

    #[test]
    fn vector_is_the_union_of_its_bits() {
        for raw in masks() {
            let bits = (0..SUBPAGES).filter(|bit| raw >> bit & 1 == 1);
            let want = bits.fold(0, |v, bit| v | 1_u64 << (2 * bit));
            assert_eq!(Mask(raw).vector(), want);
            assert_eq!(Mask::from_vector(want), Some(Mask(raw)));
        }
    }

    #[test]
    fn odd_bits_are_refused() {
        for bit in 0..64 {
            let even = bit % 2 == 0;
            assert_eq!(Mask::from_vector(1 << bit).is_some(), even, "{bit}");
            assert_eq!(
                Mask::from_vector(Mask::ALL.vector() | 1 << bit).is_some(),
                even
            );
        }
    }

    #[test]
    fn touched_agrees_with_a_byte_by_byte_count() {
        for offset in 0..4096_u32 {
            let mut want = 0;
            for len in 0..=64_u32 {
                assert_eq!(
                    Mask::touched(offset as u16, len),
                    Mask(want),
                    "{offset}+{len}"
                );
                if offset + len < 4096 {
                    want |= 1 << ((offset + len) / 128);
                }
            }
        }
    }

    #[test]
    fn touched_clips_to_the_page() {
        assert_eq!(Mask::touched(0, u32::MAX), Mask::ALL);
        assert_eq!(Mask::touched(0, 4096), Mask::ALL);
        assert_eq!(Mask::touched(4095, u32::MAX), Mask(1 << 31));
        assert_eq!(Mask::touched(4096, 1), Mask::NONE);
        assert_eq!(Mask::touched(u16::MAX, u32::MAX), Mask::NONE);
    }

    #[test]
    fn a_write_needs_every_sub_page_it_touches() {
        for (permissions, touched) in masks().zip(masks().skip(5000)) {
            let each = (0..SUBPAGES).all(|b| touched >> b & 1 == 0 || permissions >> b & 1 == 1);
            let (permissions, touched) = (Mask(permissions), Mask(touched));
            assert_eq!(permissions.allows(touched), each);
            assert_eq!(permissions.denied(touched) == Mask::NONE, each);
        }
        assert!(Mask::NONE.allows(Mask::NONE));
        assert_eq!(Mask(0xf0).denied(Mask(0x3c)), Mask(0x0c));
    }
}
