#!/bin/bash
# What happens to accesses that neither memory nor a device answers: ignored,
# the end of the machine, or an exception; and RAM that is there when touched.
# shellcheck source=tests/system/lib.sh
. "$(dirname "$0")/lib.sh"

guests=$(dirname "$ringer")/tests/guest

# touch POLICY ACCEL: run the guest that touches nothing, its words to $dir/out
touch_nothing() {
	guest 60 "$dir/out" --unmapped "$1" --accel "$2" \
		-k "$guests/unmapped.guest" -m 64M -c 1 --serial none \
		--debugcon stdio --device isa-debug-exit
}

check() { # ACCEL
	touch_nothing ignore "$1"
	ok "b9 $1: ignore: the guest ran to its end" [ $code = 1 ]
	ok "b9 $1: ignore: reading and writing are nothing special" eval '
		has "$dir/out" "read: vector -1" &&
		has "$dir/out" "write: vector -1" &&
		has "$dir/out" "locked: vector -1"'

	touch_nothing inject "$1"
	ok "b9 $1: inject: the guest ran to its end" [ $code = 1 ]
	ok "b9 $1: inject: #GP with an error code of 0" eval '
		has "$dir/out" "read: vector 13 error 0" &&
		has "$dir/out" "write: vector 13 error 0" &&
		has "$dir/out" "locked: vector 13"'
	ok "b10 $1: inject: a write to ROM is dropped, not refused" \
		has "$dir/out" "rom: vector -1"
	ok "b9 $1: inject: ports float, as on every PC" \
		has "$dir/out" "port: vector -1"

	touch_nothing kill "$1"
	ok "b9 $1: kill: the machine ended and says it failed" [ $code = 125 ]
	ok "b9 $1: kill: it says where" has "$dir/out.err" 0xd0000000
	ok "b9 $1: kill: the guest went no further" \
		eval '! has "$dir/out" "read:"'
}

check interp
touch_nothing ignore kvm
if [ $code = 1 ]; then
	check kvm
else
	tap=$((tap + 1))
	echo "ok $tap - b9 kvm # SKIP KVM cannot be used"
fi

touch_nothing perhaps interp
ok "b9 a policy that is none is refused" [ $code = 2 ]
ok "b9 and the message names those that are" \
	has "$dir/out.err" "ignore, kill"

# A machine with more RAM than it touches costs what it touches.
start lazy -k "$guests/spin.guest" -m 4G -c 1 --serial none
rss_kb=$(awk '/^VmRSS/ { print $2 }' "/proc/$vmm/status")
ok "b9 4 GiB of RAM take less than 256 MiB untouched ($rss_kb KiB)" \
	[ "${rss_kb:-999999999}" -lt 262144 ]
kill $vmm
ended 10 $vmm
finish
