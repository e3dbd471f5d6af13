// SPDX-License-Identifier: GPL-2.0

//! Coalesced writes: put into a ring that user space maps, without an exit (KVM
//! api.rst 4.116).

use super::ioeventfd;
use crate::harness::{tests, Lab};
use crate::machine::{self, Machine, Stop, HOLE};
use crate::raw::{self, EventFd, Mapping, Sys, NOWHERE};
use guest::asm::*;
use guest::Mode;
use ioctl_api::bus::{CoalescedWrite, CoalescedZone, KVM_IOEVENTFD_FLAG_PIO, RING, RING_LEN};
use ioctl_api::cap;
use ioctl_api::number::{KVM_REGISTER_COALESCED_MMIO, KVM_UNREGISTER_COALESCED_MMIO};
use kvm_ioctls::IoEventAddress;
use libc::{EFAULT, EINVAL, ENOSPC};
use std::os::fd::AsRawFd;
use vmm::Vm;
use zerocopy::FromBytes;

tests![
    capabilities,
    malformed_requests,
    how_many_zones,
    output_goes_into_the_ring,
    only_whole_writes_in_the_zone,
    input_still_exits,
    a_zone_goes_by_a_part_of_it,
    the_ring_fills_from_anywhere,
    indices_that_are_wrong,
    vcpus_share_the_ring,
    the_ring_outlives_the_descriptors,
    an_ioeventfd_comes_before_a_zone,
    kvm_ioctls_reads_the_ring,
    stores_go_into_the_ring,
    stores_that_cross_the_end_of_a_zone,
    reading_memory_still_exits,
];

const PORTS: u32 = 1;
const MEMORY: u32 = 0;

fn register(vm: &Vm, addr: u64, size: u32, pio: u32) -> Sys {
    let mut zone = CoalescedZone { addr, size, pio };
    raw::with(vm.fd(), KVM_REGISTER_COALESCED_MMIO, &mut zone)
}

fn unregister(vm: &Vm, addr: u64, size: u32, pio: u32) -> Sys {
    let mut zone = CoalescedZone { addr, size, pio };
    raw::with(vm.fd(), KVM_UNREGISTER_COALESCED_MMIO, &mut zone)
}

/// The ring, as a vCPU's file shows it.
struct Ring(Mapping);

impl Ring {
    fn map(vcpu: &impl AsRawFd) -> Self {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        Self(Mapping::file(vcpu, 0x1000, prot, RING as i64).expect("mmap"))
    }

    fn set(&self, first: u32, last: u32) {
        self.0.write(0, u64::from(first) | u64::from(last) << 32);
    }

    fn first(&self) -> u32 {
        self.0.read(0) as u32
    }

    fn last(&self) -> u32 {
        (self.0.read(0) >> 32) as u32
    }

    fn entry(&self, index: u32) -> CoalescedWrite {
        let offset = 8 + 24 * index as usize;
        let words = [0, 8, 16].map(|word| self.0.read(offset + word).to_ne_bytes());
        CoalescedWrite::read_from_bytes(words.as_flattened()).expect("24 bytes")
    }

    /// Takes the oldest entry, as a VMM does.
    fn take(&self) -> Option<CoalescedWrite> {
        let first = self.first();
        (first != self.last()).then(|| {
            let entry = self.entry(first);
            self.set((first + 1) % RING_LEN, self.last());
            entry
        })
    }
}

fn written(pio: u32, phys_addr: u64, bytes: &[u8]) -> Option<CoalescedWrite> {
    let mut data = [0; 8];
    data[..bytes.len()].copy_from_slice(bytes);
    let len = bytes.len() as u32;
    Some(CoalescedWrite {
        phys_addr,
        len,
        pio,
        data,
    })
}

/// What [`written`] looks like in the ring: KVM leaves what was behind the bytes.
fn trimmed(entry: Option<CoalescedWrite>) -> Option<CoalescedWrite> {
    entry.and_then(|e| written(e.pio, e.phys_addr, &e.data[..e.len as usize]))
}

fn capabilities(lab: &Lab) {
    let vm = machine::vm(lab);
    let value = |number: u32| vm.fd().check_extension_raw(number.into());
    assert_eq!(value(cap::KVM_CAP_COALESCED_MMIO), 2);
    assert_eq!(value(cap::KVM_CAP_COALESCED_PIO), 1);
}

fn malformed_requests(lab: &Lab) {
    let vm = machine::vm(lab);
    for code in [KVM_REGISTER_COALESCED_MMIO, KVM_UNREGISTER_COALESCED_MMIO] {
        assert_eq!(raw::number(vm.fd(), code, NOWHERE), Err(EFAULT));
        for pio in [2, 3, u32::MAX] {
            let mut zone = CoalescedZone {
                addr: 0x1000,
                size: 8,
                pio,
            };
            assert_eq!(raw::with(vm.fd(), code, &mut zone), Err(EINVAL), "{pio}");
        }
    }
    // Nothing to unregister is no error, and a zone may be there twice.
    assert_eq!(unregister(&vm, 0x1000, 8, MEMORY), Ok(0));
    for _ in 0..2 {
        assert_eq!(register(&vm, 0x1000, 8, MEMORY), Ok(0));
    }
    assert_eq!(register(&vm, 0x1000, 0, MEMORY), Ok(0), "an empty one");
}

fn how_many_zones(lab: &Lab) {
    let vm = machine::vm(lab);
    for space in [MEMORY, PORTS] {
        for n in 0..1000 {
            assert_eq!(register(&vm, 16 * n, 8, space), Ok(0), "zone {n}");
        }
        assert_eq!(register(&vm, 0, 8, space), Err(ENOSPC));
        assert_eq!(unregister(&vm, 160, 8, space), Ok(0));
        assert_eq!(register(&vm, 0, 8, space), Ok(0));
        assert_eq!(register(&vm, 0, 8, space), Err(ENOSPC));
    }
}

/// OUT of each size to port 0x40, then an OUT to port 0x80.
fn outputs(lab: &Lab) -> Machine {
    Machine::long(lab, |a| {
        a.mov(eax, 0x4433_2211)?;
        a.out(0x40, al)?;
        a.out(0x40, ax)?;
        a.out(0x40, eax)?;
        a.out(0x80, al)?;
        a.hlt()
    })
}

fn output_goes_into_the_ring(lab: &Lab) {
    let mut machine = outputs(lab);
    let ring = Ring::map(machine.cpu.fd());
    assert_eq!((ring.first(), ring.last()), (0, 0), "empty at first");
    assert_eq!(register(&machine.vm, 0x40, 4, PORTS), Ok(0));
    // User space sees the ring before it does the write that made it look.
    assert_eq!(machine.run(), Stop::Out(0x80, vec![0x11]));
    for len in [1, 2, 4] {
        let data = &[0x11, 0x22, 0x33, 0x44][..len];
        assert_eq!(trimmed(ring.take()), written(PORTS, 0x40, data));
    }
    assert_eq!(ring.take(), None);
    machine.expect_hlt();
    assert_eq!(machine.regs().rax, 0x4433_2211);
}

fn only_whole_writes_in_the_zone(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(eax, 0x4433_2211)?;
        for port in 0x3d..0x46 {
            a.out(port, al)?;
            a.out(port, ax)?;
            a.out(port, eax)?;
        }
        a.hlt()
    });
    let ring = Ring::map(machine.cpu.fd());
    assert_eq!(register(&machine.vm, 0x40, 4, PORTS), Ok(0));
    for port in 0x3d..0x46_u16 {
        for len in [1_u16, 2, 4] {
            let data = &[0x11, 0x22, 0x33, 0x44][..len.into()];
            if port < 0x40 || port + len > 0x44 {
                assert_eq!(machine.run(), Stop::Out(port, data.to_vec()));
            }
        }
    }
    machine.expect_hlt();
    for (port, len) in [
        (0x40, 1),
        (0x40, 2),
        (0x40, 4),
        (0x41, 1),
        (0x41, 2),
        (0x42, 1),
        (0x42, 2),
        (0x43, 1),
    ] {
        let data = &[0x11, 0x22, 0x33, 0x44][..len];
        assert_eq!(trimmed(ring.take()), written(PORTS, port, data));
    }
    assert_eq!(ring.take(), None);
}

fn input_still_exits(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.in_(al, 0x40)?;
        a.hlt()
    });
    let ring = Ring::map(machine.cpu.fd());
    assert_eq!(register(&machine.vm, 0x40, 4, PORTS), Ok(0));
    assert_eq!(machine.run(), Stop::In(0x40, 1));
    machine.answer(9);
    machine.expect_hlt();
    assert_eq!(ring.take(), None);
}

fn a_zone_goes_by_a_part_of_it(lab: &Lab) {
    for (addr, size, goes) in [
        (0x40, 4, true),
        (0x41, 2, true),
        (0x40, 0, true),
        (0x44, 0, true),
        (0x40, 5, false),
        (0x3f, 2, false),
        (0x45, 0, false),
        (0x80, 4, false),
    ] {
        let mut machine = outputs(lab);
        let ring = Ring::map(machine.cpu.fd());
        assert_eq!(register(&machine.vm, 0x40, 4, PORTS), Ok(0));
        assert_eq!(register(&machine.vm, 0x40, 4, PORTS), Ok(0), "twice");
        assert_eq!(unregister(&machine.vm, addr, size, MEMORY), Ok(0));
        assert_eq!(unregister(&machine.vm, addr, size, PORTS), Ok(0));
        let expected = match goes {
            true => Stop::Out(0x40, vec![0x11]),
            false => Stop::Out(0x80, vec![0x11]),
        };
        assert_eq!(machine.run(), expected, "{addr:#x} + {size}");
        assert_eq!(ring.take().is_some(), !goes);
    }
}

/// Writes its count to port 0x40 for ever, and that to RAX, too.
fn counter(lab: &Lab) -> Machine {
    Machine::long(lab, |a| {
        let mut again = a.create_label();
        a.xor(eax, eax)?;
        a.set_label(&mut again)?;
        a.out(0x40, eax)?;
        a.inc(eax)?;
        a.jmp(again)
    })
}

fn the_ring_fills_from_anywhere(lab: &Lab) {
    let mut machine = counter(lab);
    let ring = Ring::map(machine.cpu.fd());
    assert_eq!(register(&machine.vm, 0x40, 4, PORTS), Ok(0));
    for start in [0, 1, 80, RING_LEN - 2, RING_LEN - 1] {
        machine.restart();
        ring.set(start, start);
        // One entry stays free.
        let exit = RING_LEN - 1;
        let full = Stop::Out(0x40, exit.to_le_bytes().to_vec());
        assert_eq!(machine.run(), full, "from {start}");
        assert_eq!((ring.last() + 1) % RING_LEN, ring.first());
        for n in 0..10_u32 {
            let data = n.to_le_bytes();
            assert_eq!(trimmed(ring.take()), written(PORTS, 0x40, &data));
        }
        // Room for ten more.
        let next = exit + 11;
        assert_eq!(machine.run(), Stop::Out(0x40, next.to_le_bytes().to_vec()));
    }
}

/// User space may write anything over the indices: the guest goes on, and no more
/// than the ring is written.
fn indices_that_are_wrong(lab: &Lab) {
    let mut machine = counter(lab);
    let ring = Ring::map(machine.cpu.fd());
    assert_eq!(register(&machine.vm, 0x40, 4, PORTS), Ok(0));
    for last in [RING_LEN, RING_LEN + 1, 1 << 31, u32::MAX - 1, u32::MAX] {
        machine.restart();
        ring.set(0, last);
        for n in 0..3_u32 {
            assert_eq!(machine.run(), Stop::Out(0x40, n.to_le_bytes().to_vec()));
        }
        assert_eq!((ring.first(), ring.last()), (0, last), "nothing written");
    }
    // A reader that is nowhere is never reached: the guest would go on for ever,
    // so it gets a page that it cannot fill before it halts.
    let mut machine = outputs(lab);
    let ring = Ring::map(machine.cpu.fd());
    assert_eq!(register(&machine.vm, 0x40, 4, PORTS), Ok(0));
    for first in [RING_LEN, u32::MAX] {
        machine.restart();
        ring.set(first, RING_LEN - 1);
        assert_eq!(machine.run(), Stop::Out(0x80, vec![0x11]));
        assert_eq!((ring.first(), ring.last()), (first, 2));
        let data = [0x11, 0x22, 0x33, 0x44];
        assert_eq!(
            trimmed(Some(ring.entry(RING_LEN - 1))),
            written(PORTS, 0x40, &data[..1])
        );
        assert_eq!(trimmed(Some(ring.entry(1))), written(PORTS, 0x40, &data));
    }
}

fn vcpus_share_the_ring(lab: &Lab) {
    let mut machine = outputs(lab);
    let second = machine.vm.vcpu(1).expect("a vCPU");
    second
        .enter(Mode::Long, machine.program.address)
        .expect("registers");
    let rings = [Ring::map(machine.cpu.fd()), Ring::map(second.fd())];
    assert_eq!(register(&machine.vm, 0x40, 4, PORTS), Ok(0));
    assert_eq!(machine.run(), Stop::Out(0x80, vec![0x11]));
    assert_eq!((rings[1].first(), rings[1].last()), (0, 3));
    machine.cpu = second;
    assert_eq!(machine.run(), Stop::Out(0x80, vec![0x11]));
    assert_eq!((rings[0].first(), rings[0].last()), (0, 6));
    for n in 0..6 {
        assert_eq!(rings[0].entry(n), rings[1].entry(n));
    }
    rings[0].set(4, 6);
    assert_eq!((rings[1].first(), rings[1].last()), (4, 6));
    // A new vCPU finds what is in it.
    let third = machine.vm.vcpu(2).expect("a vCPU");
    assert_eq!(Ring::map(third.fd()).last(), 6);
    // Another VM has its own.
    let other = Machine::long(lab, |a| a.hlt());
    assert_eq!(Ring::map(other.cpu.fd()).last(), 0);
}

fn the_ring_outlives_the_descriptors(lab: &Lab) {
    let mut machine = outputs(lab);
    let ring = Ring::map(machine.cpu.fd());
    assert_eq!(register(&machine.vm, 0x40, 4, PORTS), Ok(0));
    assert_eq!(machine.run(), Stop::Out(0x80, vec![0x11]));
    drop(machine);
    assert_eq!(ring.last(), 3);
    assert_eq!(trimmed(ring.take()), written(PORTS, 0x40, &[0x11]));
}

fn an_ioeventfd_comes_before_a_zone(lab: &Lab) {
    let mut machine = outputs(lab);
    let ring = Ring::map(machine.cpu.fd());
    let fd = EventFd::new();
    let request = ioeventfd::request(&fd, 0x40, 2, KVM_IOEVENTFD_FLAG_PIO);
    assert_eq!(ioeventfd::assign(&machine.vm, request), Ok(0));
    assert_eq!(register(&machine.vm, 0x40, 8, PORTS), Ok(0));
    assert_eq!(machine.run(), Stop::Out(0x80, vec![0x11]));
    assert_eq!((fd.take(), ring.last()), (1, 2));
}

fn kvm_ioctls_reads_the_ring(lab: &Lab) {
    let mut machine = outputs(lab);
    machine
        .vm
        .fd()
        .register_coalesced_mmio(IoEventAddress::Pio(0x40), 4)
        .expect("a zone");
    let vcpu = machine.cpu.fd_mut();
    vcpu.map_coalesced_mmio_ring().expect("mmap");
    assert!(vcpu.coalesced_mmio_read().expect("a ring").is_none());
    assert_eq!(machine.run(), Stop::Out(0x80, vec![0x11]));
    let vcpu = machine.cpu.fd_mut();
    for len in [1, 2, 4] {
        let entry = vcpu
            .coalesced_mmio_read()
            .expect("a ring")
            .expect("an entry");
        assert_eq!((entry.phys_addr, entry.len), (0x40, len));
        assert_eq!(
            entry.data[..len as usize],
            [0x11, 0x22, 0x33, 0x44][..len as usize]
        );
    }
    assert!(vcpu.coalesced_mmio_read().expect("a ring").is_none());
}

/// Stores of each size to the last 16 bytes before the end of a zone, one byte
/// further each, and a store elsewhere at the end.
fn stores_that_cross_the_end_of_a_zone(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(rax, 0x8877_6655_4433_2211_u64)?;
        a.mov(rbx, HOLE)?;
        for offset in 0..16 {
            a.mov(byte_ptr(rbx + offset), al)?;
            a.mov(word_ptr(rbx + offset), ax)?;
            a.mov(dword_ptr(rbx + offset), eax)?;
            a.mov(qword_ptr(rbx + offset), rax)?;
        }
        a.hlt()
    });
    let ring = Ring::map(machine.cpu.fd());
    assert_eq!(register(&machine.vm, HOLE, 16, MEMORY), Ok(0));
    let all = 0x8877_6655_4433_2211_u64.to_le_bytes();
    for offset in 0..16 {
        for len in [1, 2, 4, 8] {
            if offset + len > 16 {
                let write = Stop::MmioWrite(HOLE + offset, all[..len as usize].to_vec());
                assert_eq!(machine.run(), write, "{len} bytes");
            }
        }
    }
    machine.expect_hlt();
    for offset in 0..16 {
        for len in [1, 2, 4, 8].into_iter().filter(|len| offset + len <= 16) {
            let want = written(MEMORY, HOLE + offset, &all[..len as usize]);
            assert_eq!(trimmed(ring.take()), want);
        }
    }
    assert_eq!(ring.take(), None);
}

/// Stores its count to [`HOLE`] for ever.
fn stores_go_into_the_ring(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        let mut again = a.create_label();
        a.xor(eax, eax)?;
        a.mov(rbx, HOLE)?;
        a.set_label(&mut again)?;
        a.mov(qword_ptr(rbx), rax)?;
        a.inc(rax)?;
        a.jmp(again)
    });
    let ring = Ring::map(machine.cpu.fd());
    assert_eq!(register(&machine.vm, HOLE, 8, MEMORY), Ok(0));
    ring.set(7, 7);
    let full = u64::from(RING_LEN) - 1;
    let write = Stop::MmioWrite(HOLE, full.to_le_bytes().to_vec());
    assert_eq!(machine.run(), write, "full");
    for n in 0..full {
        assert_eq!(ring.take(), written(MEMORY, HOLE, &n.to_le_bytes()));
    }
    assert_eq!(ring.take(), None);
    assert_eq!(unregister(&machine.vm, HOLE, 8, MEMORY), Ok(0));
    let write = Stop::MmioWrite(HOLE, (full + 1).to_le_bytes().to_vec());
    assert_eq!(machine.run(), write, "no zone any more");
    assert_eq!(ring.take(), None);
}

fn reading_memory_still_exits(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(rbx, HOLE)?;
        a.mov(eax, dword_ptr(rbx))?;
        a.hlt()
    });
    let ring = Ring::map(machine.cpu.fd());
    assert_eq!(register(&machine.vm, HOLE, 8, MEMORY), Ok(0));
    assert_eq!(machine.run(), Stop::MmioRead(HOLE, 4));
    machine.expect_hlt();
    assert_eq!(ring.take(), None);
}
