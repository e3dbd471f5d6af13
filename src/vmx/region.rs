// SPDX-License-Identifier: GPL-2.0

//! VMCS and VMXON regions: a 4-KiB frame that starts with the revision
//! identifier (SDM 3C 25.2).

use crate::host::frame::Frame;
use ept::Hpa;
use kernel::prelude::*;

/// A VMCS or VMXON region.
///
/// # Invariants
///
/// Outside a window the VMCS is clear: no processor holds any of it.
pub(crate) struct Region {
    frame: Frame,
}

impl Region {
    /// Allocates a region for processors of VMCS revision `revision`.
    pub(crate) fn new(revision: u32) -> Result<Self> {
        let frame = Frame::new()?;
        let start = frame.as_ptr().cast::<u32>();
        // SAFETY: The frame's 4096 bytes are ours and no processor knows of them yet.
        unsafe { start.write(revision) };
        // INVARIANT: A zeroed VMCS that was never loaded is not held by any
        // processor; VMPTRLD of it comes after the VMCLEAR of `Vcpu` set-up.
        Ok(Self { frame })
    }

    /// Host-physical address of the region.
    pub(crate) fn hpa(&self) -> Hpa {
        self.frame.hpa()
    }
}
