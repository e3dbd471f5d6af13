// SPDX-License-Identifier: GPL-2.0

use super::*;
use std::collections::BTreeSet;

/// A processor that offers everything and demands what processors demand.
fn all() -> VmxMsrs {
    VmxMsrs {
        basic: 1 << 55 | 6 << 50 | 1024 << 32 | 0x2b,
        misc: 1 << 14,
        cr0_fixed0: 0x8000_0021,
        cr0_fixed1: 0xffff_ffff,
        cr4_fixed0: 0x2000,
        cr4_fixed1: 0x0077_2fff,
        proc2: 0xffff_ffff << 32,
        ept_vpid: !0,
        pin: 0xff << 32 | 0x16,
        proc: 0xffff_ffff << 32 | 0x0400_6172,
        exit: 0x0fff_ffff << 32 | 0x0003_6dfb,
        entry: 0xffff << 32 | 0x11fb,
    }
}

fn missing(change: impl FnOnce(&mut VmxMsrs)) -> &'static str {
    let mut msrs = all();
    change(&mut msrs);
    Caps::new(&msrs).expect_err("accepted").0
}

#[test]
fn controls_of_a_full_processor() {
    let caps = Caps::new(&all()).unwrap();
    assert_eq!(caps.pin(), 0x16 | 0x29);
    assert_eq!(caps.proc2(false) & (1 << 23), 0);
    assert_eq!(caps.proc2(true) ^ caps.proc2(false), 1 << 23);
    assert_eq!(
        caps.proc2(false),
        1 << 1 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 12 | 1 << 15
    );
    assert_eq!(caps.entry(true) ^ caps.entry(false), 1 << 9);
    assert_eq!(caps.proc() & (1 << 2 | 1 << 22), 0, "windows start closed");
    // MOV-CR3, INVLPG, RDTSC, MOV-DR, PAUSE stay in the guest.
    assert_eq!(
        caps.proc() & (3 << 15 | 1 << 9 | 1 << 12 | 1 << 23 | 1 << 30),
        0
    );
    assert_eq!(caps.exit() & (1 << 15), 0, "no acknowledge on exit");
    assert!(caps.perf_global_ctrl() && caps.vpid() && caps.spp());
    assert_eq!((caps.revision(), caps.region_size()), (0x2b, 1024));
}

#[test]
fn windows_are_requested_one_by_one() {
    assert_eq!(with_windows(0x80, false, false), 0x80);
    assert_eq!(with_windows(0x80, true, false), 0x84);
    assert_eq!(with_windows(0x80, false, true), 0x40_0080);
    assert_eq!(with_windows(0x80, true, true), 0x40_0084);
}

#[test]
fn forced_bits_are_kept() {
    let caps = Caps::new(&all()).unwrap();
    let msrs = all();
    for (value, msr) in [
        (caps.pin(), msrs.pin),
        (caps.proc(), msrs.proc),
        (caps.proc2(true), msrs.proc2),
        (caps.exit(), msrs.exit),
        (caps.entry(false), msrs.entry),
    ] {
        assert_eq!(value & forced(msr), forced(msr));
        assert_eq!(value & !allowed(msr), 0);
    }
}

#[test]
fn each_necessary_thing_is_named() {
    assert_eq!(missing(|m| m.basic &= !(1 << 55)), "true VMX controls");
    assert_eq!(missing(|m| m.basic |= 1 << 48), "64-bit VMX addresses");
    assert_eq!(missing(|m| m.basic &= !(6 << 50)), "write-back VMCS");
    assert_eq!(
        missing(|m| m.basic &= !(0x1fff << 32)),
        "VMCS of at most 4096 bytes"
    );
    assert_eq!(missing(|m| m.proc2 &= !(1 << 33)), "EPT");
    assert_eq!(missing(|m| m.proc2 &= !(1 << 39)), "unrestricted guest");
    assert_eq!(missing(|m| m.ept_vpid &= !(1 << 6)), "4-level EPT");
    assert_eq!(missing(|m| m.ept_vpid &= !(1 << 14)), "write-back EPT");
    assert_eq!(missing(|m| m.ept_vpid &= !(1 << 20)), "INVEPT");
    assert_eq!(missing(|m| m.ept_vpid &= !(3 << 25)), "INVEPT types");
    assert_eq!(missing(|m| m.pin &= !(1 << 37)), "pin-based controls");
    assert_eq!(
        missing(|m| m.proc &= !(1 << 60)),
        "processor-based controls"
    );
    assert_eq!(missing(|m| m.exit &= !(1 << 41)), "VM-exit controls");
    assert_eq!(missing(|m| m.entry &= !(1 << 47)), "VM-entry controls");
    assert_eq!(missing(|m| m.entry &= !(1 << 41)), "IA-32e mode guest");
    let switched = "interrupt-window, NMI-window and MOV-DR exiting";
    for bit in [34, 54, 55] {
        assert_eq!(missing(|m| m.proc &= !(1 << bit)), switched);
    }
}

#[test]
fn one_kind_of_invept_is_enough() {
    for bit in [25, 26] {
        let mut msrs = all();
        msrs.ept_vpid &= !(1 << bit);
        assert!(Caps::new(&msrs).is_ok());
    }
}

#[test]
fn optional_things_fall_away_alone() {
    let mut msrs = all();
    msrs.proc2 &= !(1 << (32 + 23));
    let caps = Caps::new(&msrs).unwrap();
    assert!(!caps.spp());
    assert_eq!(caps.proc2(true), caps.proc2(false));

    let mut msrs = all();
    msrs.ept_vpid &= !(3 << 41);
    assert!(!Caps::new(&msrs).unwrap().vpid(), "no way to flush a VPID");

    for clear_exit in [false, true] {
        let mut msrs = all();
        if clear_exit {
            msrs.exit &= !(1 << 44);
        } else {
            msrs.entry &= !(1 << 45);
        }
        let caps = Caps::new(&msrs).unwrap();
        assert!(!caps.perf_global_ctrl());
        assert_eq!(caps.exit() & (1 << 12), 0);
    }
}

#[test]
fn a_difference_between_processors_shows() {
    let caps = Caps::new(&all()).unwrap();
    let mut other = all();
    other.cr4_fixed1 ^= 1 << 12;
    assert_ne!(Caps::new(&other).unwrap(), caps);
}

#[test]
fn what_is_fixed_in_control_registers() {
    let mut msrs = all();
    msrs.cr4_fixed1 = 0x0037_67ff;
    let caps = Caps::new(&msrs).unwrap();
    // An unrestricted guest may have PE and PG clear, but not NE (SDM 3C 27.3.1.1).
    assert_eq!(caps.guest_cr0_fixed(), 0x20);
    assert_eq!(caps.guest_cr4_fixed(), 0x2000);
    assert_eq!(caps.guest_cr4_limit(), 0x0037_67ff);
}

#[test]
fn absent_msrs_are_not_read() {
    let values = |basic: u64, proc2: u64| {
        let mut seen = BTreeSet::new();
        VmxMsrs::read(|msr| {
            seen.insert(msr);
            match msr {
                0x480 => basic,
                0x48e => 1 << 63,
                0x48b => proc2,
                _ => 0,
            }
        });
        seen
    };
    assert!(values(0, 0).iter().all(|msr| (0x480..=0x489).contains(msr)));
    let some = values(1 << 55, 0);
    assert!(some.contains(&0x48b) && !some.contains(&0x48c));
    assert!(values(1 << 55, 1 << 33).contains(&0x48c));
    assert!(values(1 << 55, 1 << 37).contains(&0x48c));
}
