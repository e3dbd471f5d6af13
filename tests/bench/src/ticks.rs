// SPDX-License-Identifier: GPL-2.0

//! Time in ticks of the time-stamp counter.

use crate::Result;

/// How often everything is measured; the least is the one without a timer
/// interrupt in it, and without what only the first time costs.
pub(crate) const ROUNDS: u64 = 3;

/// The time-stamp counter.
pub(crate) fn now() -> u64 {
    // SAFETY: every x86-64 processor has RDTSC, and Linux allows it in user
    // space.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The least of what `measure` returns, given the number of the round.
pub(crate) fn least(mut measure: impl FnMut(u64) -> Result<u64>) -> Result<u64> {
    let mut least = u64::MAX;
    for round in 0..ROUNDS {
        least = least.min(measure(round)?);
    }
    Ok(least)
}

/// `total / count`, rounded to the nearest.
pub(crate) fn per(total: u64, count: u64) -> u64 {
    (total + count / 2) / count
}
