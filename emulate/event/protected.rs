// SPDX-License-Identifier: GPL-2.0

//! Delivery through a gate, in protected, compatibility, 64-bit and virtual-8086 mode
//! (SDM 3A 6.12.1, 6.14 and 20.3.1).

use super::frame::{Frame, Writer};
use super::gate::Gate;
use super::Event;
use crate::cpu::gpr::RSP;
use crate::cpu::{rflags, Cpu, Segment};
use crate::descriptor::{error_code, prepare_flags, Descriptor, Flag};
use crate::guard::Guest;
use crate::insn::Seg;
use crate::op::Op;
use crate::stack::{self, Image, Pushed, Stack};
use crate::stop::{Exception, Stop};

/// Segment registers that virtual-8086 mode uses in another way: they are pushed, the last
/// first, and become null.
const DATA: [Seg; 4] = [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs];

/// Bytes of the longest frame: 6 slots of 8 bytes.
const FRAME: usize = 48;

/// What is entered.
struct Handler {
    gate: Gate,
    code: Descriptor,
    cpl: u8,
    stack: Stack,
    /// Of the stack, where it is a new one and has one.
    stack_descriptor: Option<Descriptor>,
    /// It is more privileged than what is interrupted.
    inner: bool,
}

/// Delivers an event through its gate.
///
/// # Errors
///
/// As for [`deliver`](super::deliver).
// Not inlined, here and below: what is on the stack of one is not on that of another.
#[inline(never)]
pub(super) fn deliver(guest: &mut Guest<'_>, event: &Event) -> Result<(), Stop> {
    let handler = Handler::find(guest, event)?;
    let pointer = handler.push(guest, event)?;
    handler.enter(guest.cpu, pointer);
    Ok(())
}

impl Handler {
    /// Reads and checks gate, code segment and stack.
    #[inline(never)]
    fn find(guest: &mut Guest<'_>, event: &Event) -> Result<Self, Stop> {
        let external = event.external();
        let gate = Gate::read(guest, event)?;
        let code = gate.code_segment(guest, external)?;
        let cpl = match code.is_conforming() {
            true => guest.cpu.cpl,
            false => code.dpl(),
        };
        let in_v86 = guest.cpu.rflags & rflags::VM != 0;
        if in_v86 && cpl != 0 {
            return Err(Exception::gp(error_code(code.selector, external)).into());
        }
        let inner = cpl < guest.cpu.cpl;
        let (mut stack, stack_descriptor) = match inner || gate.ist != 0 {
            true => stack::inner(guest, cpl, gate.ist, external)?,
            false => (Stack::current(guest.cpu), None),
        };
        if gate.slot == 8 {
            stack.width = 8;
            if !guest.cpu.paging.canonical(stack.pointer) {
                return Err(Exception::ss(external.into()).into());
            }
            stack.pointer &= !15;
        }
        Ok(Self {
            gate,
            code,
            cpl,
            stack,
            stack_descriptor,
            inner,
        })
    }

    /// Writes what the handler finds on its stack. Returns the stack pointer.
    #[inline(never)]
    fn push(&self, guest: &mut Guest<'_>, event: &Event) -> Result<u64, Stop> {
        let external = event.external();
        let image = self.image(guest.cpu, event);
        let pushed = self.pushed(guest.cpu, &image, external)?;
        self.check_offset(guest.cpu, external)?;
        let writer = Writer {
            cpl: self.cpl,
            slot: self.gate.slot,
            external,
        };
        let frame = Frame::prepare(guest, &pushed, writer)?;
        self.mark(guest)?;
        frame.write(guest, image.bytes())?;
        Ok(pushed.pointer)
    }

    /// That, from its lowest address on.
    fn image(&self, cpu: &Cpu, event: &Event) -> Image<FRAME> {
        let selector = |seg| u64::from(cpu.segment(seg).selector);
        let mut image = Image::new(self.gate.slot);
        if let Some(code) = event.error_code {
            image.slot(code.into());
        }
        image.slot(event.return_address(cpu));
        image.slot(selector(Seg::Cs));
        image.slot(cpu.rflags);
        if self.inner || self.gate.slot == 8 {
            image.slot(cpu.gpr(RSP));
            image.slot(selector(Seg::Ss));
        }
        if cpu.rflags & rflags::VM != 0 {
            for seg in DATA {
                image.slot(selector(seg));
            }
        }
        image
    }

    /// Where that goes. #SS names the stack if it is a new one.
    fn pushed(&self, cpu: &Cpu, image: &Image<FRAME>, external: bool) -> Result<Pushed, Exception> {
        let pushed = self.stack.push(cpu, image.slots(), self.gate.slot.into());
        pushed.ok_or_else(|| {
            let descriptor = self.stack_descriptor.as_ref();
            let selector = descriptor.map_or(0, |descriptor| descriptor.selector);
            Exception::ss(error_code(selector, external))
        })
    }

    fn check_offset(&self, cpu: &Cpu, external: bool) -> Result<(), Exception> {
        let inside = match self.gate.slot {
            8 => cpu.paging.canonical(self.gate.offset),
            _ => self.gate.offset <= self.code.limit().into(),
        };
        match inside {
            true => Ok(()),
            false => Err(Exception::gp(external.into())),
        }
    }

    /// Sets the accessed flags of what is loaded.
    #[inline(never)]
    fn mark(&self, guest: &mut Guest<'_>) -> Result<(), Stop> {
        let mut flags = [None, None];
        let loaded = [Some(&self.code), self.stack_descriptor.as_ref()];
        prepare_flags(guest, loaded, &mut flags)?;
        if flags.iter().flatten().any(Flag::device) {
            return Err(Stop::Refused(Op::Unknown));
        }
        flags
            .into_iter()
            .flatten()
            .try_for_each(|flag| flag.set(guest))
    }

    /// Changes the registers.
    fn enter(&self, cpu: &mut Cpu, pointer: u64) {
        if cpu.rflags & rflags::VM != 0 {
            let null = Segment {
                unusable: true,
                ..Segment::default()
            };
            for seg in DATA {
                cpu.set_segment(seg, null);
            }
        }
        if self.inner {
            cpu.set_segment(Seg::Ss, self.stack.segment);
        }
        cpu.set_gpr_sized(RSP, self.stack.width, pointer);
        cpu.enter_code(&self.code, self.cpl);
        cpu.set_cpl(self.cpl);
        cpu.rip = self.gate.offset;
        cpu.rflags &= !(rflags::TF | rflags::NT | rflags::RF | rflags::VM);
        if self.gate.interrupt {
            cpu.rflags &= !rflags::IF;
        }
    }
}
