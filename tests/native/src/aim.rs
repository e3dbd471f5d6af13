// SPDX-License-Identifier: GPL-2.0

//! Registers and memory that make an instruction do something: operands near page
//! boundaries and segment limits, counts that end, comparands that match.

use emulate::cpu::{mask, Cpu, Segment};
use emulate::insn::{CodeSize, Insn, Mem, Operand, Seg};
use emulate::op::Op;

use crate::allowed::{self, linear, RAX, RBP, RCX, RDI, RDX, RSI, RSP};
use crate::cpu::USER_CS64;
use crate::far;
use crate::layout::{self, HIGH, LOW, MID, PAGE, PAGES, WINDOW};
use crate::rng::Rng;

/// The window's bytes on both sides.
#[derive(Debug)]
pub struct Windows<'a> {
    /// The processor's.
    pub native: &'a mut [u8],
    /// The emulator's.
    pub model: &'a mut [u8],
}

impl Windows<'_> {
    /// The same for a while.
    pub fn reborrow(&mut self) -> Windows<'_> {
        Windows {
            native: self.native,
            model: self.model,
        }
    }

    fn offset(address: u64, len: usize) -> Option<usize> {
        [LOW, MID, HIGH]
            .into_iter()
            .map(|base| address.wrapping_sub(base))
            .find(|offset| *offset <= (WINDOW - len) as u64)
            .map(|offset| offset as usize)
    }

    /// Writes to both, where the window is.
    fn poke(&mut self, address: u64, bytes: &[u8]) {
        if let Some(offset) = Self::offset(address, bytes.len()) {
            for window in [&mut *self.native, &mut *self.model] {
                window[offset..][..bytes.len()].copy_from_slice(bytes);
            }
        }
    }

    /// The `len` bytes at an address, little-endian; elsewhere 0.
    fn peek(&self, address: u64, len: u8) -> u64 {
        let len = usize::from(len);
        let mut bytes = [0; 8];
        if let Some(offset) = Self::offset(address, len) {
            bytes[..len].copy_from_slice(&self.model[offset..][..len]);
        }
        u64::from_le_bytes(bytes)
    }
}

/// Chooses registers for an instruction.
#[derive(Debug)]
pub struct Aim<'a> {
    /// Where random numbers come from.
    pub rng: &'a mut Rng,
    /// Registers to change.
    pub cpu: &'a mut Cpu,
    /// Memory to change.
    pub windows: Windows<'a>,
}

impl Aim<'_> {
    /// Aims all that the instruction reads or writes, but for a displacement that stands
    /// alone: see [`Aim::displacement`].
    pub fn registers(&mut self, insn: &Insn) {
        self.implicit(insn);
        if insn.has_mem() {
            self.memory(insn, &insn.mem);
        }
        self.values(insn);
        self.branch(insn);
    }

    /// The displacement of an operand that has no base and no index.
    pub fn displacement(&mut self, insn: &Insn) -> u64 {
        let offset = self.offset(insn.mem.seg, insn.mem_size.into(), insn.aligned);
        match insn.mem.rip_relative {
            true => offset.wrapping_sub(self.cpu.rip + u64::from(insn.len)),
            false => offset,
        }
    }

    /// Immediates that lead somewhere, in place of random ones.
    pub fn immediate(&mut self, insn: &Insn, bytes: &mut [u8]) {
        match insn.op {
            Op::CallNear => {
                let next = self.cpu.rip + u64::from(insn.len);
                let relative = self.target().wrapping_sub(next).to_le_bytes();
                let len = bytes.len().min(8);
                bytes[..len].copy_from_slice(&relative[..len]);
            }
            Op::CallFar | Op::JmpFar => {
                let (selector, offset) = far::pointer(self.rng, self.cpu, insn.size);
                let size = usize::from(insn.size);
                if bytes.len() == size + 2 {
                    bytes[..size].copy_from_slice(&offset.to_le_bytes()[..size]);
                    bytes[size..].copy_from_slice(&selector.to_le_bytes());
                }
            }
            // The frame, then the level.
            Op::Enter => {
                if let [low, high, level] = bytes {
                    if self.rng.chance(75) {
                        (*low, *high) = (self.rng.byte() & 0x3f, 0);
                    }
                    if self.rng.chance(75) {
                        *level = self.rng.below(4) as u8;
                    }
                }
            }
            _ => (),
        }
    }

    fn implicit(&mut self, insn: &Insn) {
        let size = u64::from(insn.size);
        match insn.op {
            Op::Movs | Op::Cmps => {
                self.point(RSI, insn.mem.seg, size, insn.addr_size);
                self.point(RDI, Seg::Es, size, insn.addr_size);
            }
            Op::Lods => self.point(RSI, insn.mem.seg, size, insn.addr_size),
            Op::Stos | Op::Scas => self.point(RDI, Seg::Es, size, insn.addr_size),
            Op::Movdir64b => {
                if let Operand::Gpr(number) = insn.dst {
                    let aligned = self.rng.chance(80);
                    let offset = self.offset(Seg::Es, 64, aligned);
                    self.set(number, offset, insn.addr_size);
                }
            }
            _ => (),
        }
        self.stack(insn);
        if matches!(
            insn.op,
            Op::Movs | Op::Cmps | Op::Stos | Op::Scas | Op::Lods
        ) {
            let count = self.count();
            self.set(RCX, count, insn.addr_size);
        }
    }

    /// Repetitions: few, now and then until the window ends.
    fn count(&mut self) -> u64 {
        match self.rng.below(100) {
            0..8 => 0,
            8..75 => self.rng.below(24),
            75..97 => self.rng.below(600),
            97..99 => self.rng.below(9000),
            _ => self.rng.next(),
        }
    }

    fn stack(&mut self, insn: &Insn) {
        let slot = u64::from(insn.size.max(2));
        let size = self.cpu.stack_size();
        let (pushes, pops) = match insn.op {
            Op::Push | Op::PushSreg | Op::Pushf | Op::CallNear => (1, 0),
            Op::Pusha => (8, 0),
            Op::CallFar => (2, 0),
            Op::RetFar => (0, 2),
            Op::Pop | Op::RetNear => (0, 1),
            Op::Popa => (0, 8),
            Op::Enter => {
                let offset = self.offset(Seg::Ss, 2 * slot, false);
                self.set(RBP, offset.wrapping_add(slot), size);
                (self.rng.below(6), 0)
            }
            Op::Leave => {
                self.point(RBP, Seg::Ss, slot, size);
                (0, 1)
            }
            _ => return,
        };
        let offset = self.offset(Seg::Ss, slot * (pushes + pops), false);
        self.set(RSP, offset.wrapping_add(slot * pushes), size);
    }

    /// Makes a register the offset of `len` bytes.
    fn point(&mut self, register: u8, seg: Seg, len: u64, size: u8) {
        let offset = self.offset(seg, len, false);
        self.set(register, offset, size);
    }

    /// Sets the bits of a register that count; those above are random where they must
    /// not matter.
    fn set(&mut self, register: u8, value: u64, size: u8) {
        let above = match self.rng.chance(50) {
            true => self.rng.next(),
            false => 0,
        };
        let value = value & mask(size) | above & !mask(size);
        self.cpu.gprs[usize::from(register & 15)] = self.clip(value);
    }

    const fn clip(&self, value: u64) -> u64 {
        match self.cpu.code {
            CodeSize::Bits64 => value,
            _ => value & mask(4),
        }
    }

    /// An offset in a segment where `len` bytes begin, near a boundary mostly.
    fn offset(&mut self, seg: Seg, len: u64, aligned: bool) -> u64 {
        let segment = *self.cpu.segment(seg);
        if !self.cpu.long() && self.rng.chance(12) {
            if let Some(offset) = self.edge(&segment, len) {
                return offset;
            }
        }
        let mut offset = 0;
        // Most of what is outside of the segment is drawn again.
        for _ in 0..6 {
            let mut address = self.address(len);
            if aligned && self.rng.chance(75) {
                address &= !len.next_power_of_two().wrapping_sub(1);
            }
            offset = match (self.cpu.long(), seg) {
                (true, Seg::Fs | Seg::Gs) => return address.wrapping_sub(segment.base),
                (true, _) => return address,
                (false, _) => address.wrapping_sub(segment.base) & mask(4),
            };
            let last = offset.wrapping_add(len).wrapping_sub(1);
            if !allowed::faults(&segment, offset) && !allowed::faults(&segment, last) {
                break;
            }
        }
        offset
    }

    /// An offset near the limit of a segment that has one.
    fn edge(&mut self, segment: &Segment, len: u64) -> Option<u64> {
        if segment.limit == u32::MAX || segment.unusable {
            return None;
        }
        let limit = u64::from(segment.limit);
        let edge = match (segment.expand_down(), self.rng.chance(50)) {
            (true, true) if !segment.big() => 0xffff,
            (false, true) if self.rng.chance(20) => 0,
            _ => limit,
        };
        let offset = (edge + 16).wrapping_sub(self.rng.below(32 + len));
        Some(offset & mask(4))
    }

    /// A linear address where `len` bytes begin.
    fn address(&mut self, len: u64) -> u64 {
        let long = self.cpu.long();
        let base = match self.rng.below(100) {
            0..40 if long => HIGH,
            0..60 => LOW,
            _ => MID,
        };
        let size = len.min(PAGE);
        match self.rng.below(200) {
            // Nothing is below 64 KiB, and nothing above what is canonical.
            0 => self.rng.below(0x8000),
            1 if long => (1 << 47) + self.rng.below(32) - self.rng.below(32 + size),
            2 if long => (self.rng.next() | 1 << 62) & !(1 << 63),
            3..60 => base + self.rng.below(WINDOW as u64),
            60..110 => base + self.rng.below(WINDOW as u64 / 64) * 64,
            _ => {
                let boundary = base + self.rng.below(PAGES as u64 + 1) * PAGE;
                boundary + 16 - self.rng.below(32 + size)
            }
        }
    }

    /// Aims a memory operand by its base or, without one, its index.
    fn memory(&mut self, insn: &Insn, mem: &Mem) {
        let size = u64::from(insn.mem_size.clamp(1, 64));
        let mut offset = self.offset(mem.seg, size, insn.aligned);
        offset = match insn.op {
            Op::Pop if mem.base == Some(RSP) => offset.wrapping_sub(insn.size.into()),
            Op::Xlat => offset.wrapping_sub(self.cpu.gpr(RAX) & 0xff),
            _ => offset,
        };
        let rest = offset.wrapping_sub(mem.disp as u64);
        let scale = u64::from(mem.scale);
        let index = mem.index.map(|index| self.cpu.gpr(index));
        match (mem.base, mem.index) {
            (Some(base), Some(index)) if base == index => {
                let factor = scale + 1;
                let value = match factor {
                    2 => rest / 2,
                    _ => rest.wrapping_mul(inverse(factor)),
                };
                self.set(base, value, insn.addr_size);
            }
            (Some(base), _) => {
                let index = index.unwrap_or(0).wrapping_mul(scale);
                self.set(base, rest.wrapping_sub(index), insn.addr_size);
            }
            (None, Some(index)) => self.set(index, rest / scale, insn.addr_size),
            (None, None) => (),
        }
    }

    /// Values that lead somewhere.
    fn values(&mut self, insn: &Insn) {
        match insn.op {
            Op::Bt | Op::Bts | Op::Btr | Op::Btc => self.bit_offset(insn),
            Op::Cmpxchg | Op::Cmpxchg8b | Op::Cmpxchg16b if self.rng.chance(50) => {
                self.comparand(insn);
            }
            // Quotients that fit.
            Op::Div | Op::Idiv if self.rng.chance(75) && insn.size > 1 => {
                let sign = (self.cpu.gpr(RAX) >> (insn.size * 8 - 1) & 1).wrapping_neg();
                let high = if insn.op == Op::Idiv { sign } else { 0 };
                let small = self.rng.below(4);
                self.keep_address(insn, RDX, self.clip(high ^ small));
            }
            Op::Div | Op::Idiv if self.rng.chance(75) => {
                let dividend = self.cpu.gpr(RAX) & !0xff00;
                self.keep_address(insn, RAX, dividend);
            }
            _ => (),
        }
    }

    /// Sets a register unless the operand's address depends on it.
    fn keep_address(&mut self, insn: &Insn, register: u8, value: u64) {
        let mem = &insn.mem;
        if mem.base != Some(register) && mem.index != Some(register) {
            self.cpu.gprs[usize::from(register)] = value;
        }
    }

    /// Bits at most 4 KiB away mostly.
    fn bit_offset(&mut self, insn: &Insn) {
        if let Operand::Gpr(register) = insn.src {
            let range = self.rng.pick(&[64, 512, 0x8000, 0x1_0000]);
            let bit = self.rng.below(2 * range).wrapping_sub(range);
            let above = self.rng.next() & !mask(insn.size);
            let bit = bit & mask(insn.size) | above;
            self.keep_address(insn, register, self.clip(bit));
        }
    }

    /// RAX, or RDX and RAX, as in memory.
    fn comparand(&mut self, insn: &Insn) {
        let seg = insn.mem.seg;
        let at = linear(self.cpu, seg, allowed::operand(self.cpu, insn));
        let half = if insn.op == Op::Cmpxchg16b { 8 } else { 4 };
        let size = match insn.op {
            Op::Cmpxchg => insn.size,
            _ => half,
        };
        let low = self.windows.peek(at, size);
        let rax = self.cpu.gpr(RAX) & !mask(size) | low;
        self.keep_address(insn, RAX, rax);
        if insn.op != Op::Cmpxchg {
            let high = self.windows.peek(at.wrapping_add(half.into()), half);
            let rdx = self.cpu.gpr(RDX) & !mask(half) | high;
            self.keep_address(insn, RDX, rdx);
        }
    }

    /// Whether the instruction goes only where it may.
    pub fn is_safe(&self, insn: &Insn) -> bool {
        let target = match far::is_far(insn.op) {
            true => self.far_target_is_safe(insn),
            false => self.target_is_safe(insn),
        };
        allowed::check(self.cpu, insn) && target
    }

    /// A far CALL to 64-bit code pushes to where all of RSP points, without the base of SS.
    /// The kernel does not keep the upper half of it while the stack is one of 16 bits, and
    /// lets an instruction that faults above 4 GiB outside 64-bit mode start over for ever
    /// (`is_errata100`).
    fn far_target_is_safe(&self, insn: &Insn) -> bool {
        let selector = match (insn.op, insn.dst) {
            (Op::CallFar, Operand::Mem) => {
                let offset = allowed::operand(self.cpu, insn);
                let at = linear(self.cpu, insn.mem.seg, offset);
                if allowed::in_code(at) {
                    return false;
                }
                self.windows.peek(at.wrapping_add(insn.size.into()), 2) as u16
            }
            (Op::CallFar, _) => insn.imm2,
            _ => return true,
        };
        let enters = !self.cpu.long() && selector & !3 == USER_CS64 & !3;
        let rsp = self.cpu.gpr(RSP);
        let whole = self.cpu.stack_size() != 2 && rsp >= 0x40 && allowed::place(rsp);
        !enters || whole
    }

    fn target_is_safe(&self, insn: &Insn) -> bool {
        let cpu = &*self.cpu;
        let at = match (insn.op, insn.dst) {
            (Op::CallNear, Operand::Imm) => {
                let next = cpu.rip.wrapping_add(insn.len.into());
                return self.goes(insn, next.wrapping_add(insn.imm as u64));
            }
            (Op::CallNear | Op::JmpNear, Operand::Gpr(register)) => {
                return self.goes(insn, cpu.gpr(register));
            }
            (Op::CallNear | Op::JmpNear, _) => {
                linear(cpu, insn.mem.seg, allowed::operand(cpu, insn))
            }
            (Op::RetNear, _) => linear(cpu, Seg::Ss, cpu.gpr_sized(RSP, cpu.stack_size())),
            _ => return true,
        };
        !allowed::in_code(at) && self.goes(insn, self.windows.peek(at, insn.size))
    }

    fn goes(&self, insn: &Insn, rip: u64) -> bool {
        allowed::target(self.cpu, rip & mask(insn.size))
    }

    /// Puts a far pointer where a far branch finds it: the selector on the stack has as
    /// many bytes as the offset.
    fn far_branch(&mut self, insn: &Insn) {
        let (selector, offset) = far::pointer(self.rng, self.cpu, insn.size);
        let at = match insn.op {
            Op::RetFar => {
                let size = self.cpu.stack_size();
                linear(self.cpu, Seg::Ss, self.cpu.gpr_sized(RSP, size))
            }
            _ => {
                let offset = allowed::operand(self.cpu, insn);
                linear(self.cpu, insn.mem.seg, offset)
            }
        };
        let size = u64::from(insn.size);
        let offset = &offset.to_le_bytes()[..usize::from(insn.size)];
        self.windows.poke(at, offset);
        self.windows
            .poke(at.wrapping_add(size), &selector.to_le_bytes());
    }

    /// Gives branches a place to go to.
    fn branch(&mut self, insn: &Insn) {
        if far::is_far(insn.op) {
            return self.far_branch(insn);
        }
        let indirect = matches!(insn.op, Op::CallNear | Op::JmpNear);
        let target = match insn.op {
            Op::CallNear | Op::JmpNear | Op::RetNear => self.target(),
            _ => return,
        };
        let bytes = target.to_le_bytes();
        let bytes = &bytes[..usize::from(insn.size.min(8))];
        let size = self.cpu.stack_size();
        match (indirect, insn.dst) {
            (false, _) => {
                let at = linear(self.cpu, Seg::Ss, self.cpu.gpr_sized(RSP, size));
                self.windows.poke(at, bytes);
            }
            (true, Operand::Mem) => {
                let offset = allowed::operand(self.cpu, insn);
                let at = linear(self.cpu, insn.mem.seg, offset);
                self.windows.poke(at, bytes);
            }
            (true, Operand::Gpr(register)) => {
                let value = self.clip(target);
                self.cpu.gprs[usize::from(register)] = value;
            }
            _ => (),
        }
    }

    /// An offset in the code segment: a pad, or no code at all.
    pub fn target(&mut self) -> u64 {
        let base = match self.cpu.long() {
            true => 0,
            false => self.cpu.segment(Seg::Cs).base,
        };
        let pad = 1 + self.rng.below(layout::PAD_COUNT - 1);
        let linear = match self.rng.below(100) {
            0..5 => LOW + self.rng.below(WINDOW as u64),
            5..8 => self.rng.below(0x8000),
            8..12 if self.cpu.long() => (self.rng.next() | 1 << 62) & !(1 << 63),
            8..12 => base + self.rng.below(0xffff),
            _ => layout::pad(pad),
        };
        match self.cpu.long() {
            true => linear,
            false => linear.wrapping_sub(base) & mask(4),
        }
    }
}

/// The inverse of an odd number modulo 2^64.
const fn inverse(odd: u64) -> u64 {
    let mut x = odd;
    let mut n = 0;
    while n < 6 {
        x = x.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(x)));
        n += 1;
    }
    x
}
