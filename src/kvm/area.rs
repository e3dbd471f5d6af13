// SPDX-License-Identifier: GPL-2.0

//! The pages of a vCPU that user space maps: `struct kvm_run`, PIO data, and the
//! ring of coalesced writes, which all vCPUs of a VM share (KVM api.rst 5).
//!
//! User space may write them at any time. So they are accessed by volatile
//! copies only: each field is read once, and nothing is believed twice.

use crate::host::shim;
use core::mem::size_of;
use ioctl_api::run;
use kernel::{
    mm::virt::VmaNew,
    page::Page,
    prelude::*,
    sync::Arc, //
};

/// Pages in the area.
const PAGES: usize = run::MMAP_SIZE / 4096;

/// A number that `Area` copies in one access.
///
/// # Safety
///
/// Implemented for integers only: any bytes are a value.
pub(crate) unsafe trait Word: Copy + Default {}
// SAFETY: An integer.
unsafe impl Word for u8 {}
// SAFETY: An integer.
unsafe impl Word for u16 {}
// SAFETY: An integer.
unsafe impl Word for u32 {}
// SAFETY: An integer.
unsafe impl Word for u64 {}

/// The shared pages of one vCPU.
///
/// # Invariants
///
/// `bases` are the addresses of `own`'s and `ring`'s pages in the direct mapping.
pub(crate) struct Area {
    own: [Page; 2],
    ring: Arc<Page>,
    bases: [*mut u8; PAGES],
}

// SAFETY: The pages belong to no thread, and are shared with user space anyway.
unsafe impl Send for Area {}
// SAFETY: All access is by volatile copies, of which user space makes others at
// the same time; no reference into the pages is ever made.
unsafe impl Sync for Area {}

impl Area {
    /// Allocates zeroed pages; the last one is `ring`.
    pub(crate) fn new(ring: Arc<Page>) -> Result<Self> {
        let page = || Page::alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);
        let own = [page()?, page()?];
        let bases = Self::in_order(&own, &ring).map(|page| {
            // SAFETY: The page is allocated and has an address (no high memory).
            unsafe { shim::kvm_spp_page_address(page.as_ptr()) }.cast()
        });
        // INVARIANT: `bases` were taken from the pages, which keep their addresses.
        Ok(Self { own, ring, bases })
    }

    fn in_order<'a>([run, pio]: &'a [Page; 2], ring: &'a Page) -> [&'a Page; PAGES] {
        [run, pio, ring]
    }

    /// Maps the area, or its start, at `vma`. `EINVAL` for other ranges.
    pub(crate) fn mmap(&self, vma: &VmaNew, pgoff: usize) -> Result {
        let bytes = vma.end().checked_sub(vma.start()).ok_or(EINVAL)?;
        let end = pgoff.checked_add(bytes / 4096).ok_or(EINVAL)?;
        let pages = Self::in_order(&self.own, &self.ring);
        let pages = pages.get(pgoff..end).ok_or(EINVAL)?;
        vma.set_dontexpand();
        let vma = vma.set_mixedmap();
        for (i, page) in pages.iter().enumerate() {
            vma.vm_insert_page(vma.start() + i * 4096, page)?;
        }
        Ok(())
    }

    /// The address of `len` bytes at `offset`, if they lie in one page.
    #[inline]
    fn at(&self, offset: usize, len: usize) -> Option<*mut u8> {
        let base = self.bases.get(offset / 4096)?;
        let start = offset % 4096;
        if len > 4096 - start {
            return None;
        }
        // SAFETY: `start` is below the page's 4096 bytes.
        Some(unsafe { base.add(start) })
    }

    /// Reads the word at `offset`, which is a multiple of its size; else 0.
    #[inline]
    pub(crate) fn load<T: Word>(&self, offset: usize) -> T {
        match self.at(offset, size_of::<T>()) {
            Some(p) if offset % size_of::<T>() == 0 => {
                // SAFETY: `at` gave an aligned address inside a live page, shared
                // with user space and therefore volatile.
                unsafe { p.cast::<T>().read_volatile() }
            }
            _ => T::default(),
        }
    }

    /// Writes the word at `offset`, which is a multiple of its size.
    #[inline]
    pub(crate) fn store<T: Word>(&self, offset: usize, value: T) {
        if let Some(p) = self.at(offset, size_of::<T>()) {
            if offset % size_of::<T>() == 0 {
                // SAFETY: As in `load`.
                unsafe { p.cast::<T>().write_volatile(value) };
            }
        }
    }

    /// Fills `out` from `offset`, a multiple of 8, on, in one page; elsewhere `out` stays.
    pub(crate) fn read(&self, offset: usize, out: &mut [u8]) {
        let Some(start) = self.at(offset, out.len()).filter(|_| offset % 8 == 0) else {
            return;
        };
        let mut at = start.cast::<u64>();
        let mut next = || {
            // SAFETY: `at` begins at an aligned address inside a live page, shared with user
            // space and therefore volatile, and stays in `out.len()` bytes of it: so the
            // word, which ends at a multiple of 8, too, is in the page.
            let word = unsafe { at.read_volatile() };
            at = at.wrapping_add(1);
            word.to_ne_bytes()
        };
        let mut words = out.chunks_exact_mut(8);
        for bytes in words.by_ref() {
            if let Some(bytes) = bytes.first_chunk_mut() {
                *bytes = next();
            }
        }
        let rest = words.into_remainder();
        if !rest.is_empty() {
            rest.iter_mut()
                .zip(next())
                .for_each(|(to, from)| *to = from);
        }
    }

    /// Copies `bytes` to `offset`, 8 at a time where they are aligned.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        let (words, rest) = bytes.split_at(bytes.len() & !7);
        for (i, word) in words.chunks_exact(8).enumerate() {
            if let Ok(word) = word.try_into() {
                self.store(offset + i * 8, u64::from_ne_bytes(word));
            }
        }
        for (i, byte) in rest.iter().enumerate() {
            self.store(offset + words.len() + i, *byte);
        }
    }

    /// Announces an exit: its reason and the payload that belongs to it.
    pub(crate) fn exit(&self, reason: u32, payload: &[u8]) {
        self.store(run::EXIT_REASON, reason);
        self.write(run::PAYLOAD, payload);
    }
}
