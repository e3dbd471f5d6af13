# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# lab run: one boot of the emulated machine.
#
#   serial port 1: kernel console ---> console.fifo --> watch_console --> console.txt
#   serial port 2: output of CMD  ---> output.fifo ---> cat -----------> our stdout

cpus=1 model=tigerlake memory=512 timeout=600 append='' kvm=1 keep='' show_console='' trace=ignore
copies=()
run_dir=''

parse_run() {
	while (($# > 0)); do
		case $1 in
		--kvm) kvm=1 && shift && continue ;;
		--no-kvm) kvm='' && shift && continue ;;
		--keep) keep=1 && shift && continue ;;
		--console) show_console=1 && shift && continue ;;
		--trace) trace=report && shift && continue ;;
		--) shift && break ;;
		-*) (($# > 1)) || die "run: $1 wants a value, see 'lab help'" ;;
		*) break ;;
		esac
		case $1 in
		--cpus) cpus=$2 ;;
		--model) model=$2 ;;
		--mem) memory=$2 ;;
		--timeout) timeout=$2 ;;
		--append) append+=" $2" ;;
		--copy) copies+=("$2") ;;
		*) die "run: unknown option $1, see 'lab help'" ;;
		esac
		shift 2
	done
	(($# > 0)) || die "run: no command given, see 'lab help'"
	command=("$@")
}

# Programs are built inside the root: take its paths as well as the host's.
host_path() {
	case $1 in
	/src/*) printf '%s/%s' "$project" "${1#/src/}" ;;
	/lab/target/*) printf '%s/%s' "$(target_dir)" "${1#/lab/target/}" ;;
	/lab/kernel/*) printf '%s/%s' "$(kernel_dir)" "${1#/lab/kernel/}" ;;
	*) printf '%s' "$1" ;;
	esac
}

copy_in() {
	local from to copy=$1
	from=$(host_path "${copy%%:*}")
	[ -e "$from" ] || die "run: --copy: there is no ${copy%%:*}"
	case $copy in
	*:*/) to=${copy#*:}${from##*/} ;;
	*:*) to=${copy#*:} ;;
	*) to=/lab/${from##*/} ;;
	esac
	mkdir -p "$run_dir/tree$(dirname "$to")"
	cp -rpL "$from" "$run_dir/tree$to"
}

# CMD's output is no terminal's unless ours goes to one.
guest_environment() {
	local term=dumb
	[ ! -t 1 ] || term=${TERM:-dumb}
	printf 'export TERM=%q\n' "$term"
	[ "$term" != dumb ] || printf 'export NO_COLOR=1\n'
	printf 'LAB_KVM=%s\n' "$kvm"
}

bochs_configuration() {
	cat <<-END
		config_interface: textconfig
		display_library: nogui
		megs: $memory
		cpu: model=$model, count=$cpus, ips=50000000, reset_on_triple_fault=0
		romimage: file=/usr/share/bochs/BIOS-bochs-latest
		vgaromimage: file=/usr/share/vgabios/vgabios.bin
		ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
		ata0-master: type=cdrom, path=lab.iso, status=inserted
		boot: cdrom
		com1: enabled=1, mode=file, dev=console.fifo
		com2: enabled=1, mode=file, dev=output.fifo
		log: bochs.log
		panic: action=fatal
		error: action=$trace
		info: action=ignore
		debug: action=ignore
	END
}

# An oops becomes a panic, and a panic stays on the screen: rebooting would
# start everything again.
boot_configuration() {
	cat <<-END
		default lab
		label lab
		kernel bzimage
		initrd initrd.gz
		append console=ttyS0,115200 loglevel=5 oops=panic panic=0$append
	END
}

# Runs inside the root, in the run's directory.
# shellcheck disable=SC2016
boot_script='
set -e
mkdir -p tree/bin tree/lib/modules image
cp /bin/busybox tree/bin/
cp /src/tests/lab/init tree/
linux=/lab/kernel/linux
cp $linux/virt/lib/irqbypass.ko $linux/arch/x86/kvm/kvm.ko $linux/arch/x86/kvm/kvm-intel.ko tree/lib/modules/
if grep -rqs --include="*" ld-linux-x86-64 tree/lab; then
	mkdir -p tree/lib64
	cp -L /lib64/ld-linux-x86-64.so.2 tree/lib64/
	cp -L /lib/x86_64-linux-gnu/libc.so.6 /lib/x86_64-linux-gnu/libm.so.6 /lib/x86_64-linux-gnu/libgcc_s.so.1 tree/lib64/
fi
(cd tree && find . | cpio --quiet -o -H newc -R 0:0) | gzip -1 >image/initrd.gz
cp $linux/arch/x86/boot/bzImage image/bzimage
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 image/
xorriso -as mkisofs -quiet -o lab.iso -b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table image 2>xorriso.log ||
	{ cat xorriso.log >&2; exit 1; }
exec /lab/bochs/bochs -q -f bochsrc >bochs.out 2>&1
'

prepare_run() {
	local copy
	run_dir=$(mktemp -d "$cache/run-XXXXXX")
	exec 8>"$run_dir/lock"
	flock 8
	mkdir -p "$run_dir/tree/etc/lab" "$run_dir/tree/lab" "$run_dir/image"
	for copy in "${copies[@]}"; do copy_in "$copy"; done
	printf 'exec %s\n' "${command[*]@Q}" >"$run_dir/tree/etc/lab/command"
	guest_environment >"$run_dir/tree/etc/lab/environment"
	bochs_configuration >"$run_dir/bochsrc"
	boot_configuration >"$run_dir/image/isolinux.cfg"
	mkfifo "$run_dir/console.fifo" "$run_dir/output.fifo"
}

end_run() {
	if [ -n "${machine:-}" ]; then
		kill -KILL "$machine" 2>/dev/null || true
		wait "$machine" 2>/dev/null || true
	fi
	[ -z "$run_dir" ] || [ -n "$keep" ] || rm -rf "$run_dir"
	[ -z "$keep" ] || say "kept: $run_dir"
}

# What the kernel said last, or first about what went wrong.
failure='' failure_at=0 status='' lines=0 stop_at=0

# A general protection fault of a process is the process's affair: only the
# kernel's own says "Oops".
judge_line() {
	case $1 in
	*'lab: exit status '*) status=${1##* } ;;
	*'Kernel panic'* | *Oops* | *BUG:* | *'kernel BUG'* | *'Unable to handle'*) fail_at "$1" 3 ;;
	*'rcu: INFO:'*stall* | *'soft lockup'* | *'blocked for more than'*) fail_at "$1" 10 ;;
	*WARNING:*) fail_at "$1" "$timeout" ;;
	esac
}

# fail_at LINE SECONDS: the machine gets SECONDS more to finish its message.
fail_at() {
	[ -n "$failure" ] || { failure=$1; failure_at=$lines; }
	((SECONDS + $2 >= stop_at)) || stop_at=$((SECONDS + $2))
}

# Reads the console until the machine is gone, or has to go.
watch_console() {
	local part line='' code alive=1
	stop_at=$((SECONDS + timeout))
	while :; do
		code=0
		IFS= read -t 0.2 -r part <&3 || code=$?
		line+=${part%$'\r'}
		if ((code == 0)); then
			lines=$((lines + 1))
			printf '%s\n' "$line" >>"$run_dir/console.txt"
			[ -z "$show_console" ] || printf '[kernel] %s\n' "$line" >&2
			judge_line "$line"
			line=''
		elif ((!alive)); then
			return 0
		fi
		kill -0 "$machine" 2>/dev/null || alive=0
		if ((alive && SECONDS >= stop_at)); then
			[ -n "$failure" ] || timed_out=1
			kill -KILL "$machine"
		fi
	done
}

excerpt() { sed 's/^/    /' >&2; }

conclude() {
	local panics
	panics=$(grep '>>PANIC<<' "$run_dir/bochs.log" 2>/dev/null | grep -v 'shutdown requested' || true)
	if [ -n "$failure" ]; then
		say "FAILED: the kernel said: $failure"
		sed -n "$((failure_at > 8 ? failure_at - 8 : 1)),$((failure_at + 60))p" "$run_dir/console.txt" | excerpt
		return 125
	elif [ -n "$timed_out" ]; then
		say "FAILED: not done within $timeout seconds; the end of the console:"
		tail -n 40 "$run_dir/console.txt" | excerpt
		return 124
	elif [ -n "$panics" ] || [ -z "$status" ]; then
		say "FAILED: the emulated machine stopped: ${panics:-no exit status}"
		tail -n 20 "$run_dir/console.txt" "$run_dir/bochs.log" "$run_dir/bochs.out" 2>/dev/null | excerpt
		return 125
	fi
	[ -z "$keep" ] || say "CMD ended with status $status after $lines console lines"
	return "$status"
}

run() {
	local reader timed_out='' result=0
	parse_run "$@"
	trap end_run EXIT
	prepare_run
	: >"$run_dir/console.txt"
	exec 3<>"$run_dir/console.fifo" 4<>"$run_dir/output.fifo"
	cat "$run_dir/output.fifo" 3>&- 4>&- &
	reader=$!
	enter_job /lab/run sh -c "$boot_script" </dev/null 3>&- 4>&- &
	machine=$!
	watch_console
	wait "$machine" 2>/dev/null || true
	machine=''
	exec 4>&-
	wait "$reader" || true
	conclude || result=$?
	exit "$result"
}
