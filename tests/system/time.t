#!/bin/bash
# Guest time: it runs like the host's, stands still over a pause or jumps over
# it, and no clock of the guest notices that another one was stopped.
# shellcheck disable=SC2034 # used in eval
# shellcheck source=tests/system/lib.sh
. "$(dirname "$0")/lib.sh"
mini
run=(-k "$dir/mini" -m 16M -c 1 -a clocks)

# clocks NAME FROM TO: of the guest's lines in that range, the largest distance
# in microseconds of kvm-clock and of the TSC from the PM timer, seen from the
# first line on, the seconds by the PM timer, and the largest step in ms.
clocks() {
	grep "^clocks: " "$dir/$1" | sed -n "$2,$3p" | perl -e '
		use bigint;
		my ($kvm, $tsc, $step, $khz, @first, @last) = (0, 0, 0, shift);
		while (<>) {
			my @c = map { hex } (split)[1 .. 3];
			my @now = ($c[0] / 1000, $c[1] * 1000 / $khz,
				$c[2] * 1000000 / 3579545);
			@first = @last = @now unless @first;
			my $us = $now[2] - $first[2];
			for ([\$kvm, 0], [\$tsc, 1]) {
				my $d = abs($now[$$_[1]] - $first[$$_[1]] - $us);
				# The PM timer begins anew every 2 ** 24 ticks.
				$d = abs($d - 4686968) if $d > 2343484;
				${$$_[0]} = $d if $d > ${$$_[0]};
			}
			my $ms = ($now[0] - $last[0]) / 1000;
			$step = $ms if $ms > $step;
			@last = @now;
		}
		print "$kvm $tsc ", ($last[0] - $first[0]) / 1000, " $step\n"
	' "$khz"
}
lines() {
	grep -c "^clocks: " "$dir/$1"
}
more_lines() { # NAME N: wait for N more
	wait_for 30 eval "[ \"\$(lines $1)\" -ge $(($(lines "$1") + $2)) ]"
}
# drift NAME: microseconds by which guest time is behind the host's. The host's
# is read first, so the largest of some answers was disturbed least.
drift() {
	local best='' s d
	for _ in 1 2 3 4 5; do
		s=$("$ringer" ctl "$1" status)
		d=$((($(field host_ns <<<"$s") - $(field guest_ns <<<"$s")) / 1000))
		[ "$best" ] && [ $d -le "$best" ] || best=$d
	done
	echo "$best"
}

for policy in still jump; do
	flags=()
	[ $policy = still ] || flags=(--catch-up)
	start $policy "${run[@]}" "${flags[@]}"
	[ "${khz:-}" ] || {
		wait_for 10 eval '[ "$(lines still)" -ge 6 ]'
		khz=$(grep "^clocks: " "$dir/still" | sed -n 2,6p | perl -e '
			my @l = map { [map { hex } (split)[1 .. 3]] } <>;
			printf "%d\n", ($l[4][1] - $l[0][1]) * 1e6 /
				($l[4][0] - $l[0][0])')
		echo "# the TSC runs at $khz kHz"
	}
	more_lines $policy 5
	read -r kvm tsc _ _ <<<"$(clocks $policy 1 5)"
	ok "f2_kvm_clock_and_pm_timer_agree_$policy" [ "$kvm" -lt 1000 ]
	before=$(drift $policy)
	"$ringer" ctl $policy pause
	at=$(lines $policy)
	time1=$("$ringer" ctl $policy status | field guest_ns)
	start_ns=$(date +%s%N)
	sleep 3
	time2=$("$ringer" ctl $policy status | field guest_ns)
	"$ringer" ctl $policy resume
	slept=$((($(date +%s%N) - start_ns) / 1000000))
	more_lines $policy 6
	after=$(drift $policy)
	read -r kvm tsc ms step <<<"$(clocks $policy 1 $((at + 5)))"
	echo "# $policy: over a pause of $slept ms kvm-clock differs from the PM" \
		"timer by at most $kvm us, the TSC by $tsc us; steps up to $step ms;" \
		"drift $((after - before)) us"
	ok "f1_time_stands_still_while_paused_$policy" [ "$time1" = "$time2" ]
	ok "f2_kvm_clock_after_a_pause_is_right_to_1_ms_$policy" [ "$kvm" -lt 1000 ]
	ok "f1_tsc_after_a_pause_is_right_to_1_ms_$policy" [ "$tsc" -lt 1000 ]
	if [ $policy = still ]; then
		ok "f1_the_guest_sees_no_pause" [ "$step" -lt 2500 ]
		ok "f1_guest_time_is_behind_by_the_pause" eval \
			'd=$(((after - before) / 1000)); [ $d -ge 3000 ] && [ $d -le $((slept + 100)) ]'
	else
		ok "f1_the_guest_sees_a_jump" [ "$step" -ge 3000 ]
		ok "f2_catch_up_is_right_to_1_ms" eval \
			'd=$((after - before)); [ ${d#-} -lt 1000 ]'
	fi
	"$ringer" ctl $policy quit
	ended 10 $vmm
done

# ---- as Linux sees it
"$tools/guest-kernel" cloud >/dev/null 2>&1 || {
	finish
	exit
}
linux "$dir/initrd" <<'GUEST'
echo "guest: date $(date +%s)"
echo "guest: clock $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
while read -r line; do
	echo "guest: uptime $line $(cut -d' ' -f1 /proc/uptime) date $(date +%s)"
	[ "$line" != last ] || break
done
dmesg | grep -iE 'clocksource.*(unstable|skew)|tsc.*unstable|soft lockup' |
	sed 's/^/guest: BAD /'
GUEST
mkfifo "$dir/in"
"$ringer" run --accel interp --name tux -k "$kernel/vmlinuz" -i "$dir/initrd" \
	-m 256M -c 2 -a "console=ttyS0 quiet" <"$dir/in" >"$dir/tux" \
	2>"$dir/tux.err" &
vmm=$!
exec 7>"$dir/in"
wait_text 120 "$dir/tux" "guest: clock"
host=$(date +%s)
guest=$(sed -n 's/.*guest: date \([0-9]*\).*/\1/p' "$dir/tux")
ok "f12_the_rtc_gives_the_date" eval \
	'd=$((host - guest)); [ ${d#-} -le 20 ]'
ask() { # WORD: have it print its uptime; sets $host_ms and $guest_ms
	local before
	before=$(date +%s%N)
	echo "$1" >&7
	wait_text 30 "$dir/tux" "uptime $1"
	host_ms=$((($(date +%s%N) + before) / 2000000))
	guest_ms=$(sed -n "s/.*uptime $1 \([0-9]*\)\.\([0-9]*\).*/\1\20/p" "$dir/tux")
	guest_ms=$((10#$guest_ms))
}
ask first
first_host=$host_ms first_guest=$guest_ms
sleep 10
ask second
wall=$((host_ms - first_host)) up=$((guest_ms - first_guest))
echo "# $wall ms on the host were $up ms of the guest's uptime"
ok "f12_uptime_runs_like_the_wall_clock" [ \
	$((d = wall - up, (d < 0 ? -d : d) * 50 <= wall + 10000)) = 1 ]
"$ringer" ctl tux pause
sleep 3
"$ringer" ctl tux resume
second_guest=$guest_ms
ask last
ok "f1_linux_saw_no_pause" [ $((guest_ms - second_guest)) -lt 2500 ]
ended 30 $vmm
ok "f1_linux_trusts_its_clocks" eval '! has "$dir/tux" "guest: BAD"' ||
	show "$dir/tux"
ok "f7_it_powers_off_after_a_pause" [ $code = 0 ]
finish
