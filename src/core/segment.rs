// SPDX-License-Identifier: GPL-2.0

//! Segment registers between the ABI and the VMCS.

use ioctl_api::regs::Segment;

/// A segment register as the VMCS holds it (SDM 3C 25.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmcsSegment {
    /// Selector.
    pub selector: u16,
    /// Base address.
    pub base: u64,
    /// Limit, in bytes.
    pub limit: u32,
    /// Access rights, table 25-2.
    pub access: u32,
}

/// Which register a segment is, as far as the rules differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// CS, DS, ES, FS, GS, SS or TR.
    Loaded,
    /// LDTR, whose type has no accessed or busy bit.
    Ldtr,
}

/// Access rights: the segment is not usable.
const UNUSABLE: u32 = 1 << 16;
/// Low bit of the type: accessed, or part of "busy TSS".
const ACCESSED: u32 = 1;
/// The L flag of a code segment.
const LONG: u32 = 1 << 13;
/// The only type of TR in IA-32e mode.
const BUSY_64BIT_TSS: u32 = 11;

impl VmcsSegment {
    /// From the ABI. The accessed bit is set, because VM entry of an
    /// unrestricted guest demands it and user space often leaves it out.
    pub const fn from_abi(abi: &Segment, role: Role) -> Self {
        let mut access = (abi.type_ & 0xf) as u32
            | ((abi.s & 1) as u32) << 4
            | ((abi.dpl & 3) as u32) << 5
            | ((abi.present & 1) as u32) << 7
            | ((abi.avl & 1) as u32) << 12
            | ((abi.l & 1) as u32) << 13
            | ((abi.db & 1) as u32) << 14
            | ((abi.g & 1) as u32) << 15;
        // A usable segment is present, so one that is not cannot be usable.
        if abi.unusable != 0 || abi.present & 1 == 0 {
            access |= UNUSABLE;
        }
        if matches!(role, Role::Loaded) {
            access |= ACCESSED;
        }
        Self {
            selector: abi.selector,
            base: abi.base,
            limit: abi.limit,
            access,
        }
    }

    /// To the ABI.
    pub const fn to_abi(&self) -> Segment {
        let unusable = self.access & UNUSABLE != 0;
        Segment {
            base: self.base,
            limit: self.limit,
            selector: self.selector,
            type_: (self.access & 0xf) as u8,
            present: !unusable as u8,
            dpl: ((self.access >> 5) & 3) as u8,
            db: ((self.access >> 14) & 1) as u8,
            s: ((self.access >> 4) & 1) as u8,
            l: ((self.access >> 13) & 1) as u8,
            g: ((self.access >> 15) & 1) as u8,
            avl: ((self.access >> 12) & 1) as u8,
            unusable: unusable as u8,
            padding: 0,
        }
    }

    /// The L flag: of CS in IA-32e mode, 64-bit code.
    #[inline]
    pub const fn long(&self) -> bool {
        self.access & LONG != 0
    }

    /// Descriptor privilege level; of SS, the current privilege level.
    #[inline]
    pub const fn dpl(&self) -> u8 {
        ((self.access >> 5) & 3) as u8
    }

    /// TR as IA-32e mode demands it: entering that mode does not reload TR, and
    /// VM entry refuses any other type there (SDM 3C 27.3.1.2).
    #[inline]
    pub const fn busy_64bit_tss(&self) -> Self {
        Self {
            access: self.access & !0xf | BUSY_64BIT_TSS,
            ..*self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat_code() -> Segment {
        Segment {
            base: 0x1000,
            limit: 0xffff_ffff,
            selector: 8,
            type_: 11,
            present: 1,
            dpl: 3,
            db: 0,
            s: 1,
            l: 1,
            g: 1,
            avl: 0,
            unusable: 0,
            padding: 0,
        }
    }

    #[test]
    fn access_rights_of_the_manual() {
        let segment = VmcsSegment::from_abi(&flat_code(), Role::Loaded);
        assert_eq!(segment.access, 0xa0fb);
        assert!(segment.long());
        assert_eq!(segment.dpl(), 3);
    }

    /// Every combination of the flags survives the way to the VMCS and back.
    #[test]
    fn round_trip() {
        for bits in 0..1u32 << 12 {
            let bit = |n: u32| (bits >> n & 1) as u8;
            let abi = Segment {
                type_: (bits & 0xf) as u8 | 1,
                dpl: (bits >> 4 & 3) as u8,
                db: bit(6),
                s: bit(7),
                l: bit(8),
                g: bit(9),
                avl: bit(10),
                present: 1 - bit(11),
                unusable: bit(11),
                ..flat_code()
            };
            let there = VmcsSegment::from_abi(&abi, Role::Loaded);
            assert_eq!(there.to_abi(), abi);
            assert_eq!(VmcsSegment::from_abi(&there.to_abi(), Role::Loaded), there);
        }
    }

    #[test]
    fn accessed_bit_is_added_except_for_ldtr() {
        let mut abi = flat_code();
        abi.type_ = 2;
        assert_eq!(VmcsSegment::from_abi(&abi, Role::Loaded).access & 0xf, 3);
        assert_eq!(VmcsSegment::from_abi(&abi, Role::Ldtr).access & 0xf, 2);
    }

    #[test]
    fn not_present_is_unusable() {
        let mut abi = flat_code();
        abi.present = 0;
        let segment = VmcsSegment::from_abi(&abi, Role::Loaded);
        assert_ne!(segment.access & UNUSABLE, 0);
        assert_eq!(segment.to_abi().unusable, 1);
    }

    #[test]
    fn task_register_becomes_64_bit() {
        let mut abi = flat_code();
        (abi.type_, abi.s) = (3, 0);
        let tr = VmcsSegment::from_abi(&abi, Role::Loaded).busy_64bit_tss();
        assert_eq!(tr.access & 0x1f, 11);
    }
}
