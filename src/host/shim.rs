// SPDX-License-Identifier: GPL-2.0

//! Declarations of `src/shim.c`. Each line mirrors one C function; what a call
//! needs to be sound is said where it is made.

use crate::vmx::window::Registers;
use kernel::{
    bindings,
    ffi::{
        c_char,
        c_int,
        c_long,
        c_uint,
        c_ulong,
        c_void, //
    }, //
};

/// `struct kvm_spp_host_state`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct HostState {
    pub(crate) cr0: u64,
    pub(crate) cr3: u64,
    pub(crate) cr4: u64,
    pub(crate) fs_base: u64,
    pub(crate) gs_base: u64,
    pub(crate) tr_base: u64,
    pub(crate) gdt_base: u64,
    pub(crate) idt_base: u64,
    pub(crate) sysenter_cs: u64,
    pub(crate) sysenter_esp: u64,
    pub(crate) sysenter_eip: u64,
    pub(crate) pat: u64,
    pub(crate) efer: u64,
    pub(crate) debugctl: u64,
    pub(crate) ds: u16,
    pub(crate) es: u16,
    pub(crate) fs: u16,
    pub(crate) gs: u16,
    pub(crate) ldt: u16,
    pub(crate) kernel_cs: u16,
    pub(crate) kernel_ss: u16,
    pub(crate) tr: u16,
}

/// `struct kvm_spp_notifier_ops`.
#[repr(C)]
pub(crate) struct NotifierOps {
    pub(crate) start: unsafe extern "C" fn(*mut c_void, c_ulong, c_ulong),
    pub(crate) end: unsafe extern "C" fn(*mut c_void),
    pub(crate) gone: unsafe extern "C" fn(*mut c_void),
}

/// Opaque `struct kvm_spp_notifier`.
#[repr(C)]
pub(crate) struct Notifier {
    _opaque: [u8; 0],
}

#[expect(
    improper_ctypes,
    reason = "structures of the kernel are behind pointers and opaque to both sides"
)]
unsafe extern "C" {
    pub(crate) safe fn kvm_spp_cpu_has_vmx() -> bool;
    pub(crate) safe fn kvm_spp_cpu_has_fred() -> bool;
    pub(crate) safe fn kvm_spp_cpu_has_xsave() -> bool;
    pub(crate) safe fn kvm_spp_tracing() -> bool;
    pub(crate) safe fn kvm_spp_cpu_has_l1tf() -> bool;
    pub(crate) safe fn kvm_spp_cpu_has_tsc_aux() -> bool;
    pub(crate) safe fn kvm_spp_enlightened_vmcs() -> bool;
    pub(crate) safe fn kvm_spp_user_end() -> u64;
    pub(crate) safe fn kvm_spp_phys_bits() -> c_uint;
    pub(crate) safe fn kvm_spp_tsc_khz() -> c_uint;
    pub(crate) safe fn kvm_spp_nr_cpu_ids() -> c_uint;
    pub(crate) fn kvm_spp_cpuid(leaf: u32, sub: u32, out: *mut u32);

    pub(crate) safe fn kvm_spp_irq_disable();
    pub(crate) safe fn kvm_spp_irq_enable();
    pub(crate) safe fn kvm_spp_cpu() -> c_uint;
    pub(crate) safe fn kvm_spp_any_cpu() -> c_uint;
    pub(crate) safe fn kvm_spp_guest_work_pending() -> bool;
    pub(crate) safe fn kvm_spp_guest_work() -> c_int;
    pub(crate) safe fn kvm_spp_signal_pending() -> bool;
    pub(crate) safe fn kvm_spp_window_begin();
    pub(crate) safe fn kvm_spp_window_end();
    pub(crate) fn kvm_spp_guest_run(regs: *mut Registers, launched: c_int) -> c_int;

    pub(crate) fn kvm_spp_host_read(h: *mut HostState);
    pub(crate) fn kvm_spp_host_read_cpu(h: *mut HostState);
    pub(crate) fn kvm_spp_host_restore(h: *const HostState);
    pub(crate) safe fn kvm_spp_read_cr2() -> u64;
    pub(crate) fn kvm_spp_write_cr2(value: u64);
    pub(crate) fn kvm_spp_rdmsr_safe(msr: u32, value: *mut u64) -> c_int;
    pub(crate) safe fn kvm_spp_machine_check();
    pub(crate) safe fn kvm_spp_host_dr7() -> u64;
    pub(crate) fn kvm_spp_read_debugregs(dr: *mut u64);
    pub(crate) fn kvm_spp_write_debugregs(dr: *const u64);
    pub(crate) fn kvm_spp_read_dr6() -> u64;
    pub(crate) fn kvm_spp_write_dr6(dr6: u64);
    pub(crate) fn kvm_spp_write_dr7(dr7: u64);

    pub(crate) fn kvm_spp_fpu_begin();
    pub(crate) fn kvm_spp_fpu_end();
    pub(crate) safe fn kvm_spp_xgetbv() -> u64;
    pub(crate) fn kvm_spp_xsetbv(value: u64);
    pub(crate) fn kvm_spp_xsave(area: *mut c_void, mask: u64);
    pub(crate) fn kvm_spp_xrstor(area: *const c_void, mask: u64) -> c_int;

    pub(crate) safe fn kvm_spp_alloc_page() -> *mut bindings::page;
    pub(crate) fn kvm_spp_free_page(page: *mut bindings::page);
    pub(crate) fn kvm_spp_page_address(page: *mut bindings::page) -> *mut c_void;
    pub(crate) fn kvm_spp_page_phys(page: *mut bindings::page) -> u64;
    pub(crate) safe fn kvm_spp_phys_to_virt(phys: u64) -> *mut c_void;
    pub(crate) safe fn kvm_spp_phys_to_page(phys: u64) -> *mut bindings::page;
    pub(crate) safe fn kvm_spp_current_mm() -> *mut bindings::mm_struct;
    pub(crate) fn kvm_spp_gup_fast(hva: u64, write: bool, page: *mut *mut bindings::page) -> c_int;
    pub(crate) fn kvm_spp_gup_slow(hva: u64, write: bool, page: *mut *mut bindings::page)
        -> c_long;
    pub(crate) fn kvm_spp_mark_page_dirty(page: *mut bindings::page);
    pub(crate) fn kvm_spp_release_page(page: *mut bindings::page);
    pub(crate) fn kvm_spp_get_user_u32(addr: c_ulong, value: *mut u32) -> c_int;
    pub(crate) fn kvm_spp_get_user_u64(addr: c_ulong, value: *mut u64) -> c_int;
    pub(crate) fn kvm_spp_page_store(
        page: *mut bindings::page,
        offset: c_uint,
        data: *const c_void,
        len: c_uint,
        bytes: u64,
    );
    pub(crate) fn kvm_spp_page_exchange(
        page: *mut bindings::page,
        offset: c_uint,
        old: *const c_void,
        new: *const c_void,
        len: c_uint,
    ) -> c_int;
    pub(crate) fn kvm_spp_page_load(
        page: *mut bindings::page,
        offset: c_uint,
        data: *mut c_void,
        len: c_uint,
    );
    pub(crate) fn kvm_spp_host_level(mm: *mut bindings::mm_struct, hva: u64) -> c_int;
    pub(crate) fn kvm_spp_notifier_register(
        ops: *const NotifierOps,
        owner: *mut c_void,
    ) -> *mut Notifier;
    pub(crate) fn kvm_spp_notifier_unregister(n: *mut Notifier);

    pub(crate) safe fn kvm_spp_kick_cpu(cpu: c_uint);
    pub(crate) fn kvm_spp_call_on_cpu(
        cpu: c_uint,
        func: unsafe extern "C" fn(*mut c_void),
        arg: *mut c_void,
    ) -> c_int;
    pub(crate) safe fn kvm_spp_cpu_online(cpu: c_uint) -> bool;
    pub(crate) safe fn kvm_spp_cpu_possible(cpu: c_uint) -> bool;
    pub(crate) safe fn kvm_spp_cpus_read_lock();
    pub(crate) safe fn kvm_spp_cpus_read_unlock();

    pub(crate) fn kvm_spp_anon_fd(
        name: *const c_char,
        fops: *const bindings::file_operations,
        private: *mut c_void,
    ) -> c_int;
    pub(crate) safe fn kvm_spp_eventfd_get(fd: c_int) -> *mut bindings::eventfd_ctx;
    pub(crate) fn kvm_spp_eventfd_signal(ctx: *mut bindings::eventfd_ctx);
    pub(crate) fn kvm_spp_eventfd_put(ctx: *mut bindings::eventfd_ctx);
    pub(crate) safe fn kvm_spp_pin_kvm() -> *mut bindings::file;
    pub(crate) fn kvm_spp_unpin_kvm(file: *mut bindings::file);
    pub(crate) fn kvm_spp_sigmask_begin(mask: *const u64);
    pub(crate) safe fn kvm_spp_sigmask_end();
}
