// SPDX-License-Identifier: GPL-2.0

//! The descriptor of a virtual CPU, and its ioctls.

use super::{
    run,
    vcpu::{
        Guest,
        Vcpu, //
    },
    vm::Vm, //
};
use crate::host::{
    fd::FdObject,
    shim,
    user, //
};
use ioctl_api::{
    number::*,
    regs::{
        Debugregs,
        Fpu,
        Regs,
        Sregs,
        Xcrs, //
    },
    vcpu::{
        Interrupt,
        MpState,
        SignalMask,
        VcpuEvents,
        KVM_MP_STATE_RUNNABLE, //
    }, //
};
use kernel::{
    mm::virt::VmaNew,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    }, //
};
use vmcore::cpuid;

/// A vCPU's descriptor keeps the VM alive too.
pub(crate) struct VcpuFile {
    pub(crate) vm: Arc<Vm>,
    pub(crate) vcpu: Arc<Vcpu>,
}

impl FdObject for VcpuFile {
    const NAME: &'static CStr = c"kvm-spp-vcpu";

    fn mmap(this: ArcBorrow<'_, Self>, vma: &VmaNew, pgoff: usize) -> Result {
        this.vcpu.area.mmap(vma, pgoff)
    }

    fn ioctl(this: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<isize> {
        this.vm.check_mm()?;
        match cmd {
            KVM_RUN if arg != 0 => return Err(EINVAL),
            KVM_RUN => return run::run(&this.vm, &this.vcpu),
            KVM_GET_MSRS | KVM_SET_MSRS | KVM_SET_CPUID2 | KVM_GET_CPUID2 => {
                return this.list_ioctl(cmd, arg)
            }
            KVM_SET_SIGNAL_MASK => return this.set_signal_mask(arg),
            KVM_GET_TSC_KHZ => return Ok(shim::kvm_spp_tsc_khz() as isize),
            _ => {}
        }
        match this.get(cmd, arg) {
            None => this.set(cmd, arg)?,
            Some(result) => result?,
        }
        Ok(0)
    }
}

impl VcpuFile {
    /// The ioctls that read state; `None` for others.
    fn get(&self, cmd: u32, arg: usize) -> Option<Result> {
        let mut state = self.vcpu.state.lock();
        let state = &mut *state;
        let vmx = &self.vm.vmx;
        Some(match cmd {
            KVM_GET_REGS => user::write(arg, &state.guest.regs()),
            KVM_GET_SREGS => state
                .with_vmcs(vmx, |vmcs, guest| guest.sregs(vmcs))
                .and_then(|sregs| user::write(arg, &sregs)),
            KVM_GET_FPU => user::write(arg, &state.fpu.registers()),
            KVM_GET_XSAVE => user::write_array(arg, state.fpu.image()),
            KVM_GET_XCRS => user::write(arg, &state.guest.xcrs()),
            KVM_GET_MP_STATE => user::write(
                arg,
                &MpState {
                    mp_state: KVM_MP_STATE_RUNNABLE,
                },
            ),
            KVM_GET_VCPU_EVENTS => user::write(arg, &state.guest.vcpu_events()),
            KVM_GET_DEBUGREGS => state
                .debugregs(vmx)
                .and_then(|regs| user::write(arg, &regs)),
            _ => return None,
        })
    }

    /// The ioctls that change state; `EINVAL` for unknown ones, as under KVM.
    fn set(&self, cmd: u32, arg: usize) -> Result {
        let mut state = self.vcpu.state.lock();
        let state = &mut *state;
        let vmx = &self.vm.vmx;
        state.emulator.forget();
        let here = state.guest.linear_rip();
        match cmd {
            KVM_SET_REGS => state.guest.set_regs(&user::read::<Regs>(arg)?),
            KVM_SET_SREGS => {
                let sregs = user::read::<Sregs>(arg)?;
                state.set_sregs(&self.vm, &sregs)?;
            }
            KVM_SET_FPU => state.fpu.set_registers(&user::read::<Fpu>(arg)?)?,
            KVM_SET_XSAVE => {
                let image = user::read_array::<u8>(arg, crate::vmx::fpu::AREA_SIZE)?;
                state.fpu.set_image(&image)?;
            }
            KVM_SET_XCRS => {
                let mask = state.fpu.mask() & cpuid::guest_xcr0(&state.guest.cpuid);
                state.guest.set_xcrs(&user::read::<Xcrs>(arg)?, mask)?;
            }
            // Without an interrupt controller in the kernel there is no other state.
            KVM_SET_MP_STATE => match user::read::<MpState>(arg)?.mp_state {
                KVM_MP_STATE_RUNNABLE => {}
                _ => return Err(EINVAL),
            },
            KVM_SET_DEBUGREGS => {
                let regs = user::read::<Debugregs>(arg)?;
                state.set_debugregs(vmx, &regs)?;
            }
            _ => state.guest.set_event(cmd, arg)?,
        }
        if state.guest.linear_rip() != here {
            state.emulator.journal.leave(here);
        }
        Ok(())
    }

    /// KVM_SET_SIGNAL_MASK (KVM api.rst 4.21): a null pointer takes it back.
    fn set_signal_mask(&self, arg: usize) -> Result<isize> {
        let mut mask = None;
        if arg != 0 {
            if user::read::<SignalMask>(arg)?.len as usize != size_of::<u64>() {
                return Err(EINVAL);
            }
            let at = arg.checked_add(size_of::<SignalMask>()).ok_or(EFAULT)?;
            mask = Some(user::read::<u64>(at)?);
        }
        self.vcpu.state.lock().guest.signal_mask = mask;
        Ok(0)
    }
}

impl Guest {
    /// The ioctls that change what waits for delivery; `EINVAL` for unknown ones.
    fn set_event(&mut self, cmd: u32, arg: usize) -> Result {
        match cmd {
            KVM_SET_VCPU_EVENTS => self.set_vcpu_events(&user::read::<VcpuEvents>(arg)?)?,
            KVM_INTERRUPT => {
                let vector = user::read::<Interrupt>(arg)?.irq;
                let vector = u8::try_from(vector).map_err(|_| EINVAL)?;
                self.events.queue_interrupt(vector);
            }
            KVM_NMI => {
                let blocked = self.interruptibility & 8 != 0;
                self.events.queue_nmi(blocked);
            }
            _ => return Err(EINVAL),
        }
        Ok(())
    }
}
