// SPDX-License-Identifier: GPL-2.0

//! Events whose frame goes to an allowed part of a page with a map: the handler must not
//! notice that the processor could not write it. Each guest runs without maps, and then
//! with them on each backend, and all that a VMM can see is compared.

use crate::harness::{tests, Backend, Lab};
use crate::machine::{self, Assembled, Event, Machine, Stop};
use crate::raw;
use guest::asm::*;
use guest::{Mode, CODE, DATA, GDT, PAGE_SIZE, STACK, TABLES};
use ioctl_api::number::KVM_INTERRUPT;
use ioctl_api::subpage::{KVM_SPP_EXIT_EVENT_DELIVERY, KVM_SPP_EXIT_PAGE_WALK};
use ioctl_api::vcpu::Interrupt;
use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};

tests![
    same_level,
    from_user_code,
    from_virtual_8086_mode,
    interrupt_stack_table,
    narrow_gates,
    trap_gates,
    first_use_of_descriptors,
    nested,
    page_fault_on_the_stack,
    double_fault,
    triple_fault,
    interrupt_survives_a_page_fault,
    half_denied,
];

/// The page of the handlers' stack, all of which but the first sub-page may be written.
const STACK_PAGE: u64 = STACK - PAGE_SIZE;
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

/// What a VMM can see when the guest has stopped.
#[derive(Debug, PartialEq)]
struct Seen {
    stop: Stop,
    regs: kvm_regs,
    sregs: kvm_sregs,
    nmi_masked: u8,
    memory: Vec<u8>,
}

fn see(machine: &Machine, stop: Stop) -> Seen {
    let pages = [GDT, STACK_PAGE, DATA, DATA + PAGE_SIZE];
    let read = |page: &u64| machine.read(*page, PAGE_SIZE as usize);
    let events = machine.cpu.fd().get_vcpu_events().expect("events");
    let mut sregs = machine.sregs();
    // What is left in a null segment means nothing, but that the DPL of SS is the CPL.
    let cpl = sregs.ss.dpl;
    let segments = [
        &mut sregs.ss,
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
    ];
    for segment in segments {
        if segment.unusable != 0 {
            *segment = kvm_segment {
                selector: segment.selector,
                unusable: 1,
                ..Default::default()
            };
        }
    }
    sregs.ss.dpl = cpl;
    Seen {
        stop,
        regs: machine.regs(),
        sregs,
        nmi_masked: events.nmi.masked,
        memory: pages.iter().flat_map(read).collect(),
    }
}

fn queue(machine: &Machine, vector: u8) {
    let mut interrupt = Interrupt { irq: vector.into() };
    assert_eq!(
        raw::with(machine.cpu.fd(), KVM_INTERRUPT, &mut interrupt),
        Ok(0)
    );
}

/// Runs to the end, lets handlers of faults return behind the instruction, and sends an NMI
/// when the guest writes to port 40.
fn run_to_the_end(machine: &mut Machine) -> Vec<Seen> {
    let mut all = Vec::new();
    loop {
        let stop = machine.run();
        all.push(see(machine, stop.clone()));
        match stop {
            // HLT is not for user code.
            Stop::Event(event) if event.vector == 13 && machine.read(event.rip, 1) == [0xf4] => {
                return all
            }
            Stop::Event(event) if matches!(event.vector, 0 | 6 | 8 | 10..=14) => {
                machine.step_over(&event);
            }
            Stop::Event(_) => {}
            Stop::Out(0x40, _) => machine.cpu.fd().nmi().expect("KVM_NMI"),
            Stop::Hlt | Stop::Shutdown => return all,
            other => panic!("{other:x?}"),
        }
    }
}

/// The vectors that were delivered.
fn vectors(all: &[Seen]) -> Vec<u8> {
    let events = all.iter().filter_map(|seen| match &seen.stop {
        Stop::Event(event) => Some(event.vector),
        _ => None,
    });
    events.collect()
}

/// What the pages that frames go to are given.
type Maps = [(u64, u32)];

/// A VM whose maps this backend checks.
fn vm(lab: &Lab, backend: Backend) -> vmm::Vm {
    let vm = machine::vm(lab);
    vm.enable_spp_with(backend.cap()).expect("KVM_CAP_SPP");
    vm
}

/// Runs a guest that `prepare` has prepared without maps and with them, and returns what
/// was seen, which is the same.
fn compare(
    lab: &Lab,
    mode: Mode,
    maps: &Maps,
    author: impl Fn(&mut CodeAssembler) -> Assembled,
    prepare: impl Fn(&Machine),
) -> Vec<Seen> {
    lab.needs_backend(Backend::Software);
    let run = |backend, maps: &Maps| {
        let mut machine = Machine::load(vm(lab, backend), machine::program(mode, &author));
        prepare(&machine);
        for (page, map) in maps {
            machine.vm.set_maps(*page, &[*map]).expect("maps");
        }
        run_to_the_end(&mut machine)
    };
    let expected = run(Backend::Software, &[]);
    for backend in [Backend::Software, Backend::Hardware] {
        if lab.spp_mask() & backend.cap() == 0 {
            continue;
        }
        let seen = run(backend, maps);
        for (n, (seen, expected)) in seen.iter().zip(&expected).enumerate() {
            let at = format!("{mode:?}, {backend:?}, stop {n}");
            assert_eq!(seen.stop, expected.stop, "{at}");
            assert_eq!(seen.regs, expected.regs, "{at}: {:x?}", seen.stop);
            assert_eq!(seen.sregs, expected.sregs, "{at}: {:x?}", seen.stop);
            assert_eq!(seen.nmi_masked, expected.nmi_masked, "{at}");
            assert!(seen.memory == expected.memory, "{at}: memory");
        }
        assert_eq!(seen.len(), expected.len(), "{mode:?}");
    }
    expected
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

fn from_virtual_8086_mode(lab: &Lab) {
    let seen = compare(
        lab,
        Mode::Protected,
        &[(STACK_PAGE, MAP)],
        |a| everything(a, Mode::Protected, true),
        |machine| {
            load_tss(machine);
            open_gates(machine);
            machine.change_regs(|r| (r.rsp, r.rflags) = (0x5f00, TRUSTED | 1 << 17));
            let mut sregs = machine.sregs();
            let segments = [
                &mut sregs.cs,
                &mut sregs.ss,
                &mut sregs.ds,
                &mut sregs.es,
                &mut sregs.fs,
                &mut sregs.gs,
            ];
            for (n, segment) in segments.into_iter().enumerate() {
                let selector = [0, 0, 0x111, 0x222, 0x333, 0x444][n];
                segment.selector = selector;
                segment.base = u64::from(selector) << 4;
                segment.limit = 0xffff;
                (segment.type_, segment.s, segment.dpl, segment.present) = (3, 1, 3, 1);
                (segment.db, segment.l, segment.g, segment.avl) = (0, 0, 0, 0);
            }
            machine.set_sregs(&sregs);
            queue(machine, VECTOR);
        },
    );
    let mut expected = all_vectors(Mode::Protected, true);
    expected.push(13);
    assert_eq!(vectors(&seen), expected);
    for seen in &seen {
        let virtual_8086 = seen.regs.rflags & 1 << 17 != 0;
        assert_eq!(virtual_8086, seen.stop == Stop::Out(0x40, vec![0]));
        let selectors = [seen.sregs.ds, seen.sregs.es, seen.sregs.fs, seen.sregs.gs];
        let selectors = selectors.map(|segment| segment.selector);
        let expected = match virtual_8086 {
            true => [0x111, 0x222, 0x333, 0x444],
            false => [0; 4],
        };
        assert_eq!(selectors, expected);
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

/// Maps the first 2 MiB in pages of 4 KiB, without the page at [`DATA`]. The stack goes
/// from the page behind it, which has a map, into it.
fn stack_into_the_void(machine: &Machine) {
    let table = 0x3_0000;
    for n in 0..512 {
        let entry = if n == DATA >> 12 { 0 } else { n << 12 | 7 };
        machine.set_qword(table + 8 * n, entry);
    }
    machine.set_qword(TABLES + 2 * PAGE_SIZE, table | 7);
    load_tss(machine);
    machine.change_regs(|r| r.rsp = DATA + PAGE_SIZE + 0x10);
}

/// The page behind [`DATA`] has a map.
const BEHIND: [(u64, u32); 1] = [(DATA + PAGE_SIZE, !(1 << 31))];

/// Gives the handler of a vector a stack of its own.
fn use_ist(machine: &Machine, vector: u8) {
    machine.write(gate(machine, vector) + 4, &[1]);
}

/// Runs a 64-bit guest with the stack of [`stack_into_the_void`] without maps and with
/// them. What is left of a frame that was begun is not compared.
fn into_the_void(
    lab: &Lab,
    author: impl Fn(&mut CodeAssembler) -> Assembled,
    prepare: impl Fn(&Machine),
) -> Stop {
    lab.needs_backend(Backend::Software);
    let run = |maps: &Maps| {
        let program = machine::program(Mode::Long, &author);
        let mut machine = Machine::load(vm(lab, Backend::Software), program);
        stack_into_the_void(&machine);
        prepare(&machine);
        for (page, map) in maps {
            machine.vm.set_maps(*page, &[*map]).expect("maps");
        }
        let stop = machine.run();
        (stop, machine.regs(), machine.sregs())
    };
    let (expected, seen) = (run(&[]), run(&BEHIND));
    assert_eq!(seen.0, expected.0);
    if expected.0 != Stop::Shutdown {
        assert_eq!((seen.1, seen.2.cr2), (expected.1, expected.2.cr2));
    }
    seen.0
}

/// Where the first push that faults goes.
const FAULT_AT: u64 = DATA + PAGE_SIZE - 8;

fn event(stop: &Stop) -> Event {
    match stop {
        Stop::Event(event) => *event,
        other => panic!("{other:x?}"),
    }
}

/// #UD is benign: the page fault on its delivery is all there is.
fn page_fault_on_the_stack(lab: &Lab) {
    let stop = into_the_void(lab, |a| a.ud2(), |machine| use_ist(machine, 14));
    let event = event(&stop);
    assert_eq!((event.vector, event.error, event.rip), (14, 2, CODE));
    let author = |a: &mut CodeAssembler| a.int(0x21);
    let stop = into_the_void(lab, author, |machine| use_ist(machine, 14));
    let event = self::event(&stop);
    assert_eq!((event.vector, event.error, event.rip), (14, 2, CODE));
}

fn double_fault(lab: &Lab) {
    // #PF, which cannot be delivered; #UD, for which neither #UD nor #PF can.
    for unmapped in [true, false] {
        let author = |a: &mut CodeAssembler| {
            if unmapped {
                a.mov(rax, qword_ptr(0x7f00_0000_u64))?;
            }
            a.ud2()
        };
        let stop = into_the_void(lab, author, |machine| {
            use_ist(machine, 8);
            if unmapped {
                // Behind the first GiB nothing is mapped.
                machine.set_qword(TABLES + PAGE_SIZE + 8, 0);
            }
        });
        let event = event(&stop);
        assert_eq!((event.vector, event.error, event.rip), (8, 0, CODE));
    }
}

fn triple_fault(lab: &Lab) {
    let stop = into_the_void(lab, |a| a.ud2(), |_| {});
    assert_eq!(stop, Stop::Shutdown);
}

/// An interrupt whose frame has no page comes when there is one.
fn interrupt_survives_a_page_fault(lab: &Lab) {
    lab.needs_backend(Backend::Software);
    let program = machine::program(Mode::Long, |a| {
        a.nop()?;
        a.hlt()
    });
    let mut machine = Machine::load(vm(lab, Backend::Software), program);
    stack_into_the_void(&machine);
    use_ist(&machine, 14);
    machine
        .vm
        .set_maps(BEHIND[0].0, &[BEHIND[0].1])
        .expect("maps");
    machine.change_regs(|r| r.rflags = 1 << 9 | 2);
    queue(&machine, VECTOR);
    let event = machine.expect_event(14);
    assert_eq!((event.error, event.rip), (2, CODE));
    assert_eq!(machine.sregs().cr2, FAULT_AT);
    machine.set_qword(0x3_0000 + 8 * (DATA >> 12), DATA | 7);
    let event = machine.expect_event(VECTOR);
    assert_eq!(
        (event.rip, event.frame),
        (CODE, DATA + PAGE_SIZE + 0x10 - 40)
    );
    machine.expect_hlt();
    let events = machine.cpu.fd().get_vcpu_events().expect("events");
    assert_eq!(events.interrupt.injected, 0, "once");
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
