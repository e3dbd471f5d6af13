// SPDX-License-Identifier: GPL-2.0

//! The obligation to invalidate.

/// Some CPU may hold a translation, or an SPP vector, that the tables no longer contain (SDM 3C
/// 29.4.3). Only a change of the tables makes one, and only the code that arranges
/// an INVEPT on every CPU that runs the VM consumes it, with [`Stale::spent`].
///
/// Arrange the invalidation, or at least make it known as pending, before the lock over the tables
/// is released. The next caller finds the entry already changed and gets no `Stale` of its own, yet
/// may only report its work as done when this one's invalidation is.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a CPU may still use the old translation until INVEPT has been arranged"]
pub struct Stale(());

impl Stale {
    #[inline]
    pub(crate) const fn new() -> Self {
        Self(())
    }

    /// One obligation for two changes.
    #[inline]
    pub fn merge(one: Option<Stale>, other: Option<Stale>) -> Option<Stale> {
        one.or(other)
    }

    /// INVEPT has been arranged on every CPU that may hold an old translation: none
    /// uses one from here on.
    #[inline]
    pub fn spent(self) -> Spent {
        Spent(())
    }
}

/// The proof that a [`Stale`] was dealt with; it lets go the table frames that came with it.
#[derive(Debug)]
pub struct Spent(());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merge_keeps_an_obligation() {
        let stale = || Some(Stale::new());
        assert_eq!(Stale::merge(None, None), None);
        assert_eq!(Stale::merge(stale(), None), stale());
        assert_eq!(Stale::merge(None, stale()), stale());
        assert_eq!(Stale::merge(stale(), stale()), stale());
    }
}
