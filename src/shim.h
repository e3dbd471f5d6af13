/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the Rust side needs from the kernel and cannot reach itself: macros and
 * inline functions of C headers, and exported functions that the kernel crate's
 * bindings lack.  No policy and no loops live here.
 */
#ifndef KVM_SPP_SHIM_H
#define KVM_SPP_SHIM_H

#include <linux/types.h>

struct eventfd_ctx;
struct file_operations;
struct mm_struct;
struct page;
struct file;
struct kvm_spp_notifier;

/* Host state that VM exits must restore; all read with IRQs off. */
struct kvm_spp_host_state {
	u64 cr0, cr3, cr4;
	u64 fs_base, gs_base, tr_base, gdt_base, idt_base;
	u64 sysenter_cs, sysenter_esp, sysenter_eip;
	u64 pat, efer, debugctl;
	u16 ds, es, fs, gs, ldt;
	u16 kernel_cs, kernel_ss, tr;
};

/* What src/host/notifier.rs does when memory of the process changes. */
struct kvm_spp_notifier_ops {
	void (*start)(void *owner, unsigned long start, unsigned long end);
	void (*end)(void *owner);
	void (*gone)(void *owner);
};

/* Implemented in src/vmx/enter.S. */
int kvm_spp_enter(u64 *gprs, int launched);

/* Implemented in src/shim.c. */
bool kvm_spp_cpu_has_vmx(void);
bool kvm_spp_cpu_has_fred(void);
bool kvm_spp_cpu_has_xsave(void);
bool kvm_spp_tracing(void);
bool kvm_spp_cpu_has_l1tf(void);
bool kvm_spp_cpu_has_tsc_aux(void);
bool kvm_spp_enlightened_vmcs(void);
unsigned int kvm_spp_phys_bits(void);
unsigned int kvm_spp_tsc_khz(void);
unsigned int kvm_spp_nr_cpu_ids(void);
void kvm_spp_cpuid(u32 leaf, u32 sub, u32 out[4]);
void kvm_spp_irq_disable(void);
void kvm_spp_irq_enable(void);
unsigned int kvm_spp_cpu(void);
unsigned int kvm_spp_any_cpu(void);
bool kvm_spp_guest_work_pending(void);
int kvm_spp_guest_work(void);
void kvm_spp_window_begin(void);
void kvm_spp_window_end(void);
int kvm_spp_guest_run(u64 *gprs, int launched);
bool kvm_spp_signal_pending(void);
void kvm_spp_host_read(struct kvm_spp_host_state *h);
void kvm_spp_host_read_cpu(struct kvm_spp_host_state *h);
void kvm_spp_host_restore(const struct kvm_spp_host_state *h);
int kvm_spp_rdmsr_safe(u32 msr, u64 *value);
void kvm_spp_machine_check(void);
u64 kvm_spp_host_dr7(void);
void kvm_spp_read_debugregs(u64 dr[4]);
void kvm_spp_write_debugregs(const u64 dr[4]);
u64 kvm_spp_read_dr6(void);
void kvm_spp_write_dr6(u64 dr6);
void kvm_spp_write_dr7(u64 dr7);
void kvm_spp_fpu_begin(void);
void kvm_spp_fpu_end(void);
u64 kvm_spp_xgetbv(void);
void kvm_spp_xsetbv(u64 value);
void kvm_spp_xsave(void *area, u64 mask);
int kvm_spp_xrstor(const void *area, u64 mask);
struct page *kvm_spp_alloc_page(void);
void kvm_spp_free_page(struct page *page);
void *kvm_spp_page_address(struct page *page);
u64 kvm_spp_page_phys(struct page *page);
void *kvm_spp_phys_to_virt(u64 phys);
struct page *kvm_spp_phys_to_page(u64 phys);
u64 kvm_spp_user_end(void);
int kvm_spp_get_user_u32(unsigned long addr, u32 *value);
int kvm_spp_get_user_u64(unsigned long addr, u64 *value);
struct mm_struct *kvm_spp_current_mm(void);
int kvm_spp_gup_fast(unsigned long hva, bool write, struct page **page);
long kvm_spp_gup_slow(unsigned long hva, bool write, struct page **page);
void kvm_spp_mark_page_dirty(struct page *page);
void kvm_spp_release_page(struct page *page);
void kvm_spp_page_store(struct page *page, unsigned int offset, const void *data,
			unsigned int len, u64 bytes);
int kvm_spp_page_exchange(struct page *page, unsigned int offset, const void *old,
			  const void *new, unsigned int len);
void kvm_spp_page_load(struct page *page, unsigned int offset, void *data, unsigned int len);
int kvm_spp_host_level(struct mm_struct *mm, unsigned long hva);
struct kvm_spp_notifier *
kvm_spp_notifier_register(const struct kvm_spp_notifier_ops *ops, void *owner);
void kvm_spp_notifier_unregister(struct kvm_spp_notifier *n);
void kvm_spp_kick_cpu(unsigned int cpu);
int kvm_spp_call_on_cpu(unsigned int cpu, void (*func)(void *), void *arg);
bool kvm_spp_cpu_online(unsigned int cpu);
bool kvm_spp_cpu_possible(unsigned int cpu);
void kvm_spp_cpus_read_lock(void);
void kvm_spp_cpus_read_unlock(void);
int kvm_spp_anon_fd(const char *name, const struct file_operations *fops, void *priv);
struct eventfd_ctx *kvm_spp_eventfd_get(int fd);
void kvm_spp_eventfd_signal(struct eventfd_ctx *ctx);
void kvm_spp_eventfd_put(struct eventfd_ctx *ctx);
struct file *kvm_spp_pin_kvm(void);
void kvm_spp_unpin_kvm(struct file *file);
void kvm_spp_sigmask_begin(const u64 *mask);
void kvm_spp_sigmask_end(void);
u64 kvm_spp_read_cr2(void);
void kvm_spp_write_cr2(u64 value);

#endif
