// SPDX-License-Identifier: GPL-2.0

//! What the hypervisor uses of the host kernel: page frames, guest memory,
//! the MMU notifier, file descriptors and CPU state. Nothing here decides.

pub(crate) mod cpu;
pub(crate) mod eventfd;
pub(crate) mod ex_table;
pub(crate) mod fd;
pub(crate) mod frame;
pub(crate) mod gup;
pub(crate) mod notifier;
pub(crate) mod pin;
pub(crate) mod shim;
pub(crate) mod user;
