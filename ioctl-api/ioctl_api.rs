// SPDX-License-Identifier: GPL-2.0

//! The words user space and the module exchange: ioctl codes, capability and
//! exit numbers, and the exact layout of every structure.
//!
//! Most of it is KVM's own ABI (`<linux/kvm.h>`, x86), so that an unmodified
//! KVM client can drive the device; the [`subpage`] module is ours. This crate
//! has no policy: what a call means and which errno it gives is decided by its
//! callers, with one exception, [`subpage::Maps::check`], which both sides use.
//!
//! ```text
//!   VMM ── ioctl(fd, number, &struct) ──► module      number, regs, memory,
//!                                                     subpage, bus, cap
//!   VMM ◄── kvm_run page, shared ──────── module      run, subpage::SppExit
//! ```
#![cfg_attr(not(MODULE), no_std)]
#![forbid(unsafe_code)]

/// Declares structures of the ABI: `repr(C)`, readable from and writable as
/// bytes (which the derives refuse when there is padding), with their size
/// asserted when the crate is compiled.
macro_rules! abi {
    ($($(#[$meta:meta])* pub struct $name:ident: $size:literal { $($body:tt)* })+) => { $(
        $(#[$meta])*
        #[repr(C)]
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq,
            zerocopy_derive::FromBytes,
            zerocopy_derive::IntoBytes,
            zerocopy_derive::KnownLayout,
            zerocopy_derive::Immutable,
        )]
        pub struct $name { $($body)* }
        static_assertions::const_assert_eq!(core::mem::size_of::<$name>(), $size);
    )+ };
}

pub mod bus;
pub mod cap;
pub mod memory;
pub mod number;
pub mod regs;
pub mod run;
pub mod subpage;
pub mod vcpu;
