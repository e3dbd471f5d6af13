// SPDX-License-Identifier: GPL-2.0

//! Segments: those of every process, and those that the tests put into the LDT.

use std::io::Error;

use emulate::cpu::Segment;

use crate::layout::{CODE, CODE_BYTES, LOW};

/// The kernel's flat 64-bit code segment (`__USER_CS`).
pub const USER_CS64: u16 = 0x33;
/// The kernel's flat 32-bit code segment (`__USER32_CS`).
pub const USER_CS32: u16 = 0x23;
/// The kernel's flat data segment (`__USER_DS`).
pub const FLAT: u16 = 0x2b;

/// Segment registers that an LDT segment is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// CS of 16-bit code.
    Code16,
    /// CS of 32-bit code.
    Code32,
    /// SS, DS, ES and GS.
    Stack,
    /// DS, ES and GS.
    Data,
    /// Code that is not present.
    Absent,
}

/// A segment in the LDT.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// What it is for.
    pub choice: Choice,
    base: u32,
    /// In bytes, or in pages less one where that is more than 2^20.
    limit: u32,
    /// D/B.
    big: bool,
    /// Data: read-only. Code: cannot be read.
    locked: bool,
    expand_down: bool,
    /// It may be named and not loaded.
    absent: bool,
}

const fn data(choice: Choice, base: u64, limit: u32, big: bool) -> Descriptor {
    Descriptor {
        choice,
        base: base as u32,
        limit,
        big,
        locked: false,
        expand_down: false,
        absent: false,
    }
}

const CODE_LIMIT: u32 = CODE_BYTES as u32 - 1;

/// All of them, in the order of their selectors.
pub const DESCRIPTORS: &[Descriptor] = &[
    data(Choice::Code16, CODE, CODE_LIMIT, false),
    Descriptor {
        locked: true,
        ..data(Choice::Code16, CODE, CODE_LIMIT, false)
    },
    data(Choice::Code16, CODE, u32::MAX, false),
    // Instructions lie on both sides of offset 64 KiB.
    data(Choice::Code16, CODE - 0xff00, u32::MAX, false),
    data(Choice::Code32, CODE, CODE_LIMIT, true),
    Descriptor {
        locked: true,
        ..data(Choice::Code32, CODE, u32::MAX, true)
    },
    // The whole window, and parts of it whose ends lie inside pages.
    data(Choice::Stack, LOW, 0xffff, false),
    data(Choice::Stack, LOW, 0xffff, true),
    data(Choice::Stack, LOW + 0x807, 0x67f2, false),
    data(Choice::Stack, LOW + 0x2803, 0xbffc, true),
    // 16-bit offsets wrap where more of the segment follows.
    data(Choice::Stack, LOW - 0x1800, 0x1_17ff, false),
    // Offsets wrap at 4 GiB on the way to the window.
    data(Choice::Stack, 0xf000_0000, u32::MAX, true),
    Descriptor {
        locked: true,
        ..data(Choice::Data, LOW, 0xffff, false)
    },
    // Offsets above the limit are valid.
    Descriptor {
        expand_down: true,
        ..data(Choice::Stack, LOW, 0x3ffb, false)
    },
    Descriptor {
        expand_down: true,
        ..data(Choice::Stack, LOW - 0x10_0000, 0x10_4005, true)
    },
    Descriptor {
        expand_down: true,
        locked: true,
        ..data(Choice::Data, LOW, 0x0fff, false)
    },
    Descriptor {
        absent: true,
        ..data(Choice::Absent, CODE, CODE_LIMIT, true)
    },
];

impl Descriptor {
    /// The selector of the segment with this number.
    pub const fn selector(number: usize) -> u16 {
        (number as u16) << 3 | 7
    }

    /// What a segment register holds once it is loaded.
    pub const fn segment(&self, number: usize) -> Segment {
        // Accessed, S, DPL 3, present.
        let mut attributes = 0xf1;
        if self.is_code() {
            attributes |= 1 << 3;
        }
        if !self.locked {
            attributes |= 1 << 1;
        }
        if self.expand_down {
            attributes |= 1 << 2;
        }
        if self.big {
            attributes |= 1 << 14;
        }
        if self.absent {
            attributes &= !(1 << 7);
        }
        let mut limit = self.limit;
        if self.in_pages() {
            attributes |= 1 << 15;
            limit |= 0xfff;
        }
        Segment {
            selector: Self::selector(number),
            base: self.base as u64,
            limit,
            attributes,
            unusable: false,
        }
    }

    const fn is_code(&self) -> bool {
        !matches!(self.choice, Choice::Stack | Choice::Data)
    }

    const fn in_pages(&self) -> bool {
        self.limit > 0xf_ffff
    }

    /// `struct user_desc` of `<asm/ldt.h>`.
    const fn user_desc(&self, number: usize) -> [u32; 4] {
        let contents = match (self.is_code(), self.expand_down) {
            (true, _) => 2,
            (_, true) => 1,
            _ => 0,
        };
        let (limit, in_pages) = match self.in_pages() {
            true => (self.limit >> 12, 1),
            false => (self.limit, 0),
        };
        let flags = self.big as u32
            | contents << 1
            | (self.locked as u32) << 3
            | in_pages << 4
            | (self.absent as u32) << 5
            | 1 << 6;
        [number as u32, self.base, limit, flags]
    }
}

/// `modify_ldt(2)`: write an entry.
const WRITE_LDT: i32 = 0x11;

/// Fills the LDT.
pub(super) fn install() -> Result<(), String> {
    for (number, descriptor) in DESCRIPTORS.iter().enumerate() {
        let entry = descriptor.user_desc(number);
        let len = size_of_val(&entry);
        // SAFETY: the kernel reads a structure of 16 bytes, and the process has no LDT
        // that anybody uses.
        let done = unsafe { libc::syscall(libc::SYS_modify_ldt, WRITE_LDT, entry.as_ptr(), len) };
        // Errors of modify_ldt itself are ints in an unsigned register, which libc does not
        // take for errors.
        let error = match done {
            -1 => Error::last_os_error(),
            done => Error::from_raw_os_error(-(done as i32)),
        };
        if done != 0 {
            return Err(format!("modify_ldt, entry {number}: {error}"));
        }
    }
    Ok(())
}

const ARCH_SET_GS: i32 = 0x1001;
const ARCH_GET_FS: i32 = 0x1003;

pub(super) fn set_gs_base(base: u64) -> u64 {
    let mut fs_base = 0u64;
    // SAFETY: nothing of the process uses GS.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, base) };
    // SAFETY: the kernel writes 8 bytes to the address.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_GET_FS, &raw mut fs_base) };
    fs_base
}
