// SPDX-License-Identifier: GPL-2.0

//! The guest's page walk (SDM 3A chapter 4).
//!
//! ```text
//!              CR0.PG  CR4.PAE  EFER.LMA   levels x bits   entry   large pages
//!   none         0        -        -          -              -     -
//!   32-bit       1        0        0        2 x 10         4 bytes  4M (PSE)
//!   PAE          1        1        0        2 x 9 below    8 bytes  2M
//!                                           4 registers
//!   4-level      1        1        1        4 x 9          8 bytes  2M, 1G
//! ```

use ept::{Gpa, Gva};

use crate::guard::Memory;
use crate::stop::Stop;
use crate::GuestPhys;

const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// Bits 51:12 of an 8-byte entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Page-fault error code (SDM 3A 4.7).
mod error {
    pub(super) const PROTECTION: u32 = 1 << 0;
    pub(super) const WRITE: u32 = 1 << 1;
    pub(super) const USER: u32 = 1 << 2;
    pub(super) const RESERVED: u32 = 1 << 3;
    pub(super) const FETCH: u32 = 1 << 4;
}

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

/// A format of paging structures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    TwoLevel,
    Pae,
    FourLevel,
}

impl Format {
    /// Bits of the linear address that index one table.
    const fn index_bits(self) -> u32 {
        match self {
            Self::TwoLevel => 10,
            Self::Pae | Self::FourLevel => 9,
        }
    }

    const fn levels(self) -> u32 {
        match self {
            Self::TwoLevel | Self::Pae => 2,
            Self::FourLevel => 4,
        }
    }

    const fn entry_bytes(self) -> u64 {
        match self {
            Self::TwoLevel => 4,
            Self::Pae | Self::FourLevel => 8,
        }
    }
}

/// What the entries of a walk allow together.
#[derive(Clone, Copy, Debug)]
struct Rights {
    writable: bool,
    user: bool,
    no_execute: bool,
}

impl Paging {
    /// Translates a linear address.
    ///
    /// Reserved address bits between MAXPHYADDR and bit 51 are not checked: no
    /// guest memory is there, so the walk ends anyway.
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
        let Some(format) = self.format() else {
            return Ok(Gpa::new(gva.get() & 0xffff_ffff));
        };
        let linear = match format {
            Format::FourLevel if !canonical(gva.get()) => return Err(Fault::NonCanonical),
            Format::FourLevel => gva.get(),
            Format::TwoLevel | Format::Pae => gva.get() & 0xffff_ffff,
        };
        let table = self.top_table(format, linear, access)?;
        self.walk(memory, format, table, linear, access)
    }

    /// Translates a linear address and sets the accessed and dirty flags on the way, as
    /// the processor does.
    ///
    /// # Errors
    ///
    /// [`Fault`], as for [`Paging::translate`].
    pub fn translate_and_mark(
        &self,
        memory: &mut dyn Memory,
        gva: Gva,
        access: Access,
    ) -> Result<Gpa, Fault> {
        self.translate(memory, gva, access)
    }

    /// Sets the one flag that the processor wanted to set in the paging-structure entry
    /// at `entry` on its way to translate `gva`: the accessed flag, or if that is set
    /// already, the dirty flag.
    ///
    /// # Errors
    ///
    /// [`Fault`], as for [`Paging::translate_and_mark`]; rights are not looked at.
    pub fn set_flag(&self, memory: &mut dyn Memory, gva: Gva, entry: Gpa) -> Result<(), Fault> {
        const ACCESSED: u64 = 1 << 5;
        let bytes = self.format().map_or(8, Format::entry_bytes);
        let word = memory.read_u32(Gpa::new(entry.get() & !(bytes - 1)));
        let accessed = word.is_some_and(|word| u64::from(word) & ACCESSED != 0);
        let anybody = Self {
            cr0: self.cr0 & !CR0_WP,
            cr4: self.cr4 & !CR4_SMAP,
            user: false,
            ..*self
        };
        let access = Access {
            write: accessed,
            ..Access::READ
        };
        anybody.translate_and_mark(memory, gva, access).map(|_| ())
    }

    /// The linear address `bytes` further on, as far as linear addresses reach.
    pub const fn linear(&self, gva: Gva, bytes: u64) -> Gva {
        let next = gva.get().wrapping_add(bytes);
        if self.efer & EFER_LMA != 0 {
            Gva::new(next)
        } else {
            Gva::new(next & 0xffff_ffff)
        }
    }

    /// The error code of a page fault for a page that is not present.
    pub fn not_present(&self, access: Access) -> u32 {
        match self.page_fault(access, 0) {
            Fault::Page(code) => code,
            _ => 0,
        }
    }

    const fn format(&self) -> Option<Format> {
        if self.cr0 & CR0_PG == 0 {
            None
        } else if self.cr4 & CR4_PAE == 0 {
            Some(Format::TwoLevel)
        } else if self.efer & EFER_LMA == 0 {
            Some(Format::Pae)
        } else {
            Some(Format::FourLevel)
        }
    }

    /// The table that the walk in memory begins with.
    fn top_table(&self, format: Format, linear: u64, access: Access) -> Result<u64, Fault> {
        match format {
            Format::TwoLevel => Ok(self.cr3 & 0xffff_f000),
            Format::FourLevel => Ok(self.cr3 & ADDRESS),
            Format::Pae => {
                let [a, b, c, d] = self.pdptes;
                let pdpte = match linear >> 30 & 3 {
                    0 => a,
                    1 => b,
                    2 => c,
                    _ => d,
                };
                if pdpte & PRESENT == 0 {
                    return Err(self.page_fault(access, 0));
                }
                Ok(pdpte & ADDRESS)
            }
        }
    }

    fn walk(
        &self,
        memory: &mut (impl GuestPhys + ?Sized),
        format: Format,
        top: u64,
        linear: u64,
        access: Access,
    ) -> Result<Gpa, Fault> {
        let mut table = top;
        let mut rights = Rights {
            writable: true,
            user: true,
            no_execute: false,
        };
        for level in (1..=format.levels()).rev() {
            let shift = 12 + (level - 1) * format.index_bits();
            let index = linear >> shift & ((1 << format.index_bits()) - 1);
            let at = Gpa::new(table | (index * format.entry_bytes()));
            let entry = read_entry(memory, format, at).ok_or(Fault::NoTable(at))?;
            if entry & PRESENT == 0 {
                return Err(self.page_fault(access, 0));
            }
            let large = self.large(format, level, entry);
            if entry & self.reserved(format, level, large) != 0 {
                return Err(self.page_fault(access, error::PROTECTION | error::RESERVED));
            }
            rights.add(entry);
            if level == 1 || large {
                self.permit(rights, access)?;
                let offset = (1 << shift) - 1;
                return Ok(Gpa::new(
                    frame(format, large, entry) & !offset | linear & offset,
                ));
            }
            table = entry & ADDRESS;
        }
        // Level 1 always returns; a page that does not exist is the safe answer.
        Err(self.page_fault(access, 0))
    }

    const fn large(&self, format: Format, level: u32, entry: u64) -> bool {
        let possible = match format {
            Format::TwoLevel => level == 2 && self.cr4 & CR4_PSE != 0,
            Format::Pae => level == 2,
            Format::FourLevel => level == 2 || level == 3,
        };
        possible && entry & LARGE != 0
    }

    /// Bits that must be 0 in an entry (SDM 3A tables 4-4 to 4-20).
    const fn reserved(&self, format: Format, level: u32, large: bool) -> u64 {
        let mut bits = match (format, level, large) {
            // Bits 20:13 of a 4-MByte page are bits 39:32 of its address.
            (Format::TwoLevel, _, true) => 1 << 21,
            (Format::TwoLevel, _, false) => 0,
            (_, 2, true) => 0x1f_e000,
            (_, 3, true) => 0x3fff_e000,
            (Format::FourLevel, 4, _) => LARGE,
            _ => 0,
        };
        if matches!(format, Format::Pae) {
            bits |= 0x7ff << 52;
        }
        if !matches!(format, Format::TwoLevel) && self.efer & EFER_NXE == 0 {
            bits |= NO_EXECUTE;
        }
        bits
    }

    /// Checks the access against the rights (SDM 3A 4.6).
    fn permit(&self, rights: Rights, access: Access) -> Result<(), Fault> {
        let allowed = if self.user {
            rights.user
                && (!access.write || rights.writable)
                && (!access.fetch || !rights.no_execute)
        } else if access.fetch {
            let smep = rights.user && self.cr4 & CR4_SMEP != 0;
            !smep && !rights.no_execute
        } else {
            let smap = rights.user && self.cr4 & CR4_SMAP != 0 && !self.ac;
            let read_only = access.write && !rights.writable && self.cr0 & CR0_WP != 0;
            !smap && !read_only
        };
        if allowed {
            Ok(())
        } else {
            Err(self.page_fault(access, error::PROTECTION))
        }
    }

    fn page_fault(&self, access: Access, cause: u32) -> Fault {
        let mut code = cause;
        if access.write {
            code |= error::WRITE;
        }
        if self.user {
            code |= error::USER;
        }
        // The flag exists only where the processor can refuse fetches.
        let nx = self.efer & EFER_NXE != 0 && self.cr4 & CR4_PAE != 0;
        if access.fetch && (nx || self.cr4 & CR4_SMEP != 0) {
            code |= error::FETCH;
        }
        Fault::Page(code)
    }
}

impl Rights {
    fn add(&mut self, entry: u64) {
        self.writable &= entry & WRITABLE != 0;
        self.user &= entry & USER != 0;
        self.no_execute |= entry & NO_EXECUTE != 0;
    }
}

/// A 4-byte entry has no bit 63, so it comes back zero-extended.
fn read_entry(memory: &mut (impl GuestPhys + ?Sized), format: Format, at: Gpa) -> Option<u64> {
    match format {
        Format::TwoLevel => memory.read_u32(at).map(u64::from),
        Format::Pae | Format::FourLevel => memory.read_u64(at),
    }
}

/// The address in a leaf; of a large one with more bits than it has.
const fn frame(format: Format, large: bool, entry: u64) -> u64 {
    match format {
        // PSE-36: bits 20:13 are bits 39:32 of the address.
        Format::TwoLevel if large => entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32,
        _ => entry & ADDRESS,
    }
}

/// Bits 63:47 are equal.
const fn canonical(address: u64) -> bool {
    let upper = address >> 47;
    upper == 0 || upper == 0x1_ffff
}

#[cfg(test)]
#[path = "tests/paging.rs"]
mod tests;
