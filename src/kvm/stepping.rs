// SPDX-License-Identifier: GPL-2.0

//! Instructions that are not emulated, executed by the processor one at a time on a private
//! view of memory in which the pages that they write to are open (`spp::view`).
//!
//! ```text
//!   footprint: all that it writes is allowed? no -> KVM_EXIT_SPP, or user space
//!        |
//!   copy the pages of code, compare the instruction in the copy
//!        |
//!   mmu lock: maps still allow it? build the view, remember the generation
//!        |
//!   entry::enter: generation as remembered?  no -> guest, which exits again
//!        |        VM entry with the view's EPTP, MTF, and all exceptions intercepted
//!        v
//!   any VM exit ends the view
//! ```
//!
//! KVM_SPP_SET_MAPS and the MMU notifier change the generation and make a CPU that is in the
//! view leave it before they return, as for any stay in the guest (see `tlb`).

use super::{
    emulator,
    guest::GuestMemory,
    report::UserExit,
    vcpu::State,
    vm::Vm, //
};
use crate::host::frame::Frame;
use emulate::{
    cpu::Cpu,
    footprint::{
        self,
        Footprint, //
    },
    guard,
    insn::Insn,
    stop::Stop,
    GuestPhys, //
};
use ept::{
    Gfn,
    Hpa,
    PAGE_SIZE, //
};
use kernel::prelude::*;
use spp::{
    Use,
    VIEW_FRAMES, //
};
use vmcore::cpuid;

/// Pages that an instruction can lie in.
const CODE_PAGES: usize = 2;

/// How often the pages that an instruction writes to are mapped for its view, before the
/// guest gets its turn.
const ATTEMPTS: u32 = 4;

/// What the next VM entry is to be made with.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    /// The view.
    pub(crate) eptp: u64,
    /// The generation of the tables that it was made from.
    pub(crate) generation: u64,
}

/// The frames of one vCPU's views.
#[derive(Default)]
pub(crate) struct Stepper {
    tables: KVec<Frame>,
    code: KVec<Frame>,
    /// Linear address of the instruction for which there was no view.
    failed: Option<u64>,
}

impl Stepper {
    fn fill(&mut self) -> Result {
        while self.tables.len() < VIEW_FRAMES {
            self.tables.push(Frame::new()?, GFP_KERNEL_ACCOUNT)?;
        }
        while self.code.len() < CODE_PAGES {
            self.code.push(Frame::new()?, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(())
    }

    fn table_frames(&self) -> Option<[Hpa; VIEW_FRAMES]> {
        let mut frames = [Hpa::new(0); VIEW_FRAMES];
        for (to, from) in frames.iter_mut().zip(&self.tables) {
            *to = from.hpa();
        }
        (self.tables.len() >= VIEW_FRAMES).then_some(frames)
    }

    /// Copies the pages of code; false where there is no memory.
    fn copy_code(&mut self, memory: &mut GuestMemory<'_>, code: &[Option<Gfn>; 2]) -> bool {
        let pages = self.code.iter_mut().zip(code.iter().flatten());
        pages
            .into_iter()
            .all(|(frame, gfn)| memory.read(gfn.gpa(), frame.bytes_mut()))
    }

    /// Whether the copies hold the instruction that was decoded.
    fn holds(&self, cpu: &Cpu, bytes: &[u8]) -> bool {
        let offset = cpu.code_location().linear(0).get() % PAGE_SIZE;
        let copies = self.code.iter().flat_map(|frame| frame.bytes());
        let mut copied = copies.skip(offset as usize);
        bytes.iter().all(|byte| copied.next() == Some(byte))
    }
}

/// Prepares the next VM entry to execute the instruction at RIP, which was decoded. `None`
/// enters the guest.
pub(crate) fn instruction(
    vm: &Vm,
    state: &mut State,
    insn: &Insn,
    cause: u8,
) -> Result<Option<UserExit>> {
    let mut memory = GuestMemory::new(vm);
    let footprint = match footprint_of(state, insn, &mut memory) {
        Ok(footprint) if vm.vmx.caps.monitor_trap() => footprint,
        Ok(_) | Err(Stop::Refused(_)) => return Ok(Some(state.emulator.failure())),
        Err(stop) => {
            return match memory.failure() {
                Some(error) => Err(error),
                None => Ok(emulator::stopped(state, &stop, cause)),
            }
        }
    };
    state.stepper.fill()?;
    if !state.copies(&mut memory, &footprint, insn) {
        return Ok(None);
    }
    for _ in 0..ATTEMPTS {
        if let Some(step) = view(vm, &state.stepper, &footprint) {
            state.guest.step = Some(step);
            state.stepper.failed = None;
            return Ok(None);
        }
        // Where the host had to copy a page first, it is mapped by a second try only.
        for gfn in footprint.data.into_iter().flatten() {
            vm.fault(&mut state.guest.reserve, gfn, true)?;
        }
    }
    // What is in the way, the guest's next try may change.
    let here = state.guest.linear_rip();
    match state.stepper.failed.replace(here) == Some(here) {
        true => Ok(Some(state.emulator.failure())),
        false => Ok(None),
    }
}

fn footprint_of(
    state: &mut State,
    insn: &Insn,
    memory: &mut GuestMemory<'_>,
) -> Result<Footprint, Stop> {
    let xsave_size = cpuid::standard_xsave_size(state.guest.xcr0);
    let mut cpu = *state.emulator.instruction().0;
    let (fpu, emulator) = state.emulation();
    let mut guest = guard::Guest::new(&mut cpu, fpu, memory, &mut emulator.journal);
    footprint::footprint(&mut guest, insn, xsave_size)
}

impl State {
    /// Copies the pages of code, and says whether the copies hold the instruction that was
    /// decoded.
    fn copies(&mut self, memory: &mut GuestMemory<'_>, footprint: &Footprint, insn: &Insn) -> bool {
        let (cpu, fetched) = self.emulator.instruction();
        let bytes = fetched.get().get(..usize::from(insn.len)).unwrap_or(&[]);
        self.stepper.copy_code(memory, &footprint.code) && self.stepper.holds(cpu, bytes)
    }
}

/// Builds the view, if the maps still allow what the instruction writes.
fn view(vm: &Vm, stepper: &Stepper, footprint: &Footprint) -> Option<Step> {
    let frames = stepper.table_frames()?;
    let mut pages = [(Gfn::new(0), Use::Open); 4];
    let code = stepper.code.iter().map(|copy| Use::Code(copy.hpa()));
    let code = footprint.code.iter().flatten().copied().zip(code);
    let data = footprint.data.iter().flatten().map(|gfn| (*gfn, Use::Open));
    let mut count = 0;
    for (to, page) in pages.iter_mut().zip(Iterator::chain(code, data)) {
        *to = page;
        count += 1;
    }
    let pages = pages.get(..count)?;
    let mmu = vm.mmu.lock();
    let open = |gfn: &Gfn| mmu.space.mask(&mmu.tables, *gfn).allows(footprint.touched);
    if !footprint.data.iter().flatten().all(open) {
        return None;
    }
    let root = mmu.space.view(&mmu.tables, &frames, pages).ok()?;
    Some(Step {
        eptp: ept::eptp(root, false),
        generation: vm.tlb.generation(),
    })
}
