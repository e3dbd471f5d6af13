// SPDX-License-Identifier: GPL-2.0

use super::*;

const FEATURES: Features = Features {
    cr4: Features::BASE_CR4
        .union(Cr4::PCIDE)
        .union(Cr4::SMEP)
        .union(Cr4::OSXSAVE)
        .union(Cr4::FSGSBASE),
    efer: Efer::all(),
    physical_bits: 40,
};

fn control(cr0: u64, cr4: u64, efer: u64) -> Control {
    Control {
        cr0: Cr0::from_bits_retain(cr0),
        cr3: 0x1000,
        cr4: Cr4::from_bits_retain(cr4),
        efer: Efer::from_bits_retain(efer),
    }
}

const PG: u64 = 1 << 31;
const LONG: (u64, u64, u64) = (PG | 0x11, 0x20, 0x500);

#[test]
fn cr0_combinations() {
    // PE, NW, CD, PG against the two rules of the manual.
    for bits in 0..16u64 {
        let (pe, nw, cd, pg) = (bits & 1, bits >> 1 & 1, bits >> 2 & 1, bits >> 3);
        let value = pe | nw << 29 | cd << 30 | pg << 31;
        let bad = (pg == 1 && pe == 0) || (nw == 1 && cd == 0);
        assert_eq!(cr0_valid(value), !bad, "{value:#x}");
    }
    assert!(!cr0_valid(1 << 32));
    assert!(!cr0_valid(1 << 63));
}

#[test]
fn entering_and_leaving_long_mode() {
    let before = control(0x11, 0x20, 0x100);
    let written = before.set_cr0(PG | 0x11, false).unwrap();
    assert!(written.control.long_mode());
    assert!(!written.load_pdptes);
    assert_eq!(written.control.efer.bits(), 0x500);
    // 64-bit code cannot leave; compatibility code can.
    assert_eq!(written.control.set_cr0(0x11, true), Err(GeneralProtection));
    let left = written.control.set_cr0(0x11, false).unwrap().control;
    assert_eq!(left, before);
}

#[test]
fn long_mode_needs_pae_and_a_legacy_code_segment() {
    assert_eq!(
        control(0x11, 0, 0x100).set_cr0(PG | 0x11, false),
        Err(GeneralProtection)
    );
    assert_eq!(
        control(0x11, 0x20, 0x100).set_cr0(PG | 0x11, true),
        Err(GeneralProtection)
    );
}

#[test]
fn pcid_forbids_turning_paging_off() {
    let with_pcid = control(LONG.0, LONG.1 | 1 << 17, LONG.2);
    assert_eq!(with_pcid.set_cr0(0x11, false), Err(GeneralProtection));
}

#[test]
fn pae_paging_loads_pdptes() {
    let before = control(0x11, 0x20, 0);
    let written = before.set_cr0(PG | 0x11, false).unwrap();
    assert!(written.load_pdptes && written.control.pae_paging());
    let on = written.control;
    assert!(
        !on.set_cr0(PG | 0x19, false).unwrap().load_pdptes,
        "TS only"
    );
    assert!(
        on.set_cr0(PG | 1 << 30 | 0x11, false).unwrap().load_pdptes,
        "CD"
    );
    for (bit, loads) in [(4, true), (7, true), (20, true), (9, false), (2, false)] {
        let value = 0x20 | 1 << bit;
        assert_eq!(
            on.set_cr4(value, &FEATURES).unwrap().load_pdptes,
            loads,
            "{bit}"
        );
    }
    let legacy = control(PG | 0x11, 0, 0);
    assert!(
        legacy.set_cr4(0x20, &FEATURES).unwrap().load_pdptes,
        "PAE on"
    );
    assert!(!on.set_cr4(0, &FEATURES).unwrap().load_pdptes, "PAE off");
}

#[test]
fn cr4_bits_come_from_cpuid() {
    for bit in 0..64 {
        let value = 1 << bit;
        let fine = FEATURES.cr4.bits() & value != 0 && bit != 17;
        assert_eq!(
            control(0x11, 0, 0).set_cr4(value, &FEATURES).is_ok(),
            fine,
            "{bit}"
        );
    }
    assert!(!FEATURES.cr4.contains(Cr4::VMXE));
}

#[test]
fn cr4_in_long_mode() {
    let long = control(LONG.0, LONG.1, LONG.2);
    assert_eq!(long.set_cr4(0, &FEATURES), Err(GeneralProtection), "PAE");
    assert!(long.set_cr4(0x20 | 1 << 17, &FEATURES).is_ok());
    let odd = Control {
        cr3: 0x1008,
        ..long
    };
    assert_eq!(
        odd.set_cr4(0x20 | 1 << 17, &FEATURES),
        Err(GeneralProtection)
    );
    let legacy = control(PG | 0x11, 0x20, 0);
    assert_eq!(
        legacy.set_cr4(0x20 | 1 << 17, &FEATURES),
        Err(GeneralProtection)
    );
}

#[test]
fn lmsw_sets_but_never_clears_pe() {
    let real = control(0x10, 0, 0);
    assert_eq!(real.lmsw(0xffff, false).unwrap().control.cr0.bits(), 0x1f);
    let protected = control(0x1f, 0, 0);
    assert_eq!(protected.lmsw(0, false).unwrap().control.cr0.bits(), 0x11);
}

#[test]
fn clts_clears_only_ts() {
    assert_eq!(control(0x1f, 0, 0).clts().cr0.bits(), 0x17);
}

#[test]
fn efer_writes() {
    let off = control(0x11, 0x20, 0);
    assert_eq!(off.set_efer(0x901, &FEATURES).unwrap().efer.bits(), 0x901);
    assert_eq!(
        off.set_efer(0x500, &FEATURES).unwrap().efer.bits(),
        0x100,
        "LMA"
    );
    for bit in (0..64).filter(|bit| ![0, 8, 10, 11].contains(bit)) {
        assert_eq!(
            off.set_efer(1 << bit, &FEATURES),
            Err(GeneralProtection),
            "{bit}"
        );
    }
    let no_nx = Features {
        efer: Efer::all() - Efer::NXE,
        ..FEATURES
    };
    assert_eq!(off.set_efer(0x800, &no_nx), Err(GeneralProtection));
    let long = control(LONG.0, LONG.1, LONG.2);
    assert_eq!(
        long.set_efer(0x400, &FEATURES),
        Err(GeneralProtection),
        "LME off"
    );
    // Writing back without LMA keeps it.
    assert_eq!(long.set_efer(0x101, &FEATURES).unwrap().efer.bits(), 0x501);
}

#[test]
fn hardware_values() {
    let guest = control(0x6000_0010, 0, 0);
    assert_eq!(guest.real_cr0(0x20), 0x30, "no CD, no NW");
    assert_eq!(guest.real_cr4(0x2000), 0x2000);
    // What the guest changed on its own shows; all else comes from the shadow.
    let mask = cr0_mask();
    assert_eq!(visible(0x3a, 0x6000_0010, mask), 0x6000_001a);
    let mask = cr4_mask(&FEATURES);
    assert_eq!(visible(0x2200, 0, mask), 0x200, "VMXE hidden");
    assert_ne!(cr4_mask(&FEATURES) & (1 << 20), 0);
    let poor = Features {
        cr4: Features::BASE_CR4,
        ..FEATURES
    };
    assert_ne!(cr4_mask(&poor) & (1 << 16), 0, "no FSGSBASE, no owning it");
    assert_eq!(cr4_mask(&FEATURES) & (1 << 16), 0);
}

#[test]
fn canonical_edges() {
    for (address, want) in [
        (0, true),
        (0x7fff_ffff_ffff, true),
        (0x8000_0000_0000, false),
        (0xffff_7fff_ffff_ffff, false),
        (0xffff_8000_0000_0000, true),
        (u64::MAX, true),
    ] {
        assert_eq!(canonical(address), want, "{address:#x}");
    }
}

#[test]
fn pdptes() {
    assert!(pdptes_valid(&[0, !1, 0x1001, 0x2019], &FEATURES));
    for bit in [1, 2, 5, 6, 7, 8, 40, 63] {
        assert!(!pdptes_valid(&[0, 0, 0, 1 | 1 << bit], &FEATURES), "{bit}");
    }
    for bit in [3, 4, 9, 10, 11, 12, 39] {
        assert!(pdptes_valid(&[0, 0, 0, 1 | 1 << bit], &FEATURES), "{bit}");
    }
}
