#!/bin/bash
# Debian's cloud kernel to user space with every translated block compared
# with the reference processor, and a short workload.
# shellcheck source=tests/system/lib.sh
. "$(dirname "$0")/lib.sh"

linux "$dir/initrd" <<'GUEST'
echo "guest: up"
seq 1 2000 >/tmp/seq
md5sum /tmp/seq | sed 's/^/guest: /'
gzip -c /tmp/seq | gunzip -c | sha256sum | sed 's/^/guest: /'
sort -rn /tmp/seq | awk '{ s += $1 * 1.5 } END { printf "guest: sum %.1f\n", s }'
dmesg | grep -iE 'bug:|oops|unable to handle' | sed 's/^/guest: BAD /'
echo "guest: end"
GUEST
sum=$(seq 1 2000 | sha256sum | cut -d' ' -f1)

guest "${LIMIT:-400}" "$dir/one" --stats --accel bt,check=lockstep -c 1 \
	-k "$kernel/vmlinuz" -i "$dir/initrd" \
	-a "console=ttyS0 quiet panic=-1" -m 512M
if grep -q "translation needs" "$dir/one.err"; then
	skip_all "this processor cannot translate"
fi
count() { # NAME
	sed -n "s/^bt00\.stats\.$1: //p" "$dir/one.err"
}
echo "# $(count checked) blocks compared, $(count unchecked) not"
ok "a25_no_block_differs_from_the_reference" \
	eval '! has "$dir/one.err" "lockstep:"' || show "$dir/one.err" 90
ok "a10_the_guest_ends_well_in_lockstep" has "$dir/one" "guest: end" || {
	show "$dir/one"
	show "$dir/one.err"
}
ok "a25_its_results_are_right" has "$dir/one" "guest: $sum"
ok "a25_no_kernel_complaint" eval '! has "$dir/one" "guest: BAD"'
ok "a25_blocks_were_compared" [ "$(count checked)" -gt 10000000 ]
ok "a25_few_were_not" [ "$(count unchecked)" -lt $(($(count checked) / 1000)) ]
ok "a4_what_the_kernel_may_not_do_is_counted_by_instruction" \
	has "$dir/one.err" "bt00.callouts.MOV_TO_CR: "
ok "a10_blocks_and_invalidations_are_counted" \
	[ "$(count blocks)" -gt 1000 -a "$(count invalidated)" -gt 0 ]
ok "f7_poweroff_is_exit_code_0" [ $code = 0 ]

# The guests that test a processor from inside: all that have one CPU.
mkdir "$dir/guests"
for elf in "${BUILD:-$here/../../build}"/tests/guest/*.elf; do
	[[ $elf == */smp* ]] || cp "$elf" "$dir/guests/" 2>/dev/null
done
RINGER=$ringer "$tools/run-guests" bt,check=lockstep "$dir/guests" \
	>"$dir/guests.tap"
echo "# $(grep -c '^ok' "$dir/guests.tap") results of guests"
ok "a11_guests_end_each_block_as_under_interp" [ "$(grep -c '^not ok' "$dir/guests.tap")" = 0 ] ||
	grep -A20 '^not ok' "$dir/guests.tap" | sed 's/^/# /'
ok "a10_there_are_guests" [ "$(grep -c '^ok' "$dir/guests.tap")" -gt 100 ]

"$ringer" run --accel bt,check=lockstep -c 2 -k "$kernel/vmlinuz" \
	2>"$dir/two.err"
ok "a25_lockstep_is_for_one_processor" has "$dir/two.err" "one processor"
"$ringer" run --accel bt,check=maybe -k "$kernel/vmlinuz" 2>"$dir/two.err"
ok "a25_an_unknown_check_is_a_usage_error" [ $? = 2 ]
finish
