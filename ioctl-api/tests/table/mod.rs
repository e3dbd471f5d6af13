// SPDX-License-Identifier: GPL-2.0

//! Every structure that `<linux/kvm.h>` shares with us, with its fields, given
//! to the macro `$use` so that each test looks at all of them.

/// Calls `$use! { Ours theirs { field.. } .. }`.
macro_rules! shared_structs {
    ($use:ident) => {
        $use! {
            memory::UserMemoryRegion kvm_userspace_memory_region {
                slot, flags, guest_phys_addr, memory_size, userspace_addr
            }
            memory::EnableCap kvm_enable_cap { cap, flags, args, pad }
            bus::CoalescedZone kvm_coalesced_mmio_zone { addr, size }
            bus::CoalescedWrite kvm_coalesced_mmio { phys_addr, len, data }
            bus::IoEventFd kvm_ioeventfd { datamatch, addr, len, fd, flags, pad }
            regs::Regs kvm_regs {
                rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp,
                r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags
            }
            regs::Segment kvm_segment {
                base, limit, selector, type_, present, dpl, db, s, l, g, avl, unusable, padding
            }
            regs::Dtable kvm_dtable { base, limit, padding }
            regs::Sregs kvm_sregs {
                cs, ds, es, fs, gs, ss, tr, ldt, gdt, idt,
                cr0, cr2, cr3, cr4, cr8, efer, apic_base, interrupt_bitmap
            }
            regs::Fpu kvm_fpu {
                fpr, fcw, fsw, ftwx, pad1, last_opcode, last_ip, last_dp, xmm, mxcsr, pad2
            }
            regs::Debugregs kvm_debugregs { db, dr6, dr7, flags, reserved }
            regs::Xcr kvm_xcr { xcr, reserved, value }
            regs::Xcrs kvm_xcrs { nr_xcrs, flags, xcrs, padding }
            regs::MsrEntry kvm_msr_entry { index, reserved, data }
            regs::Msrs kvm_msrs { nmsrs, pad }
            regs::MsrList kvm_msr_list { nmsrs }
            regs::CpuidEntry2 kvm_cpuid_entry2 {
                function, index, flags, eax, ebx, ecx, edx, padding
            }
            regs::Cpuid2 kvm_cpuid2 { nent, padding }
            vcpu::Interrupt kvm_interrupt { irq }
            vcpu::MpState kvm_mp_state { mp_state }
            vcpu::SignalMask kvm_signal_mask { len }
            vcpu::VcpuEvents kvm_vcpu_events {
                exception, exception.injected, exception.nr, exception.has_error_code,
                exception.pending, exception.error_code,
                interrupt, interrupt.injected, interrupt.nr, interrupt.soft, interrupt.shadow,
                nmi, nmi.injected, nmi.pending, nmi.masked, nmi.pad,
                sipi_vector, flags,
                smi, smi.smm, smi.pending, smi.smm_inside_nmi, smi.latched_init,
                reserved, exception_has_payload, exception_payload
            }
        }
    };
}

/// Calls `$use! { path: NAME.. }` with the capabilities and exit numbers that
/// both sides name alike.
macro_rules! shared_constants {
    ($use:ident) => {
        $use! {
            cap: KVM_CAP_IRQCHIP KVM_CAP_HLT KVM_CAP_USER_MEMORY KVM_CAP_SET_TSS_ADDR
                KVM_CAP_EXT_CPUID KVM_CAP_COALESCED_MMIO KVM_CAP_IOEVENTFD
                KVM_CAP_IOEVENTFD_NO_LENGTH KVM_CAP_IOEVENTFD_ANY_LENGTH KVM_CAP_COALESCED_PIO
                KVM_CAP_NR_VCPUS KVM_CAP_NR_MEMSLOTS KVM_CAP_MP_STATE
                KVM_CAP_SYNC_MMU KVM_CAP_DESTROY_MEMORY_REGION_WORKS KVM_CAP_USER_NMI
                KVM_CAP_JOIN_MEMORY_REGIONS_WORKS KVM_CAP_SET_IDENTITY_MAP_ADDR
                KVM_CAP_INTERNAL_ERROR_DATA KVM_CAP_VCPU_EVENTS KVM_CAP_INTR_SHADOW
                KVM_CAP_DEBUGREGS KVM_CAP_ENABLE_CAP KVM_CAP_XSAVE KVM_CAP_XCRS
                KVM_CAP_GET_TSC_KHZ KVM_CAP_MAX_VCPUS KVM_CAP_SYNC_REGS KVM_CAP_READONLY_MEM
                KVM_CAP_ENABLE_CAP_VM KVM_CAP_CHECK_EXTENSION_VM KVM_CAP_MAX_VCPU_ID
                KVM_CAP_IMMEDIATE_EXIT KVM_CAP_GET_MSR_FEATURES KVM_CAP_VM_TYPES;
            run: KVM_EXIT_UNKNOWN KVM_EXIT_IO KVM_EXIT_DEBUG KVM_EXIT_HLT KVM_EXIT_MMIO
                KVM_EXIT_IRQ_WINDOW_OPEN KVM_EXIT_SHUTDOWN KVM_EXIT_FAIL_ENTRY KVM_EXIT_INTR
                KVM_EXIT_SET_TPR KVM_EXIT_INTERNAL_ERROR KVM_EXIT_IO_IN KVM_EXIT_IO_OUT
                KVM_INTERNAL_ERROR_EMULATION KVM_INTERNAL_ERROR_SIMUL_EX
                KVM_INTERNAL_ERROR_DELIVERY_EV KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON
                KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
            memory: KVM_MEM_LOG_DIRTY_PAGES KVM_MEM_READONLY;
            regs: KVM_MAX_XCRS KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
            vcpu: KVM_MP_STATE_RUNNABLE KVM_MP_STATE_UNINITIALIZED KVM_MP_STATE_INIT_RECEIVED
                KVM_MP_STATE_HALTED KVM_MP_STATE_SIPI_RECEIVED
                KVM_VCPUEVENT_VALID_NMI_PENDING KVM_VCPUEVENT_VALID_SIPI_VECTOR
                KVM_VCPUEVENT_VALID_SHADOW KVM_VCPUEVENT_VALID_SMM KVM_VCPUEVENT_VALID_PAYLOAD
                KVM_VCPUEVENT_VALID_TRIPLE_FAULT
                KVM_X86_SHADOW_INT_MOV_SS KVM_X86_SHADOW_INT_STI;
        }
    };
}
