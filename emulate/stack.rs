// SPDX-License-Identifier: GPL-2.0

//! Stacks: where several pushes in a row go, and which stack a more privileged level has
//! (SDM 1 6.2, SDM 3A 5.8.5).

use ept::Gva;

use crate::cpu::gpr::RSP;
use crate::cpu::{mask, rflags, Cpu, Segment};
use crate::descriptor::{error_code, is_null, read_system, rpl, Descriptor};
use crate::guard::Guest;
use crate::insn::{CodeSize, Seg};
use crate::segment;
use crate::stop::{Exception, Stop};

/// A stack, as the processor sees it before it pushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stack {
    /// SS.
    pub(crate) segment: Segment,
    /// RSP, ESP or SP.
    pub(crate) pointer: u64,
    /// Bytes of the stack pointer: 2, 4 or 8; with 8 the segment does not matter.
    pub(crate) width: u8,
}

/// Where pushes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pushed {
    /// The stack pointer after them.
    pub(crate) pointer: u64,
    /// Linear address and length of what they write.
    pub(crate) at: (Gva, u16),
    /// The part that the first pushes write where the stack pointer wraps around.
    pub(crate) wrapped: Option<(Gva, u16)>,
}

impl Stack {
    /// The stack in use.
    pub(crate) fn current(cpu: &Cpu) -> Self {
        Self {
            segment: *cpu.segment(Seg::Ss),
            pointer: cpu.gpr(RSP),
            width: cpu.stack_size(),
        }
    }

    /// Where `slots` pushes of `size` bytes go; `None` if the stack has no room for them.
    // Not inlined: it takes no part in the stack of its callers.
    #[inline(never)]
    pub(crate) fn push(&self, cpu: &Cpu, slots: u16, size: u16) -> Option<Pushed> {
        let top = self.pointer & mask(self.width);
        let total = slots.wrapping_mul(size);
        let above = match u64::from(total).checked_sub(top) {
            Some(above) if above != 0 && top != 0 && self.width != 8 => above as u16,
            _ => 0,
        };
        // A slot that wraps is beyond every limit.
        if above != 0 && top & u64::from(size).wrapping_sub(1) != 0 {
            return None;
        }
        let pointer = top.wrapping_sub(total.into()) & mask(self.width);
        let Some(below) = total.checked_sub(above).filter(|_| above != 0) else {
            return Some(Pushed {
                pointer,
                at: (self.linear(cpu, pointer, total)?, total),
                wrapped: None,
            });
        };
        Some(Pushed {
            pointer,
            at: (self.linear(cpu, pointer, above)?, above),
            wrapped: Some((self.linear(cpu, 0, below)?, below)),
        })
    }

    /// The linear address of slot `n` of `size` bytes, counted from the stack pointer;
    /// `None` if the stack does not have it.
    pub(crate) fn slot(&self, cpu: &Cpu, n: u16, size: u8) -> Option<Gva> {
        let ahead = u64::from(n).wrapping_mul(size.into());
        let offset = self.pointer.wrapping_add(ahead) & mask(self.width);
        self.linear(cpu, offset, size.into())
    }

    /// The linear address of bytes of the stack; `None` if it does not have them.
    pub(crate) fn linear(&self, cpu: &Cpu, offset: u64, len: u16) -> Option<Gva> {
        let last = offset.wrapping_add(u64::from(len).saturating_sub(1));
        if self.width == 8 {
            let allowed = cpu.paging.canonical(offset) && cpu.paging.canonical(last);
            return allowed.then(|| Gva::new(offset));
        }
        let allowed = !self.segment.unusable && segment::within(&self.segment, offset, len);
        allowed.then(|| Gva::new(self.segment.base.wrapping_add(offset) & mask(4)))
    }
}

/// Reads the stack of a more privileged level from the TSS and checks its segment.
/// Returns the descriptor of that too, where there is one; 64-bit code gets a null
/// selector. `ist`: the entry of the interrupt stack table, 0 for none.
///
/// # Errors
///
/// #TS, and #SS if the stack is not present; `external` is EXT of their error codes.
pub(crate) fn inner(
    guest: &mut Guest<'_>,
    cpl: u8,
    ist: u8,
    external: bool,
) -> Result<(Stack, Option<Descriptor>), Stop> {
    let tss = guest.cpu.tr;
    let long = guest.cpu.paging.long_mode();
    let wide = tss.attributes & 8 != 0;
    let (offset, len) = match (long, ist, wide) {
        (true, 0, _) => (u32::from(cpl & 3) << 3 | 4, 8),
        (true, ist, _) => ((u32::from(ist & 7) << 3).wrapping_add(28), 8),
        (false, _, true) => (u32::from(cpl & 3) << 3 | 4, 6),
        (false, _, false) => (u32::from(cpl & 3) << 2 | 2, 4),
    };
    if offset.wrapping_add(len).wrapping_sub(1) > tss.limit {
        return Err(Exception::ts(error_code(tss.selector, external)).into());
    }
    let at = guest.cpu.linear(Gva::new(tss.base), offset.into());
    if long {
        let stack = Stack {
            segment: null_stack(cpl),
            pointer: u64::from_le_bytes(read_system(guest, at)?),
            width: 8,
        };
        return Ok((stack, None));
    }
    let (pointer, selector) = if wide {
        let [a, b, c, d, e, f] = read_system(guest, at)?;
        (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]))
    } else {
        let [a, b, c, d] = read_system(guest, at)?;
        (
            u16::from_le_bytes([a, b]).into(),
            u16::from_le_bytes([c, d]),
        )
    };
    let descriptor = stack_segment(guest, selector, cpl, external)?;
    let stack = Stack {
        segment: descriptor.segment(),
        pointer: pointer.into(),
        width: if descriptor.is_big() { 4 } else { 2 },
    };
    Ok((stack, Some(descriptor)))
}

/// The stack segment of a more privileged level: all that is wrong with it is the TSS's
/// fault, but that it is not present.
fn stack_segment(
    guest: &mut Guest<'_>,
    selector: u16,
    cpl: u8,
    external: bool,
) -> Result<Descriptor, Stop> {
    let code = error_code(selector, external);
    if is_null(selector) {
        return Err(Exception::ts(code).into());
    }
    let descriptor = Descriptor::read(guest, selector, Exception::ts(code))?;
    if rpl(selector) != cpl || descriptor.dpl() != cpl || !descriptor.is_writable_data() {
        return Err(Exception::ts(code).into());
    }
    if !descriptor.is_present() {
        return Err(Exception::ss(code).into());
    }
    Ok(descriptor)
}

/// SS of 64-bit code that was entered from a less privileged level.
pub(crate) const fn null_stack(cpl: u8) -> Segment {
    Segment {
        selector: cpl as u16,
        base: 0,
        limit: 0,
        attributes: (cpl as u16) << 5,
        unusable: true,
    }
}

/// What is pushed, `N` bytes at most, from its lowest address on: the last push is first.
pub(crate) struct Image<const N: usize> {
    bytes: [u8; N],
    len: usize,
    size: u8,
}

impl<const N: usize> Image<N> {
    /// Of slots of 2, 4 or 8 bytes.
    pub(crate) const fn new(size: u8) -> Self {
        Self {
            bytes: [0; N],
            len: 0,
            size,
        }
    }

    /// Adds a slot above the others.
    pub(crate) fn slot(&mut self, value: u64) {
        let size = usize::from(self.size);
        let slot = self.bytes.iter_mut().skip(self.len).take(size);
        for (to, from) in slot.zip(value.to_le_bytes()) {
            *to = from;
        }
        self.len = self.len.saturating_add(size);
    }

    /// How many slots there are.
    pub(crate) fn slots(&self) -> u16 {
        let slots = self.len.checked_div(self.size.into()).unwrap_or(0);
        slots as u16
    }

    /// All slots.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&self.bytes)
    }
}

impl Cpu {
    /// Enters or leaves a privilege level, with what depends on it.
    pub(crate) fn set_cpl(&mut self, cpl: u8) {
        self.cpl = cpl;
        self.paging.user = cpl == 3;
    }

    /// Replaces CS and what depends on it; the current privilege level is another matter.
    pub(crate) fn set_code_segment(&mut self, segment: Segment) {
        self.set_segment(Seg::Cs, segment);
        let long = self.paging.long_mode() && segment.attributes & 1 << 13 != 0;
        self.code = match (long, segment.big()) {
            (true, _) => CodeSize::Bits64,
            (false, true) => CodeSize::Bits32,
            (false, false) => CodeSize::Bits16,
        };
    }

    /// Loads CS; the RPL of its selector becomes the privilege level.
    #[inline(never)]
    pub(crate) fn enter_code(&mut self, target: &Descriptor, cpl: u8) {
        let segment = target.segment();
        self.set_code_segment(Segment {
            selector: segment.selector & 0xfffc | u16::from(cpl),
            ..segment
        });
    }

    /// Loads CS in real and virtual-8086 mode. Real mode keeps the limit and the rights
    /// that the hidden part has, as processors since the Pentium do; virtual-8086 mode has
    /// its own (SDM 3A 20.2.1).
    pub(crate) fn set_real_code_segment(&mut self, selector: u16) {
        let mut segment = *self.segment(Seg::Cs);
        segment.selector = selector;
        segment.base = u64::from(selector) << 4;
        if self.rflags & rflags::VM != 0 {
            segment.limit = 0xffff;
            segment.attributes = 0xf3;
        }
        self.set_segment(Seg::Cs, segment);
    }
}

#[cfg(test)]
#[path = "tests/stack.rs"]
mod tests;
