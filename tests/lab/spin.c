// SPDX-License-Identifier: GPL-2.0
// A real-mode guest that spins with interrupts disabled.  The signal of an
// alarm must get its vCPU out of KVM_RUN: that needs patch 0001 in Bochs.

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/time.h>

static void on_alarm(int signal) { (void)signal; }

static int checked(int result, const char *what)
{
	if (result < 0)
		err(1, "%s", what);
	return result;
}

int main(void)
{
	struct sigaction action = { .sa_handler = on_alarm };
	struct itimerval soon = { .it_value.tv_usec = 20000 };
	struct kvm_regs regs = { .rip = 0, .rflags = 2 };
	struct kvm_sregs sregs;
	unsigned char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
				     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region slot = {
		.memory_size = 4096, .userspace_addr = (unsigned long)memory };
	int kvm = checked(open("/dev/kvm", O_RDWR), "/dev/kvm");
	int vm = checked(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
	int vcpu = checked(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");

	memcpy(memory, "\xeb\xfe", 2); /* jmp . */
	checked(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot), "slot");
	checked(ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	checked(ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
	checked(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &soon, NULL);
	if (ioctl(vcpu, KVM_RUN, 0) != -1 || errno != EINTR)
		errx(1, "KVM_RUN was not interrupted");
	puts("interrupted");
	return 0;
}
