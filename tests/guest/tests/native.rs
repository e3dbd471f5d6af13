// SPDX-License-Identifier: GPL-2.0

//! Runs the store pattern on the host's own processor, as a function, and looks
//! at the memory: the program and the model of it on the host must agree before
//! anything that a guest did can be blamed on a hypervisor.
#![cfg(target_arch = "x86_64")]

use guest::{asm::*, Mode, Program, StorePattern, BACKGROUND, PAGE_SIZE};

const HLT: u8 = 0xf4;
const RET: u8 = 0xc3;
/// The pattern uses registers that a C function must keep.
const PATTERN_AT: u64 = 64;

fn map(pages: u64, protection: i32) -> u64 {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let size = (pages * PAGE_SIZE) as usize;
    // SAFETY: a new anonymous mapping replaces nothing.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, -1, 0) };
    assert_ne!(address, libc::MAP_FAILED);
    address as u64
}

fn bytes(address: u64, pages: u64) -> &'static mut [u8] {
    let size = (pages * PAGE_SIZE) as usize;
    // SAFETY: `address` is a mapping of that many pages that is never unmapped
    // and that only one slice at a time is made of.
    unsafe {
        std::slice::from_raw_parts_mut(
            std::ptr::with_exposed_provenance_mut(address as usize),
            size,
        )
    }
}

/// A C function that saves what it must and calls the pattern.
fn trampoline(address: u64) -> Vec<u8> {
    let saved = [rbx, rbp, r12, r14, r15];
    Program::assemble(Mode::Long, address, |a| {
        for register in saved {
            a.push(register)?;
        }
        a.call(address + PATTERN_AT)?;
        for register in saved.into_iter().rev() {
            a.pop(register)?;
        }
        a.ret()?;
        Ok(Vec::new())
    })
    .unwrap()
    .code
}

#[test]
fn the_program_stores_what_the_model_says() {
    let read_write = libc::PROT_READ | libc::PROT_WRITE;
    let base = map(3, read_write);
    let scratch = map(1, read_write);
    let text = map(1, read_write | libc::PROT_EXEC);
    let pattern = StorePattern {
        base,
        pages: 3,
        scratch,
    };

    let mut code = pattern.program(text + PATTERN_AT).unwrap().code;
    assert_eq!(code.pop(), Some(HLT));
    code.push(RET);
    let entry = trampoline(text);
    assert!(entry.len() as u64 <= PATTERN_AT);
    let page = bytes(text, 1);
    page[..entry.len()].copy_from_slice(&entry);
    page[PATTERN_AT as usize..][..code.len()].copy_from_slice(&code);
    bytes(base, 3).fill(BACKGROUND);

    // SAFETY: the page holds a function that keeps the registers of its caller
    // and writes to the two other mappings only.
    let run: extern "C" fn() =
        unsafe { std::mem::transmute(std::ptr::with_exposed_provenance::<u8>(text as usize)) };
    run();
    assert!(
        bytes(base, 3) == pattern.image(|_| true),
        "memory differs from the model"
    );
}
