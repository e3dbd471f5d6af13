// SPDX-License-Identifier: GPL-2.0

//! The processor's side, from SDM 3C chapter 29 (326019-082): EPT walk, misconfigurations,
//! violations, sub-page permissions, and a TLB that forgets only when it must.
//!
//! ```text
//!  access --> cached mapping? --no--> EPT walk --> misconfiguration / not present -> exit
//!                 | yes                  | translation, permissions
//!                 v                      v
//!             permissions allow it?  --yes--> done
//!                 | no
//!             a data write, refused only by W=0, 4-KiB leaf, bit 61?  --no--> exit 48
//!                 | yes
//!             SPPT walk --> broken or absent -> exit 66
//!                 | vector: every touched sub-page's even bit set?
//!                 +-- yes --> done        no --> exit 48
//! ```

use std::cell::RefCell;
use std::collections::HashMap;

use crate::ram::Ram;

const R: u64 = 1;
const W: u64 = 2;
const X: u64 = 4;
const PERMISSIONS: u64 = R | W | X;
const BIT_7_PAGE: u64 = 0x80;
const ACCESSED: u64 = 0x100;
const DIRTY: u64 = 0x200;
const BIT_61: u64 = 1 << 61;
const EPTP_ACCESSED_DIRTY: u64 = 0x40;
const FRAME: u64 = 0x000f_ffff_ffff_f000;
/// MAXPHYADDR of the modelled processor.
const WIDTH: u32 = 46;
const ABOVE_WIDTH: u64 = FRAME & !((1 << WIDTH) - 1);

/// Qualification bits of an EPT violation (SDM 3C table 28-7).
const READ_ACCESS: u64 = 1 << 0;
const WRITE_ACCESS: u64 = 1 << 1;
const FETCH_ACCESS: u64 = 1 << 2;
const LINEAR_VALID: u64 = 1 << 7;
const FINAL_TRANSLATION: u64 = 1 << 8;
/// Qualification bit of an SPP-related event: miss, not misconfiguration (SDM 3C 28.2.1).
const SPP_MISS: u64 = 1 << 11;

/// What an instruction or the guest page walk does to guest-physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Data read.
    Read,
    /// Data write.
    Write,
    /// Instruction fetch.
    Fetch,
    /// Read of a guest paging-structure entry; a write where EPT maintains accessed flags.
    Walk,
    /// Update of an accessed or dirty flag in a guest paging-structure entry.
    FlagUpdate,
}

/// How an access ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It happens, with its first byte at this host-physical address.
    Done(u64),
    /// Exit reason 48, at the guest-physical address, with the qualification.
    Violation(u64, u64),
    /// Exit reason 49, at the guest-physical address.
    Misconfiguration(u64),
    /// Exit reason 66, at the guest-physical address, with the qualification.
    SppEvent(u64, u64),
}

/// A guest-physical mapping as the TLB keeps it (SDM 3C 29.4.1): the translation, the permissions
/// of all entries used, and for an armed page the vector.
#[derive(Clone, Copy, Debug)]
struct Mapping {
    size: u64,
    frame: u64,
    allowed: u64,
    bit_61: bool,
    vector: Option<u64>,
}

/// A paging-structure cache: by the shift and the address bits that select an entry, the table
/// it links to (SDM 3C 29.4.1). Permissions of the entries used are not kept, for
/// the tables here allow everything above the leaf.
type Links = RefCell<HashMap<(u64, u64), u64>>;

/// One processor inside one VM. Its TLB stands for those of all processors: a mapping or a link
/// stays until an INVEPT or an EPT violation at its address, never by chance.
#[derive(Clone, Debug)]
pub struct Cpu<'a> {
    ram: &'a Ram,
    eptp: u64,
    sppt: Option<u64>,
    crossing: bool,
    tlb: HashMap<u64, Mapping>,
    ept_links: Links,
    sppt_links: Links,
}

impl<'a> Cpu<'a> {
    /// A processor with an empty TLB. `sppt` is the SPPTP, if the control is on; `crossing`
    /// says whether this model of processor applies SPP to writes across a page boundary
    /// (SDM 3C 29.3.4.1 leaves it open).
    pub fn new(ram: &'a Ram, eptp: u64, sppt: Option<u64>, crossing: bool) -> Self {
        Self {
            ram,
            eptp,
            sppt,
            crossing,
            tlb: HashMap::new(),
            ept_links: Links::default(),
            sppt_links: Links::default(),
        }
    }

    /// INVEPT, single-context: nothing is remembered.
    pub fn invept(&mut self) {
        self.tlb.clear();
        self.ept_links.take();
        self.sppt_links.take();
    }

    /// The control "sub-page write permissions" is turned on.
    pub fn load_sppt(&mut self, sppt: u64) {
        self.sppt = Some(sppt);
    }

    /// An access of `len` bytes (1 to 4096) at `gpa`. A write that reaches into a second page
    /// happens to both or to neither.
    pub fn access(&mut self, access: Access, gpa: u64, len: u64) -> Outcome {
        let room = 4096 - gpa % 4096;
        let crosses = len > room;
        let first = self.within_page(access, gpa, len.min(room), crosses);
        if !crosses || !matches!(first, Outcome::Done(_)) {
            return first;
        }
        match self.within_page(access, gpa + room, len - room, crosses) {
            Outcome::Done(_) => first,
            exit => exit,
        }
    }

    fn within_page(&mut self, access: Access, gpa: u64, len: u64, crosses: bool) -> Outcome {
        let mapping = match self.lookup(gpa) {
            Some(cached) => cached,
            None => match self.ept_walk(gpa) {
                Ok(mapping) => self.remember(gpa, mapping),
                Err(exit) => return exit.at(self.wanted(access), access, gpa),
            },
        };
        let wanted = self.wanted(access);
        if wanted & !mapping.allowed == 0 {
            self.mark_used(gpa, wanted & W != 0);
            return Outcome::Done(mapping.frame + gpa % mapping.size);
        }
        let eligible = access == Access::Write
            && mapping.bit_61
            && wanted & !mapping.allowed == W
            && (self.crossing || !crosses);
        let refused = if eligible {
            self.sub_pages(mapping, gpa, len)
        } else {
            Err(Refused::Violation(mapping.allowed))
        };
        match refused {
            Ok(()) => {
                self.mark_used(gpa, true);
                Outcome::Done(mapping.frame + gpa % mapping.size)
            }
            Err(refused) => {
                if let Refused::Violation(_) = refused {
                    self.forget(gpa);
                }
                refused.at(wanted, access, gpa)
            }
        }
    }

    /// Permissions that the access needs (SDM 3C 29.3.3.2).
    fn wanted(&self, access: Access) -> u64 {
        match access {
            Access::Read => R,
            Access::Fetch => X,
            Access::Write | Access::FlagUpdate => W,
            Access::Walk if self.eptp & EPTP_ACCESSED_DIRTY != 0 => R | W,
            Access::Walk => R,
        }
    }

    /// SDM 3C 29.3.4.2: the write is allowed if the bits of all touched sub-pages are 1.
    fn sub_pages(&self, mapping: Mapping, gpa: u64, len: u64) -> Result<(), Refused> {
        let vector = match mapping.vector {
            Some(vector) => vector,
            None => self.sppt_walk(gpa)?,
        };
        let first = gpa % 4096 / 128;
        let last = (gpa % 4096 + len - 1) / 128;
        if (first..=last).all(|sub_page| vector >> (2 * sub_page) & 1 == 1) {
            Ok(())
        } else {
            Err(Refused::Violation(mapping.allowed))
        }
    }

    /// The vector, or why there is none. Reserved bits count only in valid entries.
    fn sppt_walk(&self, gpa: u64) -> Result<u64, Refused> {
        let root = self.sppt.ok_or(Refused::SppEvent(SPP_MISS))?;
        let (mut table, from) = start(&self.sppt_links, gpa, root);
        for shift in [39, 30, 21].into_iter().filter(|shift| *shift <= from) {
            let entry = self.ram.read(table + (gpa >> shift & 0x1ff) * 8);
            if entry & 1 == 0 {
                return Err(Refused::SppEvent(SPP_MISS));
            }
            if entry & 0xffe != 0 || entry >> WIDTH != 0 {
                return Err(Refused::SppEvent(0));
            }
            table = entry & FRAME;
            link(&self.sppt_links, gpa, shift, table);
        }
        let vector = self.ram.read(table + (gpa >> 12 & 0x1ff) * 8);
        if (0..32).any(|sub_page| vector >> (2 * sub_page + 1) & 1 == 1) {
            return Err(Refused::SppEvent(0));
        }
        Ok(vector)
    }

    fn ept_walk(&self, gpa: u64) -> Result<Mapping, Refused> {
        // Four levels translate 48 bits; beyond, no entry is used (SDM 3C table 28-7).
        if gpa >> 48 != 0 {
            return Err(Refused::Violation(0));
        }
        let mut allowed = PERMISSIONS;
        let (mut table, mut shift) = start(&self.ept_links, gpa, self.eptp & FRAME);
        loop {
            let entry = self.ram.read(table + (gpa >> shift & 0x1ff) * 8);
            if entry & PERMISSIONS == 0 {
                return Err(Refused::Violation(0));
            }
            let leaf = shift == 12 || (shift < 39 && entry & BIT_7_PAGE != 0);
            if misconfigured(entry, shift, leaf) {
                return Err(Refused::Misconfiguration);
            }
            allowed &= entry;
            if leaf {
                return Ok(self.mapping(entry, shift, allowed, gpa));
            }
            table = entry & FRAME;
            link(&self.ept_links, gpa, shift, table);
            shift -= 9;
        }
    }

    /// The vector is read as soon as the mapping is: the processor may, at any time.
    fn mapping(&self, entry: u64, shift: u64, allowed: u64, gpa: u64) -> Mapping {
        let size = 1 << shift;
        let bit_61 = shift == 12 && self.sppt.is_some() && entry & BIT_61 != 0;
        let vector = if bit_61 {
            self.sppt_walk(gpa).ok()
        } else {
            None
        };
        Mapping {
            size,
            frame: entry & FRAME & !(size - 1),
            allowed,
            bit_61,
            vector,
        }
    }

    /// With accessed and dirty flags on, sets A in the entries used and D in the leaf written to
    /// (SDM 3C 29.3.5).
    fn mark_used(&self, gpa: u64, written: bool) {
        if self.eptp & EPTP_ACCESSED_DIRTY == 0 {
            return;
        }
        let mut table = self.eptp & FRAME;
        for shift in [39, 30, 21, 12] {
            let at = table + (gpa >> shift & 0x1ff) * 8;
            let entry = self.ram.read(at);
            if entry & PERMISSIONS == 0 {
                return;
            }
            let leaf = shift == 12 || (shift < 39 && entry & BIT_7_PAGE != 0);
            let dirty = if leaf && written { DIRTY } else { 0 };
            self.ram.write(at, entry | ACCESSED | dirty);
            if leaf {
                return;
            }
            table = entry & FRAME;
        }
    }

    fn lookup(&self, gpa: u64) -> Option<Mapping> {
        [12, 21, 30].iter().find_map(|shift| {
            let mapping = self.tlb.get(&(gpa >> shift << shift))?;
            (mapping.size == 1 << shift).then_some(*mapping)
        })
    }

    fn remember(&mut self, gpa: u64, mapping: Mapping) -> Mapping {
        self.tlb.insert(gpa / mapping.size * mapping.size, mapping);
        mapping
    }

    /// An EPT violation drops the mappings of its address (SDM 3C 29.4.3.1).
    fn forget(&mut self, gpa: u64) {
        self.tlb
            .retain(|base, mapping| gpa < *base || gpa - *base >= mapping.size);
        for links in [&self.ept_links, &self.sppt_links] {
            links
                .borrow_mut()
                .retain(|(shift, prefix), _| gpa >> shift != *prefix);
        }
    }

    /// What a processor with an empty TLB lets the guest do with the page of `gpa`.
    pub fn sight(&self, gpa: u64) -> Sight {
        Cpu::new(self.ram, self.eptp, self.sppt, self.crossing).first_sight(gpa & !0xfff)
    }

    fn first_sight(&self, page: u64) -> Sight {
        let mapping = match self.ept_walk(page) {
            Ok(mapping) => mapping,
            Err(refused) => return Sight::none(refused != Refused::Violation(0)),
        };
        let mut sight = Sight {
            frame: Some(mapping.frame + page % mapping.size),
            readable: mapping.allowed & R != 0,
            writable: 0,
            armed: mapping.bit_61,
            broken: false,
        };
        if mapping.allowed & W != 0 {
            sight.writable = u32::MAX;
        } else if mapping.bit_61 {
            match self.sppt_walk(page) {
                Ok(vector) => {
                    sight.writable = (0..32)
                        .filter(|sub_page| vector >> (2 * sub_page) & 1 == 1)
                        .fold(0, |set, sub_page| set | 1 << sub_page);
                }
                Err(_) => sight.broken = true,
            }
        }
        sight
    }
}

/// Where a walk for `gpa` starts: in the lowest table that a cached link leads to.
fn start(links: &Links, gpa: u64, root: u64) -> (u64, u64) {
    let links = links.borrow();
    [21, 30, 39]
        .into_iter()
        .find_map(|shift| Some((*links.get(&(shift, gpa >> shift))?, shift - 9)))
        .unwrap_or((root, 39))
}

fn link(links: &Links, gpa: u64, shift: u64, table: u64) {
    links.borrow_mut().insert((shift, gpa >> shift), table);
}

/// A page as the guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Host-physical address of the page, if it is mapped.
    pub frame: Option<u64>,
    /// Reads are allowed.
    pub readable: bool,
    /// Bit n: one-byte writes to sub-page n are allowed.
    pub writable: u32,
    /// A write that EPT refuses is put to the SPPT.
    pub armed: bool,
    /// An access could end in exit 49 or 66, which a correct table never causes.
    pub broken: bool,
}

impl Sight {
    fn none(broken: bool) -> Self {
        Self {
            frame: None,
            readable: false,
            writable: 0,
            armed: false,
            broken,
        }
    }
}

/// Why an access does not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// With the permissions found.
    Violation(u64),
    Misconfiguration,
    /// With its qualification.
    SppEvent(u64),
}

impl Refused {
    fn at(self, wanted: u64, access: Access, gpa: u64) -> Outcome {
        let kind = [(R, READ_ACCESS), (W, WRITE_ACCESS), (X, FETCH_ACCESS)];
        match self {
            Refused::Misconfiguration => Outcome::Misconfiguration(gpa),
            Refused::SppEvent(qualification) => Outcome::SppEvent(gpa, qualification),
            Refused::Violation(allowed) => {
                let mut qualification = (allowed & PERMISSIONS) << 3 | LINEAR_VALID;
                for (permission, bit) in kind {
                    if wanted & permission != 0 {
                        qualification |= bit;
                    }
                }
                if !matches!(access, Access::Walk | Access::FlagUpdate) {
                    qualification |= FINAL_TRANSLATION;
                }
                Outcome::Violation(gpa, qualification)
            }
        }
    }
}

/// SDM 3C 29.3.3.1, for a processor with execute-only translations.
fn misconfigured(entry: u64, shift: u64, leaf: bool) -> bool {
    let write_only = entry & (R | W) == W;
    let reserved = match (leaf, shift) {
        (false, 39) => 0xf8,
        (false, _) => 0x78,
        (true, _) => ((1 << shift) - 1) & FRAME,
    };
    let memory_type = entry >> 3 & 7;
    write_only
        || entry & (reserved | ABOVE_WIDTH) != 0
        || (leaf && matches!(memory_type, 2 | 3 | 7))
}
