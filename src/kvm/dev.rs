// SPDX-License-Identifier: GPL-2.0

//! `/dev/kvm-spp`: the system ioctls (KVM api.rst 4.1-4.5).

use super::vm::{
    extension,
    Vm, //
};
use crate::{
    host::{
        cpu,
        fd,
        user, //
    },
    vmx::window::Vmx, //
};
use ioctl_api::{
    number::*,
    regs::{
        Cpuid2,
        CpuidEntry2,
        MsrList, //
    },
    run, //
};
use kernel::{
    fs::File,
    miscdevice::{
        MiscDevice,
        MiscDeviceRegistration, //
    },
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    }, //
};

/// An open `/dev/kvm-spp`.
pub(crate) struct Device {
    vmx: Arc<Vmx>,
}

#[vtable]
impl MiscDevice for Device {
    type Ptr = Arc<Self>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Arc<Self>> {
        let vmx = crate::VMX.lock().as_ref().ok_or(ENODEV)?.clone();
        Ok(Arc::new(Self { vmx }, GFP_KERNEL)?)
    }

    fn ioctl(this: ArcBorrow<'_, Self>, _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        match cmd {
            KVM_GET_API_VERSION if arg == 0 => Ok(KVM_API_VERSION as isize),
            KVM_GET_VCPU_MMAP_SIZE if arg == 0 => Ok(run::MMAP_SIZE as isize),
            KVM_CHECK_EXTENSION => Ok(extension(&this.vmx, arg)),
            KVM_CREATE_VM if arg == 0 => {
                fd::install(Vm::new(this.vmx.clone())?).map(|fd| fd as isize)
            }
            KVM_GET_SUPPORTED_CPUID => supported_cpuid(&this.vmx, arg),
            KVM_GET_MSR_INDEX_LIST => msr_list(arg, vmcore::msr::INDEX_LIST),
            KVM_GET_MSR_FEATURE_INDEX_LIST => msr_list(arg, &[]),
            _ => Err(EINVAL),
        }
    }

    #[cfg(CONFIG_COMPAT)]
    fn compat_ioctl(_this: ArcBorrow<'_, Self>, _: &File, _cmd: u32, _arg: usize) -> Result<isize> {
        Err(EINVAL)
    }
}

/// KVM_GET_SUPPORTED_CPUID (KVM api.rst 4.46): `E2BIG` where the list is longer
/// than user space has room for.
fn supported_cpuid(vmx: &Vmx, arg: usize) -> Result<isize> {
    let mut header = user::read::<Cpuid2>(arg)?;
    let offer = vmcore::cpuid::Offer {
        rdtscp: vmx.caps.rdtscp(),
        invpcid: vmx.caps.invpcid(),
    };
    let mut entries = KVec::<CpuidEntry2>::new();
    let mut out_of_memory = false;
    vmcore::cpuid::enumerate(&offer, cpu::cpuid, |entry| {
        out_of_memory |= entries.push(entry, GFP_KERNEL).is_err();
    });
    if out_of_memory {
        return Err(ENOMEM);
    }
    if (header.nent as usize) < entries.len() {
        return Err(E2BIG);
    }
    header.nent = entries.len() as u32;
    user::write(arg, &header)?;
    let list = arg.checked_add(size_of::<Cpuid2>()).ok_or(EFAULT)?;
    user::write_array(list, &entries)?;
    Ok(0)
}

/// KVM_GET_MSR_INDEX_LIST (KVM api.rst 4.3): the length always, the list where
/// it fits, else `E2BIG`.
fn msr_list(arg: usize, list: &[u32]) -> Result<isize> {
    let room = user::read::<MsrList>(arg)?.nmsrs;
    let nmsrs = list.len() as u32;
    user::write(arg, &MsrList { nmsrs })?;
    if room < nmsrs {
        return Err(E2BIG);
    }
    let at = arg.checked_add(size_of::<MsrList>()).ok_or(EFAULT)?;
    user::write_array(at, list)?;
    Ok(0)
}
