// SPDX-License-Identifier: GPL-2.0

//! What is measured.

use crate::program::{endless, nothing, store, store_and_advance, timed_loop, walk};
use crate::subject::{exit_ticks, user_exits_ticks, Subject, MEMORY};
use crate::ticks::{least, now, per, ROUNDS};
use crate::Result;
use guest::asm::{al, byte_ptr, dword_ptr, dx, eax, ecx, edi, edx, esi, rdi};
use guest::{DATA, PAGE_SIZE};
use ioctl_api::run::{KVM_EXIT_HLT, KVM_EXIT_IO, KVM_EXIT_MMIO};
use ioctl_api::subpage::KVM_EXIT_SPP;
use kvm_bindings::kvm_regs;
use std::path::Path;

const IA32_MISC_ENABLE: u32 = 0x1a0;
const IA32_PAT: u32 = 0x277;
/// What IA32_PAT is after reset, each half (SDM 3A 12.12.4).
const PAT_HALF: u32 = 0x0007_0406;

const SERIAL_PORT: u64 = 0x3f8;

/// An address that page tables map and no memory slot has.
const DEVICE: u64 = 2 * MEMORY as u64;

/// Bytes that string instructions move: to or from a port, and from [`DEVICE`].
const PORT_BYTES: u64 = 512;
const DEVICE_BYTES: u64 = 64;

/// Pages that one EPT page table maps, and the first that begins one here.
const TABLE: u64 = 512;
const TABLES_FROM: u64 = 4 << 20;

const ALL: u32 = u32::MAX;
const LOW_HALF: u32 = 0xffff;

/// A line of the table.
pub(crate) struct Row {
    /// What takes the ticks.
    pub(crate) name: &'static str,
    /// Whether it needs sub-page write permissions.
    pub(crate) spp: bool,
    /// What `kvm_intel` was found to need when the work was planned.
    pub(crate) planned: Option<u64>,
    /// Measures it on a device.
    pub(crate) ticks: fn(&Path) -> Result<u64>,
}

const fn both(name: &'static str, ticks: fn(&Path) -> Result<u64>) -> Row {
    Row {
        name,
        spp: false,
        planned: None,
        ticks,
    }
}

const fn spp(name: &'static str, ticks: fn(&Path) -> Result<u64>) -> Row {
    Row {
        name,
        spp: true,
        planned: None,
        ticks,
    }
}

impl Row {
    const fn planned(self, ticks: u64) -> Self {
        Self {
            planned: Some(ticks),
            ..self
        }
    }
}

/// All lines.
pub(crate) const ROWS: [Row; 24] = [
    both("CPUID exit", cpuid).planned(972),
    both("RDMSR exit (IA32_MISC_ENABLE)", rdmsr),
    both("WRMSR exit (IA32_PAT)", wrmsr),
    both("EPT fill of a 4K page", ept_fill).planned(3094),
    both("HLT to user space", hlt).planned(2240),
    both("PIO OUT to user space", pio_out).planned(2642),
    both("PIO IN to user space", pio_in),
    both("MOV to MMIO", mov_to_device).planned(4748),
    both("MOV from MMIO", mov_from_device).planned(5367),
    both("REP INSB of 512 bytes", rep_insb).planned(11538),
    both("REP OUTSB, per byte", rep_outsb),
    both("REP MOVSB from MMIO, per byte", rep_movsb).planned(3829),
    both("KVM_RUN without entry (EINTR)", without_entry),
    both("store to a plain page", plain_store),
    spp("store allowed by a map", allowed_store),
    spp("store completed in software", software_store),
    spp("denied store: exit, skip", skip),
    spp("denied store: exit, allow, retry", retry),
    spp("SET_MAPS, 1 page: protect", |d| set_maps(d, 1, false)),
    spp("SET_MAPS, 1 page: unprotect", |d| set_maps(d, 1, true)),
    spp("SET_MAPS, 512 pages: protect", |d| {
        set_maps(d, TABLE, false)
    }),
    spp("SET_MAPS, 512 pages: unprotect", |d| {
        set_maps(d, TABLE, true)
    }),
    spp("GET_MAPS, 1 page", |d| get_maps(d, 1)),
    spp("GET_MAPS, 512 pages", |d| get_maps(d, TABLE)),
];

fn cpuid(device: &Path) -> Result<u64> {
    exit_ticks(
        device,
        |a| {
            a.xor(eax, eax)?;
            a.xor(ecx, ecx)
        },
        |a| a.cpuid(),
    )
}

fn rdmsr(device: &Path) -> Result<u64> {
    exit_ticks(device, |a| a.mov(ecx, IA32_MISC_ENABLE), |a| a.rdmsr())
}

fn wrmsr(device: &Path) -> Result<u64> {
    exit_ticks(
        device,
        |a| {
            a.mov(ecx, IA32_PAT)?;
            a.mov(eax, PAT_HALF)?;
            a.mov(edx, PAT_HALF)
        },
        |a| a.wrmsr(),
    )
}

/// The first pass over fresh pages fills, the second does not. A page touched
/// before brings the tables above.
fn ept_fill(device: &Path) -> Result<u64> {
    let mut subject = Subject::new(device, timed_loop(&[store_and_advance])?)?;
    least(|round| {
        let base = TABLES_FROM + round * TABLE * PAGE_SIZE;
        subject.loop_ticks(1, base)?;
        let fill = subject.loop_ticks(TABLE - 1, base + PAGE_SIZE)?;
        let again = subject.loop_ticks(TABLE - 1, base + PAGE_SIZE)?;
        Ok(per(fill.saturating_sub(again), TABLE - 1))
    })
}

fn hlt(device: &Path) -> Result<u64> {
    Subject::new(device, endless(|a| a.hlt())?)?.ticks_to_user(KVM_EXIT_HLT, |_| Ok(()))
}

fn pio(device: &Path, program: guest::Program) -> Result<u64> {
    let mut subject = Subject::new(device, program)?;
    subject.set_regs(&kvm_regs {
        rdx: SERIAL_PORT,
        ..subject.entry()
    })?;
    subject.ticks_to_user(KVM_EXIT_IO, |_| Ok(()))
}

fn pio_out(device: &Path) -> Result<u64> {
    pio(device, endless(|a| a.out(dx, al))?)
}

fn pio_in(device: &Path) -> Result<u64> {
    pio(device, endless(|a| a.in_(al, dx))?)
}

fn device_access(device: &Path, program: guest::Program) -> Result<u64> {
    let mut subject = Subject::new(device, program)?;
    subject.set_regs(&kvm_regs {
        rdi: DEVICE,
        ..subject.entry()
    })?;
    subject.ticks_to_user(KVM_EXIT_MMIO, |_| Ok(()))
}

fn mov_to_device(device: &Path) -> Result<u64> {
    device_access(device, endless(|a| a.mov(dword_ptr(rdi), eax))?)
}

fn mov_from_device(device: &Path) -> Result<u64> {
    device_access(device, endless(|a| a.mov(eax, dword_ptr(rdi)))?)
}

fn rep_insb(device: &Path) -> Result<u64> {
    user_exits_ticks(
        device,
        KVM_EXIT_IO,
        |a| {
            a.mov(edx, SERIAL_PORT as u32)?;
            a.mov(edi, DATA as u32)?;
            a.mov(ecx, PORT_BYTES as u32)
        },
        |a| a.rep().insb(),
    )
}

fn rep_outsb(device: &Path) -> Result<u64> {
    let all = user_exits_ticks(
        device,
        KVM_EXIT_IO,
        |a| {
            a.mov(edx, SERIAL_PORT as u32)?;
            a.mov(esi, DATA as u32)?;
            a.mov(ecx, PORT_BYTES as u32)
        },
        |a| a.rep().outsb(),
    )?;
    Ok(per(all, PORT_BYTES))
}

fn rep_movsb(device: &Path) -> Result<u64> {
    let all = user_exits_ticks(
        device,
        KVM_EXIT_MMIO,
        |a| {
            a.mov(esi, DEVICE as u32)?;
            a.mov(edi, DATA as u32)?;
            a.mov(ecx, DEVICE_BYTES as u32)
        },
        |a| a.rep().movsb(),
    )?;
    Ok(per(all, DEVICE_BYTES))
}

fn without_entry(device: &Path) -> Result<u64> {
    Subject::new(device, endless(|a| a.hlt())?)?.ticks_without_entry()
}

fn plain_store(device: &Path) -> Result<u64> {
    store_ticks(Subject::new(device, timed_loop(&[store])?)?, device)
}

fn allowed_store(device: &Path) -> Result<u64> {
    let subject = Subject::with_spp(device, timed_loop(&[store])?)?;
    subject.vm.set_maps(DATA, &[1])?;
    store_ticks(subject, device)
}

fn software_store(device: &Path) -> Result<u64> {
    let subject = Subject::with_software_spp(device, timed_loop(&[store])?)?;
    subject.vm.set_maps(DATA, &[1])?;
    store_ticks(subject, device)
}

fn store_ticks(mut subject: Subject, device: &Path) -> Result<u64> {
    let with = subject.ticks_per_repetition(DATA)?;
    let mut empty = Subject::new(device, timed_loop(&[nothing])?)?;
    Ok(with.saturating_sub(empty.ticks_per_repetition(0)?))
}

fn skip(device: &Path) -> Result<u64> {
    let mut subject = Subject::with_spp(device, endless(|a| a.mov(byte_ptr(rdi), al))?)?;
    subject.vm.set_maps(DATA, &[0])?;
    let mut regs = kvm_regs {
        rdi: DATA,
        ..subject.entry()
    };
    subject.set_regs(&regs)?;
    regs.rip = subject.second_instruction();
    subject.ticks_to_user(KVM_EXIT_SPP, |subject| subject.set_regs(&regs))
}

/// The guest stores to one denied page after another; each is allowed after its
/// exit, so that a trip is one `KVM_SPP_SET_MAPS` and one `KVM_RUN`.
fn retry(device: &Path) -> Result<u64> {
    let (mut subject, base) = touched(device)?;
    let denied = [0; TABLE as usize];
    let mut regs = kvm_regs {
        rdi: base,
        ..subject.entry()
    };
    regs.rip = subject.label();
    least(|_| {
        subject.vm.set_maps(base, &denied)?;
        subject.set_regs(&regs)?;
        subject.run_until(KVM_EXIT_SPP)?;
        let start = now();
        for page in 0..TABLE - 1 {
            subject.vm.set_maps(base + page * PAGE_SIZE, &[ALL])?;
            subject.run_until(KVM_EXIT_SPP)?;
        }
        Ok(per(now() - start, TABLE - 1))
    })
}

fn set_maps(device: &Path, pages: u64, unprotect: bool) -> Result<u64> {
    let (subject, base) = touched(device)?;
    let protected = vec![LOW_HALF; pages as usize];
    let open = vec![ALL; pages as usize];
    least(|_| {
        let start = now();
        subject.vm.set_maps(base, &protected)?;
        let between = now();
        subject.vm.set_maps(base, &open)?;
        let end = now();
        Ok(if unprotect {
            end - between
        } else {
            between - start
        })
    })
}

fn get_maps(device: &Path, pages: u64) -> Result<u64> {
    let (subject, base) = touched(device)?;
    subject.vm.set_maps(base, &vec![LOW_HALF; pages as usize])?;
    least(|_| {
        let start = now();
        subject.vm.maps(base, pages as usize)?;
        Ok(now() - start)
    })
}

/// A guest with one page table's worth of pages mapped in its EPT, and the
/// address of the first.
fn touched(device: &Path) -> Result<(Subject, u64)> {
    let mut subject = Subject::with_spp(device, walk()?)?;
    subject.set_regs(&kvm_regs {
        rdi: TABLES_FROM,
        r9: TABLE,
        ..subject.entry()
    })?;
    subject.run_until(KVM_EXIT_HLT)?;
    Ok((subject, TABLES_FROM))
}

const _: () = assert!(
    TABLES_FROM + ROUNDS * TABLE * PAGE_SIZE <= MEMORY as u64,
    "each round needs fresh pages"
);
