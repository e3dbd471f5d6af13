// SPDX-License-Identifier: GPL-2.0

//! `struct kvm_sregs`: what `KVM_SET_SREGS` accepts, what a vCPU starts with,
//! and the mode that follows from it.

use ioctl_api::regs::{Dtable, Segment, Sregs};

use crate::cr::{cr0_valid, cr4_valid, Control, Cr0, Cr4, Efer, Features};
use crate::errno::Errno;

/// RIP of a vCPU after reset; CS.base makes it 0xfffffff0.
pub const RESET_RIP: u64 = 0xfff0;
/// RFLAGS after reset.
pub const RESET_RFLAGS: u64 = 2;
/// RDX after reset: a processor of family 6.
pub const RESET_RDX: u64 = 0x600;
/// DR6 after reset.
pub const RESET_DR6: u64 = 0xffff_0ff0;
/// DR7 after reset.
pub const RESET_DR7: u64 = 0x400;

/// APIC base address after reset, SDM 3A 11.4.4.
const APIC_DEFAULT_BASE: u64 = 0xfee0_0000;
/// IA32_APIC_BASE: bootstrap processor.
const APIC_BSP: u64 = 1 << 8;
/// IA32_APIC_BASE: x2APIC mode.
const APIC_EXTD: u64 = 1 << 10;
/// IA32_APIC_BASE: the local APIC is on.
pub const APIC_ENABLE: u64 = 1 << 11;

/// What the code at CS:RIP is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Real-address mode.
    Real,
    /// Virtual-8086 mode.
    Virtual8086,
    /// Protected mode, 16- or 32-bit code.
    Protected,
    /// IA-32e compatibility mode, 16- or 32-bit code.
    Compatibility,
    /// 64-bit mode.
    Long,
}

impl Mode {
    /// The mode of a vCPU; `cs_l` is the L flag of CS.
    pub const fn of(control: &Control, rflags: u64, cs_l: bool) -> Self {
        const VM: u64 = 1 << 17;
        if !control.cr0.contains(Cr0::PE) {
            Self::Real
        } else if control.long_mode() {
            if cs_l {
                Self::Long
            } else {
                Self::Compatibility
            }
        } else if rflags & VM != 0 {
            Self::Virtual8086
        } else {
            Self::Protected
        }
    }
}

/// Checks the registers that `KVM_SET_SREGS` sets, as KVM does: nothing is
/// checked that VM entry would report itself, but no combination is let through
/// that this module would have to interpret.
///
/// # Errors
///
/// `EINVAL` for reserved bits, for a mode that contradicts itself and for an
/// APIC base that the vCPU cannot have.
pub fn check(sregs: &Sregs, features: &Features) -> Result<Control, Errno> {
    let control = Control {
        cr0: Cr0::from_bits_retain(sregs.cr0) | Cr0::ET,
        cr3: sregs.cr3,
        cr4: Cr4::from_bits_retain(sregs.cr4),
        efer: Efer::from_bits_retain(sregs.efer),
    };
    let valid = cr0_valid(sregs.cr0)
        && cr4_valid(sregs.cr4, features)
        && sregs.efer & !Efer::all().bits() == 0
        && long_mode_agrees(&control, sregs, features)
        && apic_base_valid(sregs.apic_base, features);
    if !valid {
        return Err(Errno::Einval);
    }
    Ok(Control {
        cr0: Cr0::from_bits_truncate(control.cr0.bits()),
        ..control
    })
}

fn long_mode_agrees(control: &Control, sregs: &Sregs, features: &Features) -> bool {
    if control.efer.contains(Efer::LME) && control.paging() {
        // Bit 63 is an operand of MOV to CR3, never part of the register.
        return control.cr4.contains(Cr4::PAE)
            && control.long_mode()
            && features.physical(sregs.cr3);
    }
    !control.long_mode() && sregs.cs.l == 0 && !control.cr4.contains(Cr4::PCIDE)
}

/// Whether IA32_APIC_BASE can have this value. There is no x2APIC mode.
#[inline]
pub const fn apic_base_valid(value: u64, features: &Features) -> bool {
    const FLAGS: u64 = APIC_BSP | APIC_ENABLE;
    value & APIC_EXTD == 0 && value & 0xfff & !FLAGS == 0 && features.physical(value)
}

/// The interrupt that `interrupt_bitmap` asks to be queued: its lowest bit.
#[inline]
pub fn pending_interrupt(bitmap: &[u64; 4]) -> Option<u8> {
    let mut base = 0u8;
    for word in bitmap {
        if *word != 0 {
            // At most 192 + 63.
            return Some(base.wrapping_add(word.trailing_zeros() as u8));
        }
        base = base.wrapping_add(64);
    }
    None
}

/// Puts a queued external interrupt into `interrupt_bitmap`.
#[inline]
pub fn interrupt_bitmap(vector: Option<u8>) -> [u64; 4] {
    let mut bitmap = [0; 4];
    if let Some(vector) = vector {
        if let Some(word) = bitmap.get_mut(usize::from(vector / 64)) {
            *word = 1 << (vector % 64);
        }
    }
    bitmap
}

/// The registers after reset (SDM 3A table 10-1); `bsp` for vCPU 0.
pub fn reset(bsp: bool) -> Sregs {
    let data = segment(0, 0, 3, true);
    let table = Dtable {
        base: 0,
        limit: 0xffff,
        padding: [0; 3],
    };
    Sregs {
        cs: segment(0xf000, 0xffff_0000, 11, true),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: segment(0, 0, 11, false),
        ldt: segment(0, 0, 2, false),
        gdt: table,
        idt: table,
        cr0: Control::RESET.cr0.bits(),
        cr2: 0,
        cr3: 0,
        cr4: 0,
        cr8: 0,
        efer: 0,
        apic_base: APIC_DEFAULT_BASE | APIC_ENABLE | if bsp { APIC_BSP } else { 0 },
        interrupt_bitmap: [0; 4],
    }
}

/// A present 64-KByte segment with byte granularity.
fn segment(selector: u16, base: u64, type_: u8, code_or_data: bool) -> Segment {
    Segment {
        base,
        limit: 0xffff,
        selector,
        type_,
        present: 1,
        s: u8::from(code_or_data),
        ..Segment::default()
    }
}

#[cfg(test)]
#[path = "tests/sregs.rs"]
mod tests;
