// SPDX-License-Identifier: GPL-2.0

//! The MMU notifier: the host tells before it takes a page away from the
//! process, and the VM drops its mappings of that page first.

use super::shim;
use crate::kvm::vm::Vm;
use core::ptr::NonNull;
use kernel::{
    ffi::{
        c_int,
        c_ulong,
        c_void, //
    },
    prelude::*,
    sync::Arc, //
};

/// A registration for the calling process's mm.
///
/// # Invariants
///
/// `raw` is registered until drop, and the `Vm` it names outlives it.
pub(crate) struct Notifier {
    raw: NonNull<shim::Notifier>,
}

// SAFETY: Unregistering may happen on any thread.
unsafe impl Send for Notifier {}
// SAFETY: There are no methods on `&Notifier`.
unsafe impl Sync for Notifier {}

impl Notifier {
    /// Registers `vm` for what happens to the calling process's memory.
    ///
    /// # Safety
    ///
    /// The result is dropped before `vm` is (its drop waits for callbacks).
    pub(crate) unsafe fn register(vm: &Arc<Vm>) -> Result<Self> {
        let vm = Arc::as_ptr(vm).cast_mut().cast::<c_void>();
        // SAFETY: The caller keeps the VM alive as long as the registration.
        let raw = unsafe { shim::kvm_spp_notifier_register(vm) };
        let raw = kernel::error::from_err_ptr(raw)?;
        // INVARIANT: Just registered; the caller vouches for the VM.
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

/// # Safety
///
/// `vm` is what `register` was given, and the registration stands.
unsafe fn vm<'a>(vm: *mut c_void) -> &'a Vm {
    // SAFETY: By the contract above the VM is alive.
    unsafe { &*vm.cast::<Vm>() }
}

/// # Safety
///
/// Called by the shim with what `register` gave it, while that stands.
#[no_mangle]
unsafe extern "C" fn kvm_spp_rust_invalidate_start(
    private: *mut c_void,
    start: c_ulong,
    end: c_ulong,
    _blockable: bool,
) -> c_int {
    // SAFETY: The shim passes what it was registered with.
    unsafe { vm(private) }.invalidate_start(start as u64, end as u64);
    0
}

/// # Safety
///
/// Called by the shim with what `register` gave it, while that stands.
#[no_mangle]
unsafe extern "C" fn kvm_spp_rust_invalidate_end(
    private: *mut c_void,
    _start: c_ulong,
    _end: c_ulong,
) {
    // SAFETY: The shim passes what it was registered with.
    unsafe { vm(private) }.invalidate_end();
}

/// # Safety
///
/// Called by the shim with what `register` gave it, while that stands.
#[no_mangle]
unsafe extern "C" fn kvm_spp_rust_mm_release(private: *mut c_void) {
    // SAFETY: The shim passes what it was registered with.
    unsafe { vm(private) }.mm_gone();
}
