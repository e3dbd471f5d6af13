// SPDX-License-Identifier: GPL-2.0

//! VMCS fields: every encoding the module uses, and the seam to a current VMCS.
//!
//! ```text
//!  31        15 14 13 12 11 10 9            1  0
//! +------------+-----+--+-----+--------------+--+
//! |     0      |width| 0|type |    index     | A|   SDM 3C 25.11.2, table 25-21
//! +------------+-----+--+-----+--------------+--+
//!   width: 0 = 16-bit, 1 = 64-bit, 2 = 32-bit, 3 = natural
//!   type:  0 = control, 1 = VM-exit information (read-only), 2 = guest, 3 = host
//!   A:     1 = high half of a 64-bit field; never used by a 64-bit hypervisor
//! ```

use core::marker::PhantomData;

/// One of the four widths of VMCS fields (SDM 3C 25.11.2).
pub trait Width: Copy {
    /// What a VMREAD of such a field yields.
    type Raw: Copy;
    /// Bits 14:13 of the encoding.
    const CODE: u32;
    /// Takes the value out of the 64-bit register of VMREAD.
    fn from_register(register: u64) -> Self::Raw;
    /// Zero-extends the value into the 64-bit register of VMWRITE.
    fn into_register(raw: Self::Raw) -> u64;
}

macro_rules! width {
    ($(#[$doc:meta])* $name:ident, $raw:ty, $code:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {}

        impl Width for $name {
            type Raw = $raw;
            const CODE: u32 = $code;

            #[inline]
            fn from_register(register: u64) -> $raw {
                // Hardware zero-extends narrow fields, so the cut loses nothing.
                register as $raw
            }

            #[inline]
            fn into_register(raw: $raw) -> u64 {
                u64::from(raw)
            }
        }
    };
}

width!(
    /// A 16-bit field.
    W16, u16, 0
);
width!(
    /// A 64-bit field.
    W64, u64, 1
);
width!(
    /// A 32-bit field.
    W32, u32, 2
);
width!(
    /// A natural-width field: 64 bits on a 64-bit host.
    Nat, u64, 3
);

/// The encoding of a VMCS field of width `W`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<W> {
    encoding: u32,
    width: PhantomData<W>,
}

impl<W: Width> Field<W> {
    /// Checks at compile time that `encoding` is one of width `W`: a field
    /// read through the wrong width silently loses its upper half.
    #[inline]
    const fn new(encoding: u32) -> Self {
        assert!(
            (encoding >> 13) & 3 == W::CODE,
            "width does not match the encoding"
        );
        assert!(encoding & 1 == 0, "high half of a 64-bit field");
        assert!(encoding & (1 << 12) == 0 && encoding >> 15 == 0, "reserved");
        Self {
            encoding,
            width: PhantomData,
        }
    }

    /// The operand of VMREAD and VMWRITE.
    #[inline]
    pub const fn encoding(self) -> u32 {
        self.encoding
    }
}

/// The VMCS that is current on this CPU.
///
/// Reads and writes do not fail at this seam: a VMfail would mean that the
/// module is wrong about its own state, which the implementor reports and turns
/// into a dead vCPU.
pub trait Vmcs {
    /// VMREAD.
    fn read_raw(&self, encoding: u32) -> u64;
    /// VMWRITE.
    fn write_raw(&self, encoding: u32, value: u64);
}

/// Width-checked access to a [`Vmcs`].
pub trait VmcsExt: Vmcs {
    /// Reads a field.
    #[inline]
    fn read<W: Width>(&self, field: Field<W>) -> W::Raw {
        W::from_register(self.read_raw(field.encoding()))
    }

    /// Writes a field.
    #[inline]
    fn write<W: Width>(&self, field: Field<W>, value: W::Raw) {
        self.write_raw(field.encoding(), W::into_register(value));
    }
}

impl<V: Vmcs + ?Sized> VmcsExt for V {}

macro_rules! fields {
    ($($width:ident { $($name:ident = $encoding:literal,)+ })+) => {
        $($(
            #[doc = concat!("`", stringify!($name), "`, encoding ", stringify!($encoding), " (SDM 3D appendix B).")]
            pub const $name: Field<$width> = Field::new($encoding);
        )+)+

        /// Every encoding of this file, for tests and dumps.
        pub const ALL: &[(&str, u32)] = &[$($((stringify!($name), $encoding),)+)+];
    };
}

fields! {
    W16 {
        VPID = 0x0000,
        GUEST_ES_SELECTOR = 0x0800,
        GUEST_CS_SELECTOR = 0x0802,
        GUEST_SS_SELECTOR = 0x0804,
        GUEST_DS_SELECTOR = 0x0806,
        GUEST_FS_SELECTOR = 0x0808,
        GUEST_GS_SELECTOR = 0x080a,
        GUEST_LDTR_SELECTOR = 0x080c,
        GUEST_TR_SELECTOR = 0x080e,
        HOST_ES_SELECTOR = 0x0c00,
        HOST_CS_SELECTOR = 0x0c02,
        HOST_SS_SELECTOR = 0x0c04,
        HOST_DS_SELECTOR = 0x0c06,
        HOST_FS_SELECTOR = 0x0c08,
        HOST_GS_SELECTOR = 0x0c0a,
        HOST_TR_SELECTOR = 0x0c0c,
    }
    W64 {
        IO_BITMAP_A = 0x2000,
        IO_BITMAP_B = 0x2002,
        MSR_BITMAP = 0x2004,
        VM_EXIT_MSR_STORE_ADDR = 0x2006,
        VM_EXIT_MSR_LOAD_ADDR = 0x2008,
        VM_ENTRY_MSR_LOAD_ADDR = 0x200a,
        EXECUTIVE_VMCS_POINTER = 0x200c,
        TSC_OFFSET = 0x2010,
        VIRTUAL_APIC_ADDR = 0x2012,
        APIC_ACCESS_ADDR = 0x2014,
        EPT_POINTER = 0x201a,
        VMREAD_BITMAP = 0x2026,
        VMWRITE_BITMAP = 0x2028,
        XSS_EXIT_BITMAP = 0x202c,
        ENCLS_EXITING_BITMAP = 0x202e,
        SPPTP = 0x2030,
        GUEST_PHYSICAL_ADDRESS = 0x2400,
        VMCS_LINK_POINTER = 0x2800,
        GUEST_IA32_DEBUGCTL = 0x2802,
        GUEST_IA32_PAT = 0x2804,
        GUEST_IA32_EFER = 0x2806,
        GUEST_IA32_PERF_GLOBAL_CTRL = 0x2808,
        GUEST_PDPTE0 = 0x280a,
        GUEST_PDPTE1 = 0x280c,
        GUEST_PDPTE2 = 0x280e,
        GUEST_PDPTE3 = 0x2810,
        GUEST_IA32_BNDCFGS = 0x2812,
        HOST_IA32_PAT = 0x2c00,
        HOST_IA32_EFER = 0x2c02,
        HOST_IA32_PERF_GLOBAL_CTRL = 0x2c04,
    }
    W32 {
        PIN_BASED_VM_EXEC_CONTROL = 0x4000,
        CPU_BASED_VM_EXEC_CONTROL = 0x4002,
        EXCEPTION_BITMAP = 0x4004,
        PAGE_FAULT_ERROR_CODE_MASK = 0x4006,
        PAGE_FAULT_ERROR_CODE_MATCH = 0x4008,
        CR3_TARGET_COUNT = 0x400a,
        VM_EXIT_CONTROLS = 0x400c,
        VM_EXIT_MSR_STORE_COUNT = 0x400e,
        VM_EXIT_MSR_LOAD_COUNT = 0x4010,
        VM_ENTRY_CONTROLS = 0x4012,
        VM_ENTRY_MSR_LOAD_COUNT = 0x4014,
        VM_ENTRY_INTR_INFO = 0x4016,
        VM_ENTRY_EXCEPTION_ERROR_CODE = 0x4018,
        VM_ENTRY_INSTRUCTION_LEN = 0x401a,
        TPR_THRESHOLD = 0x401c,
        SECONDARY_VM_EXEC_CONTROL = 0x401e,
        PLE_GAP = 0x4020,
        PLE_WINDOW = 0x4022,
        VM_INSTRUCTION_ERROR = 0x4400,
        VM_EXIT_REASON = 0x4402,
        VM_EXIT_INTR_INFO = 0x4404,
        VM_EXIT_INTR_ERROR_CODE = 0x4406,
        IDT_VECTORING_INFO = 0x4408,
        IDT_VECTORING_ERROR_CODE = 0x440a,
        VM_EXIT_INSTRUCTION_LEN = 0x440c,
        VM_EXIT_INSTRUCTION_INFO = 0x440e,
        GUEST_ES_LIMIT = 0x4800,
        GUEST_CS_LIMIT = 0x4802,
        GUEST_SS_LIMIT = 0x4804,
        GUEST_DS_LIMIT = 0x4806,
        GUEST_FS_LIMIT = 0x4808,
        GUEST_GS_LIMIT = 0x480a,
        GUEST_LDTR_LIMIT = 0x480c,
        GUEST_TR_LIMIT = 0x480e,
        GUEST_GDTR_LIMIT = 0x4810,
        GUEST_IDTR_LIMIT = 0x4812,
        GUEST_ES_AR_BYTES = 0x4814,
        GUEST_CS_AR_BYTES = 0x4816,
        GUEST_SS_AR_BYTES = 0x4818,
        GUEST_DS_AR_BYTES = 0x481a,
        GUEST_FS_AR_BYTES = 0x481c,
        GUEST_GS_AR_BYTES = 0x481e,
        GUEST_LDTR_AR_BYTES = 0x4820,
        GUEST_TR_AR_BYTES = 0x4822,
        GUEST_INTERRUPTIBILITY_STATE = 0x4824,
        GUEST_ACTIVITY_STATE = 0x4826,
        GUEST_SYSENTER_CS = 0x482a,
        VMX_PREEMPTION_TIMER_VALUE = 0x482e,
        HOST_SYSENTER_CS = 0x4c00,
    }
    Nat {
        CR0_GUEST_HOST_MASK = 0x6000,
        CR4_GUEST_HOST_MASK = 0x6002,
        CR0_READ_SHADOW = 0x6004,
        CR4_READ_SHADOW = 0x6006,
        EXIT_QUALIFICATION = 0x6400,
        GUEST_LINEAR_ADDRESS = 0x640a,
        GUEST_CR0 = 0x6800,
        GUEST_CR3 = 0x6802,
        GUEST_CR4 = 0x6804,
        GUEST_ES_BASE = 0x6806,
        GUEST_CS_BASE = 0x6808,
        GUEST_SS_BASE = 0x680a,
        GUEST_DS_BASE = 0x680c,
        GUEST_FS_BASE = 0x680e,
        GUEST_GS_BASE = 0x6810,
        GUEST_LDTR_BASE = 0x6812,
        GUEST_TR_BASE = 0x6814,
        GUEST_GDTR_BASE = 0x6816,
        GUEST_IDTR_BASE = 0x6818,
        GUEST_DR7 = 0x681a,
        GUEST_RSP = 0x681c,
        GUEST_RIP = 0x681e,
        GUEST_RFLAGS = 0x6820,
        GUEST_PENDING_DBG_EXCEPTIONS = 0x6822,
        GUEST_SYSENTER_ESP = 0x6824,
        GUEST_SYSENTER_EIP = 0x6826,
        HOST_CR0 = 0x6c00,
        HOST_CR3 = 0x6c02,
        HOST_CR4 = 0x6c04,
        HOST_FS_BASE = 0x6c06,
        HOST_GS_BASE = 0x6c08,
        HOST_TR_BASE = 0x6c0a,
        HOST_GDTR_BASE = 0x6c0c,
        HOST_IDTR_BASE = 0x6c0e,
        HOST_IA32_SYSENTER_ESP = 0x6c10,
        HOST_IA32_SYSENTER_EIP = 0x6c12,
        HOST_RSP = 0x6c14,
        HOST_RIP = 0x6c16,
    }
}

/// The four PDPTE fields, in the order of the table in memory.
pub const GUEST_PDPTES: [Field<W64>; 4] = [GUEST_PDPTE0, GUEST_PDPTE1, GUEST_PDPTE2, GUEST_PDPTE3];

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::{BTreeMap, BTreeSet};

    #[derive(Default)]
    struct FakeVmcs(RefCell<BTreeMap<u32, u64>>);

    impl Vmcs for FakeVmcs {
        fn read_raw(&self, encoding: u32) -> u64 {
            *self.0.borrow().get(&encoding).unwrap_or(&0)
        }

        fn write_raw(&self, encoding: u32, value: u64) {
            self.0.borrow_mut().insert(encoding, value);
        }
    }

    #[test]
    fn encodings_are_unique_and_well_formed() {
        let mut seen = BTreeSet::new();
        for (name, encoding) in ALL {
            assert!(seen.insert(encoding), "{name} repeats {encoding:#x}");
            assert_eq!(encoding & 0x1001, 0, "{name}");
        }
    }

    #[test]
    fn guest_and_host_areas_match_names() {
        for (name, encoding) in ALL {
            let area = (encoding >> 10) & 3;
            match area {
                1 => assert!(!name.starts_with("HOST"), "{name}"),
                2 => assert!(!name.starts_with("HOST"), "{name}"),
                3 => assert!(name.starts_with("HOST"), "{name}"),
                _ => assert!(!name.starts_with("HOST_"), "{name}"),
            }
            if name.starts_with("GUEST_")
                && !["GUEST_PHYSICAL_ADDRESS", "GUEST_LINEAR_ADDRESS"].contains(name)
            {
                assert_eq!(area, 2, "{name}");
            }
        }
    }

    #[test]
    fn narrow_reads_drop_what_is_above_the_width() {
        let vmcs = FakeVmcs::default();
        vmcs.write_raw(VM_EXIT_REASON.encoding(), 0xffff_ffff_8000_0021);
        vmcs.write_raw(GUEST_CS_SELECTOR.encoding(), 0x1_0008);
        assert_eq!(vmcs.read(VM_EXIT_REASON), 0x8000_0021);
        assert_eq!(vmcs.read(GUEST_CS_SELECTOR), 8);
    }

    #[test]
    fn writes_zero_extend() {
        let vmcs = FakeVmcs::default();
        vmcs.write(EXCEPTION_BITMAP, u32::MAX);
        vmcs.write(GUEST_RIP, u64::MAX);
        assert_eq!(vmcs.read_raw(EXCEPTION_BITMAP.encoding()), 0xffff_ffff);
        assert_eq!(vmcs.read(GUEST_RIP), u64::MAX);
    }

    #[test]
    fn anchors_from_the_manual() {
        assert_eq!(SPPTP.encoding(), 0x2030);
        assert_eq!(EPT_POINTER.encoding(), 0x201a);
        assert_eq!(GUEST_RIP.encoding(), 0x681e);
        assert_eq!(HOST_RIP.encoding(), 0x6c16);
        assert_eq!(GUEST_TR_AR_BYTES.encoding(), 0x4822);
    }
}
