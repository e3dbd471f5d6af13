// SPDX-License-Identifier: GPL-2.0

//! Structures in user memory, typed by `zerocopy` so that no padding leaks and
//! no invalid value enters.

use super::shim;
use kernel::{
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};
use zerocopy::{
    FromBytes,
    FromZeros,
    Immutable,
    IntoBytes, //
};

/// Copies a `T` from user address `addr`; `EFAULT` where it cannot be read.
pub(crate) fn read<T: FromBytes + IntoBytes>(addr: usize) -> Result<T> {
    let mut value = T::new_zeroed();
    slice(addr, value.as_mut_bytes().len())
        .reader()
        .read_slice(value.as_mut_bytes())?;
    Ok(value)
}

/// Reads the word at user address `addr`, at once; `EFAULT` where it cannot be read.
pub(crate) fn read_u32(addr: usize) -> Result<u32> {
    let mut value = 0;
    // SAFETY: `value` is a valid place for the result; any address may be tried.
    match unsafe { shim::kvm_spp_get_user_u32(addr, &mut value) } {
        0 => Ok(value),
        _ => Err(EFAULT),
    }
}

/// Reads the word at user address `addr`, at once; `EFAULT` where it cannot be read.
pub(crate) fn read_u64(addr: usize) -> Result<u64> {
    let mut value = 0;
    // SAFETY: As for `read_u32`.
    match unsafe { shim::kvm_spp_get_user_u64(addr, &mut value) } {
        0 => Ok(value),
        _ => Err(EFAULT),
    }
}

/// Reads 8 to 16 bytes at user address `addr`, as the words at their two ends; `EFAULT`
/// where they cannot be read.
pub(crate) fn read_ends(addr: usize, out: &mut [u8]) -> Result {
    let last = addr.wrapping_add(out.len()).wrapping_sub(size_of::<u64>());
    if let Some(word) = out.first_chunk_mut() {
        *word = read_u64(addr)?.to_le_bytes();
    }
    if let Some(word) = out.last_chunk_mut() {
        *word = read_u64(last)?.to_le_bytes();
    }
    Ok(())
}

/// Copies `value` to user address `addr`; `EFAULT` where it cannot be written.
pub(crate) fn write<T: IntoBytes + Immutable>(addr: usize, value: &T) -> Result {
    slice(addr, value.as_bytes().len())
        .writer()
        .write_slice(value.as_bytes())
}

/// Copies `count` elements from user address `addr`.
pub(crate) fn read_array<T: FromBytes + IntoBytes + FromZeros>(
    addr: usize,
    count: usize,
) -> Result<KVVec<T>> {
    let mut values = KVVec::with_capacity(count, GFP_KERNEL_ACCOUNT)?;
    let size = core::mem::size_of::<T>();
    let total = size.checked_mul(count).ok_or(EINVAL)?;
    let mut reader = slice(addr, total).reader();
    for _ in 0..count {
        let mut value = T::new_zeroed();
        reader.read_slice(value.as_mut_bytes())?;
        values.push(value, GFP_KERNEL_ACCOUNT)?;
    }
    Ok(values)
}

/// Copies `values` to user address `addr`.
pub(crate) fn write_array<T: IntoBytes + Immutable>(addr: usize, values: &[T]) -> Result {
    slice(addr, values.as_bytes().len())
        .writer()
        .write_slice(values.as_bytes())
}

/// `len` bytes at user address `addr`.
pub(crate) fn slice(addr: usize, len: usize) -> UserSlice {
    UserSlice::new(UserPtr::from_addr(addr), len)
}
