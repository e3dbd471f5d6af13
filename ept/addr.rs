// SPDX-License-Identifier: GPL-2.0

//! Address newtypes: a guest-physical, guest-linear or host-physical number never
//! passes for one of the others.

use crate::Level;

/// Bytes in the smallest page that EPT maps.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Wraps a raw number; every value is accepted.
            #[inline]
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The raw number.
            #[inline]
            pub const fn get(self) -> u64 {
                self.0
            }
        }
    };
}

address! {
    /// Guest-physical address, in bytes.
    Gpa
}
address! {
    /// Guest-linear address, in bytes.
    Gva
}
address! {
    /// Host-physical address, in bytes.
    Hpa
}
address! {
    /// Guest frame number: a guest-physical address in units of [`PAGE_SIZE`].
    Gfn
}

impl Gpa {
    /// The frame that holds this byte.
    #[inline]
    pub const fn gfn(self) -> Gfn {
        Gfn(self.0 >> PAGE_SHIFT)
    }

    /// Offset of this byte in its 4-KiB page, 0 to 4095.
    #[inline]
    pub const fn page_offset(self) -> u16 {
        (self.0 & (PAGE_SIZE - 1)) as u16
    }
}

impl Gfn {
    /// First frame number that a four-level EPT cannot translate (2^48 bytes; SDM 3C 29.3.2).
    pub const END: Gfn = Gfn(1 << (48 - PAGE_SHIFT));

    /// Address of the first byte of the frame. Frame numbers of 2^52 and more have
    /// none, and lose their upper bits.
    #[inline]
    pub const fn gpa(self) -> Gpa {
        Gpa(self.0 << PAGE_SHIFT)
    }

    /// The frame `pages` further on, or `None` where the number would wrap.
    #[inline]
    pub const fn checked_add(self, pages: u64) -> Option<Gfn> {
        match self.0.checked_add(pages) {
            Some(raw) => Some(Gfn(raw)),
            None => None,
        }
    }

    /// First frame of the naturally aligned region that one entry of `level` covers.
    #[inline]
    pub const fn align_down(self, level: Level) -> Gfn {
        Gfn(self.0 & !(level.pages() - 1))
    }

    /// Whether a four-level EPT can translate this frame.
    #[inline]
    pub const fn translatable(self) -> bool {
        self.0 < Self::END.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpa_splits_into_frame_and_offset() {
        let gpa = Gpa::new(0x1_2345_6789);
        assert_eq!(gpa.gfn(), Gfn::new(0x12_3456));
        assert_eq!(gpa.page_offset(), 0x789);
        assert_eq!(gpa.gfn().gpa(), Gpa::new(0x1_2345_6000));
    }

    #[test]
    fn gfn_addition_refuses_to_wrap() {
        assert_eq!(Gfn::new(7).checked_add(3), Some(Gfn::new(10)));
        assert_eq!(Gfn::new(u64::MAX).checked_add(1), None);
    }

    #[test]
    fn align_down_keeps_the_region() {
        let gfn = Gfn::new(0xf_ffff_ffff);
        assert_eq!(gfn.align_down(Level::Pt), gfn);
        assert_eq!(gfn.align_down(Level::Pd), Gfn::new(0xf_ffff_fe00));
        assert_eq!(gfn.align_down(Level::Pdpt), Gfn::new(0xf_fffc_0000));
        assert_eq!(gfn.align_down(Level::Pml4), Gfn::new(0xf_f800_0000));
    }

    #[test]
    fn four_levels_reach_48_bits() {
        assert!(Gpa::new((1 << 48) - 1).gfn().translatable());
        assert!(!Gpa::new(1 << 48).gfn().translatable());
    }
}
