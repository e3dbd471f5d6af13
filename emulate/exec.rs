// SPDX-License-Identifier: GPL-2.0

//! Executes decoded instructions.

use crate::guard::Guest;
use crate::insn::Insn;
use crate::stop::Stop;

/// How far an instruction came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It is finished, and RIP is at the next one.
    Retired,
    /// Some elements of a repeated string instruction are finished: the registers count
    /// them, and RIP is still at it.
    Partial,
}

/// Executes an instruction.
///
/// # Errors
///
/// The [`Stop`] that it ends in.
pub fn execute(_guest: &mut Guest<'_>, insn: &Insn) -> Result<Done, Stop> {
    Err(Stop::Refused(insn.op))
}
