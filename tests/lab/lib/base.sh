# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Messages, keys, locks and long steps.

die() {
	printf 'lab: %s\n' "$@" >&2
	exit 125
}

elapsed() { printf '%d:%02d' $((SECONDS / 60)) $((SECONDS % 60)); }

say() { printf 'lab [%s] %s\n' "$(elapsed)" "$*" >&2; }

# The first 12 digits of the hash of the input.
key_of_text() { sha256sum | cut -c1-12; }

# lock_part DIR: one builder of a part at a time.  A second one waits, and then
# finds the part done.
lock_part() {
	local name=${1##*/}
	mkdir -p "$cache/lock"
	exec 9>"$cache/lock/$name"
	flock -n 9 && return
	say "$name is being built by somebody else, waiting"
	flock 9
}

# A step's process is killed with us; what it left is resumed the next time.
step_pid=
kill_step() { [ -z "$step_pid" ] || kill -KILL "$step_pid" 2>/dev/null || true; }

# long_step NAME EXPECTED_LINES CMD...: run CMD with its output in a log of its
# own, and show how far the log has come.
long_step() {
	local name=$1 expected=$2 log shown=0 every=30 status=0
	log="$cache/log/$name.log"
	shift 2
	mkdir -p "$cache/log"
	[ ! -t 2 ] || every=1
	say "$name: started, log $log"
	"$@" >"$log" 2>&1 </dev/null 9>&- &
	step_pid=$!
	trap kill_step EXIT
	while kill -0 "$step_pid" 2>/dev/null; do
		sleep 0.2
		((SECONDS - shown >= every)) || continue
		shown=$SECONDS
		show_progress "$name" "$expected" "$log"
	done
	wait "$step_pid" || status=$?
	step_pid=
	[ ! -t 2 ] || printf '\r\033[K' >&2
	if ((status != 0)); then
		tail -n 30 "$log" >&2
		die "$name failed with status $status; the whole log: $log"
	fi
	say "$name: done"
}

show_progress() {
	local lines percent=
	lines=$(wc -l <"$3")
	(($2 == 0)) || percent=" of about $2 lines"
	if [ -t 2 ]; then
		printf '\r\033[Klab [%s] %s: %d%s' "$(elapsed)" "$1" "$lines" "$percent" >&2
	else
		say "$1: $lines$percent"
	fi
}
