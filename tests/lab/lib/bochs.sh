# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Bochs, from Debian's source with our patches.

bochs_flags='--enable-smp --enable-vmx=2 --enable-cpu-level=6 --enable-x86-64
--enable-avx --enable-evex --enable-cet --enable-memtype
--enable-protection-keys --enable-all-optimizations --enable-pci
--enable-long-phy-address --disable-debugger --disable-plugins
--disable-docbook --with-nogui --disable-readline'

bochs_key() { { cat "$here"/patches/*.patch; echo "$suite $bochs_flags"; } | key_of_text; }

bochs_dir() { printf '%s/bochs-%s' "$cache" "$(bochs_key)"; }

# It starts from nothing each time: a killed compiler leaves half an object
# that make takes for a whole one, and there are only two minutes to lose.
# shellcheck disable=SC2016
bochs_script='
set -e
cd /lab/bochs
rm -rf source && mkdir source && cd source
apt-get -q -o APT::Sandbox::User=root update
apt-get -q -o APT::Sandbox::User=root source --download-only --tar-only bochs
tar -xf bochs_*.orig.tar.xz
cd bochs-*/
for patch in /src/tests/lab/patches/*.patch; do patch -p1 <"$patch"; done
./configure $0 CFLAGS=-O2 CXXFLAGS=-O2
make -j"$(nproc)"
cp bochs /lab/bochs/bochs
'

build_bochs() {
	local bochs
	bochs=$(bochs_dir)
	lock_part "$bochs"
	[ ! -e "$bochs/done" ] || return 0
	mkdir -p "$bochs"
	long_step bochs 1360 enter_job / bash -c "$bochs_script" "$bochs_flags"
	touch "$bochs/done"
}
