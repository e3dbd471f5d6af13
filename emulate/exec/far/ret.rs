// SPDX-License-Identifier: GPL-2.0

//! Far RET (SDM 2B RET, SDM 3A 5.8.6).
//!
//! ```text
//!   ESP -> | EIP    |
//!          | CS     |   the same level ends here
//!          | param  |   imm bytes, released from both stacks
//!          | ESP    |   to a less privileged level
//!          | SS     |
//! ```

use super::{check_offset, gate::slot, is_mixed, set_flag};
use crate::cpu::gpr::RSP;
use crate::cpu::{mask, Cpu, Segment};
use crate::descriptor::{error_code, is_null, prepare_flags, rpl, Descriptor};
use crate::guard::Guest;
use crate::insn::{Insn, Seg};
use crate::stack::{null_stack, Stack};
use crate::stop::{Exception, Stop};

/// Real and virtual-8086 mode.
#[inline(never)]
pub(super) fn real(guest: &mut Guest<'_>, insn: &Insn) -> Result<u64, Stop> {
    let stack = Stack::current(guest.cpu);
    let offset = slot(guest, &stack, 0, insn.size)?;
    let selector = slot(guest, &stack, 1, insn.size)? as u16;
    if offset > u64::from(guest.cpu.segment(Seg::Cs).limit) {
        return Err(Exception::gp(0).into());
    }
    release(guest.cpu, &stack, insn);
    guest.cpu.set_real_code_segment(selector);
    Ok(offset)
}

/// Protected, compatibility and 64-bit mode.
#[inline(never)]
pub(super) fn protected(guest: &mut Guest<'_>, insn: &Insn) -> Result<u64, Stop> {
    let stack = Stack::current(guest.cpu);
    let offset = slot(guest, &stack, 0, insn.size)?;
    let selector = slot(guest, &stack, 1, insn.size)? as u16;
    let target = code_segment(guest, selector)?;
    if rpl(selector) != guest.cpu.cpl {
        return less_privilege(guest, insn, &stack, &target, offset);
    }
    check_offset(guest.cpu, &target, offset)?;
    let accessed = target.prepare_accessed(guest)?;
    set_flag(guest, accessed)?;
    release(guest.cpu, &stack, insn);
    let cpl = guest.cpu.cpl;
    guest.cpu.enter_code(&target, cpl);
    Ok(offset)
}

/// Reads and checks the code segment that is returned to.
#[inline(never)]
fn code_segment(guest: &mut Guest<'_>, selector: u16) -> Result<Descriptor, Stop> {
    if is_null(selector) {
        return Err(Exception::gp(0).into());
    }
    let error = error_code(selector, false);
    let wrong = Exception::gp(error);
    let target = Descriptor::read(guest, selector, wrong)?;
    let level = rpl(selector);
    let denied = match target.is_conforming() {
        true => target.dpl() > level,
        false => target.dpl() != level,
    };
    let inward = level < guest.cpu.cpl;
    if !target.is_code() || inward || denied || is_mixed(guest.cpu, &target) {
        return Err(wrong.into());
    }
    if !target.is_present() {
        return Err(Exception::np(error).into());
    }
    Ok(target)
}

/// RET to a less privileged level, on its own stack.
#[inline(never)]
fn less_privilege(
    guest: &mut Guest<'_>,
    insn: &Insn,
    stack: &Stack,
    target: &Descriptor,
    offset: u64,
) -> Result<u64, Stop> {
    let cpl = rpl(target.selector);
    let outer = Stack {
        pointer: stack.pointer.wrapping_add(parameters(insn)),
        ..*stack
    };
    let pointer = slot(guest, &outer, 2, insn.size)?;
    let selector = slot(guest, &outer, 3, insn.size)? as u16;
    let long = guest.cpu.paging.long_mode() && target.is_long();
    let descriptor = stack_segment(guest, selector, cpl, long)?;
    check_offset(guest.cpu, target, offset)?;
    let mut flags = [None, None];
    prepare_flags(guest, [Some(target), descriptor.as_ref()], &mut flags)?;
    for flag in flags {
        set_flag(guest, flag)?;
    }
    let segment = descriptor.map_or(null_stack(cpl), |descriptor| descriptor.segment());
    let cpu = &mut *guest.cpu;
    cpu.set_segment(
        Seg::Ss,
        Segment {
            selector,
            ..segment
        },
    );
    cpu.enter_code(target, cpl);
    cpu.set_cpl(cpl);
    let pointer = pointer.wrapping_add(parameters(insn));
    cpu.set_gpr_sized(RSP, cpu.stack_size(), pointer);
    drop_privileged(cpu);
    Ok(offset)
}

/// Reads and checks the stack segment of a less privileged level. `None`: null, which
/// 64-bit code may have, but not at level 3.
#[inline(never)]
fn stack_segment(
    guest: &mut Guest<'_>,
    selector: u16,
    cpl: u8,
    long: bool,
) -> Result<Option<Descriptor>, Stop> {
    let error = error_code(selector, false);
    let wrong = Exception::gp(error);
    if is_null(selector) {
        return match long && cpl != 3 && rpl(selector) == cpl {
            true => Ok(None),
            false => Err(wrong.into()),
        };
    }
    let descriptor = Descriptor::read(guest, selector, wrong)?;
    if rpl(selector) != cpl || descriptor.dpl() != cpl || !descriptor.is_writable_data() {
        return Err(wrong.into());
    }
    if !descriptor.is_present() {
        return Err(Exception::ss(error).into());
    }
    Ok(Some(descriptor))
}

/// Segments of data, and code that is not conforming, which the level that is entered may
/// not use, become null (SDM 3A 5.8.6).
fn drop_privileged(cpu: &mut Cpu) {
    for seg in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
        let segment = cpu.segment(seg);
        let conforming = segment.is_code() && segment.attributes & 1 << 2 != 0;
        if !segment.unusable && !conforming && segment.dpl() < cpu.cpl {
            cpu.set_segment(
                seg,
                Segment {
                    unusable: true,
                    ..Segment::default()
                },
            );
        }
    }
}

/// Bytes of parameters to release.
const fn parameters(insn: &Insn) -> u64 {
    insn.imm as u64 & mask(2)
}

/// Pops offset, selector and parameters.
fn release(cpu: &mut Cpu, stack: &Stack, insn: &Insn) {
    let popped = u64::from(insn.size).wrapping_mul(2);
    let pointer = stack
        .pointer
        .wrapping_add(popped)
        .wrapping_add(parameters(insn));
    cpu.set_gpr_sized(RSP, stack.width, pointer);
}

#[cfg(test)]
#[path = "../../tests/ret.rs"]
mod tests;
