// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::segment::{Role, VmcsSegment};

const FEATURES: Features = Features {
    cr4: Features::BASE_CR4.union(Cr4::PCIDE),
    efer: Efer::all(),
    physical_bits: 40,
};

fn refused(change: impl FnOnce(&mut Sregs)) -> bool {
    let mut sregs = reset(true);
    change(&mut sregs);
    check(&sregs, &FEATURES) == Err(Errno::Einval)
}

fn long() -> Sregs {
    let mut sregs = reset(true);
    (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (0x8000_0011, 0x1000, 0x20, 0x500);
    sregs.cs.l = 1;
    sregs
}

#[test]
fn reset_state_is_accepted_and_real() {
    let control = check(&reset(true), &FEATURES).unwrap();
    assert_eq!(control, Control::RESET);
    assert_eq!(Mode::of(&control, RESET_RFLAGS, false), Mode::Real);
    assert_eq!(reset(true).apic_base, 0xfee0_0900);
    assert_eq!(reset(false).apic_base, 0xfee0_0800);
    let cs = VmcsSegment::from_abi(&reset(true).cs, Role::Loaded);
    assert_eq!((cs.access, cs.base, cs.limit), (0x9b, 0xffff_0000, 0xffff));
    let tr = VmcsSegment::from_abi(&reset(true).tr, Role::Loaded);
    assert_eq!(tr.access, 0x8b);
    let ldt = VmcsSegment::from_abi(&reset(true).ldt, Role::Ldtr);
    assert_eq!(ldt.access, 0x82);
}

#[test]
fn reserved_bits() {
    assert!(refused(|s| s.cr0 = 1 << 32));
    assert!(refused(|s| s.cr0 = 0x8000_0000), "PG without PE");
    assert!(refused(|s| s.cr0 = 0x2000_0010), "NW without CD");
    assert!(refused(|s| s.cr4 = 1 << 13), "VMXE");
    assert!(refused(|s| s.cr4 = 1 << 20), "SMEP is not in CPUID");
    assert!(refused(|s| s.efer = 1 << 12), "SVME");
    assert!(refused(|s| s.apic_base = 1 << 10), "x2APIC");
    assert!(refused(|s| s.apic_base = 1));
    assert!(refused(|s| s.apic_base = 1 << 40));
    assert!(!refused(|s| s.cr4 = 0x7ff));
}

#[test]
fn long_mode_needs_all_its_parts() {
    assert!(check(&long(), &FEATURES).is_ok());
    let broken: [fn(&mut Sregs); 5] = [
        |s| s.cr4 = 0,
        |s| s.efer = 0x100,
        |s| s.efer = 0x400,
        |s| s.efer = 0,
        |s| s.cr3 = 1 << 40,
    ];
    for (n, change) in broken.into_iter().enumerate() {
        let mut sregs = long();
        change(&mut sregs);
        assert_eq!(check(&sregs, &FEATURES), Err(Errno::Einval), "{n}");
    }
    // LME alone is the state just before paging goes on.
    let mut sregs = long();
    (sregs.cr0, sregs.efer, sregs.cs.l) = (0x11, 0x100, 0);
    assert!(check(&sregs, &FEATURES).is_ok());
    sregs.cs.l = 1;
    assert!(check(&sregs, &FEATURES).is_err());
    assert!(refused(|s| s.cr4 = 1 << 17), "PCIDE outside long mode");
}

#[test]
fn modes() {
    let of = |cr0: u64, efer: u64, rflags: u64, cs_l: bool| {
        let control = Control {
            cr0: Cr0::from_bits_retain(cr0),
            cr3: 0,
            cr4: Cr4::empty(),
            efer: Efer::from_bits_retain(efer),
        };
        Mode::of(&control, rflags, cs_l)
    };
    assert_eq!(of(0, 0, 2, false), Mode::Real);
    assert_eq!(of(1, 0, 2, false), Mode::Protected);
    assert_eq!(of(1, 0, 1 << 17, false), Mode::Virtual8086);
    assert_eq!(of(0x8000_0001, 0x500, 2, false), Mode::Compatibility);
    assert_eq!(of(0x8000_0001, 0x500, 2, true), Mode::Long);
}

#[test]
fn interrupt_bitmap_round_trip() {
    for vector in 0..=255u8 {
        assert_eq!(
            pending_interrupt(&interrupt_bitmap(Some(vector))),
            Some(vector)
        );
    }
    assert_eq!(pending_interrupt(&interrupt_bitmap(None)), None);
    assert_eq!(
        pending_interrupt(&[0, 0, 6, 1]),
        Some(129),
        "the lowest one"
    );
}
