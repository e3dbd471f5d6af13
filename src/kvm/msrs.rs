// SPDX-License-Identifier: GPL-2.0

//! MSRs of the guest, by RDMSR and WRMSR in a window and by ioctl outside.
//!
//! The rules are `vmcore::msr`'s. The two ways differ in where the MSRs are that
//! VMX does not switch: loaded in the CPU, or in the vCPU.

use super::{
    entry::{
        Inside,
        Loans, //
    },
    exits::Step,
    vcpu::Guest, //
};
use crate::vmx::{
    host_state::{
        MsrLoan,
        SWITCHED_MSRS, //
    },
    window::Current, //
};
use vmcore::{
    cap::Caps,
    event::Exception,
    exit::RawExit,
    field::{
        self,
        VmcsExt, //
    },
    msr::{
        self,
        GeneralProtection,
        Place,
        Stored,
        Writer, //
    }, //
};

/// The guest's values of [`SWITCHED_MSRS`], wherever they are.
trait Switched {
    fn get(&self, index: usize) -> u64;
    fn set(&mut self, index: usize, value: u64);
}

/// While they are not in the CPU.
pub(crate) type SwitchedMsrs = [u64; SWITCHED_MSRS.len()];

impl Switched for SwitchedMsrs {
    fn get(&self, index: usize) -> u64 {
        <[u64]>::get(self, index).copied().unwrap_or(0)
    }

    fn set(&mut self, index: usize, value: u64) {
        if let Some(msr) = self.get_mut(index) {
            *msr = value;
        }
    }
}

impl Switched for MsrLoan<'_> {
    fn get(&self, index: usize) -> u64 {
        MsrLoan::get(self, index)
    }

    fn set(&mut self, index: usize, value: u64) {
        MsrLoan::set(self, index, value);
    }
}

impl Guest {
    /// KVM_GET_MSRS; `None` for an MSR that the guest does not have.
    pub(crate) fn get_msr(
        &self,
        vmcs: &Current<'_>,
        switched: &SwitchedMsrs,
        index: u32,
    ) -> Option<u64> {
        self.read_msr(vmcs, switched, index)
    }

    /// KVM_SET_MSRS; false for a value that the MSR cannot take.
    pub(crate) fn set_msr(
        &mut self,
        vmcs: &Current<'_>,
        caps: &Caps,
        switched: &mut SwitchedMsrs,
        index: u32,
        value: u64,
    ) -> bool {
        let done = self.write_msr(vmcs, caps, switched, index, value, Writer::User);
        done.is_ok()
    }

    /// IA32_APIC_BASE, which kvm_run and KVM_GET_SREGS show.
    pub(crate) fn apic_base(&self) -> u64 {
        self.msrs.read(Stored::ApicBase)
    }

    /// Changes IA32_APIC_BASE to a value that was checked.
    pub(crate) fn set_apic_base(&mut self, value: u64) {
        self.msrs.write(Stored::ApicBase, value);
    }

    fn read_msr(&self, vmcs: &Current<'_>, switched: &impl Switched, index: u32) -> Option<u64> {
        Some(match msr::place(index)? {
            Place::Field32(field) => u64::from(vmcs.read(field)),
            Place::Field64(field) => vmcs.read(field),
            Place::FieldNat(field) => vmcs.read(field),
            Place::Tsc => crate::host::cpu::rdtsc().wrapping_add(vmcs.read(field::TSC_OFFSET)),
            Place::Efer => vmcs.read(field::GUEST_IA32_EFER),
            Place::Switched(i) => switched.get(i),
            Place::Stored(stored) => self.msrs.read(stored),
            Place::Constant(value) => value,
            Place::Ignored => 0,
        })
    }

    fn write_msr(
        &mut self,
        vmcs: &Current<'_>,
        caps: &Caps,
        switched: &mut impl Switched,
        index: u32,
        value: u64,
        writer: Writer,
    ) -> Result<(), GeneralProtection> {
        let value = msr::check(index, value, &self.features, writer)?;
        match msr::place(index).ok_or(GeneralProtection)? {
            Place::Field32(field) => vmcs.write(field, value as u32),
            Place::Field64(field) => vmcs.write(field, value),
            Place::FieldNat(field) => vmcs.write(field, value),
            Place::Tsc => {
                let offset = value.wrapping_sub(crate::host::cpu::rdtsc());
                vmcs.write(field::TSC_OFFSET, offset);
            }
            Place::Efer => {
                let control = self.control(vmcs).set_efer(value, &self.features)?;
                self.set_control(vmcs, caps, &control);
            }
            Place::Switched(i) => switched.set(i, value),
            Place::Stored(stored) => self.msrs.write(stored, value),
            Place::Constant(_) | Place::Ignored => {}
        }
        Ok(())
    }
}

impl Inside<'_> {
    /// RDMSR of an MSR that the bitmap does not pass through.
    pub(crate) fn rdmsr(&mut self, loans: &mut Loans<'_>, raw: &RawExit) -> Step {
        let [_, rcx, ..] = self.guest.regs.gprs;
        let index = rcx as u32;
        match self.guest.read_msr(self.vmcs, &loans.msrs, index) {
            None => self.fault(Exception::GP),
            Some(value) => {
                let [rax, _, rdx, ..] = &mut self.guest.regs.gprs;
                *rax = value & 0xffff_ffff;
                *rdx = value >> 32;
                self.skip(raw)
            }
        }
    }

    /// WRMSR of an MSR that the bitmap does not pass through.
    pub(crate) fn wrmsr(&mut self, loans: &mut Loans<'_>, raw: &RawExit) -> Step {
        let [rax, rcx, rdx, ..] = self.guest.regs.gprs;
        let value = (rax & 0xffff_ffff) | rdx << 32;
        let caps = &self.vm.vmx.caps;
        let index = rcx as u32;
        let done = self.guest.write_msr(
            self.vmcs,
            caps,
            &mut loans.msrs,
            index,
            value,
            Writer::Guest,
        );
        match done {
            Ok(()) => self.skip(raw),
            Err(GeneralProtection) => self.fault(Exception::GP),
        }
    }
}
