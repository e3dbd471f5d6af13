// SPDX-License-Identifier: GPL-2.0

//! VM exits that need nothing but the VMCS and the vCPU's own state: they are
//! finished in the window, with IRQs off.

use super::{
    control::code_is_64bit,
    entry::{
        Inside,
        Leave,
        Loans,
        Stop, //
    }, //
};
use crate::host::shim;
use vmcore::{
    cap,
    cpuid,
    event::{
        Exception,
        Origin, //
    },
    exit::{
        reason,
        EntryFailure,
        ExceptionOrNmi,
        Exit,
        RawExit, //
    },
    field::{
        self,
        VmcsExt, //
    },
    step, //
};

/// Vector of #PF.
const PAGE_FAULT: u8 = 14;
/// RFLAGS.TF.
const TF: u64 = 1 << 8;
/// -KVM_ENOSYS of <linux/kvm_para.h>.
const NO_SUCH_HYPERCALL: u64 = 1000u64.wrapping_neg();

/// What follows an exit.
pub(crate) enum Step {
    /// Enter the guest again, in the same window.
    Resume,
    /// Close the window.
    Leave(Leave),
}

fn leave(stop: Stop) -> Step {
    Step::Leave(Leave::User(stop))
}

/// Finishes an exit, or says who must.
#[inline]
pub(crate) fn step(inside: &mut Inside<'_>, loans: &mut Loans<'_>, raw: &RawExit) -> Step {
    // What exactly they were counts with IRQs on only. An entry failure has bit 31.
    const VIOLATION: u32 = reason::EPT_VIOLATION as u32;
    const IO: u32 = reason::IO as u32;
    const HLT: u32 = reason::HLT as u32;
    match raw.reason {
        VIOLATION => Step::Leave(Leave::Violation),
        IO => Step::Leave(Leave::Io),
        HLT => inside.skip_and(raw, Stop::Hlt),
        _ => finish(inside, loans, raw),
    }
}

/// Finishes an exit that takes a closer look.
#[inline(never)]
fn finish(inside: &mut Inside<'_>, loans: &mut Loans<'_>, raw: &RawExit) -> Step {
    match Exit::decode(raw) {
        Exit::ExternalInterrupt | Exit::Pause | Exit::PreemptionTimer | Exit::Mtf => {
            Step::Leave(Leave::Host)
        }
        Exit::EptViolation(_) => Step::Leave(Leave::Violation),
        Exit::TaskSwitch(_) => Step::Leave(Leave::TaskSwitch),
        Exit::Cpuid => inside.cpuid(raw),
        Exit::Hlt => inside.skip_and(raw, Stop::Hlt),
        Exit::Io(_) => Step::Leave(Leave::Io),
        Exit::RdMsr => inside.rdmsr(loans, raw),
        Exit::WrMsr => inside.wrmsr(loans, raw),
        Exit::Cr(access) => inside.control_register(raw, access),
        Exit::Dr(_) => inside.first_debug_register(loans),
        Exit::Xsetbv => inside.xsetbv(loans, raw),
        // Caches of WB memory stay coherent without them; KVM skips them too
        // where no device is passed through.
        Exit::Invd | Exit::Wbinvd | Exit::Mwait | Exit::Monitor => inside.skip(raw),
        Exit::InterruptWindow if inside.window_wanted && inside.ready_for_interrupt() => {
            leave(Stop::InterruptWindow)
        }
        Exit::InterruptWindow | Exit::NmiWindow => Step::Resume,
        Exit::ExceptionOrNmi(event) => inside.exception(loans, raw, event),
        Exit::TripleFault => leave(Stop::Shutdown),
        Exit::Vmcall => inside.hypercall(raw),
        Exit::Undefined => inside.fault(Exception::UD),
        Exit::Rdpmc => inside.fault(Exception::GP),
        Exit::EntryFailure(failure) => {
            inside.cancel_injection();
            entry_failure(raw, failure)
        }
        Exit::SppMiss(_) | Exit::SppMisconfig(_) | Exit::EptMisconfig(_) => broken_tables(raw),
        Exit::Init
        | Exit::Sipi
        | Exit::Invlpg(_)
        | Exit::Rdtsc
        | Exit::Rdtscp
        | Exit::Invpcid
        | Exit::GdtrIdtr
        | Exit::LdtrTr
        | Exit::Other(_) => leave(Stop::Unexpected),
    }
}

/// The SPPT is complete for every armed leaf before the leaf is armed, and no
/// reserved bit is ever set, so these exits mean corrupted tables.
fn broken_tables(raw: &RawExit) -> Step {
    kernel::pr_err_once!(
        "EPT or SPPT is broken: exit {:#x}, gpa {:#x}, qualification {:#x}\n",
        raw.reason,
        raw.gpa,
        raw.qualification
    );
    leave(Stop::Unexpected)
}

fn entry_failure(raw: &RawExit, failure: EntryFailure) -> Step {
    match failure {
        EntryFailure::GuestState(_) | EntryFailure::MsrLoading(_) | EntryFailure::Other(_) => {}
        EntryFailure::MachineCheck => shim::kvm_spp_machine_check(),
    }
    leave(Stop::FailEntry(u64::from(raw.reason)))
}

impl Inside<'_> {
    /// Moves RIP past the instruction that exited, and goes on.
    #[inline]
    pub(crate) fn skip(&mut self, raw: &RawExit) -> Step {
        match self.advance(raw) {
            true => Step::Resume,
            false => leave(Stop::Unexpected),
        }
    }

    /// Moves RIP past the instruction that exited, and stops.
    pub(crate) fn skip_and(&mut self, raw: &RawExit, stop: Stop) -> Step {
        match self.advance(raw) {
            true => leave(stop),
            false => leave(Stop::Unexpected),
        }
    }

    /// Finishes the instruction that exited. False where the processor does not
    /// tell its length (SDM 3C 28.2.5).
    fn advance(&mut self, raw: &RawExit) -> bool {
        let Some(len) = raw.instruction_len() else {
            return false;
        };
        let (rip, rflags, blocking) = (
            self.vmcs.read(field::GUEST_RIP),
            self.vmcs.read(field::GUEST_RFLAGS),
            self.vmcs.read(field::GUEST_INTERRUPTIBILITY_STATE),
        );
        // Below 4 GiB the width of RIP does not matter, so CS is not asked.
        let near_wrap = (rip ^ rip.wrapping_add(u64::from(len))) >> 32 != 0;
        let long = !near_wrap || code_is_64bit(self.vmcs);
        let done = step::finish(rip, rflags, blocking, u64::from(len), long);
        self.vmcs.write(field::GUEST_RIP, done.rip);
        if done.rflags != rflags {
            self.vmcs.write(field::GUEST_RFLAGS, done.rflags);
        }
        if done.interruptibility != blocking {
            self.vmcs
                .write(field::GUEST_INTERRUPTIBILITY_STATE, done.interruptibility);
        }
        if done.single_step {
            self.pend_single_step();
        }
        true
    }

    fn pend_single_step(&self) {
        let pending = self.vmcs.read(field::GUEST_PENDING_DBG_EXCEPTIONS);
        self.vmcs.write(
            field::GUEST_PENDING_DBG_EXCEPTIONS,
            pending | step::PENDING_DEBUG_BS,
        );
    }

    /// VMCALL: there are no hypercalls, which is said as KVM says it.
    fn hypercall(&mut self, raw: &RawExit) -> Step {
        let answer = match code_is_64bit(self.vmcs) {
            true => NO_SUCH_HYPERCALL,
            false => NO_SUCH_HYPERCALL & 0xffff_ffff,
        };
        self.guest.set_gpr(self.vmcs, 0, answer);
        self.skip(raw)
    }

    pub(crate) fn fault(&mut self, exception: Exception) -> Step {
        self.guest.events.raise(exception);
        match self.guest.events.triple_fault() {
            true => leave(Stop::Shutdown),
            false => Step::Resume,
        }
    }

    fn cpuid(&mut self, raw: &RawExit) -> Step {
        let leaf = self.guest.regs.gprs[0] as u32;
        let sub = self.guest.regs.gprs[1] as u32;
        let cr4 = self.vmcs.read(field::CR4_READ_SHADOW);
        let now = cpuid::Now {
            cr4,
            xcr0: self.guest.xcr0,
        };
        let out = cpuid::lookup(&self.guest.cpuid, leaf, sub, &now);
        let [eax, ebx, ecx, edx] = out.map(u64::from);
        self.guest.regs.gprs[0] = eax;
        self.guest.regs.gprs[3] = ebx;
        self.guest.regs.gprs[1] = ecx;
        self.guest.regs.gprs[2] = edx;
        self.skip(raw)
    }

    /// The guest begins to use debug registers: from now on they are switched,
    /// and its accesses do not exit.
    fn first_debug_register(&mut self, loans: &mut Loans<'_>) -> Step {
        loans.debug.load();
        self.guest.proc = cap::with_mov_dr_exiting(self.guest.proc, false);
        let windows = self
            .guest
            .events
            .windows(&self.interruptibility(), self.window_wanted);
        self.request_windows(windows.interrupt, windows.nmi);
        Step::Resume
    }

    /// XSETBV: any XCR0 that CPUID offers, the host has, and the rules of SDM 1
    /// 13.3 allow.
    fn xsetbv(&mut self, loans: &mut Loans<'_>, raw: &RawExit) -> Step {
        let gpr = |n: usize| self.guest.regs.gprs.get(n).copied().unwrap_or(0) & 0xffff_ffff;
        let value = gpr(0) | gpr(2) << 32;
        let offered = loans.fpu.mask() & cpuid::guest_xcr0(&self.guest.cpuid);
        if gpr(1) != 0 || !step::xcr0_valid(value, offered) {
            return self.fault(Exception::GP);
        }
        self.guest.xcr0 = value;
        loans.fpu.set_xcr0(value);
        self.skip(raw)
    }

    /// #DB is intercepted so that a guest cannot loop in its delivery without an
    /// exit; it is the guest's all the same.
    fn debug(
        &mut self,
        loans: &mut Loans<'_>,
        raw: &RawExit,
        conditions: u64,
        icebp: bool,
    ) -> Step {
        if icebp {
            let len = raw.instruction_len().unwrap_or(1);
            let origin = Origin::PrivilegedSoftware { len };
            let exception = Exception {
                origin,
                ..Exception::DB
            };
            return self.fault(exception);
        }
        let dr7 = self.vmcs.read(field::GUEST_DR7);
        let dr6 = loans.debug.dr6();
        let (dr6, dr7) = step::debug_registers(dr6, dr7, conditions);
        // VM entry with TF and a blocked STI or MOV SS wants the pending trap
        // to be there (SDM 3C 27.3.1.5).
        let blocked = self.vmcs.read(field::GUEST_INTERRUPTIBILITY_STATE) & 3 != 0;
        if blocked && self.vmcs.read(field::GUEST_RFLAGS) & TF != 0 {
            self.pend_single_step();
        }
        loans.debug.set_dr6(dr6);
        self.vmcs.write(field::GUEST_DR7, dr7);
        self.fault(Exception::DB)
    }

    fn exception(&mut self, loans: &mut Loans<'_>, raw: &RawExit, event: ExceptionOrNmi) -> Step {
        let step = match event {
            // The host's handler ran right after the exit.
            ExceptionOrNmi::Nmi => return Step::Resume,
            ExceptionOrNmi::MachineCheck => {
                shim::kvm_spp_machine_check();
                Step::Resume
            }
            ExceptionOrNmi::Debug { conditions, icebp } => {
                self.debug(loans, raw, conditions, icebp)
            }
            ExceptionOrNmi::Exception { vector, error_code } => {
                if vector == PAGE_FAULT {
                    // The exit has not done what the delivery would have done first.
                    // SAFETY: As in `entry::run_guest`: CR2 is the guest's here.
                    unsafe { shim::kvm_spp_write_cr2(raw.qualification) };
                }
                self.fault(Exception::hardware(vector, error_code.unwrap_or(0)))
            }
        };
        match step {
            // A guest can make the delivery of #DB or #AC raise it again for
            // ever. These come before external interrupts (SDM 3A 6.9), so only
            // here does the host get its turn.
            Step::Resume => Step::Leave(Leave::Host),
            leave => leave,
        }
    }
}
