// SPDX-License-Identifier: GPL-2.0

//! A 64-bit guest that stores to every sub-page of some pages, with every
//! width, and halts.
//!
//! Each width has a place of its own in the 128 bytes, so that no store hides
//! another:
//!
//! ```text
//!   sub-page  0    16   32   48   64        80              112    127
//!             1    2    4    8    16 bytes  REP MOVS, 4 x 8  free
//! ```
//! What is stored depends on the address alone and no byte of it equals
//! [`BACKGROUND`], with which the pages are filled before: every byte tells
//! whether it was stored to, and by which store.

use crate::asm::*;
use crate::{AssembleError, Mode, Program, PAGE_SIZE, SUBPAGES, SUBPAGE_SIZE};

/// What the pages hold before the program runs. Even, whereas all bytes that
/// the program stores are odd.
pub const BACKGROUND: u8 = 0xee;

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
const ODD: u64 = 0x0101_0101_0101_0101;
const MOVS_COUNT: u64 = 4;

/// A kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Width {
    /// MOV of 1 byte.
    Byte,
    /// MOV of 2 bytes.
    Word,
    /// MOV of 4 bytes.
    Dword,
    /// MOV of 8 bytes.
    Qword,
    /// MOVDQA of 16 bytes.
    Xmm,
    /// REP MOVSQ of 32 bytes.
    Movs,
}

impl Width {
    /// All kinds, in the order in which the program uses them.
    pub const ALL: [Self; 6] = [
        Self::Byte,
        Self::Word,
        Self::Dword,
        Self::Qword,
        Self::Xmm,
        Self::Movs,
    ];

    /// Bytes that one instruction stores.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Dword => 4,
            Self::Qword => 8,
            Self::Xmm => 16,
            Self::Movs => 8 * MOVS_COUNT,
        }
    }

    /// Offset in the sub-page.
    pub const fn offset(self) -> u64 {
        match self {
            Self::Byte => 0,
            Self::Word => 16,
            Self::Dword => 32,
            Self::Qword => 48,
            Self::Xmm => 64,
            Self::Movs => 80,
        }
    }
}

/// One store of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Store {
    /// Which of the pages.
    pub page: u64,
    /// Which of its sub-pages.
    pub subpage: u64,
    /// Which kind.
    pub width: Width,
}

/// The pages that the program stores to.
#[derive(Clone, Copy, Debug)]
pub struct StorePattern {
    /// Address of the first.
    pub base: u64,
    /// How many.
    pub pages: u64,
    /// 32 bytes from which REP MOVS copies.
    pub scratch: u64,
}

impl StorePattern {
    /// The program, with the address of the storing instruction of each
    /// [`Width::ALL`] as its labels.
    ///
    /// # Errors
    /// Those of [`Program::assemble`].
    pub fn program(&self, address: u64) -> Result<Program, AssembleError> {
        Program::assemble(Mode::Long, address, |a| {
            let sites = Width::ALL
                .into_iter()
                .map(|width| self.store_all(a, width))
                .collect::<Result<_, _>>()?;
            a.hlt()?;
            Ok(sites)
        })
    }

    /// Writes the loop over all sub-pages for one width.
    fn store_all(&self, a: &mut CodeAssembler, width: Width) -> Result<CodeLabel, AssembleError> {
        let mut again = a.create_label();
        a.mov(rbx, self.base)?;
        a.mov(r12, self.pages * SUBPAGES)?;
        a.mov(r14, MULTIPLIER)?;
        a.mov(r15, ODD)?;
        a.set_label(&mut again)?;
        a.lea(rdi, qword_ptr(rbx + width.offset()))?;
        // BSWAP brings the bits that depend on the whole address into the low
        // byte, the only one that the narrowest store writes.
        a.mov(rax, rdi)?;
        a.imul_2(rax, r14)?;
        a.bswap(rax)?;
        a.or(rax, r15)?;
        let site = self.store_one(a, width)?;
        a.add(rbx, SUBPAGE_SIZE as i32)?;
        a.dec(r12)?;
        a.jnz(again)?;
        Ok(site)
    }

    /// Writes one store of RAX, repeated up to the width, to RDI.
    fn store_one(&self, a: &mut CodeAssembler, width: Width) -> Result<CodeLabel, AssembleError> {
        match width {
            Width::Xmm => {
                a.movq(xmm0, rax)?;
                a.punpcklqdq(xmm0, xmm0)?;
            }
            Width::Movs => {
                a.mov(rsi, self.scratch)?;
                for n in 0..MOVS_COUNT {
                    a.mov(qword_ptr(rsi + 8 * n), rax)?;
                }
                a.mov(ecx, MOVS_COUNT as u32)?;
            }
            _ => {}
        }
        let mut site = a.create_label();
        a.set_label(&mut site)?;
        match width {
            Width::Byte => a.mov(byte_ptr(rdi), al)?,
            Width::Word => a.mov(word_ptr(rdi), ax)?,
            Width::Dword => a.mov(dword_ptr(rdi), eax)?,
            Width::Qword => a.mov(qword_ptr(rdi), rax)?,
            Width::Xmm => a.movdqa(xmmword_ptr(rdi), xmm0)?,
            Width::Movs => a.rep().movsq()?,
        }
        Ok(site)
    }

    /// All stores, in the order of the program.
    pub fn stores(&self) -> impl Iterator<Item = Store> {
        let pages = self.pages;
        Width::ALL.into_iter().flat_map(move |width| {
            (0..pages).flat_map(move |page| {
                (0..SUBPAGES).map(move |subpage| Store {
                    page,
                    subpage,
                    width,
                })
            })
        })
    }

    /// Address of the first byte of a store.
    pub const fn address(&self, store: Store) -> u64 {
        self.base + store.page * PAGE_SIZE + store.subpage * SUBPAGE_SIZE + store.width.offset()
    }

    /// The store whose first byte is at `address`.
    pub fn store_at(&self, address: u64) -> Option<Store> {
        let offset = address.checked_sub(self.base)?;
        let width = Width::ALL
            .into_iter()
            .find(|w| w.offset() == offset % SUBPAGE_SIZE)?;
        let store = Store {
            page: offset / PAGE_SIZE,
            subpage: offset / SUBPAGE_SIZE % SUBPAGES,
            width,
        };
        (store.page < self.pages).then_some(store)
    }

    /// The bytes that a store writes.
    pub fn value(&self, store: Store) -> Vec<u8> {
        let word = self.address(store).wrapping_mul(MULTIPLIER).swap_bytes() | ODD;
        word.to_le_bytes()
            .into_iter()
            .cycle()
            .take(store.width.bytes() as usize)
            .collect()
    }

    /// What the pages hold after those stores that `allowed` says yes to.
    pub fn image(&self, allowed: impl Fn(Store) -> bool) -> Vec<u8> {
        let mut image = vec![BACKGROUND; (self.pages * PAGE_SIZE) as usize];
        for store in self.stores().filter(|&s| allowed(s)) {
            let start = (self.address(store) - self.base) as usize;
            let value = self.value(store);
            image[start..start + value.len()].copy_from_slice(&value);
        }
        image
    }
}

#[cfg(test)]
#[path = "../tests/unit/pattern.rs"]
mod tests;
