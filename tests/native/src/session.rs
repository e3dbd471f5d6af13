// SPDX-License-Identifier: GPL-2.0

//! Batches of cases on both sides.
//!
//! A batch begins with memory that its number alone decides, so that each case can be
//! repeated. The pages that the emulator has touched are compared after each case, all of
//! the window at the end of the batch; if that differs, the batch is repeated with all of
//! the window compared after each case.

use std::ops::Range;

use emulate::insn::{CodeSize, Seg};
use emulate::journal::Journal;

use crate::aim::Windows;
use crate::allowed::is_vector;
use crate::case::{Case, Draw};
use crate::compare::{self, Difference, Emulated, Native};
use crate::cpu::{Processor, Start};
use crate::features::Features;
use crate::layout::{PAGE, PAGES};
use crate::mode::Mode;
use crate::model::Ram;
use crate::rng::Rng;
use crate::rules::{self, Context, Ignored};
use crate::setup::{Process, Setup};
use crate::stats::Stats;

/// Cases of a batch.
pub const BATCH: u64 = 4096;

/// Both sides.
#[derive(Debug)]
pub struct Session {
    mode: Mode,
    seed: u64,
    features: Features,
    process: Process,
    processor: Processor,
    ram: Ram,
    devices: Box<Journal>,
    /// The batch has sub-page maps: see [`Plan`](crate::tables::Plan).
    denied: bool,
    /// What was tested.
    pub stats: Stats,
}

/// A batch ends after so many failures: each of them is repeated.
const ENOUGH: usize = 4;

/// How thoroughly memory is compared after each case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    /// Pages that the emulator touched.
    Touched,
    /// All pages.
    All,
}

/// A case whose ends differ.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its batch.
    pub batch: u64,
    /// Its number in the batch; none where memory differs at the end of a batch only.
    pub number: u64,
    /// The common start.
    pub setup: Setup,
    /// The case.
    pub case: Case,
    /// The processor's end.
    pub native: Native,
    /// The emulator's end.
    pub emulated: Emulated,
    /// Where they differ.
    pub differences: Vec<Difference>,
}

impl Session {
    /// Makes this process a session.
    ///
    /// # Errors
    ///
    /// Why this system cannot do it.
    pub fn new(mode: Mode, seed: u64) -> Result<Self, String> {
        let mut features = Features::read()?;
        let mut processor = Processor::new(mode.0)?;
        features.xfeatures = processor.xfeatures();
        let mut process = Process {
            fs: 0,
            gs: Process::gs(seed),
            has_ldt: processor.has_ldt(),
        };
        if mode.0 == CodeSize::Bits64 {
            process.fs = processor.set_gs_base(process.gs);
        }
        Ok(Self {
            mode,
            seed,
            features,
            process,
            processor,
            ram: Ram::new(),
            devices: Box::default(),
            denied: false,
            stats: Stats::default(),
        })
    }

    /// Runs a batch, all of it or up to a case, and returns the cases that differ. `trace`
    /// is told of each case before it is executed.
    pub fn batch(
        &mut self,
        batch: u64,
        up_to: u64,
        trace: &mut dyn FnMut(u64, &Case),
    ) -> Vec<Failure> {
        let stats = self.stats.clone();
        let mut failures = self.run(batch, up_to, Memory::Touched, trace);
        if failures.is_empty() && !self.same_memory() {
            self.stats = stats;
            failures = self.run(batch, up_to, Memory::All, trace);
            if failures.is_empty() {
                self.stats.unrepeatable += 1;
            }
        }
        failures.retain(|failure| self.comes_again(failure));
        failures
    }

    fn comes_again(&mut self, failure: &Failure) -> bool {
        let stats = self.stats.clone();
        let again = self.run(failure.batch, failure.number, Memory::All, &mut |_, _| ());
        self.stats = stats;
        let same = again.iter().any(|other| other.number == failure.number);
        match same {
            true => self.stats.failures += 1,
            false => self.stats.unrepeatable += 1,
        }
        same
    }

    fn run(
        &mut self,
        batch: u64,
        up_to: u64,
        memory: Memory,
        trace: &mut dyn FnMut(u64, &Case),
    ) -> Vec<Failure> {
        let seeds = [self.seed, self.mode.bits().into(), batch];
        let mut rng = Rng::new(&seeds);
        let setup = self.begin(&mut rng);
        let mut failures = Vec::new();
        for number in 0..BATCH.min(up_to.saturating_add(1)) {
            let mut rng = Rng::new(&[seeds[0], seeds[1], seeds[2], number]);
            let case = self.draw(&setup, &mut rng);
            trace(number, &case);
            let native = self.native(&setup, &case);
            let emulated = compare::emulate(&case, &mut self.ram, &mut self.devices);
            let fault = native.exception.is_some();
            self.stats.case(case.insn.op.name(), fault);
            let differences = self.judge(&case, &native, &emulated, memory);
            if !differences.is_empty() {
                self.copy_memory();
                failures.push(Failure {
                    batch,
                    number,
                    setup: setup.clone(),
                    case,
                    native,
                    emulated,
                    differences,
                });
            }
            if failures.len() == ENOUGH {
                break;
            }
        }
        failures
    }

    /// Segments, page tables and memory of a batch.
    fn begin(&mut self, rng: &mut Rng) -> Setup {
        let mut setup = Setup::new(self.mode, rng, self.process, &mut self.ram);
        setup.cpu.xcr0 = self.features.xfeatures;
        if self.mode.0 != CodeSize::Bits64 {
            let selector = |seg| setup.cpu.segment(seg).selector;
            let (ds, es, gs) = (selector(Seg::Ds), selector(Seg::Es), selector(Seg::Gs));
            self.processor.load_segments(ds, es, gs);
        }
        self.denied = setup.plan.denied;
        rng.fill(self.ram.window());
        self.copy_memory();
        setup.copy_code(&mut self.ram, self.processor.code());
        setup
    }

    fn draw(&mut self, setup: &Setup, rng: &mut Rng) -> Case {
        Draw {
            rng,
            setup,
            features: &self.features,
            windows: Windows {
                native: self.processor.window(),
                model: self.ram.window(),
            },
        }
        .case()
    }

    fn native(&mut self, setup: &Setup, case: &Case) -> Native {
        let start = &case.start;
        let offset = start.rip - setup.code();
        self.processor.place(offset as usize, case.code());
        setup.copy_instruction(&mut self.ram, offset, self.processor.code());
        let end = self.processor.run(&Start {
            gprs: start.gprs,
            rflags: start.rflags,
            rip: start.rip,
            cs: start.segment(Seg::Cs).selector,
            ss: start.segment(Seg::Ss).selector,
            xsave: case.xsave.as_deref().map(|area| &area[..]),
        });
        Native::new(case, end)
    }

    /// The differences that no rule allows.
    fn judge(
        &mut self,
        case: &Case,
        native: &Native,
        emulated: &Emulated,
        memory: Memory,
    ) -> Vec<Difference> {
        let touched = self.ram.take_touched();
        // What is left of a frame that was not finished may be elsewhere.
        let partial = native.exception.is_some() && rules::pushes_frame(&case.insn);
        let pages = match memory {
            Memory::Touched if !partial => touched,
            _ => u32::MAX,
        };
        let found = self.differences(case, native, emulated, &Ignored::default(), pages);
        if found.is_empty() {
            return found;
        }
        let mut context = Context {
            amd: self.features.amd,
            ram: &mut self.ram,
            denied: self.denied,
            devices: &mut self.devices,
        };
        let rules = rules::applicable(&mut context, case, native, emulated);
        if rules.is_empty() {
            return found;
        }
        let ignored = Ignored::by(&rules, case);
        let found = self.differences(case, native, emulated, &ignored, pages);
        if found.is_empty() {
            for rule in &rules {
                self.stats.rule(&format!("{rule:?}"));
            }
            if !ignored.memory.is_empty() || ignored.all {
                self.copy_memory();
            }
        }
        found
    }

    fn differences(
        &mut self,
        case: &Case,
        native: &Native,
        emulated: &Emulated,
        ignored: &Ignored,
        pages: u32,
    ) -> Vec<Difference> {
        if ignored.all {
            return Vec::new();
        }
        let mut found = compare::registers(case, native, emulated, ignored);
        if is_vector(case.insn.op) {
            let available = self.features.xfeatures;
            let area = self.processor.xsave();
            found.extend(compare::vectors(case, available, area, emulated));
        }
        found.extend(self.memory(pages, &ignored.memory));
        found
    }

    /// The first byte of the window that differs, but for some.
    fn memory(&mut self, pages: u32, ignored: &[Range<usize>]) -> Option<Difference> {
        let native = self.processor.window();
        let model = self.ram.window();
        let size = PAGE as usize;
        let page = |n: usize| n * size..(n + 1) * size;
        (0..PAGES)
            .filter(|n| pages >> n & 1 != 0)
            .map(page)
            .filter(|bytes| native[bytes.clone()] != model[bytes.clone()])
            .flatten()
            .filter(|at| native[*at] != model[*at])
            .find(|at| !ignored.iter().any(|range| range.contains(at)))
            .map(Difference::Memory)
    }

    fn same_memory(&mut self) -> bool {
        self.memory(u32::MAX, &[]).is_none()
    }

    /// Makes the processor's memory what the emulator's is.
    fn copy_memory(&mut self) {
        self.processor.window().copy_from_slice(self.ram.window());
    }
}
