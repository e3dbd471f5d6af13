// SPDX-License-Identifier: GPL-2.0

//! The MMU notifier: the host tells before it takes a page away from the
//! process, and whoever has mapped the page drops the mapping first.

use super::shim;
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    ffi::{
        c_ulong,
        c_void, //
    },
    prelude::*,
    sync::Arc, //
};

/// Somebody with mappings of the process's memory.
pub(crate) trait Invalidate: Send + Sync {
    /// The host is about to change `start..end`: no mapping of it may be left when
    /// this returns, and none be made until the end. Must not sleep.
    fn invalidate_start(&self, start: u64, end: u64);
    /// A change that began with a start is made.
    fn invalidate_end(&self);
    /// The process is gone; nothing of its memory may be mapped any more.
    fn mm_gone(&self);
}

/// A registration for the calling process's mm.
///
/// # Invariants
///
/// `raw` is registered until drop, and the owner that it names outlives it.
pub(crate) struct Notifier {
    raw: NonNull<shim::Notifier>,
}

// SAFETY: Unregistering may happen on any thread.
unsafe impl Send for Notifier {}
// SAFETY: There are no methods on `&Notifier`.
unsafe impl Sync for Notifier {}

impl Notifier {
    /// Registers `owner` for what happens to the calling process's memory.
    ///
    /// # Safety
    ///
    /// The result is dropped before `owner` is (its drop waits for callbacks).
    pub(crate) unsafe fn register<T: Invalidate>(owner: &Arc<T>) -> Result<Self> {
        let owner = Arc::as_ptr(owner).cast_mut().cast::<c_void>();
        // SAFETY: The table is static, and the caller keeps the owner alive as
        // long as the registration.
        let raw = unsafe { shim::kvm_spp_notifier_register(Callbacks::<T>::OPS, owner) };
        let raw = kernel::error::from_err_ptr(raw)?;
        // INVARIANT: Just registered; the caller vouches for the owner.
        Ok(Self {
            raw: NonNull::new(raw).ok_or(ENOMEM)?,
        })
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        // SAFETY: Registered by the type invariant, and unregistered once.
        unsafe { shim::kvm_spp_notifier_unregister(self.raw.as_ptr()) };
    }
}

struct Callbacks<T>(PhantomData<T>);

impl<T: Invalidate> Callbacks<T> {
    const OPS: &'static shim::NotifierOps = &shim::NotifierOps {
        start: Self::start,
        end: Self::end,
        gone: Self::gone,
    };

    /// # Safety
    ///
    /// `owner` is what `register` was given, and the registration stands.
    unsafe fn owner<'a>(owner: *mut c_void) -> &'a T {
        // SAFETY: By the contract above the owner is alive.
        unsafe { &*owner.cast::<T>() }
    }

    /// # Safety
    ///
    /// Called by the shim with what `register` gave it, while that stands.
    unsafe extern "C" fn start(owner: *mut c_void, start: c_ulong, end: c_ulong) {
        // SAFETY: By the contract of this function.
        unsafe { Self::owner(owner) }.invalidate_start(start as u64, end as u64);
    }

    /// # Safety
    ///
    /// Called by the shim with what `register` gave it, while that stands.
    unsafe extern "C" fn end(owner: *mut c_void) {
        // SAFETY: By the contract of this function.
        unsafe { Self::owner(owner) }.invalidate_end();
    }

    /// # Safety
    ///
    /// Called by the shim with what `register` gave it, while that stands.
    unsafe extern "C" fn gone(owner: *mut c_void) {
        // SAFETY: By the contract of this function.
        unsafe { Self::owner(owner) }.mm_gone();
    }
}
