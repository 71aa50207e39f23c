# For system tests, sourced: TAP from shell, guests with a time limit.
# shellcheck shell=bash
# shellcheck disable=SC2034 # what is set for the tests
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tools=$here/../../tools
ringer=${RINGER:-$here/../../build/ringer}
[ -x "$ringer" ] || {
	echo "1..0 # SKIP no $ringer"
	exit 0
}
dir=$(mktemp -d)
XDG_RUNTIME_DIR=$dir/run
export XDG_RUNTIME_DIR
mkdir -m 700 "$XDG_RUNTIME_DIR"
tap=0 failed=0
cleanup() {
	jobs -p | xargs -r kill 2>/dev/null
	rm -rf "$dir"
}
trap cleanup EXIT

skip_all() { # REASON
	echo "1..0 # SKIP $1"
	exit 0
}

ok() { # NAME COMMAND...: passes when the command succeeds
	local name=$1
	shift
	tap=$((tap + 1))
	if "$@"; then
		echo "ok $tap - $name"
	else
		echo "not ok $tap - $name"
		failed=1
		return 1
	fi
}

show() { # FILE: as a diagnostic, when something failed
	sed 's/^/# /' "$1" | tail -n "${2:-25}"
}

finish() {
	echo "1..$tap"
	exit $failed
}

# guest SECONDS OUT ARGS...: run a machine, its console to OUT, its messages
# to OUT.err; sets $code. Without input, as from a script.
guest() {
	local limit=$1 out=$2
	shift 2
	timeout "$limit" "$ringer" run "$@" </dev/null >"$out" 2>"$out.err"
	code=$?
}

has() { # FILE TEXT
	grep -qF -- "$2" "$1"
}

# mini [FLAG...]: build the guest of guest/mini.c as $dir/mini.
mini() {
	gcc -m32 -Os -ffreestanding -fno-pic -no-pie -nostdlib -static \
		-mgeneral-regs-only -fno-stack-protector -fcf-protection=none \
		-fno-asynchronous-unwind-tables -Wall -Wextra \
		-Wl,--build-id=none -Wl,-z,max-page-size=4096 \
		-Wl,--no-warn-rwx-segments -T "$here/guest/mini.ld" "$@" \
		-o "$dir/mini" "$here/guest/mini.c" || skip_all "no 32-bit compiler"
}

# linux OUT MODULE... [-- FILE...] <SCRIPT: set $kernel and make an initrd that
# runs the script.
linux() {
	local out=$1
	shift
	kernel=$("$tools/guest-kernel" "${KERNEL:-cloud}" 2>/dev/null) ||
		skip_all "no Debian kernel package can be had"
	cat >"$out.script"
	"$tools/guest-initrd" "$kernel" "$out.script" "$out" "$@" ||
		skip_all "no initrd could be made"
}

# start NAME ARGS...: a machine in the background, its console to $dir/NAME, its
# messages to $dir/NAME.err; sets $vmm. Returns when it can be talked to.
start() {
	local name=$1
	shift
	"$ringer" run --name "$name" --accel interp "$@" </dev/null \
		>"$dir/$name" 2>"$dir/$name.err" &
	vmm=$!
	wait_for 20 "$ringer" ctl "$name" status
}

# wait_for SECONDS COMMAND...: until it succeeds, quietly.
wait_for() {
	local end_=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end_ ] || return 1
		sleep 0.05
	done
}

# wait_text SECONDS FILE TEXT: until it is there, or the machine $vmm is gone
wait_text() {
	wait_for "$1" has_or_gone "$2" "$3"
	has "$2" "$3"
}
has_or_gone() {
	has "$@" || ! kill -0 "$vmm"
}

# ended SECONDS PID: wait for it to end; sets $code.
ended() {
	wait_for "$1" eval '! kill -0 '"$2" || kill -9 "$2"
	wait "$2" 2>/dev/null
	code=$?
}

# field NAME: of the JSON on stdin, the first of that name
field() {
	sed -n "s/^ *\"$1\": *\"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}\$/\1/p" |
		head -1
}
