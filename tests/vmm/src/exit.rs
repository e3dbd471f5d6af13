// SPDX-License-Identifier: GPL-2.0

//! Why `KVM_RUN` returned.

use ioctl_api::run::{FailEntry, InternalError, PAYLOAD_SIZE};
use ioctl_api::subpage::{SppExit, KVM_EXIT_SPP};
use kvm_ioctls::VcpuExit;
use zerocopy::FromBytes;

/// Why the guest stopped, with all that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It executed HLT.
    Hlt,
    /// A write was denied by a sub-page map.
    Spp(SppExit),
    /// It wrote to a port.
    Out(u16, Vec<u8>),
    /// It wrote outside of all memslots, or to a read-only one.
    MmioWrite(u64, Vec<u8>),
    /// Triple fault.
    Shutdown,
    /// An interrupt could be injected now.
    IrqWindowOpen,
    /// A signal arrived, or `immediate_exit` was set.
    Interrupted,
    /// The processor refused to enter the guest.
    FailEntry(FailEntry),
    /// The module could not go on.
    InternalError(InternalError),
    /// Anything else, as `kvm-ioctls` puts it.
    Other(String),
}

/// An exit, or the kind of payload that must still be read.
pub(crate) enum Decoded {
    Whole(Exit),
    Spp,
    FailEntry,
    InternalError,
}

impl From<VcpuExit<'_>> for Decoded {
    fn from(exit: VcpuExit<'_>) -> Self {
        match exit {
            VcpuExit::Unsupported(KVM_EXIT_SPP) => Self::Spp,
            VcpuExit::FailEntry(..) => Self::FailEntry,
            VcpuExit::InternalError => Self::InternalError,
            VcpuExit::Hlt => Self::Whole(Exit::Hlt),
            VcpuExit::IoOut(port, data) => Self::Whole(Exit::Out(port, data.to_vec())),
            VcpuExit::MmioWrite(gpa, data) => Self::Whole(Exit::MmioWrite(gpa, data.to_vec())),
            VcpuExit::Shutdown => Self::Whole(Exit::Shutdown),
            VcpuExit::IrqWindowOpen => Self::Whole(Exit::IrqWindowOpen),
            VcpuExit::Intr => Self::Whole(Exit::Interrupted),
            other => Self::Whole(Exit::Other(format!("{other:?}"))),
        }
    }
}

impl Decoded {
    /// The exit, given the bytes of its payload.
    pub(crate) fn with(self, payload: &[u8; PAYLOAD_SIZE]) -> Exit {
        match self {
            Self::Whole(exit) => exit,
            Self::Spp => Exit::Spp(prefix(payload)),
            Self::FailEntry => Exit::FailEntry(prefix(payload)),
            Self::InternalError => Exit::InternalError(prefix(payload)),
        }
    }
}

fn prefix<T: FromBytes + Default>(payload: &[u8; PAYLOAD_SIZE]) -> T {
    // Every payload is smaller than the area, which ioctl_api's tests check.
    T::read_from_prefix(payload).map_or_else(|_| T::default(), |(value, _)| value)
}

#[cfg(test)]
#[path = "../tests/unit/exit.rs"]
mod tests;
