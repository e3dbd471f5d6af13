// SPDX-License-Identifier: GPL-2.0

use super::*;
use ioctl_api::memory::KVM_MEM_LOG_DIRTY_PAGES;
use std::vec::Vec;

const LIMIT: u64 = 0x7fff_ffff_f000;
const HVA: u64 = 0x7f00_0000_0000;

fn region(slot: u32, gpa: u64, size: u64) -> UserMemoryRegion {
    UserMemoryRegion {
        slot,
        flags: 0,
        guest_phys_addr: gpa,
        memory_size: size,
        userspace_addr: HVA + gpa,
    }
}

fn slot(id: u16, base: u64, pages: u64) -> Slot {
    Slot {
        id,
        base: Gfn::new(base),
        pages,
        hva: HVA + (base << 12),
        flags: 0,
    }
}

fn plan(slots: &[Slot], region: &UserMemoryRegion) -> Result<Change, Errno> {
    super::plan(slots, region, 32, LIMIT)
}

#[test]
fn a_slot_lives() {
    let made = slot(3, 0x10, 4);
    assert_eq!(
        plan(&[], &region(3, 0x10000, 0x4000)),
        Ok(Change::Create(made))
    );
    let slots = [made];
    assert_eq!(
        plan(&slots, &region(3, 0x10000, 0x4000)),
        Ok(Change::Nothing)
    );
    let mut moved = region(3, 0x12000, 0x4000);
    moved.userspace_addr = made.hva;
    let new = Slot {
        base: Gfn::new(0x12),
        ..made
    };
    // It may overlap its own old place.
    assert_eq!(plan(&slots, &moved), Ok(Change::Move { old: made, new }));
    assert_eq!(plan(&slots, &region(3, 0, 0)), Ok(Change::Delete(made)));
}

#[test]
fn malformed_regions() {
    let good = region(0, 0x1000, 0x1000);
    let refused: [fn(&mut UserMemoryRegion); 14] = [
        |r| r.flags = KVM_MEM_LOG_DIRTY_PAGES,
        |r| r.flags = 4,
        |r| r.flags = 1 << 31,
        |r| r.slot = 32,
        |r| r.slot = 1 << 16,
        |r| r.guest_phys_addr += 1,
        |r| r.memory_size += 0x800,
        |r| r.userspace_addr += 8,
        |r| r.guest_phys_addr = 0u64.wrapping_sub(0x1000),
        |r| r.userspace_addr = LIMIT,
        |r| r.userspace_addr = 0u64.wrapping_sub(0x1000),
        |r| (r.memory_size, r.userspace_addr) = ((MAX_PAGES + 1) << 12, 0),
        |r| r.guest_phys_addr = 1 << 48,
        |r| (r.slot, r.memory_size) = (1, 0),
    ];
    for change in refused {
        let mut bad = good;
        change(&mut bad);
        assert_eq!(plan(&[], &bad), Err(Errno::Einval), "{bad:?}");
    }
    assert!(plan(&[], &good).is_ok());
}

#[test]
fn limits_are_inclusive() {
    let mut last = region(31, (1 << 48) - 0x1000, 0x1000);
    last.userspace_addr = LIMIT - 0x1000;
    assert!(plan(&[], &last).is_ok());
    let mut large = region(0, 0, MAX_PAGES << 12);
    large.userspace_addr = 0;
    assert!(plan(&[], &large).is_ok());
}

#[test]
fn what_may_not_change() {
    let slots = [slot(0, 0x10, 4)];
    let good = region(0, 0x10000, 0x4000);
    let refused: [fn(&mut UserMemoryRegion); 3] = [
        |r| r.memory_size = 0x5000,
        |r| r.userspace_addr += 0x1000,
        |r| r.flags = KVM_MEM_READONLY,
    ];
    for change in refused {
        let mut bad = good;
        change(&mut bad);
        assert_eq!(plan(&slots, &bad), Err(Errno::Einval), "{bad:?}");
    }
}

/// Every placement of a small slot around another, against a page-by-page count.
#[test]
fn overlap_is_exact() {
    let slots = [slot(0, 8, 4)];
    for base in 0..20u64 {
        for pages in 1..8 {
            let overlaps = (base..base + pages).any(|page| (8..12).contains(&page));
            let got = plan(&slots, &region(1, base << 12, pages << 12));
            assert_eq!(got == Err(Errno::Eexist), overlaps, "{base} {pages}");
            assert_eq!(got.is_ok(), !overlaps);
        }
    }
    // A move is checked against the others as well.
    let slots = [slot(0, 8, 4), slot(1, 16, 4)];
    let mut moved = region(1, 9 << 12, 4 << 12);
    moved.userspace_addr = slots[1].hva;
    assert_eq!(plan(&slots, &moved), Err(Errno::Eexist));
}

#[test]
fn find_agrees_with_a_scan() {
    let slots: Vec<Slot> = [(5, 0, 2), (1, 2, 1), (9, 8, 4), (2, 20, 1)]
        .map(|(id, base, pages)| slot(id, base, pages))
        .into();
    for gfn in (0..25).map(Gfn::new) {
        let want = slots.iter().find(|slot| slot.contains(gfn));
        assert_eq!(find(&slots, gfn), want, "{gfn:?}");
    }
    assert_eq!(find(&[], Gfn::new(0)), None);
    assert_eq!(find(&slots, Gfn::new(u64::MAX)), None);
}

#[test]
fn hva_and_back() {
    let slot = slot(0, 8, 4);
    for page in 0..4 {
        let gfn = Gfn::new(8 + page);
        let hva = slot.hva(gfn).unwrap();
        assert_eq!(hva, HVA + ((8 + page) << 12));
        assert_eq!(slot.gfn_of(hva), Some(gfn));
        assert_eq!(slot.gfn_of(hva + 0xfff), Some(gfn));
    }
    assert_eq!(slot.hva(Gfn::new(7)), None);
    assert_eq!(slot.hva(Gfn::new(12)), None);
    assert_eq!(slot.gfn_of(slot.hva - 1), None);
    assert_eq!(slot.gfn_of(slot.hva + 0x4000), None);
}

#[test]
fn insertion_keeps_order() {
    let slots = [slot(0, 8, 4), slot(1, 16, 4)];
    assert_eq!(insertion_point(&slots, Gfn::new(0)), 0);
    assert_eq!(insertion_point(&slots, Gfn::new(12)), 1);
    assert_eq!(insertion_point(&slots, Gfn::new(30)), 2);
}
