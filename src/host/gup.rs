// SPDX-License-Identifier: GPL-2.0

//! Host pages behind guest memory, looked up and not pinned: the reference ends
//! as soon as the EPT entry is in place, and the MMU notifier guards it then.

use super::shim;
use core::ptr::{
    null_mut,
    NonNull, //
};
use ept::Hpa;
use kernel::{
    bindings,
    prelude::*, //
};

/// A host page with a short-lived reference.
///
/// # Invariants
///
/// `page` is valid and this value owns one reference to its folio.
pub(crate) struct HostPage {
    page: NonNull<bindings::page>,
    writable: bool,
}

impl HostPage {
    /// Finds the page at `hva` of the calling process, faulting it in.
    ///
    /// A read asks for write access too where that costs nothing, so that the
    /// guest's first store after a load does not exit again. Errors: `EFAULT`
    /// (no such memory, or read-only memory and `write`), `EHWPOISON`, `EINTR`.
    pub(crate) fn find(hva: u64, write: bool) -> Result<Self> {
        if let Some(page) = Self::fast(hva, true) {
            return Ok(Self::new(page, true));
        }
        let mut page = null_mut();
        // SAFETY: `page` is a valid place for one page pointer.
        let got = unsafe { shim::kvm_spp_gup_slow(hva, write, &mut page) };
        let page = match (got, NonNull::new(page)) {
            (1, Some(page)) => page,
            (err, _) if err < 0 => return Err(Error::from_errno(err as i32)),
            _ => return Err(EFAULT),
        };
        Ok(Self::new(page, write))
    }

    fn new(page: NonNull<bindings::page>, writable: bool) -> Self {
        // INVARIANT: The look-up returned the page with a reference.
        Self { page, writable }
    }

    fn fast(hva: u64, write: bool) -> Option<NonNull<bindings::page>> {
        let mut page = null_mut();
        // SAFETY: `page` is a valid place for one page pointer.
        match unsafe { shim::kvm_spp_gup_fast(hva, write, &mut page) } {
            1 => NonNull::new(page),
            _ => None,
        }
    }

    /// Host-physical address of the 4-KiB page.
    pub(crate) fn hpa(&self) -> Hpa {
        // SAFETY: `page` is valid by the type invariant.
        Hpa::new(unsafe { shim::kvm_spp_page_phys(self.page.as_ptr()) })
    }

    /// The guest may write the page from now on. The caller holds the lock that the
    /// notifier takes, and has found that the page is still the one at its address:
    /// else write-back may have cleaned it, and dirtying it would be lost.
    pub(crate) fn mark_dirty(&self) {
        // SAFETY: `page` is valid by the type invariant.
        unsafe { shim::kvm_spp_mark_page_dirty(self.page.as_ptr()) };
    }

    /// Whether the process may write the page, so whether the guest may.
    pub(crate) fn writable(&self) -> bool {
        self.writable
    }
}

impl Drop for HostPage {
    fn drop(&mut self) {
        // SAFETY: This value owns the reference.
        unsafe { shim::kvm_spp_release_page(self.page.as_ptr()) };
    }
}
