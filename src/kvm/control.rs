// SPDX-License-Identifier: GPL-2.0

//! Control and segment registers between the VMCS and their architectural form.
//!
//! The guest reads CR0 and CR4 through the shadows where the masks say so, and
//! the real registers hold what VMX fixes beside (SDM 3C 25.6.6, 24.8).

use super::{
    entry::{
        Inside,
        Leave,
        Stop, //
    },
    exits::Step,
    guest::GuestMemory,
    vcpu::{
        Guest,
        State, //
    },
    vm::Vm, //
};
use crate::vmx::window::Current;
use emulate::GuestPhys;
use ept::Gpa;
use kernel::prelude::*;
use vmcore::{
    cap::Caps,
    cr::{
        self,
        Control,
        Cr0,
        Cr4,
        Efer,
        GeneralProtection,
        Written, //
    },
    event::Exception,
    exit::{
        CrAccess,
        RawExit, //
    },
    field::{
        self,
        Field,
        Nat,
        VmcsExt,
        W16,
        W32, //
    },
    segment::VmcsSegment, //
};

/// Access rights: the segment is not usable (SDM 3C table 25-2).
const UNUSABLE: u32 = 1 << 16;

/// The four VMCS fields of a segment register.
pub(crate) struct SegmentFields {
    selector: Field<W16>,
    base: Field<Nat>,
    limit: Field<W32>,
    access: Field<W32>,
}

macro_rules! segments {
    ($($name:ident: $selector:ident $base:ident $limit:ident $access:ident;)+) => { $(
        pub(crate) const $name: SegmentFields = SegmentFields {
            selector: field::$selector,
            base: field::$base,
            limit: field::$limit,
            access: field::$access,
        };
    )+ };
}

segments! {
    ES: GUEST_ES_SELECTOR GUEST_ES_BASE GUEST_ES_LIMIT GUEST_ES_AR_BYTES;
    CS: GUEST_CS_SELECTOR GUEST_CS_BASE GUEST_CS_LIMIT GUEST_CS_AR_BYTES;
    SS: GUEST_SS_SELECTOR GUEST_SS_BASE GUEST_SS_LIMIT GUEST_SS_AR_BYTES;
    DS: GUEST_DS_SELECTOR GUEST_DS_BASE GUEST_DS_LIMIT GUEST_DS_AR_BYTES;
    FS: GUEST_FS_SELECTOR GUEST_FS_BASE GUEST_FS_LIMIT GUEST_FS_AR_BYTES;
    GS: GUEST_GS_SELECTOR GUEST_GS_BASE GUEST_GS_LIMIT GUEST_GS_AR_BYTES;
    LDTR: GUEST_LDTR_SELECTOR GUEST_LDTR_BASE GUEST_LDTR_LIMIT GUEST_LDTR_AR_BYTES;
    TR: GUEST_TR_SELECTOR GUEST_TR_BASE GUEST_TR_LIMIT GUEST_TR_AR_BYTES;
}

impl SegmentFields {
    /// Reads the segment register.
    pub(crate) fn read(&self, vmcs: &Current<'_>) -> VmcsSegment {
        VmcsSegment {
            selector: vmcs.read(self.selector),
            base: vmcs.read(self.base),
            limit: vmcs.read(self.limit),
            access: vmcs.read(self.access),
        }
    }

    /// Writes the segment register.
    pub(crate) fn write(&self, vmcs: &Current<'_>, segment: &VmcsSegment) {
        vmcs.write(self.selector, segment.selector);
        vmcs.write(self.base, segment.base);
        vmcs.write(self.limit, segment.limit);
        vmcs.write(self.access, segment.access);
    }
}

impl SegmentFields {
    /// Reads the segment register for the emulator.
    pub(crate) fn load(&self, vmcs: &Current<'_>, segment: &mut emulate::cpu::Segment) {
        segment.selector = vmcs.read(self.selector);
        segment.limit = vmcs.read(self.limit);
        self.load_base(vmcs, segment);
        self.load_attributes(vmcs, segment);
    }

    /// Reads its base alone.
    pub(crate) fn load_base(&self, vmcs: &Current<'_>, segment: &mut emulate::cpu::Segment) {
        segment.base = vmcs.read(self.base);
    }

    /// Reads its attributes alone.
    pub(crate) fn load_attributes(&self, vmcs: &Current<'_>, segment: &mut emulate::cpu::Segment) {
        let access = vmcs.read(self.access);
        segment.attributes = access as u16;
        segment.unusable = access & UNUSABLE != 0;
    }

    /// Takes the segment register over from the emulator.
    pub(crate) fn take(&self, vmcs: &Current<'_>, segment: &emulate::cpu::Segment) {
        let unusable = match segment.unusable {
            true => UNUSABLE,
            false => 0,
        };
        let segment = VmcsSegment {
            selector: segment.selector,
            base: segment.base,
            limit: segment.limit,
            access: u32::from(segment.attributes) | unusable,
        };
        self.write(vmcs, &segment);
    }
}

/// CS.L: the guest runs 64-bit code. Outside IA-32e mode it is 0, unless the
/// guest has loaded a descriptor that it must not.
pub(crate) fn code_is_64bit(vmcs: &Current<'_>) -> bool {
    vmcs.read(field::GUEST_CS_AR_BYTES) & (1 << 13) != 0
}

impl Guest {
    /// The control registers as the guest sees them.
    pub(crate) fn control(&self, vmcs: &Current<'_>) -> Control {
        let cr0 = cr::visible(
            vmcs.read(field::GUEST_CR0),
            vmcs.read(field::CR0_READ_SHADOW),
            cr::cr0_mask(),
        );
        let cr4 = cr::visible(
            vmcs.read(field::GUEST_CR4),
            vmcs.read(field::CR4_READ_SHADOW),
            cr::cr4_mask(&self.features),
        );
        Control {
            cr0: Cr0::from_bits_retain(cr0),
            cr3: vmcs.read(field::GUEST_CR3),
            cr4: Cr4::from_bits_retain(cr4),
            efer: Efer::from_bits_retain(vmcs.read(field::GUEST_IA32_EFER)),
        }
    }

    /// Puts control registers into the VMCS, and drops translations that were
    /// made under the old ones.
    pub(crate) fn set_control(&self, vmcs: &Current<'_>, caps: &Caps, control: &Control) {
        vmcs.write(field::GUEST_CR0, control.real_cr0(caps.guest_cr0_fixed()));
        vmcs.write(field::CR0_READ_SHADOW, control.cr0.bits());
        vmcs.write(field::GUEST_CR3, control.cr3);
        vmcs.write(field::GUEST_CR4, control.real_cr4(caps.guest_cr4_fixed()));
        vmcs.write(field::CR4_READ_SHADOW, control.cr4.bits());
        vmcs.write(field::GUEST_IA32_EFER, control.efer.bits());
        vmcs.write(field::VM_ENTRY_CONTROLS, caps.entry(control.long_mode()));
        if control.long_mode() {
            // VM entry insists on a busy 64-bit TSS (SDM 3C 27.3.1.2).
            let tr = TR.read(vmcs).busy_64bit_tss();
            TR.write(vmcs, &tr);
        }
        // Failure would mean that the CPU lacks what it told at load.
        if vmcs.invvpid(self.vpid, self.eptp).is_err() {
            kernel::pr_err_once!("INVVPID failed\n");
        }
    }

    /// The guest's CR4 features changed: which bits it owns follows them.
    pub(crate) fn refresh_masks(&self, vmcs: &Current<'_>) {
        let control = self.control(vmcs);
        vmcs.write(field::CR0_GUEST_HOST_MASK, cr::cr0_mask());
        vmcs.write(field::CR4_GUEST_HOST_MASK, cr::cr4_mask(&self.features));
        vmcs.write(field::CR4_READ_SHADOW, control.cr4.bits());
    }
}

impl Inside<'_> {
    /// A MOV to or from a control register, CLTS or LMSW.
    pub(crate) fn control_register(&mut self, raw: &RawExit, access: CrAccess) -> Step {
        let old = self.guest.control(self.vmcs);
        let cs_l = code_is_64bit(self.vmcs);
        let written = match access {
            CrAccess::From { cr: 8, gpr } => {
                let cr8 = self.guest.cr8;
                self.guest.set_gpr(self.vmcs, gpr, cr8);
                return self.skip(raw);
            }
            CrAccess::From { .. } => return Step::Leave(Leave::User(Stop::Unexpected)),
            CrAccess::To { cr: 8, gpr } => return self.write_cr8(raw, gpr),
            CrAccess::To { cr: 0, gpr } => old.set_cr0(self.cr_operand(gpr, cs_l), cs_l),
            CrAccess::To { cr: 4, gpr } => {
                old.set_cr4(self.cr_operand(gpr, cs_l), &self.guest.features)
            }
            CrAccess::To { .. } => return Step::Leave(Leave::User(Stop::Unexpected)),
            CrAccess::Clts => Ok(Written {
                control: old.clts(),
                load_pdptes: false,
            }),
            CrAccess::Lmsw(word) => old.lmsw(word, cs_l),
        };
        match written {
            Err(GeneralProtection) => self.fault(Exception::GP),
            Ok(written) if written.load_pdptes => {
                self.guest.new_control = written.control;
                Step::Leave(Leave::LoadPdptes)
            }
            Ok(written) => {
                self.guest
                    .set_control(self.vmcs, &self.vm.vmx.caps, &written.control);
                self.skip(raw)
            }
        }
    }

    /// The operand of a MOV to CR: 32 bits outside 64-bit code.
    fn cr_operand(&self, gpr: u8, long: bool) -> u64 {
        let value = self.guest.gpr(self.vmcs, gpr);
        match long {
            true => value,
            false => value & 0xffff_ffff,
        }
    }

    /// CR8 has no local APIC behind it here: user space keeps the TPR and wants
    /// to know when it falls (KVM_EXIT_SET_TPR).
    fn write_cr8(&mut self, raw: &RawExit, gpr: u8) -> Step {
        let new = self.guest.gpr(self.vmcs, gpr);
        if !cr::cr8_valid(new) {
            return self.fault(Exception::GP);
        }
        let fell = new < self.guest.cr8;
        self.guest.cr8 = new;
        match fell {
            true => self.skip_and(raw, Stop::SetTpr),
            false => self.skip(raw),
        }
    }
}

impl State {
    /// Finishes a MOV to CR0 or CR4 that switches PAE paging on: the processor
    /// holds the four PDPTEs in registers, which are loaded from guest memory now
    /// (SDM 3A 4.4.1). #GP where they have reserved bits set.
    pub(crate) fn load_pdptes(&mut self, vm: &Vm) -> Result {
        let control = self.guest.new_control;
        match self.read_pdptes(vm, control.cr3) {
            Some(pdptes) => {
                self.with_vmcs(&vm.vmx, |vmcs, guest| {
                    guest.set_control(vmcs, &vm.vmx.caps, &control);
                    write_pdptes(vmcs, &pdptes);
                })?;
                let len = self.guest.exit.instruction_len();
                self.guest.skip(u64::from(len.unwrap_or(0)));
            }
            None => self.guest.events.raise(Exception::GP),
        }
        Ok(())
    }

    /// The PDPTEs at `cr3`; `None` where they cannot be read or are not valid.
    pub(crate) fn read_pdptes(&self, vm: &Vm, cr3: u64) -> Option<[u64; 4]> {
        let mut pdptes = [0; 4];
        let mut memory = GuestMemory::new(vm);
        for (i, pdpte) in pdptes.iter_mut().enumerate() {
            // PDPTEs lie on a 32-byte boundary in the low 4 GiB.
            let gpa = Gpa::new((cr3 & 0xffff_ffe0) + i as u64 * 8);
            *pdpte = memory.read_u64(gpa)?;
        }
        cr::pdptes_valid(&pdptes, &self.guest.features).then_some(pdptes)
    }
}

/// Loads the PDPTE registers of PAE paging.
pub(crate) fn write_pdptes(vmcs: &Current<'_>, pdptes: &[u64; 4]) {
    for (field, pdpte) in field::GUEST_PDPTES.into_iter().zip(pdptes) {
        vmcs.write(field, *pdpte);
    }
}
