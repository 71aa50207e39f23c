#!/bin/bash
# Debian's generic kernel, XZ-packed and with its drivers as modules, boots to
# user space within five minutes.
KERNEL=generic LIMIT=300 exec "$(dirname "$0")/../system/boot.t"
