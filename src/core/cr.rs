// SPDX-License-Identifier: GPL-2.0

//! Control registers of the guest: what it may write, what it sees, what the
//! hardware runs with.
//!
//! ```text
//!            guest-visible value (Control)
//!              |            ^
//!   real_cr0/4 |            | visible
//!              v            |
//!   GUEST_CRn field   READ_SHADOW, GUEST_HOST_MASK: a bit of the mask reads
//!                     from the shadow, and writing it with another value exits
//! ```

use bitflags::bitflags;

bitflags! {
    /// CR0 (SDM 3A 2.5).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Cr0: u64 {
        /// Protection enable.
        const PE = 1 << 0;
        /// Monitor coprocessor.
        const MP = 1 << 1;
        /// Emulation.
        const EM = 1 << 2;
        /// Task switched.
        const TS = 1 << 3;
        /// Extension type; always 1.
        const ET = 1 << 4;
        /// Numeric error.
        const NE = 1 << 5;
        /// Write protect.
        const WP = 1 << 16;
        /// Alignment mask.
        const AM = 1 << 18;
        /// Not write-through.
        const NW = 1 << 29;
        /// Cache disable.
        const CD = 1 << 30;
        /// Paging.
        const PG = 1 << 31;
    }
}

bitflags! {
    /// CR4 (SDM 3A 2.5): the bits a guest can be given.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Cr4: u64 {
        /// Virtual-8086 mode extensions.
        const VME = 1 << 0;
        /// Protected-mode virtual interrupts.
        const PVI = 1 << 1;
        /// Time stamp disable.
        const TSD = 1 << 2;
        /// Debugging extensions.
        const DE = 1 << 3;
        /// Page size extensions.
        const PSE = 1 << 4;
        /// Physical address extension.
        const PAE = 1 << 5;
        /// Machine-check enable.
        const MCE = 1 << 6;
        /// Page global enable.
        const PGE = 1 << 7;
        /// Performance counter enable.
        const PCE = 1 << 8;
        /// FXSAVE and FXRSTOR support.
        const OSFXSR = 1 << 9;
        /// Unmasked SIMD exceptions.
        const OSXMMEXCPT = 1 << 10;
        /// User-mode instruction prevention.
        const UMIP = 1 << 11;
        /// VMX enable: the host's, never the guest's.
        const VMXE = 1 << 13;
        /// FSGSBASE instructions.
        const FSGSBASE = 1 << 16;
        /// Process-context identifiers.
        const PCIDE = 1 << 17;
        /// XSAVE and extended states.
        const OSXSAVE = 1 << 18;
        /// Supervisor-mode execution prevention.
        const SMEP = 1 << 20;
        /// Supervisor-mode access prevention.
        const SMAP = 1 << 21;
    }
}

bitflags! {
    /// IA32_EFER (SDM 3A 2.2.1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Efer: u64 {
        /// SYSCALL enable.
        const SCE = 1 << 0;
        /// Long mode enable.
        const LME = 1 << 8;
        /// Long mode active.
        const LMA = 1 << 10;
        /// Execute disable.
        const NXE = 1 << 11;
    }
}

/// Bits of CR0 that the guest may change without an exit: none of them has a
/// rule of its own or means anything to the host.
const CR0_GUEST_OWNED: Cr0 = Cr0::MP
    .union(Cr0::EM)
    .union(Cr0::TS)
    .union(Cr0::WP)
    .union(Cr0::AM);

/// Likewise for CR4, as far as the guest has the feature.
const CR4_GUEST_OWNED: Cr4 = Cr4::PVI
    .union(Cr4::TSD)
    .union(Cr4::DE)
    .union(Cr4::PGE)
    .union(Cr4::PCE)
    .union(Cr4::OSFXSR)
    .union(Cr4::OSXMMEXCPT)
    .union(Cr4::FSGSBASE);

/// Changes of these reload the PDPTEs under PAE paging (SDM 3A 4.4.1).
const CR0_RELOADS_PDPTES: Cr0 = Cr0::CD.union(Cr0::NW).union(Cr0::PG);
/// Likewise for CR4.
const CR4_RELOADS_PDPTES: Cr4 = Cr4::PAE.union(Cr4::PGE).union(Cr4::PSE).union(Cr4::SMEP);

/// The guest has to get #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;

/// What the guest's CPUID allows it to set in control registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Bits of CR4 that exist for the guest.
    pub cr4: Cr4,
    /// Bits of EFER that exist for the guest, LMA among them.
    pub efer: Efer,
    /// MAXPHYADDR, in bits.
    pub physical_bits: u8,
}

impl Features {
    /// Bits of CR4 that every guest has.
    pub const BASE_CR4: Cr4 = Cr4::VME
        .union(Cr4::PVI)
        .union(Cr4::TSD)
        .union(Cr4::DE)
        .union(Cr4::PSE)
        .union(Cr4::PAE)
        .union(Cr4::MCE)
        .union(Cr4::PGE)
        .union(Cr4::PCE)
        .union(Cr4::OSFXSR)
        .union(Cr4::OSXMMEXCPT);

    /// Whether an address has no bit that is reserved by MAXPHYADDR.
    #[inline]
    pub const fn physical(&self, address: u64) -> bool {
        match address.checked_shr(self.physical_bits as u32) {
            Some(rest) => rest == 0,
            None => true,
        }
    }
}

/// The guest-visible values of the registers that decide its mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// CR0.
    pub cr0: Cr0,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: Cr4,
    /// IA32_EFER.
    pub efer: Efer,
}

/// The outcome of a write to CR0 or CR4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The new values.
    pub control: Control,
    /// The four PDPTEs must be read from CR3 and checked; #GP(0) if one is bad.
    pub load_pdptes: bool,
}

impl Control {
    /// After a reset (SDM 3A table 10-1).
    pub const RESET: Self = Self {
        cr0: Cr0::ET.union(Cr0::NW).union(Cr0::CD),
        cr3: 0,
        cr4: Cr4::empty(),
        efer: Efer::empty(),
    };

    /// Paging is on.
    #[inline]
    pub const fn paging(&self) -> bool {
        self.cr0.contains(Cr0::PG)
    }

    /// IA-32e mode is active: "IA-32e mode guest" of the VM-entry controls.
    #[inline]
    pub const fn long_mode(&self) -> bool {
        self.efer.contains(Efer::LMA)
    }

    /// PAE paging: the four PDPTEs are processor state.
    #[inline]
    pub const fn pae_paging(&self) -> bool {
        self.paging() && self.cr4.contains(Cr4::PAE) && !self.long_mode()
    }

    /// MOV to CR0. `cs_l` is the L flag of CS (SDM 2A/2B "MOV to control registers").
    ///
    /// # Errors
    ///
    /// [`GeneralProtection`] if the processor would raise #GP(0).
    pub fn set_cr0(&self, value: u64, cs_l: bool) -> Result<Written, GeneralProtection> {
        if !cr0_valid(value) {
            return Err(GeneralProtection);
        }
        // Reserved bits below 32 are ignored and ET cannot be cleared.
        let cr0 = Cr0::from_bits_truncate(value) | Cr0::ET;
        let mut new = Self { cr0, ..*self };
        if cr0.contains(Cr0::PG) && !self.paging() && self.efer.contains(Efer::LME) {
            if !self.cr4.contains(Cr4::PAE) || cs_l {
                return Err(GeneralProtection);
            }
            new.efer |= Efer::LMA;
        }
        if !cr0.contains(Cr0::PG) && self.paging() {
            let in_64bit_code = self.long_mode() && cs_l;
            if in_64bit_code || self.cr4.contains(Cr4::PCIDE) {
                return Err(GeneralProtection);
            }
            new.efer -= Efer::LMA;
        }
        let changed = (cr0 ^ self.cr0).intersects(CR0_RELOADS_PDPTES);
        Ok(Written {
            control: new,
            load_pdptes: new.pae_paging() && changed,
        })
    }

    /// MOV to CR4.
    ///
    /// # Errors
    ///
    /// [`GeneralProtection`] if the processor would raise #GP(0).
    pub fn set_cr4(&self, value: u64, features: &Features) -> Result<Written, GeneralProtection> {
        let cr4 = Cr4::from_bits_retain(value);
        if !cr4_valid(value, features) {
            return Err(GeneralProtection);
        }
        if self.long_mode() && !cr4.contains(Cr4::PAE) {
            return Err(GeneralProtection);
        }
        let turns_on = cr4.contains(Cr4::PCIDE) && !self.cr4.contains(Cr4::PCIDE);
        if turns_on && (!self.long_mode() || self.cr3 & 0xfff != 0) {
            return Err(GeneralProtection);
        }
        let new = Self { cr4, ..*self };
        let changed = (cr4 ^ self.cr4).intersects(CR4_RELOADS_PDPTES);
        Ok(Written {
            control: new,
            load_pdptes: new.pae_paging() && changed,
        })
    }

    /// CLTS.
    #[inline]
    pub fn clts(&self) -> Self {
        Self {
            cr0: self.cr0 - Cr0::TS,
            ..*self
        }
    }

    /// LMSW, which writes the low four bits of CR0 but cannot clear PE.
    ///
    /// # Errors
    ///
    /// [`GeneralProtection`] as for [`set_cr0`](Self::set_cr0).
    #[inline]
    pub fn lmsw(&self, word: u16, cs_l: bool) -> Result<Written, GeneralProtection> {
        let kept = self.cr0.bits() & !0xe;
        self.set_cr0(kept | u64::from(word & 0xf), cs_l)
    }

    /// WRMSR to IA32_EFER; LMA keeps its value whatever is written.
    ///
    /// # Errors
    ///
    /// [`GeneralProtection`] for reserved bits, and for a change of LME while
    /// paging is on.
    #[inline]
    pub fn set_efer(&self, value: u64, features: &Features) -> Result<Self, GeneralProtection> {
        let efer = Efer::from_bits_retain(value);
        if !features.efer.contains(efer) {
            return Err(GeneralProtection);
        }
        if self.paging() && (efer ^ self.efer).contains(Efer::LME) {
            return Err(GeneralProtection);
        }
        Ok(Self {
            efer: (efer - Efer::LMA) | (self.efer & Efer::LMA),
            ..*self
        })
    }

    /// GUEST_CR0 field: `fixed` is what VM entry demands. CD and NW stay clear,
    /// as the guest must not turn off the host's caches.
    #[inline]
    pub const fn real_cr0(&self, fixed: u64) -> u64 {
        (self.cr0.bits() & !Cr0::CD.union(Cr0::NW).bits()) | fixed
    }

    /// GUEST_CR4 field: `fixed` is what VM entry demands, VMXE among it.
    #[inline]
    pub const fn real_cr4(&self, fixed: u64) -> u64 {
        self.cr4.bits() | fixed
    }
}

/// CR0_GUEST_HOST_MASK: the bits that belong to the host.
#[inline]
pub const fn cr0_mask() -> u64 {
    !CR0_GUEST_OWNED.bits()
}

/// CR4_GUEST_HOST_MASK for a guest with these features: a bit that it lacks
/// stays with the host, so that setting it raises #GP.
#[inline]
pub const fn cr4_mask(features: &Features) -> u64 {
    !(CR4_GUEST_OWNED.bits() & features.cr4.bits())
}

/// The guest-visible value from the field, the read shadow and the mask.
#[inline]
pub const fn visible(real: u64, shadow: u64, mask: u64) -> u64 {
    (real & !mask) | (shadow & mask)
}

/// Whether CR0 can have this value at all (SDM 3A 2.5).
#[inline]
pub const fn cr0_valid(value: u64) -> bool {
    let cr0 = Cr0::from_bits_retain(value);
    let write_through_without_cache = cr0.contains(Cr0::NW) && !cr0.contains(Cr0::CD);
    let paging_without_protection = cr0.contains(Cr0::PG) && !cr0.contains(Cr0::PE);
    value >> 32 == 0 && !write_through_without_cache && !paging_without_protection
}

/// Whether CR4 has only bits that the guest's CPUID offers.
#[inline]
pub const fn cr4_valid(value: u64, features: &Features) -> bool {
    value & !features.cr4.bits() == 0
}

/// Whether MOV to CR8 accepts the value.
#[inline]
pub const fn cr8_valid(value: u64) -> bool {
    value <= 15
}

/// Whether an address is canonical with 48-bit linear addresses.
#[inline]
pub const fn canonical(address: u64) -> bool {
    let upper = address >> 47;
    upper == 0 || upper == (1 << 17) - 1
}

/// Whether the four PDPTEs can be loaded (SDM 3A 4.4.1): one that is present
/// must have its reserved bits clear.
#[inline]
pub fn pdptes_valid(pdptes: &[u64; 4], features: &Features) -> bool {
    /// Bits 2:1 and 8:5.
    const RESERVED: u64 = 0x1e6;
    pdptes
        .iter()
        .all(|entry| entry & 1 == 0 || (entry & RESERVED == 0 && features.physical(*entry)))
}

#[cfg(test)]
#[path = "tests/cr.rs"]
mod tests;
