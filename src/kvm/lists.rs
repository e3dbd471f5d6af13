// SPDX-License-Identifier: GPL-2.0

//! The vCPU ioctls with arrays behind their structure: CPUID and MSRs
//! (KVM api.rst 4.18-4.20, 4.46).

use super::{
    vcpu::State,
    vcpu_file::VcpuFile, //
};
use crate::host::user;
use ioctl_api::{
    number::*,
    regs::{
        Cpuid2,
        CpuidEntry2,
        MsrEntry,
        Msrs, //
    }, //
};
use kernel::prelude::*;
use vmcore::{
    cpuid,
    cr::Cr4, //
};

/// MSRs that one ioctl may carry: KVM's limit.
const MAX_MSRS: u32 = 256;

impl VcpuFile {
    /// Runs one of the four list ioctls.
    pub(crate) fn list_ioctl(&self, cmd: u32, arg: usize) -> Result<isize> {
        let mut state = self.vcpu.state.lock();
        state.emulator.forget();
        match cmd {
            KVM_SET_CPUID2 => self.set_cpuid(&mut state, arg),
            KVM_GET_CPUID2 => get_cpuid(&state, arg),
            KVM_GET_MSRS => self.get_msrs(&mut state, arg),
            _ => self.set_msrs(&mut state, arg),
        }
    }

    /// KVM_SET_CPUID2: once the vCPU has run, only the same list again.
    fn set_cpuid(&self, state: &mut State, arg: usize) -> Result<isize> {
        let nent = user::read::<Cpuid2>(arg)?.nent;
        if nent > cpuid::MAX_ENTRIES {
            return Err(E2BIG);
        }
        let list = arg.checked_add(size_of::<Cpuid2>()).ok_or(EFAULT)?;
        let entries = user::read_array::<CpuidEntry2>(list, nent as usize)?;
        cpuid::check(&entries).map_err(super::vm::errno)?;
        if state.guest.ran {
            return match *state.guest.cpuid == *entries {
                true => Ok(0),
                false => Err(EINVAL),
            };
        }
        let mut features = cpuid::features(&entries);
        features.cr4 &= Cr4::from_bits_retain(self.vm.vmx.caps.guest_cr4_limit());
        state.guest.features = features;
        state.guest.cpuid = entries;
        state.with_vmcs(&self.vm.vmx, |vmcs, guest| guest.refresh_masks(vmcs))?;
        Ok(0)
    }

    /// KVM_GET_MSRS: how many were read before the first that does not exist.
    fn get_msrs(&self, state: &mut State, arg: usize) -> Result<isize> {
        let (at, mut entries) = read_msrs(arg)?;
        let switched = state.unswitched.msrs;
        let done = state.with_vmcs(&self.vm.vmx, |vmcs, guest| {
            let read = entries.iter_mut().map_while(|entry| {
                entry.data = guest.get_msr(vmcs, &switched, entry.index)?;
                Some(())
            });
            read.count()
        })?;
        user::write_array(at, &entries)?;
        Ok(done as isize)
    }

    /// KVM_SET_MSRS: how many were set before the first that could not be.
    fn set_msrs(&self, state: &mut State, arg: usize) -> Result<isize> {
        let (_, entries) = read_msrs(arg)?;
        let caps = &self.vm.vmx.caps;
        let mut switched = state.unswitched.msrs;
        let done = state.with_vmcs(&self.vm.vmx, |vmcs, guest| {
            let set = entries.iter().take_while(|entry| {
                guest.set_msr(vmcs, caps, &mut switched, entry.index, entry.data)
            });
            set.count()
        })?;
        state.unswitched.msrs = switched;
        Ok(done as isize)
    }
}

/// KVM_GET_CPUID2: the list as it was set; `E2BIG` where it does not fit.
fn get_cpuid(state: &State, arg: usize) -> Result<isize> {
    let mut header = user::read::<Cpuid2>(arg)?;
    let entries = &state.guest.cpuid;
    if (header.nent as usize) < entries.len() {
        return Err(E2BIG);
    }
    header.nent = entries.len() as u32;
    let list = arg.checked_add(size_of::<Cpuid2>()).ok_or(EFAULT)?;
    user::write_array(list, entries)?;
    user::write(arg, &header)?;
    Ok(0)
}

/// The entries of a `struct kvm_msrs`, and where they lie.
fn read_msrs(arg: usize) -> Result<(usize, KVVec<MsrEntry>)> {
    let nmsrs = user::read::<Msrs>(arg)?.nmsrs;
    if nmsrs >= MAX_MSRS {
        return Err(E2BIG);
    }
    let at = arg.checked_add(size_of::<Msrs>()).ok_or(EFAULT)?;
    Ok((at, user::read_array(at, nmsrs as usize)?))
}
