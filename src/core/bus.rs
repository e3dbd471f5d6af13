// SPDX-License-Identifier: GPL-2.0

//! Guest writes that the kernel takes in the place of user space: ioeventfds and
//! the ring of coalesced writes (KVM api.rst 4.59, 4.116).
//!
//! ```text
//!  write ──► an ioeventfd waits for it? ─ yes ─► signal ──────────────┐
//!               │ no                                                  ├─► go on
//!            a zone holds it, the ring has room? ─ yes ─► record it ──┘
//!               │ no
//!            exit to user space
//! ```

use crate::errno::Errno;
use core::mem::size_of;
use ioctl_api::bus::{
    CoalescedWrite, CoalescedZone, IoEventFd, KVM_IOEVENTFD_FLAG_DATAMATCH,
    KVM_IOEVENTFD_FLAG_DEASSIGN, KVM_IOEVENTFD_FLAG_PIO, RING_ENTRIES, RING_LEN,
};

/// Most zones of a space, as in KVM (`NR_IOBUS_DEVS`).
pub const MAX_ZONES: usize = 1000;

/// What an address is one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Guest-physical memory.
    Memory,
    /// Ports.
    Port,
}

/// Addresses whose writes go into the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zone {
    addr: u64,
    size: u64,
}

impl Zone {
    /// The zone that user space names. Any address and size will do.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `pio` is neither 0 nor 1.
    pub fn parse(request: &CoalescedZone) -> Result<(Space, Self), Errno> {
        let space = match request.pio {
            0 => Space::Memory,
            1 => Space::Port,
            _ => return Err(Errno::Einval),
        };
        let zone = Self {
            addr: request.addr,
            size: u64::from(request.size),
        };
        Ok((space, zone))
    }

    /// Whether all of the `len` bytes at `addr` lie in the zone.
    #[inline]
    pub fn holds(&self, addr: u64, len: u64) -> bool {
        let end = addr
            .checked_sub(self.addr)
            .and_then(|offset| offset.checked_add(len));
        end.is_some_and(|end| end <= self.size)
    }

    /// Whether `other` lies in the zone: user space unregisters by a part.
    pub fn encloses(&self, other: &Self) -> bool {
        self.holds(other.addr, other.size)
    }
}

/// What an ioeventfd waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoEvent {
    addr: u64,
    /// Bytes of the write; 0 for any.
    len: u32,
    /// The value written; `None` for any.
    value: Option<u64>,
}

impl IoEvent {
    /// The event that user space names to take it back. What cannot have been
    /// assigned is simply not found, so nothing is refused.
    pub fn named(request: &IoEventFd) -> (Space, Self) {
        let has = |flag| request.flags & flag != 0;
        let space = match has(KVM_IOEVENTFD_FLAG_PIO) {
            true => Space::Port,
            false => Space::Memory,
        };
        let event = Self {
            addr: request.addr,
            len: request.len,
            value: has(KVM_IOEVENTFD_FLAG_DATAMATCH).then_some(request.datamatch),
        };
        (space, event)
    }

    /// The event that user space wants to have.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a length other than 0, 1, 2, 4 and 8, a range that wraps,
    /// unknown flags, and a value to look for in a write of any length.
    pub fn parse(request: &IoEventFd) -> Result<(Space, Self), Errno> {
        const KNOWN: u32 =
            KVM_IOEVENTFD_FLAG_DATAMATCH | KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DEASSIGN;
        let (space, event) = Self::named(request);
        let wraps = event.addr.checked_add(u64::from(event.len)).is_none();
        let any_length = event.len == 0;
        if !matches!(event.len, 0 | 1 | 2 | 4 | 8)
            || wraps
            || request.flags & !KNOWN != 0
            || (any_length && event.value.is_some())
        {
            return Err(Errno::Einval);
        }
        Ok((space, event))
    }

    /// Where it waits.
    #[inline]
    pub fn addr(&self) -> u64 {
        self.addr
    }

    /// Whether a write of `bytes` to `addr` is what it waits for. A value is
    /// compared with the bytes written, extended by zeros.
    #[inline]
    pub fn hit(&self, addr: u64, bytes: &[u8]) -> bool {
        if addr != self.addr {
            return false;
        }
        if self.len == 0 {
            return true;
        }
        let Some(written) = padded(bytes).map(u64::from_le_bytes) else {
            return false;
        };
        bytes.len() == self.len as usize && self.value.is_none_or(|value| value == written)
    }

    /// Whether one write could be what both wait for.
    pub fn collides(&self, other: &Self) -> bool {
        let any_length = self.len == 0 || other.len == 0;
        let any_value = self.value.is_none() || other.value.is_none();
        self.addr == other.addr
            && (any_length || (self.len == other.len && (any_value || self.value == other.value)))
    }
}

/// Those of `sorted` whose address is `addr`; they are sorted by address.
#[inline]
pub fn at_address<T>(sorted: &[T], address: impl Fn(&T) -> u64, addr: u64) -> &[T] {
    let start = sorted.partition_point(|item| address(item) < addr);
    let rest = sorted.get(start..).unwrap_or(&[]);
    let len = rest.partition_point(|item| address(item) == addr);
    rest.get(..len).unwrap_or(&[])
}

/// Where the next write goes in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingPlace {
    /// Offset of the entry in a vCPU's mapping.
    pub offset: usize,
    /// The index that `last` gets when the entry is filled.
    pub next: u32,
}

/// The place for one more write, by the indices in the ring: `None` when only one
/// entry is free, or `last` is none. User space may have written anything there.
#[inline]
pub fn ring_place(first: u32, last: u32) -> Option<RingPlace> {
    if last >= RING_LEN {
        return None;
    }
    let next = match last.wrapping_add(1) {
        RING_LEN => 0,
        next => next,
    };
    if next == first {
        return None;
    }
    // Below 170 entries of 24 bytes.
    let offset = (last as usize).wrapping_mul(size_of::<CoalescedWrite>());
    Some(RingPlace {
        offset: RING_ENTRIES.wrapping_add(offset),
        next,
    })
}

/// The ring's entry for a write; `None` for none of 1 to 8 bytes.
#[inline]
pub fn ring_entry(space: Space, addr: u64, bytes: &[u8]) -> Option<CoalescedWrite> {
    let data = padded(bytes).filter(|_| !bytes.is_empty())?;
    Some(CoalescedWrite {
        phys_addr: addr,
        len: bytes.len() as u32,
        pio: u32::from(space == Space::Port),
        data,
    })
}

/// Up to 8 bytes, with zeros behind them.
#[inline]
fn padded(bytes: &[u8]) -> Option<[u8; 8]> {
    let mut word = [0; 8];
    if bytes.len() > word.len() {
        return None;
    }
    for (to, from) in word.iter_mut().zip(bytes) {
        *to = *from;
    }
    Some(word)
}

#[cfg(test)]
#[path = "tests/bus.rs"]
mod tests;
