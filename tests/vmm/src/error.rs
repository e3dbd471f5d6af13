// SPDX-License-Identifier: GPL-2.0

use std::fmt;
use vm_memory::mmap::FromRangesError;
use vm_memory::GuestMemoryError;

/// Result of what can fail with an [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong in the VMM.
#[derive(Debug)]
pub enum Error {
    /// A system call failed: which, and how.
    Call(&'static str, kvm_ioctls::Error),
    /// Guest memory does not have the address.
    Memory(GuestMemoryError),
    /// Guest memory could not be mapped.
    Map(FromRangesError),
    /// The device has no sub-page write permissions.
    NoSpp,
}

impl Error {
    /// The error number, if a system call failed.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Call(_, error) => Some(error.errno()),
            _ => None,
        }
    }
}

/// For `map_err`: names the call that failed.
pub(crate) fn call(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> Error {
    move |error| Error::Call(what, error)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(what, error) => write!(f, "{what}: {error}"),
            Self::Memory(error) => write!(f, "guest memory: {error}"),
            Self::Map(error) => write!(f, "guest memory: {error}"),
            Self::NoSpp => f.write_str("no sub-page write permissions (KVM_CAP_SPP is 0)"),
        }
    }
}

impl std::error::Error for Error {}

impl From<GuestMemoryError> for Error {
    fn from(error: GuestMemoryError) -> Self {
        Self::Memory(error)
    }
}

impl From<FromRangesError> for Error {
    fn from(error: FromRangesError) -> Self {
        Self::Map(error)
    }
}
