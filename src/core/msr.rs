// SPDX-License-Identifier: GPL-2.0

//! Model-specific registers: which a guest has, where each lives, and what may
//! be written to it.

use crate::cr::{canonical, Features};
use crate::field::{
    Field, Nat, GUEST_FS_BASE, GUEST_GS_BASE, GUEST_IA32_DEBUGCTL, GUEST_IA32_PAT,
    GUEST_SYSENTER_CS, GUEST_SYSENTER_EIP, GUEST_SYSENTER_ESP, W32, W64,
};
use crate::sregs;

/// The guest has to get #GP(0), or the ioctl to stop at this MSR.
pub use crate::cr::GeneralProtection;

const IA32_TSC: u32 = 0x10;
const IA32_PLATFORM_ID: u32 = 0x17;
const IA32_APIC_BASE: u32 = 0x1b;
const IA32_FEATURE_CONTROL: u32 = 0x3a;
const IA32_BIOS_UPDT_TRIG: u32 = 0x79;
const IA32_BIOS_SIGN_ID: u32 = 0x8b;
const PLATFORM_INFO: u32 = 0xce;
const IA32_MTRRCAP: u32 = 0xfe;
const MISC_FEATURES_ENABLES: u32 = 0x140;
const IA32_SYSENTER_CS: u32 = 0x174;
const IA32_SYSENTER_ESP: u32 = 0x175;
const IA32_SYSENTER_EIP: u32 = 0x176;
const IA32_MCG_CAP: u32 = 0x179;
const IA32_MCG_STATUS: u32 = 0x17a;
const IA32_MISC_ENABLE: u32 = 0x1a0;
const IA32_DEBUGCTL: u32 = 0x1d9;
/// IA32_DEBUGCTL.BTF: TF traps branches only (SDM 3B 18.4.1).
pub const DEBUGCTL_BTF: u64 = 1 << 1;
const IA32_MTRR_PHYSBASE0: u32 = 0x200;
const IA32_MTRR_FIX64K: u32 = 0x250;
const IA32_MTRR_FIX16K_80000: u32 = 0x258;
const IA32_MTRR_FIX16K_A0000: u32 = 0x259;
const IA32_MTRR_FIX4K_C0000: u32 = 0x268;
const IA32_PAT: u32 = 0x277;
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
const IA32_EFER: u32 = 0xc000_0080;
const IA32_STAR: u32 = 0xc000_0081;
const IA32_LSTAR: u32 = 0xc000_0082;
const IA32_CSTAR: u32 = 0xc000_0083;
const IA32_FMASK: u32 = 0xc000_0084;
const IA32_FS_BASE: u32 = 0xc000_0100;
const IA32_GS_BASE: u32 = 0xc000_0101;
const IA32_KERNEL_GS_BASE: u32 = 0xc000_0102;
const IA32_TSC_AUX: u32 = 0xc000_0103;

/// Pairs of variable MTRRs.
const VARIABLE_MTRRS: u32 = 8;
/// Fixed MTRRs of 4-KByte ranges.
const FIX4K_MTRRS: u32 = 8;

/// MSRs that VM entry and VM exit do not switch; the shell keeps the guest's
/// values in this order.
pub const SWITCHED: [u32; 6] = [
    IA32_STAR,
    IA32_LSTAR,
    IA32_CSTAR,
    IA32_FMASK,
    IA32_TSC_AUX,
    IA32_KERNEL_GS_BASE,
];

/// `KVM_GET_MSR_INDEX_LIST`: what has to be kept to save a guest. MTRRs are
/// there for whoever asks, but not listed, as under KVM.
pub const INDEX_LIST: &[u32] = &[
    IA32_TSC,
    IA32_SYSENTER_CS,
    IA32_SYSENTER_ESP,
    IA32_SYSENTER_EIP,
    IA32_STAR,
    IA32_LSTAR,
    IA32_CSTAR,
    IA32_FMASK,
    IA32_KERNEL_GS_BASE,
    IA32_TSC_AUX,
    IA32_PAT,
    IA32_MISC_ENABLE,
    IA32_MCG_STATUS,
    MISC_FEATURES_ENABLES,
];

/// Where the value of an MSR is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A 32-bit VMCS field.
    Field32(Field<W32>),
    /// A 64-bit VMCS field.
    Field64(Field<W64>),
    /// A natural-width VMCS field.
    FieldNat(Field<Nat>),
    /// The time-stamp counter, by way of the TSC offset.
    Tsc,
    /// Guest state that decides the mode: see [`Control::set_efer`](crate::cr::Control::set_efer).
    Efer,
    /// Index in [`SWITCHED`].
    Switched(usize),
    /// A value that only this module keeps.
    Stored(Stored),
    /// A value that never changes. A guest's write is refused.
    Constant(u64),
    /// A write is ignored and a read gives 0.
    Ignored,
}

/// A register of [`MsrStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// IA32_APIC_BASE.
    ApicBase,
    /// IA32_MISC_ENABLE.
    MiscEnable,
    /// MSR_MISC_FEATURES_ENABLES.
    MiscFeatures,
    /// IA32_MCG_STATUS.
    McgStatus,
    /// IA32_MTRR_DEF_TYPE.
    MtrrDefType,
    /// Variable-range MTRR: bases and masks in turn, 0 to 15.
    VariableMtrr(u8),
    /// Fixed-range MTRR, 0 to 10.
    FixedMtrr(u8),
}

/// Where MSR `index` lives, or `None` if the guest does not have it.
pub fn place(index: u32) -> Option<Place> {
    Some(match index {
        IA32_TSC => Place::Tsc,
        IA32_EFER => Place::Efer,
        IA32_SYSENTER_CS => Place::Field32(GUEST_SYSENTER_CS),
        IA32_SYSENTER_ESP => Place::FieldNat(GUEST_SYSENTER_ESP),
        IA32_SYSENTER_EIP => Place::FieldNat(GUEST_SYSENTER_EIP),
        IA32_PAT => Place::Field64(GUEST_IA32_PAT),
        IA32_DEBUGCTL => Place::Field64(GUEST_IA32_DEBUGCTL),
        IA32_FS_BASE => Place::FieldNat(GUEST_FS_BASE),
        IA32_GS_BASE => Place::FieldNat(GUEST_GS_BASE),
        // Locked, and VMX off.
        IA32_FEATURE_CONTROL => Place::Constant(1),
        // Fixed ranges and write-combining exist.
        IA32_MTRRCAP => Place::Constant(1 << 10 | 1 << 8 | u64::from(VARIABLE_MTRRS)),
        // No machine-check banks.
        IA32_PLATFORM_ID | IA32_MCG_CAP | PLATFORM_INFO => Place::Constant(0),
        // Microcode is the host's, but a guest may go through the motions.
        IA32_BIOS_SIGN_ID | IA32_BIOS_UPDT_TRIG => Place::Ignored,
        _ => return switched(index).or_else(|| stored(index).map(Place::Stored)),
    })
}

fn switched(index: u32) -> Option<Place> {
    SWITCHED
        .iter()
        .position(|msr| *msr == index)
        .map(Place::Switched)
}

fn stored(index: u32) -> Option<Stored> {
    const VARIABLE_END: u32 = IA32_MTRR_PHYSBASE0 + 2 * VARIABLE_MTRRS;
    const FIX4K_END: u32 = IA32_MTRR_FIX4K_C0000 + FIX4K_MTRRS;
    let low = |base: u32| (index.wrapping_sub(base) & 0xff) as u8;
    Some(match index {
        IA32_APIC_BASE => Stored::ApicBase,
        IA32_MISC_ENABLE => Stored::MiscEnable,
        MISC_FEATURES_ENABLES => Stored::MiscFeatures,
        IA32_MCG_STATUS => Stored::McgStatus,
        IA32_MTRR_DEF_TYPE => Stored::MtrrDefType,
        IA32_MTRR_PHYSBASE0..VARIABLE_END => Stored::VariableMtrr(low(IA32_MTRR_PHYSBASE0)),
        IA32_MTRR_FIX64K => Stored::FixedMtrr(0),
        IA32_MTRR_FIX16K_80000 => Stored::FixedMtrr(1),
        IA32_MTRR_FIX16K_A0000 => Stored::FixedMtrr(2),
        IA32_MTRR_FIX4K_C0000..FIX4K_END => {
            Stored::FixedMtrr(low(IA32_MTRR_FIX4K_C0000).wrapping_add(3))
        }
        _ => return None,
    })
}

/// Who writes an MSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// The guest, by WRMSR.
    Guest,
    /// User space, by `KVM_SET_MSRS`.
    User,
}

/// Whether `value` may be written to MSR `index`, and what becomes of it. EFER
/// has its own rules.
///
/// # Errors
///
/// [`GeneralProtection`] for an MSR that does not exist, for reserved bits and
/// for values that the processor refuses.
pub fn check(
    index: u32,
    value: u64,
    features: &Features,
    writer: Writer,
) -> Result<u64, GeneralProtection> {
    let valid = match place(index).ok_or(GeneralProtection)? {
        // User space may write back what it has read.
        Place::Constant(constant) => writer == Writer::User && value == constant,
        Place::Stored(stored) => stored_valid(stored, value, features),
        Place::Field64(_) if index == IA32_PAT => pat_valid(value),
        // Branch tracing would need the host's buffers; BTF alone is harmless,
        // and LBR is dropped below.
        Place::Field64(_) => value & !3 == 0,
        Place::Field32(_) => value >> 32 == 0,
        Place::FieldNat(_) => canonical(value),
        Place::Switched(_) => switched_valid(index, value),
        Place::Tsc | Place::Efer | Place::Ignored => true,
    };
    let kept = if index == IA32_DEBUGCTL {
        DEBUGCTL_BTF
    } else {
        !0
    };
    valid.then_some(value & kept).ok_or(GeneralProtection)
}

fn switched_valid(index: u32, value: u64) -> bool {
    match index {
        IA32_LSTAR | IA32_CSTAR | IA32_KERNEL_GS_BASE => canonical(value),
        IA32_FMASK | IA32_TSC_AUX => value >> 32 == 0,
        _ => true,
    }
}

fn stored_valid(stored: Stored, value: u64, features: &Features) -> bool {
    match stored {
        Stored::ApicBase => sregs::apic_base_valid(value, features),
        Stored::MiscEnable => true,
        // CPUID faulting is not offered.
        Stored::MiscFeatures => value == 0,
        Stored::McgStatus => value & !7 == 0,
        // Default type, FE and E.
        Stored::MtrrDefType => value & !0xcff == 0 && mtrr_type(value & 0xff),
        Stored::FixedMtrr(_) => value.to_le_bytes().iter().all(|t| mtrr_type(u64::from(*t))),
        Stored::VariableMtrr(n) if n & 1 == 0 => {
            features.physical(value) && value & 0xf00 == 0 && mtrr_type(value & 0xff)
        }
        Stored::VariableMtrr(_) => features.physical(value) && value & 0x7ff == 0,
    }
}

/// UC, WC, WT, WP or WB (SDM 3A 12.11.2.1).
const fn mtrr_type(value: u64) -> bool {
    matches!(value, 0 | 1 | 4 | 5 | 6)
}

/// Whether each of the eight types of IA32_PAT exists (SDM 3A 12.12.2): those of
/// MTRRs and UC-.
#[inline]
pub fn pat_valid(value: u64) -> bool {
    value
        .to_le_bytes()
        .iter()
        .all(|kind| mtrr_type(u64::from(*kind)) || *kind == 7)
}

/// IA32_PAT after reset.
pub const PAT_RESET: u64 = 0x0007_0406_0007_0406;

/// Values of the MSRs that exist only in this module: nothing in the processor
/// changes with them, as memory types come from EPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrStore {
    apic_base: u64,
    misc_enable: u64,
    misc_features: u64,
    mcg_status: u64,
    mtrr_def_type: u64,
    variable_mtrrs: [u64; 2 * VARIABLE_MTRRS as usize],
    fixed_mtrrs: [u64; 3 + FIX4K_MTRRS as usize],
}

impl Default for MsrStore {
    #[inline]
    fn default() -> Self {
        Self::new()
    }
}

impl MsrStore {
    /// After reset, of a vCPU that is not the first.
    #[inline]
    pub const fn new() -> Self {
        Self {
            apic_base: 0xfee0_0000 | sregs::APIC_ENABLE,
            // Fast strings; branch trace and PEBS unavailable.
            misc_enable: 1 | 1 << 11 | 1 << 12,
            misc_features: 0,
            mcg_status: 0,
            mtrr_def_type: 0,
            variable_mtrrs: [0; 2 * VARIABLE_MTRRS as usize],
            fixed_mtrrs: [0; 3 + FIX4K_MTRRS as usize],
        }
    }

    /// The value of a register.
    #[inline]
    pub fn read(&self, stored: Stored) -> u64 {
        match stored {
            Stored::ApicBase => self.apic_base,
            Stored::MiscEnable => self.misc_enable,
            Stored::MiscFeatures => self.misc_features,
            Stored::McgStatus => self.mcg_status,
            Stored::MtrrDefType => self.mtrr_def_type,
            Stored::VariableMtrr(n) => element(&self.variable_mtrrs, n),
            Stored::FixedMtrr(n) => element(&self.fixed_mtrrs, n),
        }
    }

    /// Sets a register to a value that [`check`] has passed.
    #[inline]
    pub fn write(&mut self, stored: Stored, value: u64) {
        let place = match stored {
            Stored::ApicBase => Some(&mut self.apic_base),
            Stored::MiscEnable => Some(&mut self.misc_enable),
            Stored::MiscFeatures => Some(&mut self.misc_features),
            Stored::McgStatus => Some(&mut self.mcg_status),
            Stored::MtrrDefType => Some(&mut self.mtrr_def_type),
            Stored::VariableMtrr(n) => self.variable_mtrrs.get_mut(usize::from(n)),
            Stored::FixedMtrr(n) => self.fixed_mtrrs.get_mut(usize::from(n)),
        };
        if let Some(place) = place {
            *place = value;
        }
    }
}

fn element(values: &[u64], n: u8) -> u64 {
    values.get(usize::from(n)).copied().unwrap_or(0)
}

/// MSRs that the guest may read without an exit: the processor holds the
/// guest's value while the guest runs.
const READ_PASSTHROUGH: [u32; 11] = [
    IA32_TSC,
    IA32_SYSENTER_CS,
    IA32_SYSENTER_ESP,
    IA32_SYSENTER_EIP,
    IA32_STAR,
    IA32_LSTAR,
    IA32_CSTAR,
    IA32_FMASK,
    IA32_FS_BASE,
    IA32_GS_BASE,
    IA32_KERNEL_GS_BASE,
];

/// MSRs that the guest may write without an exit: VM exit saves them, or the
/// shell reads them back. STAR and its kin are written once per boot and are
/// not read back, so their writes exit.
const WRITE_PASSTHROUGH: [u32; 6] = [
    IA32_SYSENTER_CS,
    IA32_SYSENTER_ESP,
    IA32_SYSENTER_EIP,
    IA32_FS_BASE,
    IA32_GS_BASE,
    IA32_KERNEL_GS_BASE,
];

/// Byte offset and bit of an MSR in the MSR bitmap (SDM 3C 25.6.9), which
/// covers 0 to 0x1fff and 0xc0000000 to 0xc0001fff. Set: the access exits.
#[inline]
pub const fn bitmap_bit(index: u32, write: bool) -> Option<(usize, u8)> {
    let quarter = match index >> 13 {
        0 => 0,
        0x6_0000 => 0x400,
        _ => return None,
    };
    let half = if write { 0x800 } else { 0 };
    let low = index & 0x1fff;
    Some((half + quarter + (low >> 3) as usize, (low & 7) as u8))
}

/// One byte of the 4-KByte MSR bitmap.
#[inline]
pub fn bitmap_byte(offset: usize) -> u8 {
    let reads = READ_PASSTHROUGH.iter().map(|msr| bitmap_bit(*msr, false));
    let writes = WRITE_PASSTHROUGH.iter().map(|msr| bitmap_bit(*msr, true));
    let mut byte = !0;
    for (at, bit) in reads.chain(writes).flatten() {
        if at == offset {
            byte &= !(1 << bit);
        }
    }
    byte
}

#[cfg(test)]
#[path = "tests/msr.rs"]
mod tests;
