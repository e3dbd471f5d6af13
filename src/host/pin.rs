// SPDX-License-Identifier: GPL-2.0

//! Keeping kvm_intel loaded: its VMXON is the one that windows run under.

use super::shim;
use core::ptr::NonNull;
use kernel::bindings;

/// An open `/dev/kvm`, whose file operations belong to the vendor module.
///
/// # Invariants
///
/// `file` is a file that this value owns a reference to.
pub(crate) struct KvmPin {
    file: NonNull<bindings::file>,
}

// SAFETY: A reference to a file may be dropped on any thread.
unsafe impl Send for KvmPin {}
// SAFETY: There are no methods on `&KvmPin`.
unsafe impl Sync for KvmPin {}

impl KvmPin {
    /// Pins it, where it is loaded; without it each window does its own VMXON.
    pub(crate) fn new() -> Option<Self> {
        // INVARIANT: The shim returns a new reference or null.
        NonNull::new(shim::kvm_spp_pin_kvm()).map(|file| Self { file })
    }
}

impl Drop for KvmPin {
    fn drop(&mut self) {
        // SAFETY: This value owns the reference.
        unsafe { shim::kvm_spp_unpin_kvm(self.file.as_ptr()) };
    }
}
