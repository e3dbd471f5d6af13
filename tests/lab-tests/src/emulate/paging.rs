// SPDX-License-Identifier: GPL-2.0

//! Page walks of emulated accesses. The processor walks the same tables for an instruction
//! that it executes itself: fault, error code, CR2, and the flags in the tables must be
//! equal.
//!
//! ```text
//!   MOV CR3 ; IRETQ ──► one instruction at CODE_AT, user or supervisor code
//!
//!   TARGET + gpa    its tables, of one entry each, are what the tests change
//!   CODE_AT         the instruction, and then a device
//! ```
//! Of an instruction that the processor executes, it walks the tables. So emulated ones have
//! something else to be stopped at before: a port, a device, or a map of the page before.

use super::backend;
use super::rig::{Rig, P, U, W};
use crate::harness::{tests, Lab};
use crate::machine::{Assembled, Stop, HOLE};
use guest::asm::*;
use guest::{Mode, Program, DATA, GDT, PAGE_SIZE, STACK, TABLES};
use ioctl_api::subpage::FULL;

tests![
    supervisor_code,
    supervisor_code_without_write_protection,
    user_code,
    user_code_is_not_the_supervisor,
    smap,
    smap_without_write_protection,
    smap_that_ac_lifts,
    no_execute_is_reserved,
];

/// Linear addresses, by their PML4 entry.
const TARGET: u64 = 1 << 39;
const CODE_AT: u64 = 2 << 39;
const DEVICE_AT: u64 = CODE_AT + PAGE_SIZE;
/// Page tables for [`TARGET`] and [`CODE_AT`], each a PDPT, a PD and a PT.
const TREES: u64 = 0x18_0000;
const TREE: u64 = 3 * PAGE_SIZE;
/// Where the instruction is in memory.
const CODE_PAGE: u64 = 0x9000;
/// What is written and read.
const PAGES: [u64; 2] = [DATA, DATA + PAGE_SIZE];

const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NX: u64 = 1 << 63;

const WP: u64 = 1 << 16;
const SMEP: u64 = 1 << 20;
const SMAP: u64 = 1 << 21;
const NXE: u64 = 1 << 11;
const AC: u64 = 1 << 18;
/// I/O is for user code too.
const IOPL: u64 = 3 << 12;

type Emit = fn(&mut CodeAssembler) -> Assembled;

/// Instructions that access [`TARGET`]: one that the processor executes, and others that
/// are emulated. These have the map, and name.
struct Access {
    native: Emit,
    emulated: &'static [(&'static str, Emit, u32)],
}

/// A map that allows all of the accesses.
const MAP: u32 = !(1 << 16);

const ACCESSES: [Access; 4] = [
    Access {
        native: |a| a.stosd(),
        emulated: &[
            ("ins", |a| a.insd(), FULL),
            ("movs", |a| a.movsd(), FULL),
            ("stos", |a| a.stosd(), MAP),
        ],
    },
    Access {
        native: |a| a.mov(eax, dword_ptr(rdi)),
        emulated: &[(
            "outs",
            |a| {
                a.mov(rsi, rdi)?;
                a.outsd()
            },
            FULL,
        )],
    },
    Access {
        native: |a| a.push(rax),
        emulated: &[
            ("push m", |a| a.push(qword_ptr(rsi)), FULL),
            ("push", |a| a.push(rax), MAP),
        ],
    },
    Access {
        native: |a| a.lock().xadd(dword_ptr(rdi), eax),
        emulated: &[("xadd", |a| a.lock().xadd(dword_ptr(rdi), eax), MAP)],
    },
];

/// How a processor is set up.
#[derive(Clone, Copy)]
struct Setup {
    user: bool,
    cr0: u64,
    cr4: u64,
    efer: u64,
    rflags: u64,
}

const SUPERVISOR: Setup = Setup {
    user: false,
    cr0: WP,
    cr4: 0,
    efer: NXE,
    rflags: IOPL | 2,
};

/// What became of an instruction.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// A page fault, with error code, CR2, and whether RIP is at the instruction.
    Fault(u64, u64, bool),
    /// It is finished; the flags of each table entry on the way.
    Done(Vec<u64>),
    Other(String),
}

/// A change of the entry at `level`, 0 for the PML4, on the way to a page.
#[derive(Clone, Copy)]
struct Change {
    name: &'static str,
    level: usize,
    /// Of the two pages.
    page: usize,
    set: u64,
    clear: u64,
}

/// Changes that are made to an entry of each level.
const EACH_LEVEL: [(&str, u64, u64); 5] = [
    ("not present", 0, P),
    ("read-only", 0, W),
    ("supervisor", 0, U),
    ("reserved bit", 1 << 51, 0),
    ("no execute", NX, 0),
];

fn changes() -> Vec<Change> {
    let change = |page, level, (name, set, clear)| Change {
        name,
        level,
        page,
        set,
        clear,
    };
    let upper = (0..4).flat_map(|level| EACH_LEVEL.map(|what| change(0, level, what)));
    let second = EACH_LEVEL.map(|what| change(1, 3, what));
    // The PML4 has no large pages; those of the other tables begin at 0.
    let large = [
        (0, LARGE, 0),
        (1, LARGE, !0xfff & !NX),
        (2, LARGE, !0xfff & !NX),
    ];
    let large = large.map(|(level, set, clear)| change(0, level, ("large", set, clear)));
    let unaligned = [1, 2].map(|level| {
        let set = LARGE | 1 << 13;
        change(0, level, ("large, unaligned", set, !0xfff & !NX))
    });
    let both = change(0, 3, ("read-only supervisor page", 0, W | U));
    let none = change(0, 3, ("nothing", 0, 0));
    let others = second.into_iter().chain(large).chain(unaligned);
    upper.chain(others).chain([both, none]).collect()
}

impl Change {
    fn describe(&self, offset: u64) -> String {
        let Self {
            name, level, page, ..
        } = self;
        format!("{name}, level {level}, page {page}, {offset:#x}")
    }
}

struct Walks {
    rig: Rig,
    setup: Setup,
}

impl Walks {
    fn new(lab: &Lab, setup: Setup) -> Self {
        let rig = Rig::spp(lab, |a| {
            a.mov(rax, cr3)?;
            a.mov(cr3, rax)?;
            a.xor(eax, eax)?;
            a.iretq()
        });
        let machine = &rig.machine;
        machine.use_handler_stack();
        // Flat code and data of user code.
        machine.set_qword(GDT + 0x18, 0x00af_fb00_0000_ffff);
        machine.set_qword(GDT + 0x20, 0x00cf_f300_0000_ffff);
        let mut sregs = machine.sregs();
        sregs.gdt.limit = 0x27;
        sregs.cr0 = sregs.cr0 & !WP | setup.cr0;
        sregs.cr4 |= setup.cr4;
        sregs.efer = sregs.efer & !NXE | setup.efer;
        machine.set_sregs(&sregs);
        let walks = Self { rig, setup };
        walks.map_code();
        walks
    }

    /// Code and device, for whom the setup says.
    fn map_code(&self) {
        let machine = &self.rig.machine;
        let flags = P | W | if self.setup.user { U } else { 0 };
        let tree = TREES + TREE;
        let tables = [tree, tree + PAGE_SIZE, tree + 2 * PAGE_SIZE];
        machine.set_qword(TABLES + 8 * 2, tables[0] | flags);
        machine.set_qword(tables[0], tables[1] | flags);
        machine.set_qword(tables[1], tables[2] | flags);
        machine.set_qword(tables[2], CODE_PAGE | flags);
        machine.set_qword(tables[2] + 8, HOLE | flags);
    }

    /// Where the entry at `level` for a page is.
    fn entry(level: usize, gpa: u64) -> u64 {
        let at = TARGET + gpa;
        let table = match level {
            0 => TABLES,
            _ => TREES + (level as u64 - 1) * PAGE_SIZE,
        };
        table + 8 * (at >> (39 - 9 * level) & 511)
    }

    fn map_target(&self, change: &Change) {
        let machine = &self.rig.machine;
        // Bochs does not set the dirty flag of what CR0.WP alone lets pass.
        let dirty = if self.setup.cr0 & WP == 0 { D } else { 0 };
        for gpa in PAGES {
            for level in 0..3 {
                let next = TREES + level as u64 * PAGE_SIZE;
                machine.set_qword(Self::entry(level, gpa), next | dirty | P | W | U);
            }
            machine.set_qword(Self::entry(3, gpa), gpa | dirty | P | W | U);
        }
        let at = Self::entry(change.level, PAGES[change.page]);
        machine.set_qword(at, machine.qword(at) & !change.clear | change.set);
    }

    /// Executes an instruction for `offset` bytes into the pages.
    fn run(&mut self, emit: Emit, map: u32, change: &Change, offset: u64) -> Outcome {
        let machine = &mut self.rig.machine;
        machine.restart();
        let program = Program::assemble(Mode::Long, CODE_AT, |a| {
            emit(a)?;
            a.hlt()?;
            Ok(vec![])
        });
        let program = program.expect("a program");
        machine.write(CODE_PAGE, &program.code);
        machine.vm.set_maps(PAGES[0], &[map; 2]).expect("maps");
        let at = TARGET + PAGES[0] + offset;
        let (code, stack) = match self.setup.user {
            true => (0x1b, 0x23),
            false => (8, 0x10),
        };
        let frame = [CODE_AT, code, self.setup.rflags, at + 8, stack];
        for (n, word) in frame.into_iter().enumerate() {
            machine.set_qword(STACK - 64 + 8 * n as u64, word);
        }
        machine.change_regs(|r| {
            r.rsp = STACK - 64;
            (r.rdi, r.rsi, r.rdx) = (at, DEVICE_AT, 0x3f8);
        });
        self.map_target(change);
        self.outcome(&program)
    }

    fn outcome(&mut self, program: &Program) -> Outcome {
        let stop = self.rig.run();
        let halt = CODE_AT + program.code.len() as u64 - 1;
        let machine = &self.rig.machine;
        let event = match stop {
            Stop::Hlt => return self.done(),
            Stop::Event(event) => event,
            other => return Outcome::Other(format!("{other:x?}")),
        };
        let starts: Vec<u64> = program.instructions().collect();
        let [.., instruction, _] = starts[..] else {
            return Outcome::Other("no instruction".to_owned());
        };
        match event.vector {
            // HLT is not for user code.
            13 if event.rip == halt => self.done(),
            14 => Outcome::Fault(event.error, machine.sregs().cr2, event.rip == instruction),
            _ => Outcome::Other(format!("{event:x?}")),
        }
    }

    fn done(&self) -> Outcome {
        let entry = |level, gpa| self.rig.machine.qword(Self::entry(level, gpa)) & (A | D);
        let levels = (0..4).flat_map(|level| PAGES.map(|gpa| entry(level, gpa)));
        Outcome::Done(levels.collect())
    }
}

/// Compares all accesses with all changes; how many faults, and how many are done.
fn compare(lab: &Lab, setup: Setup) {
    let (mut faults, mut done) = (0, 0);
    for lab in backend::each(lab) {
        let mut walks = Walks::new(&lab, setup);
        for change in changes() {
            for offset in [0x208, PAGE_SIZE - 2] {
                for access in &ACCESSES {
                    let expected = walks.run(access.native, FULL, &change, offset);
                    let what = change.describe(offset);
                    match expected {
                        Outcome::Fault(..) => faults += 1,
                        Outcome::Done(_) => done += 1,
                        Outcome::Other(why) => panic!("{what}: {why}"),
                    }
                    for (name, emit, map) in access.emulated {
                        let found = walks.run(*emit, *map, &change, offset);
                        assert_eq!(found, expected, "{name}, {:?}: {what}", lab.backend());
                    }
                }
            }
        }
    }
    assert!(faults > 80 && done > 20, "{faults} faults, {done} done");
}

fn supervisor_code(lab: &Lab) {
    compare(lab, SUPERVISOR);
}

fn supervisor_code_without_write_protection(lab: &Lab) {
    let setup = Setup {
        cr0: 0,
        ..SUPERVISOR
    };
    compare(lab, setup);
}

fn user_code(lab: &Lab) {
    let setup = Setup {
        user: true,
        ..SUPERVISOR
    };
    compare(lab, setup);
}

/// CR0.WP, SMEP and SMAP are no matter of it.
fn user_code_is_not_the_supervisor(lab: &Lab) {
    let setup = Setup {
        user: true,
        cr0: 0,
        cr4: SMEP | SMAP,
        ..SUPERVISOR
    };
    compare(lab, setup);
}

fn smap(lab: &Lab) {
    let setup = Setup {
        cr4: SMEP | SMAP,
        ..SUPERVISOR
    };
    compare(lab, setup);
}

fn smap_without_write_protection(lab: &Lab) {
    let setup = Setup {
        cr0: 0,
        cr4: SMAP,
        ..SUPERVISOR
    };
    compare(lab, setup);
}

fn smap_that_ac_lifts(lab: &Lab) {
    let setup = Setup {
        cr4: SMEP | SMAP,
        rflags: SUPERVISOR.rflags | AC,
        ..SUPERVISOR
    };
    compare(lab, setup);
}

/// EFER.NXE is 0.
fn no_execute_is_reserved(lab: &Lab) {
    for user in [false, true] {
        let setup = Setup {
            user,
            efer: 0,
            ..SUPERVISOR
        };
        compare(lab, setup);
    }
}
