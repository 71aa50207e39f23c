#!/bin/bash
# Every guest on the software processor.
here=$(dirname "$(readlink -f "$0")")
export RINGER=${RINGER:-$here/../../build/ringer}
exec "$here/../../tools/run-guests" interp \
	"${BUILD:-$here/../../build}/tests/guest"
