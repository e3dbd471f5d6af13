// SPDX-License-Identifier: GPL-2.0

//! The FPU on loan to the guest, in a window.
//!
//! The task's own registers are saved by the kernel first (which reloads them on
//! the way to user space), then the guest's are loaded from an XSAVE area in
//! standard format: that of KVM_GET_XSAVE. Loading and storing happen under the
//! host's XCR0, so that components that the guest has switched off in its own
//! XCR0 survive.

use crate::host::{
    frame::Frame,
    shim, //
};
use kernel::{
    ffi::c_void,
    prelude::*, //
};

/// Byte offset of the XSAVE header, SDM 1 13.4.2.
const HEADER: usize = 512;
/// Bytes of the part of the area that one frame holds.
pub(crate) const AREA_SIZE: usize = 4096;
/// Offset and size of MXCSR and its mask in the legacy region.
const MXCSR: usize = 24;
const MXCSR_MASK: usize = 28;
/// MXCSR and FCW after reset, SDM 3A table 10-1.
const MXCSR_RESET: u32 = 0x1f80;
const FCW_RESET: u16 = 0x37f;

/// The guest's FPU state while it is not in the registers.
pub(crate) struct GuestFpu {
    area: Frame,
    /// The components that the guest may have: a subset of the host's XCR0.
    mask: u64,
    mxcsr_mask: u32,
}

impl GuestFpu {
    /// State after reset, for a guest that may use the components in `mask`.
    pub(crate) fn new(mask: u64) -> Result<Self> {
        let mut fpu = Self {
            area: Frame::new()?,
            mask: mask & shim::kvm_spp_xgetbv(),
            mxcsr_mask: 0xffff,
        };
        fpu.reset();
        Ok(fpu)
    }

    /// x87 and SSE as after reset; an XSTATE_BV bit of 0 says so of the others.
    fn reset(&mut self) {
        let mxcsr_mask = self.mxcsr_mask;
        let image = self.image_mut();
        image.fill(0);
        put(image, 0, &FCW_RESET.to_le_bytes());
        put(image, MXCSR, &MXCSR_RESET.to_le_bytes());
        put(image, MXCSR_MASK, &mxcsr_mask.to_le_bytes());
        put(image, HEADER, &3u64.to_le_bytes());
    }

    /// The area in the standard format.
    pub(crate) fn image(&self) -> &[u8] {
        // SAFETY: The frame's 4096 bytes belong to `self`, which is borrowed;
        // the processor writes them only in `Loan`, which borrows it mutably.
        unsafe { core::slice::from_raw_parts(self.area.as_ptr(), AREA_SIZE) }
    }

    /// The area, to be changed.
    pub(crate) fn image_mut(&mut self) -> &mut [u8] {
        // SAFETY: As for `image`, with an exclusive borrow.
        unsafe { core::slice::from_raw_parts_mut(self.area.as_ptr(), AREA_SIZE) }
    }

    /// Replaces the area. `EINVAL` where XRSTOR would fault on it: components
    /// that the guest cannot have, a non-standard header, reserved MXCSR bits.
    pub(crate) fn set_image(&mut self, new: &[u8]) -> Result {
        let word = |at: usize| -> u64 {
            let bytes = new.get(at..at + 8).and_then(|b| b.try_into().ok());
            bytes.map_or(u64::MAX, u64::from_le_bytes)
        };
        let reserved = (HEADER + 8..HEADER + 64).step_by(8).any(|at| word(at) != 0);
        let mxcsr = (word(MXCSR) & 0xffff_ffff) as u32;
        if word(HEADER) & !self.mask != 0 || reserved || mxcsr & !self.mxcsr_mask != 0 {
            return Err(EINVAL);
        }
        put(self.image_mut(), 0, new);
        Ok(())
    }

    /// Replaces the legacy (FXSAVE) region and marks x87 and SSE as in use.
    pub(crate) fn set_legacy(&mut self, legacy: &[u8; 416]) -> Result {
        let mxcsr = legacy.get(MXCSR..MXCSR + 4).and_then(|b| b.try_into().ok());
        if mxcsr.is_none_or(|b| u32::from_le_bytes(b) & !self.mxcsr_mask != 0) {
            return Err(EINVAL);
        }
        let in_use = self
            .image()
            .get(HEADER..HEADER + 8)
            .and_then(|b| b.try_into().ok())
            .map_or(0, u64::from_le_bytes);
        put(self.image_mut(), 0, legacy);
        put(self.image_mut(), HEADER, &(in_use | 3).to_le_bytes());
        Ok(())
    }

    /// The components that the guest may have.
    pub(crate) fn mask(&self) -> u64 {
        self.mask
    }

    /// The MXCSR bits that the guest may set.
    pub(crate) fn mxcsr_mask(&self) -> u32 {
        self.mxcsr_mask
    }

    /// Puts the guest's state into the registers.
    ///
    /// # Safety
    ///
    /// IRQs are off and stay off until the loan is dropped.
    pub(crate) unsafe fn lend(&mut self, xcr0: u64) -> Loan<'_> {
        // SAFETY: IRQs are off, so the FPU stays ours until `kvm_spp_fpu_end`.
        unsafe { shim::kvm_spp_fpu_begin() };
        // SAFETY: The area is a whole XSAVE area, checked when it came from user space.
        if unsafe { shim::kvm_spp_xrstor(self.area.as_ptr().cast::<c_void>(), self.mask) } != 0 {
            kernel::pr_err_once!("XRSTOR refused guest state; it is reset\n");
            self.reset();
            // SAFETY: As above. The guest must not see the host's registers.
            unsafe { shim::kvm_spp_xrstor(self.area.as_ptr().cast::<c_void>(), self.mask) };
        }
        let host_xcr0 = shim::kvm_spp_xgetbv();
        let mut loan = Loan {
            fpu: self,
            host_xcr0,
            loaded_xcr0: host_xcr0,
        };
        loan.set_xcr0(xcr0);
        loan
    }
}

/// The guest's state is in the registers; dropping it stores the state.
pub(crate) struct Loan<'a> {
    fpu: &'a mut GuestFpu,
    host_xcr0: u64,
    loaded_xcr0: u64,
}

impl Loan<'_> {
    /// The components that the guest may enable.
    pub(crate) fn mask(&self) -> u64 {
        self.fpu.mask
    }

    /// Loads an XCR0 for the guest: one that was validated, or the host's own.
    pub(crate) fn set_xcr0(&mut self, xcr0: u64) {
        if xcr0 != self.loaded_xcr0 {
            // SAFETY: A subset of the host's XCR0 that keeps the dependencies of
            // SDM 1 13.3; the host's comes back when the loan ends.
            unsafe { shim::kvm_spp_xsetbv(xcr0) };
            self.loaded_xcr0 = xcr0;
        }
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        self.set_xcr0(self.host_xcr0);
        let area = self.fpu.area.as_ptr().cast::<c_void>();
        // SAFETY: The area is ours, 64-byte aligned and large enough for the mask.
        unsafe { shim::kvm_spp_xsave(area, self.fpu.mask) };
        // SAFETY: Pairs with the begin in `lend`; IRQs are still off.
        unsafe { shim::kvm_spp_fpu_end() };
    }
}

/// Copies `bytes` to `image` at `at`, as far as they fit.
pub(crate) fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in image.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}
