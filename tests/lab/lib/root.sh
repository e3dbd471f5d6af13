# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# The Debian root file system in which everything is built and Bochs runs.

suite=trixie
mirror=${KVM_SPP_MIRROR:-http://deb.debian.org/debian}

apt_sources() {
	printf 'deb %s %s main\n' "$1" "$suite" "$1" "$suite-updates" "$1" "$suite-backports"
	printf 'deb-src %s %s main\n' "$1" "$suite"
}

# The mirror is not part of the key: all mirrors hold the same archive.
root_key() { { cat "$here/packages"; apt_sources MIRROR; } | key_of_text; }

root_dir() { printf '%s/root-%s' "$cache" "$(root_key)"; }

# Without root, a user namespace gives uid 0 over the root's files.
as_root() {
	if ((EUID == 0)); then "$@"; else unshare --user --map-root-user --map-auto -- "$@"; fi
}

# remove DIR...: not while something is mounted there, for rm would empty that.
remove() {
	local dir
	for dir; do
		! grep -qF " $(readlink -f "$dir")/" /proc/self/mounts ||
			die "something is mounted below $dir: unmount it first"
		as_root rm -rf --one-file-system "$dir"
	done
}

# namespace FLAGS... -- CMD...: replace this process by CMD in a mount
# namespace of its own, so that no mount outlives it.
namespace() {
	((EUID == 0)) || set -- --user --map-root-user --map-auto "$@"
	exec unshare --mount --propagation private "$@"
}

# What runs in the new namespace: mount what the root needs and enter it.
# Arguments: root directory, working directory, "SRC:DST"... -- CMD...
# shellcheck disable=SC2016
enter_script='
set -e
root=$1 cwd=$2
shift 2
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc" 2>/dev/null || mount --rbind /proc "$root/proc"
mount -t tmpfs tmpfs "$root/tmp"
while [ "$1" != -- ]; do
	src=${1%:*} dst=$root${1##*:}
	if [ -d "$src" ]; then mkdir -p "$dst"; else : >>"$dst"; fi
	mount --bind "$src" "$dst"
	case $dst in "$root"/etc/*) mount -o remount,bind,ro "$dst" 2>/dev/null || : ;; esac
	shift
done
shift
exec chroot "$root" /bin/sh -c '\''cd "$0" && exec "$@"'\'' "$cwd" "$@"
'

# Where cargo builds for this checkout. Inside, all checkouts are /src, so that cargo
# would take what one has built for what another one means.
target_dir() {
	printf '%s/target-%s\n' "$cache" "$(printf %s "$project" | sha256sum | cut -c1-12)"
}

# Where a directory of the host is seen inside the root.
project_binds() {
	mkdir -p "$(target_dir)" "$cache/cargo"
	printf '%s\n' "$project:/src" "$(target_dir):/lab/target" "$cache/cargo:/lab/cargo"
	[ -z "${run_dir:-}" ] || printf '%s:/lab/run\n' "$run_dir"
	[ ! -e "$(kernel_dir)" ] || printf '%s:/lab/kernel\n' "$(kernel_dir)"
	[ ! -e "$(bochs_dir)" ] || printf '%s:/lab/bochs\n' "$(bochs_dir)"
}

# The host's resolver and certificates are used, so that what reaches the
# network from the host (through a proxy, say) does so from inside.
network_binds() {
	[ ! -e /etc/resolv.conf ] || printf '/etc/resolv.conf:/etc/resolv.conf\n'
	[ ! -e /etc/ssl/certs/ca-certificates.crt ] || printf '/etc/ssl/certs:/etc/ssl/certs\n'
}

# A clean environment: what a host has set for its own tools is not for these.
inner_environment() {
	printf '%s\n' PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
		"TERM=${TERM:-dumb}" "KDIR=$kdir_inside" CARGO_HOME=/lab/cargo \
		CARGO_TARGET_DIR=/lab/target KBUILD_BUILD_USER=lab KBUILD_BUILD_HOST=lab \
		KBUILD_BUILD_TIMESTAMP=@0 DEBIAN_FRONTEND=noninteractive LAB=inside
	env | grep -E '^(CI|NO_COLOR|V|RUST_BACKTRACE|PROPTEST_[A-Z_]+|CARGO_TERM_[A-Z_]+|CARGO_NET_[A-Z_]+|https?_proxy|no_proxy)=' || true
}

# enter FLAGS... -- CWD CMD...: run CMD inside the root, in place of this process.
enter() {
	local flags=() binds environment cwd
	while [ "$1" != -- ]; do flags+=("$1") && shift; done
	cwd=$2
	shift 2
	mapfile -t binds < <(network_binds; project_binds)
	mapfile -t environment < <(inner_environment)
	namespace "${flags[@]}" -- bash -c "$enter_script" lab "$(root_dir)" "$cwd" \
		"${binds[@]}" -- env -i "${environment[@]}" "$@"
}

# The same as a killable job: all its processes die with the one we started.
enter_job() { enter --pid --fork --kill-child -- "$@"; }

need_host_tools() {
	command -v unshare >/dev/null || die "unshare is missing: install util-linux"
	if ! command -v mmdebstrap >/dev/null && ((EUID == 0)) && command -v apt-get >/dev/null; then
		say "installing mmdebstrap"
		{ apt-get update && apt-get install -y --no-install-recommends mmdebstrap; } >/dev/null 2>&1 || true
	fi
	command -v mmdebstrap >/dev/null || die "mmdebstrap is missing: apt-get install mmdebstrap"
	compgen -G "/usr/share/keyrings/debian-archive-$suite-*.gpg" >/dev/null ||
		die "the archive keys of Debian $suite are missing: install or upgrade debian-archive-keyring"
	((EUID == 0)) || as_root true 2>/dev/null ||
		die "not root, and user namespaces do not work here." \
			"Either run as root, or: apt-get install uidmap, give your user a range in /etc/subuid and" \
			"/etc/subgid, and allow user namespaces (sysctl kernel.unprivileged_userns_clone=1 or" \
			"kernel.apparmor_restrict_unprivileged_userns=0 where these exist)."
}

# Through an archive, because only so the owners come out right without root.
debootstrap_root() {
	local mode=root sources include
	((EUID == 0)) || mode=unshare
	include=$(grep -v '^#' "$here/packages" | tr -s ' \n' ',')
	mapfile -t sources < <(apt_sources "$mirror")
	mmdebstrap --mode="$mode" --variant=apt --format=tar --include="$include" \
		--aptopt='APT::Install-Recommends "false"' --keyring=/usr/share/keyrings \
		"$suite" - "${sources[@]}" | as_root tar -x --exclude='./dev/*' -C "$1"
}

# The kernel's source comes from backports, which --include does not look at.
# shellcheck disable=SC2016
add_kernel_source='
set -e
apt="apt-get -q -o APT::Sandbox::User=root"
$apt update
source=$(apt-cache search --names-only "^linux-source-7[.][0-9]+$" | cut -d" " -f1 | sort -V | tail -n 1)
[ -n "$source" ] || { echo "apt offers no linux-source-7.x"; exit 1; }
$apt install -y --no-install-recommends -t "$0-backports" "$source"
dpkg-query -W "$source" rustc rust-src bindgen clang lld gcc >/lab/versions.new
mv /lab/versions.new /lab/versions
'

build_root() {
	local root
	root=$(root_dir)
	lock_part "$root"
	[ ! -e "$root/lab/versions" ] || return 0
	need_host_tools
	if [ ! -e "$root/lab" ]; then
		remove "$root.new"
		mkdir -p "$root.new"
		long_step root 0 debootstrap_root "$root.new"
		as_root mkdir "$root.new/lab"
		mv "$root.new" "$root"
	fi
	long_step kernel-source 0 enter_job / bash -c "$add_kernel_source" "$suite"
}
