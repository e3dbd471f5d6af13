// SPDX-License-Identifier: GPL-2.0

//! Which CPUs may hold stale translations of a VM, and how they lose them.
//!
//! ```text
//!   change of EPT or SPPT            a CPU about to enter the guest
//!   ---------------------            ------------------------------
//!   mmu lock taken, tables written   running[cpu] = 1
//!   generation += 1                  full barrier
//!   full barrier                     seen[cpu] != generation ? INVEPT, seen = it
//!   running[cpu] ? IPI, wait         VM entry (an IPI pending by now exits at once)
//!   mmu lock dropped
//! ```
//!
//! Either the CPU sees the new generation and invalidates before it enters, or
//! the changer sees it running and waits until the IPI has made it leave. So
//! when `flush` returns, no CPU uses an old translation (SDM 3C 29.4.3.4).
//!
//! The wait is under the mmu lock: else a second change could find the tables
//! as it wants them, return without a flush, and let the host free a page that a
//! CPU still writes to through the first change's old translation. It cannot
//! deadlock, for nobody waits for the mmu lock with IRQs off.

use super::memory::Mmu;
use crate::{
    host::shim,
    vmx::window::Current, //
};
use kernel::{
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Full,
        Relaxed,
        Release, //
    }, //
};
use spp::{
    Spent,
    Stale, //
};

struct Cpu {
    running: Atomic<u32>,
    seen: Atomic<u64>,
}

/// Translation generations of one VM.
pub(crate) struct Tlb {
    generation: Atomic<u64>,
    cpus: KVec<Cpu>,
}

impl Tlb {
    /// Every CPU starts behind, for a recycled EPT root may have left
    /// translations there.
    pub(crate) fn new() -> Result<Self> {
        let mut cpus = KVec::new();
        for _ in 0..shim::kvm_spp_nr_cpu_ids() {
            let cpu = Cpu {
                running: Atomic::new(0),
                seen: Atomic::new(0),
            };
            cpus.push(cpu, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(Self {
            generation: Atomic::new(1),
            cpus,
        })
    }

    /// Counts the changes that needed a flush; read under the mmu lock.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    /// Makes every CPU drop its translations of this VM before it runs the VM
    /// again, and waits for those that run it now. `_locked` is the content of
    /// the mmu lock, whose holder made the change. The result is what tables
    /// unlinked by the change are freed against.
    pub(crate) fn flush(&self, _locked: &Mmu, stale: Option<Stale>) -> Option<Spent> {
        let stale = stale?;
        self.generation.add(1, Relaxed);
        kernel::sync::barrier::smp_mb(Full);
        for (number, cpu) in self.cpus.iter().enumerate() {
            if cpu.running.load(Acquire) != 0 {
                shim::kvm_spp_kick_cpu(number as u32);
            }
        }
        Some(stale.spent())
    }

    /// Marks the window's CPU as running the VM and brings it up to date.
    /// The mark goes when the result is dropped.
    pub(crate) fn enter<'a>(&'a self, vmcs: &Current<'_>, eptp: u64) -> Result<Running<'a>> {
        let cpu = self.cpus.get(vmcs.cpu() as usize).ok_or(ENODEV)?;
        cpu.running.store(1, Relaxed);
        kernel::sync::barrier::smp_mb(Full);
        let running = Running { cpu };
        let generation = self.generation.load(Acquire);
        if cpu.seen.load(Relaxed) != generation {
            vmcs.invept(eptp)?;
            cpu.seen.store(generation, Relaxed);
        }
        Ok(running)
    }
}

/// This CPU runs the VM.
pub(crate) struct Running<'a> {
    cpu: &'a Cpu,
}

impl Running<'_> {
    /// Has this CPU invalidate when it runs the VM next, even if nothing changed.
    pub(crate) fn forget(&self) {
        self.cpu.seen.store(0, Relaxed);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.cpu.running.store(0, Release);
    }
}
