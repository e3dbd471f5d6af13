// SPDX-License-Identifier: GPL-2.0

//! What the fuzz targets do with their input, and the guest they do it to.

pub mod decode;
pub mod execute;
pub mod input;
pub mod memory;
pub mod reference;
pub mod walk;
