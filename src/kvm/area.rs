// SPDX-License-Identifier: GPL-2.0

//! The pages of a vCPU that user space maps: `struct kvm_run`, PIO data, and
//! the coalesced-MMIO ring's place (KVM api.rst 5).
//!
//! User space may write them at any time. So they are accessed by volatile
//! copies only: each field is read once, and nothing is believed twice.

use crate::host::shim;
use ioctl_api::run;
use kernel::{
    mm::virt::VmaNew,
    page::Page,
    prelude::*, //
};

/// Pages in the area.
const PAGES: usize = run::MMAP_SIZE / 4096;

/// The shared pages of one vCPU.
pub(crate) struct Area {
    pages: [Page; PAGES],
}

impl Area {
    /// Allocates zeroed pages.
    pub(crate) fn new() -> Result<Self> {
        let page = || Page::alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);
        Ok(Self {
            pages: [page()?, page()?, page()?],
        })
    }

    /// Maps the area, or its start, at `vma`. `EINVAL` for other ranges.
    pub(crate) fn mmap(&self, vma: &VmaNew, pgoff: usize) -> Result {
        let bytes = vma.end().checked_sub(vma.start()).ok_or(EINVAL)?;
        let end = pgoff.checked_add(bytes / 4096).ok_or(EINVAL)?;
        let pages = self.pages.get(pgoff..end).ok_or(EINVAL)?;
        vma.set_dontexpand();
        let vma = vma.set_mixedmap();
        for (i, page) in pages.iter().enumerate() {
            vma.vm_insert_page(vma.start() + i * 4096, page)?;
        }
        Ok(())
    }

    /// The address of `len` bytes at `offset`, which lie in one page.
    fn at(&self, offset: usize, len: usize) -> Option<*mut u8> {
        let page = self.pages.get(offset / 4096)?;
        let start = offset % 4096;
        if start.checked_add(len)? > 4096 {
            return None;
        }
        // SAFETY: The page is ours and has an address (no high memory).
        let base = unsafe { shim::kvm_spp_page_address(page.as_ptr()) }.cast::<u8>();
        // SAFETY: `start` is below the page's 4096 bytes.
        Some(unsafe { base.add(start) })
    }

    /// Reads one byte.
    pub(crate) fn read_u8(&self, offset: usize) -> u8 {
        self.at(offset, 1).map_or(0, |p| {
            // SAFETY: `at` gave an address inside a live page; shared with user
            // space, therefore volatile.
            unsafe { p.read_volatile() }
        })
    }

    /// Reads an aligned 64-bit word.
    pub(crate) fn read_u64(&self, offset: usize) -> u64 {
        self.at(offset, 8)
            .filter(|p| p.cast::<u64>().is_aligned())
            .map_or(0, |p| {
                // SAFETY: As in `read_u8`, and aligned.
                unsafe { p.cast::<u64>().read_volatile() }
            })
    }

    /// Copies `out.len()` bytes from `offset`.
    pub(crate) fn read(&self, offset: usize, out: &mut [u8]) {
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = self.read_u8(offset + i);
        }
    }

    /// Copies `bytes` to `offset`.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        let Some(start) = self.at(offset, bytes.len()) else {
            return;
        };
        for (i, byte) in bytes.iter().enumerate() {
            // SAFETY: `at` checked that the whole range lies in the page.
            let p = unsafe { start.add(i) };
            // SAFETY: As in `read_u8`.
            unsafe { p.write_volatile(*byte) };
        }
    }

    /// Announces an exit: its reason and the payload that belongs to it.
    pub(crate) fn exit(&self, reason: u32, payload: &[u8]) {
        self.write(run::EXIT_REASON, &reason.to_ne_bytes());
        self.write(run::PAYLOAD, payload);
    }
}
