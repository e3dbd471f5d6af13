// SPDX-License-Identifier: GPL-2.0

//! Programs of random instructions at random places.

use super::forms::{self, Form};
use super::rig::{RAM, WINDOW};
use guest::asm::*;
use guest::{Mode, Program, CODE, PAGE_SIZE, SCRATCH};

/// How many programs are tried.
pub(crate) const HOW_MANY: u64 = 60;
/// Instructions of one.
const LENGTH: usize = 40;
/// Bytes of the window in which operands begin.
const WINDOW_SIZE: u64 = 4 * PAGE_SIZE - 0x100;

/// A program.
pub(crate) struct Random {
    steps: Vec<(Form, u64)>,
    /// Flags that its last instruction leaves undefined.
    pub(crate) undefined: u64,
}

/// Numbers that look random (xorshift64*).
pub(crate) struct Numbers(u64);

impl Numbers {
    /// Others for each `seed`, which is not 0.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// The next one, less than `limit`, which has at most 48 bits.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % limit
    }

    /// An offset, every other time near a page boundary.
    fn offset(&mut self) -> u64 {
        match self.below(2) {
            0 => self.below(WINDOW_SIZE),
            _ => PAGE_SIZE * (1 + self.below(3)) - self.below(24),
        }
    }
}

impl Random {
    /// The program number `seed`, which is not 0.
    pub(crate) fn new(seed: u64, fits: impl Fn(&Form) -> bool) -> Self {
        let mut numbers = Numbers::new(seed);
        let fits = |form: &Form| can_be_anywhere(form) && fits(form);
        let forms: Vec<Form> = forms::all()
            .iter()
            .filter(|form| fits(form))
            .cloned()
            .collect();
        let steps: Vec<(Form, u64)> = (0..LENGTH)
            .map(|_| {
                let form = &forms[numbers.below(forms.len() as u64) as usize];
                (form.clone(), numbers.offset())
            })
            .collect();
        let undefined = steps.last().map_or(0, |(form, _)| form.undefined);
        Self { steps, undefined }
    }

    /// Its instructions.
    pub(crate) fn names(&self) -> Vec<String> {
        let name = |(form, offset): &(Form, u64)| format!("{} @ {offset:#x}", form.name);
        self.steps.iter().map(name).collect()
    }

    /// The program.
    pub(crate) fn assemble(&self) -> Program {
        let program = Program::assemble(Mode::Long, CODE, |a| {
            for (form, offset) in &self.steps {
                a.mov(rbx, WINDOW + offset)?;
                // Places for the other operand, counts, and all flags.
                a.mov(rsi, RAM + 0x3000 + (offset & 0x3ff))?;
                a.mov(rdi, SCRATCH + 0x800 + (offset & 0x3ff))?;
                a.mov(ecx, 3)?;
                a.add(r8, rdx)?;
                a.db(&form.code)?;
            }
            a.hlt()?;
            Ok(vec![])
        });
        program.expect("a program")
    }
}

/// Its operand can be anything, anywhere, and the next instruction is executed after it.
fn can_be_anywhere(form: &Form) -> bool {
    let branches = [
        "jmp", "call", "ret", "div", "idiv", "enter", "leave", "to it", "from it",
    ];
    !form.only_at_place && !branches.iter().any(|name| form.name.contains(name))
}
