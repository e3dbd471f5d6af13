// SPDX-License-Identifier: GPL-2.0

//! Descriptor-table registers and other system state.

use super::Done;
use crate::guard::Guest;
use crate::insn::Insn;
use crate::stop::Stop;

/// Executes one of them.
pub(super) fn execute(_guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    Err(Stop::Refused(insn.op))
}
