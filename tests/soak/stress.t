#!/bin/bash
# Two CPUs under load for minutes: arithmetic, processes, files, pipes, checks
# of memory. The kernel has nothing to complain of, and all sums are right.
# shellcheck source=tests/system/lib.sh
. "$(dirname "$0")/../system/lib.sh"
seconds=${STRESS_SECONDS:-240}

linux "$dir/initrd" virtio_pci virtio_blk virtio_rng <<'GUEST'
seconds=$(sed 's/.*seconds=\([0-9]*\).*/\1/' /proc/cmdline)
mount -t ext4 /dev/vda /mnt || echo "guest: no mount"
mount -t tmpfs tmp /tmp
end=$(($(date +%s) + seconds))
going() { [ "$(date +%s)" -lt $end ]; }
spin() { # a sum with a known end
	n=0
	while going; do
		i=0 s=0
		while [ $i -lt 2000 ]; do i=$((i + 1)) s=$((s + i * i)); done
		[ $s = 2668667000 ] || echo "guest: WRONG sum $s"
		n=$((n + 1))
	done
	echo "guest: spins $n"
}
forks() {
	n=0
	while going; do
		for i in 1 2 3 4 5 6 7 8 9 10; do (exec /bin/busybox true) & done
		wait
		[ "$(echo a | tr a b | tr b c | tr c d)" = d ] ||
			echo "guest: WRONG pipe"
		n=$((n + 1))
	done
	echo "guest: storms $n"
}
files() { # copies through the disk must stay what they are
	n=0 want=$(sha256sum </mnt/data)
	while going; do
		cp /mnt/data /mnt/copy && sync
		echo 3 >/proc/sys/vm/drop_caches
		[ "$(sha256sum </mnt/copy)" = "$want" ] || echo "guest: WRONG copy"
		rm /mnt/copy
		n=$((n + 1))
	done
	echo "guest: copies $n"
}
memory() {
	n=0
	while going; do
		dd if=/dev/urandom of=/tmp/a bs=64k count=64 2>/dev/null
		gzip -1 </tmp/a | gunzip >/tmp/b
		cmp /tmp/a /tmp/b || echo "guest: WRONG memory"
		n=$((n + 1))
	done
	echo "guest: rounds $n"
}
spin & spin & forks & files & memory &
wait
umount /mnt
dmesg | grep -iE 'bug:|warning:|oops|soft lockup|stall|hung task|unable to handle|I/O error|unstable|segfault|trap' |
	sed 's/^/guest: BAD /'
echo "guest: end"
GUEST
mkdir "$dir/tree"
head -c 4M /dev/urandom >"$dir/tree/data"
truncate -s 64M "$dir/disk.img"
/sbin/mke2fs -q -F -t ext4 -d "$dir/tree" "$dir/disk.img"
guest $((seconds * 2 + 300)) "$dir/out" --accel "${ACCEL:-interp}" \
	-k "$kernel/vmlinuz" -i "$dir/initrd" -m 512M -c 2 \
	-a "console=ttyS0 quiet panic=-1 seconds=$seconds" \
	--device virtio-rng -d "$dir/disk.img" --rw
grep "guest: " "$dir/out" | tr -d '\r' | sed 's/^/# /'
ok a25_it_ran_to_its_end eval '[ $code = 0 ] && has "$dir/out" "guest: end"' ||
	show "$dir/out" 50
ok a25_no_kernel_complaint eval '! has "$dir/out" "guest: BAD"'
ok a25_nothing_came_out_wrong eval '! has "$dir/out" "guest: WRONG"'
for what in spins storms copies rounds; do
	ok "c14_${what}_went_on" grep -q "guest: $what [1-9]" "$dir/out"
done
ok e4_the_file_system_is_clean eval '/sbin/e2fsck -fn "$dir/disk.img" >/dev/null 2>&1'
finish
