// SPDX-License-Identifier: GPL-2.0

//! Far CALL, JMP and RET.

use super::Done;
use crate::guard::Guest;
use crate::insn::Insn;
use crate::stop::Stop;

/// Executes one of them.
pub(super) fn execute(_guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    Err(Stop::Refused(insn.op))
}
