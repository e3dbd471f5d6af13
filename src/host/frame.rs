// SPDX-License-Identifier: GPL-2.0

//! Zeroed 4-KiB page frames: what VMCS regions, paging structures and the
//! pages shared with user space are made of.

use super::shim;
use core::ptr::NonNull;
use ept::{
    Frames,
    Hpa,
    PhysMem,
    Slot,
    PAGE_SIZE, //
};
use kernel::{
    bindings,
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Full,
        Release, //
    }, //
};

/// One owned, initially zeroed page frame.
///
/// # Invariants
///
/// `page` is an order-0 page that this value owns; it is in the kernel's direct
/// mapping (it was allocated without `__GFP_HIGHMEM`), at `address`.
pub(crate) struct Frame {
    page: NonNull<bindings::page>,
    address: NonNull<u8>,
}

// SAFETY: A page frame belongs to no thread; it is only an address and its owner.
unsafe impl Send for Frame {}
// SAFETY: `&Frame` gives out addresses only; access through them is the caller's `unsafe`.
unsafe impl Sync for Frame {}

impl Frame {
    /// Allocates a zeroed frame. May sleep.
    pub(crate) fn new() -> Result<Self> {
        let page = NonNull::new(shim::kvm_spp_alloc_page()).ok_or(ENOMEM)?;
        // SAFETY: Freshly allocated, order 0, no high memory, and nobody else's.
        unsafe { Self::of(page) }.ok_or(ENOMEM)
    }

    /// # Safety
    ///
    /// `page` is an order-0 page in the direct mapping, and becomes the result's.
    unsafe fn of(page: NonNull<bindings::page>) -> Option<Self> {
        // SAFETY: By the contract of this function.
        let address = NonNull::new(unsafe { shim::kvm_spp_page_address(page.as_ptr()) }.cast())?;
        // INVARIANT: By the contract of this function.
        Some(Self { page, address })
    }

    /// The frame's host-physical address.
    pub(crate) fn hpa(&self) -> Hpa {
        // SAFETY: `page` is a valid page by the type invariant.
        Hpa::new(unsafe { shim::kvm_spp_page_phys(self.page.as_ptr()) })
    }

    /// The frame's address in the direct mapping; 4096 bytes are valid there.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.address.as_ptr()
    }

    /// The frame's bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: The page's bytes are valid, initialised since it was zeroed, and belong to
        // this value. They change through `bytes_mut` only, or by the processor where the
        // frame was given to it, and then its owner does not look.
        unsafe { core::slice::from_raw_parts(self.as_ptr(), PAGE_SIZE as usize) }
    }

    /// The frame's bytes, to be changed.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: As for `bytes`, with an exclusive borrow.
        unsafe { core::slice::from_raw_parts_mut(self.as_ptr(), PAGE_SIZE as usize) }
    }

    /// Gives the frame up to a paging structure, which knows it by address.
    pub(crate) fn into_hpa(self) -> Hpa {
        let hpa = self.hpa();
        core::mem::forget(self);
        hpa
    }

    /// Takes a frame back from a paging structure.
    ///
    /// # Safety
    ///
    /// `hpa` came from [`Frame::into_hpa`], is taken back once, and no processor
    /// can still walk it (invalidated, and unreachable from every root in use).
    pub(crate) unsafe fn from_hpa(hpa: Hpa) -> Option<Self> {
        let page = NonNull::new(shim::kvm_spp_phys_to_page(hpa.get()))?;
        // SAFETY: The caller returns a frame that `into_hpa` gave up.
        unsafe { Self::of(page) }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        // SAFETY: This value owns the page and nobody uses it any more.
        unsafe { shim::kvm_spp_free_page(self.page.as_ptr()) };
    }
}

/// Frames allocated before a spinlock is taken, for the tables built under it.
#[derive(Default)]
pub(crate) struct Reserve {
    frames: KVec<Frame>,
}

impl Reserve {
    /// Makes sure that `count` frames are at hand. May sleep.
    pub(crate) fn fill(&mut self, count: usize) -> Result {
        while self.frames.len() < count {
            self.frames.push(Frame::new()?, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(())
    }
}

impl Frames for Reserve {
    fn take(&mut self) -> Option<Hpa> {
        self.frames.pop().map(Frame::into_hpa)
    }
}

/// Access to the words of EPT and SPPT tables through the direct mapping.
///
/// # Invariants
///
/// `base` is where the direct mapping shows physical address 0, and every
/// [`Slot`] asked for lies in a table frame of a live `Space`: slots are only
/// made by `ept::Tree` walks from a root that the same owner holds, and table
/// frames are freed only when that owner is dropped, or once no table links to them;
/// or it lies in a frame of a view, which a vCPU owns.
pub(crate) struct Tables {
    base: *mut u8,
}

// SAFETY: The direct mapping is there for every thread.
unsafe impl Send for Tables {}

impl Tables {
    /// The accessor for the table frames of one `Space`.
    pub(crate) fn new() -> Self {
        // INVARIANT: The direct mapping is linear from here on.
        Self {
            base: shim::kvm_spp_phys_to_virt(0).cast(),
        }
    }

    #[inline(always)]
    fn word(&self, at: Slot) -> &Atomic<u64> {
        let offset = at.table().get() as usize + at.index() * 8;
        let word = self.base.wrapping_add(offset).cast::<u64>();
        // SAFETY: By the type invariant this is a word of a live table frame (the
        // index is below 512), and all software access to it is atomic; the
        // processor's is by nature.
        unsafe { Atomic::from_ptr(word) }
    }
}

impl PhysMem for Tables {
    #[inline(always)]
    fn load(&self, at: Slot) -> u64 {
        self.word(at).load(Acquire)
    }

    #[inline(always)]
    fn store(&self, at: Slot, raw: u64) {
        self.word(at).store(raw, Release);
    }

    #[inline(always)]
    fn compare_exchange(&self, at: Slot, old: u64, new: u64) -> Result<(), u64> {
        self.word(at).cmpxchg(old, new, Full).map(|_| ())
    }
}
