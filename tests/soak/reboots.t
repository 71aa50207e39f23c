#!/bin/bash
# A Linux guest that reboots itself twenty times: each boot is like the first,
# and the process does not grow.
# shellcheck disable=SC2034 # used in eval
# shellcheck source=tests/system/lib.sh
. "$(dirname "$0")/../system/lib.sh"
boots=${REBOOTS:-20}

linux "$dir/initrd" virtio_pci virtio_blk virtio_rng <<'GUEST'
mount -t ext4 /dev/vdb /mnt || echo "guest: no mount"
n=$(($(cat /mnt/count 2>/dev/null || echo 0) + 1))
echo $n >/mnt/count
umount /mnt
echo "guest: boot $n sum $(sha256sum </dev/vda | cut -c1-16) cpus $(nproc) uptime $(cut -d. -f1 /proc/uptime)"
dmesg | grep -iE 'bug:|warning:|oops|soft lockup|stall|unable to handle|I/O error|not clean|recover' |
	sed 's/^/guest: BAD /'
reboot -f
GUEST
truncate -s 16M "$dir/disk.img"
/sbin/mke2fs -q -F -t ext4 "$dir/disk.img"
head -c 4M /dev/urandom >"$dir/data.img"
sum=$(sha256sum <"$dir/data.img" | cut -c1-16)
process() { # resident KiB but for the guest's memory, descriptors, threads
	echo "$(awk '/^Size:/ { size = $2 } /^Rss:/ && size < 200000 { n += $2 }
		END { print n }' /proc/$vmm/smaps)" \
		"$(find /proc/$vmm/fd -mindepth 1 | wc -l)" \
		"$(find /proc/$vmm/task -mindepth 1 -maxdepth 1 | wc -l)"
}
booted() {
	[ "$(grep -c "guest: boot" "$dir/again")" -ge "$1" ]
}

start again -k "$kernel/vmlinuz" -i "$dir/initrd" -m 256M -c 2 \
	-a "console=ttyS0 quiet panic=-1" --device virtio-rng \
	--device "virtio-blk,file=$dir/disk.img,rw=on" -d "$dir/data.img"
wait_for 300 booted 3
read -r rss fds threads <<<"$(process)"
wait_for $((boots * 60)) booted "$boots"
ok "a35_${boots}_reboots" booted "$boots" || show "$dir/again" 60
read -r rss2 fds2 threads2 <<<"$(process)"
resets=$("$ringer" ctl again status | field resets)
"$ringer" ctl again quit
ended 20 $vmm
tr -d '\r' <"$dir/again" | grep "guest: boot" | head -"$boots" >"$dir/seen"
ok a35_resets_are_counted [ "${resets:-0}" -ge $((boots - 1)) ]
ok e4_each_boot_sees_what_the_last_one_wrote [ \
	"$(awk '{ print $3 }' "$dir/seen" | xargs)" = "$(seq "$boots" | xargs)" ]
ok e3_each_boot_reads_the_same_data [ \
	"$(awk '{ print $5 }' "$dir/seen" | sort -u)" = "$sum" ]
ok a19_each_boot_has_two_cpus [ "$(awk '{ print $7 }' "$dir/seen" | sort -u)" = 2 ]
ok f12_each_boot_starts_its_clock_anew eval \
	'[ "$(awk "{ if (\$9 > m) m = \$9 } END { print m }" "$dir/seen")" -lt 120 ]'
ok a25_no_kernel_complaint eval '! has "$dir/again" "guest: BAD"' ||
	grep "guest: BAD" "$dir/again" | sed 's/^/# /'
echo "# after 3 boots $rss KiB, $fds descriptors, $threads threads; after" \
	"$boots $rss2, $fds2, $threads2"
ok a35_no_descriptor_leaks [ "$fds" = "$fds2" ]
ok a35_no_thread_leaks [ "$threads" = "$threads2" ]
ok a35_no_memory_leaks [ $((rss2 < rss + 32768)) = 1 ]
finish
