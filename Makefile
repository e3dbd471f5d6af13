# SPDX-License-Identifier: GPL-2.0
#
# make help tells what there is.

KVER ?= $(shell uname -r)
KDIR ?= /lib/modules/$(KVER)/build
LAB  := tests/lab/lab

# Kbuild reads this directory's Kbuild file, not this Makefile.
kbuild = $(MAKE) -C $(KDIR) M=$(CURDIR)

.PHONY: modules modules_install clean help lab demo test bench check-kdir clippy host-test lab-test fmt

modules: check-kdir
	+$(kbuild) modules

modules_install: check-kdir
	+$(kbuild) modules_install

clippy: check-kdir
	+$(kbuild) CLIPPY=1 modules

# What Kbuild leaves, by name: the kernel that it was built against, here or in
# the lab, need not be there any more.
clean:
	find . \( -name .git -o -name target \) -prune -o \( -name '*.o' -o -name '*.ko' -o -name '*.mod' \
		-o -name '*.mod.c' -o -name '.*.cmd' -o -name '.*.d' -o -name '*.rmeta' \
		-o -name Module.symvers -o -name modules.order \) -type f -print0 | xargs -0r rm -f

check-kdir:
	@tests/check-kdir "$(KDIR)"

lab:
	$(LAB) build

demo:
	tests/run demo

test:
	tests/run test

host-test:
	tests/run host-test

lab-test:
	tests/run lab-test

bench:
	tests/run bench

fmt:
	tests/run fmt

help:
	@sed -e 1,2d -e 's/^# \?//' Documentation/make-help.txt
