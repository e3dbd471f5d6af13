// SPDX-License-Identifier: GPL-2.0

//! kvm_spp: a KVM-style hypervisor with EPT sub-page write permissions (SPP).
//!
//! ```text
//!   user space VMM --ioctl--> kvm/   the KVM ABI, the run loop
//!                              |  \
//!                              |   `-> vmx/   VMX instructions, windows, loans
//!                              v
//!                            host/   frames, guest pages, notifier, files
//!      policy without unsafe: vmcore, spp, ept, emulate, ioctl_api (own crates)
//! ```

use kernel::{
    miscdevice::{
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    prelude::*,
    sync::Arc, //
};

mod host;
mod kvm;
mod vmx;

use host::{
    cpu,
    pin::KvmPin,
    shim, //
};
use vmx::window::Vmx;

module! {
    type: KvmSpp,
    name: "kvm_spp",
    authors: ["The kvm_spp authors"],
    description: "KVM-style hypervisor with EPT sub-page write permissions",
    license: "GPL",
    params: {
        software: bool {
            default: false,
            description: "Keep sub-page maps by emulation even where the CPU could",
        },
    },
}

kernel::sync::global_lock! {
    // SAFETY: Initialised in `KvmSpp::init` before the device exists.
    unsafe(uninit) static VMX: Mutex<Option<Arc<Vmx>>> = None;
}

/// What `probe` found is in [`VMX`] for as long as this lives: devices that are
/// opened find it there.
struct Published;

impl Published {
    fn new() -> Result<Self> {
        *VMX.lock() = Some(probe()?);
        Ok(Self)
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        *VMX.lock() = None;
    }
}

/// The loaded module. Its parts go in this order, when no descriptor is open any
/// more: each holds a reference to the module.
#[pin_data]
struct KvmSpp {
    #[pin]
    device: MiscDeviceRegistration<kvm::dev::Device>,
    _vmx: Published,
    _kvm: Option<KvmPin>,
}

impl kernel::InPlaceModule for KvmSpp {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        // SAFETY: Called once, before anything can use the lock.
        unsafe { VMX.init() };
        try_pin_init!(Self {
            _kvm: KvmPin::new(),
            _vmx: Published::new()?,
            device <- MiscDeviceRegistration::register(MiscDeviceOptions { name: c"kvm-spp" }),
        })
    }
}

/// Finds out whether this machine can run guests, and says why not.
fn probe() -> Result<Arc<Vmx>> {
    if !shim::kvm_spp_cpu_has_vmx() {
        pr_err!("this CPU has no VT-x, or the firmware has switched it off\n");
        return Err(EOPNOTSUPP);
    }
    if !shim::kvm_spp_cpu_has_xsave() {
        pr_err!("this CPU has no XSAVE\n");
        return Err(EOPNOTSUPP);
    }
    if shim::kvm_spp_cpu_has_fred() {
        pr_err!("FRED is not supported yet; boot with fred=off\n");
        return Err(EOPNOTSUPP);
    }
    if shim::kvm_spp_enlightened_vmcs() {
        pr_err!("Hyper-V's enlightened VMCS hides which VMCS is current\n");
        return Err(EOPNOTSUPP);
    }
    if shim::kvm_spp_cpu_has_l1tf() {
        pr_err!("CPUs with the L1TF vulnerability are not supported\n");
        return Err(EOPNOTSUPP);
    }
    let caps = cpu::common_caps()?;
    let software = module_parameters::software.value();
    pr_info!(
        "ready; sub-page write permissions: {}\n",
        match (software, caps.spp()) {
            (true, _) => "by emulation, as the parameter \"software\" asks",
            (false, true) => "yes",
            (false, false) => "by emulation, as this CPU does not offer them",
        }
    );
    Ok(Arc::new(
        Vmx::new(caps, caps.spp() && !software)?,
        GFP_KERNEL,
    )?)
}
