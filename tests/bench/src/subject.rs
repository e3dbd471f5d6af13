// SPDX-License-Identifier: GPL-2.0

//! A guest on one of the devices, and how its round trips are timed.

use crate::program::{halting, timed_loop, Part};
use crate::ticks::{least, now, per};
use crate::Result;
use guest::{Program, PAGE_SIZE};
use ioctl_api::number::KVM_RUN;
use ioctl_api::run::{KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR};
use ioctl_api::subpage::{KVM_CAP_SPP, KVM_SPP_CAP_SW};
use kvm_bindings::{kvm_enable_cap, kvm_regs};
use std::path::Path;
use vm_memory::{GuestAddress, GuestMemoryBackend};
use vmm::{Vcpu, Vm};
use vmm_sys_util::ioctl::ioctl;

/// Bytes of guest memory.
pub(crate) const MEMORY: usize = 16 << 20;

const RFLAGS_FIXED: u64 = 1 << 1;

/// Round trips between two looks at the clock: short enough that most rounds
/// have no timer interrupt in them.
const TRIPS: u64 = 256;

/// A guest with its program loaded, and its memory present in 4-KiB pages.
pub(crate) struct Subject {
    pub(crate) vm: Vm,
    vcpu: Vcpu,
    program: Program,
}

impl Subject {
    /// A guest without sub-page write permissions.
    pub(crate) fn new(device: &Path, program: Program) -> Result<Self> {
        Self::boot(Vm::open(device, MEMORY)?, program)
    }

    /// A guest with them.
    pub(crate) fn with_spp(device: &Path, program: Program) -> Result<Self> {
        let vm = Vm::open(device, MEMORY)?;
        vm.enable_spp()?;
        Self::boot(vm, program)
    }

    /// A guest whose maps the module checks, whatever the processor can.
    pub(crate) fn with_software_spp(device: &Path, program: Program) -> Result<Self> {
        let vm = Vm::open(device, MEMORY)?;
        let cap = kvm_enable_cap {
            cap: KVM_CAP_SPP,
            args: [KVM_SPP_CAP_SW.into(), 0, 0, 0],
            ..Default::default()
        };
        vm.fd()
            .enable_cap(&cap)
            .map_err(|why| format!("no software backend: {why}"))?;
        Self::boot(vm, program)
    }

    fn boot(vm: Vm, program: Program) -> Result<Self> {
        populate(&vm)?;
        let vcpu = vm.boot(&program)?;
        Ok(Self { vm, vcpu, program })
    }

    /// The registers of the program's beginning.
    pub(crate) fn entry(&self) -> kvm_regs {
        kvm_regs {
            rip: self.program.address,
            rflags: RFLAGS_FIXED,
            ..Default::default()
        }
    }

    /// The address of the program's first label.
    pub(crate) fn label(&self) -> u64 {
        self.program.labels.first().copied().unwrap_or(0)
    }

    /// The address after the program's first instruction.
    pub(crate) fn second_instruction(&self) -> u64 {
        self.program.instructions().nth(1).unwrap_or(0)
    }

    /// Sets the registers.
    pub(crate) fn set_regs(&self, regs: &kvm_regs) -> Result<()> {
        Ok(self.vcpu.set_regs(regs)?)
    }

    /// `KVM_RUN` alone, without decoding why it returned.
    fn enter(&mut self) -> i32 {
        // SAFETY: KVM_RUN takes no argument; the guest's memory is kept by the
        // `Vcpu`, and no reference to it or to `struct kvm_run` is held here.
        unsafe { ioctl(self.vcpu.fd(), KVM_RUN.into()) }
    }

    fn exit_reason(&mut self) -> u32 {
        self.vcpu.fd_mut().get_kvm_run().exit_reason
    }

    /// Runs until the next exit, and returns its reason.
    fn run(&mut self) -> Result<u32> {
        match self.enter() {
            0 => Ok(self.exit_reason()),
            _ => Err(format!("KVM_RUN: {}", std::io::Error::last_os_error()).into()),
        }
    }

    /// Runs until the next exit, which must be `reason`.
    pub(crate) fn run_until(&mut self, reason: u32) -> Result<()> {
        match self.run()? {
            exit if exit == reason => Ok(()),
            other => Err(wrong_exit(other, reason)),
        }
    }

    /// Ticks that `count` repetitions of a timed loop take.
    pub(crate) fn loop_ticks(&mut self, count: u64, r10: u64) -> Result<u64> {
        let entry = self.entry();
        self.set_regs(&kvm_regs {
            r9: count,
            r10,
            ..entry
        })?;
        self.run_until(KVM_EXIT_HLT)?;
        Ok(self.vcpu.regs()?.rax)
    }

    /// Ticks of one more repetition of a timed loop.
    pub(crate) fn ticks_per_repetition(&mut self, r10: u64) -> Result<u64> {
        let few = least(|_| self.loop_ticks(TRIPS, r10))?;
        let many = least(|_| self.loop_ticks(2 * TRIPS, r10))?;
        Ok(per(many.saturating_sub(few), TRIPS))
    }

    /// Ticks of one round trip of an endless program to user space, where each
    /// exit is `reason` and `answer` is what user space does about it.
    pub(crate) fn ticks_to_user(
        &mut self,
        reason: u32,
        answer: impl Fn(&Self) -> Result<()>,
    ) -> Result<u64> {
        least(|_| {
            let start = now();
            for _ in 0..TRIPS {
                self.run_until(reason)?;
                answer(self)?;
            }
            Ok(per(now() - start, TRIPS))
        })
    }

    /// Ticks of one round trip of a halting program from one HLT to the next, with
    /// any number of exits `reason` between.
    fn ticks_to_halt(&mut self, reason: u32) -> Result<u64> {
        const FEW: u64 = 16;
        least(|_| {
            let start = now();
            for _ in 0..FEW {
                loop {
                    match self.run()? {
                        KVM_EXIT_HLT => break,
                        exit if exit == reason => {}
                        other => return Err(wrong_exit(other, reason)),
                    }
                }
            }
            Ok(per(now() - start, FEW))
        })
    }

    /// Ticks of a `KVM_RUN` that does not enter the guest.
    pub(crate) fn ticks_without_entry(&mut self) -> Result<u64> {
        self.vcpu.fd_mut().set_kvm_immediate_exit(1);
        least(|_| {
            let start = now();
            for _ in 0..TRIPS {
                if self.enter() == 0 {
                    return Err("KVM_RUN ignores immediate_exit".into());
                }
            }
            Ok(per(now() - start, TRIPS))
        })
    }
}

/// Ticks of an instruction that leaves the guest but not the kernel: what a
/// loop with it takes more than one without it.
pub(crate) fn exit_ticks(device: &Path, prepare: Part, instruction: Part) -> Result<u64> {
    let with = timed_loop(&[prepare, instruction])?;
    let with = Subject::new(device, with)?.ticks_per_repetition(0)?;
    let without = timed_loop(&[prepare])?;
    let without = Subject::new(device, without)?.ticks_per_repetition(0)?;
    Ok(with.saturating_sub(without))
}

/// Ticks of an instruction that leaves for user space as often as it likes, each
/// time with `reason`: what a program with it takes more than one without it.
pub(crate) fn user_exits_ticks(
    device: &Path,
    reason: u32,
    prepare: Part,
    instruction: Part,
) -> Result<u64> {
    let with = Subject::new(device, halting(&[prepare, instruction])?)?.ticks_to_halt(reason)?;
    let without = Subject::new(device, halting(&[prepare])?)?.ticks_to_halt(reason)?;
    Ok(with.saturating_sub(without))
}

fn wrong_exit(got: u32, expected: u32) -> Box<dyn std::error::Error> {
    match got {
        KVM_EXIT_INTERNAL_ERROR => "KVM_EXIT_INTERNAL_ERROR: not emulated".into(),
        other => format!("exit {other} instead of {expected}").into(),
    }
}

/// Lets the host allocate all of the guest's memory now, in 4-KiB pages.
fn populate(vm: &Vm) -> Result<()> {
    let start = vm.memory().get_host_address(GuestAddress(0))?;
    // SAFETY: the range is exactly the mapping of the guest's memory, and
    // MADV_NOHUGEPAGE changes no byte of it.
    if unsafe { libc::madvise(start.cast(), MEMORY, libc::MADV_NOHUGEPAGE) } != 0 {
        return Err(format!("madvise: {}", std::io::Error::last_os_error()).into());
    }
    for gpa in (0..MEMORY as u64).step_by(PAGE_SIZE as usize) {
        vm.write(gpa, &[0])?;
    }
    Ok(())
}
