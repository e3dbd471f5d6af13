// SPDX-License-Identifier: GPL-2.0

//! One stay in the guest: from opening a window to closing it.
//!
//! ```text
//!   open window, VMPTRLD
//!   host state, TLB generation, registers, MSRs, debug registers, FPU
//!        |
//!        v
//!   +-> inject events --> VM entry --> guest --> VM exit
//!   |                                              |
//!   |   exits::step: needs only the VMCS           |
//!   +------------------ Next::Resume <-------------+
//!                                                  | Next::Leave(why)
//!   put all back, VMCLEAR, close window  <---------+
//! ```
//!
//! Exits that need nothing but the VMCS are finished inside, with IRQs off: a
//! few hundred instructions. A pending host interrupt makes the next VM entry
//! exit at once, so staying inside delays nobody. Only exceptions can come before
//! the interrupt, so they close the window.

use super::{
    area::Area,
    exits,
    exits::Step as Next,
    stepping::Step,
    vcpu::{
        Guest,
        State, //
    },
    vm::Vm, //
};
use crate::{
    host::shim,
    vmx::{
        fpu::{
            GuestFpu,
            Loan, //
        },
        host_state::{
            DebugLoan,
            MsrLoan,
            Unswitched, //
        },
        window::{
            Current,
            Window, //
        }, //
    }, //
};
use ioctl_api::run;
use kernel::prelude::*;
use vmcore::{
    cap,
    event::{
        Injection,
        Interruptibility,
        NmiBlocking, //
    },
    exit::{
        reason,
        RawExit, //
    },
    field::{
        self,
        VmcsExt, //
    },
    msr,
    step, //
};

/// Why the window was closed. What the exit left is in `Guest::exit`; this stays
/// small, for it is handed up at every exit.
pub(crate) enum Leave {
    /// The host wants the CPU: an interrupt, a signal, another task.
    Host,
    /// A guest access that EPT stopped.
    Violation,
    /// PAE paging goes on with the control registers in `Guest::new_control`.
    LoadPdptes,
    /// IN or OUT.
    Io,
    /// A task switch.
    TaskSwitch,
    /// To user space.
    User(Stop),
}

/// Exits to user space that need nothing more from the kernel.
pub(crate) enum Stop {
    Hlt,
    InterruptWindow,
    SetTpr,
    Shutdown,
    /// VM entry failed: hardware's exit reason, or the VM-instruction error.
    FailEntry(u64),
    /// An exit that this module does not expect.
    Unexpected,
}

/// The VMCS and registers of a window, for the exits that are finished inside.
pub(crate) struct Inside<'a> {
    pub(crate) vm: &'a Vm,
    pub(crate) vmcs: &'a Current<'a>,
    pub(crate) guest: &'a mut Guest,
    /// `request_interrupt_window` of kvm_run, read once when the window opened.
    pub(crate) window_wanted: bool,
}

/// Runs the guest until something needs IRQs on.
// Not inlined: it is large, and its caller loops.
#[inline(never)]
pub(crate) fn enter(vm: &Vm, area: &Area, state: &mut State) -> Result<Leave> {
    let window_wanted = area.load::<u8>(run::REQUEST_INTERRUPT_WINDOW) != 0;
    let (region, guest, unswitched, fpu, emulator) = state.parts();
    let mut window = Window::open(&vm.vmx)?;
    if shim::kvm_spp_guest_work_pending() {
        return Ok(Leave::Host);
    }
    let current = window.load(region)?;
    let running = vm.tlb.enter(&current, guest.eptp)?;
    let step = guest.step.take();
    if let Some(step) = &step {
        if step.generation != vm.tlb.generation() {
            return Ok(Leave::Host);
        }
        // The frames of the view held others before.
        current.invept(step.eptp)?;
    }
    if guest.host.moved(&current) {
        // Translations that the guest invalidated elsewhere may be left here.
        current.invvpid(guest.vpid, guest.eptp)?;
    }
    shim::kvm_spp_window_begin();
    guest.host.sync(&current);
    guest.flush_registers(&current);
    // SAFETY: IRQs are off until the window is dropped.
    let leave = unsafe { run_guest(vm, &current, guest, unswitched, fpu, window_wanted, step) };
    guest.fetch_registers(&current);
    match leave {
        Leave::Violation | Leave::Io if guest.emulates_here() => {
            emulator.fetch_registers(&current, guest, &unswitched.debug);
        }
        _ => emulator.forget(),
    }
    // SAFETY: IRQs are off since `sync` on this CPU.
    unsafe { guest.host.restore() };
    shim::kvm_spp_window_end();
    if current.refused() != 0 {
        running.forget();
        kernel::pr_err_once!("VMWRITE refused a field\n");
        return Err(EIO);
    }
    Ok(leave)
}

/// Runs the guest with all of its state in the CPU, and takes that out again.
///
/// # Safety
///
/// IRQs are off.
#[inline(always)]
unsafe fn run_guest(
    vm: &Vm,
    vmcs: &Current<'_>,
    guest: &mut Guest,
    unswitched: &mut Unswitched,
    fpu: &mut GuestFpu,
    window_wanted: bool,
    step: Option<Step>,
) -> Leave {
    // SAFETY: Linux reads CR2 first thing in its page-fault handler, none of
    // which is active here.
    unsafe { shim::kvm_spp_write_cr2(guest.cr2) };
    let leave = {
        let mut loans = Loans {
            msrs: MsrLoan::new(vmcs, &mut unswitched.msrs),
            debug: DebugLoan::new(vmcs, &mut unswitched.debug),
            // SAFETY: By the contract of this function; the loans end in it.
            fpu: unsafe { fpu.lend(guest.xcr0) },
        };
        let mut inside = Inside {
            vm,
            vmcs,
            guest: &mut *guest,
            window_wanted,
        };
        match step {
            None => inside.guest_loop(&mut loans),
            Some(step) => inside.step_once(&mut loans, step),
        }
    };
    guest.cr2 = shim::kvm_spp_read_cr2();
    leave
}

/// What of the guest is in the CPU while the window is open.
pub(crate) struct Loans<'a> {
    pub(crate) msrs: MsrLoan<'a>,
    pub(crate) debug: DebugLoan<'a>,
    pub(crate) fpu: Loan<'a>,
}

impl Inside<'_> {
    fn guest_loop(&mut self, loans: &mut Loans<'_>) -> Leave {
        loop {
            self.inject();
            if !self.vmcs.run(&mut self.guest.regs) {
                let code = u64::from(self.vmcs.read(field::VM_INSTRUCTION_ERROR));
                self.cancel_injection();
                return Leave::User(Stop::FailEntry(code));
            }
            let raw = capture(self.vmcs, self.guest.regs.exit_reason);
            if raw.event_delivery() || raw.iret_unblocked_nmi() {
                self.take_back_event(&raw);
            }
            match exits::step(self, loans, &raw) {
                Next::Resume => {}
                Next::Leave(leave) => {
                    self.guest.exit = raw;
                    return leave;
                }
            }
        }
    }

    /// Executes one instruction on a view of its own. Whatever the exit is, it ends the view:
    /// a second instruction was not looked at.
    #[cold]
    fn step_once(&mut self, loans: &mut Loans<'_>, step: Step) -> Leave {
        let controls = cap::with_monitor_trap(self.guest.proc);
        self.vmcs.write(field::CPU_BASED_VM_EXEC_CONTROL, controls);
        self.vmcs.write(field::EPT_POINTER, step.eptp);
        // An exception's frame must not be written to the view.
        self.vmcs.write(field::EXCEPTION_BITMAP, u32::MAX);
        let entered = self.vmcs.run(&mut self.guest.regs);
        self.vmcs
            .write(field::EXCEPTION_BITMAP, cap::EXCEPTION_BITMAP);
        self.vmcs.write(field::EPT_POINTER, self.guest.eptp);
        self.request_windows(false, false);
        if !entered {
            let code = u64::from(self.vmcs.read(field::VM_INSTRUCTION_ERROR));
            return Leave::User(Stop::FailEntry(code));
        }
        let raw = capture(self.vmcs, self.guest.regs.exit_reason);
        if raw.event_delivery() || raw.iret_unblocked_nmi() {
            self.take_back_event(&raw);
        }
        match exits::step(self, loans, &raw) {
            Next::Resume => Leave::Host,
            Next::Leave(leave) => {
                self.guest.exit = raw;
                leave
            }
        }
    }

    /// An event that was being delivered when the exit came must be delivered
    /// again (SDM 3C 28.2.4).
    #[cold]
    fn take_back_event(&mut self, raw: &RawExit) {
        // What a failed entry leaves there is of an earlier exit (SDM 3C 27.8).
        if raw.entry_failed() {
            return;
        }
        let blocking = self.guest.events.reinject(raw);
        let old = match blocking {
            NmiBlocking::Keep => return,
            _ => self.vmcs.read(field::GUEST_INTERRUPTIBILITY_STATE),
        };
        let new = match blocking {
            NmiBlocking::Set => old | 8,
            _ => old & !8,
        };
        self.vmcs.write(field::GUEST_INTERRUPTIBILITY_STATE, new);
    }

    /// The entry failed, so the event that it was to inject still waits. The field
    /// keeps its valid bit (SDM 3C 27.8), and another entry would inject it again.
    #[cold]
    pub(crate) fn cancel_injection(&mut self) {
        let injection = Injection {
            intr_info: self.vmcs.read(field::VM_ENTRY_INTR_INFO),
            error_code: self.vmcs.read(field::VM_ENTRY_EXCEPTION_ERROR_CODE),
            insn_len: self.vmcs.read(field::VM_ENTRY_INSTRUCTION_LEN),
        };
        if injection.intr_info >> 31 != 0 {
            self.guest.events.cancel(&injection);
            self.vmcs.write(field::VM_ENTRY_INTR_INFO, 0);
        }
    }

    /// Hands the next event to the processor and asks for the windows of those
    /// that must wait.
    fn inject(&mut self) {
        if !self.guest.events.any() && !self.window_wanted {
            if self.guest.windows_open {
                self.request_windows(false, false);
            }
            return;
        }
        let state = self.interruptibility();
        if let Some(event) = self.guest.events.inject(&state) {
            self.vmcs.write(field::VM_ENTRY_INTR_INFO, event.intr_info);
            self.vmcs
                .write(field::VM_ENTRY_EXCEPTION_ERROR_CODE, event.error_code);
            self.vmcs
                .write(field::VM_ENTRY_INSTRUCTION_LEN, event.insn_len);
        }
        let windows = self.guest.events.windows(&state, self.window_wanted);
        self.request_windows(windows.interrupt, windows.nmi);
    }

    pub(crate) fn interruptibility(&self) -> Interruptibility {
        Interruptibility::new(
            self.vmcs.read(field::GUEST_INTERRUPTIBILITY_STATE),
            self.vmcs.read(field::GUEST_RFLAGS),
            self.vmcs.read(field::GUEST_CR0),
        )
    }

    /// User space may queue an interrupt now: none of ours waits before it.
    pub(crate) fn ready_for_interrupt(&self) -> bool {
        let state = self.interruptibility();
        self.guest.events.ready_for_interrupt(&state)
    }

    pub(crate) fn request_windows(&mut self, interrupt: bool, nmi: bool) {
        let controls = cap::with_windows(self.guest.proc, interrupt, nmi);
        self.vmcs.write(field::CPU_BASED_VM_EXEC_CONTROL, controls);
        self.guest.windows_open = interrupt || nmi;
    }
}

/// What the exit left in the VMCS; fields that this exit does not define are 0.
#[inline]
fn capture(vmcs: &Current<'_>, reason: u32) -> RawExit {
    let mut raw = RawExit {
        reason,
        idt_info: vmcs.read(field::IDT_VECTORING_INFO),
        insn_len: vmcs.read(field::VM_EXIT_INSTRUCTION_LEN),
        ..RawExit::default()
    };
    if raw.event_delivery() {
        raw.idt_error = vmcs.read(field::IDT_VECTORING_ERROR_CODE);
    }
    match raw.basic() {
        reason::EXTERNAL_INTERRUPT
        | reason::CPUID
        | reason::HLT
        | reason::RDMSR
        | reason::WRMSR => return raw,
        reason::EXCEPTION_OR_NMI => {
            raw.intr_info = vmcs.read(field::VM_EXIT_INTR_INFO);
            raw.intr_error = vmcs.read(field::VM_EXIT_INTR_ERROR_CODE);
        }
        reason::EPT_VIOLATION | reason::EPT_MISCONFIG | reason::SPP => {
            raw.gpa = vmcs.read(field::GUEST_PHYSICAL_ADDRESS);
            raw.gla = vmcs.read(field::GUEST_LINEAR_ADDRESS);
        }
        _ => {}
    }
    raw.qualification = vmcs.read(field::EXIT_QUALIFICATION);
    raw
}

impl Guest {
    /// Writes registers that were changed outside to the VMCS.
    fn flush_registers(&mut self, vmcs: &Current<'_>) {
        if !self.dirty {
            return;
        }
        vmcs.write(field::GUEST_RIP, self.rip);
        vmcs.write(field::GUEST_RSP, self.regs.gprs[4]);
        vmcs.write(field::GUEST_RFLAGS, self.rflags);
        self.interruptibility = step::interruptibility_at_entry(self.interruptibility, self.rflags);
        vmcs.write(field::GUEST_INTERRUPTIBILITY_STATE, self.interruptibility);
        self.flush_pending_debug(vmcs);
        self.dirty = false;
    }

    /// Writes what has become of the pending debug exceptions.
    fn flush_pending_debug(&mut self, vmcs: &Current<'_>) {
        let step = core::mem::take(&mut self.single_step);
        let due = step::pending_debug(step, core::mem::take(&mut self.breakpoints));
        let dropped = core::mem::take(&mut self.debug_dropped);
        if due == 0 && !dropped && self.interruptibility & step::SHADOW == 0 {
            return;
        }
        let before = match dropped {
            true => 0,
            false => vmcs.read(field::GUEST_PENDING_DBG_EXCEPTIONS),
        };
        let btf = vmcs.read(field::GUEST_IA32_DEBUGCTL) & msr::DEBUGCTL_BTF != 0;
        let pending =
            step::pending_debug_at_entry(before | due, self.rflags, self.interruptibility, btf);
        vmcs.write(field::GUEST_PENDING_DBG_EXCEPTIONS, pending);
    }

    /// Caches registers from the VMCS for the code that runs with IRQs on.
    fn fetch_registers(&mut self, vmcs: &Current<'_>) {
        self.rip = vmcs.read(field::GUEST_RIP);
        self.regs.gprs[4] = vmcs.read(field::GUEST_RSP);
        self.rflags = vmcs.read(field::GUEST_RFLAGS);
        self.interruptibility = vmcs.read(field::GUEST_INTERRUPTIBILITY_STATE);
        self.fetch_code_segment(vmcs);
    }
}
