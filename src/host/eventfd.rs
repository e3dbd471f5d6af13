// SPDX-License-Identifier: GPL-2.0

//! Eventfds of user space, signalled from the kernel.

use super::shim;
use core::ptr::NonNull;
use kernel::{
    bindings,
    prelude::*, //
};

/// An eventfd. It lives on when user space closes its descriptor.
///
/// # Invariants
///
/// `ctx` is valid, and this value owns one reference to it.
pub(crate) struct EventFd {
    ctx: NonNull<bindings::eventfd_ctx>,
}

// SAFETY: A reference to an eventfd belongs to no thread.
unsafe impl Send for EventFd {}
// SAFETY: Signalling is safe from any thread at any time.
unsafe impl Sync for EventFd {}

impl EventFd {
    /// The eventfd behind a descriptor of the calling process. `EBADF` for no
    /// descriptor, `EINVAL` for one of another kind.
    pub(crate) fn from_fd(fd: i32) -> Result<Self> {
        let ctx = kernel::error::from_err_ptr(shim::kvm_spp_eventfd_get(fd))?;
        // INVARIANT: The look-up returned a new reference.
        Ok(Self {
            ctx: NonNull::new(ctx).ok_or(EBADF)?,
        })
    }

    /// Adds 1 to the counter and wakes who waits for it. Does not sleep.
    pub(crate) fn signal(&self) {
        // SAFETY: `ctx` is valid by the type invariant.
        unsafe { shim::kvm_spp_eventfd_signal(self.ctx.as_ptr()) };
    }
}

/// Two descriptors of one eventfd are equal.
impl PartialEq for EventFd {
    fn eq(&self, other: &Self) -> bool {
        self.ctx == other.ctx
    }
}

impl Drop for EventFd {
    fn drop(&mut self) {
        // SAFETY: This value owns the reference.
        unsafe { shim::kvm_spp_eventfd_put(self.ctx.as_ptr()) };
    }
}
