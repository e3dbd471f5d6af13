// SPDX-License-Identifier: GPL-2.0

//! ioeventfds: writes that signal an eventfd and do not exit (KVM api.rst 4.59).

use crate::harness::{tests, Lab};
use crate::machine::{self, program, Machine, Stop, HOLE};
use crate::raw::{self, EventFd, Sys, NOWHERE};
use guest::asm::*;
use guest::{Mode, SCRATCH};
use ioctl_api::bus::{
    IoEventFd, KVM_IOEVENTFD_FLAG_DATAMATCH as DATAMATCH, KVM_IOEVENTFD_FLAG_DEASSIGN as DEASSIGN,
    KVM_IOEVENTFD_FLAG_PIO as PIO,
};
use ioctl_api::cap;
use ioctl_api::number::KVM_IOEVENTFD;
use libc::{EBADF, EEXIST, EFAULT, EINVAL, ENOENT};
use std::os::fd::AsRawFd;
use vmm::Vm;

tests![
    capabilities,
    malformed_requests,
    descriptors_that_are_no_eventfd,
    collisions,
    what_is_not_there_cannot_be_taken_back,
    another_descriptor_of_the_eventfd_takes_it_back,
    a_port_signals_and_does_not_exit,
    a_port_with_a_value,
    a_port_of_any_length,
    input_still_exits,
    taken_back_it_exits_again,
    the_descriptor_may_be_closed,
    many_ports_in_any_order,
    several_vcpus_signal,
    the_eventfd_goes_with_the_vm,
    single_step_over_a_signal,
    memory_signals_and_does_not_exit,
    memory_with_a_value,
    memory_of_any_length,
    reading_memory_still_exits,
    string_output_signals_each_element,
];

/// An ioeventfd of `len` bytes at `addr`.
pub(super) fn request(fd: &impl AsRawFd, addr: u64, len: u32, flags: u32) -> IoEventFd {
    IoEventFd {
        addr,
        len,
        fd: fd.as_raw_fd(),
        flags,
        ..IoEventFd::default()
    }
}

/// The same for one value.
fn for_value(fd: &impl AsRawFd, addr: u64, len: u32, flags: u32, datamatch: u64) -> IoEventFd {
    IoEventFd {
        datamatch,
        ..request(fd, addr, len, flags | DATAMATCH)
    }
}

pub(super) fn assign(vm: &Vm, request: IoEventFd) -> Sys {
    raw::with(vm.fd(), KVM_IOEVENTFD, &mut request.clone())
}

fn deassign(vm: &Vm, request: IoEventFd) -> Sys {
    let flags = request.flags | DEASSIGN;
    assign(vm, IoEventFd { flags, ..request })
}

fn capabilities(lab: &Lab) {
    let vm = machine::vm(lab);
    for (number, value) in [
        (cap::KVM_CAP_IOEVENTFD, 1),
        (cap::KVM_CAP_IOEVENTFD_NO_LENGTH, 1),
        (cap::KVM_CAP_IOEVENTFD_ANY_LENGTH, 1),
    ] {
        assert_eq!(
            vm.fd().check_extension_raw(number.into()),
            value,
            "{number}"
        );
    }
}

fn malformed_requests(lab: &Lab) {
    let (vm, fd) = (machine::vm(lab), EventFd::new());
    assert_eq!(raw::number(vm.fd(), KVM_IOEVENTFD, NOWHERE), Err(EFAULT));
    for len in [3, 5, 6, 7, 9, 16, 0x8000_0000, u32::MAX] {
        let got = assign(&vm, request(&fd, 0x1000, len, 0));
        assert_eq!(got, Err(EINVAL), "length {len}");
    }
    for (addr, len) in [(u64::MAX, 1), (u64::MAX - 6, 8)] {
        assert_eq!(assign(&vm, request(&fd, addr, len, 0)), Err(EINVAL));
    }
    for bit in 5..32 {
        let got = assign(&vm, request(&fd, 0x1000, 4, 1 << bit));
        assert_eq!(got, Err(EINVAL), "flag {bit}");
    }
    for flags in [0, PIO] {
        assert_eq!(
            assign(&vm, for_value(&fd, 0x1000, 0, flags, 0)),
            Err(EINVAL),
            "a value of any length"
        );
    }
    if lab.is_ours() {
        // KVM takes them, for other machines and for itself.
        for bit in [3, 4] {
            assert_eq!(assign(&vm, request(&fd, 0x1000, 4, 1 << bit)), Err(EINVAL));
        }
    }
    for addr in [0, u64::MAX - 8] {
        assert_eq!(assign(&vm, request(&fd, addr, 8, 0)), Ok(0), "the limits");
    }
}

fn descriptors_that_are_no_eventfd(lab: &Lab) {
    let (vm, file) = (machine::vm(lab), raw::memfd(1));
    let closed = EventFd::new().as_raw_fd();
    for (fd, error) in [
        (-1, EBADF),
        (i32::MIN, EBADF),
        (closed, EBADF),
        (vm.fd().as_raw_fd(), EINVAL),
        (file.as_raw_fd(), EINVAL),
    ] {
        for flags in [0, DEASSIGN] {
            let request = IoEventFd {
                fd,
                addr: 0x1000,
                len: 4,
                flags,
                ..IoEventFd::default()
            };
            assert_eq!(assign(&vm, request), Err(error), "{fd} {flags}");
        }
    }
    // What is wrong with the rest is told first.
    let request = IoEventFd {
        fd: -1,
        len: 3,
        ..IoEventFd::default()
    };
    assert_eq!(assign(&vm, request), Err(EINVAL));
}

fn collisions(lab: &Lab) {
    let vm = machine::vm(lab);
    let (one, other) = (EventFd::new(), EventFd::new());
    assert_eq!(assign(&vm, for_value(&one, 0x100, 4, 0, 7)), Ok(0));
    for fd in [&one, &other] {
        for taken in [
            for_value(fd, 0x100, 4, 0, 7),
            request(fd, 0x100, 4, 0),
            request(fd, 0x100, 0, 0),
        ] {
            assert_eq!(assign(&vm, taken), Err(EEXIST), "{taken:?}");
        }
    }
    for free in [
        for_value(&one, 0x100, 4, 0, 8),
        for_value(&one, 0x100, 2, 0, 7),
        request(&one, 0x100, 8, 0),
        request(&one, 0x101, 4, 0),
        request(&one, 0x100, 4, PIO),
    ] {
        assert_eq!(assign(&vm, free), Ok(0), "{free:?}");
    }
    assert_eq!(assign(&vm, request(&one, 0x200, 0, PIO)), Ok(0));
    for len in [0, 1, 2, 4, 8] {
        let taken = request(&other, 0x200, len, PIO);
        assert_eq!(assign(&vm, taken), Err(EEXIST), "length {len}");
    }
}

fn what_is_not_there_cannot_be_taken_back(lab: &Lab) {
    let vm = machine::vm(lab);
    let (fd, other) = (EventFd::new(), EventFd::new());
    let there = for_value(&fd, 0x100, 4, PIO, 7);
    assert_eq!(deassign(&vm, there), Err(ENOENT), "never there");
    assert_eq!(assign(&vm, there), Ok(0));
    for wrong in [
        for_value(&other, 0x100, 4, PIO, 7),
        for_value(&fd, 0x101, 4, PIO, 7),
        for_value(&fd, 0x100, 2, PIO, 7),
        for_value(&fd, 0x100, 4, PIO, 8),
        for_value(&fd, 0x100, 4, 0, 7),
        request(&fd, 0x100, 4, PIO),
        request(&fd, 0x100, 0, PIO),
        request(&fd, 0x100, 3, PIO),
    ] {
        assert_eq!(deassign(&vm, wrong), Err(ENOENT), "{wrong:?}");
    }
    for _ in 0..2 {
        assert_eq!(deassign(&vm, there), Ok(0));
        assert_eq!(deassign(&vm, there), Err(ENOENT), "not there any more");
        assert_eq!(assign(&vm, there), Ok(0), "again");
    }
}

fn another_descriptor_of_the_eventfd_takes_it_back(lab: &Lab) {
    let (vm, fd) = (machine::vm(lab), EventFd::new());
    assert_eq!(assign(&vm, request(&fd, 0x100, 4, PIO)), Ok(0));
    let second = fd.duplicate();
    drop(fd);
    assert_eq!(deassign(&vm, request(&second, 0x100, 4, PIO)), Ok(0));
}

/// OUT of each size to port 0x40 and beside it.
fn outputs(lab: &Lab) -> Machine {
    Machine::long(lab, |a| {
        a.mov(eax, 0x4433_2211)?;
        a.out(0x40, al)?;
        a.out(0x40, ax)?;
        a.out(0x40, eax)?;
        a.out(0x3f, ax)?;
        a.out(0x41, al)?;
        a.hlt()
    })
}

const OUTPUTS: [(u16, &[u8]); 5] = [
    (0x40, &[0x11]),
    (0x40, &[0x11, 0x22]),
    (0x40, &[0x11, 0x22, 0x33, 0x44]),
    (0x3f, &[0x11, 0x22]),
    (0x41, &[0x11]),
];

/// Runs [`outputs`]: all exit but those whose numbers are `taken`.
fn check_outputs(machine: &mut Machine, taken: &[usize]) {
    for (n, (port, data)) in OUTPUTS.into_iter().enumerate() {
        if !taken.contains(&n) {
            assert_eq!(machine.run(), Stop::Out(port, data.to_vec()), "OUT {n}");
        }
    }
    machine.expect_hlt();
    assert_eq!(machine.regs().rax, 0x4433_2211);
    machine.restart();
}

fn a_port_signals_and_does_not_exit(lab: &Lab) {
    let (mut machine, fd) = (outputs(lab), EventFd::new());
    check_outputs(&mut machine, &[]);
    for (n, len) in [(0, 1), (1, 2), (2, 4)] {
        let request = request(&fd, 0x40, len, PIO);
        assert_eq!(assign(&machine.vm, request), Ok(0));
        check_outputs(&mut machine, &[n]);
        check_outputs(&mut machine, &[n]);
        assert_eq!(fd.take(), 2, "{len} bytes");
        assert_eq!(deassign(&machine.vm, request), Ok(0));
    }
    assert_eq!(assign(&machine.vm, request(&fd, 0x40, 2, 0)), Ok(0));
    check_outputs(&mut machine, &[]);
    assert_eq!(fd.take(), 0, "memory is not ports");
}

fn a_port_with_a_value(lab: &Lab) {
    let mut machine = outputs(lab);
    let fds = [(); 4].map(|()| EventFd::new());
    for (fd, len, value) in [
        (&fds[0], 1, 0x11),
        (&fds[1], 2, 0x2212),
        (&fds[2], 4, 0x4433_2211),
        (&fds[3], 2, 0x1_2211),
    ] {
        assert_eq!(
            assign(&machine.vm, for_value(fd, 0x40, len, PIO, value)),
            Ok(0)
        );
    }
    check_outputs(&mut machine, &[0, 2]);
    assert_eq!(fds.each_ref().map(EventFd::take), [1, 0, 1, 0]);
}

fn a_port_of_any_length(lab: &Lab) {
    let (mut machine, fd) = (outputs(lab), EventFd::new());
    assert_eq!(assign(&machine.vm, request(&fd, 0x40, 0, PIO)), Ok(0));
    check_outputs(&mut machine, &[0, 1, 2]);
    assert_eq!(fd.take(), 3);
}

fn input_still_exits(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.in_(al, 0x40)?;
        a.hlt()
    });
    let fd = EventFd::new();
    assert_eq!(assign(&machine.vm, request(&fd, 0x40, 0, PIO)), Ok(0));
    assert_eq!(machine.run(), Stop::In(0x40, 1));
    machine.answer(0x7e);
    machine.expect_hlt();
    assert_eq!((machine.regs().rax, fd.take()), (0x7e, 0));
}

fn taken_back_it_exits_again(lab: &Lab) {
    let (mut machine, fd) = (outputs(lab), EventFd::new());
    let request = request(&fd, 0x40, 4, PIO);
    for round in 0..3 {
        assert_eq!(assign(&machine.vm, request), Ok(0));
        check_outputs(&mut machine, &[2]);
        assert_eq!(deassign(&machine.vm, request), Ok(0));
        check_outputs(&mut machine, &[]);
        assert_eq!(fd.take(), 1, "round {round}");
    }
}

fn the_descriptor_may_be_closed(lab: &Lab) {
    let (mut machine, fd) = (outputs(lab), EventFd::new());
    assert_eq!(assign(&machine.vm, request(&fd, 0x40, 1, PIO)), Ok(0));
    let second = fd.duplicate();
    drop(fd);
    check_outputs(&mut machine, &[0]);
    assert_eq!(second.take(), 1);
    drop(second);
    check_outputs(&mut machine, &[0]);
}

/// Every other port of 128, each with an eventfd of its own.
fn many_ports_in_any_order(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        let mut again = a.create_label();
        a.xor(edx, edx)?;
        a.set_label(&mut again)?;
        a.out(dx, al)?;
        a.inc(edx)?;
        a.cmp(edx, 128)?;
        a.jb(again)?;
        a.hlt()
    });
    let fds: Vec<EventFd> = (0..64).map(|_| EventFd::new()).collect();
    let order = (0..64_u64).map(|n| n * 37 % 64);
    let each = |n: u64| request(&fds[n as usize], 2 * n, 1, PIO);
    for n in order.clone() {
        assert_eq!(assign(&machine.vm, each(n)), Ok(0), "port {}", 2 * n);
    }
    for gone in [&[][..], &[0, 63, 30]] {
        for n in gone {
            assert_eq!(deassign(&machine.vm, each(*n)), Ok(0));
        }
        for port in 0..128_u16 {
            if port % 2 == 1 || gone.contains(&(port / 2).into()) {
                assert_eq!(machine.run(), Stop::Out(port, vec![0]));
            }
        }
        machine.expect_hlt();
        machine.restart();
        for n in order.clone() {
            let want = u64::from(!gone.contains(&n));
            assert_eq!(fds[n as usize].take(), want, "port {}", 2 * n);
        }
    }
}

fn several_vcpus_signal(lab: &Lab) {
    let mut machine = outputs(lab);
    let fd = EventFd::new();
    assert_eq!(assign(&machine.vm, request(&fd, 0x40, 0, PIO)), Ok(0));
    let second = machine.vm.vcpu(1).expect("a vCPU");
    second
        .enter(Mode::Long, machine.program.address)
        .expect("registers");
    let first = std::mem::replace(&mut machine.cpu, second);
    check_outputs(&mut machine, &[0, 1, 2]);
    machine.cpu = first;
    check_outputs(&mut machine, &[0, 1, 2]);
    assert_eq!(fd.take(), 6);
}

/// The kernel numbers eventfds by the lowest number that is free, so a number
/// that comes again belongs to one that is gone.
fn the_eventfd_goes_with_the_vm(lab: &Lab) {
    let mut machine = outputs(lab);
    let fds = [(); 2].map(|()| EventFd::new());
    let number = fds[0].number();
    for (fd, port) in fds.iter().zip([0x40, 0x41]) {
        assert_eq!(assign(&machine.vm, request(fd, port, 1, PIO)), Ok(0));
    }
    drop(fds);
    assert_ne!(EventFd::new().number(), number, "the VM has it");
    check_outputs(&mut machine, &[0, 4]);
    let Machine { vm, cpu, .. } = machine;
    drop(vm);
    assert_ne!(EventFd::new().number(), number, "the vCPU has it");
    drop(cpu);
    assert_eq!(EventFd::new().number(), number);
}

/// The trap of a single step comes behind the OUT, as if it had not exited.
fn single_step_over_a_signal(lab: &Lab) {
    let mut machine = outputs(lab);
    let fd = EventFd::new();
    assert_eq!(assign(&machine.vm, request(&fd, 0x40, 1, PIO)), Ok(0));
    machine.change_regs(|r| {
        r.rip += 5;
        r.rflags |= 1 << 8;
    });
    let event = machine.expect_event(1);
    assert_eq!(event.rip, machine.program.address + 7);
    assert_eq!(fd.take(), 1);
}

/// Stores of each size to [`HOLE`], and a byte beside it.
fn stores(lab: &Lab) -> Machine {
    Machine::long(lab, |a| {
        a.mov(rax, 0x8877_6655_4433_2211_u64)?;
        a.mov(rbx, HOLE)?;
        a.mov(byte_ptr(rbx), al)?;
        a.mov(word_ptr(rbx), ax)?;
        a.mov(dword_ptr(rbx), eax)?;
        a.mov(qword_ptr(rbx), rax)?;
        a.mov(byte_ptr(rbx + 1), al)?;
        a.hlt()
    })
}

const STORES: [(u64, usize); 5] = [(HOLE, 1), (HOLE, 2), (HOLE, 4), (HOLE, 8), (HOLE + 1, 1)];

/// Runs [`stores`]: all exit but those whose numbers are `taken`.
fn check_stores(machine: &mut Machine, taken: &[usize]) {
    let all = 0x8877_6655_4433_2211_u64.to_le_bytes();
    for (n, (gpa, len)) in STORES.into_iter().enumerate() {
        if !taken.contains(&n) {
            let write = Stop::MmioWrite(gpa, all[..len].to_vec());
            assert_eq!(machine.run(), write, "store {n}");
        }
    }
    machine.expect_hlt();
    machine.restart();
}

fn memory_signals_and_does_not_exit(lab: &Lab) {
    let (mut machine, fd) = (stores(lab), EventFd::new());
    check_stores(&mut machine, &[]);
    for (n, len) in [(0, 1), (1, 2), (2, 4), (3, 8)] {
        let request = request(&fd, HOLE, len, 0);
        assert_eq!(assign(&machine.vm, request), Ok(0));
        check_stores(&mut machine, &[n]);
        assert_eq!(fd.take(), 1, "{len} bytes");
        assert_eq!(deassign(&machine.vm, request), Ok(0));
    }
    check_stores(&mut machine, &[]);
    assert_eq!(fd.take(), 0);
}

fn memory_with_a_value(lab: &Lab) {
    let mut machine = stores(lab);
    let fds = [(); 3].map(|()| EventFd::new());
    for (fd, len, value) in [
        (&fds[0], 8, 0x8877_6655_4433_2211),
        (&fds[1], 4, 0x4433_2210),
        (&fds[2], 2, 0x2211),
    ] {
        assert_eq!(
            assign(&machine.vm, for_value(fd, HOLE, len, 0, value)),
            Ok(0)
        );
    }
    check_stores(&mut machine, &[1, 3]);
    assert_eq!(fds.each_ref().map(EventFd::take), [1, 0, 1]);
}

fn memory_of_any_length(lab: &Lab) {
    let (mut machine, fd) = (stores(lab), EventFd::new());
    assert_eq!(assign(&machine.vm, request(&fd, HOLE, 0, 0)), Ok(0));
    check_stores(&mut machine, &[0, 1, 2, 3]);
    assert_eq!(fd.take(), 4);
}

fn reading_memory_still_exits(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(rbx, HOLE)?;
        a.mov(eax, dword_ptr(rbx))?;
        a.hlt()
    });
    let fd = EventFd::new();
    assert_eq!(assign(&machine.vm, request(&fd, HOLE, 4, 0)), Ok(0));
    assert_eq!(machine.run(), Stop::MmioRead(HOLE, 4));
    machine.expect_hlt();
    assert_eq!(fd.take(), 0);
}

fn string_output_signals_each_element(lab: &Lab) {
    let program = program(Mode::Long, |a| {
        a.mov(edx, 0x40)?;
        a.mov(esi, SCRATCH as u32)?;
        a.mov(ecx, 5)?;
        a.rep().outsb()?;
        a.hlt()
    });
    let mut machine = Machine::load(machine::vm(lab), program);
    let fd = EventFd::new();
    assert_eq!(assign(&machine.vm, request(&fd, 0x40, 1, PIO)), Ok(0));
    machine.expect_hlt();
    let regs = machine.regs();
    assert_eq!((regs.rcx, regs.rsi, fd.take()), (0, SCRATCH + 5, 5));
}
