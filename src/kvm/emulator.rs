// SPDX-License-Identifier: GPL-2.0

//! Instructions that the processor cannot finish: fetched, decoded and executed here,
//! with devices asked through user space.
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
    guest::GuestMemory,
    report::UserExit,
    stepping,
    vcpu::{
        Guest,
        Pending,
        State, //
    },
    vm::Vm, //
};
use emulate::{
    decode::{
        self,
        DecodeError, //
    },
    exec::{
        self,
        Done, //
    },
    fetch::{
        self,
        FetchStop,
        Fetched, //
    },
    guard,
    insn::Insn,
    journal::Journal,
    op::{
        Op,
        Policy, //
    },
    stop::{
        Denial,
        DeviceRead,
        Exception,
        PortRead,
        Stop, //
    }, //
};
use ioctl_api::run;
use kernel::prelude::*;
use vmcore::{
    event,
    step, //
};

/// How often an instruction starts over before the guest, signals and the scheduler get
/// their turn.
const RETRIES: u32 = 16;

/// The emulator's memory of one vCPU.
pub(crate) struct Emulator {
    pub(crate) journal: KBox<Journal>,
    /// Linear address of the instruction for which the guest was entered again although
    /// nothing had been done.
    stuck: Option<u64>,
}

impl Emulator {
    /// No device accesses.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            journal: KBox::new(Journal::new(), GFP_KERNEL_ACCOUNT)?,
            stuck: None,
        })
    }
}

/// What became of one attempt, and the instruction if it was decoded.
struct Attempt {
    result: Result<Done, Stop>,
    insn: Option<Insn>,
    fetched: Fetched,
}

/// Emulates the instruction at RIP. `None` enters the guest again.
///
/// `cause` is what a denial is told to come from, `KVM_SPP_CAUSE_*`. Errors: those of a
/// page look-up.
pub(crate) fn emulate(
    vm: &Vm,
    area: &Area,
    state: &mut State,
    cause: u8,
) -> Result<Option<UserExit>> {
    let old = state.with_vmcs(&vm.vmx, |vmcs, guest| guest.cpu(vmcs))?;
    let mut cpu = old;
    for _ in 0..RETRIES {
        let mut memory = GuestMemory::new(vm);
        let attempt = attempt(state, &mut cpu, &mut memory);
        if let Some(error) = memory.failure() {
            state.guest.take_registers(&cpu);
            return Err(error);
        }
        if attempt.result == Err(Stop::Retry) {
            continue;
        }
        return conclude(vm, area, state, (&old, &cpu), &attempt, cause);
    }
    state.guest.take_registers(&cpu);
    Ok(None)
}

/// Fetches, decodes and executes once.
fn attempt(
    state: &mut State,
    cpu: &mut emulate::cpu::Cpu,
    memory: &mut GuestMemory<'_>,
) -> Attempt {
    let at = cpu.code_location();
    let fetched = fetch::instruction(memory, &at);
    let decoded = decode::decode(fetched.get(), cpu.code);
    let insn = decoded.ok();
    let result = match decoded {
        Ok(insn) => {
            let (fpu, emulator) = state.emulation();
            emulator.journal.begin(at.linear(0).get());
            let mut guest = guard::Guest {
                cpu,
                fpu,
                memory,
                devices: &mut emulator.journal,
            };
            exec::execute(&mut guest, &insn)
        }
        Err(DecodeError::Undefined) => Err(Exception::UD.into()),
        Err(DecodeError::TooLong) => Err(Exception::gp(0).into()),
        Err(DecodeError::NeedMore) => Err(match fetched.end {
            Some(FetchStop::Exception(exception)) => exception.into(),
            Some(FetchStop::NoMemory(_)) | None => Stop::Refused(Op::Unknown),
        }),
    };
    Attempt {
        result,
        insn,
        fetched,
    }
}

/// Carries out what an attempt ended in.
fn conclude(
    vm: &Vm,
    area: &Area,
    state: &mut State,
    (old, cpu): (&emulate::cpu::Cpu, &emulate::cpu::Cpu),
    attempt: &Attempt,
    cause: u8,
) -> Result<Option<UserExit>> {
    let at = state.guest.linear_rip();
    // The elements of a string instruction that are finished count in any case.
    state.guest.take_registers(cpu);
    if attempt.result != Err(Stop::Reenter) {
        state.emulator.stuck = None;
    }
    match attempt.result {
        Ok(done) => {
            state.guest.finished(old, done);
            if old.segments != cpu.segments {
                state.with_vmcs(&vm.vmx, |vmcs, guest| guest.take_segments(vmcs, cpu))?;
            }
            Ok(devices(vm, area, state))
        }
        Err(Stop::Reenter) if state.emulator.stuck.replace(at) != Some(at) => Ok(None),
        Err(Stop::Refused(op)) if op.policy() == Policy::SingleStep => match &attempt.insn {
            Some(insn) => stepping::instruction(vm, state, cpu, (insn, &attempt.fetched), cause),
            None => Ok(Some(UserExit::Emulation(attempt.fetched))),
        },
        Err(stop) => Ok(stopped(
            state,
            &stop,
            (attempt.insn.as_ref(), &attempt.fetched),
            cause,
        )),
    }
}

/// Carries out a [`Stop`] that needs nothing but the vCPU. `instruction` is what was decoded
/// and fetched.
pub(crate) fn stopped(
    state: &mut State,
    stop: &Stop,
    instruction: (Option<&Insn>, &Fetched),
    cause: u8,
) -> Option<UserExit> {
    match stop {
        Stop::Exception(exception) => raise(&mut state.guest, exception),
        Stop::Denied(denial) => Some(denied(state, denial, instruction, cause)),
        Stop::DeviceRead(read) => Some(ask_device(state, *read)),
        Stop::PortRead(read) => Some(ask_port(state, *read)),
        Stop::Retry => None,
        Stop::Reenter | Stop::Refused(_) | Stop::Host => Some(UserExit::Emulation(*instruction.1)),
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

/// KVM_EXIT_SPP for a write of the instruction that was attempted.
fn denied(
    state: &State,
    denial: &Denial,
    (insn, fetched): (Option<&Insn>, &Fetched),
    cause: u8,
) -> UserExit {
    let mut exit = super::report::denied(denial, cause);
    exit.rip = state.guest.rip;
    super::report::put_instruction(&mut exit, fetched);
    if let Some(insn) = insn {
        exit.insn_len = insn.len;
        exit.flags |= ioctl_api::subpage::KVM_SPP_EXIT_INSN_LEN_VALID;
    }
    UserExit::Spp(exit)
}

/// Asks user space to read a device.
fn ask_device(state: &mut State, read: DeviceRead) -> UserExit {
    state.guest.pending = Some(Pending::Device {
        linear_rip: state.guest.linear_rip(),
        read,
    });
    UserExit::Mmio(run::MmioExit {
        phys_addr: read.gpa.get(),
        len: read.len.into(),
        ..run::MmioExit::default()
    })
}

/// Asks user space to read a port.
fn ask_port(state: &mut State, read: PortRead) -> UserExit {
    state.guest.pending = Some(Pending::Ports {
        linear_rip: state.guest.linear_rip(),
        read,
    });
    UserExit::Io(run::IoExit {
        direction: run::KVM_EXIT_IO_IN,
        size: read.size,
        port: read.port,
        count: read.count.into(),
        data_offset: run::PIO_DATA as u64,
    })
}

/// Tells devices what finished instructions have written, one exit at a time.
pub(crate) fn devices(_vm: &Vm, area: &Area, state: &mut State) -> Option<UserExit> {
    let journal = &mut state.emulator.journal;
    if let Some((port, size, value)) = journal.take_port_write() {
        area.store(run::PIO_DATA, value);
        return Some(UserExit::Io(run::IoExit {
            direction: run::KVM_EXIT_IO_OUT,
            size,
            port,
            count: 1,
            data_offset: run::PIO_DATA as u64,
        }));
    }
    let word = journal.next_write()?;
    state.guest.pending = Some(Pending::Writes);
    Some(UserExit::Mmio(run::MmioExit {
        phys_addr: word.gpa,
        data: word.data,
        len: word.len.into(),
        is_write: 1,
        ..run::MmioExit::default()
    }))
}

/// The data of a device has come: the instruction is executed again.
pub(crate) fn resume_device(
    vm: &Vm,
    area: &Area,
    state: &mut State,
    read: DeviceRead,
) -> Result<Option<UserExit>> {
    let data = area.load::<u64>(run::MMIO_DATA).to_le_bytes();
    if !state.emulator.journal.supply(read, data) {
        return super::violation::emulation_failure(vm, state).map(Some);
    }
    emulate(vm, area, state, ioctl_api::subpage::KVM_SPP_CAUSE_EMULATED)
}

/// The data of a port has come: the instruction is executed again.
pub(crate) fn resume_port(
    vm: &Vm,
    area: &Area,
    state: &mut State,
    read: PortRead,
) -> Result<Option<UserExit>> {
    let len = usize::from(read.count) * usize::from(read.size);
    let data = area.read(run::PIO_DATA, len)?;
    state.emulator.journal.supply_ports(read, &data);
    emulate(vm, area, state, ioctl_api::subpage::KVM_SPP_CAUSE_EMULATED)
}

impl Guest {
    /// Takes general registers, RIP and RFLAGS over from the emulator.
    fn take_registers(&mut self, cpu: &emulate::cpu::Cpu) {
        self.regs.gprs = cpu.gprs;
        self.rip = cpu.rip;
        self.rflags = cpu.rflags;
        self.dirty = true;
    }

    /// An instruction, or some elements of one, are finished: what follows from that
    /// besides registers.
    fn finished(&mut self, old: &emulate::cpu::Cpu, _done: Done) {
        let done = step::finish(0, old.rflags, self.interruptibility, 0, true);
        self.interruptibility = done.interruptibility;
        self.single_step |= done.single_step;
    }
}
