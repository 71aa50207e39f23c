#!/bin/bash
# CPUs as the guest and the host see them: topology, profiles, processes that
# share a host CPU, memory that is not shared, and which accelerator runs.
# shellcheck source=tests/system/lib.sh
. "$(dirname "$0")/lib.sh"
mini
run=(-k "$dir/mini" -m 16M -c 1)

# ---- A19: machines share a host CPU
count() { # NAME: what it has counted
	local bytes
	bytes=$("$ringer" ctl "$1" dump gpa=0x2000 length=8 |
		sed -n 's/.*"0*2000 *\(.*\)".*/\1/p')
	# shellcheck disable=SC2086 # eight words
	set -- $bytes
	echo $((0x$8$7$6$5$4$3$2$1))
}
if command -v taskset >/dev/null; then
	for name in left right; do
		start $name "${run[@]}" -a count
		taskset -apc 0 $vmm >/dev/null
	done
	left=$(count left) right=$(count right)
	sleep 2
	left=$(($(count left) - left)) right=$(($(count right) - right))
	echo "# pinned to one CPU for 2 s they counted to $left and $right"
	ok a19_two_machines_on_one_cpu_progress \
		[ $((left > 1000 && right > 1000)) = 1 ]
	ok a19_neither_starves [ $((left < 5 * right && right < 5 * left)) = 1 ]
	"$ringer" ctl left quit
	"$ringer" ctl right quit
fi

# ---- A20: the same address in two machines
start aa "${run[@]}" -a "fill aa"
start bb "${run[@]}" -a "fill bb"
wait_text 10 "$dir/aa" filled
wait_text 10 "$dir/bb" filled
for vm in aa bb; do
	"$ringer" ctl $vm dump gpa=0x1000 length=4096 file="$dir/$vm.page" >/dev/null
	ok "a20_${vm}_has_its_own_pattern" [ \
		"$(od -An -v -tx1 "$dir/$vm.page" | tr -s ' \n' '\n\n' |
			sort -u | xargs)" = $vm ]
	ok "a20_${vm}_saw_no_other" eval '! has "$dir/$vm" another'
done
"$ringer" ctl aa quit
"$ringer" ctl bb quit

# ---- A32: a process like others
start plain "${run[@]}" -a count
ok a32_ps_shows_its_name [ "$(cat /proc/$vmm/comm)" = ringer ]
ok a32_it_has_no_children [ -z "$(cat /proc/$vmm/task/*/children)" ]
ok a32_its_cpus_are_named_threads grep -qx vcpu0 /proc/$vmm/task/*/comm
"$ringer" ctl plain quit
ended 10 $vmm
if [ "$(id -u)" = 0 ]; then
	mkdir "$dir/nobody" "$dir/nobody/run"
	cp "$ringer" "$dir/mini" "$dir/nobody/"
	chown -R 65534:65534 "$dir/nobody"
	chmod 711 "$dir"
	XDG_RUNTIME_DIR=$dir/nobody/run setpriv --reuid 65534 --regid 65534 \
		--clear-groups --inh-caps=-all --bounding-set=-all \
		timeout 20 "$dir/nobody/ringer" run -k "$dir/nobody/mini" \
		--accel interp -a "say unprivileged poweroff" </dev/null \
		>"$dir/out" 2>"$dir/err"
	ok a32_runs_without_privileges [ "$?-$(cat "$dir/out")" = 0-unprivileged ] ||
		show "$dir/err"
else
	guest 20 "$dir/out" "${run[@]}" --accel interp -a "say mine poweroff"
	ok a32_runs_without_privileges has "$dir/out" mine
fi

# ---- A13: which accelerator, and why
guest 20 "$dir/out" "${run[@]}" --accel auto -a "poweroff"
ok a13_auto_runs [ $code = 0 ]
ok g1_auto_says_which_and_why eval \
	'[ "$(grep -c "^ringer: accel: [a-z]*, .*instructions/s (.*)$" "$dir/out.err")" = 1 ]' ||
	show "$dir/out.err"
guest 20 "$dir/out" "${run[@]}" --accel interp -a "poweroff"
ok a13_a_choice_is_not_discussed [ ! -s "$dir/out.err" ]

# ---- A22, A26, A27: Linux on four CPUs, one machine after the other
if "$tools/guest-kernel" cloud >/dev/null 2>&1; then
	linux "$dir/initrd" <<'GUEST'
awk -F '[\t ]*: ' '
	/^physical id/ { p = $2 } /^siblings/ { s = $2 }
	/^cpu cores/ { c = $2; print "guest: cpu in " p " core " core " siblings " s " cores " c }
	/^core id/ { core = $2 }' /proc/cpuinfo
echo "guest: threads $(cat /sys/devices/system/cpu/cpu0/topology/thread_siblings_list) $(cat /sys/devices/system/cpu/cpu3/topology/thread_siblings_list)"
echo "guest: hypervisor $(grep -c hypervisor /proc/cpuinfo)"
echo "guest: clocks $(cat /sys/devices/system/clocksource/clocksource0/available_clocksource)"
i=0
while [ $i -lt 200 ]; do
	/bin/busybox true
	i=$((i + 1))
done
echo "guest: end"
sleep 1000
GUEST
	linux_run=(-k "$kernel/vmlinuz" -i "$dir/initrd" -m 256M
		-a "console=ttyS0 quiet")
	exits() { # NAME KIND: of all CPUs
		"$ringer" ctl "$1" stats | awk -F '[:,]' -v kind="\"$2\"" '
			index($0, kind) { sum += $2 } END { print sum + 0 }'
	}
	apic() { # NAME: accesses to the local APICs' page
		"$ringer" ctl "$1" memory | awk -F '[:,]' '
			/"owner"/ { on = /"lapic"/ }
			on && /"reads"|"writes"/ { sum += $2 }
			END { print sum + 0 }'
	}
	declare -A n
	boot() { # NAME ARGS...: to the end of its script, and its counters
		start "$@" "${linux_run[@]}"
		wait_text 150 "$dir/$1" "guest: end"
		for kind in interrupts exit_msr exit_hypercall; do
			n[$1_$kind]=$(exits "$1" $kind)
		done
		n[$1_apic]=$(apic "$1")
		"$ringer" ctl "$1" quit
		ended 10 $vmm
	}
	# Linux makes hypercalls for IPIs to several CPUs, and now and then has none.
	for _ in 1 2 3 4; do
		boot pv -c 4,sockets=2,cores=2
		[ "${n[pv_exit_hypercall]}" = 0 ] || break
	done
	boot full -c 4,cores=2,threads=2 --profile full
	sockets=$(tr -d '\r' <"$dir/pv" | grep "guest: cpu in")
	ok a22_two_sockets_of_two_cores [ "$sockets" = "$(
		printf 'guest: cpu in %s siblings 2 cores 2\n' \
			"0 core 0" "0 core 1" "1 core 0" "1 core 1"
	)" ] || show "$dir/pv"
	ok a22_no_threads_there has "$dir/pv" "guest: threads 0 3"
	cores=$(tr -d '\r' <"$dir/full" | grep "guest: cpu in")
	ok a22_two_cores_of_two_threads [ "$cores" = "$(
		printf 'guest: cpu in %s siblings 4 cores 2\n' \
			"0 core 0" "0 core 0" "0 core 1" "0 core 1"
	)" ] || show "$dir/full"
	ok a22_threads_share_a_core has "$dir/full" "guest: threads 0-1 2-3"
	ok a27_pv_has_a_hypervisor_bit has "$dir/pv" "guest: hypervisor 4"
	ok a26_full_has_none has "$dir/full" "guest: hypervisor 0"
	ok f2_pv_has_kvm_clock has "$dir/pv" "kvm-clock"
	ok a26_full_has_no_kvm_clock eval '! has "$dir/full" kvm-clock'
	echo "# pv: ${n[pv_interrupts]} interrupts, ${n[pv_apic]} local APIC accesses," \
		"${n[pv_exit_msr]} MSRs, ${n[pv_exit_hypercall]} hypercalls; full:" \
		"${n[full_interrupts]}, ${n[full_apic]}, ${n[full_exit_msr]}, ${n[full_exit_hypercall]}"
	ok a27_pv_has_fewer_exits_for_each_interrupt [ $((
	(n[pv_apic] + n[pv_exit_msr] + n[pv_exit_hypercall]) * n[full_interrupts] * 3 <
	(n[full_apic] + n[full_exit_msr]) * n[pv_interrupts] * 2)) = 1 ]
	ok c8_hypercalls_are_answered [ "${n[pv_exit_hypercall]}" -gt 0 ]
	ok a26_full_makes_no_hypercall [ "${n[full_exit_hypercall]}" = 0 ]
fi
finish
