// SPDX-License-Identifier: GPL-2.0

//! Placeholder root, replaced by its owner.
#![cfg_attr(not(MODULE), no_std)]
#![forbid(unsafe_code)]
