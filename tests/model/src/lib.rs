// SPDX-License-Identifier: GPL-2.0

//! A model of the processor's EPT and SPPT walk, written from the manual and not from the
//! crates it judges, and the memory in which both meet.

pub mod oracle;
pub mod ram;
