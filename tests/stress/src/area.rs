// SPDX-License-Identifier: GPL-2.0

//! Host memory that backs a memslot and is pulled away beneath it.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Bytes of a large page.
pub(crate) const LARGE: usize = 2 << 20;

/// Anonymous memory; the mapping inside may change at any time.
pub(crate) struct Area {
    at: NonNull<u8>,
    bytes: usize,
}

// SAFETY: The memory is accessed by atomics and system calls only.
unsafe impl Send for Area {}
// SAFETY: As above.
unsafe impl Sync for Area {}

const MAYMOVE: i32 = libc::MREMAP_MAYMOVE;
const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

impl Area {
    /// Memory that begins at a multiple of a large page.
    pub(crate) fn new(bytes: usize) -> Self {
        Self::with(bytes, libc::MAP_PRIVATE)
    }

    /// The same, shared with children.
    pub(crate) fn shared(bytes: usize) -> Self {
        Self::with(bytes, libc::MAP_SHARED)
    }

    fn with(bytes: usize, kind: i32) -> Self {
        // Reserve too much, keep the aligned part.
        let room = bytes + LARGE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: A new mapping at an address of the kernel's choice.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), room, libc::PROT_NONE, flags, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        let at = at.cast::<u8>();
        let skip = at.align_offset(LARGE);
        // SAFETY: `skip` is below the `LARGE` bytes reserved in excess.
        let start = unsafe { at.add(skip) };
        // SAFETY: The part before `start` is ours and not used.
        unsafe { libc::munmap(at.cast(), skip) };
        // SAFETY: So is the part after the area.
        unsafe { libc::munmap(start.add(bytes).cast(), LARGE - skip) };
        let area = Self {
            at: NonNull::new(start).unwrap(),
            bytes,
        };
        area.map(kind);
        area
    }

    fn map(&self, kind: i32) {
        let flags = kind | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let start = self.at.as_ptr().cast();
        // SAFETY: The range is the area's own, and only atomics refer to it.
        let at = unsafe { libc::mmap(start, self.bytes, READ_WRITE, flags, -1, 0) };
        assert_eq!(at, start, "mmap: {}", io::Error::last_os_error());
    }

    /// New pages in place of those that are there, or of a hole.
    pub(crate) fn replace(&self) {
        self.map(libc::MAP_PRIVATE);
    }

    /// The same with new shared pages.
    pub(crate) fn replace_shared(&self) {
        self.map(libc::MAP_SHARED);
    }

    /// Another mapping of the same shared pages.
    pub(crate) fn alias(&self) -> Self {
        // SAFETY: An old size of 0 makes a second mapping of shared memory, at
        // an address of the kernel's choice (man 2 mremap, BUGS).
        let at = unsafe { libc::mremap(self.at.as_ptr().cast(), 0, self.bytes, MAYMOVE) };
        assert_ne!(at, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        Self {
            at: NonNull::new(at.cast()).unwrap(),
            bytes: self.bytes,
        }
    }

    /// Leaves a hole.
    pub(crate) fn unmap(&self) {
        // SAFETY: The range is the area's own.
        let result = unsafe { libc::munmap(self.at.as_ptr().cast(), self.bytes) };
        assert_eq!(result, 0);
    }

    /// Allows or forbids writing.
    pub(crate) fn protect(&self, writable: bool) {
        let protection = if writable {
            READ_WRITE
        } else {
            libc::PROT_READ
        };
        // SAFETY: The range is the area's own.
        let result = unsafe { libc::mprotect(self.at.as_ptr().cast(), self.bytes, protection) };
        assert_eq!(result, 0);
    }

    /// `madvise` on a part of the area.
    pub(crate) fn advise(&self, offset: usize, bytes: usize, advice: i32) -> io::Result<()> {
        assert!(offset + bytes <= self.bytes);
        // SAFETY: The range is inside the area.
        match unsafe { libc::madvise(self.at.as_ptr().add(offset).cast(), bytes, advice) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The word at `offset`.
    pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset + 8 <= self.bytes && offset % 8 == 0);
        // SAFETY: The word lies in the area and is aligned; the guest and other
        // processes access it at the same time, as an atomic may be.
        unsafe { AtomicU64::from_ptr(self.at.as_ptr().add(offset).cast()) }
    }

    pub(crate) fn load(&self, offset: usize) -> u64 {
        self.word(offset).load(SeqCst)
    }

    pub(crate) fn store(&self, offset: usize, value: u64) {
        self.word(offset).store(value, SeqCst);
    }

    /// The host-virtual address.
    pub(crate) fn address(&self) -> u64 {
        self.at.as_ptr().expose_provenance() as u64
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        self.unmap();
    }
}
