// SPDX-License-Identifier: GPL-2.0

//! A virtual CPU and its state.

use super::{
    area::Area,
    emulator::Emulator,
    report::UserExit,
    stepping::{
        Step,
        Stepper, //
    },
    vm::Vm, //
};
use crate::{
    host::{
        frame::{
            Frame,
            Reserve, //
        }, //
    },
    vmx::{
        fpu::GuestFpu,
        host_state::{
            HostFields,
            Unswitched, //
        },
        region::Region,
        window::{
            Current,
            Registers,
            Vmx,
            Window, //
        }, //
    }, //
};
use emulate::stop::{
    DeviceRead,
    PortRead, //
};
use ept::Gfn;
use ioctl_api::{
    regs::CpuidEntry2,
    subpage::SppExit, //
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    }, //
};
use vmcore::{
    cpuid,
    cr::{
        Control,
        Features, //
    },
    event::Events,
    exit::RawExit,
    fault::Repeat,
    msr::MsrStore, //
};

/// What user space was asked to do, to be completed by the next KVM_RUN. Where an
/// instruction waits, `linear_rip` says at which address: if RIP is elsewhere by then,
/// user space has dealt with the instruction itself.
pub(crate) enum Pending {
    /// An IN or OUT: RIP moves past it.
    Port {
        /// Where the instruction is.
        linear_rip: u64,
        /// Its length in bytes.
        len: u8,
        /// Bytes that an IN puts into RAX.
        input: Option<u8>,
    },
    /// The read of a device for an emulated instruction.
    Device {
        /// Where the instruction is.
        linear_rip: u64,
        /// What was asked for.
        read: DeviceRead,
    },
    /// The read of a port for an emulated instruction.
    Ports {
        /// Where the instruction is.
        linear_rip: u64,
        /// What was asked for.
        read: PortRead,
    },
    /// A write of a finished instruction; others may follow.
    Writes,
}

/// Everything of a vCPU that is not in the VMCS, or is cached from there.
pub(crate) struct Guest {
    pub(crate) regs: Registers,
    pub(crate) rip: u64,
    pub(crate) rflags: u64,
    /// GUEST_INTERRUPTIBILITY_STATE at the last exit.
    pub(crate) interruptibility: u32,
    /// A single-step trap is due after an instruction finished outside.
    pub(crate) single_step: bool,
    /// Data breakpoints that such an instruction has met, bits 3:0 as in DR6.
    pub(crate) breakpoints: u8,
    /// The debug exceptions that are pending in the VMCS no longer are.
    pub(crate) debug_dropped: bool,
    /// The seven above differ from the VMCS (RSP is `regs.gprs[4]`).
    pub(crate) dirty: bool,
    /// CS base, and whether CS holds 64-bit code, at the last exit.
    pub(crate) cs_base: u64,
    pub(crate) long: bool,
    /// Primary controls, but for the windows.
    pub(crate) proc: u32,
    /// An interrupt or NMI window is requested in the VMCS.
    pub(crate) windows_open: bool,
    pub(crate) cr2: u64,
    pub(crate) cr8: u64,
    pub(crate) events: Events,
    pub(crate) msrs: MsrStore,
    pub(crate) xcr0: u64,
    pub(crate) cpuid: KVVec<CpuidEntry2>,
    /// What `cpuid` lets the guest do.
    pub(crate) features: Features,
    pub(crate) signal_mask: Option<u64>,
    pub(crate) host: HostFields,
    pub(crate) reserve: Reserve,
    pub(crate) pending: Option<Pending>,
    /// The next entry executes one instruction on a view of its own.
    pub(crate) step: Option<Step>,
    /// The frame at which an instruction was emulated last.
    pub(crate) emulated: Option<Gfn>,
    /// What the last exit left, for what is done about it with IRQs on.
    pub(crate) exit: RawExit,
    /// What KVM_EXIT_SPP tells of the write that was denied last.
    pub(crate) denied: SppExit,
    /// The control registers that PAE paging is to go on with.
    pub(crate) new_control: Control,
    /// Where the last write was stopped that the maps allow.
    pub(crate) repeat: Repeat,
    /// The guest has run, so CPUID is fixed.
    pub(crate) ran: bool,
    pub(crate) vpid: u16,
    pub(crate) eptp: u64,
}

impl Guest {
    /// The exit for a denied write.
    pub(crate) fn tell_denied(&mut self, denied: SppExit) -> UserExit {
        self.denied = denied;
        UserExit::Spp
    }

    /// Before the first instruction, of the vCPU that is number `id` of `vm`.
    fn new(vm: &Vm, id: u32) -> Self {
        Self {
            regs: Registers::default(),
            rip: 0xfff0,
            rflags: 2,
            interruptibility: 0,
            single_step: false,
            breakpoints: 0,
            debug_dropped: false,
            dirty: true,
            cs_base: 0,
            long: false,
            proc: vmcore::cap::with_mov_dr_exiting(vm.vmx.caps.proc(), true),
            windows_open: false,
            cr2: 0,
            cr8: 0,
            events: Events::new(),
            msrs: MsrStore::new(),
            xcr0: 1,
            cpuid: KVVec::new(),
            features: cpuid::features(&[]),
            signal_mask: None,
            host: HostFields::default(),
            reserve: Reserve::default(),
            pending: None,
            step: None,
            emulated: None,
            exit: RawExit::default(),
            denied: SppExit::default(),
            new_control: Control::RESET,
            repeat: Repeat::default(),
            ran: false,
            // VPIDs tell apart vCPUs of one EPT root only; across roots the
            // root's address does (SDM 3C 29.4.1).
            vpid: (id + 1) as u16,
            eptp: vm.eptp(),
        }
    }
}

/// A vCPU's state; whoever holds the mutex may load the VMCS.
pub(crate) struct State {
    region: Region,
    /// The MSR bitmap that the VMCS points to.
    msr_bitmap: Frame,
    pub(crate) guest: Guest,
    pub(crate) unswitched: Unswitched,
    pub(crate) fpu: GuestFpu,
    pub(crate) emulator: Emulator,
    pub(crate) stepper: Stepper,
}

impl State {
    /// The VMCS region, the registers, those that are not switched, the FPU and the
    /// emulator, apart.
    pub(crate) fn parts(
        &mut self,
    ) -> (
        &Region,
        &mut Guest,
        &mut Unswitched,
        &mut GuestFpu,
        &mut Emulator,
    ) {
        let Self {
            region,
            guest,
            unswitched,
            fpu,
            emulator,
            ..
        } = self;
        (region, guest, unswitched, fpu, emulator)
    }

    /// The XSAVE area and the emulator, apart.
    pub(crate) fn emulation(&mut self) -> (&mut [u8], &mut Emulator) {
        (self.fpu.image_mut(), &mut self.emulator)
    }

    /// Makes the VMCS current, with IRQs off, for `work`. Sleeping is not
    /// possible inside. Translations that `work` invalidates go from this CPU
    /// alone, so the CPU that the guest ran on counts as a new one.
    pub(crate) fn with_vmcs<R>(
        &mut self,
        vmx: &Vmx,
        work: impl FnOnce(&Current<'_>, &mut Guest) -> R,
    ) -> Result<R> {
        self.with_emulator(vmx, |vmcs, guest, _| work(vmcs, guest))
    }

    /// The same, with the emulator at hand.
    pub(crate) fn with_emulator<R>(
        &mut self,
        vmx: &Vmx,
        work: impl FnOnce(&Current<'_>, &mut Guest, &mut Emulator) -> R,
    ) -> Result<R> {
        let mut window = Window::open(vmx)?;
        let current = window.load(&self.region)?;
        if self.guest.host.moved(&current) {
            self.guest.host.forget();
        }
        Ok(work(&current, &mut self.guest, &mut self.emulator))
    }
}

/// A virtual CPU.
#[pin_data]
pub(crate) struct Vcpu {
    id: u32,
    pub(crate) area: Area,
    #[pin]
    pub(crate) state: Mutex<State>,
}

impl Vcpu {
    /// A vCPU in its reset state.
    // Not inlined: its frame is large, and the calls of a VM share theirs.
    #[inline(never)]
    pub(crate) fn new(vm: &Vm, id: u32) -> Result<Arc<Self>> {
        let state = State {
            region: Region::new(vm.vmx.caps.revision())?,
            msr_bitmap: Frame::new()?,
            guest: Guest::new(vm, id),
            unswitched: Unswitched::RESET,
            fpu: GuestFpu::new(cpuid::XCR0_MASK)?,
            emulator: Emulator::new()?,
            stepper: Stepper::default(),
        };
        let vcpu = Arc::pin_init(
            try_pin_init!(Self {
                id,
                area: Area::new(vm.bus.ring())?,
                state <- new_mutex!(state, "kvm_spp::vcpu"),
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )?;
        vcpu.state.lock().initialise(vm, id == 0)?;
        Ok(vcpu)
    }

    /// The number that KVM_CREATE_VCPU was given.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }
}

impl State {
    /// Gives the new VMCS its contents.
    fn initialise(&mut self, vm: &Vm, bsp: bool) -> Result {
        let msr_bitmap = super::setup::fill_msr_bitmap(&self.msr_bitmap);
        let sppt = vm.sppt_root();
        let mut window = Window::open(&vm.vmx)?;
        window.clear(&self.region)?;
        let current = window.load(&self.region)?;
        super::setup::controls(&current, &vm.vmx.caps, &self.guest, sppt, msr_bitmap);
        self.guest.reset(&current, &vm.vmx.caps, bsp);
        match current.refused() {
            0 => Ok(()),
            field => {
                drop(current);
                drop(window);
                pr_err!("VMWRITE refused field {:#x}\n", field);
                Err(EIO)
            }
        }
    }
}
