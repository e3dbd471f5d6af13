// SPDX-License-Identifier: GPL-2.0

//! The bytes of an access that was prepared, and where they are.

use ept::{Gfn, Gpa, Gva};

use super::bytes::Written;
use super::Page;

/// Bytes that follow each other in one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Of the first byte.
    pub gpa: Gpa,
    /// How many, at least 1.
    pub len: u16,
    /// They belong to a device.
    pub device: bool,
}

/// The fragments of an access: one, or two if it crosses a page boundary.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fragments {
    pub(super) first: Fragment,
    pub(super) second: Option<Fragment>,
}

impl Fragments {
    pub(super) fn iter(&self) -> impl Iterator<Item = Fragment> + '_ {
        core::iter::once(self.first).chain(self.second)
    }

    /// Bytes of all, [`MAX_SPAN`](super::MAX_SPAN) at most.
    pub(super) fn len(&self) -> u16 {
        let second = self.second.map_or(0, |f| f.len);
        self.first.len.saturating_add(second)
    }

    /// Whether one of them is such a fragment.
    pub(super) fn any(&self, such: impl Fn(&Fragment) -> bool) -> bool {
        such(&self.first) || self.second.as_ref().is_some_and(such)
    }

    /// A device has a part in them.
    fn device(&self) -> bool {
        self.any(|f| f.device)
    }

    /// How many writes of a device they are.
    pub(super) fn device_words(&self) -> usize {
        let words = |f: &Fragment| match f.device {
            true => usize::from(f.len).div_ceil(8),
            false => 0,
        };
        let second = self.second.as_ref().map_or(0, words);
        words(&self.first).saturating_add(second)
    }
}

/// Bytes that may be read.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    pub(super) fragments: Fragments,
    pub(super) gva: Gva,
}

impl Source {
    /// The guest-physical address of its first byte.
    pub const fn gpa(&self) -> Gpa {
        self.fragments.first.gpa
    }

    /// A device has a part in it.
    pub fn device(&self) -> bool {
        self.fragments.device()
    }
}

/// Bytes that may be written: proof that the guest's page tables and the sub-page maps
/// allowed it when it was made. Not `Clone`, and made by
/// [`Guest::prepare_write`](super::Guest::prepare_write) and
/// [`Guest::prepare_bytes`](super::Guest::prepare_bytes), and by the page walk for its own
/// flags.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "an access that was prepared is committed"]
pub struct Span {
    pub(super) fragments: Fragments,
    pub(super) gva: Gva,
}

impl Span {
    /// Its fragments, in the order of their addresses.
    pub fn fragments(&self) -> impl Iterator<Item = Fragment> + '_ {
        self.fragments.iter()
    }

    /// The linear address of its first byte.
    pub const fn gva(&self) -> Gva {
        self.gva
    }

    /// The guest-physical address of its first byte.
    pub const fn gpa(&self) -> Gpa {
        self.fragments.first.gpa
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.fragments.len().into()
    }

    /// Never: a span has a byte at least.
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Whether every memory fragment is still memory whose map allows the write of the
    /// bytes whose bits are set in `bytes` (as for
    /// [`Memory::write`](super::Memory::write)); `page` says what is at a frame now.
    pub fn allowed(&self, bytes: u64, mut page: impl FnMut(Gfn) -> Page) -> bool {
        let mut done = 0u16;
        self.fragments().all(|fragment| {
            let written = Written::new(fragment, done, bytes);
            done = done.saturating_add(fragment.len);
            fragment.device
                || match page(fragment.gpa.gfn()) {
                    Page::Ram(map) => map.allows(written.touched()),
                    Page::Rom | Page::Device => false,
                }
        })
    }

    /// A device has a part in it.
    pub fn device(&self) -> bool {
        self.fragments.device()
    }
}

/// How a write uses what it writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Only writes.
    Write,
    /// Reads first.
    ReadWrite,
}
