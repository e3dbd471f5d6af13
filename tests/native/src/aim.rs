// SPDX-License-Identifier: GPL-2.0

//! Registers and memory that make an instruction do something: operands near page
//! boundaries and segment limits, counts that end, comparands that match.

mod branch;
mod place;
mod windows;

use emulate::cpu::{mask, Cpu};
use emulate::insn::{CodeSize, Insn, Mem, Operand, Seg};
use emulate::op::Op;

use crate::allowed::{self, linear, RAX, RBP, RCX, RDI, RDX, RSI, RSP};
use crate::far;
use crate::rng::Rng;

pub use windows::Windows;

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
        // Memory is random, and numbers like 0 and -1 are rare there.
        if insn.has_mem() && self.rng.chance(20) {
            let at = linear(self.cpu, insn.mem.seg, allowed::operand(self.cpu, insn));
            let value = self.rng.value().to_le_bytes();
            let len = value.len().min(insn.mem_size.into());
            self.windows.poke(at, &value[..len]);
        }
        match insn.op {
            Op::Bt | Op::Bts | Op::Btr | Op::Btc => self.bit_offset(insn),
            Op::Cmpxchg | Op::Cmpxchg8b | Op::Cmpxchg16b if self.rng.chance(50) => {
                self.comparand(insn);
            }
            Op::Div | Op::Idiv if self.rng.chance(90) => self.dividend(insn),
            _ => (),
        }
    }

    /// A dividend whose quotient fits, or just does not, by a divisor that may be small.
    fn dividend(&mut self, insn: &Insn) {
        let (seg, bits) = (insn.mem.seg, u32::from(insn.size) * 8);
        let at = linear(self.cpu, seg, allowed::operand(self.cpu, insn));
        if self.rng.chance(50) {
            let divisor = self.rng.value().to_le_bytes();
            self.windows.poke(at, &divisor[..usize::from(insn.size)]);
        }
        let signed = insn.op == Op::Idiv;
        let divisor = self.windows.peek(at, insn.size);
        let unused = 64 - bits;
        let divisor = match signed {
            true => i128::from((divisor << unused) as i64 >> unused),
            false => i128::from(divisor),
        };
        let limit = 1i128 << if signed { bits - 1 } else { bits };
        let quotient = match self.rng.below(4) {
            0 => i128::from(self.rng.value()) & (limit - 1),
            _ => limit + 1 - i128::from(self.rng.below(3)),
        };
        let minus = signed && self.rng.chance(50);
        let quotient = if minus { -quotient } else { quotient };
        let rest = i128::from(self.rng.below(3)) - 1;
        let dividend = quotient.wrapping_mul(divisor).wrapping_add(rest);
        let (low, high) = (dividend as u64, (dividend >> bits) as u64);
        if insn.size == 1 {
            let ax = self.cpu.gpr(RAX) & !0xffff | low & 0xffff;
            return self.keep_address(insn, RAX, ax);
        }
        self.keep_address(insn, RAX, self.clip(low));
        self.keep_address(insn, RDX, self.clip(high));
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
