# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# The lab kernel.

kdir_inside=/lab/kernel/linux

# KVM_SPP_KERNEL=debug chooses a kernel that checks itself, and is slow.
kernel_config() {
	cat "$here/kernel.config"
	case ${KVM_SPP_KERNEL:-} in
	'') ;;
	debug) cat "$here/kernel.debug.config" ;;
	*) die "KVM_SPP_KERNEL=$KVM_SPP_KERNEL: only 'debug' is known" ;;
	esac
}

# A module in Rust loads only into a kernel from the very same compiler, so the
# versions of the tools are part of the key.
kernel_key() { { kernel_config; cat "$(root_dir)/lab/versions" 2>/dev/null || true; } | key_of_text; }

kernel_dir() { printf '%s/kernel-%s' "$cache" "$(kernel_key)"; }

kernel_version() { awk '/^linux-source/ { print $1, $2 }' "$(root_dir)/lab/versions"; }

# shellcheck disable=SC2016
kernel_script='
set -e
cd /lab/kernel
if [ ! -d linux ]; then
	rm -rf unpack && mkdir unpack
	tar -x -C unpack -f /usr/src/linux-source-7.*.tar.xz
	mv unpack/linux-source-7.* linux
fi
cd linux
make -s LLVM=1 KCONFIG_ALLCONFIG=/lab/kernel/config allnoconfig
while read -r line; do
	case $line in
	CONFIG_*) grep -qxF "$line" .config || { echo "Kconfig drops $line"; exit 1; } ;;
	"# CONFIG_"*) ! grep -q "^$(echo "$line" | cut -d" " -f2)=" .config || { echo "Kconfig sets: $line"; exit 1; } ;;
	esac
done </lab/kernel/config
make -j"$(nproc)" LLVM=1 bzImage modules
'

build_kernel() {
	local kernel
	kernel=$(kernel_dir)
	lock_part "$kernel"
	[ ! -e "$kernel/done" ] || return 0
	mkdir -p "$kernel"
	kernel_config >"$kernel/config"
	say "kernel: $(kernel_version), about 15 minutes on two cores"
	long_step kernel 1950 enter_job / bash -c "$kernel_script"
	touch "$kernel/done"
}
