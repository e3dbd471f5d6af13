// SPDX-License-Identifier: GPL-2.0

use crate::error::{call, Result};
use crate::exit::{Decoded, Exit};
use guest::{Mode, GDT, STACK, TABLES};
use ioctl_api::run::PAYLOAD_SIZE;
use kvm_bindings::kvm_regs;
use kvm_ioctls::VcpuFd;
use vm_memory::GuestMemoryMmap;

const RFLAGS_FIXED: u64 = 1 << 1;

/// A virtual CPU.
pub struct Vcpu {
    fd: VcpuFd,
    /// Keeps the guest's memory mapped while the vCPU can still run.
    _memory: GuestMemoryMmap,
}

impl Vcpu {
    pub(crate) fn new(fd: VcpuFd, memory: GuestMemoryMmap) -> Self {
        Self {
            fd,
            _memory: memory,
        }
    }

    /// The file of the vCPU, for calls that have no method here.
    pub fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// The same, for calls that change `struct kvm_run`.
    pub fn fd_mut(&mut self) -> &mut VcpuFd {
        &mut self.fd
    }

    /// Puts a new vCPU into `mode`, about to execute at `rip`. The tables of
    /// the mode must be where [`Vm::load`](crate::Vm::load) writes them.
    ///
    /// # Errors
    /// Those of the ioctls.
    pub fn enter(&self, mode: Mode, rip: u64) -> Result<()> {
        let mut sregs = self.fd.get_sregs().map_err(call("KVM_GET_SREGS"))?;
        mode.enter(&mut sregs, TABLES, GDT);
        self.fd.set_sregs(&sregs).map_err(call("KVM_SET_SREGS"))?;
        self.set_regs(&kvm_regs {
            rip,
            rsp: STACK,
            rflags: RFLAGS_FIXED,
            ..Default::default()
        })
    }

    /// General registers.
    ///
    /// # Errors
    /// That of `KVM_GET_REGS`.
    pub fn regs(&self) -> Result<kvm_regs> {
        self.fd.get_regs().map_err(call("KVM_GET_REGS"))
    }

    /// Changes the general registers.
    ///
    /// # Errors
    /// That of `KVM_SET_REGS`.
    pub fn set_regs(&self, regs: &kvm_regs) -> Result<()> {
        self.fd.set_regs(regs).map_err(call("KVM_SET_REGS"))
    }

    /// Moves RIP over an instruction of `bytes`, so that it is never executed.
    ///
    /// # Errors
    /// Those of the ioctls.
    pub fn skip(&self, bytes: u64) -> Result<()> {
        let mut regs = self.regs()?;
        regs.rip = regs.rip.wrapping_add(bytes);
        self.set_regs(&regs)
    }

    /// Runs the guest until it stops for a reason.
    ///
    /// # Errors
    /// That of `KVM_RUN`, except for `EINTR`, which is [`Exit::Interrupted`].
    pub fn run(&mut self) -> Result<Exit> {
        let decoded = match self.fd.run() {
            Ok(exit) => Decoded::from(exit),
            Err(error) if error.errno() == libc::EINTR => Decoded::Whole(Exit::Interrupted),
            Err(error) => return Err(call("KVM_RUN")(error)),
        };
        Ok(decoded.with(&self.payload()))
    }

    /// The union in `struct kvm_run`, as bytes.
    fn payload(&mut self) -> [u8; PAYLOAD_SIZE] {
        let run = self.fd.get_kvm_run();
        // SAFETY: `padding` covers the whole union, and any bytes are valid.
        let bytes = unsafe { run.__bindgen_anon_1.padding };
        bytes.map(|byte| byte.to_ne_bytes()[0])
    }
}
