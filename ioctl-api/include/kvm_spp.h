/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
#ifndef _UAPI_KVM_SPP_H
#define _UAPI_KVM_SPP_H

/*
 * Sub-page write permissions of /dev/kvm-spp. Everything else that the device
 * understands is in <linux/kvm.h>.
 *
 * A guest page has 32 sub-pages of 128 bytes; bit n of its map is set if the
 * guest may write sub-page n. A page without a map of its own has ~0.
 */

#include <linux/kvm.h>

/*
 * KVM_CHECK_EXTENSION: mask of KVM_SPP_CAP_*, 0 if not available.
 * KVM_ENABLE_CAP on the VM, flags 0, before the first vCPU; args[0] is one of
 * KVM_SPP_CAP_*, or 0 for the best there is: EINVAL for other arguments,
 * ENODEV if what is asked for is not available, EBUSY with a vCPU.
 */
#define KVM_CAP_SPP			0x53500001

/* The processor checks the maps. */
#define KVM_SPP_CAP_HW			(1 << 0)
/* The module checks the maps: it emulates each write to a page with a map. */
#define KVM_SPP_CAP_SW			(1 << 1)

/* for KVM_SPP_SET_MAPS and KVM_SPP_GET_MAPS, on the VM */
struct kvm_spp_maps {
	__u64 gpa;		/* first page, page aligned */
	__u64 npages;		/* 1 .. KVM_SPP_MAX_PAGES, else EINVAL/E2BIG */
	__u64 maps;		/* pointer to __u32[npages] */
	__u64 flags;		/* must be 0 */
	__u64 reserved[4];	/* must be 0 */
};

#define KVM_SPP_MAX_PAGES		16384

/* All maps of the range are set, or none. */
#define KVM_SPP_SET_MAPS		_IOW(KVMIO, 0xf0, struct kvm_spp_maps)
#define KVM_SPP_GET_MAPS		_IOW(KVMIO, 0xf1, struct kvm_spp_maps)

/*
 * kvm_run.exit_reason of a denied write; struct kvm_spp_exit is then at the
 * start of the union. No byte has changed and RIP is at the instruction: call
 * KVM_RUN to try again, or KVM_SET_REGS with a new RIP to skip it.
 */
#define KVM_EXIT_SPP			0x53500001

/* kvm_spp_exit.flags */
#define KVM_SPP_EXIT_GVA_VALID		(1ULL << 0)
#define KVM_SPP_EXIT_SIZE_VALID		(1ULL << 1)
#define KVM_SPP_EXIT_INSN_LEN_VALID	(1ULL << 2)
/* The write delivers an event, which the next KVM_RUN delivers again. */
#define KVM_SPP_EXIT_EVENT_DELIVERY	(1ULL << 3)
/*
 * The write sets an accessed or dirty flag of a guest paging structure: gpa is
 * that of the entry, gva the address that was being translated.
 */
#define KVM_SPP_EXIT_PAGE_WALK		(1ULL << 4)
/* The write is that of a read-modify-write. */
#define KVM_SPP_EXIT_READ		(1ULL << 5)

/* kvm_spp_exit.cause; more may be added */
#define KVM_SPP_CAUSE_HARDWARE		0
#define KVM_SPP_CAUSE_EMULATED		1

struct kvm_spp_exit {
	__u64 flags;		/* KVM_SPP_EXIT_* */
	__u64 gpa;		/* of a denied byte, as far as the processor tells */
	__u64 gva;		/* linear address of it */
	__u64 rip;
	__u32 size;		/* of the access, bytes */
	__u32 denied;		/* touched sub-pages that are not writable */
	__u32 map;		/* the page's map when the write was denied */
	__u8  cause;		/* KVM_SPP_CAUSE_* */
	__u8  insn_len;		/* length of the instruction, bytes */
	__u8  insn_bytes;	/* how many bytes of insn are valid */
	__u8  pad;
	__u8  insn[16];		/* bytes at rip */
	__u64 reserved[8];
};

#endif /* _UAPI_KVM_SPP_H */
