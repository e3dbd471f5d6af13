// SPDX-License-Identifier: GPL-2.0

use crate::error::{call, Error, Result};
use crate::Vcpu;
use guest::{Program, GDT, TABLES};
use ioctl_api::{number, subpage};
use kvm_bindings::{kvm_enable_cap, kvm_userspace_memory_region, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Kvm, VmFd};
use std::ffi::CString;
use std::path::Path;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::ioctl::ioctl_with_ref;

/// A virtual machine with one memslot that begins at guest-physical address 0.
pub struct Vm {
    fd: VmFd,
    kvm: Kvm,
    memory: GuestMemoryMmap,
}

impl Vm {
    /// Makes a VM with `bytes` of memory, a multiple of the page size.
    ///
    /// # Errors
    /// Those of opening the device, `mmap` and the ioctls.
    pub fn open(device: impl AsRef<Path>, bytes: usize) -> Result<Self> {
        let path = CString::new(device.as_ref().as_os_str().as_encoded_bytes())
            .map_err(|_| Error::Call("open", kvm_ioctls::Error::new(libc::EINVAL)))?;
        let kvm = Kvm::new_with_path(path).map_err(call("open"))?;
        let fd = kvm.create_vm().map_err(call("KVM_CREATE_VM"))?;
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), bytes)])?;
        let slot = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: bytes as u64,
            userspace_addr: memory
                .get_host_address(GuestAddress(0))?
                .expose_provenance() as u64,
        };
        // SAFETY: the slot is exactly the mapping of `memory`, which `Vm` and
        // every `Vcpu` share, so it lives as long as any file of the VM.
        unsafe { fd.set_user_memory_region(slot) }.map_err(call("KVM_SET_USER_MEMORY_REGION"))?;
        Ok(Self { fd, kvm, memory })
    }

    /// The file of the VM, for calls that have no method here.
    pub fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// The device.
    pub fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    /// Guest memory.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// Turns sub-page write permissions on, checked by whoever does it best; must
    /// precede the first vCPU.
    ///
    /// # Errors
    /// [`Error::NoSpp`], or that of `KVM_ENABLE_CAP`.
    pub fn enable_spp(&self) -> Result<()> {
        self.enable_spp_with(0)
    }

    /// The same with `backend` to check them, a `KVM_SPP_CAP_*`.
    ///
    /// # Errors
    /// As for [`enable_spp`](Self::enable_spp).
    pub fn enable_spp_with(&self, backend: u32) -> Result<()> {
        if self.fd.check_extension_raw(subpage::KVM_CAP_SPP.into()) <= 0 {
            return Err(Error::NoSpp);
        }
        let cap = kvm_enable_cap {
            cap: subpage::KVM_CAP_SPP,
            args: [backend.into(), 0, 0, 0],
            ..Default::default()
        };
        self.fd
            .enable_cap(&cap)
            .map_err(call("KVM_ENABLE_CAP(KVM_CAP_SPP)"))
    }

    /// Sets the maps of the pages from `gpa` on, bit `n` = sub-page `n` may be
    /// written.
    ///
    /// # Errors
    /// That of `KVM_SPP_SET_MAPS`; then no map has changed.
    pub fn set_maps(&self, gpa: u64, maps: &[u32]) -> Result<()> {
        let range = subpage::Maps {
            gpa,
            npages: maps.len() as u64,
            maps: maps.as_ptr().expose_provenance() as u64,
            ..Default::default()
        };
        // SAFETY: the kernel reads `range` and `npages` words at `maps`, and
        // both are borrowed for as long as the call takes.
        match unsafe { ioctl_with_ref(&self.fd, number::KVM_SPP_SET_MAPS.into(), &range) } {
            0.. => Ok(()),
            _ => Err(Error::Call("KVM_SPP_SET_MAPS", kvm_ioctls::Error::last())),
        }
    }

    /// The maps of `npages` pages from `gpa` on.
    ///
    /// # Errors
    /// That of `KVM_SPP_GET_MAPS`.
    pub fn maps(&self, gpa: u64, npages: usize) -> Result<Vec<u32>> {
        let mut maps = vec![0_u32; npages];
        let range = subpage::Maps {
            gpa,
            npages: npages as u64,
            maps: maps.as_mut_ptr().expose_provenance() as u64,
            ..Default::default()
        };
        // SAFETY: the kernel reads `range` and writes `npages` words at `maps`,
        // which nothing else refers to during the call.
        match unsafe { ioctl_with_ref(&self.fd, number::KVM_SPP_GET_MAPS.into(), &range) } {
            0.. => Ok(maps),
            _ => Err(Error::Call("KVM_SPP_GET_MAPS", kvm_ioctls::Error::last())),
        }
    }

    /// Writes a program, and the tables of its mode, to guest memory.
    ///
    /// # Errors
    /// If the memory is too small.
    pub fn load(&self, program: &Program) -> Result<()> {
        self.write(program.address, &program.code)?;
        self.write(GDT, &program.mode.gdt())?;
        self.write(TABLES, &program.mode.tables(TABLES))
    }

    /// Writes bytes to guest memory.
    ///
    /// # Errors
    /// If the memory is too small.
    pub fn write(&self, gpa: u64, bytes: &[u8]) -> Result<()> {
        Ok(self.memory.write_slice(bytes, GuestAddress(gpa))?)
    }

    /// Reads bytes from guest memory.
    ///
    /// # Errors
    /// If the memory is too small.
    pub fn read(&self, gpa: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(gpa))?;
        Ok(bytes)
    }

    /// Makes a vCPU that has all CPUID leaves the device supports.
    ///
    /// # Errors
    /// Those of the ioctls.
    pub fn vcpu(&self, id: u64) -> Result<Vcpu> {
        let fd = self.fd.create_vcpu(id).map_err(call("KVM_CREATE_VCPU"))?;
        let cpuid = self
            .kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(call("KVM_GET_SUPPORTED_CPUID"))?;
        fd.set_cpuid2(&cpuid).map_err(call("KVM_SET_CPUID2"))?;
        Ok(Vcpu::new(fd, self.memory.clone()))
    }

    /// Loads a program and makes a vCPU that is about to run it.
    ///
    /// # Errors
    /// Those of [`load`](Self::load), [`vcpu`](Self::vcpu) and [`Vcpu::enter`].
    pub fn boot(&self, program: &Program) -> Result<Vcpu> {
        self.load(program)?;
        let vcpu = self.vcpu(0)?;
        vcpu.enter(program.mode, program.address)?;
        Ok(vcpu)
    }
}
