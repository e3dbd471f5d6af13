// SPDX-License-Identifier: GPL-2.0

//! Memory slots: which guest frames are backed by which host addresses.
//!
//! A VM keeps its slots in an array sorted by `base`; slots never overlap.

use ept::{Gfn, Level, PAGE_SHIFT, PAGE_SIZE};
use ioctl_api::memory::{UserMemoryRegion, KVM_MEM_READONLY};

use crate::errno::Errno;

/// Most pages of one slot, as in KVM (`KVM_MEM_MAX_NR_PAGES`).
pub const MAX_PAGES: u64 = (1 << 31) - 1;

/// A memory slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Number that user space gave it.
    pub id: u16,
    /// First guest frame.
    pub base: Gfn,
    /// Length in 4-KiB pages, not 0.
    pub pages: u64,
    /// Host virtual address of the first page.
    pub hva: u64,
    /// `KVM_MEM_*`.
    pub flags: u32,
}

impl Slot {
    /// The guest may not write.
    #[inline]
    pub const fn readonly(&self) -> bool {
        self.flags & KVM_MEM_READONLY != 0
    }

    /// Whether `gfn` lies in the slot.
    #[inline]
    pub const fn contains(&self, gfn: Gfn) -> bool {
        gfn.get() >= self.base.get() && gfn.get().wrapping_sub(self.base.get()) < self.pages
    }

    /// Host virtual address of a frame of the slot.
    #[inline]
    pub const fn hva(&self, gfn: Gfn) -> Option<u64> {
        if !self.contains(gfn) {
            return None;
        }
        let pages = gfn.get().wrapping_sub(self.base.get());
        Some(self.hva.wrapping_add(pages << PAGE_SHIFT))
    }

    /// The guest frame that `hva` backs in this slot.
    #[inline]
    pub const fn gfn_of(&self, hva: u64) -> Option<Gfn> {
        if hva < self.hva {
            return None;
        }
        let pages = hva.wrapping_sub(self.hva) >> PAGE_SHIFT;
        if pages >= self.pages {
            return None;
        }
        self.base.checked_add(pages)
    }

    /// The guest frames of this slot that the host range `start..end` backs, as
    /// first frame and number of pages.
    #[inline]
    pub fn gfns_of(&self, start: u64, end: u64) -> Option<(Gfn, u64)> {
        let slot_end = self.hva.checked_add(self.pages << PAGE_SHIFT)?;
        let first = start.max(self.hva) & !(PAGE_SIZE - 1);
        let last = end.min(slot_end);
        if first >= last {
            return None;
        }
        let pages = last.wrapping_sub(first).div_ceil(PAGE_SIZE);
        Some((self.gfn_of(first)?, pages))
    }

    /// The largest leaf at `gfn`, at most `limit`, that stays inside the slot and
    /// whose guest and host addresses are aligned alike.
    pub fn leaf_level(&self, gfn: Gfn, limit: Level) -> Level {
        let mut level = limit;
        while let Some(below) = level.below() {
            let first = gfn.align_down(level);
            let inside = first >= self.base
                && first
                    .checked_add(level.pages())
                    .zip(self.base.checked_add(self.pages))
                    .is_some_and(|(end, slot_end)| end <= slot_end);
            let bytes = level.pages() << PAGE_SHIFT;
            let aligned = (self.hva ^ self.base.gpa().get()) & bytes.wrapping_sub(1) == 0;
            if inside && aligned {
                break;
            }
            level = below;
        }
        level
    }

    #[inline]
    const fn overlaps(&self, other: &Self) -> bool {
        // Neither end wraps: `plan` lets no slot pass `Gfn::END`.
        self.base.get() < other.base.get().wrapping_add(other.pages)
            && other.base.get() < self.base.get().wrapping_add(self.pages)
    }
}

/// What a `KVM_SET_USER_MEMORY_REGION` amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new slot.
    Create(Slot),
    /// The slot goes.
    Delete(Slot),
    /// The slot moves to other guest frames.
    Move {
        /// As it is.
        old: Slot,
        /// As it will be.
        new: Slot,
    },
    /// The slot is already like that.
    Nothing,
}

/// Checks a region against the `slots` of the VM (KVM api.rst 4.35).
///
/// `max_slots` bounds the slot number, `hva_limit` is the first address beyond
/// user space.
///
/// # Errors
///
/// `EINVAL` for everything malformed (the dirty-log flag among it, for there is no
/// dirty log), for the deletion of a slot that does not
/// exist and for a change of size, host address or read-only flag; `EEXIST` if
/// the frames belong to another slot.
pub fn plan(
    slots: &[Slot],
    region: &UserMemoryRegion,
    max_slots: u16,
    hva_limit: u64,
) -> Result<Change, Errno> {
    let new = check(region, max_slots, hva_limit)?;
    let old = slots.iter().find(|slot| slot.id == new.id).copied();
    let Some(old) = old else {
        if new.pages == 0 {
            return Err(Errno::Einval);
        }
        return place(slots, &new).map(|()| Change::Create(new));
    };
    if new.pages == 0 {
        return Ok(Change::Delete(old));
    }
    if new.pages != old.pages || new.hva != old.hva || new.readonly() != old.readonly() {
        return Err(Errno::Einval);
    }
    if new.base != old.base {
        return place(slots, &new).map(|()| Change::Move { old, new });
    }
    Ok(Change::Nothing)
}

fn check(region: &UserMemoryRegion, max_slots: u16, hva_limit: u64) -> Result<Slot, Errno> {
    let aligned = |value: u64| value & (PAGE_SIZE - 1) == 0;
    let (gpa, size, hva) = (
        region.guest_phys_addr,
        region.memory_size,
        region.userspace_addr,
    );
    // The upper half is the address space; there is only one.
    let id = u16::try_from(region.slot).map_err(|_| Errno::Einval)?;
    let gpa_fits = gpa.checked_add(size).is_some();
    let hva_fits = hva.checked_add(size).is_some_and(|end| end <= hva_limit);
    if region.flags & !KVM_MEM_READONLY != 0
        || id >= max_slots
        || !(aligned(gpa) && aligned(size) && aligned(hva))
        || !(gpa_fits && hva_fits)
        || size >> PAGE_SHIFT > MAX_PAGES
    {
        return Err(Errno::Einval);
    }
    Ok(Slot {
        id,
        base: Gfn::new(gpa >> PAGE_SHIFT),
        pages: size >> PAGE_SHIFT,
        hva,
        flags: region.flags,
    })
}

/// Whether `new` can take its place among the other slots.
fn place(slots: &[Slot], new: &Slot) -> Result<(), Errno> {
    let end = new.base.checked_add(new.pages).ok_or(Errno::Einval)?;
    if end > Gfn::END {
        return Err(Errno::Einval);
    }
    let taken = |other: &Slot| other.id != new.id && other.overlaps(new);
    if slots.iter().any(taken) {
        return Err(Errno::Eexist);
    }
    Ok(())
}

/// The slot that holds `gfn`, in `slots` sorted by base.
#[inline]
pub fn find(slots: &[Slot], gfn: Gfn) -> Option<&Slot> {
    let after = insertion_point(slots, gfn);
    let slot = slots.get(after.checked_sub(1)?)?;
    slot.contains(gfn).then_some(slot)
}

/// Index of the first slot whose base lies behind `gfn`: where a slot with this
/// base belongs.
#[inline]
pub fn insertion_point(slots: &[Slot], gfn: Gfn) -> usize {
    slots.partition_point(|slot| slot.base <= gfn)
}

#[cfg(test)]
#[path = "tests/slots.rs"]
mod tests;
