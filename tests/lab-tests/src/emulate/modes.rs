// SPDX-License-Identifier: GPL-2.0

//! Devices in the modes that have segments. The processor does the same with a segment
//! of memory.

use super::bus::{contents, Access, Bus};
use super::forms::Exit;
use super::kinds::{Kind, WITH_SEGMENTS};
use crate::harness::{tests, Lab};
use crate::machine::{Machine, Stop};
use guest::{Mode, CODE, SCRATCH};
use kvm_bindings::kvm_regs;
use vmm::Vm;

tests![
    every_instruction_in_every_mode,
    offsets_wrap_in_real_mode,
    accesses_over_the_limit_fault,
    stack_limit_faults,
    user_code_reaches_devices,
];

/// Memory ends below the device, which real mode reaches.
const MEMORY: usize = 0x8_0000;
const DEVICE: u64 = 0xa_0000;

/// Opcode and the register of ModRM, or a string instruction; and its accesses to the
/// device, where `z` is the operand size of the mode and `o` the other one.
const ROWS: &[(&[u8], &str)] = &[
    (&[0x8a, 1 << 3], "r1"),                // mov cl, m
    (&[0x8b, 1 << 3], "rz"),                // mov ecx, m
    (&[0x66, 0x8b, 1 << 3], "ro"),          // mov cx, m
    (&[0x88, 5 << 3], "w1"),                // mov m, ch
    (&[0x89, 1 << 3], "wz"),                // mov m, ecx
    (&[0x66, 0x89, 1 << 3], "wo"),          // mov m, cx
    (&[0x0f, 0xb6, 2 << 3], "r1"),          // movzx edx, m8
    (&[0x0f, 0xbf, 2 << 3], "r2"),          // movsx edx, m16
    (&[0x01, 2 << 3], "rz wz"),             // add m, edx
    (&[0xf0, 0x66, 0x31, 2 << 3], "ro wo"), // lock xor m, dx
    (&[0x87, 2 << 3], "rz wz"),             // xchg m, edx
    (&[0x0f, 0xb1, 2 << 3], "rz wz"),       // cmpxchg m, edx
    (&[0xff, 0 << 3], "rz wz"),             // inc m
    (&[0xff, 6 << 3], "rz"),                // push m
    (&[0x66, 0xff, 6 << 3], "ro"),          // push m16
    (&[0x8f, 0 << 3], "wz"),                // pop m
    (&[0x0f, 0x92, 0], "w1"),               // setc m
    (&[0xa4], "r1 w1"),                     // movsb
    (&[0x66, 0xa5], "ro wo"),               // movsw
    (&[0xf3, 0xa5], "rz wz rz wz rz wz"),   // rep movsd
    (&[0xf3, 0xab], "wz wz wz"),            // rep stosd
    (&[0xad], "rz"),                        // lodsd
    (&[0x67, 0xaa], "w1"),                  // stosb, the other address size
    (&[0x36, 0xad], ""),                    // lodsd from the stack segment
];

/// What an instruction did.
#[derive(PartialEq, Debug)]
struct Outcome {
    regs: kvm_regs,
    data: Vec<u8>,
    stack: Vec<u8>,
}

/// A guest about to run `code`, whose DS and ES begin at `base`.
fn guest(lab: &Lab, kind: Kind, code: Vec<u8>, base: u64) -> Machine {
    let vm = Vm::open(lab.device(), MEMORY).expect("a VM");
    let machine = kind.load(vm, kind.program(|a| a.hlt()));
    kind.set_data(&machine, base);
    start(&machine, kind, &code);
    machine
}

/// Lets the guest begin with other code, which HLT ends.
fn start(machine: &Machine, kind: Kind, code: &[u8]) {
    machine.write(CODE, &[code, &[0xf4]].concat());
    machine.write(0x5f00, &[0; 0x200]);
    machine.change_regs(|r| {
        *r = kvm_regs {
            rip: CODE,
            rflags: kind.rflags(1),
            ..Default::default()
        };
        (r.rax, r.rcx, r.rdx) = (0x4142_4344, 3, 0x5152_5354);
        (r.rbx, r.rsi, r.rdi, r.rsp) = (0x10, 0x20, 0x40, 0x6000);
    });
}

/// ModRM for an operand at BX or EBX.
fn at_bx(kind: Kind, opcode: &[u8]) -> Vec<u8> {
    let string = matches!(opcode.last(), Some(0xa4..=0xad));
    let mut code = opcode.to_vec();
    if let (false, Some(modrm)) = (string, code.last_mut()) {
        *modrm |= if kind.is_16_bit() { 7 } else { 3 };
    }
    code
}

fn outcome(machine: &Machine, data: Vec<u8>) -> Outcome {
    Outcome {
        regs: machine.regs(),
        data,
        stack: machine.read(0x5f00, 0x200),
    }
}

fn every_instruction_in_every_mode(lab: &Lab) {
    for kind in WITH_SEGMENTS {
        let mut native = guest(lab, kind, vec![], SCRATCH);
        let mut emulated = guest(lab, kind, vec![], DEVICE);
        for (opcode, accesses) in ROWS {
            let code = at_bx(kind, opcode);
            let what = format!("{kind:?} {code:02x?}");
            start(&native, kind, &code);
            start(&emulated, kind, &code);
            native.write(SCRATCH, &contents(1)[..0x80]);
            assert_eq!(native.run(), kind.end(), "{what}");
            let expected = outcome(&native, native.read(SCRATCH, 0x80));
            let mut bus = Bus::at(DEVICE, 1);
            assert_eq!(bus.run(&mut emulated), kind.end(), "{what}");
            let found = outcome(&emulated, bus.registers()[..0x80].to_vec());
            assert_eq!(found, expected, "{what}");
            let exits: Vec<String> = bus.take_log().iter().map(shape).collect();
            let size = match kind.is_16_bit() {
                true => ("2", "4"),
                false => ("4", "2"),
            };
            let sized = accesses.replace('z', size.0).replace('o', size.1);
            assert_eq!(exits.join(" "), sized, "{what}");
        }
    }
}

/// `r4` for a read of 4 bytes.
fn shape(access: &Access) -> String {
    let Exit { write, len, .. } = Exit::of(access);
    format!("{}{len}", if write { 'w' } else { 'r' })
}

/// 16-bit registers go from 0xffff to 0, and so do the bytes of a string.
fn offsets_wrap_in_real_mode(lab: &Lab) {
    // A segment whose last 16 bytes are behind the memory.
    let hole = MEMORY as u64;
    let base = hole - 0xfff0;
    // rep stosb
    let mut machine = guest(lab, Kind::Of(Mode::Real), vec![0xf3, 0xaa], base);
    machine.change_regs(|r| (r.rdi, r.rcx) = (0xabcd_fffe, 0x1234_0004));
    let mut bus = Bus::at(hole, 1);
    assert_eq!(bus.run(&mut machine), Stop::Hlt);
    let regs = machine.regs();
    assert_eq!((regs.rdi, regs.rcx), (0xabcd_0002, 0x1234_0000));
    let log = bus.take_log();
    let expected = [0xe, 0xf].map(|at| Access::Write(hole + at, vec![0x44]));
    assert_eq!(log, expected);
    assert_eq!(machine.read(base, 3), [0x44, 0x44, 0]);
}

/// What the source of a MOVS is stops it for an emulator, which then finds that the
/// destination is beyond the limit.
fn accesses_over_the_limit_fault(lab: &Lab) {
    for (limit, fits) in [(0x43, true), (0x42, false), (0x3f, false)] {
        let mut machine = guest(lab, Kind::Of(Mode::Protected), vec![0xa5], DEVICE);
        let mut sregs = machine.sregs();
        (sregs.es.base, sregs.es.limit, sregs.es.g) = (SCRATCH, limit, 0);
        machine.set_sregs(&sregs);
        let before = machine.regs();
        let mut bus = Bus::at(DEVICE, 1);
        match bus.run(&mut machine) {
            Stop::Hlt => assert!(fits, "limit {limit:#x}"),
            Stop::Event(event) => {
                assert!(!fits, "limit {limit:#x}");
                assert_eq!((event.vector, event.error, event.rip), (13, 0, CODE));
                let now = machine.regs();
                assert_eq!((now.rsi, now.rdi), (before.rsi, before.rdi));
            }
            other => panic!("limit {limit:#x}: {other:x?}"),
        }
        let expected = match fits {
            true => contents(1)[0x20..0x24].to_vec(),
            false => vec![0; 4],
        };
        assert_eq!(
            machine.read(SCRATCH + 0x40, 4),
            expected,
            "limit {limit:#x}"
        );
    }
}

/// The same for PUSH, which is #SS.
fn stack_limit_faults(lab: &Lab) {
    for (limit, fits) in [(0x5fff, true), (0x5ffe, false), (0x5ffc, false)] {
        let code = at_bx(Kind::Of(Mode::Protected), &[0xff, 6 << 3]);
        let mut machine = guest(lab, Kind::Of(Mode::Protected), code, DEVICE);
        let mut sregs = machine.sregs();
        (sregs.ss.limit, sregs.ss.g) = (limit, 0);
        machine.set_sregs(&sregs);
        let mut bus = Bus::at(DEVICE, 1);
        match bus.run(&mut machine) {
            Stop::Hlt => assert!(fits, "limit {limit:#x}"),
            // The frame of #SS finds no room either.
            Stop::Shutdown => assert!(!fits, "limit {limit:#x}"),
            other => panic!("limit {limit:#x}: {other:x?}"),
        }
        let pushed = machine.read(0x5ffc, 4);
        let expected = match fits {
            true => contents(1)[0x10..0x14].to_vec(),
            false => vec![0; 4],
        };
        assert_eq!(pushed, expected, "limit {limit:#x}");
    }
}

/// Page tables decide whether user code may.
fn user_code_reaches_devices(lab: &Lab) {
    for allowed in [true, false] {
        // mov ecx, [ebx]; int 0x21
        let mut machine = guest(
            lab,
            Kind::Of(Mode::Paged32),
            vec![0x8b, 0x0b, 0xcd, 0x21],
            0,
        );
        let user = |mut sregs: kvm_bindings::kvm_sregs| {
            (sregs.cs.dpl, sregs.cs.selector) = (3, 0x0b);
            (sregs.ss.dpl, sregs.ss.selector) = (3, 0x13);
            sregs
        };
        let entry = machine.qword(guest::TABLES) as u32;
        let entry = if allowed { entry | 4 } else { entry };
        machine.write(guest::TABLES, &entry.to_le_bytes());
        machine.set_sregs(&user(machine.sregs()));
        machine.change_regs(|r| r.rbx = DEVICE);
        let mut bus = Bus::at(DEVICE, 1);
        // There is no stack for a handler in supervisor mode.
        assert_eq!(bus.run(&mut machine), Stop::Shutdown);
        let read = vec![Access::Read(DEVICE, contents(1)[..4].to_vec())];
        assert_eq!(bus.take_log(), if allowed { read } else { vec![] });
    }
}
