// SPDX-License-Identifier: GPL-2.0

//! Guests in every processor mode, and guests that change it.

use crate::harness::{tests, Lab};
use crate::machine::{program, Assembled, Machine, Stop};
use guest::asm::*;
use guest::{Mode, Program, CODE, GDT, SCRATCH, TABLES};

tests![
    each_mode_computes,
    each_mode_takes_exceptions,
    all_modes_and_back,
    bad_control_registers,
    control_registers_read_back,
    task_switched_flag,
    machine_status_word,
    efer_bad_values,
    bad_pdpte_is_refused,
    new_page_tables,
    process_context_ids,
    pae_reads_pdptes_at_cr3,
];

const PE: u64 = 1;
const PG: u64 = 1 << 31;
const PAE: u64 = 1 << 5;
const EFER: u32 = 0xc000_0080;
const LME: u64 = 1 << 8;
const LMA: u64 = 1 << 10;

fn each_mode_computes(lab: &Lab) {
    for mode in Mode::ALL {
        // In real mode the segment reaches no further than 64 KiB.
        let at = if mode == Mode::Real { 0x5000 } else { SCRATCH };
        let mut machine = Machine::new(lab, mode, |a| {
            a.mov(eax, 0x1234_5678)?;
            a.mov(ecx, 10)?;
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            a.add(eax, ecx)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.mov(dword_ptr(at), eax)?;
            a.mov(ebx, dword_ptr(at))?;
            a.push(ax)?;
            a.pop(dx)?;
            a.hlt()
        });
        assert_eq!(machine.run(), Stop::Hlt, "{mode:?}");
        let regs = machine.regs();
        assert_eq!(regs.rax, 0x1234_5678 + 55, "{mode:?}");
        assert_eq!(regs.rbx, regs.rax, "{mode:?}");
        assert_eq!(regs.rdx, regs.rax & 0xffff, "{mode:?}");
        assert_eq!(machine.qword(at), regs.rax, "{mode:?}");
        let end = machine.program.address + machine.program.code.len() as u64;
        assert_eq!(regs.rip, end, "{mode:?}");
    }
}

fn each_mode_takes_exceptions(lab: &Lab) {
    for mode in Mode::ALL {
        let mut machine = Machine::new(lab, mode, |a| {
            a.xor(ecx, ecx)?;
            a.xor(edx, edx)?;
            a.div(ecx)?;
            a.ud2()?;
            a.hlt()
        });
        for vector in [0, 6] {
            let event = machine.expect_event(vector);
            machine.step_over(&event);
        }
        machine.expect_hlt();
    }
}

/// Where the stages of [`all_modes_and_back`] are; the first is at [`CODE`].
const PROTECTED: u64 = 0x9000;
const LONG: u64 = 0xa000;
const BACK: u64 = 0xb000;
const REAL16: u64 = 0xc000;
const REAL: u64 = 0xd000;
const GDTR: u64 = 0x5000;
const PAE_TABLES: u64 = 0x30000;
const CODE32: u64 = 0x08;
const DATA32: u64 = 0x10;
const CODE64: u64 = 0x18;
const CODE16: u64 = 0x20;
const DATA16: u64 = 0x28;

/// Reports a stage to the VMM, which looks at the mode then.
fn stage(a: &mut CodeAssembler, number: u32) -> Assembled {
    a.mov(al, number)?;
    a.out(0x80, al)
}

/// JMP to another segment, with the offset size of the current one.
fn far_jump(a: &mut CodeAssembler, wide: bool, selector: u64, to: u64) -> Assembled {
    let (to, selector) = (to.to_le_bytes(), selector.to_le_bytes());
    let offset = if wide { &to[..4] } else { &to[..2] };
    a.db(&[&[0xea], offset, &selector[..2]].concat())
}

fn write_cr0(a: &mut CodeAssembler, set: u64, clear: u64) -> Assembled {
    a.mov(eax, cr0)?;
    a.or(eax, set as i32)?;
    a.and(eax, !clear as i32)?;
    a.mov(cr0, eax)
}

fn write_efer(a: &mut CodeAssembler, low: u64) -> Assembled {
    a.mov(ecx, EFER)?;
    a.mov(eax, low as u32)?;
    a.xor(edx, edx)?;
    a.wrmsr()
}

fn part(mode: Mode, at: u64, author: impl FnOnce(&mut CodeAssembler) -> Assembled) -> Program {
    Program::assemble(mode, at, |a| author(a).map(|()| vec![])).expect("a program")
}

fn real_to_protected(a: &mut CodeAssembler) -> Assembled {
    stage(a, 1)?;
    // LGDT with a 32-bit base.
    a.db(&[0x66, 0x0f, 0x01, 0x16, GDTR as u8, (GDTR >> 8) as u8])?;
    write_cr0(a, PE, 0)?;
    far_jump(a, false, CODE32, PROTECTED)
}

fn protected_to_long(a: &mut CodeAssembler) -> Assembled {
    a.mov(eax, DATA32 as u32)?;
    a.mov(ds, eax)?;
    a.mov(ss, eax)?;
    stage(a, 2)?;
    a.mov(eax, cr4)?;
    a.or(eax, PAE as i32)?;
    a.mov(cr4, eax)?;
    a.mov(eax, PAE_TABLES as u32)?;
    a.mov(cr3, eax)?;
    write_cr0(a, PG, 0)?;
    stage(a, 3)?;
    write_cr0(a, 0, PG)?;
    stage(a, 4)?;
    a.mov(eax, TABLES as u32)?;
    a.mov(cr3, eax)?;
    write_efer(a, LME)?;
    write_cr0(a, PG, 0)?;
    stage(a, 5)?;
    far_jump(a, true, CODE64, LONG)
}

fn long_to_compatibility(a: &mut CodeAssembler) -> Assembled {
    a.mov(rbx, 0x1234_5678_9abc_def0_u64)?;
    stage(a, 6)?;
    a.push(CODE32 as i32)?;
    a.push(BACK as i32)?;
    a.retf()
}

fn compatibility_to_16_bit(a: &mut CodeAssembler) -> Assembled {
    stage(a, 7)?;
    write_cr0(a, 0, PG)?;
    write_efer(a, 0)?;
    stage(a, 8)?;
    far_jump(a, true, CODE16, REAL16)
}

fn protected_to_real(a: &mut CodeAssembler) -> Assembled {
    a.mov(ax, DATA16 as u32)?;
    a.mov(ds, ax)?;
    a.mov(ss, ax)?;
    write_cr0(a, 0, PE)?;
    far_jump(a, false, 0, REAL)
}

/// The guest goes from real mode by protected mode and PAE paging to 64-bit
/// mode, and back; registers and memory mean the same all the way.
fn all_modes_and_back(lab: &Lab) {
    let start = program(Mode::Real, real_to_protected);
    let mut machine = Machine::load(crate::machine::vm(lab), start);
    for part in [
        part(Mode::Protected, PROTECTED, protected_to_long),
        part(Mode::Long, LONG, long_to_compatibility),
        part(Mode::Protected, BACK, compatibility_to_16_bit),
        part(Mode::Real, REAL16, protected_to_real),
        part(Mode::Real, REAL, |a| {
            stage(a, 9)?;
            a.hlt()
        }),
    ] {
        machine.write(part.address, &part.code);
    }
    machine.write(TABLES, &Mode::Long.tables(TABLES));
    machine.write(PAE_TABLES, &Mode::Pae.tables(PAE_TABLES));
    let gdt = [
        0,
        0x00cf_9b00_0000_ffff_u64,
        0x00cf_9300_0000_ffff,
        0x00af_9b00_0000_ffff,
        0x0000_9b00_0000_ffff,
        0x0000_9300_0000_ffff,
    ];
    machine.write(GDT, &gdt.map(u64::to_le_bytes).concat());
    machine.write(GDTR, &[47, 0]);
    machine.write(GDTR + 2, &(GDT as u32).to_le_bytes());
    // CR0.PE and PG, CR4.PAE, EFER, at each stage.
    let stages = [
        (0, 0, 0),
        (PE, 0, 0),
        (PE | PG, PAE, 0),
        (PE, PAE, 0),
        (PE | PG, PAE, LME | LMA),
        (PE | PG, PAE, LME | LMA),
        (PE | PG, PAE, LME | LMA),
        (PE, PAE, 0),
        (0, PAE, 0),
    ];
    for (expected, number) in stages.into_iter().zip(1..) {
        assert_eq!(machine.run(), Stop::Out(0x80, vec![number]));
        let s = machine.sregs();
        assert_eq!(
            (s.cr0 & (PE | PG), s.cr4 & PAE, s.efer),
            expected,
            "stage {number}"
        );
    }
    machine.expect_hlt();
    assert_eq!(machine.regs().rbx as u32, 0x9abc_def0);
    assert_eq!(machine.sregs().cs.base, 0);
}

/// A guest that writes RAX to a control register.
fn writer(lab: &Lab, number: u8) -> Machine {
    Machine::long(lab, |a| {
        match number {
            0 => a.mov(cr0, rax)?,
            3 => a.mov(cr3, rax)?,
            4 => a.mov(cr4, rax)?,
            _ => a.mov(cr8, rax)?,
        }
        a.hlt()
    })
}

fn bad_control_registers(lab: &Lab) {
    let flip = |number, bit: u32| (number, 1_u64 << bit);
    let cases = [
        flip(0, 31), // paging off in 64-bit mode
        flip(0, 0),  // paging without protection
        flip(0, 29), // not write-through, but cached
        flip(0, 32),
        flip(0, 63),
        flip(3, 52),
        flip(3, 62),
        flip(4, 5), // no PAE in 64-bit mode
        flip(4, 31),
        flip(4, 32),
        flip(4, 63),
        flip(8, 4),
        flip(8, 63),
    ];
    for (number, change) in cases {
        // KVM looks at the low byte of CR8 only.
        if !lab.is_ours() && (number, change) == flip(8, 63) {
            continue;
        }
        let mut machine = writer(lab, number);
        let before = machine.sregs();
        let old = [
            before.cr0, 0, 0, before.cr3, before.cr4, 0, 0, 0, before.cr8,
        ];
        machine.change_regs(|r| r.rax = old[usize::from(number)] ^ change);
        let Stop::Event(event) = machine.run() else {
            panic!("CR{number} ^ {change:#x} is taken");
        };
        assert_eq!((event.vector, event.error, event.rip), (13, 0, CODE));
        assert_eq!(machine.sregs(), before, "CR{number} ^ {change:#x}");
        machine.step_over(&event);
        machine.expect_hlt();
    }
}

fn control_registers_read_back(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(cr0, rax)?;
        a.mov(rcx, cr0)?;
        a.mov(cr4, rbx)?;
        a.mov(rdx, cr4)?;
        a.hlt()
    });
    let (base0, base4) = (machine.sregs().cr0, machine.sregs().cr4);
    // WP, TS, AM, CD, CD and NW; TSD, DE, PGE, OSXSAVE, FSGSBASE, SMEP.
    let changes0 = [1 << 16, 1 << 3, 1 << 18, 1 << 30, 3 << 29, 0];
    let changes4 = [1 << 2, 1 << 3, 1 << 7, 1 << 18, 1 << 16, 1 << 20];
    for (change0, change4) in changes0.into_iter().zip(changes4) {
        machine.restart();
        machine.change_regs(|r| (r.rax, r.rbx) = (base0 ^ change0, base4 ^ change4));
        machine.expect_hlt();
        let (regs, sregs) = (machine.regs(), machine.sregs());
        assert_eq!((regs.rcx, sregs.cr0), (base0 ^ change0, base0 ^ change0));
        assert_eq!((regs.rdx, sregs.cr4), (base4 ^ change4, base4 ^ change4));
    }
}

fn task_switched_flag(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(rax, cr0)?;
        a.or(eax, 8)?;
        a.mov(cr0, rax)?;
        a.movups(xmm0, xmmword_ptr(SCRATCH))?;
        a.clts()?;
        a.movups(xmm0, xmmword_ptr(SCRATCH))?;
        a.mov(rbx, cr0)?;
        a.hlt()
    });
    let event = machine.expect_event(7);
    machine.step_over(&event);
    machine.expect_hlt();
    assert_eq!(machine.regs().rbx & 8, 0);
}

fn machine_status_word(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(eax, 0xf)?;
        a.lmsw(ax)?;
        a.smsw(ecx)?;
        // PE cannot be cleared.
        a.xor(eax, eax)?;
        a.lmsw(ax)?;
        a.mov(rbx, cr0)?;
        a.hlt()
    });
    machine.expect_hlt();
    let regs = machine.regs();
    assert_eq!(regs.rcx & 0xf, 0xf);
    assert_eq!(regs.rbx & 0xf, 1);
    assert_eq!(regs.rbx & PG, PG);
}

fn efer_bad_values(lab: &Lab) {
    // A reserved bit; long mode off while paging is on.
    for value in [LME | LMA | 2, LMA, 0, (1 << 32) | LME | LMA] {
        let mut machine = Machine::long(lab, |a| {
            a.wrmsr()?;
            a.hlt()
        });
        machine.change_regs(|r| {
            (r.rcx, r.rax, r.rdx) = (EFER.into(), value & 0xffff_ffff, value >> 32);
        });
        let event = machine.expect_event(13);
        assert_eq!((event.error, event.rip), (0, CODE), "{value:#x}");
        assert_eq!(machine.sregs().efer, LME | LMA);
        machine.step_over(&event);
        machine.expect_hlt();
    }
}

/// PDPTEs are checked when PAE paging is switched on.
fn bad_pdpte_is_refused(lab: &Lab) {
    for bad in [1 | 2, 1 | 4, 1 | (1 << 5), 1 | (1 << 63)] {
        let mut machine = Machine::new(lab, Mode::Protected, |a| {
            a.mov(eax, PAE_TABLES as u32)?;
            a.mov(cr3, eax)?;
            a.mov(eax, cr4)?;
            a.or(eax, PAE as i32)?;
            a.mov(cr4, eax)?;
            a.mov(eax, cr0)?;
            a.or(eax, PG as i32)?;
            a.mov(cr0, eax)?;
            a.hlt()
        });
        machine.write(PAE_TABLES, &Mode::Pae.tables(PAE_TABLES));
        machine.set_qword(PAE_TABLES + 24, bad);
        let event = machine.expect_event(13);
        assert_eq!(event.error, 0, "{bad:#x}");
        assert_eq!(machine.sregs().cr0 & PG, 0, "{bad:#x}");
        machine.step_over(&event);
        machine.expect_hlt();
    }
}

/// CR4.PCIDE can be set while CR3 says process 0 only.
fn process_context_ids(lab: &Lab) {
    let mut machine = writer(lab, 4);
    let list = machine.cpu.fd().get_cpuid2(256).expect("KVM_GET_CPUID2");
    let leaf = list.as_slice().iter().find(|e| e.function == 1);
    if leaf.is_none_or(|e| e.ecx & (1 << 17) == 0) {
        lab.skip("no PCID");
    }
    let pcide = 1 << 17;
    let sregs = machine.sregs();
    let mut process1 = sregs;
    process1.cr3 |= 1;
    machine.set_sregs(&process1);
    machine.change_regs(|r| r.rax = sregs.cr4 | pcide);
    assert_eq!(machine.expect_event(13).rip, CODE);
    machine.set_sregs(&sregs);
    machine.restart();
    machine.change_regs(|r| r.rax = sregs.cr4 | pcide);
    machine.expect_hlt();
    assert_eq!(machine.sregs().cr4, sregs.cr4 | pcide);
}

/// MOV to CR3 and INVLPG make new page tables count.
fn new_page_tables(lab: &Lab) {
    let second = 0x4_0000;
    let mut machine = Machine::long(lab, |a| {
        a.mov(rdi, 1_u64 << 30)?;
        a.mov(rcx, qword_ptr(rdi + SCRATCH as i32))?;
        a.mov(rax, second)?;
        a.mov(cr3, rax)?;
        a.mov(rdx, qword_ptr(rdi + SCRATCH as i32))?;
        a.mov(rbx, second + 0x1008)?;
        a.mov(rax, second + 0x2003)?;
        a.mov(qword_ptr(rbx), rax)?;
        a.invlpg(ptr(rdi + SCRATCH as i32))?;
        a.mov(rbx, qword_ptr(rdi + SCRATCH as i32))?;
        a.hlt()
    });
    // The second GiB is the first; in the second set its first 2 MiB are others.
    let tables = machine.qword(TABLES + 0x1000);
    machine.set_qword(TABLES + 0x1008, tables);
    machine.write(second, &Mode::Long.tables(second));
    machine.set_qword(second + 0x1008, second + 0x3003);
    machine.set_qword(second + 0x3000, 0x20_0083);
    machine.set_qword(SCRATCH, 0x1111);
    machine.set_qword(SCRATCH + 0x20_0000, 0x2222);
    machine.expect_hlt();
    let regs = machine.regs();
    assert_eq!((regs.rcx, regs.rdx, regs.rbx), (0x1111, 0x2222, 0x1111));
}

/// MOV to CR3 loads the PDPTEs, KVM_SET_SREGS too.
fn pae_reads_pdptes_at_cr3(lab: &Lab) {
    let mut machine = Machine::new(lab, Mode::Pae, |a| {
        a.mov(ecx, dword_ptr(0x4000_0000 + SCRATCH as u32))?;
        a.mov(eax, PAE_TABLES as u32)?;
        a.mov(cr3, eax)?;
        a.mov(edx, dword_ptr(0x4000_0000 + SCRATCH as u32))?;
        a.hlt()
    });
    // The second GiB is the first, then the third set of tables.
    let first = machine.qword(TABLES);
    machine.set_qword(TABLES + 8, first);
    let sregs = machine.sregs();
    machine.set_sregs(&sregs);
    machine.write(PAE_TABLES, &Mode::Pae.tables(PAE_TABLES));
    machine.set_qword(PAE_TABLES + 8, PAE_TABLES + 0x2001);
    machine.set_qword(PAE_TABLES + 0x2000, 0x20_0083);
    machine.set_qword(SCRATCH, 0x1111);
    machine.set_qword(SCRATCH + 0x20_0000, 0x2222);
    machine.expect_hlt();
    let regs = machine.regs();
    assert_eq!((regs.rcx, regs.rdx), (0x1111, 0x2222));
}
