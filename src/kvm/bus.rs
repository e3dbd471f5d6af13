// SPDX-License-Identifier: GPL-2.0

//! Guest writes that do not exit to user space: ioeventfds and the ring of
//! coalesced writes (KVM api.rst 4.59, 4.116). `vmcore::bus` decides.
//!
//! # Locking
//!
//! ```text
//!   ioctl of the VM                       write of a vCPU
//!   registry (mutex) ------------+        readers (SRCU) ---------------+
//!   |  build the new table       |        |  table (spinlock): one more |
//!   |  table (spinlock): swap    |        |    reference                |
//!   |  readers: wait for those   |        |  look up; signal, or        |
//!   |    who may have the old    |        |  ring (spinlock): fill one  |
//!   |  drop the old              |        |    entry, then `last`       |
//!   +----------------------------+        +-----------------------------+
//! ```
//!
//! `registry` is taken with no other lock held. The spinlocks are innermost, and
//! nothing is allocated, freed or looked up under them. When a call that takes
//! an ioeventfd or a zone back returns, no vCPU uses it any more: a VMM may empty
//! the eventfd and go on by itself without losing a write.
//!
//! The ring is user space's as much as ours: both of its indices are read once,
//! and `vmcore::bus` takes them for what they are worth.

use super::{
    area::Area,
    vm::errno, //
};
use crate::host::eventfd::EventFd;
use ioctl_api::bus::{
    CoalescedZone,
    IoEventFd,
    KVM_IOEVENTFD_FLAG_DEASSIGN,
    RING_FIRST,
    RING_LAST, //
};
use kernel::{
    new_mutex,
    new_spinlock,
    new_srcu,
    page::Page,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Release, //
        },
        barrier,
        Arc,
        Mutex,
        SpinLock,
        Srcu, //
    }, //
};
use vmcore::bus::{
    self,
    IoEvent,
    Space,
    Zone, //
};
use zerocopy::IntoBytes;

/// An event and the eventfd that it signals.
#[derive(Clone)]
struct Assigned {
    event: IoEvent,
    eventfd: Arc<EventFd>,
}

/// What is registered in a space at one time.
struct Table {
    /// In the order of registration.
    zones: KVVec<Zone>,
    /// Sorted by address.
    events: KVVec<Assigned>,
}

impl Table {
    const EMPTY: Self = Self {
        zones: KVVec::new(),
        events: KVVec::new(),
    };

    /// A copy with room for one more of each.
    fn copy(&self) -> Result<Self> {
        let mut zones = KVVec::with_capacity(self.zones.len() + 1, GFP_KERNEL_ACCOUNT)?;
        zones.extend_from_slice(&self.zones, GFP_KERNEL_ACCOUNT)?;
        let mut events = KVVec::with_capacity(self.events.len() + 1, GFP_KERNEL_ACCOUNT)?;
        events.extend_from_slice(&self.events, GFP_KERNEL_ACCOUNT)?;
        Ok(Self { zones, events })
    }

    fn is_empty(&self) -> bool {
        self.zones.is_empty() && self.events.is_empty()
    }

    /// The events that wait at an address.
    fn events_at(&self, addr: u64) -> &[Assigned] {
        bus::at_address(&self.events, |assigned| assigned.event.addr(), addr)
    }
}

/// The table of a space, for those who look something up in it.
#[pin_data]
struct Published {
    #[pin]
    table: SpinLock<Arc<Table>>,
    /// The table is not empty; most are, and cost nothing then.
    used: Atomic<bool>,
}

impl Published {
    fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            table <- new_spinlock!(Arc::new(Table::EMPTY, GFP_KERNEL_ACCOUNT)?, "kvm_spp::bus"),
            used: Atomic::new(false),
        })
    }

    fn get(&self) -> Arc<Table> {
        self.table.lock().clone()
    }

    /// Publishes `table` and returns the one that it replaces, which readers may
    /// still have.
    fn replace(&self, table: Table) -> Result<Arc<Table>> {
        let used = !table.is_empty();
        let table = Arc::new(table, GFP_KERNEL_ACCOUNT)?;
        let old = core::mem::replace(&mut *self.table.lock(), table);
        self.used.store(used, Release);
        Ok(old)
    }
}

/// What takes a VM's writes before user space does.
#[pin_data]
pub(crate) struct Bus {
    /// The page of the ring, which all vCPUs show to user space.
    ring: Arc<Page>,
    #[pin]
    memory: Published,
    #[pin]
    ports: Published,
    #[pin]
    registry: Mutex<()>,
    #[pin]
    readers: Srcu,
    #[pin]
    ring_lock: SpinLock<()>,
}

impl Bus {
    /// Nothing registered, and an empty ring.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            ring: Arc::new(
                Page::alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO)?,
                GFP_KERNEL_ACCOUNT
            )?,
            memory <- Published::new(),
            ports <- Published::new(),
            registry <- new_mutex!((), "kvm_spp::bus_registry"),
            readers <- new_srcu!("kvm_spp::bus_readers"),
            ring_lock <- new_spinlock!((), "kvm_spp::ring"),
        })
    }

    /// The page of the ring, for a vCPU's mapping.
    pub(crate) fn ring(&self) -> Arc<Page> {
        self.ring.clone()
    }

    fn published(&self, space: Space) -> &Published {
        match space {
            Space::Memory => &self.memory,
            Space::Port => &self.ports,
        }
    }

    /// Publishes a table that lacks something, and waits until nobody uses that.
    fn shrink(&self, space: Space, table: Table) -> Result {
        let old = self.published(space).replace(table)?;
        self.readers.synchronize_expedited();
        drop(old);
        Ok(())
    }

    /// KVM_REGISTER_COALESCED_MMIO. `EINVAL`: neither memory nor ports; `ENOSPC`:
    /// too many zones.
    pub(crate) fn register_zone(&self, request: &CoalescedZone) -> Result {
        let (space, zone) = Zone::parse(request).map_err(errno)?;
        let _registry = self.registry.lock();
        let mut table = self.published(space).get().copy()?;
        if table.zones.len() >= bus::MAX_ZONES {
            return Err(ENOSPC);
        }
        table.zones.push(zone, GFP_KERNEL_ACCOUNT)?;
        self.published(space).replace(table).map(drop)
    }

    /// KVM_UNREGISTER_COALESCED_MMIO: every zone that has the named one in it goes,
    /// and it is no error if there is none. `EINVAL`: neither memory nor ports.
    pub(crate) fn unregister_zone(&self, request: &CoalescedZone) -> Result {
        let (space, part) = Zone::parse(request).map_err(errno)?;
        let _registry = self.registry.lock();
        let old = self.published(space).get();
        if !old.zones.iter().any(|zone| zone.encloses(&part)) {
            return Ok(());
        }
        let mut table = old.copy()?;
        table.zones.retain(|zone| !zone.encloses(&part));
        self.shrink(space, table)
    }

    /// KVM_IOEVENTFD. `EBADF`, `EINVAL`: no eventfd; `EINVAL`: see
    /// [`IoEvent::parse`]; `EEXIST`: some write would be for an event that is there
    /// already; `ENOENT`: nothing to take back.
    pub(crate) fn ioeventfd(&self, request: &IoEventFd) -> Result {
        match request.flags & KVM_IOEVENTFD_FLAG_DEASSIGN {
            0 => self.assign(request),
            _ => self.deassign(request),
        }
    }

    fn assign(&self, request: &IoEventFd) -> Result {
        let (space, event) = IoEvent::parse(request).map_err(errno)?;
        let eventfd = Arc::new(EventFd::from_fd(request.fd)?, GFP_KERNEL_ACCOUNT)?;
        let _registry = self.registry.lock();
        let mut table = self.published(space).get().copy()?;
        let mut here = table.events_at(event.addr()).iter();
        if here.any(|assigned| assigned.event.collides(&event)) {
            return Err(EEXIST);
        }
        let events = &mut table.events;
        let place = events.partition_point(|assigned| assigned.event.addr() < event.addr());
        events
            .insert_within_capacity(place, Assigned { event, eventfd })
            .map_err(|_| ENOMEM)?;
        self.published(space).replace(table).map(drop)
    }

    fn deassign(&self, request: &IoEventFd) -> Result {
        let (space, event) = IoEvent::named(request);
        let eventfd = EventFd::from_fd(request.fd)?;
        let _registry = self.registry.lock();
        let mut table = self.published(space).get().copy()?;
        let named = |a: &Assigned| a.event == event && *a.eventfd == eventfd;
        let place = table.events.iter().position(named).ok_or(ENOENT)?;
        table.events.remove(place).map_err(|_| ENOENT)?;
        self.shrink(space, table)
    }

    /// Takes a write of the guest to memory that no slot has: at most 8 bytes, as
    /// KVM_EXIT_MMIO would tell of them. True if it is done; else user space must
    /// do it. May sleep.
    #[inline]
    pub(crate) fn mmio_write(&self, gpa: u64, bytes: &[u8], area: &Area) -> bool {
        self.memory.used.load(Acquire) && self.write(Space::Memory, gpa, bytes, area)
    }

    /// The same for one element written to a port.
    #[inline]
    pub(crate) fn port_write(&self, port: u16, bytes: &[u8], area: &Area) -> bool {
        self.ports.used.load(Acquire) && self.write(Space::Port, port.into(), bytes, area)
    }

    #[inline(never)]
    fn write(&self, space: Space, addr: u64, bytes: &[u8], area: &Area) -> bool {
        let _reader = self.readers.read_lock();
        let table = self.published(space).get();
        let mut here = table.events_at(addr).iter();
        if let Some(assigned) = here.find(|assigned| assigned.event.hit(addr, bytes)) {
            assigned.eventfd.signal();
            return true;
        }
        let held = |zone: &Zone| zone.holds(addr, bytes.len() as u64);
        table.zones.iter().any(held) && self.record(space, addr, bytes, area)
    }

    /// Puts a write into the ring; false if there is no room.
    fn record(&self, space: Space, addr: u64, bytes: &[u8], area: &Area) -> bool {
        let Some(entry) = bus::ring_entry(space, addr, bytes) else {
            return false;
        };
        let _ring = self.ring_lock.lock();
        let (first, last) = (area.load(RING_FIRST), area.load(RING_LAST));
        let Some(place) = bus::ring_place(first, last) else {
            return false;
        };
        area.write(place.offset, entry.as_bytes());
        // Who sees the new index sees the entry.
        barrier::smp_mb(barrier::Write);
        area.store(RING_LAST, place.next);
        true
    }
}
