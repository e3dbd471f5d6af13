# SPDX-License-Identifier: GPL-2.0
#
# Into the instruction under test and out of it. All state is at STATE, below 2 GiB, so
# that no register is needed to reach it. Offsets are those of `struct State`.

.set S_GPRS_IN,   {STATE} + 0x000
.set S_FLAGS_IN,  {STATE} + 0x080
.set S_FAR,       {STATE} + 0x088
.set S_SS,        {STATE} + 0x090
.set S_VECTOR,    {STATE} + 0x094
.set S_XFEATURES, {STATE} + 0x098
.set S_ARMED,     {STATE} + 0x0a0
.set S_HOST_RSP,  {STATE} + 0x0a8
.set S_EXIT,      {STATE} + 0x0b0
.set S_START,     {STATE} + 0x0b8
.set S_DS,        {STATE} + 0x0c0
.set S_ES,        {STATE} + 0x0c4
.set S_GS,        {STATE} + 0x0c8
.set S_GPRS_OUT,  {STATE} + 0x100
.set S_FLAGS_OUT, {STATE} + 0x180
.set S_TRAP,      {STATE} + 0x190
.set S_ERROR,     {STATE} + 0x198
.set S_CR2,       {STATE} + 0x1a0
.set S_RIP_OUT,   {STATE} + 0x1a8
.set S_TRAP_FLAGS,{STATE} + 0x1b0
.set S_CS_OUT,   {STATE} + 0x1b8

.set USER_CS, 0x33
.set USER_SS, 0x2b

# Offsets in ucontext_t of the kernel's registers at the signal.
.set UC_RIP,   168
.set UC_FLAGS, 176
.set UC_CS,    184
.set UC_SS,    190
.set UC_ERROR, 192
.set UC_TRAP,  200
.set UC_CR2,   216

.text
.balign 16
# extern "C" fn native_enter()
native_enter:
	push rbx
	push rbp
	push r12
	push r13
	push r14
	push r15
	sub rsp, 8
	mov qword ptr [S_HOST_RSP], rsp
	cmp dword ptr [S_VECTOR], 0
	je 1f
	mov eax, dword ptr [S_XFEATURES]
	mov edx, dword ptr [S_XFEATURES + 4]
	xrstor [{STATE} + {XSAVE_IN}]
1:
	mov qword ptr [S_ARMED], 1
	push qword ptr [S_FLAGS_IN]
	mov ss, word ptr [S_SS]
	mov rax, qword ptr [S_GPRS_IN]
	mov rcx, qword ptr [S_GPRS_IN + 8]
	mov rdx, qword ptr [S_GPRS_IN + 16]
	mov rbx, qword ptr [S_GPRS_IN + 24]
	mov rbp, qword ptr [S_GPRS_IN + 40]
	mov rsi, qword ptr [S_GPRS_IN + 48]
	mov rdi, qword ptr [S_GPRS_IN + 56]
	mov r8, qword ptr [S_GPRS_IN + 64]
	mov r9, qword ptr [S_GPRS_IN + 72]
	mov r10, qword ptr [S_GPRS_IN + 80]
	mov r11, qword ptr [S_GPRS_IN + 88]
	mov r12, qword ptr [S_GPRS_IN + 96]
	mov r13, qword ptr [S_GPRS_IN + 104]
	mov r14, qword ptr [S_GPRS_IN + 112]
	mov r15, qword ptr [S_GPRS_IN + 120]
	# With TF set, the next two instructions trap as well as the one under test.
	popfq
	mov rsp, qword ptr [S_GPRS_IN + 32]
	jmp fword ptr [S_FAR]

# Landing pads come here, and the signal handler makes runs continue here.
native_exit:
	mov qword ptr [S_GPRS_OUT], rax
	mov qword ptr [S_GPRS_OUT + 8], rcx
	mov qword ptr [S_GPRS_OUT + 16], rdx
	mov qword ptr [S_GPRS_OUT + 24], rbx
	mov qword ptr [S_GPRS_OUT + 32], rsp
	mov qword ptr [S_GPRS_OUT + 40], rbp
	mov qword ptr [S_GPRS_OUT + 48], rsi
	mov qword ptr [S_GPRS_OUT + 56], rdi
	mov qword ptr [S_GPRS_OUT + 64], r8
	mov qword ptr [S_GPRS_OUT + 72], r9
	mov qword ptr [S_GPRS_OUT + 80], r10
	mov qword ptr [S_GPRS_OUT + 88], r11
	mov qword ptr [S_GPRS_OUT + 96], r12
	mov qword ptr [S_GPRS_OUT + 104], r13
	mov qword ptr [S_GPRS_OUT + 112], r14
	mov qword ptr [S_GPRS_OUT + 120], r15
	mov rsp, qword ptr [S_HOST_RSP]
	pushfq
	pop qword ptr [S_FLAGS_OUT]
	push 2
	popfq
	mov eax, USER_SS
	mov ss, eax
	mov qword ptr [S_ARMED], 0
	cmp dword ptr [S_VECTOR], 0
	je 1f
	mov eax, dword ptr [S_XFEATURES]
	mov edx, dword ptr [S_XFEATURES + 4]
	xsave [{STATE} + {XSAVE_OUT}]
	vzeroupper
1:
	add rsp, 8
	pop r15
	pop r14
	pop r13
	pop r12
	pop rbp
	pop rbx
	ret

# void native_handler(int signal, siginfo_t *, ucontext_t *): RFLAGS.AC may be set, and
# the stack is the alternate one.
native_handler:
	cmp qword ptr [S_ARMED], 0
	je 3f
	mov rax, qword ptr [rdx + UC_TRAP]
	mov rcx, qword ptr [rdx + UC_RIP]
	cmp rax, 1
	jne 2f
	# A step: before the instruction under test, or between its repetitions?
	lea r8, [rip + native_enter]
	cmp rcx, r8
	jb 1f
	lea r8, [rip + native_exit]
	cmp rcx, r8
	jb 4f
1:
	cmp rcx, qword ptr [S_START]
	je 4f
2:
	mov qword ptr [S_TRAP], rax
	mov qword ptr [S_RIP_OUT], rcx
	mov rax, qword ptr [rdx + UC_ERROR]
	mov qword ptr [S_ERROR], rax
	mov rax, qword ptr [rdx + UC_CR2]
	mov qword ptr [S_CR2], rax
	mov rax, qword ptr [rdx + UC_FLAGS]
	mov qword ptr [S_TRAP_FLAGS], rax
	movzx eax, word ptr [rdx + UC_CS]
	mov qword ptr [S_CS_OUT], rax
	mov rax, qword ptr [S_TRAP_FLAGS]
	# Without TF and RF.
	and rax, -0x10101
	mov qword ptr [rdx + UC_FLAGS], rax
	lea rax, [rip + native_exit]
	mov qword ptr [rdx + UC_RIP], rax
	mov word ptr [rdx + UC_CS], USER_CS
	mov word ptr [rdx + UC_SS], USER_SS
4:
	ret
3:
	# The harness itself has failed.
	mov edi, {BROKEN}
	mov eax, 231
	syscall

# extern "C" fn native_segments(): what 64-bit code does not use stays loaded.
native_segments:
	mov ds, word ptr [S_DS]
	mov es, word ptr [S_ES]
	mov gs, word ptr [S_GS]
	ret
