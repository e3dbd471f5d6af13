// SPDX-License-Identifier: GPL-2.0

//! Guests that keep a vCPU busy, and where they keep what the host watches.

use guest::asm::{
    eax, ecx, edx, qword_ptr, r8, r8d, r9, rax, rcx, rdx, xmm5, CodeAssembler, CodeLabel,
};
use guest::{Mode, Program, CODE, PAGE_SIZE};
use std::sync::atomic::Ordering::SeqCst;
use vm_memory::{Bytes, GuestAddress};
use vmm::{Vcpu, Vm};

/// Bytes of a test's first memslot.
pub(crate) const MEMORY: usize = 4 << 20;

/// IA32_LSTAR: passed through to the guest, and switched by `kvm_intel` late.
const MSR_LSTAR: u32 = 0xc000_0082;

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

/// A guest that adds 1 to the word at `target` so many times, locked, and halts.
pub(crate) fn locked_adder(index: u64, target: u64, rounds: u32) -> Program {
    program(index, |a| {
        let mut again = a.create_label();
        a.mov(rcx, target)?;
        a.mov(eax, rounds)?;
        a.set_label(&mut again)?;
        a.lock().inc(qword_ptr(rcx))?;
        a.dec(eax)?;
        a.jnz(again)?;
        a.hlt()?;
        Ok(vec![])
    })
}

/// A guest that computes with general registers, SSE registers, an MSR and CPUID,
/// so that it ends up with another number when any of them becomes another's.
/// It halts with the number in its rounds, and goes on from there when run again.
#[derive(Clone, Copy)]
pub(crate) struct Hasher {
    /// Where it begins, and the value it keeps in the MSR.
    pub(crate) seed: u32,
    /// Steps from one HLT to the next, each of 12 instructions.
    pub(crate) rounds: u64,
    /// Execute CPUID in each step.
    pub(crate) cpuid: bool,
}

impl Hasher {
    pub(crate) fn program(self, index: u64) -> Program {
        program(index, |a| {
            let (mut outer, mut inner) = (a.create_label(), a.create_label());
            a.mov(ecx, MSR_LSTAR)?;
            a.mov(eax, self.seed)?;
            a.xor(edx, edx)?;
            a.wrmsr()?;
            a.mov(r8d, self.seed)?;
            a.movq(xmm5, r8)?;
            a.set_label(&mut outer)?;
            a.mov(r9, self.rounds)?;
            a.mov(ecx, MSR_LSTAR)?;
            a.rdmsr()?;
            a.movq(r8, xmm5)?;
            a.add(r8, rax)?;
            a.movq(xmm5, r8)?;
            a.set_label(&mut inner)?;
            self.step(a)?;
            a.dec(r9)?;
            a.jnz(inner)?;
            a.mov(rcx, rounds_of(index))?;
            a.mov(qword_ptr(rcx), r8)?;
            a.hlt()?;
            a.jmp(outer)?;
            Ok(vec![])
        })
    }

    fn step(self, a: &mut CodeAssembler) -> Result<(), guest::AssembleError> {
        a.movq(r8, xmm5)?;
        a.mov(rdx, r8)?;
        a.shl(rdx, 13)?;
        a.xor(r8, rdx)?;
        a.mov(rdx, r8)?;
        a.shr(rdx, 7)?;
        a.xor(r8, rdx)?;
        if self.cpuid {
            a.xor(eax, eax)?;
            a.xor(ecx, ecx)?;
            a.cpuid()?;
            a.add(r8, rax)?;
        }
        a.movq(xmm5, r8)
    }

    /// What the guest has after `halts` HLTs; `leaf` is CPUID.0:EAX.
    pub(crate) fn value(self, leaf: u64, halts: u64) -> u64 {
        (0..halts).fold(self.seed.into(), |x, _| self.next(leaf, x))
    }

    /// What it has at the next HLT.
    pub(crate) fn next(self, leaf: u64, value: u64) -> u64 {
        let leaf = if self.cpuid { leaf } else { 0 };
        let begin = value.wrapping_add(self.seed.into());
        (0..self.rounds).fold(begin, |mut x, _| {
            x ^= x << 13;
            x ^= x >> 7;
            x.wrapping_add(leaf)
        })
    }
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
