// SPDX-License-Identifier: GPL-2.0

//! Guest memory: memory slots, the EPT that shows them to the guest, and host
//! pages that come and go behind it.
//!
//! A host page is looked up without the mmu lock, so it may be gone before it is
//! mapped. As in KVM, the notifier's sequence count tells: what was read before
//! the look-up must still hold under the lock, else the fault is tried again.

use super::vm::Vm;
use crate::host::{
    frame::{
        Frame,
        Reserve,
        Tables, //
    },
    gup::HostPage,
    notifier::Invalidate,
    shim, //
};
use ept::{
    Gfn,
    Hpa,
    Level,
    NoFrame, //
};
use ioctl_api::memory::UserMemoryRegion;
use kernel::{
    prelude::*,
    sync::Arc, //
};
use spp::{
    Space,
    Spent,
    Unlinked, //
};
use vmcore::{
    fault::Backend,
    slots::{
        self,
        Change,
        Slot, //
    }, //
};

/// Memory slots that a VM may have: KVM's number.
pub(crate) const MAX_SLOTS: u16 = 32764;

/// The memory slots at one time, sorted by guest-physical base.
pub(crate) struct SlotTable {
    pub(crate) slots: KVVec<Slot>,
}

/// What `Vm::mmu` protects.
pub(crate) struct Mmu {
    pub(crate) space: Space,
    pub(crate) tables: Tables,
    /// Who holds writes to the maps.
    pub(crate) backend: Backend,
    slots: Arc<SlotTable>,
    /// Invalidations that have begun and not ended, and a count of those that ended.
    invalidating: u32,
    sequence: u64,
    /// The union of the host-virtual ranges being invalidated.
    range: (u64, u64),
}

impl Mmu {
    /// No memory slots, and an empty EPT.
    pub(crate) fn new() -> Result<Self> {
        let empty = SlotTable {
            slots: KVVec::new(),
        };
        Ok(Self {
            slots: Arc::new(empty, GFP_KERNEL_ACCOUNT)?,
            space: Space::new(Frame::new()?.into_hpa()),
            tables: Tables::new(),
            backend: Backend::Software,
            invalidating: 0,
            sequence: 0,
            range: (0, 0),
        })
    }

    /// The slot table of now; it stays as it is while others replace it.
    pub(crate) fn slots(&self) -> Arc<SlotTable> {
        self.slots.clone()
    }

    /// The slots of now.
    pub(crate) fn slots_now(&self) -> &[Slot] {
        &self.slots.slots
    }

    /// A host page looked up after `snapshot` was taken may no longer be right.
    pub(crate) fn outdated(&self, snapshot: &Snapshot, hva: u64) -> bool {
        let (start, end) = self.range;
        self.sequence != snapshot.sequence
            || !Arc::ptr_eq(&self.slots, &snapshot.slots)
            || (self.invalidating > 0 && (start..end).contains(&hva))
    }
}

impl Drop for Mmu {
    fn drop(&mut self) {
        // The walk hands out children before their parents, so that no freed
        // table is walked.
        self.space.for_each_table(&self.tables, |hpa| {
            // SAFETY: The VM has no vCPU any more, and every CPU that ran it
            // invalidates before it runs another VM with the same root. Each
            // table is visited once.
            drop(unsafe { Frame::from_hpa(hpa) });
        });
    }
}

/// What was true before a page look-up.
pub(crate) struct Snapshot {
    slots: Arc<SlotTable>,
    sequence: u64,
}

impl Snapshot {
    /// The slots, sorted by base.
    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots.slots
    }
}

impl Vm {
    /// KVM_SET_USER_MEMORY_REGION (KVM api.rst 4.35).
    pub(crate) fn set_memory_region(&self, region: &UserMemoryRegion) -> Result {
        let _config = self.config.lock();
        let old = self.mmu.lock().slots();
        let hva_end = shim::kvm_spp_user_end();
        let change =
            slots::plan(&old.slots, region, MAX_SLOTS, hva_end).map_err(super::vm::errno)?;
        let (gone, added) = match change {
            Change::Nothing => return Ok(()),
            Change::Create(slot) => (None, Some(slot)),
            Change::Delete(slot) => (Some(slot), None),
            Change::Move { old, new } => (Some(old), Some(new)),
        };
        let table = Self::replaced(&old.slots, gone, added)?;
        let mut mmu = self.mmu.lock();
        mmu.slots = table;
        let stale = gone.and_then(|slot| mmu.space.zap(&mmu.tables, slot.base, slot.pages));
        self.tlb.flush(&mmu, stale);
        Ok(())
    }

    /// A copy of `slots` without `gone` and with `added`, sorted.
    fn replaced(slots: &[Slot], gone: Option<Slot>, added: Option<Slot>) -> Result<Arc<SlotTable>> {
        let mut table = KVVec::with_capacity(slots.len() + 1, GFP_KERNEL_ACCOUNT)?;
        let mut added = added;
        for slot in slots {
            if gone.is_some_and(|gone| gone.id == slot.id) {
                continue;
            }
            if let Some(new) = added.take_if(|new| new.base < slot.base) {
                table.push(new, GFP_KERNEL_ACCOUNT)?;
            }
            table.push(*slot, GFP_KERNEL_ACCOUNT)?;
        }
        if let Some(new) = added {
            table.push(new, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(Arc::new(SlotTable { slots: table }, GFP_KERNEL_ACCOUNT)?)
    }

    /// What must still be true when a host page that is looked up from now on is used.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mmu = self.mmu.lock();
        Snapshot {
            slots: mmu.slots(),
            sequence: mmu.sequence,
        }
    }

    /// Maps what the guest wants to reach at `gfn`. Sleeps. Where things changed
    /// meanwhile nothing is mapped: the guest faults again, after its vCPU has
    /// looked at signals and the scheduler. Errors are those of the page look-up:
    /// `EFAULT`, `EHWPOISON`, `EINTR`, and `ENOMEM`.
    #[inline(never)]
    pub(crate) fn fault(&self, reserve: &mut Reserve, gfn: Gfn, write: bool) -> Result {
        reserve.fill(spp::MAX_FRAMES_PER_MAP)?;
        loop {
            let snapshot = self.snapshot();
            let slot = slots::find(snapshot.slots(), gfn);
            let Some(slot) = slot.filter(|slot| !(write && slot.readonly())) else {
                return Ok(());
            };
            let hva = slot.hva(gfn).ok_or(EFAULT)?;
            let page = HostPage::find(hva, write)?;
            match self.install(reserve, &snapshot, slot, gfn, hva, &page) {
                Some(Err(NoFrame)) => reserve.fill(spp::MAX_FRAMES_PER_MAP)?,
                Some(Ok(())) | None => return Ok(()),
            }
        }
    }

    /// Puts the page into the EPT, unless it may have changed meanwhile (`None`).
    fn install(
        &self,
        reserve: &mut Reserve,
        snapshot: &Snapshot,
        slot: &Slot,
        gfn: Gfn,
        hva: u64,
        page: &HostPage,
    ) -> Option<Result<(), NoFrame>> {
        let mmu = self.mmu.lock();
        if mmu.outdated(snapshot, hva) {
            return None;
        }
        let host = self.host_level(hva).min(self.max_leaf);
        let level = match slot.leaf_level(gfn, host) {
            Level::Pt => Level::Pt,
            large => large.min(mmu.space.max_level(&mmu.tables, gfn)),
        };
        let inside = page.hpa().get() & (level.pages() * ept::PAGE_SIZE - 1);
        let hpa = Hpa::new(page.hpa().get() - inside);
        let writable = page.writable() && !slot.readonly();
        let mapped = match mmu
            .space
            .map(&mmu.tables, reserve, gfn, level, hpa, writable)
        {
            Ok(mapped) => mapped,
            Err(NoFrame) => return Some(Err(NoFrame)),
        };
        if writable {
            page.mark_dirty();
        }
        let spent = self.tlb.flush(&mmu, mapped.stale);
        drop(mmu);
        if !mapped.unlinked.is_empty() {
            free_tables(mapped.unlinked, spent);
        }
        Some(Ok(()))
    }

    /// The level at which the host maps `hva`; the caller holds the mmu lock and
    /// has found no invalidation, so the page tables are there.
    fn host_level(&self, hva: u64) -> Level {
        // SAFETY: The notifier keeps the mm allocated, and the mmu lock with no
        // invalidation in progress keeps the mapping.
        match unsafe { shim::kvm_spp_host_level(self.mm, hva) } {
            3 => Level::Pdpt,
            2 => Level::Pd,
            _ => Level::Pt,
        }
    }
}

/// Frees tables of a VM's `Space`, if the flush that they need is `spent`.
#[cold]
fn free_tables(unlinked: Unlinked, spent: Option<Spent>) {
    for table in unlinked.after(spent) {
        // SAFETY: The table came from `Frame::into_hpa`. Nothing links to it and the flush
        // is over, so no processor walks it. It is handed out once.
        drop(unsafe { Frame::from_hpa(table) });
    }
}

impl Invalidate for Vm {
    fn invalidate_start(&self, start: u64, end: u64) {
        let mut mmu = self.mmu.lock();
        mmu.range = match mmu.invalidating {
            0 => (start, end),
            _ => (mmu.range.0.min(start), mmu.range.1.max(end)),
        };
        mmu.invalidating = mmu.invalidating.saturating_add(1);
        let slots = mmu.slots();
        let mut stale = None;
        for slot in slots.slots.iter() {
            if let Some((gfn, pages)) = slot.gfns_of(start, end) {
                stale = spp::Stale::merge(stale, mmu.space.zap(&mmu.tables, gfn, pages));
            }
        }
        self.tlb.flush(&mmu, stale);
    }

    fn invalidate_end(&self) {
        let mut mmu = self.mmu.lock();
        mmu.sequence = mmu.sequence.wrapping_add(1);
        mmu.invalidating = mmu.invalidating.saturating_sub(1);
    }

    fn mm_gone(&self) {
        self.invalidate_start(0, u64::MAX);
    }
}
