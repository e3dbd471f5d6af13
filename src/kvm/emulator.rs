// SPDX-License-Identifier: GPL-2.0

//! Instructions that the processor cannot finish: fetched, decoded and executed here,
//! with devices asked through user space ([`devices`]).
//!
//! ```text
//!   exit --> emulate: registers from the VMCS
//!              |
//!              +--> fetch, decode, execute --Retry--.
//!              |        ^---------------------------'
//!              |
//!     finished |  exception  | denied      | device must be read | not emulated
//!              v             v             v                     v
//!     writes to devices   raise it      KVM_EXIT_SPP   KVM_EXIT_MMIO, _IO    step, or
//!     KVM_EXIT_MMIO, _IO                                    |              KVM_EXIT_INTERNAL_ERROR
//!              ^                                            v
//!              '------------ resume, at the next KVM_RUN: the data is in the journal
//! ```
//!
//! What a write means, and whether it is allowed, is the `emulate` crate's to say.

use super::{
    area::Area,
    decoded::Decoded,
    devices,
    guest::GuestMemory,
    report::UserExit,
    stepping,
    vcpu::{
        Guest,
        State, //
    },
    vm::Vm, //
};
use crate::vmx::{
    host_state::DebugRegs,
    window::Current, //
};
use emulate::{
    cpu::{
        gpr,
        rflags,
        Cpu, //
    },
    decode::DecodeError,
    descriptor,
    exec::{
        self,
        Done, //
    },
    fetch::{
        FetchStop,
        Fetched, //
    },
    guard::{
        self,
        Page,
        Translations, //
    },
    journal::Journal,
    op::{
        Op,
        Policy, //
    },
    stop::{
        Denial,
        Exception,
        Stop, //
    }, //
};
use ept::{
    Gfn,
    Gpa, //
};
use ioctl_api::subpage::{
    KVM_SPP_CAUSE_EMULATED,
    KVM_SPP_EXIT_INSN_LEN_VALID, //
};
use kernel::prelude::*;
use vmcore::{
    event,
    exit::{
        reason,
        Exit,
        RawExit, //
    },
    step, //
};

/// How often an instruction starts over before the guest, signals and the scheduler get
/// their turn.
const RETRIES: u32 = 16;

/// What the registers in [`Emulator::cpu`] are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Registers {
    /// Nothing that counts.
    Stale,
    /// Those of the last exit.
    OfExit,
    /// Those of the instruction in [`Emulator::decoded`], which waits for a device.
    Waiting,
}

/// The emulator's memory of one vCPU.
pub(crate) struct Emulator {
    pub(crate) journal: KBox<Journal>,
    /// Large, and so changed in its place.
    cpu: Cpu,
    registers: Registers,
    /// What few instructions need of them is there, too.
    tables: bool,
    decoded: Decoded,
    /// What is known of where its operands are.
    translations: Translations,
    /// Linear address of the instruction for which the guest was entered again although
    /// nothing had been done.
    stuck: Option<u64>,
}

impl Emulator {
    /// No device accesses.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            journal: KBox::new(Journal::new(), GFP_KERNEL_ACCOUNT)?,
            cpu: Cpu::default(),
            registers: Registers::Stale,
            tables: false,
            decoded: Decoded::NOTHING,
            translations: Translations::NONE,
            stuck: None,
        })
    }

    /// Registers change by other means: what was decoded and computed no longer counts.
    /// Data that devices gave does.
    pub(crate) fn forget(&mut self) {
        self.registers = Registers::Stale;
    }

    /// The registers and the bytes of the instruction that was decoded last.
    pub(crate) fn instruction(&self) -> (&Cpu, &Fetched) {
        (&self.cpu, &self.decoded.fetched)
    }

    /// Bytes of the instruction that was decoded last, if it could be.
    pub(crate) fn length(&self) -> Option<u8> {
        self.decoded.insn.map(|insn| insn.len)
    }

    /// The exit for the instruction that was fetched last.
    pub(crate) fn failure(&self) -> UserExit {
        UserExit::Emulation((&self.decoded.fetched).into())
    }

    /// Reads the registers at an exit, as far as most instructions need them.
    pub(crate) fn fetch_registers(&mut self, vmcs: &Current<'_>, guest: &Guest, debug: &DebugRegs) {
        self.tables = guest.load_cpu(vmcs, debug, &mut self.cpu);
        self.registers = Registers::OfExit;
    }

    /// Begins with what the exit tells of where the operands are.
    fn begin_translations(&mut self, exit: Option<&RawExit>) {
        self.translations = Translations::NONE;
        let violation = |exit: &&RawExit| exit.basic() == reason::EPT_VIOLATION;
        let Some(stopped) = exit.filter(violation).map(RawExit::violation) else {
            return;
        };
        // A write may have been stopped before the dirty flag was set.
        let plain = stopped.read && stopped.final_translation && !stopped.write;
        if let (Some(gla), true) = (stopped.gla, plain && !stopped.asynchronous) {
            self.translations = Translations::of_stopped_read(&self.cpu.paging, gla, stopped.gpa);
        }
    }

    /// Whether the decoded instruction needs registers that were left out.
    fn lacks_tables(&self) -> bool {
        let Some(insn) = &self.decoded.insn else {
            return false;
        };
        let ports = matches!(insn.op, Op::Ins | Op::Outs) && self.cpu.cpl > 0;
        !self.tables && (ports || insn.op.reads_tables())
    }
}

/// Emulates the instruction at RIP. `None` enters the guest again.
///
/// `cause` is what a denial is told to come from, `KVM_SPP_CAUSE_*`; `seen` is what has been
/// found at the frame of the exit. Errors: those of a page look-up.
pub(crate) fn emulate(
    vm: &Vm,
    area: &Area,
    state: &mut State,
    cause: u8,
    seen: Option<Page>,
) -> Result<Option<UserExit>> {
    start(vm, area, state, cause, Some(seen))
}

/// The same; `at_exit`: the registers are those of the last exit.
fn start(
    vm: &Vm,
    area: &Area,
    state: &mut State,
    cause: u8,
    at_exit: Option<Option<Page>>,
) -> Result<Option<UserExit>> {
    state.guest.emulated = Some(state.guest.exit_gfn());
    state.fetch_most_registers(vm)?;
    let emulator = &mut state.emulator;
    let mut memory = GuestMemory::new(vm);
    if let Some(Some(page)) = at_exit {
        memory.expect(state.guest.exit_gfn(), page);
    }
    let stop = match emulator.decoded.fetch(&mut memory, &emulator.cpu) {
        Ok(()) => {
            // Bytes behind the instruction may not be there.
            memory.forgive();
            if state.emulator.lacks_tables() {
                state.fetch_tables(vm)?;
            }
            let exit = at_exit.and(Some(&state.guest.exit));
            state.emulator.begin_translations(exit);
            return execute(vm, area, state, &mut memory, cause);
        }
        Err(DecodeError::Undefined) => Exception::UD.into(),
        Err(DecodeError::TooLong) => Exception::gp(0).into(),
        Err(DecodeError::NeedMore) => match (memory.failure(), emulator.decoded.fetched.end) {
            (Some(error), _) => return Err(error),
            (None, Some(FetchStop::Exception(exception))) => exception.into(),
            (None, Some(FetchStop::NoMemory(_)) | None) => Stop::Refused(Op::Unknown),
        },
    };
    state.guest.rflags |= rflags::RF;
    state.guest.dirty = true;
    state.emulator.forget();
    Ok(stopped(state, &stop, cause))
}

/// Executes the decoded instruction, again and again as long as memory changes meanwhile.
fn execute<'a>(
    vm: &'a Vm,
    area: &Area,
    state: &mut State,
    memory: &mut GuestMemory<'a>,
    cause: u8,
) -> Result<Option<UserExit>> {
    let cpu = &state.emulator.cpu;
    let (traced, before) = (cpu.rflags & rflags::TF != 0, cpu.gpr(gpr::RCX));
    let at = cpu.code_address().get();
    let mut result = Err(Stop::Retry);
    for _ in 0..RETRIES {
        result = state.attempt(memory, at);
        if let Some(error) = memory.failure() {
            state.take_registers();
            return Err(error);
        }
        if !matches!(result, Err(Stop::Retry)) {
            break;
        }
        *memory = GuestMemory::new(vm);
    }
    // The elements of a string instruction that are finished count in any case.
    state.take_registers();
    if let Some(gfn) = memory.unmapped() {
        // It is written; whether it can be mapped now is no matter.
        vm.fault(&mut state.guest.reserve, gfn, true).ok();
    }
    if !matches!(result, Err(Stop::Reenter)) {
        state.emulator.stuck = None;
    }
    match result {
        Ok(_) => finish(vm, area, state, traced),
        // Between two elements of a string instruction events come first.
        Err(Stop::DeviceRead(_) | Stop::PortRead(_))
            if state.guest.events.any() && state.emulator.cpu.gpr(gpr::RCX) != before =>
        {
            state.guest.rflags |= rflags::RF;
            Ok(None)
        }
        Err(stop @ (Stop::DeviceRead(_) | Stop::PortRead(_))) => {
            state.emulator.registers = Registers::Waiting;
            Ok(stopped(state, &stop, cause))
        }
        Err(Stop::Reenter) if state.emulator.stuck.replace(at) != Some(at) => Ok(None),
        Err(Stop::Refused(op)) if op.policy() == Policy::SingleStep || op == Op::SystemLoad => {
            match state.emulator.decoded.insn {
                Some(insn) => stepping::instruction(vm, state, &insn, cause),
                None => Ok(None),
            }
        }
        Err(Stop::Refused(Op::LoadSreg | Op::Iret)) => mark_descriptor(vm, state, cause),
        Err(stop) => Ok(stopped(state, &stop, cause)),
    }
}

/// Marks the descriptor accessed that the processor was about to mark when it left the
/// guest, which then loads it again.
fn mark_descriptor(vm: &Vm, state: &mut State, cause: u8) -> Result<Option<UserExit>> {
    let at = match Exit::decode(&state.guest.exit) {
        Exit::EptViolation(violation) if violation.write => violation.gla,
        _ => None,
    };
    let Some(at) = at else {
        return Ok(Some(state.emulator.failure()));
    };
    let mut memory = GuestMemory::new(vm);
    let (fpu, emulator) = state.emulation();
    let Emulator { cpu, journal, .. } = emulator;
    let mut guest = guard::Guest::new(cpu, fpu, &mut memory, journal);
    let marked = descriptor::mark_accessed(&mut guest, at);
    match (memory.failure(), marked) {
        (Some(error), _) => Err(error),
        (None, Ok(true)) => Ok(None),
        (None, Ok(false)) => Ok(Some(state.emulator.failure())),
        (None, Err(stop)) => Ok(stopped(state, &stop, cause)),
    }
}

/// What follows from an instruction, or some elements of one, besides general registers.
fn finish(vm: &Vm, area: &Area, state: &mut State, traced: bool) -> Result<Option<UserExit>> {
    let guest = &mut state.guest;
    guest.interruptibility &= !step::SHADOW;
    guest.single_step |= traced;
    let op = state.emulator.decoded.insn.as_ref().map(|insn| insn.op);
    if matches!(op, Some(Op::CallFar | Op::JmpFar | Op::RetFar)) {
        state.with_emulator(&vm.vmx, |vmcs, guest, emulator| {
            guest.take_segments(vmcs, &emulator.cpu);
        })?;
    }
    Ok(devices::tell(vm, area, state))
}

/// Carries out a [`Stop`] of the decoded instruction that needs nothing but the vCPU.
pub(crate) fn stopped(state: &mut State, stop: &Stop, cause: u8) -> Option<UserExit> {
    match stop {
        Stop::Exception(exception) => raise(&mut state.guest, exception),
        Stop::Denied(denial) => Some(denied(state, denial, cause)),
        Stop::DeviceRead(read) => Some(devices::ask(state, *read)),
        Stop::PortRead(read) => Some(devices::ask_port(state, *read)),
        Stop::Retry => None,
        Stop::Reenter | Stop::Refused(_) | Stop::Host => Some(state.emulator.failure()),
    }
}

/// Gives the guest an exception.
pub(crate) fn raise(guest: &mut Guest, exception: &Exception) -> Option<UserExit> {
    if let Some(address) = exception.cr2 {
        guest.cr2 = address.get();
    }
    let code = exception.error_code.unwrap_or(0);
    guest
        .events
        .raise(event::Exception::hardware(exception.vector, code));
    match guest.events.triple_fault() {
        true => Some(UserExit::Stop(super::entry::Stop::Shutdown)),
        false => None,
    }
}

/// KVM_EXIT_SPP for a write of the decoded instruction.
fn denied(state: &mut State, denial: &Denial, cause: u8) -> UserExit {
    let mut exit = super::report::denied(denial, cause);
    exit.rip = state.guest.rip;
    super::report::put_instruction(&mut exit, &state.emulator.decoded.fetched);
    if let Some(insn) = &state.emulator.decoded.insn {
        exit.insn_len = insn.len;
        exit.flags |= KVM_SPP_EXIT_INSN_LEN_VALID;
    }
    state.guest.tell_denied(exit)
}

/// Goes on with an instruction that has waited for a device, whose data is in the journal.
pub(crate) fn resume(vm: &Vm, area: &Area, state: &mut State) -> Result<Option<UserExit>> {
    match state.emulator.registers {
        Registers::Waiting => {
            let mut memory = GuestMemory::new(vm);
            execute(vm, area, state, &mut memory, KVM_SPP_CAUSE_EMULATED)
        }
        // Whoever has changed the registers may have changed page tables, too.
        _ => start(vm, area, state, KVM_SPP_CAUSE_EMULATED, None),
    }
}

impl State {
    /// Reads all registers for the emulator, where the exit has not.
    pub(crate) fn fetch_registers(&mut self, vm: &Vm) -> Result {
        self.fetch_most_registers(vm)?;
        match self.emulator.tables {
            true => Ok(()),
            false => self.fetch_tables(vm),
        }
    }

    /// Reads those that most instructions need.
    #[inline]
    fn fetch_most_registers(&mut self, vm: &Vm) -> Result {
        match self.emulator.registers {
            Registers::OfExit => Ok(()),
            _ => self.fetch_unread_registers(vm),
        }
    }

    #[cold]
    fn fetch_unread_registers(&mut self, vm: &Vm) -> Result {
        let debug = self.unswitched.debug;
        self.with_emulator(&vm.vmx, |vmcs, guest, emulator| {
            emulator.fetch_registers(vmcs, guest, &debug);
        })
    }

    /// Reads the others.
    fn fetch_tables(&mut self, vm: &Vm) -> Result {
        self.with_emulator(&vm.vmx, |vmcs, _, emulator| {
            Guest::load_tables(vmcs, &mut emulator.cpu);
            emulator.tables = true;
        })
    }

    /// Executes the decoded instruction, which is at linear address `at`, once.
    fn attempt(&mut self, memory: &mut GuestMemory<'_>, at: u64) -> Result<Done, Stop> {
        let fpu = self.fpu.image_mut();
        let Emulator {
            journal,
            cpu,
            decoded,
            translations,
            ..
        } = &mut self.emulator;
        let Some(insn) = &decoded.insn else {
            return Err(Stop::Retry);
        };
        journal.begin(at);
        let mut guest = guard::Guest::new(cpu, fpu, memory, journal);
        guest.keep_translations(translations);
        let result = exec::execute(&mut guest, insn);
        match result {
            Ok(_) => self.guest.breakpoints |= guest.breakpoints_met(),
            // The instruction goes on when the data is there.
            Err(Stop::DeviceRead(_) | Stop::PortRead(_)) => *translations = *guest.translations(),
            Err(_) => {}
        }
        result
    }

    /// The vCPU with the registers of the emulator; what it reads of devices belongs to the
    /// instruction at linear address `at`.
    pub(crate) fn begin<'a>(
        &'a mut self,
        memory: &'a mut GuestMemory<'_>,
        at: u64,
    ) -> guard::Guest<'a> {
        let (fpu, emulator) = self.emulation();
        emulator.journal.begin(at);
        guard::Guest::new(&mut emulator.cpu, fpu, memory, &mut emulator.journal)
    }

    /// Takes general registers, RIP and RFLAGS over from the emulator.
    fn take_registers(&mut self) {
        self.guest.take_registers(&self.emulator.cpu);
        self.emulator.registers = Registers::Stale;
    }
}

impl Guest {
    /// The frame of the last exit; 0 for a port.
    fn exit_gfn(&self) -> Gfn {
        Gpa::new(self.exit.gpa).gfn()
    }

    /// Whether the last exit is where an instruction was emulated before: then the one that
    /// caused it will be, too. A wrong guess costs some VMREADs.
    pub(crate) fn emulates_here(&self) -> bool {
        self.emulated == Some(self.exit_gfn())
    }

    /// Takes general registers, RIP and RFLAGS over from the emulator.
    pub(crate) fn take_registers(&mut self, cpu: &Cpu) {
        self.regs.gprs = cpu.gprs;
        self.rip = cpu.rip;
        self.rflags = cpu.rflags;
        self.dirty = true;
    }
}
