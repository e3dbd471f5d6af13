// SPDX-License-Identifier: GPL-2.0

//! Task switches, which a processor in VMX operation leaves to its hypervisor (SDM 3A
//! 7.3, SDM 3C 26.4.2).
//!
//! ```text
//!   TSS descriptor, new TSS      read and checked          exceptions of the old task
//!   old TSS, link, busy flags    prepared
//!        |
//!   CR3, LDTR, segments          loaded and checked        exceptions of the new task
//!   error code                   prepared
//!        |
//!   commit    accessed flags, old state, link, error code, busy flags
//! ```
//!
//! A stop before the commit leaves the old task as it was. Within the commit only the
//! owner of the memory can stop: what is written by then is written again when the
//! switch is tried again, and the busy flag of the new task, which would forbid that, is
//! set last.

mod load;
mod old;
mod state;

use ept::Gva;

use crate::descriptor::{error_code, is_null, system, Descriptor, Flag};
use crate::guard::{Guest, Intent, Span};
use crate::op::Op;
use crate::stop::{Exception, Stop};
use load::Loaded;
use old::Old;
use state::{Image, State};

/// What a task switch comes from, in the order of the exit qualification (SDM 3C table
/// 28-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// CALL.
    Call,
    /// IRET with NT set.
    Iret,
    /// JMP.
    Jmp,
    /// A task gate in the IDT.
    Event {
        /// An event that the program did not ask for with INT n, INT3 or INTO.
        external: bool,
        /// The error code, which goes to the stack of the new task.
        error_code: Option<u32>,
    },
}

impl Reason {
    /// EXT of error codes.
    const fn external(self) -> bool {
        matches!(self, Self::Event { external: true, .. })
    }

    /// The new task returns to the old one.
    const fn nests(self) -> bool {
        matches!(self, Self::Call | Self::Event { .. })
    }
}

/// A task switch that is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    /// The new task. Who asks for it has the right to: the processor checks that before
    /// it exits.
    pub selector: u16,
    /// What it comes from.
    pub reason: Reason,
    /// Where the old task goes on. Its other registers are those of the CPU; RFLAGS.RF
    /// is set there already if it goes on with an instruction that has faulted.
    pub next_rip: u64,
}

/// What is left to do after a task switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switched {
    /// The new task gets this exception before its first instruction. The segments whose
    /// loading it has prevented cannot be used; CS is flat then.
    pub exception: Option<Exception>,
    /// T is set in the new TSS: the new task gets #DB with DR6.BT before its first
    /// instruction.
    pub trap: bool,
}

/// Makes a task switch. The caller clears the local enable flags of DR7, and its pending
/// event if the switch delivers one.
///
/// # Errors
///
/// [`Stop::Exception`]: the old task gets it, and nothing has changed. So it is with all
/// other [`Stop`]s, but that after [`Stop::Retry`] and [`Stop::Host`] parts of it may be
/// in memory, which do no harm. [`Stop::Refused`]: there are no task switches in IA-32e
/// mode, or the page-directory-pointer table is not in memory.
pub fn switch(guest: &mut Guest<'_>, switch: &Switch) -> Result<Switched, Stop> {
    if guest.cpu.paging.long_mode() {
        return Err(Stop::Refused(Op::Unknown));
    }
    let old = Old::new(guest.cpu);
    let posted = guest.devices.posted();
    let result = change(guest, switch, &old);
    if result.is_err() {
        old.restore(guest.cpu);
        guest.devices.take_back(posted);
    }
    result
}

/// Reads the new task. `old` are the registers of the old one.
// These functions are not inlined into each other: each has its part of the stack.
#[inline(never)]
fn change(guest: &mut Guest<'_>, switch: &Switch, old: &Old) -> Result<Switched, Stop> {
    let target = target(guest, switch)?;
    let state = State::read(guest, &target)?;
    let exception = enter(guest, switch, old, &target, &state)?;
    Ok(Switched {
        exception,
        trap: state.trap(),
    })
}

/// Prepares what is written, loads the registers of the new task, and writes.
#[inline(never)]
fn enter(
    guest: &mut Guest<'_>,
    switch: &Switch,
    old: &Old,
    target: &Descriptor,
    state: &State,
) -> Result<Option<Exception>, Stop> {
    let mut writes = Writes::default();
    writes.prepare(guest, switch, target)?;
    state.load_registers(guest, target, switch.reason)?;
    let mut loaded = Loaded::default();
    let exception = match load::segments(guest, state, switch.reason, &mut loaded) {
        Ok(()) => None,
        Err(Stop::Exception(exception)) => Some(exception),
        Err(stop) => return Err(stop),
    };
    loaded.set_accessed(guest)?;
    writes.commit(guest, switch, old, &mut loaded)?;
    Ok(exception)
}

/// Reads and checks the descriptor of the new TSS (SDM 3A table 7-1).
#[inline(never)]
fn target(guest: &mut Guest<'_>, switch: &Switch) -> Result<Descriptor, Stop> {
    let code = error_code(switch.selector, switch.reason.external());
    let back = switch.reason == Reason::Iret;
    let wrong = match back {
        true => Exception::ts(code),
        false => Exception::gp(code),
    };
    // TI: a TSS descriptor is in the GDT.
    if is_null(switch.selector) || switch.selector & 4 != 0 {
        return Err(wrong.into());
    }
    let target = Descriptor::read(guest, switch.selector, wrong)?;
    let busy = matches!(target.kind(), system::TSS16_BUSY | system::TSS32_BUSY);
    let available = matches!(target.kind(), system::TSS16 | system::TSS32);
    if !target.is_system() || !(if back { busy } else { available }) {
        return Err(wrong.into());
    }
    if !target.is_present() {
        return Err(Exception::np(code).into());
    }
    if target.limit() < state::last(is_wide(target.kind())) {
        return Err(Exception::ts(code).into());
    }
    Ok(target)
}

/// A TSS of 32 bits, by its type.
const fn is_wide(kind: u8) -> bool {
    kind & 8 != 0
}

/// What a switch writes outside the new task's own segments.
#[derive(Default)]
struct Writes {
    /// The state of the old task.
    old: Option<Span>,
    /// The old task is no longer busy.
    old_busy: Option<Flag>,
    /// The selector of the old task, in the new TSS.
    link: Option<Span>,
    /// The new task is busy.
    new_busy: Option<Flag>,
}

impl Writes {
    #[inline(never)]
    fn prepare(
        &mut self,
        guest: &mut Guest<'_>,
        switch: &Switch,
        new: &Descriptor,
    ) -> Result<(), Stop> {
        let tr = guest.cpu.tr;
        let wrong = Exception::ts(error_code(tr.selector, switch.reason.external()));
        let (at, len, bytes) = state::saved(is_wide(tr.attributes as u8));
        if u64::from(tr.limit) < at.wrapping_add(len.into()).wrapping_sub(1) {
            return Err(wrong.into());
        }
        let at = guest.cpu.linear(Gva::new(tr.base), at);
        self.old = Some(guest.prepare_bytes(at, len, Intent::Write, bytes, true)?);
        if switch.reason.nests() {
            let at = Gva::new(new.base());
            self.link = Some(guest.prepare_bytes(at, 2, Intent::Write, u64::MAX, true)?);
        } else {
            let descriptor = Descriptor::read(guest, tr.selector, wrong)?;
            self.old_busy = Some(descriptor.prepare_kind(guest, descriptor.kind() & !2)?);
        }
        if switch.reason != Reason::Iret {
            self.new_busy = Some(new.prepare_kind(guest, new.kind() | 2)?);
        }
        Ok(())
    }

    /// Writes all of it, and the error code of the new task.
    #[inline(never)]
    fn commit(
        &mut self,
        guest: &mut Guest<'_>,
        switch: &Switch,
        old: &Old,
        loaded: &mut Loaded,
    ) -> Result<(), Stop> {
        if let Some(span) = self.old.take() {
            let image = Image::new(old, switch);
            let (_, _, bytes) = state::saved(image.is_wide());
            guest.commit_bytes(span, image.bytes(), bytes)?;
        }
        if let Some(span) = self.link.take() {
            guest.commit(span, &old.tr.selector.to_le_bytes())?;
        }
        loaded.push(guest)?;
        for flag in [&mut self.old_busy, &mut self.new_busy] {
            if let Some(flag) = flag.take() {
                flag.set(guest)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "tests/task.rs"]
mod tests;
