// SPDX-License-Identifier: GPL-2.0

//! One instruction with all that it starts from.

use emulate::cpu::{mask, rflags, Cpu};
use emulate::decode::decode;
use emulate::insn::{CodeSize, Insn, Operand, MAX_BYTES};
use emulate::op::Op;

use crate::aim::{Aim, Windows};
use crate::allowed::{self, is_vector, linear};
use crate::encode::{Encoder, Encoding};
use crate::far;
use crate::features::Features;
use crate::layout::XSAVE_BYTES;
use crate::rng::Rng;
use crate::rules;
use crate::setup::Setup;

/// One instruction, and registers. Memory is in the windows.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its bytes; [`Insn::len`] of them count.
    pub bytes: [u8; MAX_BYTES],
    /// What the decoder made of them.
    pub insn: Insn,
    /// Registers.
    pub start: Cpu,
    /// An XSAVE area, for instructions that use vector registers.
    pub xsave: Option<Box<[u8; XSAVE_BYTES]>>,
}

impl Case {
    /// The instruction.
    pub fn code(&self) -> &[u8] {
        &self.bytes[..usize::from(self.insn.len)]
    }
}

/// Draws cases.
#[derive(Debug)]
pub struct Draw<'a> {
    /// Where random numbers come from.
    pub rng: &'a mut Rng,
    /// What cases begin with.
    pub setup: &'a Setup,
    /// What there is to choose from.
    pub features: &'a Features,
    /// Memory, which receives what the instruction needs there.
    pub windows: Windows<'a>,
}

impl Draw<'_> {
    /// The next case.
    pub fn case(&mut self) -> Case {
        loop {
            let encoding = Encoder::new(self.setup.mode, self.rng).encode();
            let Some(insn) = self.decode(&encoding.bytes) else {
                continue;
            };
            // Not all registers suit all instructions.
            let case = (0..4).find_map(|_| self.aim(encoding, insn));
            if let Some(case) = case {
                return case;
            }
        }
    }

    /// The instruction, if it is on the list and here.
    fn decode(&self, bytes: &[u8]) -> Option<Insn> {
        let bytes = bytes.get(..MAX_BYTES)?;
        let code = self.setup.mode.0;
        let insn = decode(bytes, code).ok()?;
        let allowed = allowed::OPS.contains(&insn.op);
        // In other modes than the processor's, selectors mean other things.
        let far = far::is_far(insn.op) && !self.setup.cpu.paging.long_mode();
        (allowed && !far && self.features.has(&insn, code, bytes)).then_some(insn)
    }

    /// Registers, memory and immediates for an instruction; `None` if it would go where
    /// it must not.
    fn aim(&mut self, mut encoding: Encoding, mut insn: Insn) -> Option<Case> {
        let mut cpu = self.setup.cpu;
        self.registers(&mut cpu);
        let mut aim = Aim {
            rng: self.rng,
            cpu: &mut cpu,
            windows: self.windows.reborrow(),
        };
        if insn.has_mem() && insn.mem.base.is_none() && insn.mem.index.is_none() {
            let (at, len) = encoding.disp;
            let disp = aim.displacement(&insn).to_le_bytes();
            encoding.bytes[at..][..len].copy_from_slice(&disp[..len]);
        }
        let len = usize::from(insn.len);
        if let Some(immediate) = encoding.bytes[..len].get_mut(encoding.immediate..) {
            aim.immediate(&insn, immediate);
        }
        insn = self.decode(&encoding.bytes)?;
        if !self.prepare(&mut cpu, &insn) {
            return None;
        }
        let mut bytes = [0; MAX_BYTES];
        bytes.copy_from_slice(&encoding.bytes[..MAX_BYTES]);
        Some(Case {
            bytes,
            insn,
            start: cpu,
            xsave: is_vector(insn.op).then(|| self.xsave()),
        })
    }

    /// Registers and memory for an instruction that is complete; false if it would go
    /// where it must not.
    fn prepare(&mut self, cpu: &mut Cpu, insn: &Insn) -> bool {
        let mut aim = Aim {
            rng: self.rng,
            cpu,
            windows: self.windows.reborrow(),
        };
        aim.registers(insn);
        let safe = aim.is_safe(insn);
        // Whether such accesses are checked is the processor's choice (SDM 2B, MOVUPS).
        if is_vector(insn.op) && insn.mem_size > 8 {
            cpu.rflags &= !rflags::AC;
        }
        if far::is_far(insn.op) {
            cpu.rflags |= rflags::TF;
        }
        let other = self.features.amd && rules::has_other_size(cpu, insn);
        safe && !other && !self.splits_lock(cpu, insn)
    }

    /// It is locked across cache lines, and that must not be.
    fn splits_lock(&self, cpu: &Cpu, insn: &Insn) -> bool {
        let locked = insn.lock || (insn.op == Op::Xchg && insn.dst == Operand::Mem);
        let address = linear(cpu, insn.mem.seg, allowed::operand(cpu, insn));
        let line = address & 63;
        !self.features.split_locks() && locked && line + u64::from(insn.mem_size) > 64
    }

    fn registers(&mut self, cpu: &mut Cpu) {
        let limit = match self.setup.mode.0 {
            CodeSize::Bits64 => u64::MAX,
            _ => mask(4),
        };
        let rng = &mut *self.rng;
        for gpr in &mut cpu.gprs {
            *gpr = rng.value() & limit;
        }
        const FIXED: u64 = 1 << 1;
        const IF: u64 = 1 << 9;
        cpu.rflags = FIXED | IF | rng.next() & rflags::ARITHMETIC;
        let flags = [(20, rflags::DF), (4, rflags::AC), (1, rflags::TF)];
        for (percent, flag) in flags {
            if rng.chance(percent) {
                cpu.rflags |= flag;
            }
        }
        cpu.rip = self.setup.code() + rng.below(16) * 0xf0 + rng.below(16);
    }

    /// Vector registers; now and then components are in their initial state, whatever the
    /// area holds.
    fn xsave(&mut self) -> Box<[u8; XSAVE_BYTES]> {
        const LEGACY: usize = 160;
        const HEADER: usize = 512;
        const EXTENDED: usize = 576;
        const END: usize = 2688;
        let rng = &mut *self.rng;
        let mut area = Box::new([0; XSAVE_BYTES]);
        // FCW, MXCSR and its mask.
        area[..2].copy_from_slice(&0x37fu16.to_le_bytes());
        area[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
        area[28..32].copy_from_slice(&0xffffu32.to_le_bytes());
        for range in [LEGACY..LEGACY + 256, EXTENDED..END] {
            for register in area[range].chunks_mut(16) {
                match rng.below(8) {
                    0 => register.fill(0),
                    1 => register.fill(0xff),
                    _ => rng.fill(register),
                }
            }
        }
        let absent = match rng.chance(25) {
            true => rng.next(),
            false => 0,
        };
        let present = self.features.xfeatures & !absent;
        area[HEADER..][..8].copy_from_slice(&present.to_le_bytes());
        area
    }
}
