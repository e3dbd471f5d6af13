// SPDX-License-Identifier: GPL-2.0
/*
 * The C side of the kernel seam: each function is one kernel facility that is
 * inline, a macro, or missing from the kernel crate's bindings in 7.3.
 */
#include <linux/anon_inodes.h>
#include <linux/context_tracking.h>
#include <linux/entry-virt.h>
#include <linux/eventfd.h>
#include <linux/fs.h>
#include <linux/hugetlb.h>
#include <linux/interrupt.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/module.h>
#include <linux/pgtable.h>
#include <linux/sched/signal.h>
#include <linux/smp.h>
#include <linux/uaccess.h>
#include <linux/unaligned.h>
#include <asm/cpu_entry_area.h>
#include <asm/cpufeature.h>
#include <asm/cpuid/api.h>
#include <asm/debugreg.h>
#include <asm/desc.h>
#include <asm/fpu/api.h>
#include <asm/gsseg.h>
#include <asm/mce.h>
#include <asm/mshyperv.h>
#include <asm/msr.h>
#include <asm/special_insns.h>
#include <asm/tsc.h>

#include "shim.h"

/* modprobe loads kvm_intel first: its VMXON is the one we run under. */
MODULE_SOFTDEP("pre: kvm_intel");

/* --- CPU features ------------------------------------------------------- */

bool kvm_spp_cpu_has_vmx(void)
{
	return boot_cpu_has(X86_FEATURE_VMX);
}

bool kvm_spp_cpu_has_fred(void)
{
	return cpu_feature_enabled(X86_FEATURE_FRED);
}

bool kvm_spp_cpu_has_xsave(void)
{
	return boot_cpu_has(X86_FEATURE_XSAVE);
}

/* Intel PT is tracing on this CPU. */
bool kvm_spp_tracing(void)
{
	return boot_cpu_has(X86_FEATURE_INTEL_PT) &&
	       native_rdmsrq(MSR_IA32_RTIT_CTL) & RTIT_CTL_TRACEEN;
}

bool kvm_spp_cpu_has_l1tf(void)
{
	return boot_cpu_has_bug(X86_BUG_L1TF);
}

/* As a guest of Hyper-V, kvm_intel names its current VMCS without VMPTRLD. */
bool kvm_spp_enlightened_vmcs(void)
{
#if IS_ENABLED(CONFIG_HYPERV)
	return ms_hyperv.hints & HV_X64_ENLIGHTENED_VMCS_RECOMMENDED;
#else
	return false;
#endif
}

bool kvm_spp_cpu_has_tsc_aux(void)
{
	return boot_cpu_has(X86_FEATURE_RDTSCP) || boot_cpu_has(X86_FEATURE_RDPID);
}

unsigned int kvm_spp_phys_bits(void)
{
	return boot_cpu_data.x86_phys_bits;
}

unsigned int kvm_spp_tsc_khz(void)
{
	return tsc_khz;
}

unsigned int kvm_spp_nr_cpu_ids(void)
{
	return nr_cpu_ids;
}

void kvm_spp_cpuid(u32 leaf, u32 sub, u32 out[4])
{
	cpuid_count(leaf, sub, &out[0], &out[1], &out[2], &out[3]);
}

/* --- One IRQ-off window ------------------------------------------------- */

void kvm_spp_irq_disable(void)
{
	local_irq_disable();
}

void kvm_spp_irq_enable(void)
{
	local_irq_enable();
}

unsigned int kvm_spp_cpu(void)
{
	return smp_processor_id();
}

/* For reports, where the task may move on at any time. */
unsigned int kvm_spp_any_cpu(void)
{
	return raw_smp_processor_id();
}

bool kvm_spp_guest_work_pending(void)
{
	return __xfer_to_guest_mode_work_pending();
}

int kvm_spp_guest_work(void)
{
	return xfer_to_guest_mode_handle_work();
}

/* The guest's time is a quiescent state for RCU, once per window. */
void kvm_spp_window_begin(void)
{
	xfer_to_guest_mode_prepare();
	vtime_account_guest_enter();
	rcu_virt_note_context_switch();
}

void kvm_spp_window_end(void)
{
	vtime_account_guest_exit();
	/* VMSCAPE: the VMM must not run on branch predictions of the guest. */
	if (cpu_feature_enabled(X86_FEATURE_IBPB_EXIT_TO_USER))
		this_cpu_write(x86_ibpb_exit_to_user, true);
}

noinstr int kvm_spp_guest_run(u64 *gprs, int launched)
{
	int failed;

	instrumentation_begin();
	trace_hardirqs_on_prepare();
	lockdep_hardirqs_on_prepare();
	instrumentation_end();
	context_tracking_guest_enter();
	lockdep_hardirqs_on(CALLER_ADDR0);

	failed = kvm_spp_enter(gprs, launched);

	lockdep_hardirqs_off(CALLER_ADDR0);
	context_tracking_guest_exit();
	instrumentation_begin();
	trace_hardirqs_off_finish();
	instrumentation_end();
	return failed;
}

bool kvm_spp_signal_pending(void)
{
	return signal_pending(current);
}

/* --- Host state --------------------------------------------------------- */

/* What differs between tasks, so must be read in every window. */
void kvm_spp_host_read(struct kvm_spp_host_state *h)
{
	h->cr0 = native_read_cr0();
	h->cr3 = __read_cr3();
	h->cr4 = __read_cr4();
	rdmsrq(MSR_FS_BASE, h->fs_base);
	rdmsrq(MSR_EFER, h->efer);
	rdmsrq(MSR_IA32_DEBUGCTLMSR, h->debugctl);
	savesegment(ds, h->ds);
	savesegment(es, h->es);
	savesegment(fs, h->fs);
	savesegment(gs, h->gs);
	store_ldt(h->ldt);
}

/* What differs between CPUs only. */
void kvm_spp_host_read_cpu(struct kvm_spp_host_state *h)
{
	struct desc_ptr idt;

	rdmsrq(MSR_GS_BASE, h->gs_base);
	h->tr_base = (unsigned long)&get_cpu_entry_area(smp_processor_id())->tss.x86_tss;
	h->gdt_base = (unsigned long)get_current_gdt_ro();
	store_idt(&idt);
	h->idt_base = idt.address;
	rdmsrq(MSR_IA32_SYSENTER_CS, h->sysenter_cs);
	rdmsrq(MSR_IA32_SYSENTER_ESP, h->sysenter_esp);
	rdmsrq(MSR_IA32_SYSENTER_EIP, h->sysenter_eip);
	rdmsrq(MSR_IA32_CR_PAT, h->pat);
	h->kernel_cs = __KERNEL_CS;
	h->kernel_ss = __KERNEL_DS;
	h->tr = GDT_ENTRY_TSS * 8;
}

/* Undo what VM exit did beyond the host-state area (SDM 3C 28.5). */
void kvm_spp_host_restore(const struct kvm_spp_host_state *h)
{
	/*
	 * The exit cut the TSS limit to 0x67.  Only an I/O permission bitmap
	 * needs more, and the way to user space refreshes the limit for a task
	 * that has one (native_tss_update_io_bitmap()).
	 */
	this_cpu_write(__tss_limit_invalid, true);
	load_fixmap_gdt(smp_processor_id());
	if (h->ldt)
		load_ldt(h->ldt);
	if (h->ds | h->es) {
		loadsegment(ds, h->ds);
		loadsegment(es, h->es);
	}
	if (h->fs) {
		loadsegment(fs, h->fs);
		wrmsrq(MSR_FS_BASE, h->fs_base);
	}
	if (h->gs) {
		/* The user's GS base, which the load replaces by the descriptor's. */
		u64 base = native_rdmsrq(MSR_KERNEL_GS_BASE);

		load_gs_index(h->gs);
		wrmsrq(MSR_KERNEL_GS_BASE, base);
	}
	if (h->debugctl)
		wrmsrq(MSR_IA32_DEBUGCTLMSR, h->debugctl);
}

int kvm_spp_rdmsr_safe(u32 msr, u64 *value)
{
	return rdmsrq_safe(msr, value);
}

void kvm_spp_machine_check(void)
{
#ifdef CONFIG_X86_MCE
	struct pt_regs regs = { .cs = 3, .flags = X86_EFLAGS_IF };

	do_machine_check(&regs);
#endif
}

/* --- Debug registers ---------------------------------------------------- */

u64 kvm_spp_host_dr7(void)
{
	return this_cpu_read(cpu_dr7);
}

void kvm_spp_read_debugregs(u64 dr[4])
{
	unsigned long value;

	get_debugreg(value, 0);
	dr[0] = value;
	get_debugreg(value, 1);
	dr[1] = value;
	get_debugreg(value, 2);
	dr[2] = value;
	get_debugreg(value, 3);
	dr[3] = value;
}

void kvm_spp_write_debugregs(const u64 dr[4])
{
	set_debugreg(dr[0], 0);
	set_debugreg(dr[1], 1);
	set_debugreg(dr[2], 2);
	set_debugreg(dr[3], 3);
}

u64 kvm_spp_read_dr6(void)
{
	unsigned long dr6;

	get_debugreg(dr6, 6);
	return dr6;
}

void kvm_spp_write_dr6(u64 dr6)
{
	set_debugreg(dr6, 6);
}

void kvm_spp_write_dr7(u64 dr7)
{
	set_debugreg(dr7, 7);
}

/* --- FPU ---------------------------------------------------------------- */

void kvm_spp_fpu_begin(void)
{
	kernel_fpu_begin_mask(0);
}

void kvm_spp_fpu_end(void)
{
	kernel_fpu_end();
}

u64 kvm_spp_xgetbv(void)
{
	u32 lo, hi;

	asm volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return lo | ((u64)hi << 32);
}

void kvm_spp_xsetbv(u64 value)
{
	asm volatile("xsetbv" : : "a"((u32)value), "d"((u32)(value >> 32)), "c"(0) : "memory");
}

void kvm_spp_xsave(void *area, u64 mask)
{
	asm volatile("xsave64 (%0)"
		     : : "r"(area), "a"((u32)mask), "d"((u32)(mask >> 32)) : "memory");
}

/* A user-supplied area may still be refused by the processor. */
int kvm_spp_xrstor(const void *area, u64 mask)
{
	int err = 0;

	asm volatile("1: xrstor64 (%1)\n2:\n"
		     _ASM_EXTABLE_TYPE_REG(1b, 2b, EX_TYPE_EFAULT_REG, %0)
		     : "+r"(err)
		     : "r"(area), "a"((u32)mask), "d"((u32)(mask >> 32)) : "memory");
	return err;
}

/* --- Memory ------------------------------------------------------------- */

struct page *kvm_spp_alloc_page(void)
{
	return alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);
}

void kvm_spp_free_page(struct page *page)
{
	__free_page(page);
}

void *kvm_spp_page_address(struct page *page)
{
	return page_address(page);
}

u64 kvm_spp_page_phys(struct page *page)
{
	return page_to_phys(page);
}

void *kvm_spp_phys_to_virt(u64 phys)
{
	return phys_to_virt(phys);
}

struct page *kvm_spp_phys_to_page(u64 phys)
{
	return pfn_to_page(PHYS_PFN(phys));
}

/* The first address beyond user space. */
u64 kvm_spp_user_end(void)
{
	return TASK_SIZE_MAX;
}

/* Words of page tables: copy_from_user() costs several times as much. */
int kvm_spp_get_user_u32(unsigned long addr, u32 *value)
{
	return get_user(*value, (u32 __user *)addr);
}

int kvm_spp_get_user_u64(unsigned long addr, u64 *value)
{
	return get_user(*value, (u64 __user *)addr);
}

struct mm_struct *kvm_spp_current_mm(void)
{
	return current->mm;
}

/* Quick attempt: no sleeping, no fault. Returns 1 with a reference, or 0. */
int kvm_spp_gup_fast(unsigned long hva, bool write, struct page **page)
{
	return get_user_page_fast_only(hva, write ? FOLL_WRITE : 0, page);
}

/* May sleep, fault, wait for userfaultfd. Returns 1 with a reference, or -errno. */
long kvm_spp_gup_slow(unsigned long hva, bool write, struct page **page)
{
	unsigned int flags = FOLL_HWPOISON | FOLL_INTERRUPTIBLE;

	if (write)
		flags |= FOLL_WRITE;
	return get_user_pages_unlocked(hva, 1, page, flags);
}

void kvm_spp_mark_page_dirty(struct page *page)
{
	folio_mark_dirty(page_folio(page));
}

/*
 * Stores @len bytes to a guest page, those of the first 64 whose bit is set in
 * @bytes. A naturally aligned word is one access for all CPUs, as it would be
 * for an instruction of the guest.
 */
void kvm_spp_page_store(struct page *page, unsigned int offset, const void *data,
			unsigned int len, u64 bytes)
{
	u8 *to = page_address(page) + offset;
	const u8 *from = data;
	unsigned int i;

	if (bytes == U64_MAX && IS_ALIGNED((unsigned long)to, len)) {
		switch (len) {
		case 1:
			WRITE_ONCE(*to, *from);
			return;
		case 2:
			WRITE_ONCE(*(u16 *)to, get_unaligned((const u16 *)from));
			return;
		case 4:
			WRITE_ONCE(*(u32 *)to, get_unaligned((const u32 *)from));
			return;
		case 8:
			WRITE_ONCE(*(u64 *)to, get_unaligned((const u64 *)from));
			return;
		}
	}
	if (bytes == U64_MAX) {
		memcpy(to, from, len);
		return;
	}
	for (i = 0; i < len; i++)
		if (i >= 64 || bytes >> i & 1)
			WRITE_ONCE(to[i], from[i]);
}

/*
 * Compares and exchanges @len bytes of a guest page: 1, 2, 4 or 8 in one cache
 * line, or 16 that are aligned. 1: done, 0: @old is not there, -EINVAL: no such
 * access.
 */
int kvm_spp_page_exchange(struct page *page, unsigned int offset, const void *old,
			  const void *new, unsigned int len)
{
	void *at = page_address(page) + offset;

	if (offset % SMP_CACHE_BYTES + len > SMP_CACHE_BYTES)
		return -EINVAL;
	switch (len) {
	case 1: {
		u8 was = *(const u8 *)old;

		return cmpxchg((u8 *)at, was, *(const u8 *)new) == was;
	}
	case 2: {
		u16 was = get_unaligned((const u16 *)old);

		return cmpxchg((u16 *)at, was, get_unaligned((const u16 *)new)) == was;
	}
	case 4: {
		u32 was = get_unaligned((const u32 *)old);

		return cmpxchg((u32 *)at, was, get_unaligned((const u32 *)new)) == was;
	}
	case 8: {
		u64 was = get_unaligned((const u64 *)old);

		return cmpxchg((u64 *)at, was, get_unaligned((const u64 *)new)) == was;
	}
	case 16: {
		u128 was, next;

		if (!IS_ALIGNED((unsigned long)at, 16) || !boot_cpu_has(X86_FEATURE_CX16))
			return -EINVAL;
		memcpy(&was, old, 16);
		memcpy(&next, new, 16);
		return try_cmpxchg128((u128 *)at, &was, next);
	}
	}
	return -EINVAL;
}

/* Reads @len bytes of a guest page. */
void kvm_spp_page_load(struct page *page, unsigned int offset, void *data, unsigned int len)
{
	memcpy(data, page_address(page) + offset, len);
}

/* Ends the reference of a guest-page look-up. */
void kvm_spp_release_page(struct page *page)
{
	struct folio *folio = page_folio(page);

	folio_mark_accessed(folio);
	folio_put(folio);
}

/*
 * Level (1 = 4 KiB, 2 = 2 MiB, 3 = 1 GiB) at which the host maps @hva. IRQs are
 * off so that the page tables are not freed under the walk; each entry is read
 * once, for the host may promote it meanwhile.
 */
int kvm_spp_host_level(struct mm_struct *mm, unsigned long hva)
{
	unsigned long flags;
	int level = 1;
	pgd_t pgd;
	p4d_t p4d;
	pud_t pud;
	pmd_t pmd;

	local_irq_save(flags);
	pgd = READ_ONCE(*pgd_offset(mm, hva));
	if (pgd_none(pgd))
		goto out;
	p4d = READ_ONCE(*p4d_offset(&pgd, hva));
	if (p4d_none(p4d) || !p4d_present(p4d))
		goto out;
	pud = READ_ONCE(*pud_offset(&p4d, hva));
	if (pud_none(pud) || !pud_present(pud))
		goto out;
	if (pud_leaf(pud)) {
		level = 3;
		goto out;
	}
	pmd = READ_ONCE(*pmd_offset(&pud, hva));
	if (pmd_present(pmd) && pmd_leaf(pmd))
		level = 2;
out:
	local_irq_restore(flags);
	return level;
}

/* --- MMU notifier ------------------------------------------------------- */

struct kvm_spp_notifier {
	struct mmu_notifier mn;
	const struct kvm_spp_notifier_ops *ops;
	void *owner;
};

static int invalidate_range_start(struct mmu_notifier *mn,
				  const struct mmu_notifier_range *range)
{
	struct kvm_spp_notifier *n = container_of(mn, struct kvm_spp_notifier, mn);

	n->ops->start(n->owner, range->start, range->end);
	return 0;
}

static void invalidate_range_end(struct mmu_notifier *mn,
				 const struct mmu_notifier_range *range)
{
	struct kvm_spp_notifier *n = container_of(mn, struct kvm_spp_notifier, mn);

	n->ops->end(n->owner);
}

static void mm_release(struct mmu_notifier *mn, struct mm_struct *mm)
{
	struct kvm_spp_notifier *n = container_of(mn, struct kvm_spp_notifier, mn);

	n->ops->gone(n->owner);
}

static const struct mmu_notifier_ops notifier_ops = {
	.invalidate_range_start	= invalidate_range_start,
	.invalidate_range_end	= invalidate_range_end,
	.release		= mm_release,
};

/* Watches current->mm; the mm_struct stays allocated until unregistered. */
struct kvm_spp_notifier *
kvm_spp_notifier_register(const struct kvm_spp_notifier_ops *ops, void *owner)
{
	struct kvm_spp_notifier *n = kzalloc(sizeof(*n), GFP_KERNEL_ACCOUNT);
	int err;

	if (!n)
		return ERR_PTR(-ENOMEM);
	n->mn.ops = &notifier_ops;
	n->ops = ops;
	n->owner = owner;
	err = mmu_notifier_register(&n->mn, current->mm);
	if (err) {
		kfree(n);
		return ERR_PTR(err);
	}
	return n;
}

void kvm_spp_notifier_unregister(struct kvm_spp_notifier *n)
{
	mmu_notifier_unregister(&n->mn, n->mn.mm);
	kfree(n);
}

/* --- Other CPUs --------------------------------------------------------- */

static void acknowledge(void *unused)
{
}

/* Returns once @cpu has taken an interrupt, so has left any guest it ran. */
void kvm_spp_kick_cpu(unsigned int cpu)
{
	smp_call_function_single(cpu, acknowledge, NULL, 1);
}

int kvm_spp_call_on_cpu(unsigned int cpu, void (*func)(void *), void *arg)
{
	return smp_call_function_single(cpu, func, arg, 1);
}

bool kvm_spp_cpu_online(unsigned int cpu)
{
	return cpu < nr_cpu_ids && cpu_online(cpu);
}

bool kvm_spp_cpu_possible(unsigned int cpu)
{
	return cpu < nr_cpu_ids && cpu_possible(cpu);
}

void kvm_spp_cpus_read_lock(void)
{
	cpus_read_lock();
}

void kvm_spp_cpus_read_unlock(void)
{
	cpus_read_unlock();
}

/* --- Files -------------------------------------------------------------- */

int kvm_spp_anon_fd(const char *name, const struct file_operations *fops, void *priv)
{
	return anon_inode_getfd(name, fops, priv, O_RDWR | O_CLOEXEC);
}

struct eventfd_ctx *kvm_spp_eventfd_get(int fd)
{
	return eventfd_ctx_fdget(fd);
}

void kvm_spp_eventfd_signal(struct eventfd_ctx *ctx)
{
	eventfd_signal(ctx);
}

void kvm_spp_eventfd_put(struct eventfd_ctx *ctx)
{
	eventfd_ctx_put(ctx);
}

/* A reference that keeps kvm_intel loaded; NULL where there is no /dev/kvm. */
struct file *kvm_spp_pin_kvm(void)
{
	struct file *file = filp_open("/dev/kvm", O_RDWR, 0);

	return IS_ERR(file) ? NULL : file;
}

void kvm_spp_unpin_kvm(struct file *file)
{
	fput(file);
}

/* KVM_SET_SIGNAL_MASK is in force during KVM_RUN only. */
void kvm_spp_sigmask_begin(const u64 *mask)
{
	sigset_t set;

	BUILD_BUG_ON(sizeof(set) != sizeof(*mask));
	memcpy(&set, mask, sizeof(set));
	sigdelsetmask(&set, sigmask(SIGKILL) | sigmask(SIGSTOP));
	sigprocmask(SIG_SETMASK, &set, &current->real_blocked);
}

void kvm_spp_sigmask_end(void)
{
	sigprocmask(SIG_SETMASK, &current->real_blocked, NULL);
	sigemptyset(&current->real_blocked);
}

u64 kvm_spp_read_cr2(void)
{
	return native_read_cr2();
}

void kvm_spp_write_cr2(u64 value)
{
	native_write_cr2(value);
}
