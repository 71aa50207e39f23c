#!/bin/bash
# The interpreter against the host's CPU with many seeds, one of them new each
# time. (The everyday tests of the decoder and of native emulation run longer
# by themselves under RINGER_SOAK.)
# shellcheck source=tests/system/lib.sh
. "$(dirname "$0")/../system/lib.sh"
test=${BUILD:-$here/../../build}/tests/unit/interp/test_diff
[ -x "$test" ] || skip_all "test_diff is not built"
for seed in 2 3 4 5 6 7 8 9 "$(date +%s)"; do
	"$test" "${DIFF_CASES:-3000000}" "$seed" >"$dir/out" 2>&1
	code=$?
	grep '^# ' "$dir/out"
	if [ $seed -lt 10 ]; then
		name="a25_interp_equals_host_with_seed_$seed"
	else
		name="a25_interp_equals_host_with_a_new_seed"
	fi
	ok "$name" [ $code = 0 ] || show "$dir/out"
done
finish
