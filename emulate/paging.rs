// SPDX-License-Identifier: GPL-2.0

//! The guest's page walk (SDM 3A chapter 4).
//!
//! ```text
//!              CR0.PG  CR4.PAE  EFER.LMA  CR4.LA57   levels x bits   entry   large pages
//!   none         0        -        -         -             -              -     -
//!   32-bit       1        0        0         -        2 x 10         4 bytes  4M (PSE)
//!   PAE          1        1        0         -        2 x 9 below    8 bytes  2M
//!                                                     4 registers
//!   4-level      1        1        1         0        4 x 9          8 bytes  2M, 1G
//!   5-level      1        1        1         1        5 x 9          8 bytes  2M, 1G
//! ```
//!
//! [`Paging::translate`] only reads. [`Paging::translate_and_mark`] does what the
//! processor does:
//!
//! ```text
//!   walk -> rights -> are all flags to be set writable? -> set them, top entry first
//!    ^       #PF              denied: nothing is set             |
//!    '----------------- an entry is not the one walked ----------'
//! ```

use ept::{Gpa, Gva};

use crate::guard::Memory;
use crate::stop::Stop;
use crate::GuestPhys;
use format::Format;
use mark::{Entry, Path};
use rights::Rights;

mod format;
mod mark;
mod quick;
mod rights;

const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;
const CR4_PKE: u64 = 1 << 22;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;

/// Page-fault error code (SDM 3A 4.7).
mod error {
    pub(super) const PROTECTION: u32 = 1 << 0;
    pub(super) const WRITE: u32 = 1 << 1;
    pub(super) const USER: u32 = 1 << 2;
    pub(super) const RESERVED: u32 = 1 << 3;
    pub(super) const FETCH: u32 = 1 << 4;
    pub(super) const KEY: u32 = 1 << 5;
}

/// How often a walk starts over because an entry changed under it.
const WALKS: u32 = 4;

/// The registers that a walk depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paging {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// The four PDPTEs that the processor holds under PAE paging.
    pub pdptes: [u64; 4],
    /// CPL is 3.
    pub user: bool,
    /// RFLAGS.AC, which lets supervisor code touch user pages in spite of SMAP.
    pub ac: bool,
    /// PKRU.
    pub pkru: u32,
    /// The bits from MAXPHYADDR to 51, which are reserved in the addresses of entries.
    pub reserved_address: u64,
}

/// An access to translate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// A data write.
    pub write: bool,
    /// An instruction fetch.
    pub fetch: bool,
    /// An implicit supervisor access: the processor's own, to a descriptor table, a TSS
    /// or the like (SDM 3A 4.6).
    pub system: bool,
}

impl Access {
    /// A data read.
    pub const READ: Self = Self {
        write: false,
        fetch: false,
        system: false,
    };
    /// A data write.
    pub const WRITE: Self = Self {
        write: true,
        ..Self::READ
    };
    /// An instruction fetch.
    pub const FETCH: Self = Self {
        fetch: true,
        ..Self::READ
    };
}

/// Why an address has no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// #PF with this error code.
    Page(u32),
    /// The linear address is not canonical: #GP or #SS.
    NonCanonical,
    /// The paging-structure entry at this address is not in memory.
    NoTable(Gpa),
    /// An accessed or dirty flag could not be set.
    Stop(Stop),
}

impl Paging {
    /// [`Paging::reserved_address`] for a MAXPHYADDR.
    pub const fn reserved_address(physical_bits: u32) -> u64 {
        match u64::MAX.checked_shl(physical_bits) {
            Some(above) => above & format::ADDRESS,
            None => 0,
        }
    }

    /// Translates a linear address and leaves accessed and dirty flags alone.
    ///
    /// # Errors
    ///
    /// [`Fault`] says what the processor would do instead.
    pub fn translate(
        &self,
        memory: &mut (impl GuestPhys + ?Sized),
        gva: Gva,
        access: Access,
    ) -> Result<Gpa, Fault> {
        if let Some(gpa) = self.quick(memory, gva, access) {
            return Ok(gpa);
        }
        let mut path = Path::new();
        self.walk(memory, gva, access, &mut path)
    }

    /// Translates a linear address and sets the accessed flag of each entry on the way,
    /// and for a write the dirty flag of the last, as the processor does (SDM 3A 4.8).
    ///
    /// A flag in read-only memory stays as it is, and the translation counts: KVM has it
    /// so, for page tables in firmware. An entry at a device does not exist.
    ///
    /// # Errors
    ///
    /// [`Fault`], as for [`Paging::translate`]: no flag was set. [`Fault::Stop`] where a
    /// sub-page map forbids to set one, and then none was set; and where entries change
    /// faster than they are walked, or the owner of the memory fails.
    #[inline]
    pub fn translate_and_mark(
        &self,
        memory: &mut dyn Memory,
        gva: Gva,
        access: Access,
    ) -> Result<Gpa, Fault> {
        match self.quick(memory, gva, access) {
            Some(gpa) => Ok(gpa),
            None => self.walk_and_mark(memory, gva, access),
        }
    }

    // Not inlined: few accesses come here, and it needs much of the stack.
    #[cold]
    #[inline(never)]
    fn walk_and_mark(
        &self,
        memory: &mut dyn Memory,
        gva: Gva,
        access: Access,
    ) -> Result<Gpa, Fault> {
        for _ in 0..WALKS {
            let mut path = Path::new();
            let gpa = self.walk(memory, gva, access, &mut path)?;
            if path.mark(memory, gva, access.write).map_err(Fault::Stop)? {
                return Ok(gpa);
            }
        }
        Err(Fault::Stop(Stop::Retry))
    }

    /// Sets the one flag that the processor wanted to set in the paging-structure entry
    /// at `entry` on its way to translate `gva`: the accessed flag, or if that is set
    /// already, the dirty flag.
    ///
    /// # Errors
    ///
    /// [`Fault`], as for [`Paging::translate_and_mark`]; rights are not looked at.
    pub fn set_flag(&self, memory: &mut dyn Memory, gva: Gva, entry: Gpa) -> Result<(), Fault> {
        let bytes = u64::from(self.format().map_or(8, Format::entry_bytes));
        let word = memory.read_u32(Gpa::new(entry.get() & !(bytes - 1)));
        let accessed = word.is_some_and(|word| u64::from(word) & format::ACCESSED != 0);
        let anybody = Self {
            cr0: self.cr0 & !CR0_WP,
            cr4: self.cr4 & !(CR4_SMAP | CR4_PKE),
            user: false,
            ..*self
        };
        let access = Access {
            write: accessed,
            ..Access::READ
        };
        anybody.translate_and_mark(memory, gva, access).map(|_| ())
    }

    /// IA32_EFER.LMA.
    pub const fn long_mode(&self) -> bool {
        self.efer & EFER_LMA != 0
    }

    /// Whether 64-bit mode takes an address: bits 63:47 are equal, or bits 63:56 with
    /// five levels (SDM 1 3.3.7.1).
    #[inline]
    pub const fn canonical(&self, address: u64) -> bool {
        let unused = if self.cr4 & CR4_LA57 == 0 { 16 } else { 7 };
        let extended = (address << unused) as i64 >> unused;
        extended as u64 == address
    }

    /// The error code of a page fault for a page that is not present.
    pub fn not_present(&self, access: Access) -> u32 {
        self.error_code(access, 0)
    }

    /// An access by user code. The processor's own accesses are a supervisor's, whatever
    /// the CPL (SDM 3A 4.6).
    const fn user(&self, access: Access) -> bool {
        self.user && !access.system
    }

    const fn format(&self) -> Option<Format> {
        if self.cr0 & CR0_PG == 0 {
            None
        } else if self.cr4 & CR4_PAE == 0 {
            Some(Format::TwoLevel)
        } else if !self.long_mode() {
            Some(Format::Pae)
        } else if self.cr4 & CR4_LA57 == 0 {
            Some(Format::FourLevel)
        } else {
            Some(Format::FiveLevel)
        }
    }

    /// The table that the walk in memory begins with.
    fn top_table(&self, format: Format, linear: u64, access: Access) -> Result<u64, Fault> {
        match format {
            Format::TwoLevel => Ok(self.cr3 & 0xffff_f000),
            Format::FourLevel | Format::FiveLevel => Ok(self.cr3 & format::ADDRESS),
            Format::Pae => {
                let [a, b, c, d] = self.pdptes;
                let pdpte = match linear >> 30 & 3 {
                    0 => a,
                    1 => b,
                    2 => c,
                    _ => d,
                };
                if pdpte & format::PRESENT == 0 {
                    return Err(self.page_fault(access, 0));
                }
                Ok(pdpte & format::ADDRESS)
            }
        }
    }

    fn walk(
        &self,
        memory: &mut (impl GuestPhys + ?Sized),
        gva: Gva,
        access: Access,
        path: &mut Path,
    ) -> Result<Gpa, Fault> {
        let Some(format) = self.format() else {
            return Ok(Gpa::new(gva.get() & 0xffff_ffff));
        };
        let linear = match format.wide() {
            true if !self.canonical(gva.get()) => return Err(Fault::NonCanonical),
            true => gva.get(),
            false => gva.get() & 0xffff_ffff,
        };
        let mut table = self.top_table(format, linear, access)?;
        let mut rights = Rights::ALL;
        for level in (1..=format.levels()).rev() {
            let at = format.entry_address(table, level, linear);
            let value = format.read(memory, at).ok_or(Fault::NoTable(at))?;
            if value & format::PRESENT == 0 {
                return Err(self.page_fault(access, 0));
            }
            let large = format.large(self, level, value);
            if value & format.reserved(self, level, large) != 0 {
                return Err(self.page_fault(access, error::PROTECTION | error::RESERVED));
            }
            path.push(Entry {
                at,
                value,
                len: format.entry_bytes(),
            });
            rights.add(value);
            if level == 1 || large {
                self.permit(format, rights, format.key(value), access)?;
                return Ok(format.address(level, large, value, linear));
            }
            table = value & format::ADDRESS;
        }
        // Level 1 always returns; a page that does not exist is the safe answer.
        Err(self.page_fault(access, 0))
    }

    fn page_fault(&self, access: Access, cause: u32) -> Fault {
        Fault::Page(self.error_code(access, cause))
    }

    fn error_code(&self, access: Access, cause: u32) -> u32 {
        let mut code = cause;
        if access.write {
            code |= error::WRITE;
        }
        if self.user(access) {
            code |= error::USER;
        }
        // The flag exists only where the processor can refuse fetches.
        let nx = self.efer & EFER_NXE != 0 && self.cr4 & CR4_PAE != 0;
        if access.fetch && (nx || self.cr4 & CR4_SMEP != 0) {
            code |= error::FETCH;
        }
        code
    }
}

#[cfg(test)]
#[path = "tests/mark.rs"]
mod mark_tests;
#[cfg(test)]
#[path = "tests/paging.rs"]
mod tests;
