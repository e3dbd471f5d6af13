// SPDX-License-Identifier: GPL-2.0

//! Access rights (SDM 3A 4.6).

use super::format::{Format, NO_EXECUTE, USER, WRITABLE};
use super::{error, Access, Fault, Paging};
use super::{CR0_WP, CR4_PKE, CR4_SMAP, CR4_SMEP};

/// What the entries of a walk allow together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rights {
    writable: bool,
    user: bool,
    no_execute: bool,
}

impl Rights {
    /// Before the first entry.
    pub(super) const ALL: Self = Self {
        writable: true,
        user: true,
        no_execute: false,
    };

    pub(super) const fn add(&mut self, entry: u64) {
        self.writable &= entry & WRITABLE != 0;
        self.user &= entry & USER != 0;
        self.no_execute |= entry & NO_EXECUTE != 0;
    }
}

impl Paging {
    /// Checks the access to a page with a protection key.
    pub(super) fn permit(
        &self,
        format: Format,
        rights: Rights,
        key: u32,
        access: Access,
    ) -> Result<(), Fault> {
        let by_key = format.wide() && self.key_forbids(rights, key, access);
        if self.allows(rights, access) && !by_key {
            return Ok(());
        }
        let key = if by_key { error::KEY } else { 0 };
        Err(self.page_fault(access, error::PROTECTION | key))
    }

    /// SDM 3A 4.6.1.
    const fn allows(&self, rights: Rights, access: Access) -> bool {
        if self.user(access) {
            return rights.user
                && (!access.write || rights.writable)
                && (!access.fetch || !rights.no_execute);
        }
        if access.fetch {
            let smep = rights.user && self.cr4 & CR4_SMEP != 0;
            return !smep && !rights.no_execute;
        }
        // RFLAGS.AC lifts SMAP for explicit accesses alone.
        let lifted = self.ac && !access.system;
        let smap = rights.user && self.cr4 & CR4_SMAP != 0 && !lifted;
        !smap && (!access.write || self.writes(rights.writable, access))
    }

    /// Whether a page or key that is `writable` lets a write pass: CR0.WP frees
    /// supervisor code.
    const fn writes(&self, writable: bool, access: Access) -> bool {
        writable || !self.user(access) && self.cr0 & CR0_WP == 0
    }

    /// PKRU has two bits for each key, which rule data accesses to user pages: none at
    /// all, no writes (SDM 3A 4.6.2).
    const fn key_forbids(&self, rights: Rights, key: u32, access: Access) -> bool {
        if self.cr4 & CR4_PKE == 0 || !rights.user || access.fetch {
            return false;
        }
        let bits = self.pkru.wrapping_shr(key.wrapping_mul(2));
        bits & 1 != 0 || access.write && !self.writes(bits & 2 == 0, access)
    }
}
