// SPDX-License-Identifier: GPL-2.0

//! KVM_SPP_SET_MAPS and KVM_SPP_GET_MAPS: sub-page maps of a range of pages.
//!
//! A map belongs to a guest frame, not to a memory slot: it stays when the slot
//! is deleted or moved, and holds for memory that is added later.

use super::vm::Vm;
use crate::host::{
    frame::Reserve,
    shim,
    user, //
};
use ept::Gfn;
use ioctl_api::subpage::Maps;
use kernel::prelude::*;
use spp::Mask;
use zerocopy::IntoBytes;

impl Vm {
    /// Sets the maps of a range, all or nothing: no other caller sees a part of it,
    /// and no CPU uses an old map once this returns. A vCPU that runs meanwhile may
    /// meet the new map of one page and then the old one of another.
    ///
    /// Errors: `ENODEV` (capability not enabled), `EINVAL`, `E2BIG`, `EFAULT`,
    /// `ENOMEM`; nothing has changed then.
    pub(crate) fn set_maps(&self, request: &Maps) -> Result {
        let (start, pages) = self.range(request)?;
        let mut maps = KVVec::from_elem(0u32, pages as usize, GFP_KERNEL_ACCOUNT)?;
        let bytes = maps.as_mut_slice().as_mut_bytes();
        user::slice(request.maps as usize, bytes.len())
            .reader()
            .read_slice(bytes)?;
        let mut reserve = Reserve::default();
        // Most calls find their tables there, so frames are taken only on demand.
        let mut frames = 0;
        loop {
            reserve.fill(frames)?;
            let mmu = self.mmu.lock();
            if mmu
                .space
                .reserve_masks(&mmu.tables, &mut reserve, start, pages)
                .is_err()
            {
                frames = spp::frames_for_masks(pages) as usize;
                continue;
            }
            let map = |i: u64| {
                maps.get(i as usize)
                    .map_or(Mask::ALL, |m| Mask::from_raw(*m))
            };
            let stale = mmu.space.commit_masks(&mmu.tables, start, pages, map);
            self.tlb.flush(&mmu, stale);
            return Ok(());
        }
    }

    /// Copies the maps of a range to user space; all ones for a page without one.
    pub(crate) fn get_maps(&self, request: &Maps) -> Result {
        let (start, pages) = self.range(request)?;
        let mut maps = KVVec::from_elem(Mask::ALL.raw(), pages as usize, GFP_KERNEL_ACCOUNT)?;
        let mmu = self.mmu.lock();
        mmu.space.masks(&mmu.tables, start, pages, |i, mask| {
            if let Some(map) = maps.get_mut(i as usize) {
                *map = mask.raw();
            }
        });
        drop(mmu);
        user::write_array(request.maps as usize, &maps)
    }

    fn range(&self, request: &Maps) -> Result<(Gfn, u64)> {
        if !self.mmu.lock().space.spp_enabled() {
            return Err(ENODEV);
        }
        let limit = 1u64 << shim::kvm_spp_phys_bits().min(48);
        let (gfn, pages) = request
            .check(limit)
            .map_err(|bad| Error::from_errno(-bad.errno()))?;
        Ok((Gfn::new(gfn), pages))
    }
}
