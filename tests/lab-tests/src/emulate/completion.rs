// SPDX-License-Identifier: GPL-2.0

//! What the next `KVM_RUN` does with an answer of user space, and what user space may
//! do in between.

mod changes;

use super::bus::{contents, Access};
use super::rig::{Page, Rig, WINDOW};
use crate::harness::{tests, Lab, Test};
use crate::machine::{add_slot, Stop, HOLE};
use crate::raw::Mapping;
use guest::asm::*;
use guest::{CODE, PAGE_SIZE, SCRATCH};
use ioctl_api::memory::KVM_MEM_READONLY;
use libc::EINTR;

tests![
    payload_of_an_exit,
    nothing_happens_before_the_answer,
    register_of_a_write_has_changed,
    immediate_exit_completes_a_read,
    immediate_exit_tells_all_of_an_access,
    answer_is_used_once,
    new_registers_are_used,
    new_registers_have_new_translations,
    moved_rip_cancels_a_read,
    moved_rip_after_a_write,
    memory_appears_meanwhile,
    device_appears_meanwhile,
    read_only_memory_writes_to_a_device,
    read_only_memory_is_read,
    long_copies,
];

/// The tests of the parts.
pub(crate) const ALL: &[&[Test]] = &[TESTS, changes::TESTS];

/// RFLAGS.RF, which may be set in the middle of a repeated instruction.
const RF: u64 = 1 << 16;

/// A guest whose window is a device, with RBX at its begin.
fn rig(lab: &Lab, author: impl FnOnce(&mut CodeAssembler) -> crate::machine::Assembled) -> Rig {
    let rig = Rig::new(lab, author);
    rig.map(&[Page::Device(0), Page::Device(1)]);
    rig.machine.change_regs(|r| r.rbx = WINDOW);
    rig
}

/// The register contents at `offset`.
fn word(offset: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&contents(2)[offset..offset + 8]);
    u64::from_le_bytes(bytes)
}

fn payload_of_an_exit(lab: &Lab) {
    let mut rig = rig(lab, |a| {
        a.mov(eax, dword_ptr(rbx + 0x18))?;
        a.mov(word_ptr(rbx + 0x21), ax)
    });
    assert_eq!(rig.machine.run(), Stop::MmioRead(HOLE + 0x18, 4));
    let exit = rig.machine.mmio_exit();
    assert_eq!(
        (exit.phys_addr, exit.len, exit.is_write),
        (HOLE + 0x18, 4, 0)
    );
    rig.machine.answer_mmio(&[1, 2, 3, 4]);
    assert_eq!(rig.machine.run(), Stop::MmioWrite(HOLE + 0x21, vec![1, 2]));
    let exit = rig.machine.mmio_exit();
    assert_eq!(
        (exit.phys_addr, exit.len, exit.is_write),
        (HOLE + 0x21, 2, 1)
    );
    rig.machine.expect_hlt();
}

fn nothing_happens_before_the_answer(lab: &Lab) {
    let mut rig = rig(lab, |a| {
        a.rep().movsb()?;
        a.add(qword_ptr(rbx + 8), rax)
    });
    let copied = rig.machine.read(SCRATCH, 8);
    rig.machine
        .change_regs(|r| (r.rsi, r.rdi, r.rcx, r.rax) = (WINDOW, SCRATCH, 2, 5));
    let before = rig.machine.regs();
    assert_eq!(rig.machine.run(), Stop::MmioRead(HOLE, 1));
    let mut now = rig.machine.regs();
    now.rflags &= !RF;
    assert_eq!(now, before);
    assert_eq!(rig.machine.read(SCRATCH, 8), copied);
    rig.machine.answer_mmio(&[0x11]);
    assert_eq!(rig.machine.run(), Stop::MmioRead(HOLE + 1, 1));
    let regs = rig.machine.regs();
    assert_eq!((regs.rsi, regs.rdi, regs.rcx), (WINDOW + 1, SCRATCH + 1, 1));
    assert_eq!(regs.rip, before.rip);
    assert_eq!(rig.machine.read(SCRATCH, 2), [0x11, copied[1]]);
    rig.machine.answer_mmio(&[0x22]);
    assert_eq!(rig.machine.run(), Stop::MmioRead(HOLE + 8, 8));
    assert_eq!(rig.machine.read(SCRATCH, 2), [0x11, 0x22]);
    let regs = rig.machine.regs();
    rig.machine.answer_mmio(&7_u64.to_le_bytes());
    let sum = 12_u64.to_le_bytes().to_vec();
    assert_eq!(rig.machine.run(), Stop::MmioWrite(HOLE + 8, sum));
    assert!(rig.machine.regs().rip > regs.rip, "the write is told last");
    rig.machine.expect_hlt();
}

fn register_of_a_write_has_changed(lab: &Lab) {
    let mut rig = rig(lab, |a| a.stosd());
    rig.machine
        .change_regs(|r| (r.rdi, r.rax) = (WINDOW, 0x1234));
    let data = vec![0x34, 0x12, 0, 0];
    assert_eq!(rig.machine.run(), Stop::MmioWrite(HOLE, data));
    let regs = rig.machine.regs();
    assert_eq!((regs.rdi, regs.rip), (WINDOW + 4, CODE + 1));
    rig.machine.expect_hlt();
}

/// `immediate_exit` finishes what is begun, and begins nothing.
fn immediate_exit_completes_a_read(lab: &Lab) {
    let mut rig = rig(lab, |a| {
        a.mov(eax, dword_ptr(rbx))?;
        a.mov(ecx, dword_ptr(rbx + 4))
    });
    assert_eq!(rig.machine.run(), Stop::MmioRead(HOLE, 4));
    rig.machine.answer_mmio(&[0xdd, 0xcc, 0xbb, 0xaa]);
    rig.machine.set_immediate_exit(true);
    for _ in 0..2 {
        assert_eq!(rig.machine.run(), Stop::Error(EINTR));
        let regs = rig.machine.regs();
        assert_eq!((regs.rip, regs.rax), (CODE + 2, 0xaabb_ccdd));
    }
    rig.machine.set_immediate_exit(false);
    assert_eq!(rig.machine.run(), Stop::MmioRead(HOLE + 4, 4));
    rig.machine.expect_hlt();
}

fn immediate_exit_tells_all_of_an_access(lab: &Lab) {
    let mut rig = rig(lab, |a| {
        a.movups(xmm0, xmmword_ptr(rbx))?;
        a.movups(xmmword_ptr(rbx + 0xff8), xmm0)?;
        a.inc(byte_ptr(rbx))
    });
    assert_eq!(rig.machine.run(), Stop::MmioRead(HOLE, 8));
    rig.machine.answer_mmio(&[1; 8]);
    rig.machine.set_immediate_exit(true);
    assert_eq!(rig.machine.run(), Stop::MmioRead(HOLE + 8, 8));
    rig.machine.answer_mmio(&[2; 8]);
    assert_eq!(rig.machine.run(), Stop::Error(EINTR));
    rig.machine.set_immediate_exit(false);
    let first = Stop::MmioWrite(HOLE + 0xff8, vec![1; 8]);
    assert_eq!(rig.machine.run(), first);
    rig.machine.set_immediate_exit(true);
    let second = Stop::MmioWrite(HOLE + 0x1000, vec![2; 8]);
    assert_eq!(rig.machine.run(), second);
    assert_eq!(rig.machine.run(), Stop::Error(EINTR));
    rig.machine.set_immediate_exit(false);
    assert_eq!(rig.machine.run(), Stop::MmioRead(HOLE, 1));
    rig.machine.answer_mmio(&[9]);
    rig.machine.set_immediate_exit(true);
    assert_eq!(rig.machine.run(), Stop::MmioWrite(HOLE, vec![10]));
    assert_eq!(rig.machine.run(), Stop::Error(EINTR));
    rig.machine.set_immediate_exit(false);
    rig.machine.expect_hlt();
}

/// The same load again asks again.
fn answer_is_used_once(lab: &Lab) {
    let mut rig = rig(lab, |a| {
        let mut again = a.create_label();
        a.mov(ecx, 3)?;
        a.set_label(&mut again)?;
        a.mov(al, byte_ptr(rbx))?;
        a.mov(byte_ptr(rbx + rcx), al)?;
        a.dec(ecx)?;
        a.jnz(again)
    });
    for (value, at) in [(0x31, 3), (0x32, 2), (0x33, 1)] {
        assert_eq!(rig.machine.run(), Stop::MmioRead(HOLE, 1));
        rig.machine.answer_mmio(&[value]);
        assert_eq!(rig.machine.run(), Stop::MmioWrite(HOLE + at, vec![value]));
    }
    rig.machine.expect_hlt();
}

/// User space changes the registers that the instruction is about to use.
fn new_registers_are_used(lab: &Lab) {
    lab.only_ours("KVM loses what the instruction writes to a register");
    let mut rig = rig(lab, |a| a.add(rax, qword_ptr(rbx)));
    assert_eq!(rig.machine.run(), Stop::MmioRead(HOLE, 8));
    rig.machine.answer_mmio(&1000_u64.to_le_bytes());
    rig.machine.change_regs(|r| r.rax = 0x5000);
    rig.machine.expect_hlt();
    assert_eq!(rig.machine.regs().rax, 0x5000 + 1000);
}

/// Where the exit has found the operand counts no more once user space sets registers.
fn new_registers_have_new_translations(lab: &Lab) {
    lab.only_ours("KVM goes on with the address that it has asked for");
    let mut rig = rig(lab, |a| a.mov(rax, qword_ptr(rbx)));
    assert_eq!(rig.machine.run(), Stop::MmioRead(HOLE, 8));
    rig.machine.answer_mmio(&1000_u64.to_le_bytes());
    rig.map(&[Page::Device(1)]);
    rig.machine.change_regs(|r| r.rax = 0);
    assert_eq!(rig.machine.run(), Stop::MmioRead(HOLE + PAGE_SIZE, 8));
    rig.machine.answer_mmio(&2000_u64.to_le_bytes());
    rig.machine.expect_hlt();
    assert_eq!(rig.machine.regs().rax, 2000);
}

/// Who moves RIP does not want the instruction any more, nor its answer.
fn moved_rip_cancels_a_read(lab: &Lab) {
    lab.only_ours("KVM executes the old instruction, and takes RIP back");
    let mut rig = rig(lab, |a| {
        a.mov(eax, dword_ptr(rbx))?;
        a.mov(ecx, dword_ptr(rbx + 0x20))?;
        a.mov(edx, dword_ptr(rbx))
    });
    let starts: Vec<u64> = rig.machine.program.instructions().collect();
    assert_eq!(rig.machine.run(), Stop::MmioRead(HOLE, 4));
    rig.machine.answer_mmio(&[1; 4]);
    rig.machine
        .change_regs(|r| (r.rip, r.rax) = (starts[1], 0x99));
    assert_eq!(rig.machine.run(), Stop::MmioRead(HOLE + 0x20, 4));
    rig.machine.answer_mmio(&[2; 4]);
    // The third load asks for what the first one had asked for.
    assert_eq!(rig.machine.run(), Stop::MmioRead(HOLE, 4));
    rig.machine.answer_mmio(&[3; 4]);
    rig.machine.expect_hlt();
    let regs = rig.machine.regs();
    let expected = (0x99, 0x0202_0202, 0x0303_0303);
    assert_eq!((regs.rax, regs.rcx, regs.rdx), expected);
}

/// A write is done when it is told: moving RIP is moving RIP.
fn moved_rip_after_a_write(lab: &Lab) {
    let mut rig = rig(lab, |a| {
        a.mov(dword_ptr(rbx), eax)?;
        a.inc(ecx)?;
        a.inc(edx)
    });
    let starts: Vec<u64> = rig.machine.program.instructions().collect();
    assert_eq!(rig.machine.run(), Stop::MmioWrite(HOLE, vec![0; 4]));
    assert_eq!(rig.machine.regs().rip, starts[1]);
    rig.machine.change_regs(|r| r.rip = starts[2]);
    rig.machine.expect_hlt();
    assert_eq!((rig.machine.regs().rcx, rig.machine.regs().rdx), (0, 1));
}

/// Memory is put where a device was asked: the guest gets one or the other.
fn memory_appears_meanwhile(lab: &Lab) {
    let mut rig = rig(lab, |a| {
        a.mov(rax, qword_ptr(rbx))?;
        a.mov(rcx, qword_ptr(rbx))
    });
    let memory = Mapping::anonymous(PAGE_SIZE as usize, PAGE_SIZE as usize);
    memory.write(0, 0x6666);
    assert_eq!(rig.machine.run(), Stop::MmioRead(HOLE, 8));
    rig.machine.answer_mmio(&0x5555_u64.to_le_bytes());
    add_slot(&rig.machine.vm, 1, HOLE, &memory, 0).expect("a slot");
    rig.machine.expect_hlt();
    let regs = rig.machine.regs();
    assert!(matches!(regs.rax, 0x5555 | 0x6666), "{:#x}", regs.rax);
    assert_eq!(regs.rcx, 0x6666);
}

/// The destination of a copy turns into a device between the read and the write.
fn device_appears_meanwhile(lab: &Lab) {
    let mut rig = rig(lab, |a| a.movsq());
    let memory = Mapping::anonymous(PAGE_SIZE as usize, PAGE_SIZE as usize);
    add_slot(&rig.machine.vm, 1, HOLE + PAGE_SIZE, &memory, 0).expect("a slot");
    rig.machine
        .change_regs(|r| (r.rsi, r.rdi) = (WINDOW, WINDOW + PAGE_SIZE));
    assert_eq!(rig.machine.run(), Stop::MmioRead(HOLE, 8));
    rig.machine.answer_mmio(&[0x77; 8]);
    let gone = crate::machine::set_slot(&rig.machine.vm, 1, 0, &memory, 0, 0);
    assert_eq!(gone, Ok(0));
    let write = Stop::MmioWrite(HOLE + PAGE_SIZE, vec![0x77; 8]);
    assert_eq!(rig.machine.run(), write);
    rig.machine.expect_hlt();
    assert_eq!(memory.read(0), 0);
}

/// Writes to read-only memory are a device's, of which nobody asks reads.
fn read_only_memory_writes_to_a_device(lab: &Lab) {
    type Emit = fn(&mut CodeAssembler) -> crate::machine::Assembled;
    let rows: [(&str, Emit, &[u8]); 10] = [
        ("mov", |a| a.mov(word_ptr(rbx), ax), &[0x41, 0x42]),
        ("add", |a| a.add(byte_ptr(rbx), al), &[0x52]),
        ("lock inc", |a| a.lock().inc(byte_ptr(rbx)), &[0x12]),
        ("xchg", |a| a.xchg(byte_ptr(rbx), al), &[0x41]),
        ("cmpxchg", |a| a.cmpxchg(byte_ptr(rbx), cl), &[0x11]),
        ("lock xadd", |a| a.lock().xadd(byte_ptr(rbx), al), &[0x52]),
        ("movsb", |a| a.movsb(), &[0xf4]),
        ("stosw", |a| a.stosw(), &[0x41, 0x42]),
        ("pop", |a| a.pop(word_ptr(rbx)), &[0xa5, 0xa5]),
        ("movups", |a| a.movups(xmmword_ptr(rbx), xmm7), &[0; 8]),
    ];
    for (name, emit, data) in rows {
        let mut rig = rig(lab, emit);
        let memory = Mapping::anonymous(PAGE_SIZE as usize, PAGE_SIZE as usize);
        memory.write(0, 0x1111_1111_1111_1111);
        add_slot(&rig.machine.vm, 1, HOLE, &memory, KVM_MEM_READONLY).expect("a slot");
        rig.machine.change_regs(|r| {
            (r.rax, r.rdi, r.rsi) = (0x4241, WINDOW, SCRATCH);
            r.rsp -= 8;
        });
        let mut expected = vec![Access::Write(HOLE, data.to_vec())];
        if name == "movups" {
            expected.push(Access::Write(HOLE + 8, vec![0; 8]));
        }
        assert_eq!(rig.log_until_hlt(), expected, "{name}");
        assert_eq!(memory.read(0), 0x1111_1111_1111_1111, "{name}");
    }
}

fn read_only_memory_is_read(lab: &Lab) {
    let mut rig = rig(lab, |a| {
        // From read-only memory to a device, and the other way.
        a.movsq()?;
        a.mov(rsi, rdi)?;
        a.mov(rdi, rbx)?;
        a.movsd()
    });
    let memory = Mapping::anonymous(PAGE_SIZE as usize, PAGE_SIZE as usize);
    memory.write(0, 0x1234_5678_9abc_def0);
    add_slot(&rig.machine.vm, 1, HOLE, &memory, KVM_MEM_READONLY).expect("a slot");
    let there = WINDOW + PAGE_SIZE;
    rig.machine
        .change_regs(|r| (r.rsi, r.rdi) = (WINDOW, there));
    let value = 0x1234_5678_9abc_def0_u64.to_le_bytes().to_vec();
    let next = contents(2)[0x1008..0x100c].to_vec();
    let expected = [
        Access::Write(HOLE + PAGE_SIZE, value),
        Access::Read(HOLE + PAGE_SIZE + 8, next.clone()),
        Access::Write(HOLE, next),
    ];
    assert_eq!(rig.log_until_hlt(), expected);
}

/// More elements than are done in one go.
fn long_copies(lab: &Lab) {
    let mut rig = rig(lab, |a| {
        a.rep().movsb()?;
        a.mov(rsi, SCRATCH)?;
        a.mov(rdi, rbx)?;
        a.mov(ecx, 0x200)?;
        a.rep().movsq()
    });
    // 3000 bytes from the device to memory, over a page boundary.
    rig.map(&[Page::Device(0), Page::Device(1), Page::Ram(0), Page::Ram(1)]);
    let to = WINDOW + 2 * PAGE_SIZE + 1500;
    rig.machine
        .change_regs(|r| (r.rsi, r.rdi, r.rcx) = (WINDOW + 7, to, 3000));
    let log = rig.log_until_hlt();
    let (reads, writes) = log.split_at(3000);
    let whole = contents(4);
    for (n, access) in reads.iter().enumerate() {
        assert_eq!(
            *access,
            Access::Read(HOLE + 7 + n as u64, vec![whole[7 + n]])
        );
    }
    assert_eq!(writes.len(), 0x200);
    assert_eq!(
        rig.machine.read(super::rig::RAM + 1500, 3000),
        whole[7..3007]
    );
    let scratch = rig.machine.read(SCRATCH, PAGE_SIZE as usize);
    assert!(rig.bus.registers()[..0x1000] == scratch);
    assert_eq!(
        word(0x1000).to_le_bytes(),
        rig.bus.registers()[0x1000..0x1008]
    );
}
