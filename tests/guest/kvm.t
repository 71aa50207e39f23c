#!/bin/bash
# The guests on KVM, with its interrupt chips and with the machine's own. What
# is known of KVM itself, and of a KVM without hardware behind it, which
# emulates ring 0 and not all of it, is marked as such.
set -u
here=$(dirname "$(readlink -f "$0")")
guests=${BUILD:-$here/../../build}/tests/guest
export RINGER=${RINGER:-$here/../../build/ringer}
chosen=$(mktemp -d)
trap 'rm -rf "$chosen"' EXIT

XDG_RUNTIME_DIR=$chosen timeout 20 "$RINGER" run --accel kvm \
	-k "$guests/hello.elf" -m 64M -c 1 --serial none \
	--device isa-debug-exit </dev/null >"$chosen/out" 2>&1
case $? in
1 | 3) ;;
*)
	echo "1..0 # SKIP KVM cannot be used: $(tail -n1 "$chosen/out")"
	exit 0
	;;
esac

# Guests to leave out, and tests that fail, each with the reason.
skip=$'iovec\tKVM emulates few vector instructions on device memory'
todo='x2apic_(reserved_bits|eoi_takes)|KVM does not check these bits
enabling_it_again|KVM does not reset a disabled APIC
io: c1_it_goes_on_without|KVM reads ahead of the fault'
if ! grep -qwE '^flags.*(vmx|svm)' /proc/cpuinfo; then
	none='without hardware KVM does not emulate'
	skip+="
events	$none x87 and SSE in ring 0
modes	$none legacy instructions
paging	$none all of paging
rings	$none far transfers
sensitive	$none all system instructions
smp2	$none CMPXCHG16B
smp3	$none breakpoints"
	todo+="
hello: a3_|$none INT at CPL 3
apic: c14_x2?apic_(in_service|equal|higher|eoi_|and_the)|$none ISR
apic: c14_(sti_holds|popf_has|and_not_after|nmi_comes)|$none shadows
strings: b3_stosq|$none stores that fault as a whole
time: f1_(rdtsc_at|tsd|the_tsc_can|tsc_adjust_moves)|$none the TSC and CPL 3"
fi

n=0
for accel in kvm kvm-user; do
	rm -f "$chosen"/*.elf
	for elf in "$guests"/*.elf; do
		name=$(basename "$elf" .elf)
		reason=$(awk -F'\t' -v n="$name" '$1 == n { print $2 }' \
			<<<"$skip")
		if [ -z "$reason" ]; then
			ln -s "$elf" "$chosen"
		else
			n=$((n + 1))
			echo "ok $n - $accel: $name # SKIP $reason"
		fi
	done
	while IFS= read -r line; do
		case $line in
		"ok "* | "not ok "*) ;;
		1..*) continue ;;
		*)
			echo "$line"
			continue
			;;
		esac
		n=$((n + 1))
		text=${line#*ok * - }
		reason=
		[[ $line == ok* ]] || while IFS= read -r rule; do
			if [[ $text =~ ${rule%|*} ]]; then
				reason=" # TODO ${rule##*|}"
			fi
		done <<<"$todo"
		echo "${line%% [0-9]*} $n - $accel: $text$reason"
	done < <("$here/../../tools/run-guests" $accel "$chosen")
done
echo "1..$n"
