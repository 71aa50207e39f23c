#!/bin/bash
# Debian's cloud kernel to user space on the software processor: ext4 on
# virtio-blk, a checksum, writes kept and thrown away, ACPI power-off.
# shellcheck source=tests/system/lib.sh
. "$(dirname "$0")/lib.sh"

kernel=$("$tools/guest-kernel" "${KERNEL:-cloud}" 2>/dev/null) ||
	skip_all "no Debian kernel package can be had"
accel=${ACCEL:-interp}
limit=${LIMIT:-240}

cat >"$dir/script" <<'GUEST'
echo "guest: $(uname -r) cpus $(nproc) hypervisor $(grep -c hypervisor /proc/cpuinfo)"
grep -c "physical id" /proc/cpuinfo | sed 's/^/guest: siblings /'
cat /sys/devices/system/clocksource/clocksource0/current_clocksource | sed 's/^/guest: clock /'
mount -t ext4 /dev/vda /mnt || echo "guest: no mount"
[ -e /mnt/mark ] && echo "guest: mark found" || echo "guest: no mark"
(cd /mnt && sha256sum data) | sed 's/^/guest: sum /'
cat /dev/vda1 >/dev/null 2>&1
cat /sys/block/vda/serial 2>/dev/null | sed 's/^/guest: serial /'
head -c 64 /dev/hwrng 2>/dev/null | wc -c | sed 's/^/guest: hwrng /'
echo kept >/mnt/mark
sync
umount /mnt
dmesg | grep -iE 'bug:|warning:|oops|soft lockup|rcu.*stall|unable to handle' | sed 's/^/guest: BAD /'
echo "guest: end"
GUEST
modules=(virtio_pci virtio_blk virtio_console virtio_rng)
[ "${KERNEL:-cloud}" = cloud ] || modules+=(ext4)
"$tools/guest-initrd" "$kernel" "$dir/script" "$dir/initrd" "${modules[@]}" ||
	skip_all "no initrd could be made"
mkdir "$dir/tree"
head -c 64M /dev/urandom >"$dir/tree/data"
sum=$(sha256sum <"$dir/tree/data" | cut -d' ' -f1)
truncate -s 128M "$dir/disk.img"
/sbin/mke2fs -q -F -t ext4 -d "$dir/tree" "$dir/disk.img"
before=$(sha256sum <"$dir/disk.img")

boot() { # OUT ARGS...
	local out=$1
	shift
	guest "$limit" "$out" --accel "$accel" -k "$kernel/vmlinuz" \
		-i "$dir/initrd" -a "console=ttyS0 quiet panic=-1" -m 512M \
		-d "$dir/disk.img" --device virtio-rng "$@"
}

unchanged() {
	[ "$before" = "$(sha256sum <"$dir/disk.img")" ]
}

# One boot, no writing through.
start=$SECONDS
boot "$dir/one" -c 1
echo "# booted, summed and powered off in $((SECONDS - start)) s on $accel"
ok "g2_bzimage_boots_to_user_space" has "$dir/one" "guest: end" ||
	{ show "$dir/one"; show "$dir/one.err"; }
ok "e3_checksum_of_64_mib_is_right" has "$dir/one" "guest: sum $sum"
ok "f7_poweroff_is_exit_code_0" [ $code = 0 ]
ok "a27_guest_sees_a_hypervisor" has "$dir/one" "hypervisor 1"
ok "g7_the_overlay_is_thrown_away" unchanged
ok "c10_rng_gives_bytes" has "$dir/one" "guest: hwrng 64"
ok "a25_no_kernel_complaint" eval '! has "$dir/one" "guest: BAD"' ||
	show "$dir/one"
ok "a32_nothing_left_in_the_runtime_directory" \
	[ -z "$(ls "$XDG_RUNTIME_DIR/ringer")" ]

# Two CPUs, writing through; then the mark is there.
boot "$dir/two" -c 2 --rw
ok "a19_two_cpus_boot" has "$dir/two" "cpus 2" || {
	show "$dir/two"
	show "$dir/two.err"
}
ok "c14_two_cpus_power_off" [ $code = 0 ]
ok "a25_no_kernel_complaint_on_two_cpus" eval '! has "$dir/two" "guest: BAD"' ||
	show "$dir/two"
ok "e4_the_write_survives" eval \
	'/sbin/debugfs -R "cat mark" "$dir/disk.img" 2>/dev/null | grep -q kept'
ok "e3_the_file_system_is_clean" eval \
	'/sbin/e2fsck -fn "$dir/disk.img" >/dev/null 2>&1'

finish
