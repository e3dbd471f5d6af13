/* SPDX-License-Identifier: GPL-2.0 */
/*
 * VM entry and VM exit: the few instructions between host and guest.
 *
 *   kvm_spp_enter(gprs, launched)
 *        | callee-saved registers and @gprs on the stack, RSP into HOST_RSP
 *        | guest registers loaded from @gprs
 *        v
 *   VMLAUNCH / VMRESUME ---- VMfail or fault ----> return 1, guest did not run
 *        :
 *      guest runs
 *        :
 *   VM exit (HOST_RIP) --> guest registers stored, host registers cleared,
 *                          RSB filled, a pending NMI taken by INT 2 ---> return 0
 *
 * @gprs is an array of 16 u64 in the order of the instruction encoding (RAX,
 * RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8-R15).  Slot 4 (RSP) is not used here:
 * the processor switches RSP itself through the VMCS.  Behind it are the
 * HOST_RSP that the VMCS holds, and the exit reason.
 */
#include <linux/linkage.h>
#include <linux/objtool.h>
#include <asm/asm.h>
#include <asm/nospec-branch.h>
#include <asm/segment.h>
#include <asm/unwind_hints.h>

#define VMCS_EXIT_REASON	0x4402
#define VMCS_EXIT_INTR_INFO	0x4404
#define VMCS_HOST_RSP		0x6c14
#define VMCS_HOST_RIP		0x6c16

/* Offsets in struct Registers (src/vmx/window.rs) behind the 16 registers. */
#define REGS_HOST_RSP		0x80
#define REGS_EXIT_REASON	0x88

/* Interruption information: valid bit and type field; type 2 is an NMI. */
#define INTR_INFO_VALID_TYPE	0x80000700
#define INTR_INFO_VALID_NMI	0x80000200

.section .noinstr.text, "ax"

SYM_FUNC_START(kvm_spp_enter)
	push	%rbp
	mov	%rsp, %rbp
	push	%r15
	push	%r14
	push	%r13
	push	%r12
	push	%rbx
	push	%rdi

	/* Within a window the stack is the same each time. */
	cmp	%rsp, REGS_HOST_RSP(%rdi)
	je	.Lhost_ready
	mov	%rsp, REGS_HOST_RSP(%rdi)
	mov	$VMCS_HOST_RSP, %eax
	vmwrite	%rsp, %rax
	lea	kvm_spp_vmexit(%rip), %rdx
	mov	$VMCS_HOST_RIP, %eax
	vmwrite	%rdx, %rax
.Lhost_ready:

	/* The flags of this test decide below; MOV leaves them alone. */
	testl	%esi, %esi
	mov	0x00(%rdi), %rax
	mov	0x08(%rdi), %rcx
	mov	0x10(%rdi), %rdx
	mov	0x18(%rdi), %rbx
	mov	0x28(%rdi), %rbp
	mov	0x30(%rdi), %rsi
	mov	0x40(%rdi), %r8
	mov	0x48(%rdi), %r9
	mov	0x50(%rdi), %r10
	mov	0x58(%rdi), %r11
	mov	0x60(%rdi), %r12
	mov	0x68(%rdi), %r13
	mov	0x70(%rdi), %r14
	mov	0x78(%rdi), %r15
	mov	0x38(%rdi), %rdi
	jz	.Llaunch

	UNWIND_HINT_SAVE
.Lresume:
	vmresume
	jmp	.Lfail
.Llaunch:
	vmlaunch
	jmp	.Lfail
	_ASM_EXTABLE(.Lresume, .Lfail)
	_ASM_EXTABLE(.Llaunch, .Lfail)

SYM_INNER_LABEL_ALIGN(kvm_spp_vmexit, SYM_L_GLOBAL)
	UNWIND_HINT_RESTORE
	ENDBR
	push	%rdi
	mov	8(%rsp), %rdi
	mov	%rax, 0x00(%rdi)
	mov	%rcx, 0x08(%rdi)
	mov	%rdx, 0x10(%rdi)
	mov	%rbx, 0x18(%rdi)
	mov	%rbp, 0x28(%rdi)
	mov	%rsi, 0x30(%rdi)
	pop	0x38(%rdi)
	mov	%r8,  0x40(%rdi)
	mov	%r9,  0x48(%rdi)
	mov	%r10, 0x50(%rdi)
	mov	%r11, 0x58(%rdi)
	mov	%r12, 0x60(%rdi)
	mov	%r13, 0x68(%rdi)
	mov	%r14, 0x70(%rdi)
	mov	%r15, 0x78(%rdi)
	xor	%ebx, %ebx

	/*
	 * Clear what the guest left in the registers, so that no mispredicted
	 * path uses guest values; RBX is the return value.
	 */
.Lclear:
	xor	%eax, %eax
	xor	%ecx, %ecx
	xor	%edx, %edx
	xor	%ebp, %ebp
	xor	%esi, %esi
	xor	%edi, %edi
	xor	%r8d, %r8d
	xor	%r9d, %r9d
	xor	%r10d, %r10d
	xor	%r11d, %r11d
	xor	%r12d, %r12d
	xor	%r13d, %r13d
	xor	%r14d, %r14d
	xor	%r15d, %r15d

	/* The RSB must be filled before the first unbalanced RET. */
	FILL_RETURN_BUFFER %rcx, RSB_CLEAR_LOOPS, X86_FEATURE_RSB_VMEXIT, \
			   X86_FEATURE_RSB_VMEXIT_LITE

	/*
	 * NMIs stay blocked after an NMI exit until an IRET (SDM 3C 28.3.3);
	 * INT 2 runs the host's handler, whose IRET ends the blocking.  Exit
	 * reason 0 is "exception or NMI".
	 */
	testl	%ebx, %ebx
	jnz	.Lout
	mov	(%rsp), %rdi
	mov	$VMCS_EXIT_REASON, %eax
	vmread	%rax, %rcx
	mov	%ecx, REGS_EXIT_REASON(%rdi)
	testw	%cx, %cx
	jnz	.Lout
	mov	$VMCS_EXIT_INTR_INFO, %eax
	vmread	%rax, %rcx
	andl	$INTR_INFO_VALID_TYPE, %ecx
	cmpl	$INTR_INFO_VALID_NMI, %ecx
	jne	.Lout
	int	$2

.Lout:
	mov	%rbx, %rax
	pop	%rdi
	pop	%rbx
	pop	%r12
	pop	%r13
	pop	%r14
	pop	%r15
	pop	%rbp
	RET

.Lfail:
	mov	$1, %ebx
	jmp	.Lclear
SYM_FUNC_END(kvm_spp_enter)
