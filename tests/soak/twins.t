#!/bin/bash
# Two machines at once beside busy loops of the host: their clocks still run
# like the wall's, and neither complains.
# shellcheck source=tests/system/lib.sh
. "$(dirname "$0")/../system/lib.sh"
seconds=${TWINS_SECONDS:-120}

linux "$dir/initrd" virtio_pci virtio_console <<'GUEST'
echo "guest: ready"
while read -r line; do
	echo "guest: $line $(cut -d' ' -f1 /proc/uptime)"
	[ "$line" != last ] || break
done
dmesg | grep -iE 'bug:|warning:|oops|soft lockup|stall|unstable|skew' |
	sed 's/^/guest: BAD /'
GUEST
for _ in $(seq "$(nproc)"); do
	(while :; do :; done) &
done
for twin in one two; do
	mkfifo "$dir/$twin.in"
	"$ringer" run --accel "${ACCEL:-interp}" --name $twin \
		-k "$kernel/vmlinuz" -i "$dir/initrd" -m 256M -c 2 \
		-a "console=ttyS0 quiet" <"$dir/$twin.in" >"$dir/$twin" \
		2>"$dir/$twin.err" &
	declare "$twin=$!"
	exec {fd}>"$dir/$twin.in"
	declare "${twin}_in=$fd"
done
ask() { # TWIN WORD: sets $wall_ms and $up_ms
	local from in=$1_in
	from=$(date +%s%N)
	echo "$2" >&"${!in}"
	vmm=${!1} wait_text 60 "$dir/$1" "guest: $2"
	wall_ms=$((($(date +%s%N) + from) / 2000000))
	up_ms=$(sed -n "s/.*guest: $2 \([0-9]*\)\.\([0-9]*\).*/\1\20/p" "$dir/$1")
}
declare -A wall0 up0
for twin in one two; do
	vmm=${!twin} wait_text 300 "$dir/$twin" "guest: ready"
	ok "a19_${twin}_boots_beside_busy_loops" has "$dir/$twin" "guest: ready" ||
		show "$dir/$twin"
	ask $twin first
	wall0[$twin]=$wall_ms up0[$twin]=$up_ms
done
sleep "$seconds"
for twin in one two; do
	ask $twin last
	wall=$((wall_ms - ${wall0[$twin]})) up=$((up_ms - ${up0[$twin]}))
	echo "# $twin: $wall ms of the host were $up ms of the guest"
	ok "f12_${twin}_keeps_time_within_2_percent" [ \
		$((d = wall - up, (d < 0 ? -d : d) * 50 <= wall)) = 1 ]
	ended 60 "${!twin}"
	ok "f7_${twin}_powers_off" [ $code = 0 ]
	ok "a25_${twin}_does_not_complain" eval '! has "$dir/$twin" "guest: BAD"' ||
		show "$dir/$twin"
done
finish
