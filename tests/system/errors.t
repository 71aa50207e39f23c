#!/bin/bash
# Bad input of every kind: one line that says what and why, an exit code, and
# nothing left behind. Each row: name | exit code | text | arguments.
# shellcheck source=tests/system/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$dir" || exit 1
guest_elf=${BUILD:-$here/../../build}/tests/guest/hello.elf
[ -e "$guest_elf" ] || skip_all "no test guest is built"
cp "$guest_elf" ok.elf
: >empty
head -c 100 ok.elf >truncated.elf
head -c 6000 ok.elf >cut.elf
cp ok.elf huge.elf # its first segment is 1 GiB
printf '\x00\x00\x00\x40' | dd of=huge.elf bs=1 seek=104 conv=notrunc status=none
head -c 4096 /dev/urandom >random
mkdir folder
truncate -s 1M disk.img
truncate -s 3G big
printf 'MZ' >mz
kernel=$("$tools/guest-kernel" cloud 2>/dev/null) && {
	cp "$kernel/vmlinuz" vmlinuz
	head -c 2M vmlinuz >cut-vmlinuz
	head -c 600 vmlinuz >header-vmlinuz
}
[ -e vmlinuz ] || cp ok.elf vmlinuz

long=$(printf 'x%.0s' {1..5000})
check() { # NAME CODE TEXT ARGS...
	local name=$1 code=$2 text=$3
	shift 3
	timeout 20 "$ringer" "$@" </dev/null >out 2>err
	local got=$?
	if [ $got = "$code" ] && grep -qF -- "$text" err &&
		[ "$(grep -vc '^  hint: ' err)" = 1 ] &&
		[ "$(grep -c '^ringer: error: ' err)" = 1 ] &&
		[ -z "$(ls "$XDG_RUNTIME_DIR/ringer" 2>/dev/null)" ]; then
		ok "$name" true
	else
		ok "$name" false
		echo "# exit code $got, expected $code and '$text'"
		show err
	fi
}

run=(run --accel interp --serial none)
# ---- usage
check "unknown_verb" 2 "there is no verb 'rum'" rum
check "unknown_verb_hint" 2 "did you mean ringer run?" rum
check "unknown_option" 2 "has no option '--memroy'" run --memroy 5
check "unknown_option_hint" 2 "did you mean --memory?" run --memroy 5
check "missing_value" 2 "needs a value" run -k
check "given_twice" 2 "given twice" run -k a -k b
check "flag_with_value" 2 "takes no value" run --rw=yes
check "stray_word" 2 "what is 'stray'" run stray
check "nothing_to_boot" 125 "nothing to boot" "${run[@]}"
check "memory_word" 2 "'lots' is no size" "${run[@]}" -k ok.elf -m lots
check "memory_zero" 2 "--memory 0" "${run[@]}" -k ok.elf -m 0
check "memory_negative" 2 "is no size" "${run[@]}" -k ok.elf -m -5
check "memory_overflow" 2 "--memory" "${run[@]}" -k ok.elf -m 99999999999999999999T
check "memory_huge" 125 "memory" "${run[@]}" -k ok.elf -m 100000T
check "memory_odd" 2 "--memory 2049K" "${run[@]}" -k ok.elf -m 2049K
check "memory_little" 2 "--memory 1M" "${run[@]}" -k ok.elf -m 1M
check "cpus_zero" 2 "--cpus" "${run[@]}" -k ok.elf -c 0
check "cpus_many" 2 "--cpus" "${run[@]}" -k ok.elf -c 1000
check "cpus_product" 2 "are not 3 CPUs" "${run[@]}" -k ok.elf -c 3,sockets=2,cores=2
check "cpus_key" 2 "socket" "${run[@]}" -k ok.elf -c 2,socket=2
check "accel_word" 2 "--accel" run --accel warp -k ok.elf
check "accel_key" 2 "unknown key" run --accel bt,colour=red -k ok.elf
check "accel_check" 2 "one of: off, lockstep" run --accel bt,check=on -k ok.elf
check "accel_check_interp" 125 "for accelerator bt" run --accel interp,check=lockstep -k ok.elf
check "trace_word" 2 "no 'insns'" run --accel bt --trace insns -k ok.elf
check "unmapped_word" 2 "--unmapped" "${run[@]}" -k ok.elf --unmapped explode
check "profile_word" 2 "--profile" "${run[@]}" -k ok.elf --profile turbo
check "name_slash" 125 "is no name" "${run[@]}" -k ok.elf --name a/b
check "ctl_nothing" 2 "needs a machine's name" ctl
check "ctl_nobody" 125 "no machine called 'nobody'" ctl nobody status
check "ctl_command" 2 "there is no command 'explode'" ctl vm explode
check "ctl_argument" 2 "not of the form" ctl vm xlate gva
# ---- kernels
check "kernel_missing" 125 "No such file" "${run[@]}" -k missing
check "kernel_folder" 125 "folder" "${run[@]}" -k folder
check "kernel_empty" 125 "empty" "${run[@]}" -k empty
check "kernel_random" 125 "random" "${run[@]}" -k random
check "kernel_mz" 125 "mz" "${run[@]}" -k mz
gzip -c ok.elf >ok.elf.gz
printf 'QFI\373' >disk.qcow2
find empty | cpio --quiet -o -H newc >initrd
truncate -s 510 sector && printf '\x55\xaa' >>sector
check "kernel_gzip" 125 "unpack it with gunzip" "${run[@]}" -k ok.elf.gz
check "kernel_qcow2" 125 "it is a qcow2 disk image" "${run[@]}" -k disk.qcow2
check "kernel_initrd" 125 "give it as the initrd (-i)" "${run[@]}" -k initrd
check "kernel_disk" 125 "give it as a disk" "${run[@]}" -k sector
check "elf_truncated" 125 "truncated.elf" "${run[@]}" -k truncated.elf
check "elf_cut" 125 "cut.elf" "${run[@]}" -k cut.elf
check "elf_too_large" 125 "huge.elf" "${run[@]}" -k huge.elf -m 64M
[ -e cut-vmlinuz ] && {
	check "g2_bzimage_cut" 125 "cut-vmlinuz" "${run[@]}" -k cut-vmlinuz
	check "g2_bzimage_header" 125 "header-vmlinuz" "${run[@]}" -k header-vmlinuz
	check "g2_bzimage_too_large" 125 "vmlinuz" "${run[@]}" -k vmlinuz -m 16M
	check "g2_initrd_too_large" 125 "big" "${run[@]}" -k vmlinuz -i big -m 256M
	check "g2_command_line_too_long" 125 "command line" "${run[@]}" -k vmlinuz -a "$long"
}
check "initrd_missing" 125 "No such file" "${run[@]}" -k vmlinuz -i missing
check "initrd_folder" 125 "folder" "${run[@]}" -k vmlinuz -i folder
# ---- disks, devices, serial ports
check "disk_missing" 125 "No such file" "${run[@]}" -k ok.elf -d missing
check "disk_folder" 125 "folder" "${run[@]}" -k ok.elf -d folder
check "disk_twice" 125 "in use" "${run[@]}" -k ok.elf -d disk.img -d disk.img --rw
check "device_word" 125 "warp-drive" "${run[@]}" -k ok.elf --device warp-drive
check "device_key" 125 "speed" "${run[@]}" -k ok.elf --device virtio-rng,speed=9
check "device_value" 125 "queues" "${run[@]}" -k ok.elf --device virtio-blk,file=disk.img,queues=x
check "serial_word" 125 "carrier-pigeon" run --accel interp -k ok.elf --serial carrier-pigeon
check "serial_file" 125 "No such file" run --accel interp -k ok.elf --serial file:missing/x
check "serial_five" 125 "serial" run --accel interp -k ok.elf --serial none --serial none --serial none --serial none --serial none
if [ "$(id -u)" != 0 ]; then
	chmod 0 disk.img
	check "disk_permission" 125 "Permission denied" "${run[@]}" -k ok.elf -d disk.img
fi
# ---- what the process was started with
small() { # ARGS...: sets $code
	timeout 60 "$ringer" "${run[@]}" --device isa-debug-exit "$@"
	code=$?
}
sum=$(sha256sum <disk.img)
(
	exec <&- >&- 2>&-
	small -k ok.elf -d disk.img --rw -v
	exit $code
)
code=$?
ok "closed_descriptors_are_not_taken_by_disks" eval \
	'[ $code = 1 ] && [ "$(sha256sum <disk.img)" = "$sum" ]'
(
	ulimit -f 1
	small -k ok.elf </dev/null 2>err
	exit $code
)
code=$?
ok "a_limit_on_files_does_not_kill" eval \
	'[ $code = 125 ] && has err "File too large"' || echo "# exit code $code"
# ---- help costs nothing and fails nothing
ok "help_is_on_stdout" eval '"$ringer" --help | grep -q "Usage: ringer"'
ok "run_help_lists_devices" eval '"$ringer" run --help | grep -q virtio-rng'
ok "ctl_help_lists_commands" eval '"$ringer" ctl --help | grep -q xlate'
ok "version_is_printed" eval '"$ringer" version | grep -q "^ringer [0-9]"'
finish
