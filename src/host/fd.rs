// SPDX-License-Identifier: GPL-2.0

//! Files of VMs and vCPUs: anonymous inodes whose `private_data` is an [`Arc`].

use super::shim;
use core::marker::PhantomData;
use kernel::{
    bindings,
    ffi::{
        c_int,
        c_long,
        c_uint,
        c_ulong,
        c_void, //
    },
    mm::virt::VmaNew,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    },
    types::ForeignOwnable, //
};

/// An object that user space holds as a file descriptor.
pub(crate) trait FdObject: Sized + Send + Sync + 'static {
    /// Shown in `/proc/PID/fd`.
    const NAME: &'static CStr;

    /// The ioctl of the file; the value is what the system call returns.
    fn ioctl(this: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<isize>;

    /// Maps the object; the default refuses.
    fn mmap(_this: ArcBorrow<'_, Self>, _vma: &VmaNew, _pgoff: usize) -> Result {
        Err(ENODEV)
    }
}

/// Creates the file and installs it as a new descriptor of the calling process.
///
/// After success the descriptor owns `object`, and another thread may already
/// have closed it again.
pub(crate) fn install<T: FdObject>(object: Arc<T>) -> Result<i32> {
    let private = object.into_foreign();
    // SAFETY: The table is static and `release` takes the reference back.
    let fd = unsafe { shim::kvm_spp_anon_fd(T::NAME.as_char_ptr(), Table::<T>::FOPS, private) };
    if fd < 0 {
        // SAFETY: No file was made, so the reference is still ours alone.
        drop(unsafe { Arc::<T>::from_foreign(private) });
        return Err(Error::from_errno(fd));
    }
    Ok(fd)
}

struct Table<T>(PhantomData<T>);

impl<T: FdObject> Table<T> {
    const FOPS: &'static bindings::file_operations = &bindings::file_operations {
        owner: kernel::module::this_module::<crate::LocalModule>().as_ptr(),
        unlocked_ioctl: Some(Self::ioctl),
        compat_ioctl: Some(Self::compat_ioctl),
        mmap: Some(Self::mmap),
        release: Some(Self::release),
        llseek: Some(bindings::noop_llseek),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// Called by the VFS with an open file of this table.
    unsafe extern "C" fn ioctl(file: *mut bindings::file, cmd: c_uint, arg: c_ulong) -> c_long {
        // SAFETY: The VFS passes an open file, which keeps `private_data` as `install` set it.
        let private = unsafe { (*file).private_data };
        // SAFETY: The pointer came from `into_foreign` and lives until `release`.
        let this = unsafe { Arc::<T>::borrow(private) };
        match T::ioctl(this, cmd, arg) {
            Ok(value) => value,
            Err(err) => err.to_errno() as c_long,
        }
    }

    /// The structures of 32-bit user space are not translated: refuse, as KVM
    /// does where it has no compat support.
    ///
    /// # Safety
    ///
    /// None is needed: nothing is used.
    unsafe extern "C" fn compat_ioctl(
        _file: *mut bindings::file,
        _cmd: c_uint,
        _arg: c_ulong,
    ) -> c_long {
        EINVAL.to_errno() as c_long
    }

    /// # Safety
    ///
    /// Called by the VFS with an open file of this table and the area to set up.
    unsafe extern "C" fn mmap(
        file: *mut bindings::file,
        vma: *mut bindings::vm_area_struct,
    ) -> c_int {
        // SAFETY: As in `ioctl`.
        let private = unsafe { (*file).private_data };
        // SAFETY: As in `ioctl`.
        let this = unsafe { Arc::<T>::borrow(private) };
        // SAFETY: The VFS passes the area that is being set up, locked for writing.
        let pgoff = unsafe { (*vma).vm_pgoff };
        // SAFETY: As above: the area is undergoing its initial set-up.
        let area = unsafe { VmaNew::from_raw(vma) };
        match T::mmap(this, area, pgoff) {
            Ok(()) => 0,
            Err(err) => err.to_errno(),
        }
    }

    /// # Safety
    ///
    /// Called by the VFS once, as the last use of a file of this table.
    unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: This is the last use of the file.
        let private: *mut c_void = unsafe { (*file).private_data };
        // SAFETY: `install` put the reference there and only `release` takes it.
        drop(unsafe { Arc::<T>::from_foreign(private) });
        0
    }
}
