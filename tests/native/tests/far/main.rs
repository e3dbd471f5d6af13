// SPDX-License-Identifier: GPL-2.0

//! Far CALL, JMP and RET in the emulator against this processor: between the segments that
//! Linux gives to user code and those in the LDT, of 16, 32 and 64 bits. Those that must
//! fail name segments of the kernel, system descriptors and what is beyond the tables.
//!
//! ```text
//!   instruction --> landing pad of the new segment's kind: EAX = CS --> end of the run
//!        |     '--> the lowest 64 KiB, where nothing is: page fault for the fetch
//!        '--> exception
//! ```
//!
//! One test, since a process has one processor.

mod ram;

use std::io::Write;

use emulate::cpu::{mask, Cpu, Segment, Table};
use emulate::decode::decode;
use emulate::exec::execute;
use emulate::guard::Guest;
use emulate::insn::{CodeSize, Seg};
use emulate::journal::Journal;
use emulate::stop::Stop;
use native::cpu::{Choice, Descriptor, End, Processor, Start, DESCRIPTORS, USER_CS32, USER_CS64};
use native::features::Features;
use native::layout::{pad, CODE, LOW};
use native::rng::Rng;
use ram::{Ram, GDT, GDT_ENTRIES, LDT};
use CodeSize::{Bits16, Bits32, Bits64};

const CASES: u64 = 120_000;
const FLAT: u16 = native::cpu::FLAT;
/// Offset of the instruction in the code pages.
const AT: usize = 0x40;
/// Offsets of the landing pads of 16-, 32- and 64-bit code.
const PADS: [(CodeSize, u64); 3] = [(Bits16, 0x100), (Bits32, 0x120), (Bits64, 0x140)];
/// The last pages of the window, which may be written.
const FIRST: u64 = 0xb040;
const LAST: u64 = 0xffc0;

const RAX: usize = 0;
const RSP: usize = 4;
const RDI: usize = 7;
const RBX: usize = 3;

/// A segment register of Linux's user code.
fn flat(selector: u16) -> Segment {
    let entry = GDT_ENTRIES[usize::from(selector >> 3)];
    Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        attributes: (entry >> 40) as u16 & 0xf0ff,
        unusable: false,
    }
}

fn ldt(number: usize) -> Segment {
    DESCRIPTORS[number].segment(number)
}

/// What a segment is as CS.
fn code_size(segment: &Segment) -> CodeSize {
    match (segment.attributes >> 13 & 1, segment.big()) {
        (1, _) => Bits64,
        (_, true) => Bits32,
        (_, false) => Bits16,
    }
}

/// One instruction, and the registers that it starts with.
struct Case {
    bytes: Vec<u8>,
    cpu: Cpu,
    ds: u16,
}

struct Draw<'a> {
    rng: Rng,
    ram: &'a mut Ram,
    amd: bool,
}

impl Draw<'_> {
    fn segment(&mut self, choice: impl Fn(&Descriptor) -> bool) -> Option<Segment> {
        let all: Vec<usize> = (0..DESCRIPTORS.len())
            .filter(|n| choice(&DESCRIPTORS[*n]))
            .collect();
        self.rng.chance(60).then(|| ldt(self.rng.pick(&all)))
    }

    /// The selector of a target, and the segment if there is one that code could be in.
    fn target(&mut self) -> (u16, Option<Segment>) {
        if self.rng.chance(25) {
            let index = self.rng.below(17 + DESCRIPTORS.len() as u64 + 1) as u16;
            let (index, table) = match index {
                0..17 => (index, 0),
                _ => (index - 17, 4),
            };
            return (index << 3 | table | self.rng.below(4) as u16, None);
        }
        let code = |d: &Descriptor| matches!(d.choice, Choice::Code16 | Choice::Code32);
        let segment = self.segment(code).unwrap_or_else(|| {
            let selector = self.rng.pick(&[USER_CS32, USER_CS64]);
            flat(selector)
        });
        let rpl = match self.rng.chance(80) {
            true => 3,
            false => self.rng.below(4) as u16,
        };
        (segment.selector & !3 | rpl, Some(segment))
    }

    /// An offset that is safe to go to, whatever becomes of it.
    fn offset(&mut self, segment: Option<&Segment>) -> u64 {
        let flat = flat(USER_CS32);
        let segment = segment.unwrap_or(&flat);
        let size = code_size(segment);
        let (_, pad) = PADS.into_iter().find(|(s, _)| *s == size).unwrap();
        match self.rng.below(8) {
            0 => u64::from(segment.limit) + 1,
            1 => 1 << 62 | pad,
            2 => 0x8000_0000_0000,
            _ => (CODE + pad).wrapping_sub(segment.base),
        }
    }

    fn case(&mut self) -> Case {
        let mut cpu = Cpu::default();
        let code = |d: &Descriptor| matches!(d.choice, Choice::Code16 | Choice::Code32);
        let cs = self
            .segment(code)
            .unwrap_or_else(|| flat(self.rng.pick(&[USER_CS32, USER_CS64])));
        cpu.code = code_size(&cs);
        let long = cpu.long();
        let stack = |d: &Descriptor| d.choice == Choice::Stack;
        let ss = self.segment(stack).unwrap_or(flat(FLAT));
        let ds = ldt(5);
        cpu.segments = [ds, cs, ss, ds, ds, ds];
        for gpr in &mut cpu.gprs {
            *gpr = self.rng.next();
        }
        let base = if long { 0 } else { ds.base };
        let operand = FIRST + self.rng.below(LAST - FIRST);
        cpu.gprs[RBX] = (LOW + operand).wrapping_sub(base);
        cpu.gprs[RDI] = cpu.gprs[RBX];
        let stack = LOW + FIRST + self.rng.below(LAST - FIRST);
        let size = cpu.stack_size();
        // CALL uses the stack as the code that it enters does.
        let base = self.rng.pick(&[if long { 0 } else { ss.base }, 0, ss.base]);
        let upper = if size == 2 { self.rng.next() } else { 0 };
        let sp = stack.wrapping_sub(base) & mask(4);
        cpu.gprs[RSP] = sp & mask(size) | upper & 0xffff_0000 & !mask(size);
        if !long {
            for gpr in &mut cpu.gprs {
                *gpr &= mask(4);
            }
        }
        cpu.rip = (CODE + AT as u64).wrapping_sub(cs.base);
        cpu.rflags = 0x202;
        cpu.cpl = 3;
        cpu.paging.cr0 = 0x11;
        cpu.paging.efer = 0x500;
        cpu.gdtr = Table {
            base: GDT,
            limit: 127,
        };
        cpu.ldtr = Segment {
            base: LDT,
            limit: DESCRIPTORS.len() as u32 * 8 - 1,
            ..Segment::default()
        };
        // Where RET finds its operands, if the stack begins where it says.
        let bytes = self.instruction(long, cpu.code, LOW + operand, stack);
        Case {
            bytes,
            cpu,
            ds: ds.selector,
        }
    }

    fn instruction(&mut self, long: bool, code: CodeSize, operand: u64, stack: u64) -> Vec<u8> {
        let (selector, segment) = self.target();
        let offset = self.offset(segment.as_ref());
        let ret = self.rng.chance(40);
        // AMD's processors have no pointers with 64 bits.
        let wide = long && self.rng.chance(40) && (ret || !self.amd);
        let small = self.rng.chance(30);
        let size = match (wide, (code == Bits16) != small) {
            (true, _) => 8,
            (_, true) => 2,
            (_, false) => 4,
        };
        let mut bytes = Vec::new();
        if small {
            bytes.push(0x66);
        }
        if wide {
            bytes.push(0x48);
        }
        let pointer = &offset.to_le_bytes()[..size];
        let to = selector.to_le_bytes();
        if ret {
            self.ram.write(stack, pointer);
            self.ram.write(stack + size as u64, &to);
            match self.rng.chance(50) {
                true => bytes.push(0xcb),
                false => {
                    bytes.push(0xca);
                    bytes.extend((self.rng.below(64) as u16).to_le_bytes());
                }
            }
            return bytes;
        }
        let call = self.rng.chance(50);
        if !long && self.rng.chance(50) {
            bytes.push(if call { 0x9a } else { 0xea });
            bytes.extend(pointer);
            bytes.extend(to);
        } else {
            self.ram.write(operand, pointer);
            self.ram.write(operand + size as u64, &to);
            // CALL and JMP [RDI], in 16-bit code [BX].
            bytes.extend([0xff, if call { 0x1f } else { 0x2f }]);
        }
        bytes
    }
}

/// What the processor should end with.
enum Want {
    /// At a pad, with this as CS.
    Pad(u16),
    /// An exception, or a page fault for the fetch at the target.
    Trap(u8, u32),
}

fn emulate(case: &Case, ram: &mut Ram) -> Option<(Want, Cpu)> {
    let insn = decode(&case.bytes, case.cpu.code).unwrap();
    let mut cpu = case.cpu;
    let mut devices = Journal::new();
    let mut guest = Guest::new(&mut cpu, &mut [], ram, &mut devices);
    let done = execute(&mut guest, &insn);
    match done {
        // A push where there is nothing.
        Ok(_) if devices.has_posted() => None,
        Ok(_) => {
            let cs = cpu.segment(Seg::Cs);
            let base = if cpu.long() { 0 } else { cs.base };
            let at = base.wrapping_add(cpu.rip);
            let pads = PADS.map(|(size, offset)| (size, CODE + offset));
            if pads.contains(&(cpu.code, at)) {
                Some((Want::Pad(cs.selector), cpu))
            } else {
                // Not present, a fetch by the user.
                (at < 0x1_0000).then_some((Want::Trap(14, 0x14), cpu))
            }
        }
        Err(Stop::Exception(e)) => {
            let want = Want::Trap(e.vector, e.error_code.unwrap_or(0));
            Some((want, cpu))
        }
        // What wraps around, and what reaches beyond the window.
        Err(Stop::Refused(_) | Stop::DeviceRead(_)) => None,
        Err(stop) => panic!("{stop:?}"),
    }
}

fn check(case: &Case, want: &Want, cpu: &Cpu, end: &End) -> Result<(), String> {
    let width = if case.cpu.long() { u64::MAX } else { mask(4) };
    let mut gprs = cpu.gprs;
    match want {
        Want::Pad(cs) => {
            if end.trap.is_some() || end.pad != 1 {
                return Err("it did not arrive".into());
            }
            // 16-bit pads leave the upper half alone.
            gprs[RAX] = match cpu.code {
                Bits16 => gprs[RAX] & !0xffff | u64::from(*cs),
                _ => u64::from(*cs),
            };
        }
        Want::Trap(vector, error) => {
            let trap = end.trap.map(|trap| (trap.vector, trap.error));
            if trap != Some((*vector, *error)) {
                return Err(format!("not {vector} {error:#x}"));
            }
            if end.rip != Some(cpu.rip) {
                return Err(format!("RIP is not {:#x}", cpu.rip));
            }
        }
    }
    for (n, (want, got)) in gprs.iter().zip(end.gprs).enumerate() {
        let width = if cpu.long() { width } else { mask(4) };
        if want & width != got & width {
            return Err(format!("register {n}: {want:#x}, not {got:#x}"));
        }
    }
    Ok(())
}

/// AMD's processors look at the stack first: at that of the outer level before they find
/// that RET goes to an inner one, and at that of CALL before they check the offset. The
/// manual has it the other way (SDM 2A CALL, SDM 2B RET).
fn stack_first(case: &Case, want: &Want, end: &End) -> bool {
    let ret = case.bytes.iter().any(|byte| matches!(byte, 0xca | 0xcb));
    let trap = end.trap.map(|trap| (trap.vector, trap.error));
    match want {
        Want::Trap(13, 0) => !ret && trap == Some((14, 6)),
        Want::Trap(13, _) => ret && trap == Some((12, 0)),
        _ => false,
    }
}

/// Pads: `mov eax, cs`, and to the code that ends a run, in 64-bit mode.
fn place_pads(processor: &mut Processor) {
    let at = (pad(1) - CODE) as usize;
    let code = processor.code();
    // JMP ptr16:32 of the pads of 32-bit code.
    let jump = code[at..at + 7].to_vec();
    assert_eq!((jump[0], &jump[5..]), (0xea, &[0x33, 0][..]));
    let stub = u32::from_le_bytes([jump[1], jump[2], jump[3], jump[4]]);
    for (size, offset) in PADS {
        let mut pad = vec![0x8c, 0xc8];
        match size {
            Bits16 => pad.push(0x66),
            Bits32 => (),
            Bits64 => {
                let next = CODE as u32 + offset as u32 + 7;
                pad.push(0xe9);
                pad.extend(stub.wrapping_sub(next).to_le_bytes());
            }
        }
        if size != Bits64 {
            pad.extend(&jump);
        }
        code[offset as usize..][..pad.len()].copy_from_slice(&pad);
    }
}

#[test]
fn far_branches_do_what_the_processor_does() {
    let mut processor = match Processor::new(Bits32) {
        Ok(processor) => processor,
        Err(reason) => {
            let line = format!("SKIPPED: far branches, NOT TESTED: {reason}\n");
            // Nobody can be told if this fails.
            let _ = std::io::stderr().write_all(line.as_bytes());
            return;
        }
    };
    place_pads(&mut processor);
    let amd = Features::read().unwrap().amd;
    let mut ram = Ram::new();
    let (mut pads, mut traps, mut left) = (0u64, [0u64; 32], 0u64);
    for n in 0..CASES {
        let mut rng = Rng::new(&[n]);
        if n % 256 == 0 {
            rng.fill(&mut ram.window[..]);
        }
        let mut draw = Draw {
            rng,
            ram: &mut ram,
            amd,
        };
        let case = draw.case();
        processor.window().copy_from_slice(&ram.window[..]);
        let Some((want, cpu)) = emulate(&case, &mut ram) else {
            left += 1;
            continue;
        };
        processor.place(AT, &case.bytes);
        processor.load_segments(case.ds, case.ds, case.ds);
        let end = processor.run(&Start {
            gprs: case.cpu.gprs,
            rflags: case.cpu.rflags,
            rip: case.cpu.rip,
            cs: case.cpu.segment(Seg::Cs).selector,
            ss: case.cpu.segment(Seg::Ss).selector,
            xsave: None,
        });
        if amd && stack_first(&case, &want, &end) {
            left += 1;
            continue;
        }
        let mut result = check(&case, &want, &cpu, &end);
        // AMD's processors push before they find that the offset is wrong.
        let pushed = matches!(want, Want::Trap(13, 0)) && amd;
        if result.is_ok() && processor.window()[..] != ram.window[..] && !pushed {
            result = Err("memory".into());
        }
        if let Err(what) = result {
            let Case { bytes, cpu, .. } = &case;
            let insn = decode(bytes, cpu.code);
            panic!("case {n}: {what}\n{bytes:x?}\n{insn:x?}\n{cpu:x?}\n{end:x?}");
        }
        match want {
            Want::Pad(_) => pads += 1,
            Want::Trap(vector, _) => traps[usize::from(vector)] += 1,
        }
    }
    let line = format!(
        "far branches: {pads} arrived, #SS {}, #GP {}, #PF {}, {left} left out\n",
        traps[12], traps[13], traps[14]
    );
    let _ = std::io::stderr().write_all(line.as_bytes());
    assert!(pads > CASES / 5 && traps[12] > CASES / 100);
    assert!(traps[13] > CASES / 5 && traps[14] > CASES / 100);
}
