// SPDX-License-Identifier: GPL-2.0

//! Guest memory for the emulator: the only place from which the module writes it.
//!
//! ```text
//!   Span, bytes                                     (emulate::guard made the span)
//!     |
//!   mmu lock: EPT maps all of it to writable host pages?
//!     |   no: slots, sequence -> snapshot           mmu lock, for a moment
//!     |       host page of each fragment            unlocked: may sleep, fault, wait
//!     |       mmu lock: snapshot still true?        no -> Changed
//!     |
//!   maps allow each byte?                           no -> Changed
//!   store                                           all fragments, or none
//! ```
//!
//! KVM_SPP_SET_MAPS and the MMU notifier take the same lock, so that after they return
//! no write is on its way that they forbid.

use super::{
    memory::Mmu,
    vm::Vm, //
};
use crate::host::{
    gup::{
        HostPage,
        Place, //
    },
    user, //
};
use emulate::{
    guard::{
        self,
        Fragment,
        Memory,
        Page,
        Span,
        Trouble, //
    },
    GuestPhys, //
};
use ept::{
    Gfn,
    Gpa,
    Hpa,
    PAGE_SIZE, //
};
use kernel::prelude::*;
use vmcore::slots::{
    self,
    Slot, //
};

/// Longest exchange that no single access of the processor does: that of 16 bytes.
const MAX_EXCHANGE: usize = 16;

/// The memory of a VM, which belongs to the calling process.
pub(crate) struct GuestMemory<'a> {
    vm: &'a Vm,
    /// The frames that were looked at last. What they are may be outdated when something
    /// is written, which is found out then.
    seen: [Option<(Gfn, Page)>; 2],
    /// The slot that was read last, most of the time the next one too.
    slot: Option<Slot>,
    /// A frame that was written without being mapped.
    unmapped: Option<Gfn>,
    failed: Option<Error>,
}

impl<'a> GuestMemory<'a> {
    /// The memory of `vm`.
    pub(crate) fn new(vm: &'a Vm) -> Self {
        Self {
            vm,
            seen: [None, None],
            slot: None,
            unmapped: None,
            failed: None,
        }
    }

    /// What is at a frame has just been looked up.
    pub(crate) fn expect(&mut self, gfn: Gfn, page: Page) {
        self.seen = [Some((gfn, page)), None];
    }

    /// Forgets a failure that did not matter.
    pub(crate) fn forgive(&mut self) {
        self.failed = None;
    }

    /// A frame that was written without being mapped: mapped, it is at hand when more is
    /// written to it, and when the guest looks.
    pub(crate) fn unmapped(&self) -> Option<Gfn> {
        self.unmapped
    }

    /// Why the host could not give a page.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.failed
    }

    /// Host virtual address of a frame that is to be read.
    #[inline(always)]
    fn hva(&mut self, gfn: Gfn) -> Option<u64> {
        match self.slot.as_ref().and_then(|slot| slot.hva(gfn)) {
            None => self.find_hva(gfn),
            hva => hva,
        }
    }

    #[inline(never)]
    fn find_hva(&mut self, gfn: Gfn) -> Option<u64> {
        let mmu = self.vm.mmu.lock();
        let slot = slots::find(mmu.slots_now(), gfn)?;
        self.slot = Some(*slot);
        slot.hva(gfn)
    }

    /// The user address of `len` bytes in one page.
    #[inline(always)]
    fn address(&mut self, gpa: Gpa, len: usize) -> Option<usize> {
        let offset = u64::from(gpa.page_offset());
        if offset + len as u64 > PAGE_SIZE {
            return None;
        }
        Some((self.hva(gpa.gfn())? + offset) as usize)
    }

    /// Remembers why the host could not give memory.
    fn noted<T>(&mut self, result: Result<T>) -> Option<T> {
        result.inspect_err(|error| self.failed = Some(*error)).ok()
    }

    /// The host page of a memory fragment, writable.
    fn host_page(
        &mut self,
        slots: &[Slot],
        fragment: &Fragment,
    ) -> Result<(HostPage, u64), Trouble> {
        let gfn = fragment.gpa.gfn();
        let slot = slots::find(slots, gfn).ok_or(Trouble::Changed)?;
        let hva = slot.hva(gfn).ok_or(Trouble::Changed)?;
        let page = self.noted(HostPage::find(hva, true)).ok_or(Trouble::Host)?;
        Ok((page, hva))
    }

    /// Hands the places of a span's memory fragments to `write` under the mmu lock, if the
    /// maps allow the write.
    fn commit<R>(
        &mut self,
        span: &Span,
        bytes: u64,
        write: impl FnOnce(&Targets<'_>) -> R,
    ) -> Result<R, Trouble> {
        let mmu = self.vm.mmu.lock();
        // What the processor could write to, if only the map let it, is at hand.
        if let Some(targets) = mmu.mapped(span) {
            return match span.allowed(bytes, |gfn| mmu.page(gfn)) {
                true => Ok(write(&targets)),
                false => Err(Trouble::Changed),
            };
        }
        drop(mmu);
        self.commit_looked_up(span, bytes, write)
    }

    /// The same where the EPT does not show the memory: its host pages are looked up first.
    #[cold]
    fn commit_looked_up<R>(
        &mut self,
        span: &Span,
        bytes: u64,
        write: impl FnOnce(&Targets<'_>) -> R,
    ) -> Result<R, Trouble> {
        let snapshot = self.vm.snapshot();
        let mut pages = [None, None];
        for (page, fragment) in pages.iter_mut().zip(span.fragments()) {
            if !fragment.device {
                *page = Some(self.host_page(snapshot.slots(), &fragment)?);
                self.unmapped = Some(fragment.gpa.gfn());
            }
        }
        let mmu = self.vm.mmu.lock();
        let outdated = |(_, hva): &(HostPage, u64)| mmu.outdated(&snapshot, *hva);
        if pages.iter().flatten().any(outdated) || !span.allowed(bytes, |gfn| mmu.page(gfn)) {
            return Err(Trouble::Changed);
        }
        let mut targets = [None, None];
        for ((target, page), fragment) in targets.iter_mut().zip(&pages).zip(span.fragments()) {
            *target = page.as_ref().map(|(page, _)| Target {
                place: page.place(),
                offset: fragment.gpa.page_offset(),
            });
        }
        Ok(write(&targets))
    }
}

/// Where a fragment is in the host.
struct Target<'a> {
    place: Place<'a>,
    offset: u16,
}

/// Where the memory fragments of a span are.
type Targets<'a> = [Option<Target<'a>>; 2];

impl Mmu {
    /// What is at a frame.
    fn page(&self, gfn: Gfn) -> Page {
        match slots::find(self.slots_now(), gfn) {
            None => Page::Device,
            Some(slot) if slot.readonly() => Page::Rom,
            Some(_) => Page::Ram(self.space.mask(&self.tables, gfn)),
        }
    }

    /// Where the memory fragments of a span are, if the EPT maps them all to pages that the
    /// host may write. They stay there as long as the lock is held.
    fn mapped(&self, span: &Span) -> Option<Targets<'_>> {
        let mut targets = [None, None];
        for (target, fragment) in targets.iter_mut().zip(span.fragments()) {
            if !fragment.device {
                let place = self.place(fragment.gpa.gfn())?;
                let offset = fragment.gpa.page_offset();
                *target = Some(Target { place, offset });
            }
        }
        Some(targets)
    }

    fn place(&self, gfn: Gfn) -> Option<Place<'_>> {
        let leaf = self.space.leaf(&self.tables, gfn)?;
        // Bit 61 says that the host page may be written, though not everywhere.
        if !leaf.writable && !leaf.subpage {
            return None;
        }
        let inside = (gfn.get() & (leaf.level.pages() - 1)) * PAGE_SIZE;
        let hpa = Hpa::new(leaf.hpa.get().wrapping_add(inside));
        // SAFETY: The notifier removes the leaf before the host takes the page, or the right
        // to write it, away, and waits for the lock that the borrow proves.
        unsafe { Place::at(hpa) }
    }
}

impl GuestPhys for GuestMemory<'_> {
    fn read(&mut self, gpa: Gpa, out: &mut [u8]) -> bool {
        let Some(address) = self.address(gpa, out.len()) else {
            return false;
        };
        let read = match out.len() {
            // An instruction, for one.
            8..=16 => user::read_ends(address, out),
            len => user::slice(address, len).reader().read_slice(out),
        };
        self.noted(read).is_some()
    }

    fn read_u32(&mut self, gpa: Gpa) -> Option<u32> {
        let address = self.address(gpa, size_of::<u32>())?;
        self.noted(user::read_u32(address))
    }

    fn read_u64(&mut self, gpa: Gpa) -> Option<u64> {
        let address = self.address(gpa, size_of::<u64>())?;
        self.noted(user::read_u64(address))
    }
}

impl Memory for GuestMemory<'_> {
    fn page(&mut self, gfn: Gfn) -> Page {
        let seen = |(frame, page): &(Gfn, Page)| (*frame == gfn).then_some(*page);
        if let Some(page) = self.seen.iter().flatten().find_map(seen) {
            return page;
        }
        let page = self.vm.mmu.lock().page(gfn);
        let [last, before] = &mut self.seen;
        *before = last.replace((gfn, page));
        page
    }

    fn write(&mut self, span: &Span, data: &[u8], bytes: u64) -> Result<(), Trouble> {
        self.commit(span, bytes, |targets| {
            let (mut rest, mut done) = (data, 0u16);
            for (target, fragment) in targets.iter().zip(span.fragments()) {
                let len = usize::from(fragment.len).min(rest.len());
                let (part, others) = rest.split_at_checked(len).unwrap_or((rest, &[]));
                if let Some(target) = target {
                    let bytes = guard::following(bytes, done);
                    target.place.store(target.offset, part, bytes);
                }
                rest = others;
                done = done.saturating_add(fragment.len);
            }
        })
    }

    fn exchange(&mut self, span: &Span, old: &[u8], new: &[u8]) -> Result<bool, Trouble> {
        self.commit(span, u64::MAX, |targets| match targets {
            [Some(target), None] => match target.place.exchange(target.offset, old, new) {
                Some(done) => done,
                None => exchange_by_parts(&[target], old, new),
            },
            [Some(first), Some(second)] => exchange_by_parts(&[first, second], old, new),
            _ => false,
        })
    }
}

/// A locked access that lies across cache lines, or pages. Under the mmu lock it is one
/// access for all others that are emulated; the processor's own accesses may come in
/// between, for no instruction of the host's does this without locking the bus.
fn exchange_by_parts(targets: &[&Target<'_>], old: &[u8], new: &[u8]) -> bool {
    let mut now = [0; MAX_EXCHANGE];
    let Some(now) = now.get_mut(..old.len()) else {
        return false;
    };
    let mut rest = &mut *now;
    for target in targets {
        let Some((part, behind)) = rest.split_at_mut_checked(here(target, rest.len())) else {
            return false;
        };
        target.place.load(target.offset, part);
        rest = behind;
    }
    if *now != *old {
        return false;
    }
    let mut rest = new;
    for target in targets {
        let Some((part, behind)) = rest.split_at_checked(here(target, rest.len())) else {
            return false;
        };
        target.place.store(target.offset, part, u64::MAX);
        rest = behind;
    }
    true
}

/// How many of `len` bytes lie in the page of a target.
fn here(target: &Target<'_>, len: usize) -> usize {
    len.min((PAGE_SIZE as usize).saturating_sub(usize::from(target.offset)))
}
