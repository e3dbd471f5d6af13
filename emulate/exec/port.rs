// SPDX-License-Identifier: GPL-2.0

//! INS and OUTS.
//!
//! A port is read when all else is settled: the guest may do it, and the place for the
//! data may be written. Data that was read stays with the devices until it is there.

use ept::{Gva, PAGE_SIZE};

use super::{bulk, operand, string};
use crate::cpu::gpr::{RDI, RDX, RSI};
use crate::cpu::{mask, rflags, Cpu};
use crate::guard::{Guest, Intent};
use crate::insn::{Insn, Rep, Seg};
use crate::journal::PORT_BYTES;
use crate::segment;
use crate::stop::{Exception, PortRead, Stop};

/// Offset of the I/O map base in a TSS of 32 or 64 bits (SDM 3A 8.2.1 and 8.7).
const IO_MAP_BASE: u64 = 102;

/// INS: how many elements, `count` at most, have reached memory.
pub(super) fn ins(guest: &mut Guest<'_>, insn: &Insn, count: u16) -> Result<u16, Stop> {
    let (port, size) = (port(guest.cpu), insn.size);
    permit(guest, port, size)?;
    let ready = at_hand(guest, insn);
    let wanted = match ready {
        0 => count,
        ready => count.min(ready),
    };
    let (span, count) = match bulk::destination(guest, insn, wanted, PORT_BYTES as u16) {
        Some(elements) => elements,
        None => (string::destination(guest, insn)?, 1),
    };
    if ready == 0 {
        let count = match insn.rep {
            Rep::Rep | Rep::Repne if count == 1 => places(guest, insn, wanted),
            _ => count,
        };
        return Err(Stop::PortRead(PortRead { port, size, count }));
    }
    guest.commit_ports(span)?;
    string::advance(guest.cpu, insn, RDI, count);
    Ok(count)
}

/// How many elements from RDI on, `count` at most, have their place in one page, as KVM
/// counts them, and may all be written: downwards, or to a device, where they are written
/// one by one. With single steps it is one.
fn places(guest: &mut Guest<'_>, insn: &Insn, count: u16) -> u16 {
    let size = u16::from(insn.size);
    let down = guest.cpu.rflags & rflags::DF != 0;
    let at = guest.cpu.gpr_sized(RDI, insn.addr_size);
    let in_page = match down {
        true => at % PAGE_SIZE,
        false => PAGE_SIZE.wrapping_sub(at % PAGE_SIZE),
    };
    let room = in_page.min(PORT_BYTES as u64).checked_div(size.into());
    let count = count.min(room.unwrap_or(1) as u16);
    if count < 2 || guest.cpu.rflags & rflags::TF != 0 {
        return 1;
    }
    let bytes = count.wrapping_mul(size);
    let first = match down {
        true => at.wrapping_sub(bytes.wrapping_sub(size).into()) & mask(insn.addr_size),
        false => at,
    };
    let span = segment::linear(guest.cpu, Seg::Es, first, bytes, true)
        .map_err(Stop::from)
        .and_then(|gva| guest.prepare_write(gva, bytes, Intent::Write));
    match span {
        Ok(_) => count,
        Err(_) => 1,
    }
}

/// One element of OUTS.
pub(super) fn outs(guest: &mut Guest<'_>, insn: &Insn) -> Result<(), Stop> {
    let (port, size) = (port(guest.cpu), insn.size);
    permit(guest, port, size)?;
    let source = string::source(guest, insn)?;
    let value = operand::load(guest, &source, size)?;
    guest.devices.post_port(port, size, value as u32);
    string::advance(guest.cpu, insn, RSI, 1);
    Ok(())
}

/// How many elements for INS were read and wait.
pub(super) fn at_hand(guest: &Guest<'_>, insn: &Insn) -> u16 {
    guest.devices.port_elements(port(guest.cpu), insn.size)
}

fn port(cpu: &Cpu) -> u16 {
    cpu.gpr(RDX) as u16
}

/// Checks that the guest may access `size` ports (SDM 1 19.5).
fn permit(guest: &mut Guest<'_>, port: u16, size: u8) -> Result<(), Stop> {
    let cpu = &*guest.cpu;
    let iopl = (cpu.rflags & rflags::IOPL) >> 12;
    let virtual_8086 = cpu.rflags & rflags::VM != 0;
    if !virtual_8086 && (!cpu.protected() || u64::from(cpu.cpl) <= iopl) {
        return Ok(());
    }
    let denied = Stop::Exception(Exception::gp(0));
    let tr = cpu.tr;
    // A TSS of 16 bits has no map. Bit 1 of the type says that it is busy.
    if tr.unusable || tr.attributes & 0xd != 9 {
        return Err(denied);
    }
    let limit = u64::from(tr.limit);
    if limit < IO_MAP_BASE.wrapping_add(1) {
        return Err(denied);
    }
    let map = u64::from(tss_word(guest, tr.base, IO_MAP_BASE)?);
    let at = map.wrapping_add(u64::from(port) >> 3);
    // Two bytes are read always.
    if at.wrapping_add(1) > limit {
        return Err(denied);
    }
    let bits = u32::from(tss_word(guest, tr.base, at)?) >> (port & 7);
    let wanted = 1u32.wrapping_shl(size.into()).wrapping_sub(1);
    match bits & wanted {
        0 => Ok(()),
        _ => Err(denied),
    }
}

fn tss_word(guest: &mut Guest<'_>, base: u64, offset: u64) -> Result<u16, Stop> {
    let gva = guest.cpu.linear(Gva::new(base), offset);
    let source = guest.prepare_read(gva, 2, true)?;
    Ok(operand::load(guest, &source, 2)? as u16)
}
