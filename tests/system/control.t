#!/bin/bash
# A running machine listed, asked and told: every control command on a bare
# test guest that spins.
# shellcheck disable=SC2034 # used in eval
# shellcheck source=tests/system/lib.sh
. "$(dirname "$0")/lib.sh"

elf=${BUILD:-$here/../../build}/tests/guest/spin.guest
[ -e "$elf" ] || skip_all "no test guest is built"
truncate -s 1M "$dir/disk.img"

"$ringer" run --accel interp -k "$elf" -m 64M -c 2 --name one --serial none \
	--device virtio-rng -d "$dir/disk.img" --rw --device isa-debug-exit \
	</dev/null >"$dir/one" 2>"$dir/one.err" &
one=$!
for _ in $(seq 100); do
	"$ringer" ctl one status >/dev/null 2>&1 && break
	sleep 0.1
done
ctl() {
	"$ringer" ctl one "$@" 2>"$dir/err"
}
ok "a35_list_shows_it" eval '"$ringer" list | grep -q "^one .*running"'
ok "a35_list_in_json" eval '"$ringer" list --json | grep -q "\"name\": \"one\""'
ok "a32_one_process_for_a_machine" \
	[ "$("$ringer" list --json | field pid)" = "$one" ]
ok "a35_status" [ "$(ctl status | field status)" = running ]
ok "a35_pause" ctl pause
ok "a35_it_is_paused" [ "$(ctl status | field status)" = paused ]
time1=$(ctl status | field guest_ns)
sleep 0.3
ok "f1_guest_time_stands_still" [ "$(ctl status | field guest_ns)" = "$time1" ]
first=$(ctl dump gpa=0x2000 length=8)
sleep 0.2
ok "b11_memory_of_a_paused_machine_is_still" \
	[ "$(ctl dump gpa=0x2000 length=8)" = "$first" ]
ok "b11_rings_of_a_paused_machine" eval 'ctl rings | grep -qi queue'
ok "a35_resume" ctl resume
sleep 0.2
ok "a35_it_runs_on" [ "$(ctl dump gpa=0x2000 length=8)" != "$first" ]
ok "b1_xlate_gives_three_addresses" eval \
	'ctl xlate gva=0x2000 >"$dir/x" && has "$dir/x" "\"gpa\": \"0x2000\"" && has "$dir/x" "\"hva\""'
ok "b6_xlate_shows_the_walk" eval \
	'has "$dir/x" PML4 && has "$dir/x" PDPT && has "$dir/x" "\"entry\""'
ok "b6_xlate_of_nothing_says_so" eval \
	'ctl xlate gva=0x7f0000000000 | grep -q "\"mapped\": false"'
ok "b15_ports_have_owners" eval 'ctl ports | grep -q "\"owner\": \"pit\""' ||
	ctl ports | grep owner | sed 's/^/# /'
ok "b15_memory_has_owners" eval \
	'ctl memory >"$dir/m" && has "$dir/m" 0xa0000 && has "$dir/m" 0xfee00000'
ok "b2_ram_begins_at_0" eval 'grep -A3 "\"memory\"" "$dir/m" | grep -q "\"0x0\""'
ok "a17_exits_are_counted" eval 'ctl stats | grep -q "\"exit_pio\""'
ok "b11_dump_to_a_file" eval \
	'ctl dump gpa=0x100000 length=1048576 file="$dir/dump" && [ "$(stat -c %s "$dir/dump")" = 1048576 ]'
ok "registers" eval 'ctl registers cpu=1 | grep -q "\"rip\""'
ok "a_wrong_cpu_is_refused" eval '! ctl registers cpu=9 && has "$dir/err" "no CPU 9"'
ok "a_wrong_range_is_refused" eval \
	'! ctl dump gpa=0xffffffffffff length=16 && has "$dir/err" "not one range"'
ok "an_unknown_argument_is_refused" eval \
	'! ctl dump gpa=0 size=16 && has "$dir/err" unexpected'
ok "a35_reset" ctl reset
ok "a35_resets_are_counted" [ "$(ctl status | field resets)" = 1 ]

# QMP's framing: a greeting, negotiation, ids, an unknown command, no newline.
if command -v socat >/dev/null; then
	printf '%s' '{"execute":"query-status"}{"execute":"qmp_capabilities","id":1}' \
		'{"execute":"query-status","id":[2]}{"execute":"nonsense"}' |
		socat -t 2 - "UNIX-CONNECT:$XDG_RUNTIME_DIR/ringer/one/control.sock" \
			>"$dir/qmp"
	ok "qmp_greets" eval 'head -1 "$dir/qmp" | grep -q "^{\"QMP\""'
	ok "qmp_wants_negotiation" has "$dir/qmp" "Expecting capabilities"
	ok "qmp_echoes_ids" grep -q '"id": *\[2\]' "$dir/qmp"
	ok "qmp_names_unknown_commands" has "$dir/qmp" CommandNotFound
	printf '%s' '{"execute":' 'garbage}}}' |
		socat -t 2 - "UNIX-CONNECT:$XDG_RUNTIME_DIR/ringer/one/control.sock" \
			>"$dir/qmp"
	ok "qmp_says_bad_json" has "$dir/qmp" "JSON parse error"
	# Of two bytes each; whichever way the answer cuts it, it goes on.
	name=$(printf 'é%.0s' {1..300})
	printf '%s' '{"execute":"qmp_capabilities"}{"execute":"a'"$name"'"}' \
		'{"execute":"'"$name"'"}{"execute":"query-status","id":"on"}' |
		socat -t 2 - "UNIX-CONNECT:$XDG_RUNTIME_DIR/ringer/one/control.sock" \
			>"$dir/qmp"
	ok "qmp_errors_may_cut_characters" eval \
		'[ "$(grep -c CommandNotFound "$dir/qmp")" = 2 ] && has "$dir/qmp" "\"on\""' ||
		show "$dir/qmp"
	head -c 2M /dev/zero | tr '\0' '[' |
		socat -t 2 - "UNIX-CONNECT:$XDG_RUNTIME_DIR/ringer/one/control.sock" \
			>/dev/null 2>&1
	ok "it_survives_a_flood" [ "$(ctl status | field status)" = running ]
fi

# Without descriptors: clients are sent away, and the loop sleeps.
limit=$(prlimit --pid $one --nofile --output SOFT --noheadings 2>/dev/null)
if [ -n "$limit" ]; then
	free=0
	while [ -e /proc/$one/fd/$free ]; do
		free=$((free + 1))
	done
	prlimit --pid $one --nofile=$free:
	ok "a_client_is_refused" eval \
		'! timeout 10 "$ringer" ctl one status 2>"$dir/err" && has "$dir/err" "ended before"'
	ticks=$(awk '{ print $14 + $15 }' /proc/$one/task/$one/stat)
	sleep 1
	ok "the_loop_sleeps_on" [ $(($(awk '{ print $14 + $15 }' \
		/proc/$one/task/$one/stat) - ticks)) -lt 50 ]
	prlimit --pid $one --nofile="$limit:"
	ok "a_client_is_served_again" [ "$(ctl status | field status)" = running ]
fi

# A name and a disk belong to one machine.
"$ringer" run --accel interp -k "$elf" --name one --serial none </dev/null \
	>/dev/null 2>"$dir/err"
code=$?
ok "a33_the_name_is_taken" eval '[ $code = 125 ] && has "$dir/err" "is running"'
timeout 10 "$ringer" run --accel interp -k "$elf" --name two --serial none \
	-d "$dir/disk.img" --rw </dev/null >/dev/null 2>"$dir/err"
code=$?
ok "a33_the_disk_is_locked" eval '[ $code = 125 ] && has "$dir/err" "in use"'

# Another machine's memory is another's (A20): same address, own pattern.
"$ringer" run --accel interp -k "$elf" --name three -m 64M -c 1 --serial none \
	--paused </dev/null >/dev/null 2>&1 &
three=$!
for _ in $(seq 100); do
	"$ringer" ctl three status >/dev/null 2>&1 && break
	sleep 0.1
done
ok "a20_two_machines_do_not_share_memory" eval \
	'"$ringer" ctl three dump gpa=0x2000 length=8 | grep -q " 00 00 00 00 00 00 00 00"'
ok "a35_started_paused" [ "$("$ringer" ctl three status | field status)" = paused ]
"$ringer" ctl three quit
wait $three
ok "a35_quit_is_exit_code_0" [ $? = 0 ]

kill -9 $one
wait $one 2>/dev/null
ok "what_a_killed_machine_left_is_not_listed" eval \
	'[ -z "$("$ringer" list -q)" ]'
finish
