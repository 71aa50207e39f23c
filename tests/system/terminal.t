#!/bin/bash
# Consoles: a terminal and its escape keys, pipes, files, sockets, two serial
# ports, the debug console, and a virtio console that knows its size.
# shellcheck disable=SC2034 # used in eval
# shellcheck source=tests/system/lib.sh
. "$(dirname "$0")/lib.sh"
command -v socat >/dev/null || skip_all "no socat"
mini
run=(-k "$dir/mini" -m 16M -c 1)

# A terminal: keys typed into fd 8 arrive on fd 9, what is written to fd 9 is
# shown in $dir/screen.
mkfifo "$dir/keys"
exec 8<>"$dir/keys"
socat "PTY,link=$dir/tty" STDIO <"$dir/keys" >"$dir/screen" 2>/dev/null &
wait_for 10 [ -e "$dir/tty" ]
exec 9<>"$dir/tty"
stty rows 33 cols 77 <&9
mode=$(stty -g <&9)

on_tty() { # NAME ARGS...
	local name=$1
	shift
	"$ringer" run --accel interp --name "$name" "$@" <&9 >&9 2>&9 &
	vmm=$!
	wait_for 20 "$ringer" ctl "$name" status
}
screen() { # TEXT: it comes to be shown
	wait_text 20 "$dir/screen" "$1"
}
on_tty keys "${run[@]}" -a "echo say over"
screen echo:
ok the_terminal_is_raw eval 'stty -a <&9 | grep -q -- "-isig -icanon"'
ok the_terminal_does_not_echo eval 'stty -a <&9 | grep -q -- "-echo "'
printf 'abc' >&8
ok typed_keys_reach_the_guest screen abc
printf '\001h' >&8
ok ctrl_a_h_helps screen "Ctrl-a x       end the machine"
printf '\001\001\003.' >&8
screen $'\003.'
ok ctrl_a_twice_is_one_and_ctrl_c_is_the_guests eval \
	'[ "$(tr -cd "\001\003" <"$dir/screen" | od -An -tx1)" = " 01 03" ]'
ok ctrl_c_does_not_end_it kill -0 $vmm
printf '\001x' >&8
ended 10 $vmm
ok ctrl_a_x_ends_it_with_0 [ $code = 0 ]
ok the_terminal_is_restored [ "$(stty -g <&9)" = "$mode" ]

on_tty stuck "${run[@]}" -a "say stuck hang"
screen stuck
head -c 5000 /dev/zero | tr '\0' z >&8 # more than the guest will ever take
printf '\001x' >&8
ended 10 $vmm
ok ctrl_a_x_ends_a_guest_that_hangs [ $code = 0 ]

on_tty killed "${run[@]}" -a "say running count"
screen running
kill -TERM $vmm
ended 10 $vmm
ok the_terminal_is_restored_after_sigterm [ "$code-$(stty -g <&9)" = "143-$mode" ]

"$ringer" run --accel interp "${run[@]}" --device warp-drive <&9 >/dev/null 2>&1
ok the_terminal_is_restored_after_an_error [ "$(stty -g <&9)" = "$mode" ]

on_tty other "${run[@]}" --serial none --debugcon stdio -a "debug hello hang"
screen hello
printf '\001x' >&8
ended 10 $vmm
ok ctrl_a_x_works_on_other_consoles [ $code = 0 ]

# ---- without a terminal
printf '\001xabc' | "$ringer" run --accel interp --name piped "${run[@]}" \
	-a "echo" >"$dir/piped" 2>&1 &
wait_for 20 has "$dir/piped" abc
ok from_a_pipe_every_byte_is_data eval \
	'grep -q "$(printf "\001xabc")" "$dir/piped"'
ok end_of_input_does_not_end_it [ "$("$ringer" ctl piped status |
	field status)" = running ]
"$ringer" ctl piped quit

yes | head -c 80000 | tr '\n' y | sed 's/$/q/' |
	timeout 60 "$ringer" run --accel interp "${run[@]}" -a "echo poweroff" \
		>"$dir/flood" 2>&1
ok a_flood_of_input_is_not_lost [ "$(tr -d '\n' <"$dir/flood" | wc -c)" = 80006 ]
ok the_last_output_is_not_lost_at_the_end [ "$(tail -c 2 "$dir/flood" | head -c 1)" = q ]
timeout 20 "$ringer" run --accel interp "${run[@]}" -a "say x poweroff" \
	</dev/null >/dev/full 2>"$dir/err"
ok a_full_disk_behind_stdout_does_not_stop_the_guest [ $? = 0 ]
timeout 20 "$ringer" run --accel interp "${run[@]}" -a "say x poweroff" \
	<&- >"$dir/out" 2>"$dir/err"
ok a_closed_stdin_is_no_input has "$dir/out" x

# ---- where serial ports lead
: >"$dir/file"
guest 20 "$dir/out" --accel interp "${run[@]}" --serial "file:$dir/file" \
	--serial stdio --debugcon "file:$dir/debug" \
	-a "say first com2 second debug third poweroff"
ok serial_to_a_file [ "$(tr -d '\r' <"$dir/file")" = first ]
ok a_second_serial_port [ "$(tr -d '\r' <"$dir/out")" = second ]
ok debugcon_to_a_file [ "$(cat "$dir/debug")" = third ]
guest 20 "$dir/out" --accel interp "${run[@]}" --serial none \
	-a "say nothing poweroff"
ok serial_to_none eval '[ $code = 0 ] && [ ! -s "$dir/out" ]'
guest 20 "$dir/out" --accel interp "${run[@]}" --debugcon stdio
ok stdio_has_one_user eval \
	'[ $code = 125 ] && has "$dir/out.err" "stdio is in use"'

start socket "${run[@]}" --serial "unix:$dir/sock" -a "echo say bye poweroff"
one=$(printf 'one' | socat -t 1 - "UNIX-CONNECT:$dir/sock" | tr -d '\r\n')
ok serial_on_a_socket eval '[[ $one == *one ]]'
two=$(printf 'twoq' | socat -t 2 - "UNIX-CONNECT:$dir/sock" | tr -d '\r\n')
ok the_next_client_gets_it eval '[[ $two == twoqbye ]]' || echo "# '$two'"
ended 10 $vmm
ok the_socket_is_gone_at_the_end eval '[ $code = 0 ] && [ ! -e "$dir/sock" ]'

# ---- Linux on hvc0
if "$tools/guest-kernel" cloud >/dev/null 2>&1; then
	linux "$dir/initrd" virtio_pci virtio_console <<'GUEST'
echo "second port" >/dev/ttyS1
exec </dev/hvc0 >/dev/hvc0
stty -echo
size=$(stty size)
echo "guest: size $size"
read -r line
echo "guest: read $line"
while [ "$(stty size)" = "$size" ]; do
	usleep 100000
done
echo "guest: now $(stty size)"
GUEST
	on_tty hvc -k "$kernel/vmlinuz" -i "$dir/initrd" -m 256M -c 1 \
		--serial "file:$dir/com1" --serial "file:$dir/com2" \
		--device virtio-console,chardev=stdio -a "console=ttyS0 quiet"
	wait_text 120 "$dir/screen" "guest: size"
	ok g13_virtio_console_has_the_terminals_size screen "guest: size 33 77" ||
		grep -a size "$dir/screen"
	printf 'a line\r' >&8
	ok g13_virtio_console_reads screen "guest: read a line"
	stty rows 44 cols 99 <&9
	kill -WINCH $vmm # the kernel does it for a terminal that controls
	ok g13_virtio_console_is_resized screen "guest: now 44 99"
	ended 20 $vmm
	ok g13_it_powers_off [ $code = 0 ] || {
		show "$dir/com1"
		show "$dir/screen"
	}
	ok linux_has_a_second_serial_port has "$dir/com2" "second port"
	ok the_terminal_is_restored_after_linux [ "$(stty -g <&9)" = "$mode" ]
fi
finish
