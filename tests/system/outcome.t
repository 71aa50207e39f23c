#!/bin/bash
# How a machine ends, and the exit code that says so.
# shellcheck source=tests/system/lib.sh
. "$(dirname "$0")/lib.sh"
mini

ends() { # NAME CODE MESSAGE PROGRAM ARGS...: MESSAGE on stderr, or "" for none
	local name=$1 want=$2 message=$3 program=$4
	shift 4
	guest 20 "$dir/out" --accel interp -k "$dir/mini" -m 16M -c 1 \
		-a "say started $program" "$@"
	if [ $code = "$want" ] && has "$dir/out" started &&
		if [ "$message" ]; then
			[ "$(cat "$dir/out.err")" = "ringer: warning: $message" ]
		else
			[ ! -s "$dir/out.err" ]
		fi; then
		ok "$name" true
	else
		ok "$name" false
		echo "# exit code $code, expected $want and '$message'"
		show "$dir/out"
		show "$dir/out.err"
	fi
}

# ---- what the guest does
ends f7_poweroff_is_0 0 "" poweroff
ends a15_triple_fault_is_111 111 "CPU 0: triple fault" triple
ends g13_pvpanic_is_110 110 "the guest's kernel crashed" panic
for v in 0 1 21; do
	ends "isa_debug_exit_of_$v" $((v * 2 + 1)) "" "exit $v" \
		--device isa-debug-exit
done
ends isa_debug_exit_is_not_there_unasked 0 "" "exit 5 poweroff"
ends a15_reset_ends_it_with_no_reboot 111 "the guest reset the machine" \
	reset --no-reboot
ends keyboard_reset_ends_it_with_no_reboot 111 "the guest reset the machine" \
	kbdreset --no-reboot
ends b9_unmapped_is_ignored 0 "" "nowhere poweroff"
ends b9_unmapped_kills 125 \
	"CPU 0: write of 4 bytes at 0xd0000000, where nothing is" \
	nowhere --unmapped kill
ends b9_unmapped_is_a_fault 111 "CPU 0: triple fault" nowhere --unmapped inject

# ---- a reset runs the machine anew
run=(-k "$dir/mini" -m 16M -c 1)
for how in reset kbdreset; do
	start again "${run[@]}" -a "say booted $how"
	wait_for 20 eval '[ "$(grep -c booted "$dir/again")" -ge 5 ]'
	ok "g2_it_boots_again_after_$how" [ $? = 0 ]
	resets=$("$ringer" ctl again status | field resets)
	ok "a35_${how}_is_counted" [ "${resets:-0}" -ge 4 ]
	"$ringer" ctl again quit
	ended 10 $vmm
	ok "a35_quit_is_0_after_$how" [ $code = 0 ]
done

# ---- what the user does
start hung "${run[@]}" -a "say up hang"
kill -TERM $vmm
ended 10 $vmm
ok "sigterm_is_143" [ $code = 143 ]
ok "nothing_is_left_after_sigterm" [ -z "$(ls "$XDG_RUNTIME_DIR/ringer")" ]

start hung "${run[@]}" -a "say up count"
kill -HUP $vmm
ended 10 $vmm
ok "sighup_is_129" [ $code = 129 ]

start asked "${run[@]}" -a "button"
wait_text 10 "$dir/asked" waiting
kill -INT $vmm
ended 10 $vmm
ok "sigint_is_the_power_button" has "$dir/asked" "the power button"
ok "sigint_says_so" has "$dir/asked.err" "once more ends it"
ok "the_guest_powered_off_is_0" [ $code = 0 ]

start deaf "${run[@]}" -a "say up hang"
wait_text 10 "$dir/deaf" up
kill -INT $vmm
wait_text 10 "$dir/deaf.err" "once more ends it"
ok "it_does_not_end_at_the_first_sigint" eval \
	'"$ringer" ctl deaf status >/dev/null'
kill -INT $vmm
ended 10 $vmm
ok "sigint_twice_is_130" [ $code = 130 ]

start told "${run[@]}" -a "button"
wait_text 10 "$dir/told" waiting
"$ringer" ctl told powerdown
ended 10 $vmm
ok "a35_powerdown_asks_the_guest" has "$dir/told" "the power button"
ok "a35_powerdown_is_0" [ $code = 0 ]

start gone "${run[@]}" -a "say up count"
kill -KILL $vmm
wait $vmm 2>/dev/null
ok "a_killed_name_is_free_again" eval \
	'guest 10 "$dir/out" "${run[@]}" --accel interp --name gone -a poweroff && [ $code = 0 ]'

# ---- Linux: a panic, and the power button through ACPI
if kernel=$("$tools/guest-kernel" cloud 2>/dev/null); then
	linux "$dir/initrd" pvpanic-mmio button evdev <<'GUEST'
mkdir -p /etc/acpi/PWRF
cat >/etc/acpi/PWRF/00000080 <<'EOF'
#!/bin/sh
echo "guest: pressed"
poweroff -f
EOF
chmod +x /etc/acpi/PWRF/00000080
if grep -q crash /proc/cmdline; then
	echo 1 >/proc/sys/kernel/sysrq
	echo "guest: crashing"
	echo c >/proc/sysrq-trigger
fi
acpid -d -c /etc/acpi &
sleep 1 # it opens its files
echo "guest: ready"
wait
GUEST
	linux_run=(-k "$kernel/vmlinuz" -i "$dir/initrd" -m 256M -c 1)
	# Both at once: the second one boots while the first one crashes.
	start crash "${linux_run[@]}" -a "console=ttyS0 quiet panic=0 crash"
	crash=$vmm
	start press "${linux_run[@]}" -a "console=ttyS0 quiet"
	wait_text 120 "$dir/press" "guest: ready"
	kill -INT $vmm
	ended 30 $vmm
	ok "g12_linux_hears_the_power_button" has "$dir/press" "guest: pressed" ||
		show "$dir/press"
	ok "g12_linux_powers_off" [ $code = 0 ]
	ended 120 $crash
	ok "g13_linux_panic_is_110" [ $code = 110 ] || {
		echo "# exit code $code"
		show "$dir/crash"
	}
	ok "g13_the_panic_is_on_the_console" \
		has "$dir/crash" "Kernel panic - not syncing"
fi
ok "no_timeout_option" eval \
	'! "$ringer" run --help | grep -q -- --timeout'
finish
