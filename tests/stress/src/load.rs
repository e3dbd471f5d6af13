// SPDX-License-Identifier: GPL-2.0

//! Guests that keep a vCPU busy, and where they keep what the host watches.

use guest::asm::{qword_ptr, rax, rcx, rdx, CodeAssembler, CodeLabel};
use guest::{Mode, Program, CODE, PAGE_SIZE};
use std::sync::atomic::Ordering::SeqCst;
use vm_memory::{Bytes, GuestAddress};
use vmm::{Vcpu, Vm};

/// Bytes of a test's first memslot.
pub(crate) const MEMORY: usize = 4 << 20;

type Assembled = Result<Vec<CodeLabel>, guest::AssembleError>;

/// Assembles a 64-bit program for vCPU `index`.
pub(crate) fn program(index: u64, author: impl FnOnce(&mut CodeAssembler) -> Assembled) -> Program {
    Program::assemble(Mode::Long, CODE + index * PAGE_SIZE, author).unwrap()
}

/// Loads a program and makes vCPU `index` run it. The tables of all programs
/// are the same, so others may be running already.
pub(crate) fn boot(vm: &Vm, index: u64, program: &Program) -> Vcpu {
    vm.load(program).unwrap();
    let vcpu = vm.vcpu(index).unwrap();
    vcpu.enter(program.mode, program.address).unwrap();
    vcpu
}

/// Where a program counts its rounds: one cache line for each vCPU.
pub(crate) const fn rounds_of(index: u64) -> u64 {
    guest::SCRATCH + index * 64
}

/// A guest that adds 1 to the word at each of `targets` in turn, and to its
/// rounds, for ever. Each addition is one instruction, which is denied wholly or
/// not at all.
pub(crate) fn counters(index: u64, targets: &[u64]) -> Program {
    program(index, |a| {
        let mut again = a.create_label();
        a.mov(rcx, rounds_of(index))?;
        a.set_label(&mut again)?;
        a.inc(qword_ptr(rcx))?;
        for &target in targets {
            a.mov(rdx, target)?;
            a.inc(qword_ptr(rdx))?;
        }
        a.jmp(again)?;
        Ok(vec![])
    })
}

/// A guest that computes: `rounds` steps of [`hash`] from `seed`, with a CPUID in
/// each when `cpuid`; then it stores the result to its rounds and halts, and goes
/// on from there when run again.
pub(crate) fn hasher(index: u64, seed: u64, rounds: u64, cpuid: bool) -> Program {
    use guest::asm::{r8, r9};
    program(index, |a| {
        let (mut outer, mut inner) = (a.create_label(), a.create_label());
        a.mov(r8, seed)?;
        a.set_label(&mut outer)?;
        a.mov(r9, rounds)?;
        a.set_label(&mut inner)?;
        a.mov(rdx, r8)?;
        a.shl(rdx, 13)?;
        a.xor(r8, rdx)?;
        a.mov(rdx, r8)?;
        a.shr(rdx, 7)?;
        a.xor(r8, rdx)?;
        a.mov(rdx, r8)?;
        a.shl(rdx, 17)?;
        a.xor(r8, rdx)?;
        if cpuid {
            // The maximum leaf goes into the result: it must not be another's.
            a.xor(rax, rax)?;
            a.xor(rcx, rcx)?;
            a.cpuid()?;
            a.add(r8, rax)?;
        }
        a.dec(r9)?;
        a.jnz(inner)?;
        a.mov(rcx, rounds_of(index))?;
        a.mov(qword_ptr(rcx), r8)?;
        a.hlt()?;
        a.jmp(outer)?;
        Ok(vec![])
    })
}

/// What [`hasher`] computes; `leaf` is CPUID.0:EAX, or 0 without CPUID.
pub(crate) fn hash(seed: u64, rounds: u64, leaf: u64) -> u64 {
    (0..rounds).fold(seed, |mut x, _| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.wrapping_add(leaf)
    })
}

/// CPUID.0:EAX as the device offers it to guests.
pub(crate) fn max_leaf(vm: &Vm) -> u64 {
    let cpuid = vm.kvm().get_supported_cpuid(256).unwrap();
    let leaf = cpuid.as_slice().iter().find(|entry| entry.function == 0);
    leaf.unwrap().eax.into()
}

/// The word at a guest-physical address of the first memslot.
pub(crate) fn word(vm: &Vm, gpa: u64) -> u64 {
    vm.memory().load(GuestAddress(gpa), SeqCst).unwrap()
}

/// Writes it.
pub(crate) fn set_word(vm: &Vm, gpa: u64, value: u64) {
    vm.memory().store(value, GuestAddress(gpa), SeqCst).unwrap();
}
