// SPDX-License-Identifier: GPL-2.0

//! Files closed in every order, processes killed and forked, and nothing left
//! behind.

use crate::area::Area;
use crate::host;
use crate::ktap::{Env, Test, Verdict};
use crate::load::{self, rounds_of, MEMORY};
use crate::runner::{Flow, RunPage, Runner};
use guest::asm::CodeAssembler;
use guest::{Mode, Program, CODE, DATA, GDT, TABLES};
use ioctl_api::number;
use kvm_bindings::{kvm_regs, kvm_userspace_memory_region};
use kvm_ioctls::{IoEventAddress, Kvm, NoDatamatch, VcpuExit, VcpuFd, VmFd};
use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use vmm::Vm;
use vmm_sys_util::eventfd::EventFd;

pub(crate) const TESTS: &[Test] = &[
    Test::new(
        "lifetime: device, VM, vCPU, mapping closed in all 24 orders",
        orders,
    ),
    Test::new(
        "lifetime: a vCPU runs when only its file is left",
        vcpu_alone,
    ),
    Test::new("lifetime: duplicated files of VM and vCPU", duplicates),
    Test::new("lifetime: files in a forked child give EIO", forked).vmxon(),
    Test::new("lifetime: the child of a dead VMM holds its files", orphan),
    Test::new("lifetime: killed in the guest, 20 times", killed).vmxon(),
    Test::new(
        "lifetime: killed with two vCPUs and maps, 20 times",
        killed_with_maps,
    ),
    Test::new("lifetime: nothing leaks in 200 VMs", no_leak).vmxon(),
];

/// A VM whose four parts can be closed one by one: device, VM, vCPU, and another
/// mapping of the vCPU's `kvm_run`.
pub(crate) struct Machine {
    device: Option<Kvm>,
    vm: Option<VmFd>,
    vcpu: Option<VcpuFd>,
    page: Option<RunPage>,
    _memory: Area,
}

impl Machine {
    pub(crate) const PARTS: usize = 4;

    pub(crate) fn new(env: &Env) -> Self {
        let path = CString::new(env.device.as_str()).unwrap();
        let device = Kvm::new_with_path(path).unwrap();
        let vm = device.create_vm().unwrap();
        let memory = Area::new(crate::area::LARGE);
        let slot = kvm_userspace_memory_region {
            memory_size: memory.bytes() as u64,
            userspace_addr: memory.address(),
            ..Default::default()
        };
        // SAFETY: The area outlives the vCPU, being the last field, and only
        // atomics refer to it.
        unsafe { vm.set_user_memory_region(slot) }.unwrap();
        let halt = |a: &mut CodeAssembler| a.hlt().map(|()| vec![]);
        let program = Program::assemble(Mode::Real, CODE, halt).unwrap();
        let mut code = [0; 8];
        code[..program.code.len()].copy_from_slice(&program.code);
        memory.store(CODE as usize, u64::from_le_bytes(code));
        let vcpu = vm.create_vcpu(0).unwrap();
        let mut sregs = vcpu.get_sregs().unwrap();
        Mode::Real.enter(&mut sregs, TABLES, GDT);
        vcpu.set_sregs(&sregs).unwrap();
        let page = RunPage::map(vcpu.as_raw_fd(), device.get_vcpu_mmap_size().unwrap());
        Self {
            device: Some(device),
            vm: Some(vm),
            vcpu: Some(vcpu),
            page: Some(page),
            _memory: memory,
        }
    }

    /// Runs the vCPU until its HLT.
    pub(crate) fn run(&mut self) {
        let vcpu = self.vcpu.as_mut().unwrap();
        let regs = kvm_regs {
            rip: CODE,
            rflags: 2,
            ..Default::default()
        };
        vcpu.set_regs(&regs).unwrap();
        assert!(matches!(vcpu.run(), Ok(VcpuExit::Hlt)));
        if let Some(page) = &self.page {
            assert_eq!(page.exit_reason(), ioctl_api::run::KVM_EXIT_HLT);
        }
    }

    /// Closes part 0 to 3.
    pub(crate) fn close(&mut self, part: usize) {
        match part {
            0 => drop(self.device.take().unwrap()),
            1 => drop(self.vm.take().unwrap()),
            2 => drop(self.vcpu.take().unwrap()),
            _ => drop(self.page.take().unwrap()),
        }
        if let Some(page) = &self.page {
            assert_eq!(page.exit_reason(), ioctl_api::run::KVM_EXIT_HLT);
        }
    }
}

fn orders(env: &Env) -> Verdict {
    let parts = 0..Machine::PARTS;
    let mut count = 0;
    for code in 0..Machine::PARTS.pow(4) {
        let order = [0, 1, 2, 3].map(|place| code / Machine::PARTS.pow(place) % Machine::PARTS);
        if !parts.clone().all(|part| order.contains(&part)) {
            continue;
        }
        let mut machine = Machine::new(env);
        machine.run();
        order.into_iter().for_each(|part| machine.close(part));
        count += 1;
    }
    assert_eq!(count, 24);
    Ok(())
}

fn vcpu_alone(env: &Env) -> Verdict {
    let mut machine = Machine::new(env);
    machine.run();
    [0, 1, 3].into_iter().for_each(|part| machine.close(part));
    machine.run();
    Ok(())
}

/// A second descriptor of the same file.
fn duplicate(file: &impl AsRawFd) -> OwnedFd {
    // SAFETY: fcntl checks its arguments.
    let fd = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 0) };
    assert!(fd >= 0);
    // SAFETY: A new descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// An ioctl whose argument the kernel does not dereference, or that must fail
/// before it does. Returns the value or the negative error number.
fn ioctl(file: &impl AsRawFd, code: u32, argument: u64) -> i32 {
    // SAFETY: As the caller vouches, no memory of ours is written.
    match unsafe { libc::ioctl(file.as_raw_fd(), code.into(), argument) } {
        -1 => -std::io::Error::last_os_error().raw_os_error().unwrap(),
        value => value,
    }
}

fn duplicates(env: &Env) -> Verdict {
    let mut machine = Machine::new(env);
    let device = duplicate(machine.device.as_ref().unwrap());
    let vm = duplicate(machine.vm.as_ref().unwrap());
    let vcpu = duplicate(machine.vcpu.as_ref().unwrap());
    machine.run();
    // The vCPU stands behind its HLT; point it there again and run the copy.
    let again = kvm_regs {
        rip: CODE,
        rflags: 2,
        ..Default::default()
    };
    machine.vcpu.as_ref().unwrap().set_regs(&again).unwrap();
    (0..3).for_each(|part| machine.close(part));
    assert_eq!(ioctl(&device, number::KVM_GET_API_VERSION, 0), 12);
    assert_eq!(ioctl(&vcpu, number::KVM_RUN, 0), 0);
    assert_eq!(ioctl(&vm, number::KVM_CREATE_VCPU, 0), -libc::EEXIST);
    let other = ioctl(&vm, number::KVM_CREATE_VCPU, 1);
    assert!(other >= 0);
    // SAFETY: A new descriptor that nobody else owns.
    drop(unsafe { File::from_raw_fd(other) });
    machine.close(3);
    Ok(())
}

/// What a process that did not create the VM gets for each ioctl.
fn all_refused(machine: &Machine) -> bool {
    let (vm, vcpu) = (machine.vm.as_ref().unwrap(), machine.vcpu.as_ref().unwrap());
    let of_vm = [
        number::KVM_CHECK_EXTENSION,
        number::KVM_CREATE_VCPU,
        number::KVM_SET_USER_MEMORY_REGION,
        number::KVM_ENABLE_CAP,
        number::KVM_SPP_SET_MAPS,
        number::KVM_SPP_GET_MAPS,
    ];
    let of_vcpu = [
        number::KVM_RUN,
        number::KVM_GET_REGS,
        number::KVM_SET_REGS,
        number::KVM_NMI,
    ];
    let refused = -libc::EIO;
    of_vm.into_iter().all(|code| ioctl(vm, code, 0) == refused)
        && of_vcpu
            .into_iter()
            .all(|code| ioctl(vcpu, code, 0) == refused)
        && ioctl(
            machine.device.as_ref().unwrap(),
            number::KVM_GET_API_VERSION,
            0,
        ) == 12
}

fn forked(env: &Env) -> Verdict {
    let mut machine = Machine::new(env);
    let child = host::fork(|| i32::from(!all_refused(&machine)));
    assert_eq!(host::wait_for(child), 0, "the child could use the files");
    machine.run();
    Ok(())
}

/// The VM's process ends while its child still has the files: the notifier sees
/// the address space go, and the child closes the last file.
fn orphan(env: &Env) -> Verdict {
    let board = Area::shared(4096);
    let parent = host::fork(|| {
        let mut machine = Machine::new(env);
        machine.run();
        let _child = host::fork(|| {
            host::wait_until("the VMM has ended", || board.load(0) == 1);
            board.store(8, 1 + u64::from(!all_refused(&machine)));
            drop(machine);
            board.store(16, 1);
            0
        });
        // SAFETY: As if killed: files are closed by the kernel, which keeps
        // those that the child has too.
        unsafe { libc::_exit(0) }
    });
    assert_eq!(host::wait_for(parent), 0);
    board.store(0, 1);
    host::wait_until("the child has closed all", || board.load(16) == 1);
    assert_eq!(board.load(8), 1, "the orphan could use the files");
    Ok(())
}

/// Starts a child with a guest of `vcpus` that counts in shared memory, and
/// kills it with SIGKILL while it counts.
fn kill_one(env: &Env, board: &Area, vcpus: u64, maps: bool) {
    const GPA: u64 = crate::slot::GPA;
    board.store(0, 0);
    let child = host::fork(|| {
        let vm = env.vm();
        if maps {
            vm.enable_spp().unwrap();
            vm.set_maps(DATA, &[0x5555_5555; 100]).unwrap();
            vm.set_maps(GPA, &[!(1 << 31)]).unwrap();
        }
        crate::slot::place(&vm, GPA, board);
        let runners: Vec<_> = (0..vcpus)
            .map(|index| {
                let targets = [GPA + index * 8, DATA + index * 4096];
                let vcpu = load::boot(&vm, index, &load::counters(index, &targets));
                let cpu = Some(index as usize % host::cpus());
                Runner::start(&vm, vcpu, cpu, |_, _| Flow::Done)
            })
            .collect();
        runners[0].wait("the kill", || false);
        1
    });
    host::wait_until("all guests count", || {
        (0..vcpus as usize).all(|index| board.load(index * 8) > 100)
    });
    // SAFETY: kill checks its arguments.
    unsafe { libc::kill(child, libc::SIGKILL) };
    assert_eq!(host::wait_for(child), 128 + libc::SIGKILL);
    let stopped = board.load(0);
    (0..100).for_each(|_| host::give_way());
    assert_eq!(board.load(0), stopped, "the guest outlives its process");
}

fn killed(env: &Env) -> Verdict {
    let board = Area::shared(4096);
    (0..20).for_each(|_| kill_one(env, &board, 1, false));
    Ok(())
}

fn killed_with_maps(env: &Env) -> Verdict {
    drop(env.spp_vm()?);
    let board = Area::shared(4096);
    (0..20).for_each(|_| kill_one(env, &board, 2, true));
    Ok(())
}

/// Zones of the ring, and ports that signal eventfds: some are taken back, most are
/// left to the end of the VM.
fn register(vm: &Vm) {
    for port in (0..0x100).step_by(0x10) {
        let event = EventFd::new(0).unwrap();
        let (event_at, zone) = (IoEventAddress::Pio(port), IoEventAddress::Mmio(port));
        let vm = vm.fd();
        vm.register_ioevent(&event, &event_at, NoDatamatch).unwrap();
        vm.register_coalesced_mmio(zone, 8).unwrap();
        if port % 0x40 == 0 {
            vm.unregister_ioevent(&event, &event_at, NoDatamatch)
                .unwrap();
            let zone = IoEventAddress::Mmio(port);
            vm.unregister_coalesced_mmio(zone, 8).unwrap();
        }
    }
}

/// A VM with two vCPUs, both run, and maps where there are any.
fn live_once(env: &Env, spp: bool) {
    let vm = Vm::open(&env.device, MEMORY).unwrap();
    register(&vm);
    if spp {
        vm.enable_spp().unwrap();
        vm.set_maps(DATA, &[!1; 200]).unwrap();
        vm.set_maps(0x10_0000_0000, &[0; 2]).unwrap();
    }
    for index in 0..2 {
        let stores = load::program(index, |a| {
            use guest::asm::{qword_ptr, rbx};
            a.mov(rbx, rounds_of(index))?;
            a.inc(qword_ptr(rbx))?;
            a.mov(rbx, DATA + 0x80 + index * 4096)?;
            a.inc(qword_ptr(rbx))?;
            a.hlt()?;
            Ok(vec![])
        });
        let mut vcpu = load::boot(&vm, index, &stores);
        assert_eq!(vcpu.run().unwrap(), vmm::Exit::Hlt);
    }
}

/// Free pages, with those that CPUs keep for themselves, and kilobytes of slabs.
fn free_and_slabs() -> (u64, u64) {
    host::set("/proc/sys/vm/drop_caches", "3");
    let zones = fs::read_to_string("/proc/zoneinfo").unwrap();
    let kept: u64 = zones
        .lines()
        .filter_map(|line| line.trim().strip_prefix("count:"))
        .map(|count| count.trim().parse::<u64>().unwrap())
        .sum();
    let free = kept + host::counter("/proc/vmstat", "nr_free_pages");
    (free, host::counter("/proc/meminfo", "SUnreclaim"))
}

fn no_leak(env: &Env) -> Verdict {
    const ROUNDS: u64 = 200;
    // KVM frees some of a VM later, in work queues.
    env.need_ours()?;
    let spp = env.spp_vm().is_ok();
    (0..40).for_each(|_| live_once(env, spp));
    let (free, slab) = free_and_slabs();
    (0..ROUNDS).for_each(|_| live_once(env, spp));
    let (free_now, slab_now) = free_and_slabs();
    println!("# free pages {free} -> {free_now}, slab kB {slab} -> {slab_now}");
    // One page, or 512 bytes of slab, in each round would be more than this.
    assert!(free.saturating_sub(free_now) < ROUNDS / 2, "pages leak");
    assert!(slab_now.saturating_sub(slab) < ROUNDS / 2, "slabs leak");
    Ok(())
}
