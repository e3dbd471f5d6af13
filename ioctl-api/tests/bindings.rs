// SPDX-License-Identifier: GPL-2.0

//! Layouts and numbers against rust-vmm's `kvm-bindings`, which were generated
//! from a recent `<linux/kvm.h>`.

#![expect(clippy::cast_lossless, reason = "the constants have different types")]

#[macro_use]
mod table;

use core::mem::{offset_of, size_of};
use ioctl_api::{bus, cap, memory, regs, run, vcpu};

macro_rules! assert_structs {
    ($($module:ident::$ours:ident $theirs:ident { $($($field:ident).+),* })*) => { $(
        let name = stringify!($theirs);
        assert_eq!(size_of::<$module::$ours>(), size_of::<kvm_bindings::$theirs>(), "{name}");
        $( assert_eq!(
            offset_of!($module::$ours, $($field).+),
            offset_of!(kvm_bindings::$theirs, $($field).+),
            "{name}.{}", stringify!($($field).+)
        ); )*
    )* };
}

macro_rules! assert_constants {
    ($($module:ident: $($name:ident)+;)*) => { $($(
        assert_eq!($module::$name as u64, kvm_bindings::$name as u64, stringify!($name));
    )+)* };
}

#[test]
fn structures_have_the_layout_of_kvm() {
    shared_structs!(assert_structs);
    assert_eq!(
        offset_of!(vcpu::VcpuEvents, triple_fault_pending),
        offset_of!(kvm_bindings::kvm_vcpu_events, triple_fault.pending)
    );
    assert_eq!(regs::XSAVE_SIZE, size_of::<kvm_bindings::kvm_xsave>());
}

#[test]
fn numbers_are_those_of_kvm() {
    shared_constants!(assert_constants);
    assert_eq!(
        ioctl_api::number::KVM_API_VERSION,
        kvm_bindings::KVM_API_VERSION
    );
}

#[test]
fn kvm_run_has_the_layout_of_kvm() {
    use kvm_bindings::kvm_run;
    for (ours, theirs) in [
        (
            run::REQUEST_INTERRUPT_WINDOW,
            offset_of!(kvm_run, request_interrupt_window),
        ),
        (run::IMMEDIATE_EXIT, offset_of!(kvm_run, immediate_exit)),
        (run::EXIT_REASON, offset_of!(kvm_run, exit_reason)),
        (
            run::READY_FOR_INTERRUPT_INJECTION,
            offset_of!(kvm_run, ready_for_interrupt_injection),
        ),
        (run::IF_FLAG, offset_of!(kvm_run, if_flag)),
        (run::FLAGS, offset_of!(kvm_run, flags)),
        (run::CR8, offset_of!(kvm_run, cr8)),
        (run::APIC_BASE, offset_of!(kvm_run, apic_base)),
        (run::PAYLOAD, offset_of!(kvm_run, __bindgen_anon_1)),
        (run::VALID_REGS, offset_of!(kvm_run, kvm_valid_regs)),
        (run::DIRTY_REGS, offset_of!(kvm_run, kvm_dirty_regs)),
    ] {
        assert_eq!(ours, theirs);
    }
    assert_eq!(run::PAYLOAD + run::PAYLOAD_SIZE, run::VALID_REGS);
    assert_eq!(
        run::PIO_DATA,
        4096 * kvm_bindings::KVM_PIO_PAGE_OFFSET as usize
    );
}
