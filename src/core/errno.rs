// SPDX-License-Identifier: GPL-2.0

//! Error numbers of the ABI, without the kernel's headers.

/// What a failed call returns to user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Errno {
    /// Operation not permitted.
    Eperm = 1,
    /// No such thing.
    Enoent = 2,
    /// A signal is pending.
    Eintr = 4,
    /// The VM is dead or belongs to another process.
    Eio = 5,
    /// No such address, or an interrupt controller owns it.
    Enxio = 6,
    /// The argument array is too small or too large.
    E2big = 7,
    /// Try again.
    Eagain = 11,
    /// Out of memory.
    Enomem = 12,
    /// A user pointer is bad.
    Efault = 14,
    /// Too late, or in use.
    Ebusy = 16,
    /// It exists.
    Eexist = 17,
    /// The hardware does not have it.
    Enodev = 19,
    /// Invalid argument.
    Einval = 22,
    /// Unknown request.
    Enotty = 25,
    /// Not supported.
    Eopnotsupp = 95,
}

impl Errno {
    /// The positive number of `<asm-generic/errno.h>`.
    #[inline]
    pub const fn raw(self) -> i32 {
        self as i32
    }
}
