// SPDX-License-Identifier: GPL-2.0

//! Memory at fixed addresses, some of it at several with different rights.

use std::ptr::NonNull;

use crate::layout::{self, Rights, CODE, CODE_BYTES, HIGH, LOW, MID, PAGE, WINDOW};

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// Mapped bytes that may be read and written and stay for the life of the process.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// New memory at `address`.
    pub(super) fn anonymous(address: u64, len: usize) -> Result<Self, String> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let start = map(address, len, READ_WRITE, flags, -1, 0)?;
        Ok(Self { start, len })
    }

    /// A view of a file anywhere.
    fn of_file(file: i32, len: usize) -> Result<Self, String> {
        let start = map(0, len, READ_WRITE, libc::MAP_SHARED, file, 0)?;
        Ok(Self { start, len })
    }

    pub(super) const fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(super) fn bytes<const LEN: usize>(&mut self) -> &mut [u8; LEN] {
        assert!(LEN <= self.len);
        // SAFETY: the mapping is that long and stays; self is borrowed as long as the
        // bytes, and nothing else writes them but `entry.S` and the instruction under
        // test, which run when there is no borrow.
        unsafe { self.start.cast::<[u8; LEN]>().as_mut() }
    }
}

fn map(
    address: u64,
    len: usize,
    protection: i32,
    flags: i32,
    file: i32,
    offset: u64,
) -> Result<NonNull<u8>, String> {
    let place = match address {
        0 => 0,
        _ => libc::MAP_FIXED_NOREPLACE,
    };
    let wanted = std::ptr::with_exposed_provenance_mut(address as usize);
    let flags = flags | place | libc::MAP_POPULATE;
    // SAFETY: a new mapping that replaces nothing.
    let got = unsafe { libc::mmap(wanted, len, protection, flags, file, offset as i64) };
    let error = || format!("mmap at {address:#x}: {}", std::io::Error::last_os_error());
    if got == libc::MAP_FAILED || (address != 0 && got != wanted) {
        return Err(error());
    }
    NonNull::new(got.cast()).ok_or_else(error)
}

/// A file in memory.
fn file(len: usize) -> Result<i32, String> {
    // SAFETY: the name is a string that ends with 0.
    let file = unsafe { libc::memfd_create(c"native".as_ptr(), libc::MFD_CLOEXEC) };
    // SAFETY: sets the size of a file of our own.
    let sized = file >= 0 && unsafe { libc::ftruncate(file, len as i64) } == 0;
    if !sized {
        let error = std::io::Error::last_os_error();
        return Err(format!("memfd_create: {error}"));
    }
    Ok(file)
}

/// Keeps pages where they are: a page that the kernel moves is gone for a moment, and
/// a fault then says so. Best effort.
fn keep(start: NonNull<u8>, len: usize) {
    // SAFETY: locks pages of our own and writes none.
    let _ = unsafe { libc::mlock(start.as_ptr().cast(), len) };
}

/// The window at its three addresses, with the rights it has there, and for the harness.
pub(super) fn window() -> Result<Mapping, String> {
    let file = file(WINDOW)?;
    let all = Mapping::of_file(file, WINDOW)?;
    keep(all.start, WINDOW);
    for base in [LOW, MID, HIGH] {
        for (number, rights) in layout::RIGHTS.iter().enumerate() {
            let offset = number as u64 * PAGE;
            let protection = match rights {
                Rights::None => continue,
                Rights::Read => libc::PROT_READ,
                Rights::Write => READ_WRITE,
            };
            let len = PAGE as usize;
            let shared = libc::MAP_SHARED;
            let page = map(base + offset, len, protection, shared, file, offset)?;
            touch(page, *rights);
            keep(page, len);
        }
    }
    Ok(all)
}

/// Makes the page table entry, and makes it writable, dirty and accessed.
fn touch(page: NonNull<u8>, rights: Rights) {
    // SAFETY: the page was just mapped, and may be read.
    let byte = unsafe { page.as_ptr().read_volatile() };
    if rights == Rights::Write {
        // SAFETY: the page may be written, and nobody else uses it yet.
        unsafe { page.as_ptr().write_volatile(byte) };
    }
}

/// The code pages, executable at [`CODE`], and for the harness.
pub(super) fn code() -> Result<Mapping, String> {
    let file = file(CODE_BYTES)?;
    let all = Mapping::of_file(file, CODE_BYTES)?;
    let protection = libc::PROT_READ | libc::PROT_EXEC;
    let code = map(CODE, CODE_BYTES, protection, libc::MAP_SHARED, file, 0)?;
    touch(code, Rights::Read);
    keep(code, CODE_BYTES);
    Ok(all)
}
