// SPDX-License-Identifier: GPL-2.0

use super::*;
use std::vec::Vec;

/// A host that sets every bit it can, with Intel's leaf ranges.
fn host(leaf: u32, sub: u32) -> Registers {
    match (leaf, sub) {
        (0, _) => [0x1f, 0x756e_6547, 0x6c65_746e, 0x4965_6e69],
        (4, 0..=3) => [0x1c00_0121, 2, 3, 0],
        (4, _) => [0; 4],
        (0xd, 0) => [0x2e7, 0x1234, 0x5678, 0],
        (0xd, 2) => [256, 576, 0, 0],
        (0xd, 5) => [64, 1088, 0, 0],
        (0xd, 6) => [512, 1152, 0, 0],
        (0xd, 7) => [1024, 1664, 0, 0],
        (0xd, 9) => [8, 2688, 0, 0],
        (0x8000_0000, _) => [0x8000_0008, 1, 1, 1],
        (0x8000_0008, _) => [0x3934, !0, !0, !0],
        _ => [!0; 4],
    }
}

const OFFER: Offer = Offer {
    rdtscp: true,
    invpcid: true,
};

const NOW: Now = Now { cr4: 0, xcr0: 1 };

fn entries(offer: &Offer) -> Vec<CpuidEntry2> {
    let mut all = Vec::new();
    enumerate(offer, host, |entry| all.push(entry));
    all
}

fn leaf(entries: &[CpuidEntry2], leaf: u32, sub: u32) -> Registers {
    let entry = find(entries, leaf, sub).unwrap();
    [entry.eax, entry.ebx, entry.ecx, entry.edx]
}

#[test]
fn each_leaf_once() {
    let all = entries(&OFFER);
    for (n, entry) in all.iter().enumerate() {
        let same =
            |other: &CpuidEntry2| (other.function, other.index) == (entry.function, entry.index);
        assert!(!all[..n].iter().any(same), "{entry:?}");
    }
    assert_eq!(all.iter().filter(|entry| entry.function == 4).count(), 4);
}

#[test]
fn what_no_guest_gets() {
    let all = entries(&OFFER);
    let [_, _, ecx, edx] = leaf(&all, 1, 0);
    // MONITOR, DS-CPL, VMX, SMX, EST, TM2, x2APIC, TSC deadline, OSXSAVE.
    for bit in [3, 4, 5, 6, 7, 8, 21, 24, 27] {
        assert_eq!(ecx >> bit & 1, 0, "1.ECX {bit}");
    }
    assert_eq!(ecx >> 31, 1, "hypervisor");
    assert_eq!(edx >> 28 & 1, 0, "HTT");
    let [_, ebx, ecx, edx] = leaf(&all, 7, 0);
    // TSC_ADJUST, SGX, HLE, RTM, RDT, MPX, PT.
    for bit in [1, 2, 4, 11, 12, 14, 15, 25] {
        assert_eq!(ebx >> bit & 1, 0, "7.EBX {bit}");
    }
    // PKU, OSPKE, WAITPKG, CET_SS, LA57, SGX_LC, PKS.
    for bit in [3, 4, 5, 7, 16, 30, 31] {
        assert_eq!(ecx >> bit & 1, 0, "7.ECX {bit}");
    }
    // CET_IBT, AMX, SPEC_CTRL, STIBP, ARCH_CAPABILITIES, SSBD.
    for bit in [20, 22, 24, 25, 26, 27, 29, 31] {
        assert_eq!(edx >> bit & 1, 0, "7.EDX {bit}");
    }
    assert_eq!(leaf(&all, 0, 0)[0], 0xd);
    assert_eq!(leaf(&all, 0x8000_0008, 0), [48 << 8 | 48, 0, 0, 0]);
    assert_eq!(leaf(&all, 0x8000_0007, 0), [0, 0, 0, 1 << 8]);
}

#[test]
fn instructions_that_need_a_control() {
    let with = entries(&OFFER);
    let without = entries(&Offer::default());
    assert_eq!(leaf(&with, 7, 0)[1] ^ leaf(&without, 7, 0)[1], 1 << 10);
    assert_eq!(leaf(&with, 7, 0)[2] ^ leaf(&without, 7, 0)[2], 1 << 22);
    let (with, without) = (leaf(&with, 0x8000_0001, 0), leaf(&without, 0x8000_0001, 0));
    assert_eq!(with[3] ^ without[3], 1 << 27);
}

#[test]
fn xsave_area_leaves_out_what_is_masked() {
    let all = entries(&OFFER);
    // PKRU (component 9) would make it 2696 bytes.
    assert_eq!(leaf(&all, 0xd, 0), [0xe7, 2688, 2688, 0]);
    assert_eq!(leaf(&all, 0xd, 1), [5, 0, 0, 0]);
    assert_eq!(leaf(&all, 0xd, 6), [512, 1152, 0, 0]);
    assert!(!all.iter().any(|e| e.function == 0xd && e.index == 9));
    for (xcr0, size) in [(1, 576), (3, 576), (7, 832), (0xe7, 2688)] {
        let now = Now { cr4: 0, xcr0 };
        assert_eq!(lookup(&all, 0xd, 0, &now)[1], size, "{xcr0:#x}");
        assert_eq!(u32::from(standard_xsave_size(xcr0)), size, "{xcr0:#x}");
    }
}

#[test]
fn host_without_xsave() {
    let poor = |leaf: u32, sub: u32| match leaf {
        1 => [0; 4],
        _ => host(leaf, sub),
    };
    assert_eq!(supported_xcr0(&poor), 0);
    let mut all = Vec::new();
    enumerate(&OFFER, poor, |entry| all.push(entry));
    assert!(!all.iter().any(|entry| entry.function == 0xd));
}

#[test]
fn signature() {
    let all = entries(&OFFER);
    let [eax, ebx, ecx, edx] = leaf(&all, 0x4000_0000, 0);
    let text: Vec<u8> = [ebx, ecx, edx]
        .iter()
        .flat_map(|r| r.to_le_bytes())
        .collect();
    assert_eq!(
        (eax, text.as_slice()),
        (0x4000_0001, &b"KVMKVMKVM\0\0\0"[..])
    );
    assert_eq!(leaf(&all, 0x4000_0001, 0), [0; 4]);
}

#[test]
fn out_of_range_answers_with_the_last_basic_leaf() {
    let all = entries(&OFFER);
    let last = lookup(&all, 0xd, 1, &NOW);
    assert_eq!(lookup(&all, 0xe, 1, &NOW), last);
    assert_eq!(lookup(&all, 0x7fff_ffff, 1, &NOW), last);
    assert_eq!(lookup(&all, 0x8000_0009, 1, &NOW), last);
    assert_eq!(lookup(&all, 0xc000_0001, 1, &NOW), last);
    assert_eq!(lookup(&all, 0x4000_0002, 1, &NOW), last);
    // A hole in a range is empty, even at its end.
    let mut hole = all.clone();
    hole.retain(|entry| entry.function != 0x8000_0008);
    assert_eq!(lookup(&hole, 0x8000_0008, 0, &NOW), [0; 4]);
    assert_eq!(lookup(&all, 3, 0, &NOW), [0; 4]);
    assert_eq!(lookup(&all, 4, 9, &NOW), [0; 4]);
    assert_eq!(lookup(&[], 1, 0, &NOW), [0; 4]);
    let mut amd = all.clone();
    amd[0].ebx = 0x6874_7541;
    assert_eq!(lookup(&amd, 0x8000_0009, 1, &NOW), [0; 4]);
}

#[test]
fn topology_subleaves() {
    let mut all = entries(&OFFER);
    all.push(CpuidEntry2 {
        function: 0xb,
        index: 1,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        edx: 7,
        ..CpuidEntry2::default()
    });
    assert_eq!(lookup(&all, 0xb, 3, &NOW), [0, 0, 3, 7]);
    assert_eq!(lookup(&all, 0x1f, 3, &NOW), lookup(&all, 0xd, 3, &NOW));
}

#[test]
fn osxsave_follows_cr4() {
    let all = entries(&OFFER);
    assert_eq!(lookup(&all, 1, 0, &NOW)[2] & OSXSAVE, 0);
    let on = Now {
        cr4: 1 << 18,
        xcr0: 1,
    };
    assert_ne!(lookup(&all, 1, 0, &on)[2] & OSXSAVE, 0);
}

#[test]
fn features_of_the_entries() {
    let all = entries(&OFFER);
    let full = features(&all);
    assert_eq!(full.cr4, Cr4::all() - Cr4::VMXE);
    assert_eq!(full.efer, Efer::all());
    assert_eq!(full.physical_bits, 48);
    assert_eq!(guest_xcr0(&all), 0xe7);
    let none = features(&[]);
    assert_eq!(none.cr4, Features::BASE_CR4);
    assert_eq!((none.efer, none.physical_bits), (Efer::empty(), 36));
    assert_eq!(guest_xcr0(&[]), 0);
}

#[test]
fn linear_width_is_checked() {
    for (width, fine) in [(0, true), (48, true), (57, true), (36, false), (64, false)] {
        let entry = CpuidEntry2 {
            function: 0x8000_0008,
            eax: width << 8 | 40,
            ..CpuidEntry2::default()
        };
        assert_eq!(check(&[entry]).is_ok(), fine, "{width}");
    }
    assert!(check(&[]).is_ok());
}
