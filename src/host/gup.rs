// SPDX-License-Identifier: GPL-2.0

//! Host pages behind guest memory, looked up and not pinned: the reference ends
//! as soon as the EPT entry is in place, and the MMU notifier guards it then.

use super::shim;
use core::{
    marker::PhantomData,
    ptr::{
        null_mut,
        NonNull, //
    }, //
};
use ept::{
    Hpa,
    PAGE_SIZE, //
};
use kernel::{
    bindings,
    ffi::c_void,
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

    /// Where it is, for the caller that [`HostPage::mark_dirty`] describes; the guest may
    /// write there.
    pub(crate) fn place(&self) -> Place<'_> {
        self.mark_dirty();
        // INVARIANT: The reference keeps the page, which the process may write.
        Place {
            page: self.page,
            _borrow: PhantomData,
        }
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

/// A page of guest memory that may be written: here, and nowhere else, the module does so.
///
/// # Invariants
///
/// `page` is valid and writable for the process as long as the borrow lasts.
pub(crate) struct Place<'a> {
    page: NonNull<bindings::page>,
    _borrow: PhantomData<&'a ()>,
}

impl Place<'_> {
    /// The page at a host-physical address; it was marked dirty before.
    ///
    /// # Safety
    ///
    /// It is a page of memory that the process may write, as long as the result lives.
    pub(crate) unsafe fn at(hpa: Hpa) -> Option<Self> {
        // INVARIANT: By the contract of this function.
        NonNull::new(shim::kvm_spp_phys_to_page(hpa.get())).map(|page| Self {
            page,
            _borrow: PhantomData,
        })
    }

    /// Stores `data` at byte `offset` of the page: of the first 64 bytes those whose bit
    /// is set in `bytes`, further ones always. Nothing happens where they do not fit.
    ///
    /// The caller has made sure, under the lock that maps change under, that the guest may
    /// write the bytes.
    pub(crate) fn store(&self, offset: u16, data: &[u8], bytes: u64) {
        let offset = u32::from(offset);
        if offset as usize + data.len() > PAGE_SIZE as usize {
            return;
        }
        let len = data.len() as u32;
        // SAFETY: `page` is valid by the type invariant, the bytes lie in it, and
        // `data` has `len` of them. Others access guest memory at the same time: the
        // shim's stores are as good as a processor's.
        unsafe {
            shim::kvm_spp_page_store(
                self.page.as_ptr(),
                offset,
                data.as_ptr().cast::<c_void>(),
                len,
                bytes,
            );
        }
    }

    /// Puts `new` where `old` is, at once for all CPUs; `None` where no access of the
    /// processor can do that, because of the length or the address. The caller is as for
    /// [`Place::store`].
    pub(crate) fn exchange(&self, offset: u16, old: &[u8], new: &[u8]) -> Option<bool> {
        let offset = u32::from(offset);
        if old.len() != new.len() || offset as usize + new.len() > PAGE_SIZE as usize {
            return None;
        }
        // SAFETY: `page` is valid by the type invariant, the bytes lie in it, and `old`
        // and `new` have `len` of them each.
        let done = unsafe {
            shim::kvm_spp_page_exchange(
                self.page.as_ptr(),
                offset,
                old.as_ptr().cast::<c_void>(),
                new.as_ptr().cast::<c_void>(),
                new.len() as u32,
            )
        };
        if done < 0 {
            return None;
        }
        Some(done != 0)
    }

    /// Reads bytes of the page; zeroes where they do not fit.
    pub(crate) fn load(&self, offset: u16, out: &mut [u8]) {
        let offset = u32::from(offset);
        if offset as usize + out.len() > PAGE_SIZE as usize {
            out.fill(0);
            return;
        }
        let len = out.len() as u32;
        // SAFETY: `page` is valid by the type invariant, the bytes lie in it, and `out`
        // has room for them. Torn reads are the guest's own doing.
        unsafe {
            shim::kvm_spp_page_load(
                self.page.as_ptr(),
                offset,
                out.as_mut_ptr().cast::<c_void>(),
                len,
            );
        }
    }
}
