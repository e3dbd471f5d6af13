// SPDX-License-Identifier: GPL-2.0

//! CPUID: what a guest can be offered, and what it sees.
//!
//! ```text
//!   host CPUID --mask--> KVM_GET_SUPPORTED_CPUID --> user space, which may
//!                                                    edit and take away
//!                             KVM_SET_CPUID2     <--        |
//!   guest CPUID <--lookup-- the vCPU's entries   <----------+
//! ```

use ioctl_api::regs::{CpuidEntry2, KVM_CPUID_FLAG_SIGNIFCANT_INDEX};

use crate::cr::{Cr4, Efer, Features};
use crate::errno::Errno;

/// XSAVE components that a guest can have: x87, SSE, AVX and AVX-512. The host
/// switches others (PKRU, AMX) in ways that do not go with a guest.
pub const XCR0_MASK: u64 = 0xe7;

/// Most entries that `KVM_SET_CPUID2` takes, as in KVM.
pub const MAX_ENTRIES: u32 = 256;

/// EAX, EBX, ECX, EDX.
type Registers = [u32; 4];

/// Feature bits by number.
const fn bits(numbers: &[u32]) -> u32 {
    let mut mask = 0;
    let mut rest = numbers;
    while let [first, tail @ ..] = rest {
        mask |= 1 << *first;
        rest = tail;
    }
    mask
}

/// CPUID.1:ECX: all but MONITOR, VMX, SMX, x2APIC, TSC deadline and what
/// belongs to the platform (SDM 2A table 3-10).
const LEAF_1_ECX: u32 = bits(&[0, 1, 9, 12, 13, 17, 19, 20, 22, 23, 25, 26, 28, 29, 30]);
/// CPUID.1:EDX: all but DS, ACPI, SS, HTT, TM and PBE.
const LEAF_1_EDX: u32 = bits(&[
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26,
]);
/// CPUID.7.0:EBX: no TSC_ADJUST, SGX, TSX, MPX, RDT, PT.
const LEAF_7_EBX: u32 = bits(&[
    0, 3, 5, 6, 7, 8, 9, 10, 13, 16, 17, 18, 19, 20, 21, 23, 24, 26, 27, 28, 29, 30, 31,
]);
/// CPUID.7.0:ECX: no PKU, WAITPKG, CET, TME, LA57, ENQCMD, SGX_LC.
const LEAF_7_ECX: u32 = bits(&[1, 2, 6, 8, 9, 10, 11, 12, 14, 22, 25, 27, 28]);
/// CPUID.7.0:EDX: no SPEC_CTRL and its kin, as the guest cannot reach those MSRs.
const LEAF_7_EDX: u32 = bits(&[2, 3, 4, 8, 10, 14, 23]);
/// CPUID.0xd.1:EAX: XSAVEOPT and XGETBV with ECX = 1; no XSAVEC, XSAVES, XFD.
const LEAF_D_1_EAX: u32 = bits(&[0, 2]);
/// CPUID.0x80000001:ECX: LAHF, LZCNT, PREFETCHW.
const LEAF_EXT_1_ECX: u32 = bits(&[0, 5, 8]);
/// CPUID.0x80000001:EDX: SYSCALL, NX, 1-GByte pages, RDTSCP, long mode.
const LEAF_EXT_1_EDX: u32 = bits(&[11, 20, 26, 27, 29]);

/// CPUID.1:ECX.
const OSXSAVE: u32 = 1 << 27;
const HYPERVISOR: u32 = 1 << 31;
/// CPUID.7.0:EBX.
const INVPCID: u32 = 1 << 10;
/// CPUID.7.0:ECX.
const OSPKE: u32 = 1 << 4;
const RDPID: u32 = 1 << 22;
/// CPUID.0x80000001:EDX.
const RDTSCP: u32 = 1 << 27;
/// CPUID.6:EAX: the APIC timer always runs.
const ARAT: u32 = 1 << 2;
/// CPUID.0x80000007:EDX.
const INVARIANT_TSC: u32 = 1 << 8;

/// First leaf of the hypervisor.
const SIGNATURE: u32 = 0x4000_0000;
/// "KVMKVMKVM\0\0\0" in EBX, ECX, EDX.
const KVM_SIGNATURE: [u32; 3] = [0x4b4d_564b, 0x564b_4d56, 0x4d];
/// Largest basic leaf offered.
const MAX_BASIC: u32 = 0xd;
/// Largest extended leaf offered.
const MAX_EXTENDED: u32 = 0x8000_0008;
/// Linear addresses have 48 bits, as guest paging has four levels.
const LINEAR_BITS: u32 = 48;

/// (leaf, subleaf, whether the subleaf matters) of everything that can be offered.
const LEAVES: [(u32, u32, bool); 27] = [
    (0, 0, false),
    (1, 0, false),
    (2, 0, false),
    (4, 0, true),
    (4, 1, true),
    (4, 2, true),
    (4, 3, true),
    (4, 4, true),
    (6, 0, false),
    (7, 0, true),
    (0xd, 0, true),
    (0xd, 1, true),
    (0xd, 2, true),
    (0xd, 5, true),
    (0xd, 6, true),
    (0xd, 7, true),
    (SIGNATURE, 0, false),
    (SIGNATURE + 1, 0, false),
    (0x8000_0000, 0, false),
    (0x8000_0001, 0, false),
    (0x8000_0002, 0, false),
    (0x8000_0003, 0, false),
    (0x8000_0004, 0, false),
    (0x8000_0005, 0, false),
    (0x8000_0006, 0, false),
    (0x8000_0007, 0, false),
    (0x8000_0008, 0, false),
];

/// What the processor offers beyond its own CPUID: instructions that need a
/// VM-execution control.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// RDTSCP and RDPID.
    pub rdtscp: bool,
    /// INVPCID.
    pub invpcid: bool,
}

/// The vCPU state that some bits of CPUID mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// CR4 as the guest sees it.
    pub cr4: u64,
    /// XCR0.
    pub xcr0: u64,
}

/// The entries of `KVM_GET_SUPPORTED_CPUID`, one by one; `host` executes CPUID.
pub fn enumerate(
    offer: &Offer,
    host: impl Fn(u32, u32) -> Registers,
    mut entry: impl FnMut(CpuidEntry2),
) {
    for (function, index, indexed) in LEAVES {
        let Some([eax, ebx, ecx, edx]) = supported(function, index, offer, &host) else {
            continue;
        };
        entry(CpuidEntry2 {
            function,
            index,
            flags: if indexed {
                KVM_CPUID_FLAG_SIGNIFCANT_INDEX
            } else {
                0
            },
            eax,
            ebx,
            ecx,
            edx,
            padding: [0; 3],
        });
    }
}

/// What can be offered in one leaf, or nothing if the host does not have it.
fn supported(
    leaf: u32,
    sub: u32,
    offer: &Offer,
    host: &impl Fn(u32, u32) -> Registers,
) -> Option<Registers> {
    let last = match leaf {
        0..=MAX_BASIC => first(host(0, 0)),
        0x8000_0000.. => first(host(0x8000_0000, 0)),
        _ => leaf,
    };
    if leaf > last {
        return None;
    }
    let raw = host(leaf, sub);
    let [eax, ebx, ecx, edx] = raw;
    Some(match leaf {
        0 => [eax.min(MAX_BASIC), ebx, ecx, edx],
        1 => leaf_1(raw),
        // A cache leaf of type 0 ends the list.
        4 if eax & 0x1f == 0 => return None,
        2 | 4 => raw,
        6 => [ARAT, 0, 0, 0],
        7 => leaf_7(raw, offer),
        0xd => return leaf_d(sub, host),
        SIGNATURE => {
            let [ebx, ecx, edx] = KVM_SIGNATURE;
            [SIGNATURE + 1, ebx, ecx, edx]
        }
        0x8000_0000.. => extended(leaf, raw, offer),
        _ => [0; 4],
    })
}

/// The extended leaves, which the host has.
fn extended(leaf: u32, raw: Registers, offer: &Offer) -> Registers {
    let [eax, _, ecx, edx] = raw;
    match leaf {
        0x8000_0000 => [eax.min(MAX_EXTENDED), 0, 0, 0],
        0x8000_0001 => {
            let edx = edx & if offer.rdtscp { !0 } else { !RDTSCP };
            [0, 0, ecx & LEAF_EXT_1_ECX, edx & LEAF_EXT_1_EDX]
        }
        0x8000_0002..=0x8000_0004 => raw,
        0x8000_0006 => [0, 0, ecx, 0],
        0x8000_0007 => [0, 0, 0, edx & INVARIANT_TSC],
        // Four levels of EPT translate 48 bits.
        0x8000_0008 => [(eax & 0xff).min(48) | LINEAR_BITS << 8, 0, 0, 0],
        _ => [0; 4],
    }
}

/// EAX.
const fn first([eax, ..]: Registers) -> u32 {
    eax
}

fn leaf_1([eax, ebx, ecx, edx]: Registers) -> Registers {
    /// CLFLUSH line size; brand, APIC id and counts are user space's.
    const EBX: u32 = 0xff00;
    [
        eax,
        ebx & EBX,
        ecx & LEAF_1_ECX | HYPERVISOR,
        edx & LEAF_1_EDX,
    ]
}

fn leaf_7([_, ebx, ecx, edx]: Registers, offer: &Offer) -> Registers {
    let ebx = ebx & if offer.invpcid { !0 } else { !INVPCID };
    let ecx = ecx & if offer.rdtscp { !0 } else { !RDPID };
    [0, ebx & LEAF_7_EBX, ecx & LEAF_7_ECX, edx & LEAF_7_EDX]
}

fn leaf_d(sub: u32, host: &impl Fn(u32, u32) -> Registers) -> Option<Registers> {
    let components = supported_xcr0(host);
    if components == 0 {
        return None;
    }
    match sub {
        0 => {
            let size = xsave_size(components, |i| host(0xd, i));
            Some([(components & 0xffff_ffff) as u32, size, size, 0])
        }
        1 => Some([first(host(0xd, 1)) & LEAF_D_1_EAX, 0, 0, 0]),
        _ if components >> sub & 1 == 0 => None,
        _ => {
            let [eax, ebx, ..] = host(0xd, sub);
            Some([eax, ebx, 0, 0])
        }
    }
}

/// The components of XCR0 that a guest of this host can have, 0 without XSAVE.
#[inline]
pub fn supported_xcr0(host: &impl Fn(u32, u32) -> Registers) -> u64 {
    const XSAVE: u32 = 1 << 26;
    let [.., ecx, _] = host(1, 0);
    if ecx & XSAVE == 0 || first(host(0, 0)) < 0xd {
        return 0;
    }
    u64::from(first(host(0xd, 0))) & XCR0_MASK
}

/// Bytes of the XSAVE area in the standard format with the components of `xcr0`, a part of
/// [`XCR0_MASK`] (SDM 1 13.4.3; the offsets are the same on all processors).
pub const fn standard_xsave_size(xcr0: u64) -> u16 {
    if xcr0 & 0xe0 != 0 {
        2688
    } else if xcr0 & 4 != 0 {
        832
    } else {
        576
    }
}

/// Bytes of a standard-format XSAVE area with these components (SDM 1 13.4):
/// each extended one says its size and offset in its subleaf.
fn xsave_size(components: u64, subleaf: impl Fn(u32) -> Registers) -> u32 {
    const LEGACY_AND_HEADER: u32 = 576;
    let mut size = LEGACY_AND_HEADER;
    for i in 2..63 {
        if components >> i & 1 != 0 {
            let [bytes, offset, ..] = subleaf(i);
            size = size.max(bytes.wrapping_add(offset));
        }
    }
    size
}

/// Checks what `KVM_SET_CPUID2` is given.
///
/// # Errors
///
/// `EINVAL` if linear addresses are said to have a width that x86 does not know.
#[inline]
pub fn check(entries: &[CpuidEntry2]) -> Result<(), Errno> {
    match find(entries, 0x8000_0008, 0).map(|entry| entry.eax >> 8 & 0xff) {
        None | Some(0 | 48 | 57) => Ok(()),
        Some(_) => Err(Errno::Einval),
    }
}

fn find(entries: &[CpuidEntry2], leaf: u32, sub: u32) -> Option<&CpuidEntry2> {
    entries.iter().find(|entry| {
        let indexed = entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0;
        entry.function == leaf && (!indexed || entry.index == sub)
    })
}

/// Executes CPUID for a guest with these entries.
pub fn lookup(entries: &[CpuidEntry2], leaf: u32, sub: u32, now: &Now) -> Registers {
    if let Some(entry) = find(entries, leaf, sub) {
        return fixed_up(entry, entries, now);
    }
    if let Some(last) = beyond_range(entries, leaf) {
        return find(entries, last, sub).map_or([0; 4], |entry| fixed_up(entry, entries, now));
    }
    // Subleaves of the topology leaves that do not exist still say who asks
    // (SDM 2A "CPUID", leaf 0BH).
    if matches!(leaf, 0xb | 0x1f) {
        if let Some(entry) = find(entries, leaf, 1) {
            return [0, 0, sub & 0xff, entry.edx];
        }
    }
    [0; 4]
}

/// The basic leaf that an Intel processor answers with for a leaf beyond the
/// last one of its range, or `None` for a leaf within a range.
fn beyond_range(entries: &[CpuidEntry2], leaf: u32) -> Option<u32> {
    /// "Auth" of AuthenticAMD and "Hygo" of HygonGenuine, which answer with zeros.
    const AMD: [u32; 2] = [0x6874_7541, 0x6f67_7948];
    let basic = find(entries, 0, 0)?;
    if AMD.contains(&basic.ebx) {
        return None;
    }
    let range = match leaf {
        0x4000_0000..=0x4fff_ffff => leaf & 0xffff_ff00,
        0xc000_0000.. => 0xc000_0000,
        _ => leaf & 0x8000_0000,
    };
    match find(entries, range, 0) {
        Some(first) if leaf <= first.eax => None,
        _ => Some(basic.eax),
    }
}

fn fixed_up(entry: &CpuidEntry2, entries: &[CpuidEntry2], now: &Now) -> Registers {
    let [eax, mut ebx, mut ecx, edx] = [entry.eax, entry.ebx, entry.ecx, entry.edx];
    match (entry.function, entry.index) {
        (1, _) => {
            ecx &= !OSXSAVE;
            if now.cr4 & Cr4::OSXSAVE.bits() != 0 {
                ecx |= OSXSAVE;
            }
        }
        (7, 0) => ecx &= !OSPKE,
        (0xd, 0) => {
            ebx = xsave_size(now.xcr0, |i| {
                find(entries, 0xd, i).map_or([0; 4], |e| [e.eax, e.ebx, e.ecx, e.edx])
            });
        }
        _ => {}
    }
    [eax, ebx, ecx, edx]
}

/// What the entries let the guest set in control registers and XCR0.
pub fn features(entries: &[CpuidEntry2]) -> Features {
    let has = |leaf: u32, register: fn(&CpuidEntry2) -> u32, bit: u32| {
        find(entries, leaf, 0).is_some_and(|entry| register(entry) >> bit & 1 != 0)
    };
    let mut cr4 = Features::BASE_CR4;
    cr4.set(Cr4::PCIDE, has(1, |e| e.ecx, 17));
    cr4.set(Cr4::OSXSAVE, has(1, |e| e.ecx, 26));
    cr4.set(Cr4::FSGSBASE, has(7, |e| e.ebx, 0));
    cr4.set(Cr4::SMEP, has(7, |e| e.ebx, 7));
    cr4.set(Cr4::SMAP, has(7, |e| e.ebx, 20));
    cr4.set(Cr4::UMIP, has(7, |e| e.ecx, 2));
    let mut efer = Efer::empty();
    efer.set(Efer::SCE, has(0x8000_0001, |e| e.edx, 11));
    efer.set(Efer::NXE, has(0x8000_0001, |e| e.edx, 20));
    efer.set(Efer::LME | Efer::LMA, has(0x8000_0001, |e| e.edx, 29));
    Features {
        cr4,
        efer,
        physical_bits: physical_bits(entries),
    }
}

/// MAXPHYADDR that the entries tell; 36 without leaf 0x80000008, as KVM has it.
fn physical_bits(entries: &[CpuidEntry2]) -> u8 {
    match find(entries, 0x8000_0008, 0).map(|entry| entry.eax & 0xff) {
        Some(bits @ 1..=52) => bits as u8,
        _ => 36,
    }
}

/// Components of XCR0 that the entries let the guest set.
#[inline]
pub fn guest_xcr0(entries: &[CpuidEntry2]) -> u64 {
    find(entries, 0xd, 0).map_or(0, |entry| u64::from(entry.eax) & XCR0_MASK)
}

#[cfg(test)]
#[path = "tests/cpuid.rs"]
mod tests;
