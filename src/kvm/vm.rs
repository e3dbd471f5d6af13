// SPDX-License-Identifier: GPL-2.0

//! A virtual machine: its file descriptor's ioctls and what its vCPUs share.
//!
//! A VM lives as long as a descriptor of it or of one of its vCPUs; then its
//! notifier is unregistered and its tables are freed.

use super::{
    bus::Bus,
    memory::Mmu,
    tlb::Tlb,
    vcpu::Vcpu,
    vcpu_file::VcpuFile, //
};
use crate::{
    host::{
        fd::{
            self,
            FdObject, //
        },
        frame::Frame,
        notifier::Notifier,
        shim,
        user, //
    },
    vmx::window::Vmx, //
};
use ept::Level;
use ioctl_api::{
    bus::{
        CoalescedZone,
        IoEventFd,
        RING_PAGE, //
    },
    cap::*,
    memory::{
        EnableCap,
        UserMemoryRegion, //
    },
    number::*,
    subpage, //
};
use kernel::{
    bindings,
    new_mutex,
    new_spinlock,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow,
        Mutex,
        SpinLock, //
    }, //
};
use vmcore::{
    cap::EptVpid,
    fault::Backend, //
};

/// vCPUs that a VM may have.
pub(crate) const MAX_VCPUS: u32 = 64;

/// The highest address for KVM_SET_TSS_ADDR: three pages below 4 GiB.
const TSS_ADDRESS_MAX: u64 = (1 << 32) - 3 * 4096;

/// What changes by ioctls on the VM.
#[derive(Default)]
pub(crate) struct Config {
    /// vCPUs by their order of creation.
    pub(crate) vcpus: KVec<Arc<Vcpu>>,
    notifier: Option<Notifier>,
}

/// One virtual machine.
///
/// # Invariants
///
/// `mm` is the address space of the process that created the VM; the notifier
/// in `config` keeps the `mm_struct` allocated.
#[pin_data(PinnedDrop)]
pub(crate) struct Vm {
    pub(crate) vmx: Arc<Vmx>,
    pub(crate) mm: *mut bindings::mm_struct,
    /// The largest EPT leaf that the CPUs offer.
    pub(crate) max_leaf: Level,
    pub(crate) tlb: Tlb,
    #[pin]
    pub(crate) bus: Bus,
    #[pin]
    pub(crate) config: Mutex<Config>,
    #[pin]
    pub(crate) mmu: SpinLock<Mmu>,
}

// SAFETY: `mm` is compared and handed to functions that lock what they touch;
// everything else is `Send`.
unsafe impl Send for Vm {}
// SAFETY: As above; shared state is behind the mutex, the spinlock and atomics.
unsafe impl Sync for Vm {}

impl Vm {
    /// A VM without memory or vCPUs, for the calling process.
    pub(crate) fn new(vmx: Arc<Vmx>) -> Result<Arc<Self>> {
        let cap = vmx.caps.ept_vpid();
        let max_leaf = match (
            cap.contains(EptVpid::LEAF_1G),
            cap.contains(EptVpid::LEAF_2M),
        ) {
            (true, true) => Level::Pdpt,
            (_, true) => Level::Pd,
            _ => Level::Pt,
        };
        let mmu = Mmu::new()?;
        let tlb = Tlb::new()?;
        let vm = Arc::pin_init(
            try_pin_init!(Self {
                vmx,
                mm: shim::kvm_spp_current_mm(),
                max_leaf,
                tlb,
                bus <- Bus::new(),
                config <- new_mutex!(Config::default(), "kvm_spp::config"),
                mmu <- new_spinlock!(mmu, "kvm_spp::mmu"),
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )?;
        // SAFETY: `PinnedDrop` drops the registration before anything else of the VM.
        let notifier = unsafe { Notifier::register(&vm) }?;
        vm.config.lock().notifier = Some(notifier);
        Ok(vm)
    }

    /// `EIO` unless the caller's address space is the VM's, as under KVM.
    pub(crate) fn check_mm(&self) -> Result {
        match shim::kvm_spp_current_mm() == self.mm {
            true => Ok(()),
            false => Err(EIO),
        }
    }

    /// The EPT pointer for the VMCS.
    pub(crate) fn eptp(&self) -> u64 {
        // EPT accessed and dirty flags stay off: with them the processor's reads
        // of guest paging structures count as writes, which SPP never grants
        // (SDM 3C 29.3.4.1).
        ept::eptp(self.mmu.lock().space.ept_root(), false)
    }

    /// The SPPT pointer for the VMCS, if the processor holds writes to the maps.
    pub(crate) fn sppt_root(&self) -> Option<ept::Hpa> {
        let mmu = self.mmu.lock();
        match mmu.backend {
            Backend::Hardware => mmu.space.sppt_root(),
            Backend::Software => None,
        }
    }

    /// KVM_CREATE_VCPU (KVM api.rst 4.7).
    fn create_vcpu(self: ArcBorrow<'_, Self>, id: usize) -> Result<isize> {
        let id = u32::try_from(id).map_err(|_| EINVAL)?;
        if id >= MAX_VCPUS {
            return Err(EINVAL);
        }
        let mut config = self.config.lock();
        if config.vcpus.iter().any(|vcpu| vcpu.id() == id) {
            return Err(EEXIST);
        }
        config.vcpus.reserve(1, GFP_KERNEL_ACCOUNT)?;
        let vcpu = Vcpu::new(&self, id)?;
        let file = VcpuFile {
            vm: self.into(),
            vcpu: vcpu.clone(),
        };
        let fd = fd::install(Arc::new(file, GFP_KERNEL_ACCOUNT)?)?;
        config.vcpus.push(vcpu, GFP_KERNEL_ACCOUNT)?;
        Ok(fd as isize)
    }

    /// KVM_ENABLE_CAP on the VM: the sub-page capability is the only one.
    fn enable_cap(&self, request: &EnableCap) -> Result {
        let [wanted, rest @ ..] = request.args;
        if request.cap != subpage::KVM_CAP_SPP || request.flags != 0 || rest != [0; 3] {
            return Err(EINVAL);
        }
        let backend = Backend::choose(wanted, self.vmx.spp).map_err(errno)?;
        let root = Frame::new()?;
        let config = self.config.lock();
        if !config.vcpus.is_empty() {
            return Err(EBUSY);
        }
        let mut mmu = self.mmu.lock();
        let unused = mmu.space.enable_spp(root.into_hpa());
        mmu.backend = backend;
        drop(mmu);
        if let Some(hpa) = unused {
            // SAFETY: The frame given a moment ago came back without being used.
            drop(unsafe { Frame::from_hpa(hpa) });
        }
        Ok(())
    }
}

#[pinned_drop]
impl PinnedDrop for Vm {
    fn drop(self: Pin<&mut Self>) {
        let notifier = self.config.lock().notifier.take();
        drop(notifier);
    }
}

impl FdObject for Vm {
    const NAME: &'static CStr = c"kvm-spp-vm";

    fn ioctl(this: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<isize> {
        this.check_mm()?;
        match cmd {
            KVM_CHECK_EXTENSION => return Ok(extension(&this.vmx, arg)),
            KVM_CREATE_VCPU => return this.create_vcpu(arg),
            KVM_SET_USER_MEMORY_REGION => {
                this.set_memory_region(&user::read::<UserMemoryRegion>(arg)?)?;
            }
            KVM_REGISTER_COALESCED_MMIO => {
                this.bus.register_zone(&user::read::<CoalescedZone>(arg)?)?;
            }
            KVM_UNREGISTER_COALESCED_MMIO => {
                this.bus
                    .unregister_zone(&user::read::<CoalescedZone>(arg)?)?;
            }
            KVM_IOEVENTFD => this.bus.ioeventfd(&user::read::<IoEventFd>(arg)?)?,
            KVM_ENABLE_CAP => this.enable_cap(&user::read::<EnableCap>(arg)?)?,
            KVM_SPP_SET_MAPS => this.set_maps(&user::read::<subpage::Maps>(arg)?)?,
            KVM_SPP_GET_MAPS => this.get_maps(&user::read::<subpage::Maps>(arg)?)?,
            KVM_GET_TSC_KHZ => return Ok(shim::kvm_spp_tsc_khz() as isize),
            // Real mode needs no task-state segment or identity map with
            // unrestricted guest, so the addresses are accepted and not used.
            KVM_SET_TSS_ADDR if arg as u64 > TSS_ADDRESS_MAX => return Err(EINVAL),
            KVM_SET_TSS_ADDR => {}
            KVM_SET_IDENTITY_MAP_ADDR => this.set_identity_map(arg)?,
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }
}

impl Vm {
    fn set_identity_map(&self, arg: usize) -> Result {
        let _address = user::read::<u64>(arg)?;
        match self.config.lock().vcpus.is_empty() {
            true => Ok(()),
            false => Err(EINVAL),
        }
    }
}

/// KVM_CHECK_EXTENSION (KVM api.rst 4.4): 0 for what is not there.
pub(crate) fn extension(vmx: &Vmx, cap: usize) -> isize {
    let Ok(cap) = u32::try_from(cap) else {
        return 0;
    };
    match cap {
        KVM_CAP_USER_MEMORY
        | KVM_CAP_SET_TSS_ADDR
        | KVM_CAP_EXT_CPUID
        | KVM_CAP_MP_STATE
        | KVM_CAP_SYNC_MMU
        | KVM_CAP_DESTROY_MEMORY_REGION_WORKS
        | KVM_CAP_USER_NMI
        | KVM_CAP_IOEVENTFD
        | KVM_CAP_IOEVENTFD_NO_LENGTH
        | KVM_CAP_IOEVENTFD_ANY_LENGTH
        | KVM_CAP_COALESCED_PIO
        | KVM_CAP_JOIN_MEMORY_REGIONS_WORKS
        | KVM_CAP_SET_IDENTITY_MAP_ADDR
        | KVM_CAP_INTERNAL_ERROR_DATA
        | KVM_CAP_VCPU_EVENTS
        | KVM_CAP_INTR_SHADOW
        | KVM_CAP_DEBUGREGS
        | KVM_CAP_GET_TSC_KHZ
        | KVM_CAP_READONLY_MEM
        | KVM_CAP_ENABLE_CAP_VM
        | KVM_CAP_CHECK_EXTENSION_VM
        | KVM_CAP_XSAVE
        | KVM_CAP_XCRS
        | KVM_CAP_IMMEDIATE_EXIT => 1,
        KVM_CAP_NR_VCPUS | KVM_CAP_MAX_VCPUS | KVM_CAP_MAX_VCPU_ID => MAX_VCPUS as isize,
        KVM_CAP_COALESCED_MMIO => RING_PAGE as isize,
        KVM_CAP_NR_MEMSLOTS => super::memory::MAX_SLOTS as isize,
        subpage::KVM_CAP_SPP => Backend::available(vmx.spp) as isize,
        _ => 0,
    }
}

/// The kernel's error for one of the core's.
pub(crate) fn errno(err: vmcore::errno::Errno) -> Error {
    Error::from_errno(-err.raw())
}
