// SPDX-License-Identifier: GPL-2.0

//! ioctls and mappings as the kernel sees them, with any code and any argument.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// An address at which nothing can be mapped.
pub(crate) const NOWHERE: usize = 0x10;

/// The result of a system call, or its error number.
pub(crate) type Sys = Result<i32, i32>;

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// An ioctl whose argument is a number, or an address that is [`NOWHERE`].
pub(crate) fn number(fd: &impl AsRawFd, code: u32, arg: usize) -> Sys {
    // SAFETY: `arg` is no address of this program's memory, and the kernel
    // checks addresses.
    match unsafe { libc::ioctl(fd.as_raw_fd(), code.into(), arg) } {
        -1 => Err(errno()),
        result => Ok(result),
    }
}

/// An ioctl whose argument is the address of `value`, which must be at least as
/// large as the code says. `T` is plain data: the kernel may change any byte.
pub(crate) fn with<T: Copy>(fd: &impl AsRawFd, code: u32, value: &mut T) -> Sys {
    let size = ((code >> 16) & 0x3fff) as usize;
    assert!(
        size_of::<T>() >= size,
        "argument of ioctl {code:#x} is too small"
    );
    let arg: *mut T = value;
    // SAFETY: the kernel reads and writes `size` bytes, or as many more as a
    // count in `value` says, which the caller has made room for.
    match unsafe { libc::ioctl(fd.as_raw_fd(), code.into(), arg) } {
        -1 => Err(errno()),
        result => Ok(result),
    }
}

/// Makes a result that is a descriptor into one that is closed.
pub(crate) fn owned(fd: Sys) -> Result<OwnedFd, i32> {
    // SAFETY: the kernel has just made the descriptor and nobody else has it.
    fd.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A file in memory of `len` zeros.
pub(crate) fn memfd(len: usize) -> OwnedFd {
    // SAFETY: the name is a C string.
    let file = owned(Ok(unsafe { libc::memfd_create(c"guest".as_ptr(), 0) })).expect("memfd");
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::ftruncate(file.as_raw_fd(), len as i64) }, 0);
    file
}

/// Gives back a part of a file's memory, which then reads as zeros.
pub(crate) fn punch_hole(file: &OwnedFd, offset: usize, len: usize) {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: no memory is involved; mappings of the file are volatile.
    let result = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as i64, len as i64) };
    assert_eq!(result, 0);
}

/// An eventfd that does not block.
pub(crate) struct EventFd(OwnedFd);

impl EventFd {
    /// One with the count 0.
    pub(crate) fn new() -> Self {
        // SAFETY: no memory is involved.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        Self(owned(Ok(fd)).expect("eventfd"))
    }

    /// Another descriptor of it.
    pub(crate) fn duplicate(&self) -> Self {
        Self(self.0.try_clone().expect("dup"))
    }

    /// The kernel's number of the eventfd.
    pub(crate) fn number(&self) -> u32 {
        let path = format!("/proc/self/fdinfo/{}", self.0.as_raw_fd());
        let info = std::fs::read_to_string(path).expect("fdinfo");
        let number = |line: &str| line.strip_prefix("eventfd-id:")?.trim().parse().ok();
        info.lines().find_map(number).expect("a number")
    }

    /// How often it was signalled since the last look.
    pub(crate) fn take(&self) -> u64 {
        let mut count = 0_u64;
        // SAFETY: the kernel writes 8 bytes to `count`, or nothing.
        match unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) } {
            8 => count,
            _ => {
                assert_eq!(errno(), libc::EAGAIN);
                0
            }
        }
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Anonymous memory, or a mapping of a file.
pub(crate) struct Mapping {
    start: *mut libc::c_void,
    len: usize,
}

impl Mapping {
    /// `len` bytes of zeros, at an address that is a multiple of `align`.
    pub(crate) fn anonymous(len: usize, align: usize) -> Self {
        let reserved = Self::map(
            len + align,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
        .expect("mmap");
        let at = reserved.address().next_multiple_of(align);
        let skipped = at - reserved.address();
        // SAFETY: the range lies in the mapping made above, which nobody uses.
        let start = unsafe {
            libc::mmap(
                reserved.start.byte_add(skipped),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED);
        // The rest of the reservation stays: addresses are plenty.
        std::mem::forget(reserved);
        Self { start, len }
    }

    /// `mmap` of a file, shared.
    pub(crate) fn file(fd: &impl AsRawFd, len: usize, prot: i32, offset: i64) -> Result<Self, i32> {
        Self::map(len, prot, libc::MAP_SHARED, fd.as_raw_fd(), offset)
    }

    /// `mmap` of a file, private: what is written stays here.
    pub(crate) fn private(fd: &impl AsRawFd, len: usize) -> Result<Self, i32> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        Self::map(len, prot, libc::MAP_PRIVATE, fd.as_raw_fd(), 0)
    }

    fn map(len: usize, prot: i32, flags: i32, fd: i32, offset: i64) -> Result<Self, i32> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, fd, offset) };
        match start {
            libc::MAP_FAILED => Err(errno()),
            start => Ok(Self { start, len }),
        }
    }

    /// Its first address.
    pub(crate) fn address(&self) -> usize {
        self.start.expose_provenance()
    }

    /// How many bytes it has.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Reads a word.
    pub(crate) fn read(&self, offset: usize) -> u64 {
        assert!(offset % 8 == 0 && offset + 8 <= self.len);
        // SAFETY: inside the mapping and aligned; volatile, as a guest shares it.
        unsafe { self.start.byte_add(offset).cast::<u64>().read_volatile() }
    }

    /// Writes a word.
    pub(crate) fn write(&self, offset: usize, value: u64) {
        assert!(offset % 8 == 0 && offset + 8 <= self.len);
        // SAFETY: inside the mapping and aligned; volatile, as a guest shares it.
        unsafe {
            self.start
                .byte_add(offset)
                .cast::<u64>()
                .write_volatile(value)
        }
    }

    /// Reads bytes.
    pub(crate) fn read_bytes(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.len);
        let byte = |n| self.start.wrapping_byte_add(offset + n).cast::<u8>();
        (0..len)
            // SAFETY: inside the mapping; volatile, as the kernel shares it.
            .map(|n| unsafe { byte(n).read_volatile() })
            .collect()
    }

    /// Writes bytes.
    pub(crate) fn write_bytes(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len);
        for (n, byte) in bytes.iter().enumerate() {
            let at = self.start.wrapping_byte_add(offset + n).cast::<u8>();
            // SAFETY: inside the mapping; volatile, as the kernel shares it.
            unsafe { at.write_volatile(*byte) };
        }
    }

    /// `madvise` of a part.
    pub(crate) fn advise(&self, offset: usize, len: usize, advice: i32) -> Sys {
        assert!(offset + len <= self.len);
        // SAFETY: inside the mapping, of which nobody holds references.
        match unsafe { libc::madvise(self.start.byte_add(offset), len, advice) } {
            -1 => Err(errno()),
            result => Ok(result),
        }
    }

    /// `mprotect` of all.
    pub(crate) fn protect(&self, prot: i32) {
        // SAFETY: the whole mapping, of which nobody holds references.
        assert_eq!(unsafe { libc::mprotect(self.start, self.len, prot) }, 0);
    }

    /// A number that depends on every byte.
    pub(crate) fn checksum(&self) -> u64 {
        (0..self.len / 8).fold(0, |sum: u64, n| {
            sum.rotate_left(5).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.read(8 * n)
        })
    }

    /// `munmap` of a part, which must be mapped again before it is used.
    pub(crate) fn unmap(&self, offset: usize, len: usize) {
        assert!(offset + len <= self.len);
        // SAFETY: inside the mapping, of which nobody holds references.
        unsafe { assert_eq!(libc::munmap(self.start.byte_add(offset), len), 0) };
    }

    /// Puts the begin of a file in the place of all that is mapped.
    pub(crate) fn place(&self, file: &impl AsRawFd) {
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        let (prot, fd) = (libc::PROT_READ | libc::PROT_WRITE, file.as_raw_fd());
        // SAFETY: the whole mapping, of which nobody holds references.
        let new = unsafe { libc::mmap(self.start, self.len, prot, flags, fd, 0) };
        assert_eq!(new, self.start);
    }

    /// Unmaps a part and maps new zeros there.
    pub(crate) fn replace(&self, offset: usize, len: usize) {
        assert!(offset + len <= self.len);
        // SAFETY: inside the mapping, of which nobody holds references.
        unsafe {
            let at = self.start.byte_add(offset);
            assert_eq!(libc::munmap(at, len), 0);
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            let new = libc::mmap(at, len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            assert_eq!(new, at);
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nobody refers to the mapping any more.
        unsafe { libc::munmap(self.start, self.len) };
    }
}
