#!/bin/bash
# Every guest by the translator.
here=$(dirname "$(readlink -f "$0")")
export RINGER=${RINGER:-$here/../../build/ringer}
exec "$here/../../tools/run-guests" bt \
	"${BUILD:-$here/../../build}/tests/guest"
