// SPDX-License-Identifier: GPL-2.0

//! VMX operation: the instructions, the IRQ-off window in which a VMCS is
//! current, and what must be switched around the guest.
//!
//! Everything that needs VMX operation happens in one [`window::Window`]: IRQs
//! are off from its start to its end, so neither the scheduler, nor CPU hotplug,
//! nor another user of VMX on this CPU ever sees our VMCS.

pub(crate) mod fpu;
pub(crate) mod host_state;
pub(crate) mod ops;
pub(crate) mod region;
pub(crate) mod window;
