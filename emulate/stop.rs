// SPDX-License-Identifier: GPL-2.0

//! Why an instruction was not finished. Nothing has changed then but the elements of a
//! repeated string instruction that were finished before.

use ept::{Gpa, Gva};
use spp::Mask;

use crate::op::Op;

/// Why an instruction was not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The guest gets an exception.
    Exception(Exception),
    /// The sub-page map forbids a write.
    Denied(Denial),
    /// Somebody must read a device; then the instruction is executed again.
    DeviceRead(DeviceRead),
    /// Somebody must read a port; then the instruction is executed again.
    PortRead(PortRead),
    /// Memory changed while it was looked at: execute again.
    Retry,
    /// It needs nothing of us: enter the guest.
    Reenter,
    /// It is not emulated.
    Refused(Op),
    /// The owner of the memory failed, and remembers how.
    Host,
}

/// An exception of the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Vector.
    pub vector: u8,
    /// Error code, where the vector has one.
    pub error_code: Option<u32>,
    /// The address of a page fault, for CR2.
    pub cr2: Option<Gva>,
}

impl Exception {
    /// Divide error.
    pub const DE: Self = Self::new(0, None);
    /// Invalid opcode.
    pub const UD: Self = Self::new(6, None);
    /// Device not available.
    pub const NM: Self = Self::new(7, None);

    const fn new(vector: u8, error_code: Option<u32>) -> Self {
        Self {
            vector,
            error_code,
            cr2: None,
        }
    }

    /// #TS with a selector.
    pub const fn ts(code: u32) -> Self {
        Self::new(10, Some(code))
    }

    /// #NP with a selector.
    pub const fn np(code: u32) -> Self {
        Self::new(11, Some(code))
    }

    /// #SS.
    pub const fn ss(code: u32) -> Self {
        Self::new(12, Some(code))
    }

    /// #GP.
    pub const fn gp(code: u32) -> Self {
        Self::new(13, Some(code))
    }

    /// #PF at `address`.
    pub const fn pf(address: Gva, code: u32) -> Self {
        Self {
            vector: 14,
            error_code: Some(code),
            cr2: Some(address),
        }
    }

    /// #AC, whose error code is 0.
    pub const AC: Self = Self::new(17, Some(0));
}

impl From<Exception> for Stop {
    fn from(exception: Exception) -> Self {
        Self::Exception(exception)
    }
}

/// A write that the sub-page map forbids: what an SPP-induced EPT violation tells, and
/// what a processor does not tell (SDM 3C 28.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The lowest byte that is denied.
    pub gpa: Gpa,
    /// The linear address of that byte; of a page walk, the address that is translated.
    pub gva: Gva,
    /// Bytes of the whole access.
    pub size: u16,
    /// The sub-pages of the page of `gpa` that are touched and denied.
    pub denied: Mask,
    /// The map of that page.
    pub map: Mask,
    /// The access also reads.
    pub read: bool,
    /// It sets an accessed or dirty flag in a paging structure of the guest.
    pub walk: bool,
}

/// A read of a device at guest-physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRead {
    /// Where.
    pub gpa: Gpa,
    /// Bytes, 1 to 8.
    pub len: u8,
}

/// A read of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRead {
    /// Port.
    pub port: u16,
    /// Bytes of one element: 1, 2 or 4.
    pub size: u8,
    /// How many elements.
    pub count: u16,
}
