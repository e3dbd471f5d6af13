// SPDX-License-Identifier: GPL-2.0

//! A guest stores to two sub-pages of a page, one of which it may not write.

use guest::asm::{byte_ptr, rbx};
use guest::{Mode, Program, CODE, DATA};
use vmm::{Exit, Vm, DEVICE};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let program = Program::assemble(Mode::Long, CODE, |a| {
        a.mov(rbx, DATA)?;
        a.mov(byte_ptr(rbx), 1)?; // sub-page 0
        a.mov(byte_ptr(rbx + 0x280), 1)?; // sub-page 5
        a.hlt()?;
        Ok(vec![])
    })?;
    let vm = Vm::open(DEVICE, 2 << 20)?;
    vm.enable_spp()?;
    vm.set_maps(DATA, &[!(1 << 5)])?; // all writable but sub-page 5
    let mut vcpu = vm.boot(&program)?;
    loop {
        match vcpu.run()? {
            Exit::Spp(exit) => {
                println!("denied: store to {:#x} at rip {:#x}", exit.gpa, exit.rip);
                vcpu.skip(program.len_at(exit.rip).ok_or("not our instruction")?)?;
            }
            Exit::Hlt => break,
            other => return Err(format!("unexpected exit: {other:?}").into()),
        }
    }
    println!(
        "sub-page 0 holds {}, sub-page 5 holds {}",
        vm.read(DATA, 1)?[0],
        vm.read(DATA + 0x280, 1)?[0]
    );
    Ok(())
}
