// SPDX-License-Identifier: GPL-2.0

//! Register state in the structures of the ABI (KVM api.rst 4.11-4.14, 4.31-4.34,
//! 4.42-4.45).

use super::{
    control::{
        self,
        CS,
        DS,
        ES,
        FS,
        GS,
        LDTR,
        SS,
        TR, //
    },
    vcpu::{
        Guest,
        State, //
    },
    vm::{
        errno,
        Vm, //
    }, //
};
use crate::host::shim;
use crate::vmx::{
    host_state::DebugRegs,
    window::{
        Current,
        Vmx, //
    }, //
};
use emulate::{
    cpu::{
        rflags,
        Cpu, //
    },
    insn::CodeSize,
    paging::Paging, //
};
use ioctl_api::{
    regs::{
        Debugregs,
        Dtable,
        Regs,
        Sregs,
        Xcr,
        Xcrs, //
    },
    vcpu::VcpuEvents, //
};
use kernel::prelude::*;
use vmcore::{
    cap::Caps,
    event::Interruptibility,
    events_abi,
    field::{
        self,
        VmcsExt, //
    },
    segment::{
        Role,
        VmcsSegment, //
    },
    sregs,
    step, //
};

/// RFLAGS bit 1 is always 1.
const RFLAGS_FIXED: u64 = 2;

impl Guest {
    /// A general register by its number in instruction encodings.
    pub(crate) fn gpr(&self, vmcs: &Current<'_>, number: u8) -> u64 {
        match number & 15 {
            4 => vmcs.read(field::GUEST_RSP),
            n => self.regs.gprs.get(usize::from(n)).copied().unwrap_or(0),
        }
    }

    /// Changes a general register by its number in instruction encodings.
    pub(crate) fn set_gpr(&mut self, vmcs: &Current<'_>, number: u8, value: u64) {
        match number & 15 {
            4 => vmcs.write(field::GUEST_RSP, value),
            n => {
                if let Some(gpr) = self.regs.gprs.get_mut(usize::from(n)) {
                    *gpr = value;
                }
            }
        }
    }

    /// KVM_GET_REGS.
    pub(crate) fn regs(&self) -> Regs {
        let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] =
            self.regs.gprs;
        Regs {
            rax,
            rbx,
            rcx,
            rdx,
            rsi,
            rdi,
            rsp,
            rbp,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rip: self.rip,
            rflags: self.rflags,
        }
    }

    /// KVM_SET_REGS. A pending exception belonged to the old registers and goes.
    pub(crate) fn set_regs(&mut self, r: &Regs) {
        self.regs.gprs = [
            r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11,
            r.r12, r.r13, r.r14, r.r15,
        ];
        self.rip = r.rip;
        self.rflags = r.rflags | RFLAGS_FIXED;
        self.dirty = true;
        self.events.clear_exception();
        self.drop_debug_exceptions();
    }

    /// KVM_GET_SREGS.
    pub(crate) fn sregs(&self, vmcs: &Current<'_>) -> Sregs {
        let control = self.control(vmcs);
        let table = |base, limit: u32| Dtable {
            base,
            limit: limit as u16,
            padding: [0; 3],
        };
        Sregs {
            cs: CS.read(vmcs).to_abi(),
            ds: DS.read(vmcs).to_abi(),
            es: ES.read(vmcs).to_abi(),
            fs: FS.read(vmcs).to_abi(),
            gs: GS.read(vmcs).to_abi(),
            ss: SS.read(vmcs).to_abi(),
            tr: TR.read(vmcs).to_abi(),
            ldt: LDTR.read(vmcs).to_abi(),
            gdt: table(
                vmcs.read(field::GUEST_GDTR_BASE),
                vmcs.read(field::GUEST_GDTR_LIMIT),
            ),
            idt: table(
                vmcs.read(field::GUEST_IDTR_BASE),
                vmcs.read(field::GUEST_IDTR_LIMIT),
            ),
            cr0: control.cr0.bits(),
            cr2: self.cr2,
            cr3: control.cr3,
            cr4: control.cr4.bits(),
            cr8: self.cr8,
            efer: control.efer.bits(),
            apic_base: self.apic_base(),
            interrupt_bitmap: sregs::interrupt_bitmap(self.events.external_interrupt()),
        }
    }

    /// Puts special registers that were checked into the VMCS.
    fn load_sregs(
        &mut self,
        vmcs: &Current<'_>,
        caps: &Caps,
        s: &Sregs,
        control: &vmcore::cr::Control,
    ) {
        for (fields, segment) in [
            (&CS, &s.cs),
            (&DS, &s.ds),
            (&ES, &s.es),
            (&FS, &s.fs),
            (&GS, &s.gs),
            (&SS, &s.ss),
            (&TR, &s.tr),
        ] {
            fields.write(vmcs, &VmcsSegment::from_abi(segment, Role::Loaded));
        }
        LDTR.write(vmcs, &VmcsSegment::from_abi(&s.ldt, Role::Ldtr));
        vmcs.write(field::GUEST_GDTR_BASE, s.gdt.base);
        vmcs.write(field::GUEST_GDTR_LIMIT, u32::from(s.gdt.limit));
        vmcs.write(field::GUEST_IDTR_BASE, s.idt.base);
        vmcs.write(field::GUEST_IDTR_LIMIT, u32::from(s.idt.limit));
        self.set_control(vmcs, caps, control);
        self.fetch_code_segment(vmcs);
        self.cr2 = s.cr2;
        self.cr8 = s.cr8 & 15;
        self.set_apic_base(s.apic_base);
        if let Some(vector) = sregs::pending_interrupt(&s.interrupt_bitmap) {
            self.events.queue_interrupt(vector);
        }
    }

    /// The processor after reset (SDM 3A table 10-1).
    pub(crate) fn reset(&mut self, vmcs: &Current<'_>, caps: &Caps, bsp: bool) {
        let reset = sregs::reset(bsp);
        let control = vmcore::cr::Control::RESET;
        self.refresh_masks(vmcs);
        self.load_sregs(vmcs, caps, &reset, &control);
        if let Some(rdx) = self.regs.gprs.get_mut(2) {
            *rdx = sregs::RESET_RDX;
        }
        self.rip = sregs::RESET_RIP;
        self.rflags = sregs::RESET_RFLAGS;
        self.dirty = true;
        vmcs.write(field::GUEST_DR7, sregs::RESET_DR7);
        vmcs.write(field::GUEST_IA32_PAT, vmcore::msr::PAT_RESET);
        vmcs.write(field::GUEST_IA32_DEBUGCTL, 0);
        vmcs.write(field::GUEST_SYSENTER_CS, 0);
        vmcs.write(field::GUEST_SYSENTER_ESP, 0);
        vmcs.write(field::GUEST_SYSENTER_EIP, 0);
        vmcs.write(field::GUEST_ACTIVITY_STATE, 0);
        vmcs.write(field::GUEST_PENDING_DBG_EXCEPTIONS, 0);
    }

    /// KVM_GET_XCRS.
    pub(crate) fn xcrs(&self) -> Xcrs {
        let mut xcrs = Xcrs {
            nr_xcrs: 1,
            ..Xcrs::default()
        };
        if let Some(first) = xcrs.xcrs.first_mut() {
            *first = Xcr {
                value: self.xcr0,
                ..Xcr::default()
            };
        }
        xcrs
    }

    /// KVM_SET_XCRS: `EINVAL` for a value that XSETBV would refuse.
    pub(crate) fn set_xcrs(&mut self, xcrs: &Xcrs, mask: u64) -> Result {
        let count = xcrs.nr_xcrs as usize;
        if count > xcrs.xcrs.len() || xcrs.flags != 0 {
            return Err(EINVAL);
        }
        // Only XCR0 exists; the others are ignored, as under KVM.
        match xcrs.xcrs.iter().take(count).find(|xcr| xcr.xcr == 0) {
            None => Ok(()),
            Some(xcr) if step::xcr0_valid(xcr.value, mask) => {
                self.xcr0 = xcr.value;
                Ok(())
            }
            Some(_) => Err(EINVAL),
        }
    }

    /// KVM_GET_VCPU_EVENTS.
    pub(crate) fn vcpu_events(&self) -> VcpuEvents {
        let now = Interruptibility::new(self.interruptibility, self.rflags, 1);
        events_abi::save(&self.events, &now)
    }

    /// KVM_SET_VCPU_EVENTS.
    pub(crate) fn set_vcpu_events(&mut self, new: &VcpuEvents) -> Result {
        let new = events_abi::load(&self.events, new).map_err(errno)?;
        self.events = new.events;
        if let Some(shadow) = new.shadow {
            self.interruptibility = (self.interruptibility & !3) | shadow;
        }
        self.interruptibility &= !8;
        self.interruptibility |= u32::from(new.nmi_blocked) << 3;
        self.dirty = true;
        Ok(())
    }

    /// CS base plus RIP: two RIPs are the same instruction where this agrees.
    pub(crate) fn linear_rip(&self) -> u64 {
        self.cs_base.wrapping_add(self.rip)
    }

    /// Remembers what of CS decides where RIP points and how it wraps.
    pub(crate) fn fetch_code_segment(&mut self, vmcs: &Current<'_>) {
        self.cs_base = vmcs.read(field::GUEST_CS_BASE);
        self.long = control::code_is_64bit(vmcs);
    }

    /// Finishes an instruction of `len` bytes outside a window.
    pub(crate) fn skip(&mut self, len: u64) {
        let done = step::finish(self.rip, self.rflags, self.interruptibility, len, self.long);
        self.rip = done.rip;
        self.rflags = done.rflags;
        self.interruptibility = done.interruptibility;
        self.single_step |= done.single_step;
        self.dirty = true;
    }

    /// Reads the registers for the emulator, each in its place: copies of them would take
    /// longer than reading them. Of those that few instructions of 64-bit code need
    /// ([`Op::reads_tables`]), none is read then, and the result is false.
    ///
    /// [`Op::reads_tables`]: emulate::op::Op::reads_tables
    pub(crate) fn load_cpu(&self, vmcs: &Current<'_>, debug: &DebugRegs, cpu: &mut Cpu) -> bool {
        cpu.gprs = self.regs.gprs;
        cpu.rip = self.rip;
        cpu.rflags = self.rflags;
        cpu.xcr0 = self.xcr0;
        cpu.breakpoints.addresses = debug.db;
        cpu.breakpoints.dr7 = match debug.in_use {
            true => vmcs.read(field::GUEST_DR7),
            false => 0,
        };
        self.load_paging(vmcs, &mut cpu.paging);
        let [_, cs, ss, _, fs, gs] = &mut cpu.segments;
        CS.load_attributes(vmcs, cs);
        SS.load_attributes(vmcs, ss);
        let long = cpu.paging.long_mode() && cs.long();
        cpu.code = match (long, cs.big()) {
            (true, _) => CodeSize::Bits64,
            (false, true) => CodeSize::Bits32,
            (false, false) => CodeSize::Bits16,
        };
        cpu.cpl = ss.dpl();
        cpu.paging.user = cpu.cpl == 3;
        if long {
            FS.load_base(vmcs, fs);
            GS.load_base(vmcs, gs);
        } else {
            Self::load_tables(vmcs, cpu);
        }
        !long
    }

    /// Reads the registers that [`Guest::load_cpu`] may have left out.
    pub(crate) fn load_tables(vmcs: &Current<'_>, cpu: &mut Cpu) {
        let fields = [&ES, &CS, &SS, &DS, &FS, &GS];
        for (segment, fields) in cpu.segments.iter_mut().zip(fields) {
            fields.load(vmcs, segment);
        }
        LDTR.load(vmcs, &mut cpu.ldtr);
        TR.load(vmcs, &mut cpu.tr);
        cpu.gdtr.base = vmcs.read(field::GUEST_GDTR_BASE);
        cpu.gdtr.limit = vmcs.read(field::GUEST_GDTR_LIMIT) as u16;
        cpu.idtr.base = vmcs.read(field::GUEST_IDTR_BASE);
        cpu.idtr.limit = vmcs.read(field::GUEST_IDTR_LIMIT) as u16;
    }

    fn load_paging(&self, vmcs: &Current<'_>, paging: &mut Paging) {
        let control = self.control(vmcs);
        paging.cr0 = control.cr0.bits();
        paging.cr3 = control.cr3;
        paging.cr4 = control.cr4.bits();
        paging.efer = control.efer.bits();
        if control.pae_paging() {
            for (pdpte, field) in paging.pdptes.iter_mut().zip(field::GUEST_PDPTES) {
                *pdpte = vmcs.read(field);
            }
        }
        paging.ac = self.rflags & rflags::AC != 0;
        // CPUID offers no protection keys.
        paging.pkru = 0;
        paging.reserved_address = Paging::reserved_address(shim::kvm_spp_phys_bits());
    }

    /// Takes the segment registers over from the emulator, which a far transfer or the
    /// delivery of an event replaces.
    pub(crate) fn take_segments(&mut self, vmcs: &Current<'_>, cpu: &Cpu) {
        for (fields, segment) in [&ES, &CS, &SS, &DS, &FS, &GS]
            .into_iter()
            .zip(&cpu.segments)
        {
            fields.take(vmcs, segment);
        }
        self.fetch_code_segment(vmcs);
    }

    /// Where the next instruction is fetched, for its bytes and for comparing RIPs.
    pub(crate) fn code_location(&self, vmcs: &Current<'_>) -> emulate::fetch::CodeLocation {
        let cs = CS.read(vmcs);
        let mut paging = Paging::default();
        self.load_paging(vmcs, &mut paging);
        paging.user = SS.read(vmcs).dpl() == 3;
        emulate::fetch::CodeLocation {
            rip: self.rip,
            cs_base: cs.base,
            cs_limit: cs.limit,
            long: paging.long_mode() && cs.long(),
            paging,
        }
    }
}

impl State {
    /// KVM_GET_DEBUGREGS.
    pub(crate) fn debugregs(&mut self, vmx: &Vmx) -> Result<Debugregs> {
        let dr7 = self.with_vmcs(vmx, |vmcs, _| vmcs.read(field::GUEST_DR7))?;
        let debug = &self.unswitched.debug;
        Ok(Debugregs {
            db: debug.db,
            dr6: debug.dr6,
            dr7,
            ..Debugregs::default()
        })
    }

    /// KVM_SET_DEBUGREGS: `EINVAL` for flags and for set bits above 31 of DR6
    /// and DR7, which a MOV would refuse.
    pub(crate) fn set_debugregs(&mut self, vmx: &Vmx, new: &Debugregs) -> Result {
        if new.flags != 0 || new.dr6 >> 32 != 0 || new.dr7 >> 32 != 0 {
            return Err(EINVAL);
        }
        self.with_vmcs(vmx, |vmcs, _| {
            vmcs.write(field::GUEST_DR7, new.dr7 | sregs::RESET_DR7);
        })?;
        let debug = &mut self.unswitched.debug;
        // User space that sets breakpoints has a guest that uses them.
        debug.in_use |= new.dr7 & 0xff != 0;
        debug.db = new.db;
        debug.dr6 = new.dr6 | 0xffff_0ff0;
        Ok(())
    }

    /// KVM_SET_SREGS: `EINVAL` for combinations that the processor cannot be in.
    pub(crate) fn set_sregs(&mut self, vm: &Vm, s: &Sregs) -> Result {
        let control = sregs::check(s, &self.guest.features).map_err(errno)?;
        let pdptes = match control.pae_paging() {
            true => Some(self.read_pdptes(vm, control.cr3).unwrap_or([0; 4])),
            false => None,
        };
        let caps = &vm.vmx.caps;
        self.with_vmcs(&vm.vmx, |vmcs, guest| {
            guest.load_sregs(vmcs, caps, s, &control);
            if let Some(pdptes) = pdptes {
                control::write_pdptes(vmcs, &pdptes);
            }
        })
    }
}
