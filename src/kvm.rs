// SPDX-License-Identifier: GPL-2.0

//! The KVM ABI: the device, VMs, vCPUs, and the run loop.
//!
//! # Lock order
//!
//! 1. `Vcpu::state`, a mutex, held during a vCPU ioctl (KVM_RUN included).
//! 2. `Vm::config`, a mutex: memory slots, vCPUs and capabilities change under it.
//! 3. The process's mmap lock, taken inside page look-ups.
//! 4. `Vm::mmu`, a spinlock: EPT, SPPT and the published slot table. Nothing is
//!    allocated or looked up under it: frames are reserved before. The `Stale`
//!    token of an update is spent before it is dropped (see [`tlb`]).
//!
//! The MMU notifier takes 4 alone. A window (IRQs off) takes none of them. The
//! locks of [`bus`] are told there: an ioctl takes them with none of these held,
//! a vCPU's write under 1.

pub(crate) mod area;
pub(crate) mod bus;
pub(crate) mod control;
pub(crate) mod decoded;
pub(crate) mod delivery;
pub(crate) mod dev;
pub(crate) mod devices;
pub(crate) mod emulator;
pub(crate) mod entry;
pub(crate) mod exits;
pub(crate) mod fpu;
pub(crate) mod guest;
pub(crate) mod lists;
pub(crate) mod memory;
pub(crate) mod msrs;
pub(crate) mod regs;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod setup;
pub(crate) mod stepping;
pub(crate) mod subpage;
pub(crate) mod tasks;
pub(crate) mod tlb;
pub(crate) mod vcpu;
pub(crate) mod vcpu_file;
pub(crate) mod violation;
pub(crate) mod vm;
