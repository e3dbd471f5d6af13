// SPDX-License-Identifier: GPL-2.0

//! Single instructions with an operand at RBX, and the accesses that each makes there.

mod arithmetic;
mod moves;
mod strings;
mod vectors;

use super::bus::Access;
use super::rig::Page;
use crate::machine::Assembled;
use guest::asm::CodeAssembler;
use guest::{Mode, Program, CODE, PAGE_SIZE, SCRATCH};
use kvm_bindings::kvm_regs;
use std::sync::OnceLock;

/// Carry flag.
const CF: u64 = 1 << 0;
/// Parity flag.
const PF: u64 = 1 << 2;
/// Auxiliary carry flag.
const AF: u64 = 1 << 4;
/// Zero flag.
const ZF: u64 = 1 << 6;
/// Sign flag.
const SF: u64 = 1 << 7;
/// Overflow flag.
const OF: u64 = 1 << 11;

/// What RAX, RCX and RDX hold before a form is executed.
pub(crate) const RAX: u64 = 0x8182_8384_8586_8788;
/// CL is 3: a count of shifts, and a bit offset.
pub(crate) const RCX: u64 = 3;
/// See [`RAX`].
pub(crate) const RDX: u64 = 0x7172_7374_7576_7778;

/// Offset in its page at which an operand is aligned, and clear of all borders.
pub(crate) const PLACE: u64 = 0x40;

/// All forms.
pub(crate) fn all() -> &'static [Form] {
    static FORMS: OnceLock<Vec<Form>> = OnceLock::new();
    FORMS.get_or_init(|| {
        let parts = [
            moves::all(),
            moves::stack(),
            arithmetic::all(),
            strings::all(),
            vectors::all(),
        ];
        parts.into_iter().flatten().collect()
    })
}

/// An instruction, with what prepares its registers.
#[derive(Clone)]
pub(crate) struct Form {
    /// Its name.
    pub(crate) name: String,
    /// The accesses in their order, such as `r4 w4`: read or write, bytes, and `+N`
    /// where the access is N bytes behind RBX.
    accesses: String,
    /// Its bytes.
    pub(crate) code: Vec<u8>,
    /// What the operand holds, if it matters.
    pub(crate) operand: Vec<u64>,
    /// Flags that it leaves undefined.
    pub(crate) undefined: u64,
    /// It must be aligned, or has an address of its own: the operand is at [`PLACE`].
    pub(crate) only_at_place: bool,
    /// KVM has it.
    pub(crate) in_kvm: bool,
    /// The processor may write a part of it before it finds that another is denied.
    pub(crate) in_parts: bool,
}

/// A form that the assembler makes.
fn form(name: &str, accesses: &str, author: impl FnOnce(&mut CodeAssembler) -> Assembled) -> Form {
    let program = Program::assemble(Mode::Long, CODE, |a| author(a).map(|()| vec![]));
    bytes(name, accesses, program.expect(name).code)
}

/// A form of these bytes.
fn bytes(name: &str, accesses: &str, code: Vec<u8>) -> Form {
    Form {
        name: name.to_owned(),
        accesses: accesses.to_owned(),
        code,
        operand: Vec::new(),
        undefined: 0,
        only_at_place: false,
        in_kvm: true,
        in_parts: false,
    }
}

/// An instruction for operands of several sizes. In its last opcode byte bit 0 is clear
/// for bytes.
struct Family {
    name: &'static str,
    /// LOCK, or the prefix that belongs to the opcode.
    prefix: &'static [u8],
    opcode: &'static [u8],
    /// The register of ModRM, or the rest of the opcode.
    reg: u8,
    /// `r`, `w`, or `r w`.
    does: &'static str,
    /// Bytes of the immediate, at most; 0x7f, 0x01, 0x01, 0x01.
    immediate: usize,
    undefined: u64,
}

impl Family {
    /// The form for operands of `size` bytes.
    fn of(&self, size: u8) -> Form {
        let mut code = Vec::new();
        if size == 2 {
            code.push(0x66);
        }
        code.extend(self.prefix);
        if size == 8 {
            code.push(0x48);
        }
        code.extend(self.opcode);
        if size == 1 {
            // Only families that have one are asked for it.
            if let Some(last) = code.last_mut() {
                *last &= !1;
            }
        }
        code.push(3 | (self.reg << 3));
        let immediate = self.immediate.min(size.into());
        code.extend(&[0x7f, 1, 1, 1][..immediate]);
        let accesses = self
            .does
            .split_whitespace()
            .map(|does| format!("{does}{size} "));
        let name = format!("{} {}", self.name, u32::from(size) * 8);
        bytes(&name, &accesses.collect::<String>(), code).undefined(self.undefined)
    }

    /// The forms for `sizes`.
    fn forms<'a>(&'a self, sizes: &'a [u8]) -> impl Iterator<Item = Form> + 'a {
        sizes.iter().map(|&size| self.of(size))
    }
}

impl Form {
    fn operand(mut self, words: &[u64]) -> Self {
        self.operand = words.to_vec();
        self
    }

    fn undefined(mut self, flags: u64) -> Self {
        self.undefined = flags;
        self
    }

    fn only_at_place(mut self) -> Self {
        self.only_at_place = true;
        self
    }

    fn in_parts(mut self) -> Self {
        self.in_parts = true;
        self
    }

    fn not_in_kvm(mut self) -> Self {
        self.in_kvm = false;
        self
    }

    /// The exits that it makes, if RBX is `offset` bytes into a window of `pages`.
    pub(crate) fn exits(&self, offset: u64, pages: &[Page]) -> Vec<Exit> {
        let accesses = self.accesses.split_whitespace().map(|word| {
            let (write, rest) = (word.starts_with('w'), &word[1..]);
            let (len, behind) = rest.split_once('+').unwrap_or((rest, "0"));
            let number = |text: &str| text.parse::<u64>().expect("a number");
            (write, offset + number(behind), number(len))
        });
        let pieces = accesses.flat_map(|(write, at, len)| split(write, at, len, pages));
        pieces.collect()
    }
}

/// A device exit without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    /// A write, not a read.
    pub(crate) write: bool,
    /// Guest-physical address.
    pub(crate) gpa: u64,
    /// Bytes.
    pub(crate) len: u64,
}

impl Exit {
    /// That of an access.
    pub(crate) fn of(access: &Access) -> Self {
        let (write, gpa, data) = match access {
            Access::Read(gpa, data) => (false, *gpa, data),
            Access::Write(gpa, data) => (true, *gpa, data),
            other => panic!("{other:?}"),
        };
        let len = data.len() as u64;
        Self { write, gpa, len }
    }
}

/// The pieces of an access: none for memory; of at most 8 bytes, and in one page, for
/// a device.
fn split(write: bool, at: u64, len: u64, pages: &[Page]) -> Vec<Exit> {
    let (mut at, end) = (at, at + len);
    let mut exits = Vec::new();
    while at < end {
        let border = (at / PAGE_SIZE + 1) * PAGE_SIZE;
        let stop = border.min(end);
        let page = pages[(at / PAGE_SIZE) as usize];
        while at < stop {
            let len = (stop - at).min(8);
            let gpa = page.gpa() + at % PAGE_SIZE;
            if matches!(page, Page::Device(_)) {
                exits.push(Exit { write, gpa, len });
            }
            at += len;
        }
    }
    exits
}

/// Registers for all forms, with the operand at `rbx`.
pub(crate) fn registers(regs: &mut kvm_regs, rbx: u64) {
    (regs.rax, regs.rcx, regs.rdx, regs.rbx) = (RAX, RCX, RDX, rbx);
    (regs.r8, regs.r9, regs.r10, regs.r11) = (1, 2, 3, 4);
    (regs.r12, regs.r13, regs.r14, regs.r15) = (5, 6, 7, 0x123);
    (regs.rsi, regs.rdi, regs.rbp) = (SCRATCH + 0x100, SCRATCH + 0x800, 9);
    regs.rflags = 2 | CF;
}
