// SPDX-License-Identifier: GPL-2.0

//! Emulated writes to sub-pages that deny them: nothing changes, and no device and no
//! port is asked for what cannot be stored. Once the map allows it the write is done,
//! with nothing lost and nothing asked twice.
//!
//! ```text
//!   window   0        1          2        3
//!            device   RAM, map   device   memory
//! ```

mod repeated;
mod revoked;
mod write;

use super::bus::contents;
use super::rig::{Page, Rig, RAM, WINDOW};
use crate::harness::{tests, Lab, Test};
use crate::machine::Assembled;
use guest::asm::*;
use guest::{CODE, PAGE_SIZE};
use ioctl_api::subpage::FULL;
use kvm_bindings::kvm_regs;
use write::{shape, told, write, Write};

tests![
    movs_from_memory,
    movs_from_a_device,
    xchg_in_memory,
    xchg_over_a_device_and_memory,
    xchg_over_memory_and_a_device,
    ins_to_memory,
    ins_over_a_device_and_memory,
    push_and_call,
    pop_from_a_device,
    stores_over_devices_and_memory,
    second_of_two_sub_pages,
    other_sub_pages_are_written,
];

/// The tests of the parts.
pub(crate) const ALL: &[&[Test]] = &[TESTS, repeated::TESTS, revoked::TESTS];

/// The first page of the window that has a map, and the other ones.
const PROTECTED: u64 = WINDOW + PAGE_SIZE;
const FIRST_DEVICE: u64 = WINDOW;
const MEMORY: u64 = WINDOW + 3 * PAGE_SIZE;
const PORT: u64 = 0x3f8;
/// RFLAGS.RF.
const RF: u64 = 1 << 16;

type Emit = fn(&mut CodeAssembler) -> Assembled;
type SetRegs = fn(&mut kvm_regs);

/// A guest with the window above.
fn rig(lab: &Lab, author: impl FnOnce(&mut CodeAssembler) -> Assembled) -> Rig {
    let rig = Rig::spp(lab, author);
    rig.map(&[Page::Device(0), Page::Ram(0), Page::Device(1), Page::Ram(1)]);
    rig.set_vectors();
    rig
}

fn set_map(rig: &Rig, map: u32) {
    rig.machine.vm.set_maps(RAM, &[map]).expect("maps");
}

fn check_each(lab: &Lab, writes: &[Write]) {
    writes.iter().for_each(|write| write.check(lab));
}

fn from_memory(r: &mut kvm_regs) {
    (r.rsi, r.rdi, r.rcx) = (MEMORY, PROTECTED + 0x200, 3);
}

fn from_a_device(r: &mut kvm_regs) {
    (r.rsi, r.rdi, r.rcx) = (FIRST_DEVICE + 0x31, PROTECTED + 0x200, 3);
}

fn movs_from_memory(lab: &Lab) {
    check_each(
        lab,
        &[
            write("movsb", |a| a.movsb(), from_memory, 0x200, 1),
            write("movsw", |a| a.movsw(), from_memory, 0x200, 2),
            write("movsd", |a| a.movsd(), from_memory, 0x200, 4),
            write("movsq", |a| a.movsq(), from_memory, 0x200, 8),
            write("rep movsw", |a| a.rep().movsw(), from_memory, 0x200, 2),
        ],
    );
}

fn movs_from_a_device(lab: &Lab) {
    check_each(
        lab,
        &[
            write("movsb", |a| a.movsb(), from_a_device, 0x200, 1).asks("r1"),
            write("movsw", |a| a.movsw(), from_a_device, 0x200, 2).asks("r2"),
            write("movsd", |a| a.movsd(), from_a_device, 0x200, 4).asks("r4"),
            write("movsq", |a| a.movsq(), from_a_device, 0x200, 8).asks("r8"),
            write("rep movsw", |a| a.rep().movsw(), from_a_device, 0x200, 2).asks("r2 r2 r2"),
        ],
    );
}

/// RBX at the denied sub-page, and something in RAX.
fn in_memory(r: &mut kvm_regs) {
    (r.rbx, r.rax) = (PROTECTED + 0x200, 0x0102_0304_0506_0708);
}

fn xchg_in_memory(lab: &Lab) {
    check_each(
        lab,
        &[
            write("xchg 8", |a| a.xchg(byte_ptr(rbx), al), in_memory, 0x200, 1).reads(),
            write(
                "xchg 16",
                |a| a.xchg(word_ptr(rbx), ax),
                in_memory,
                0x200,
                2,
            )
            .reads(),
            write(
                "xchg 32",
                |a| a.xchg(dword_ptr(rbx), eax),
                in_memory,
                0x200,
                4,
            )
            .reads(),
            write(
                "xchg 64",
                |a| a.xchg(qword_ptr(rbx), rax),
                in_memory,
                0x200,
                8,
            )
            .reads(),
            write(
                "lock add",
                |a| a.lock().add(qword_ptr(rbx), rax),
                in_memory,
                0x200,
                8,
            )
            .reads(),
            write("inc", |a| a.inc(dword_ptr(rbx)), in_memory, 0x200, 4).reads(),
        ],
    );
}

/// RBX 2 bytes before the protected page.
fn over_the_begin(r: &mut kvm_regs) {
    (r.rbx, r.rdi, r.rax) = (PROTECTED - 2, PROTECTED - 2, 0x0102_0304_0506_0708);
    r.rdx = PORT;
}

/// RBX 2 bytes before its end.
fn over_the_end(r: &mut kvm_regs) {
    (r.rbx, r.rax) = (PROTECTED + PAGE_SIZE - 2, 0x0102_0304_0506_0708);
}

/// And EAX what is there.
fn equal(r: &mut kvm_regs) {
    over_the_begin(r);
    let [.., c, d] = contents(1) else { return };
    let [a, b, ..] = contents(1) else { return };
    (r.rax, r.rcx) = (u32::from_le_bytes([*c, *d, *a, *b]).into(), 0x1111_1111);
}

fn xchg_over_a_device_and_memory(lab: &Lab) {
    check_each(
        lab,
        &[
            write(
                "xchg 32",
                |a| a.xchg(dword_ptr(rbx), eax),
                over_the_begin,
                0,
                4,
            )
            .reads()
            .asks("r2 w2"),
            write(
                "xchg 64",
                |a| a.xchg(qword_ptr(rbx), rax),
                over_the_begin,
                0,
                8,
            )
            .reads()
            .asks("r2 w2"),
            write(
                "lock xadd",
                |a| a.lock().xadd(dword_ptr(rbx), eax),
                over_the_begin,
                0,
                4,
            )
            .reads()
            .asks("r2 w2"),
            write("cmpxchg", |a| a.cmpxchg(dword_ptr(rbx), ecx), equal, 0, 4)
                .reads()
                .asks("r2 w2"),
        ],
    );
}

/// The processor meets the denied sub-page first.
fn xchg_over_memory_and_a_device(lab: &Lab) {
    let rows = [
        write(
            "xchg 32",
            |a| a.xchg(dword_ptr(rbx), eax),
            over_the_end,
            0xffe,
            4,
        )
        .reads(),
        write(
            "xchg 64",
            |a| a.xchg(qword_ptr(rbx), rax),
            over_the_end,
            0xffe,
            8,
        )
        .reads(),
        write(
            "sub",
            |a| a.sub(qword_ptr(rbx), rax),
            over_the_end,
            0xffe,
            8,
        )
        .reads(),
    ];
    for (mut row, asks) in rows.into_iter().zip(["r2 w2", "r6 w6", "r6 w6"]) {
        row.asks = asks;
        row.check(lab);
    }
}

fn from_a_port(r: &mut kvm_regs) {
    (r.rdx, r.rdi, r.rcx) = (PORT, PROTECTED + 0x200, 5);
}

/// The log proves that no port was read for what could not be stored.
fn ins_to_memory(lab: &Lab) {
    check_each(
        lab,
        &[
            write("insb", |a| a.insb(), from_a_port, 0x200, 1).asks("in1"),
            write("insw", |a| a.insw(), from_a_port, 0x200, 2).asks("in2"),
            write("insd", |a| a.insd(), from_a_port, 0x200, 4).asks("in4"),
            write("rep insb", |a| a.rep().insb(), from_a_port, 0x200, 1).asks("in5"),
            write("rep insd", |a| a.rep().insd(), from_a_port, 0x200, 4).asks("in20"),
        ],
    );
}

fn ins_over_a_device_and_memory(lab: &Lab) {
    check_each(
        lab,
        &[write("insd", |a| a.insd(), over_the_begin, 0, 4).asks("in4 w2")],
    );
}

/// What is pushed comes from a device, or where to go.
fn push_and_call(lab: &Lab) {
    fn stack(r: &mut kvm_regs) {
        (r.rsi, r.rsp) = (FIRST_DEVICE + 8, PROTECTED + 0x208);
    }
    check_each(
        lab,
        &[
            write("push 64", |a| a.push(qword_ptr(rsi)), stack, 0x200, 8).asks("r8"),
            write("push 16", |a| a.push(word_ptr(rsi)), stack, 0x206, 2).asks("r2"),
        ],
    );
    let call = write("call", |a| a.call(qword_ptr(rsi)), stack, 0x200, 8).asks("r8");
    let mut rig = rig(lab, call.emit);
    let target = rig.machine.program.code.len() as u64 - 1 + CODE;
    rig.bus.registers_mut()[8..16].copy_from_slice(&target.to_le_bytes());
    set_map(&rig, !(1 << 4));
    rig.machine.change_regs(call.regs);
    call.expect(lab, &mut rig, 1 << 4);
    set_map(&rig, FULL);
    assert_eq!(rig.log_until_hlt().len(), 1);
    assert_eq!(rig.machine.qword(RAM + 0x200), target, "the address of HLT");
}

fn pop_from_a_device(lab: &Lab) {
    fn stack(r: &mut kvm_regs) {
        (r.rbx, r.rsp) = (PROTECTED + 0x200, FIRST_DEVICE + 0x20);
    }
    check_each(
        lab,
        &[
            write("pop 64", |a| a.pop(qword_ptr(rbx)), stack, 0x200, 8).asks("r8"),
            write("pop 16", |a| a.pop(word_ptr(rbx)), stack, 0x200, 2).asks("r2"),
        ],
    );
}

/// All or nothing, over devices too.
fn stores_over_devices_and_memory(lab: &Lab) {
    check_each(
        lab,
        &[
            write(
                "mov 32",
                |a| a.mov(dword_ptr(rbx), eax),
                over_the_begin,
                0,
                4,
            )
            .asks("w2"),
            write(
                "mov 64",
                |a| a.mov(qword_ptr(rbx), rax),
                over_the_begin,
                0,
                8,
            )
            .asks("w2"),
            write(
                "movups",
                |a| a.movups(xmmword_ptr(rbx), xmm3),
                over_the_begin,
                0,
                16,
            )
            .asks("w2"),
            write(
                "vmovups",
                |a| a.vmovups(ymmword_ptr(rbx), ymm3),
                over_the_begin,
                0,
                32,
            )
            .asks("w2"),
            write("stosq", |a| a.stosq(), over_the_begin, 0, 8).asks("w2"),
        ],
    );
    for (emit, size, asks) in [
        (|a| a.mov(dword_ptr(rbx), eax), 4, "w2"),
        (|a| a.mov(qword_ptr(rbx), rax), 8, "w6"),
        (|a| a.movups(xmmword_ptr(rbx), xmm3), 16, "w8 w6"),
    ] as [(Emit, u32, &'static str); 3]
    {
        let mut row = write("over the end", emit, over_the_end, 0xffe, size);
        row.asks = asks;
        row.check(lab);
    }
}

/// A border of sub-pages in the middle of what is written, whose second is denied.
fn second_of_two_sub_pages(lab: &Lab) {
    fn border(r: &mut kvm_regs) {
        (r.rsi, r.rdi) = (FIRST_DEVICE, PROTECTED + 0x200 - 3);
        (r.rdx, r.rsp) = (PORT, PROTECTED + 0x200 + 5);
    }
    check_each(
        lab,
        &[
            write("movsd", |a| a.movsd(), border, 0x200, 4).asks("r4"),
            write("movsq", |a| a.movsq(), border, 0x200, 8).asks("r8"),
            write("insd", |a| a.insd(), border, 0x200, 4).asks("in4"),
            write("push", |a| a.push(qword_ptr(rsi)), border, 0x200, 8).asks("r8"),
        ],
    );
}

/// The same writes, to a page of which everything else is denied.
fn other_sub_pages_are_written(lab: &Lab) {
    let rows: [(&str, Emit, SetRegs, usize); 6] = [
        ("movsq", |a| a.movsq(), from_a_device, 8),
        ("rep movsw", |a| a.rep().movsw(), from_a_device, 6),
        ("insd", |a| a.insd(), from_a_port, 4),
        ("rep insb", |a| a.rep().insb(), from_a_port, 5),
        ("xchg", |a| a.xchg(qword_ptr(rbx), rax), in_memory, 8),
        ("mov", |a| a.mov(dword_ptr(rbx), eax), in_memory, 4),
    ];
    for (name, emit, regs, len) in rows {
        let mut rig = rig(lab, emit);
        set_map(&rig, 1 << 4);
        rig.machine.change_regs(regs);
        let before = rig.machine.read(RAM, PAGE_SIZE as usize);
        rig.log_until_hlt();
        let after = rig.machine.read(RAM, PAGE_SIZE as usize);
        assert!(
            before[0x200..0x200 + len] != after[0x200..0x200 + len],
            "{name}"
        );
        assert!(before[..0x200] == after[..0x200], "{name}");
        assert!(before[0x200 + len..] == after[0x200 + len..], "{name}");
    }
}
