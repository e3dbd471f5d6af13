// SPDX-License-Identifier: GPL-2.0

//! The processor that the test runs on: loads registers, executes one instruction, and
//! says what became of them.
//!
//! All unsafe code of this crate is here and in the modules below: mapping memory at
//! fixed addresses, installing signal handlers and descriptors, and jumping into bytes
//! that were just written cannot be done without.
//!
//! ```text
//!   run -> native_enter -> far jump -> CODE: instruction, pad -> native_exit -> run
//!                                        | fault                  ^
//!                                        '--> native_handler -----'
//! ```
//!
//! What an instruction reaches beyond the window is this process, which is made for it:
//! see [`confine`].

mod memory;
mod sandbox;
mod segments;
mod state;

use std::arch::global_asm;

use emulate::insn::CodeSize;

use crate::layout::{self, CODE_BYTES, WINDOW};
use memory::Mapping;
use state::State;

pub use sandbox::{confine, BROKEN};
pub use segments::{Choice, Descriptor, DESCRIPTORS, FLAT, USER_CS32, USER_CS64};

global_asm!(
    include_str!("cpu/entry.S"),
    STATE = const layout::STATE,
    XSAVE_IN = const layout::XSAVE_IN,
    XSAVE_OUT = const layout::XSAVE_OUT,
    BROKEN = const BROKEN,
);

extern "C" {
    fn native_enter();
    fn native_exit();
    fn native_handler();
    fn native_segments();
}

/// What the processor starts with.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// As in [`Cpu::gprs`](emulate::cpu::Cpu::gprs).
    pub gprs: [u64; 16],
    /// RFLAGS. With TF the instruction is single-stepped.
    pub rflags: u64,
    /// Offset of the instruction in its code segment.
    pub rip: u64,
    /// Code segment.
    pub cs: u16,
    /// Stack segment.
    pub ss: u16,
    /// The XSAVE area to load, for instructions that depend on it.
    pub xsave: Option<&'a [u8]>,
}

/// An exception that the processor raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    /// Vector.
    pub vector: u8,
    /// Error code.
    pub error: u32,
    /// CR2; says something for a page fault alone.
    pub cr2: u64,
}

/// What the processor ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// General registers.
    pub gprs: [u64; 16],
    /// RFLAGS.
    pub rflags: u64,
    /// Offset of the next instruction, or of the one that faulted; `None` where a landing
    /// pad tells it.
    pub rip: Option<u64>,
    /// Selector of CS; `None` where a landing pad was reached, for which it had to be the
    /// same as before.
    pub cs: Option<u16>,
    /// The number of the landing pad, 0 behind the instruction.
    pub pad: u64,
    /// The exception, if there was one. Single steps are none.
    pub trap: Option<Trap>,
}

/// The processor, with memory for the instruction to work on.
#[derive(Debug)]
pub struct Processor {
    state: State,
    window: Mapping,
    code: Mapping,
    size: CodeSize,
    has_ldt: bool,
}

impl Processor {
    /// Takes the process over: maps what [`layout`] says, and handles signals.
    ///
    /// # Errors
    ///
    /// Why this kernel or this processor cannot do it.
    pub fn new(size: CodeSize) -> Result<Self, String> {
        let state = State::new()?;
        let window = memory::window()?;
        let code = memory::code()?;
        let local = segments::install();
        if size != CodeSize::Bits64 {
            local.clone()?;
        }
        sandbox::handle_signals(native_handler)?;
        let mut processor = Self {
            state,
            window,
            code,
            size,
            has_ldt: local.is_ok(),
        };
        processor.state.set_exit(native_exit);
        processor.place_pads();
        processor.probe()?;
        Ok(processor)
    }

    /// Executes a NOP in each code segment of the mode.
    fn probe(&mut self) -> Result<(), String> {
        let (local, whole) = match self.size {
            CodeSize::Bits64 => (None, Some(USER_CS64)),
            CodeSize::Bits32 => (Some(Choice::Code32), Some(USER_CS32)),
            CodeSize::Bits16 => (Some(Choice::Code16), None),
        };
        let number = DESCRIPTORS.iter().position(|d| Some(d.choice) == local);
        let local = number.map(|number| (Descriptor::selector(number), 0));
        let whole = whole.map(|selector| (selector, layout::CODE));
        self.place(0, &[0x90]);
        for (cs, rip) in local.into_iter().chain(whole) {
            let start = Start {
                gprs: [0; 16],
                rflags: 1 << 1,
                rip,
                cs,
                ss: FLAT,
                xsave: None,
            };
            if let Some(trap) = self.run(&start).trap {
                return Err(format!("no code in segment {cs:#x}: {trap:?}"));
            }
        }
        Ok(())
    }

    /// The window, whatever rights the instruction has to it.
    pub fn window(&mut self) -> &mut [u8; WINDOW] {
        self.window.bytes()
    }

    /// The code pages.
    pub fn code(&mut self) -> &mut [u8; CODE_BYTES] {
        self.code.bytes()
    }

    /// There are segments in the LDT, which 64-bit code can do without.
    pub const fn has_ldt(&self) -> bool {
        self.has_ldt
    }

    /// The state components, as in XCR0, that are loaded and stored.
    pub fn xfeatures(&mut self) -> u64 {
        self.state.xfeatures()
    }

    /// The XSAVE area that the last run with vector state stored, as Intel's processors
    /// have it.
    pub fn xsave(&mut self) -> &[u8] {
        self.state.xsave_out()
    }

    /// Loads DS, ES and GS of 16- and 32-bit code.
    pub fn load_segments(&mut self, ds: u16, es: u16, gs: u16) {
        self.state.set_segments(ds, es, gs);
        // SAFETY: the function loads three segment registers that 64-bit code does not
        // use, and whose selectors `segments::install` has made valid.
        unsafe { native_segments() };
    }

    /// Sets the base of GS for 64-bit code, and returns that of FS, which the process
    /// itself uses.
    pub fn set_gs_base(&mut self, base: u64) -> u64 {
        segments::set_gs_base(base)
    }

    /// Executes the instruction that was placed at `start.rip`.
    pub fn run(&mut self, start: &Start<'_>) -> End {
        self.state.prepare(start);
        // SAFETY: the function keeps what the ABI says, and the instruction can change
        // the window and registers only: `check` in `crate::allowed` lets no other pass.
        // Where it is wrong about that, `confine` limits what happens.
        unsafe { native_enter() };
        self.state.end()
    }

    /// Puts an instruction at `offset` of the code pages, with pad 0 behind it.
    pub fn place(&mut self, offset: usize, bytes: &[u8]) {
        let pad = self.pad_code(0);
        let len = bytes.len();
        let code = &mut self.code()[offset..];
        code[..len].copy_from_slice(bytes);
        code[len..][..pad.len()].copy_from_slice(&pad);
    }

    fn place_pads(&mut self) {
        for number in 0..layout::PAD_COUNT {
            let stub = stub(number);
            let at = (stub_address(number) - layout::CODE) as usize;
            self.code()[at..][..stub.len()].copy_from_slice(&stub);
            let pad = self.pad_code(number);
            let at = (layout::pad(number) - layout::CODE) as usize;
            self.code()[at..][..pad.len()].copy_from_slice(&pad);
        }
    }

    /// Code that ends a run, in the mode of the instruction: it goes to 64-bit mode.
    fn pad_code(&self, number: u64) -> Vec<u8> {
        let stub_at = (stub_address(number) as u32).to_le_bytes();
        let cs = USER_CS64.to_le_bytes();
        match self.size {
            CodeSize::Bits64 => stub(number),
            // JMP ptr16:32
            CodeSize::Bits32 => [&[0xea], &stub_at[..], &cs].concat(),
            CodeSize::Bits16 => [&[0x66, 0xea], &stub_at[..], &cs].concat(),
        }
    }
}

fn stub_address(number: u64) -> u64 {
    layout::CODE + layout::STUBS + number * layout::PAD_BYTES
}

/// 64-bit code: `mov dword ptr [PAD], number; jmp qword ptr [EXIT]`.
fn stub(number: u64) -> Vec<u8> {
    let pad = (state::PAD as u32).to_le_bytes();
    let exit = (state::EXIT as u32).to_le_bytes();
    let number = (number as u32).to_le_bytes();
    [
        &[0xc7, 0x04, 0x25][..],
        &pad,
        &number,
        &[0xff, 0x24, 0x25],
        &exit,
    ]
    .concat()
}
