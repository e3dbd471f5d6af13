// SPDX-License-Identifier: GPL-2.0

//! Where the processor writes when it delivers an event (SDM 3A 6.12, 6.14 and 20.3,
//! SDM 2A INT n).
//!
//! ```text
//!   real mode             32-bit gate, same level    64-bit gate
//!   SP -> | FLAGS |       ESP -> | EFLAGS |          RSP & ~15 -> | SS     |
//!         | CS    |              | CS     |                       | RSP    |
//!         | IP    |              | EIP    |                       | RFLAGS |
//!                                | error  |                       | CS     |
//!                                                                 | RIP    |
//!   from another level: ESP of the TSS, and SS, ESP above;        | error  |
//!   from virtual-8086 mode: GS, FS, DS, ES above these too
//! ```
//!
//! The processor delivers events itself. Where it does so on a private view of memory,
//! in which sub-pages do not count, this tells beforehand whether it may.

use ept::Gva;

use crate::cpu::{rflags, Cpu};
use crate::descriptor::{error_code, is_null, read_system, system, Descriptor};
use crate::guard::{Guest, Intent};
use crate::stack::{self, Stack};
use crate::stop::{Exception, Stop};

const CR0_PE: u64 = 1 << 0;
const CR4_VME: u64 = 1 << 0;
/// IDT: the error code names an entry of the IDT (SDM 3A 6.13).
const IN_IDT: u32 = 1 << 1;
/// Offset in a 32-bit TSS of the I/O map's offset.
const IO_MAP_BASE: u64 = 102;
/// The last byte that a 32-bit TSS must have.
const TSS_LIMIT: u32 = 103;

/// What an event is, in the order of the VM-entry interruption types (SDM 3C 25.8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An interrupt from outside.
    External,
    /// A non-maskable interrupt.
    Nmi,
    /// An exception that an instruction did not ask for.
    Exception,
    /// INT n.
    SoftwareInterrupt,
    /// INT1.
    PrivilegedSoftwareException,
    /// INT3 or INTO.
    SoftwareException,
}

impl Kind {
    /// The program asks for it, and so needs the right to enter the gate.
    const fn is_software(self) -> bool {
        matches!(self, Self::SoftwareInterrupt | Self::SoftwareException)
    }
}

/// An event that is to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Vector.
    pub vector: u8,
    /// What it is.
    pub kind: Kind,
    /// An error code is pushed with it. In real mode none is, whatever this says.
    pub error_code: bool,
}

impl Event {
    /// EXT of the error codes of what goes wrong on its delivery.
    const fn external(&self) -> bool {
        !self.kind.is_software()
    }

    /// The error code that names its gate.
    const fn gate_code(&self) -> u32 {
        (self.vector as u32) << 3 | IN_IDT | self.external() as u32
    }
}

/// Bytes that the delivery of an event writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Linear address of the first.
    pub gva: Gva,
    /// How many.
    pub len: u16,
    /// They are in a descriptor: written whatever the privilege level.
    pub system: bool,
}

/// All bytes that the delivery of an event writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// On the stack, and the access bytes of CS and SS where these are loaded first.
    ranges: [Option<Range>; 4],
    /// The handler runs at CPL 3.
    user: bool,
}

impl Frame {
    /// The bytes; none if the event is delivered by a task switch, which is a VM exit.
    pub fn ranges(&self) -> impl Iterator<Item = Range> + '_ {
        self.ranges.iter().flatten().copied()
    }

    /// `slots` pushes of `size` bytes onto `stack`.
    fn new(cpu: &Cpu, stack: &Stack, slots: u16, size: u16) -> Option<Self> {
        let pushed = stack.push(cpu, slots, size)?;
        let range = |(gva, len)| Range {
            gva,
            len,
            system: false,
        };
        Some(Self {
            ranges: [
                Some(range(pushed.at)),
                pushed.wrapped.map(range),
                None,
                None,
            ],
            user: cpu.paging.user,
        })
    }

    /// Adds the access bytes of descriptors that are loaded.
    fn loading(mut self, guest: &Guest<'_>, code: &Descriptor, stack: Option<&Descriptor>) -> Self {
        let range = |gva| Range {
            gva,
            len: 1,
            system: true,
        };
        let [_, _, cs, ss] = &mut self.ranges;
        *cs = code.accessed_byte(guest).map(range);
        *ss = stack
            .and_then(|stack| stack.accessed_byte(guest))
            .map(range);
        self
    }
}

/// Says where the delivery of an event writes, now.
///
/// # Errors
///
/// [`Stop::Exception`] where the delivery would end in that exception instead, before it
/// writes anything; other [`Stop`]s of reading the guest's tables. Nothing has changed
/// but accessed flags of pages.
pub fn frame(guest: &mut Guest<'_>, event: &Event) -> Result<Frame, Stop> {
    if guest.cpu.paging.cr0 & CR0_PE == 0 {
        let end = u32::from(event.vector) << 2 | 3;
        if end > guest.cpu.idtr.limit.into() {
            return Err(Exception::gp(event.gate_code()).into());
        }
        return real(guest.cpu);
    }
    let in_v86 = guest.cpu.rflags & rflags::VM != 0;
    if in_v86 && event.kind == Kind::SoftwareInterrupt && redirected(guest, event.vector)? {
        return real(guest.cpu);
    }
    protected(guest, event)
}

/// Checks that all that the delivery of an event writes may be written.
///
/// # Errors
///
/// [`Stop::Denied`] where the sub-page maps forbid it, [`Stop::Exception`] where the
/// guest's page tables do.
pub fn allowed(guest: &mut Guest<'_>, frame: &Frame) -> Result<(), Stop> {
    let user = guest.cpu.paging.user;
    guest.cpu.paging.user = frame.user;
    let result = frame.ranges().try_for_each(|range| {
        let Range { gva, len, system } = range;
        let intent = match system {
            true => Intent::ReadWrite,
            false => Intent::Write,
        };
        guest
            .prepare_bytes(gva, len, intent, u64::MAX, system)
            .map(drop)
    });
    guest.cpu.paging.user = user;
    result
}

/// FLAGS, CS and IP.
fn real(cpu: &Cpu) -> Result<Frame, Stop> {
    let frame = Frame::new(cpu, &Stack::current(cpu), 3, 2);
    frame.ok_or(Exception::ss(0).into())
}

/// Whether INT n in virtual-8086 mode goes to the handler of that mode (SDM 3A table
/// 20-2).
fn redirected(guest: &mut Guest<'_>, vector: u8) -> Result<bool, Stop> {
    let trusted = guest.cpu.rflags & rflags::IOPL == rflags::IOPL;
    if guest.cpu.paging.cr4 & CR4_VME != 0 {
        let tss = guest.cpu.tr;
        if tss.limit < TSS_LIMIT {
            return Err(Exception::gp(0).into());
        }
        let base = Gva::new(tss.base);
        let map = guest.cpu.linear(base, IO_MAP_BASE);
        let map = u16::from_le_bytes(read_system(guest, map)?);
        // The 32 bytes before the I/O map.
        let at = u64::from(map)
            .wrapping_add(u64::from(vector >> 3))
            .wrapping_sub(32);
        if at > tss.limit.into() {
            return Err(Exception::gp(0).into());
        }
        let at = guest.cpu.linear(base, at);
        let [byte] = read_system(guest, at)?;
        if byte >> (vector & 7) & 1 == 0 {
            return Ok(true);
        }
    }
    match trusted {
        true => Ok(false),
        false => Err(Exception::gp(0).into()),
    }
}

/// An interrupt or trap gate.
struct Gate {
    selector: u16,
    /// Bytes of a slot of the frame.
    slot: u16,
    /// Entry of the interrupt stack table.
    ist: u8,
}

fn protected(guest: &mut Guest<'_>, event: &Event) -> Result<Frame, Stop> {
    let Some(gate) = gate(guest, event)? else {
        return Ok(Frame::default());
    };
    let external = event.external();
    let code = code_segment(guest, &gate, external)?;
    let cpl = match code.is_conforming() {
        true => guest.cpu.cpl,
        false => code.dpl(),
    };
    let in_v86 = guest.cpu.rflags & rflags::VM != 0;
    if in_v86 && cpl != 0 {
        return Err(Exception::gp(error_code(gate.selector, external)).into());
    }
    let inner = cpl < guest.cpu.cpl;
    let (mut stack, descriptor) = match inner || gate.ist != 0 {
        true => stack::inner(guest, cpl, gate.ist, external)?,
        false => (Stack::current(guest.cpu), None),
    };
    let slots = match (gate.slot, in_v86, inner) {
        (8, _, _) => 5,
        (_, true, _) => 9,
        (_, _, true) => 5,
        (_, _, false) => 3,
    };
    if gate.slot == 8 {
        stack.width = 8;
        if !guest.cpu.paging.canonical(stack.pointer) {
            return Err(Exception::ss(external.into()).into());
        }
        stack.pointer &= !15;
    }
    let slots = slots + u16::from(event.error_code);
    let mut frame = Frame::new(guest.cpu, &stack, slots, gate.slot)
        .ok_or_else(|| no_room(descriptor.as_ref(), external))?;
    frame.user = cpl == 3;
    Ok(frame.loading(guest, &code, descriptor.as_ref()))
}

/// #SS, which names the stack if that is a new one.
fn no_room(stack: Option<&Descriptor>, external: bool) -> Exception {
    let selector = stack.map_or(0, |stack| stack.selector);
    Exception::ss(error_code(selector, external))
}

/// Reads and checks the gate; `None` is a task gate.
fn gate(guest: &mut Guest<'_>, event: &Event) -> Result<Option<Gate>, Stop> {
    let long = guest.cpu.paging.long_mode();
    let code = event.gate_code();
    let (offset, last) = match long {
        true => (u32::from(event.vector) << 4, 15),
        false => (u32::from(event.vector) << 3, 7),
    };
    if offset | last > guest.cpu.idtr.limit.into() {
        return Err(Exception::gp(code).into());
    }
    let base = Gva::new(guest.cpu.idtr.base);
    let at = guest.cpu.linear(base, offset.into());
    let raw = u64::from_le_bytes(read_system(guest, at)?);
    // S is 0 in all of these.
    let slot = match ((raw >> 40 & 31) as u8, long) {
        (system::INTERRUPT_GATE32 | system::TRAP_GATE32, true) => Some(8),
        (system::INTERRUPT_GATE32 | system::TRAP_GATE32, false) => Some(4),
        (system::INTERRUPT_GATE16 | system::TRAP_GATE16, false) => Some(2),
        (system::TASK_GATE, false) => None,
        _ => return Err(Exception::gp(code).into()),
    };
    let dpl = (raw >> 45 & 3) as u8;
    if event.kind.is_software() && dpl < guest.cpu.cpl {
        return Err(Exception::gp(code).into());
    }
    if raw & 1 << 47 == 0 {
        return Err(Exception::np(code).into());
    }
    Ok(slot.map(|slot| Gate {
        selector: (raw >> 16) as u16,
        slot,
        ist: match long {
            true => (raw >> 32 & 7) as u8,
            false => 0,
        },
    }))
}

/// Reads and checks the code segment of a gate.
fn code_segment(guest: &mut Guest<'_>, gate: &Gate, external: bool) -> Result<Descriptor, Stop> {
    let code = error_code(gate.selector, external);
    if is_null(gate.selector) {
        return Err(Exception::gp(external.into()).into());
    }
    let segment = Descriptor::read(guest, gate.selector, Exception::gp(code))?;
    let wrong = !segment.is_code() || segment.dpl() > guest.cpu.cpl;
    let narrow = gate.slot == 8 && (!segment.is_long() || segment.is_big());
    if wrong || narrow {
        return Err(Exception::gp(code).into());
    }
    if !segment.is_present() {
        return Err(Exception::np(code).into());
    }
    Ok(segment)
}

#[cfg(test)]
#[path = "tests/event.rs"]
mod tests;
