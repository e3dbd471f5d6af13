// SPDX-License-Identifier: GPL-2.0

//! A small VMM on `kvm-ioctls` and `vm-memory`, for the demo, the tests and as
//! an example: one memslot from address 0, vCPUs in any mode, and the calls and
//! the exit of sub-page write permissions that `kvm-ioctls` does not know.
//!
//! ```text
//!   Vm ──── memory ──── load(program), fill, read
//!    │  └── enable_spp[_with], set_maps, maps
//!    └ vcpu(id) ─► Vcpu ─ enter(mode, rip), run() ─► Exit, skip(bytes)
//! ```

mod error;
mod exit;
mod vcpu;
mod vm;

pub use error::{Error, Result};
pub use exit::Exit;
pub use ioctl_api::subpage::SppExit;
pub use vcpu::Vcpu;
pub use vm::Vm;

/// The device of the module.
pub const DEVICE: &str = "/dev/kvm-spp";
