// SPDX-License-Identifier: GPL-2.0

//! Events whose frame goes to an allowed part of a page with a map: the handler must not
//! notice that the processor could not write it. Each guest runs without maps, and then
//! with them on each backend, and all that a VMM can see is compared.

mod compare;
pub(crate) mod faults;
pub(crate) mod virtual_8086;

use crate::harness::{tests, Backend, Lab};
use crate::machine::{self, Assembled, Machine, Stop};
use crate::raw;
use compare::{compare, vectors, vm};
use guest::asm::*;
use guest::{Mode, CODE, DATA, GDT, PAGE_SIZE, STACK, TABLES};
use ioctl_api::number::KVM_INTERRUPT;
use ioctl_api::subpage::{KVM_SPP_EXIT_EVENT_DELIVERY, KVM_SPP_EXIT_PAGE_WALK};
use ioctl_api::vcpu::Interrupt;

tests![
    same_level,
    from_user_code,
    interrupt_stack_table,
    narrow_gates,
    trap_gates,
    first_use_of_descriptors,
    nested,
    single_steps,
    half_denied,
];

/// The page of the handlers' stack, all of which but the first sub-page may be written.
const STACK_PAGE: u64 = STACK - PAGE_SIZE;
/// The page of the stack of virtual-8086 mode.
const LOW_STACK: u64 = 0x5000;
/// All but the first sub-page.
const MAP: u32 = !1;
/// Gates of the handlers.
const IDT: u64 = 0x2000;
/// Task-state segment, with an I/O map that allows the first 256 ports.
const TSS: u64 = 0x4000;
/// An address behind everything that page tables map.
const UNMAPPED: u64 = 0x7f_0000_1238;
/// An interrupt from outside, queued before the guest begins.
const VECTOR: u8 = 0x31;
/// RFLAGS.IOPL of level 3, and bit 1.
const TRUSTED: u64 = 3 << 12 | 2;

fn queue(machine: &Machine, vector: u8) {
    let mut interrupt = Interrupt { irq: vector.into() };
    assert_eq!(
        raw::with(machine.cpu.fd(), KVM_INTERRUPT, &mut interrupt),
        Ok(0)
    );
}

/// Exceptions with and without an error code, software interrupts, an interrupt and an NMI.
/// All of it has the same bytes in all modes but real mode, as far as `plain`.
fn everything(a: &mut CodeAssembler, mode: Mode, plain: bool) -> Assembled {
    a.ud2()?;
    a.int(0x21)?;
    a.int3()?;
    a.xor(ecx, ecx)?;
    a.div(ecx)?;
    if !plain {
        a.mov(ecx, 0x73)?;
        a.mov(ds, ecx)?; // beyond the GDT
    }
    if mode == Mode::Long {
        a.mov(rbx, UNMAPPED)?;
        a.mov(rax, qword_ptr(rbx))?;
    }
    a.sti()?;
    a.nop()?;
    a.nop()?;
    a.out(0x40, al)?;
    a.nop()?;
    a.hlt()
}

/// The vectors of [`everything`].
fn all_vectors(mode: Mode, plain: bool) -> Vec<u8> {
    let mut vectors = vec![6, 0x21, 3, 0];
    if !plain {
        vectors.push(13);
    }
    if mode == Mode::Long {
        vectors.push(14);
    }
    vectors.extend([VECTOR, 2]);
    vectors
}

fn same_level(lab: &Lab) {
    for mode in Mode::ALL {
        let plain = mode == Mode::Real;
        let seen = compare(
            lab,
            mode,
            &[(STACK_PAGE, MAP)],
            |a| everything(a, mode, plain),
            |machine| queue(machine, VECTOR),
        );
        assert_eq!(vectors(&seen), all_vectors(mode, plain), "{mode:?}");
        assert_eq!(seen.last().map(|s| &s.stop), Some(&Stop::Hlt), "{mode:?}");
    }
}

/// Makes the guest user code with a stack of its own, and gives the handlers theirs.
fn enter_user(machine: &Machine) {
    let mode = machine.program.mode;
    let (code, entries) = match mode {
        Mode::Long => (0x00af_fb00_0000_ffff, TABLES..TABLES + 0x3000),
        Mode::Pae => (0x00cf_fb00_0000_ffff, TABLES + 0x1000..TABLES + 0x2000),
        Mode::Paged32 => (0x00cf_fb00_0000_ffff, TABLES..TABLES + 8),
        _ => (0x00cf_fb00_0000_ffff, 0..0),
    };
    // The flag of 32-bit entries is in both halves.
    let user = if mode == Mode::Paged32 {
        4 << 32 | 4
    } else {
        4
    };
    for entry in entries.step_by(8) {
        let value = machine.qword(entry);
        if value != 0 {
            machine.set_qword(entry, value | user);
        }
    }
    machine.set_qword(GDT + 0x18, code);
    machine.set_qword(GDT + 0x20, 0x00cf_f300_0000_ffff);
    load_tss(machine);
    let mut sregs = machine.sregs();
    sregs.gdt.limit = 0x27;
    (sregs.cs.selector, sregs.cs.dpl) = (0x1b, 3);
    let data = [
        &mut sregs.ss,
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
    ];
    for segment in data {
        (segment.selector, segment.dpl) = (0x23, 3);
    }
    machine.set_sregs(&sregs);
    open_gates(machine);
    machine.change_regs(|r| (r.rsp, r.rflags) = (DATA + PAGE_SIZE, TRUSTED));
}

/// Puts a task-state segment in memory and in TR. Stacks: [`STACK`] for level 0, and 100
/// bytes below for the first of the interrupt stack table.
fn load_tss(machine: &Machine) {
    machine.write(TSS, &[0; 0x88]);
    machine.set_qword(TSS + 4, STACK);
    if machine.program.mode == Mode::Long {
        machine.set_qword(TSS + 0x24, STACK - 0x100);
    } else {
        machine.write(TSS + 8, &[0x10, 0]);
    }
    machine.write(TSS + 0x66, &[0x68, 0]);
    machine.write(TSS + 0x88, &[0xff]);
    let mut sregs = machine.sregs();
    (sregs.tr.base, sregs.tr.limit, sregs.tr.type_) = (TSS, 0x88, 11);
    (sregs.tr.present, sregs.tr.s, sregs.tr.selector) = (1, 0, 0x28);
    machine.set_sregs(&sregs);
}

/// Where the gate of a vector is.
fn gate(machine: &Machine, vector: u8) -> u64 {
    let size = if machine.program.mode == Mode::Long {
        16
    } else {
        8
    };
    IDT + size * u64::from(vector)
}

/// Lets user code ask for its software interrupts.
fn open_gates(machine: &Machine) {
    for vector in [3, 0x21] {
        machine.write(gate(machine, vector) + 5, &[0xee]);
    }
}

fn from_user_code(lab: &Lab) {
    for mode in [Mode::Protected, Mode::Paged32, Mode::Pae, Mode::Long] {
        let seen = compare(
            lab,
            mode,
            &[(STACK_PAGE, MAP), (DATA, MAP)],
            |a| everything(a, mode, false),
            |machine| {
                enter_user(machine);
                queue(machine, VECTOR);
            },
        );
        let mut expected = all_vectors(mode, false);
        expected.push(13);
        assert_eq!(vectors(&seen), expected, "{mode:?}");
        let handlers = seen.iter().filter(|s| matches!(s.stop, Stop::Event(_)));
        for seen in handlers {
            let frame = seen.regs.rsp;
            assert!((STACK - 0x40..STACK).contains(&frame), "{mode:?} {frame:x}");
            assert_eq!(seen.sregs.ss.dpl, 0);
        }
    }
}

fn interrupt_stack_table(lab: &Lab) {
    for user in [false, true] {
        let seen = compare(
            lab,
            Mode::Long,
            &[(STACK_PAGE, MAP), (DATA, MAP)],
            |a| everything(a, Mode::Long, false),
            |machine| {
                load_tss(machine);
                for vector in 0..64 {
                    machine.write(gate(machine, vector) + 4, &[1]);
                }
                if user {
                    enter_user(machine);
                }
                queue(machine, VECTOR);
            },
        );
        let mut expected = all_vectors(Mode::Long, false);
        if user {
            expected.push(13);
        }
        assert_eq!(vectors(&seen), expected);
        for seen in seen.iter().filter(|s| matches!(s.stop, Stop::Event(_))) {
            let (frame, top) = (seen.regs.rsp, STACK - 0x100);
            assert!((top - 0x40..top).contains(&frame), "{frame:x}");
            // SS becomes null where the privilege level changes.
            assert_eq!(seen.sregs.ss.selector, if user { 0 } else { 0x10 });
        }
    }
}

/// Handlers with interrupts on; they get no second event before IRET all the same.
fn trap_gates(lab: &Lab) {
    for mode in [Mode::Protected, Mode::Long] {
        let seen = compare(
            lab,
            mode,
            &[(STACK_PAGE, MAP)],
            |a| everything(a, mode, false),
            |machine| {
                for vector in 0..64 {
                    machine.write(gate(machine, vector) + 5, &[0x8f]);
                }
                machine.change_regs(|r| r.rflags = 1 << 9 | 2);
            },
        );
        let events = seen.iter().filter(|s| matches!(s.stop, Stop::Event(_)));
        assert!(events.clone().count() > 5);
        for seen in events {
            assert_ne!(seen.regs.rflags & 1 << 9, 0, "{mode:?}: {:x?}", seen.stop);
        }
    }
}

/// Gates of 16 bits in 32-bit code; only what they push is looked at.
fn narrow_gates(lab: &Lab) {
    let mode = Mode::Protected;
    let seen = compare(
        lab,
        mode,
        &[(STACK_PAGE, MAP)],
        |a| {
            a.int(0x22)?;
            a.hlt()
        },
        |machine| {
            machine.write(gate(machine, 0x22), &(CODE as u16 + 2).to_le_bytes());
            machine.write(gate(machine, 0x22) + 5, &[0x86]);
        },
    );
    let last = seen.last().expect("a stop");
    assert_eq!((&last.stop, last.regs.rsp), (&Stop::Hlt, STACK - 6));
    let frame = last
        .memory
        .get(2 * PAGE_SIZE as usize - 6..2 * PAGE_SIZE as usize);
    assert_eq!(frame, Some(&[2, 0x80, 8, 0, 2, 0][..]));
}

/// The accessed flags of the handler's code and stack segments, in a GDT with a map.
fn first_use_of_descriptors(lab: &Lab) {
    for (maps, denied) in [([(GDT, !2)], false), ([(GDT, !1)], true)] {
        let prepare = |machine: &Machine| {
            enter_user(machine);
            for descriptor in [0x08, 0x10] {
                let entry = machine.qword(GDT + descriptor);
                machine.set_qword(GDT + descriptor, entry & !(1 << 40));
            }
        };
        let author = |a: &mut CodeAssembler| {
            a.int(0x21)?;
            a.hlt()
        };
        if !denied {
            let seen = compare(lab, Mode::Protected, &maps, author, prepare);
            assert_eq!(vectors(&seen), [0x21, 13]);
            for seen in seen {
                assert_eq!((seen.memory[13], seen.memory[21]), (0x9b, 0x93));
            }
            continue;
        }
        let program = machine::program(Mode::Protected, author);
        let mut machine = Machine::load(vm(lab, Backend::Software), program);
        prepare(&machine);
        machine.vm.set_maps(GDT, &[!1]).expect("maps");
        let exit = machine.expect_spp();
        assert_eq!((exit.gpa & !15, exit.denied), (GDT, 1));
        assert_ne!(exit.flags & KVM_SPP_EXIT_EVENT_DELIVERY, 0);
        machine.vm.set_maps(GDT, &[!2]).expect("maps");
        assert_eq!(machine.expect_event(0x21).rip, CODE + 2);
        assert_eq!(machine.read(GDT + 13, 1), [0x9b]);
    }
}

/// A handler that is interrupted itself, by an exception with an error code.
fn nested(lab: &Lab) {
    let seen = compare(
        lab,
        Mode::Long,
        &[(STACK_PAGE, MAP)],
        |a| {
            let mut done = a.create_label();
            let mut handler = a.create_label();
            a.lea(rax, qword_ptr(handler))?;
            a.mov(word_ptr(IDT + 16 * 6), ax)?;
            a.shr(rax, 16)?;
            a.mov(word_ptr(IDT + 16 * 6 + 6), ax)?;
            a.ud2()?;
            a.set_label(&mut handler)?;
            a.push(rax)?;
            a.mov(rbx, UNMAPPED)?;
            a.mov(rax, qword_ptr(rbx))?;
            a.pop(rax)?;
            a.jmp(done)?;
            a.set_label(&mut done)?;
            a.hlt()
        },
        |_| {},
    );
    assert_eq!(vectors(&seen), [14]);
    assert_eq!(seen.last().map(|s| s.regs.rsp), Some(STACK - 40));
}

/// INT n clears TF before the step is over; IRET sets it again.
fn single_steps(lab: &Lab) {
    for mode in [Mode::Real, Mode::Protected, Mode::Long] {
        let seen = compare(
            lab,
            mode,
            &[(STACK_PAGE, MAP)],
            |a| {
                a.nop()?;
                a.int(0x21)?;
                a.nop()?;
                a.nop()?;
                a.hlt()
            },
            |machine| machine.change_regs(|r| r.rflags = 1 << 8 | 2),
        );
        assert_eq!(vectors(&seen), [1, 0x21, 1, 1], "{mode:?}");
    }
}

/// A frame that ends in the denied sub-page: nothing is written, and the exit says what
/// would have been. Then it is allowed, and the page keeps a map.
fn half_denied(lab: &Lab) {
    lab.needs_backend(Backend::Software);
    for (vector, error) in [(6, 0), (14, 8)] {
        let program = machine::program(Mode::Long, |a| {
            if vector == 14 {
                a.mov(rbx, UNMAPPED)?;
                a.mov(rax, qword_ptr(rbx))?;
            } else {
                a.ud2()?;
            }
            a.hlt()
        });
        let mut machine = Machine::load(vm(lab, Backend::Software), program);
        let border = DATA + 0x200;
        machine.vm.set_maps(DATA, &[!(1 << 3)]).expect("maps");
        machine.change_regs(|r| r.rsp = border + 0x10);
        let start = border + 0x10 - 40 - error;
        for _ in 0..2 {
            let exit = machine.expect_spp();
            assert_eq!((exit.gpa, exit.gva), (start, start));
            assert_eq!(u64::from(exit.size), 40 + error);
            assert_eq!((exit.denied, exit.map), (1 << 3, !(1 << 3)));
            let flags = KVM_SPP_EXIT_EVENT_DELIVERY | KVM_SPP_EXIT_PAGE_WALK;
            assert_eq!(exit.flags & flags, KVM_SPP_EXIT_EVENT_DELIVERY);
            assert_eq!(exit.cause, ioctl_api::subpage::KVM_SPP_CAUSE_EMULATED);
            assert_eq!(machine.read(border - 0x80, 0x100), [0; 0x100]);
        }
        machine.vm.set_maps(DATA, &[!(1 << 5)]).expect("maps");
        let event = machine.expect_event(vector);
        assert_eq!(event.frame, border + 0x10 - 40);
        machine.step_over(&event);
        machine.expect_hlt();
        assert_eq!(machine.regs().rsp, border + 0x10);
    }
}
