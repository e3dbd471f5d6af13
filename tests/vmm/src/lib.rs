// SPDX-License-Identifier: GPL-2.0

//! Placeholder root, replaced by its owner.
